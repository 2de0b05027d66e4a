//! Single operations, forward and backward, fused beside composite, on one thread: a worker's view.
//!
//! ```sh
//! cargo bench -p lns-kernels             # all
//! cargo bench -p lns-kernels -- linear   # some
//! ```
//! Shapes are those of a worker's share of `lns bench`'s workload A: 4 sequences of 256 tokens, width
//! 256.

use burn::tensor::{Device, Distribution, Tensor};
use divan::{Bencher, counter::ItemsCount};
use lns_kernels::{
    AdamW, AttentionMask, AttentionShape, Gate, LossTerms, Scores, adamw, backward_from, composite,
};

const SEQUENCES: usize = 4;
const LENGTH: usize = 256;
const TOKENS: usize = SEQUENCES * LENGTH;
const HIDDEN: usize = 256;
const INNER: usize = 688;
const VOCABULARY: usize = 4096;

const ATTENTION: AttentionShape = AttentionShape {
    heads: 4,
    key_value_heads: 4,
    head_dim: 64,
    mask: AttentionMask::Causal,
    window: None,
    scores: Scores::USUAL,
};

fn main() {
    // Before anything else uses it, so that operations run on one thread.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build_global();
    pool.expect("nothing has used rayon's pool yet");
    divan::main();
}

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex())
}

fn leaf<const D: usize>(x: &Tensor<D>) -> Tensor<D> {
    Tensor::from_inner(x.clone()).require_grad()
}

/// Times `f`, per token.
fn time(bencher: Bencher<'_, '_>, f: impl Fn()) {
    bencher.counter(ItemsCount::new(TOKENS)).bench_local(f);
}

/// Forward and backward of a function of x and a weight.
fn both<const D: usize, const E: usize>(
    bencher: Bencher<'_, '_>,
    x: [usize; D],
    weight: [usize; E],
    f: impl Fn(Tensor<D>, Tensor<E>) -> Tensor<D>,
) {
    let (x, weight) = (random(x), random(weight));
    let upstream = f(x.clone(), weight.clone()).ones_like();
    time(bencher, || {
        let out = f(leaf(&x), leaf(&weight));
        divan::black_box(backward_from(out, upstream.clone()));
    });
}

#[divan::bench_group]
mod rms_norm {
    use super::*;

    #[divan::bench]
    fn fused(bencher: Bencher<'_, '_>) {
        both(bencher, [TOKENS, HIDDEN], [HIDDEN], |x, g| lns_kernels::rms_norm(x, g, 1e-6, 0.5));
    }

    #[divan::bench]
    fn composite(bencher: Bencher<'_, '_>) {
        both(bencher, [TOKENS, HIDDEN], [HIDDEN], |x, g| {
            super::composite::rms_norm(x, g, 1e-6, 0.5)
        });
    }
}

#[divan::bench_group]
mod linear {
    use super::*;

    #[divan::bench]
    fn fused(bencher: Bencher<'_, '_>) {
        both(bencher, [TOKENS, HIDDEN], [HIDDEN, HIDDEN], |x, w| lns_kernels::linear(x, w, None));
    }

    #[divan::bench]
    fn composite(bencher: Bencher<'_, '_>) {
        both(bencher, [TOKENS, HIDDEN], [HIDDEN, HIDDEN], |x, w| {
            super::composite::linear(x, w, None)
        });
    }
}

#[divan::bench_group]
mod attention {
    use super::*;

    #[divan::bench]
    fn fused(bencher: Bencher<'_, '_>) {
        let shape = [SEQUENCES, LENGTH, HIDDEN];
        both(bencher, shape, shape, |q, k| {
            lns_kernels::attention(q, k.clone(), k, &ATTENTION, None, None)
        });
    }

    #[divan::bench]
    fn composite(bencher: Bencher<'_, '_>) {
        let shape = [SEQUENCES, LENGTH, HIDDEN];
        both(bencher, shape, shape, |q, k| {
            super::composite::attention(q, k.clone(), k, &ATTENTION, None, None)
        });
    }
}

#[divan::bench_group]
mod swiglu {
    use super::*;

    #[divan::bench]
    fn fused(bencher: Bencher<'_, '_>) {
        let shape = [TOKENS, INNER];
        both(bencher, shape, shape, |g, u| lns_kernels::gated(g, u, Gate::Silu));
    }

    #[divan::bench]
    fn composite(bencher: Bencher<'_, '_>) {
        let shape = [TOKENS, INNER];
        both(bencher, shape, shape, |g, u| super::composite::gated(g, u, Gate::Silu));
    }
}

#[divan::bench_group]
mod loss {
    use super::*;

    type Loss = fn(Tensor<2>, Tensor<2>, &[u32], LossTerms, Option<f64>) -> (Tensor<1>, Tensor<1>);

    fn run(bencher: Bencher<'_, '_>, f: Loss) {
        let (hidden, head) = (random([TOKENS, HIDDEN]), random([VOCABULARY, HIDDEN]));
        let targets: Vec<u32> = (0..TOKENS as u32).map(|i| i * 7 % VOCABULARY as u32).collect();
        time(bencher, || {
            let (loss, _) = f(leaf(&hidden), leaf(&head), &targets, LossTerms::default(), None);
            divan::black_box(loss.backward());
        });
    }

    #[divan::bench]
    fn fused(bencher: Bencher<'_, '_>) {
        run(bencher, lns_kernels::next_token_loss);
    }

    #[divan::bench]
    fn composite(bencher: Bencher<'_, '_>) {
        run(bencher, super::composite::next_token_loss);
    }
}

/// A parameter of 1 Mi numbers with the gradients of two workers.
#[divan::bench]
fn adamw_of_two_workers(bencher: Bencher<'_, '_>) {
    const COUNT: usize = 1 << 20;
    let step = AdamW {
        gradient_scale: 1.0,
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        steps: 10,
    };
    let (mut w, mut m, mut v) = (vec![0.1; COUNT], vec![0.1; COUNT], vec![0.1; COUNT]);
    let (a, b) = (vec![0.1; COUNT], vec![0.2; COUNT]);
    bencher
        .counter(ItemsCount::new(COUNT))
        .bench_local(|| adamw(&mut w, &mut m, &mut v, &[&a, &b], &step));
}
