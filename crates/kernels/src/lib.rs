//! The hot operations of a decoder, each in two forms with one signature:
//!
//! - **fused**: hand-written loops and `gemm` on the buffers of the CPU backend (`flex`), for `f32`
//!   tensors that no gradient is asked of;
//! - **composite**: plain Burn operations, for every other device and dtype and under autodiff, and
//!   the standard that tests hold the fused form against.
//!
//! The function picks the form from the tensor; callers never choose. A backward pass of its own
//! for a fused operation goes into `fused`'s trait as one more method per operation, with
//! `Autodiff` added to its backend list; nothing here changes for callers.
//!
//! Operations use rayon's current pool. [`Workers`] gives each worker thread a pool of one, so that
//! inside a worker nothing starts threads; a lone sequence outside uses all of them.
//!
//! This is the only room with `unsafe` numerics: the calls into `gemm` and into functions compiled
//! for a wider instruction set than the target's, each with its reason.
#![allow(unsafe_code)]

pub mod composite;
mod cpu;
mod fused;
mod rotary;
mod workers;

use burn::tensor::{DType, Tensor};

pub use burn::tensor::Device;
pub use rotary::RotaryTable;
pub use workers::{Workers, with_threads};

/// Heads of a grouped-query attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub key_value_heads: usize,
    /// Features per head.
    pub head_dim: usize,
    /// Tokens a query sees, itself included; `None` is all before it.
    pub window: Option<usize>,
}

/// Whether the fused form serves these tensors: CPU, `f32`, no gradient wanted.
fn is_fused<const D: usize>(x: &Tensor<D>) -> bool {
    let device = x.device();
    x.dtype() == DType::F32 && !device.is_autodiff() && device == Device::flex()
}

/// Root-mean-square norm times a constant: x / √(mean(x²) + eps) · γ · scale.
///
/// `x`: \[…, width\], `gamma`: \[width\]. With `scale` = 1/√ℓ this is LayerNorm Scaling
/// (arXiv 2502.05795, eq. 12); it costs nothing over the plain norm.
///
/// # Panics
/// If `gamma` is not as long as the last dimension.
pub fn rms_norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, eps: f64, scale: f64) -> Tensor<D> {
    check_width("gamma", x.dims()[D - 1], gamma.dims()[0]);
    if is_fused(&x) {
        fused::rms_norm(x, gamma, eps, scale)
    } else {
        composite::rms_norm(x, gamma, eps, scale)
    }
}

/// Layer norm times a constant: ((x − mean) / √(variance + eps) · γ + β) · scale.
///
/// `x`: \[…, width\], `gamma` and `beta`: \[width\].
///
/// # Panics
/// If `gamma` or `beta` is not as long as the last dimension.
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Option<Tensor<1>>,
    eps: f64,
    scale: f64,
) -> Tensor<D> {
    check_width("gamma", x.dims()[D - 1], gamma.dims()[0]);
    if let Some(beta) = &beta {
        check_width("beta", x.dims()[D - 1], beta.dims()[0]);
    }
    if is_fused(&x) {
        fused::layer_norm(x, gamma, beta, eps, scale)
    } else {
        composite::layer_norm(x, gamma, beta, eps, scale)
    }
}

/// x · weightᵀ + bias. `x`: \[…, in\], `weight`: \[out, in\], `bias`: \[out\]; result \[…, out\].
///
/// # Panics
/// If the widths disagree.
pub fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    check_width("weight", x.dims()[D - 1], weight.dims()[1]);
    if let Some(bias) = &bias {
        check_width("bias", weight.dims()[0], bias.dims()[0]);
    }
    if is_fused(&x) { fused::linear(x, weight, bias) } else { composite::linear(x, weight, bias) }
}

/// Rotary position embedding in rotate-half order.
///
/// `x`: \[sequences, tokens, heads · head_dim\]; token t is at position `start + t` of `table`.
///
/// # Panics
/// If the table is too short or its heads do not divide the width.
pub fn rotate(x: Tensor<3>, table: &RotaryTable, start: usize) -> Tensor<3> {
    let [_, tokens, width] = x.dims();
    assert!(width.is_multiple_of(table.head_dim()), "rotate: {width} features are not whole heads");
    assert!(start + tokens <= table.positions(), "rotate: the table ends before the sequence");
    if is_fused(&x) { fused::rotate(x, table, start) } else { composite::rotate(x, table, start) }
}

/// Causal grouped-query attention, scale 1/√head_dim, without the output projection.
///
/// `q`: \[sequences, queries, heads · head_dim\]; `k`, `v`: \[sequences, keys, key_value_heads ·
/// head_dim\] with `keys ≥ queries`: the last query is at the last key's position, as when a cache
/// precedes it. Result shaped as `q`.
///
/// # Panics
/// If the shapes disagree.
pub fn causal_attention(
    q: Tensor<3>,
    k: Tensor<3>,
    v: Tensor<3>,
    shape: &AttentionShape,
) -> Tensor<3> {
    let ([sequences, queries, q_width], [k_sequences, keys, k_width]) = (q.dims(), k.dims());
    assert!(shape.heads.is_multiple_of(shape.key_value_heads), "attention: heads are not grouped");
    check_width("queries", shape.heads * shape.head_dim, q_width);
    check_width("keys", shape.key_value_heads * shape.head_dim, k_width);
    assert_eq!(k.dims(), v.dims(), "attention: keys and values differ in shape");
    assert!(sequences == k_sequences && queries <= keys, "attention: keys do not cover queries");
    if is_fused(&q) {
        fused::causal_attention(q, k, v, shape)
    } else {
        composite::causal_attention(q, k, v, shape)
    }
}

/// gate · σ(gate) · up, element by element.
///
/// # Panics
/// If the shapes differ.
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    assert_eq!(gate.dims(), up.dims(), "swiglu: gate and up differ in shape");
    if is_fused(&gate) { fused::swiglu(gate, up) } else { composite::swiglu(gate, up) }
}

/// −log softmax(hidden · headᵀ)\[target\], one number per row, in nats.
///
/// `hidden`: \[rows, width\], `head`: \[vocabulary, width\]. The fused form never holds more than
/// 512 × 1024 logits.
///
/// # Panics
/// If there is not one target per row, or a target is not in the vocabulary.
pub fn next_token_nll(hidden: Tensor<2>, head: Tensor<2>, targets: &[u32]) -> Tensor<1> {
    let ([rows, width], [vocabulary, head_width]) = (hidden.dims(), head.dims());
    check_width("head", width, head_width);
    assert_eq!(rows, targets.len(), "next_token_nll: one target per row");
    assert!(
        targets.iter().all(|target| (*target as usize) < vocabulary),
        "next_token_nll: a target is not in the vocabulary of {vocabulary}"
    );
    if is_fused(&hidden) {
        fused::next_token_nll(hidden, head, targets)
    } else {
        composite::next_token_nll(hidden, head, targets)
    }
}

/// For each row, KL(softmax(reference · headᵀ) ‖ softmax(hidden · headᵀ)) in nats, and whether the
/// two agree on the most likely entry. CPU only; a few rows' logits exist at a time.
///
/// # Panics
/// If the shapes disagree.
pub fn divergence_to(
    reference: &Tensor<2>,
    hidden: &Tensor<2>,
    head: &Tensor<2>,
) -> Vec<(f64, bool)> {
    assert_eq!(reference.dims(), hidden.dims(), "divergence_to: the hidden states differ in shape");
    check_width("head", hidden.dims()[1], head.dims()[1]);
    let width = head.dims()[1];
    with_slices([reference, hidden, head], |[reference, hidden, head]| {
        cpu::divergence_to(reference, hidden, head, width)
    })
}

/// Calls `f` with the tensors' elements, row-major; without a copy where they are `f32` on the CPU.
pub fn with_slices<const D: usize, const N: usize, R>(
    tensors: [&Tensor<D>; N],
    f: impl FnOnce([&[f32]; N]) -> R,
) -> R {
    fused::with_slices(tensors, f)
}

fn check_width(what: &str, expected: usize, got: usize) {
    assert_eq!(expected, got, "{what} has {got} features where {expected} are expected");
}
