//! The gradient of one worker's sequences.

use std::num::NonZeroUsize;

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{Gradients, Tensor},
};
use lns_kernels::{Buffer, LossTerms, Workers, backward_from, squared_norm, with_slices};
use lns_model::Decoder;
use lns_score::Pass;

use crate::{
    Batch,
    optimisers::{CHUNK, Parameter},
};

/// What one worker found.
#[derive(Debug)]
pub(crate) struct Share {
    /// Σ nll over the predicted tokens, in nats.
    pub(crate) nll: f64,
    /// The gradient of each parameter that is trained, flat, in the order in which the module is visited.
    pub(crate) gradients: Vec<Buffer>,
}

/// How a worker goes about its sequences.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Passes {
    /// Sequences taken through at once; all if `None`.
    pub(crate) sequences: Option<NonZeroUsize>,
    /// Whether layers' activations are made again in the backward pass instead of being kept.
    pub(crate) recompute: bool,
    pub(crate) terms: LossTerms,
}

/// Gradient of the objective over some sequences of the batch.
pub(crate) fn share(
    model: &Decoder,
    trained: &[Parameter],
    batch: &Batch,
    sequences: &[usize],
    passes: Passes,
) -> Share {
    let (mut nll, mut found) = (0.0, vec![None; trained.len()]);
    for part in sequences.chunks(passes.sequences.map_or(usize::MAX, NonZeroUsize::get)) {
        let part: Vec<_> = part.iter().map(|&index| batch.sequence(index)).collect();
        let Some(pass) = Pass::new(model.spec(), &model.device(), &part, batch.length()) else {
            continue;
        };
        // Leaves of its own: tapes of workers that shared them would be one tape behind one lock.
        let own = model.clone().train();
        let (part_nll, part_found) = if passes.recompute {
            recomputed(&own, model, &pass, passes.terms)
        } else {
            taped(&own, &pass, passes.terms)
        };
        nll += part_nll;
        merge(&mut found, part_found);
    }
    Share { nll, gradients: complete(model, trained, found) }
}

/// \[B, T, H\] → \[B · T, H\]
pub(crate) fn rows(stream: Tensor<3>) -> Tensor<2> {
    let [b, t, hidden] = stream.dims();
    stream.reshape([b * t, hidden])
}

fn sum(nll: &Tensor<1>) -> f64 {
    with_slices([nll], |[nll]| nll.iter().map(|x| f64::from(*x)).sum())
}

/// One tape over the whole model.
fn taped(model: &Decoder, pass: &Pass, terms: LossTerms) -> (f64, Vec<Option<Tensor<1>>>) {
    let stream = model.stream_at(pass.tokens(&model.device()), &pass.rotary);
    let (loss, nll) = model.head().loss(rows(stream), &pass.targets, terms);
    let found = take(model, &mut loss.backward());
    (sum(&nll.inner()), found)
}

/// Forward without a tape, keeping each layer's input; then from the head to the embedding forward
/// again with a tape and backward, one layer at a time. The same operations on the same numbers as
/// [`taped`], so the same bits.
fn recomputed(
    own: &Decoder,
    model: &Decoder,
    pass: &Pass,
    terms: LossTerms,
) -> (f64, Vec<Option<Tensor<1>>>) {
    let tokens = pass.tokens(&model.device());
    let mut streams = model.streams_at(tokens.clone(), &pass.rotary);
    let leaf = |stream: Tensor<3>| Tensor::from_inner(stream).require_grad();
    let upstream_of = |leaf: &Tensor<3>, gradients: &mut Gradients| {
        leaf.grad_remove(gradients).unwrap_or_else(|| leaf.clone().inner().zeros_like())
    };
    let Some(last) = streams.pop() else { unreachable!("there is a stream before layer 0") };

    let input = leaf(last);
    let (loss, nll) = own.head().loss(rows(input.clone()), &pass.targets, terms);
    let mut gradients = loss.backward();
    let mut upstream = upstream_of(&input, &mut gradients);
    let mut found = take(own, &mut gradients);
    drop((input, loss, gradients));
    for (layer, stream) in own.layers.iter().zip(streams).rev() {
        let input = leaf(stream);
        let out = layer.forward(input.clone(), &pass.rotary);
        let mut gradients = backward_from(out, upstream);
        upstream = upstream_of(&input, &mut gradients);
        merge(&mut found, take(own, &mut gradients));
    }
    let embedded = own.embed_at(tokens, &pass.rotary, 0);
    let mut gradients = backward_from(embedded, upstream);
    merge(&mut found, take(own, &mut gradients));
    (sum(&nll.inner()), found)
}

/// The gradients that were found of the parameters that are trained, in the order in which the module
/// is visited.
pub(crate) fn take(model: &Decoder, gradients: &mut Gradients) -> Vec<Option<Tensor<1>>> {
    struct Take<'a>(&'a mut Gradients, Vec<Option<Tensor<1>>>);
    impl ModuleVisitor for Take<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = param.val();
            if tensor.is_require_grad() {
                self.1.push(tensor.grad_remove(self.0).map(flat));
            }
        }
    }
    let mut taken = Take(gradients, Vec::new());
    model.visit(&mut taken);
    taken.1
}

fn merge(into: &mut [Option<Tensor<1>>], more: Vec<Option<Tensor<1>>>) {
    for (into, more) in into.iter_mut().zip(more) {
        *into = match (into.take(), more) {
            (Some(sum), Some(gradient)) => Some(gradient + sum),
            (sum, gradient) => sum.or(gradient),
        };
    }
}

/// Zeros for a parameter that the objective does not depend on.
pub(crate) fn complete(
    model: &Decoder,
    trained: &[Parameter],
    found: Vec<Option<Tensor<1>>>,
) -> Vec<Buffer> {
    let device = model.device();
    let of = |(parameter, gradient): (&Parameter, Option<Tensor<1>>)| {
        Buffer::new(gradient.unwrap_or_else(|| Tensor::zeros([parameter.len()], &device)))
    };
    trained.iter().zip(found).map(of).collect()
}

pub(crate) fn flat<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    let count = tensor.dims().iter().product::<usize>();
    tensor.reshape([count])
}

/// ‖Σ gradients‖₂ over all parameters; the same whatever the number of workers that compute it.
pub(crate) fn gradient_norm(gradients: &[Vec<&[f32]>], workers: &Workers) -> f64 {
    let mut jobs: Vec<Vec<&[f32]>> = Vec::new();
    for parts in gradients {
        let length = parts.first().map_or(0, |part| part.len());
        for start in (0..length).step_by(CHUNK) {
            let end = (start + CHUNK).min(length);
            jobs.push(parts.iter().map(|part| &part[start..end]).collect());
        }
    }
    workers.each(jobs, |parts| squared_norm(&parts)).into_iter().sum::<f64>().sqrt()
}
