//! The gradient of one worker's sequences.

use std::num::NonZeroUsize;

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{Gradients, Tensor},
};
use lns_kernels::{
    Buffer, DistillationTerms, LossTerms, Projection, Workers, backward_from, squared_norm,
    with_slices,
};
use lns_model::{Decoder, Head};
use lns_score::Pass;

use crate::{
    Batch, Teacher,
    optimisers::{CHUNK, Parameter},
};

/// What one worker found.
#[derive(Debug)]
pub(crate) struct Share {
    /// Σ nll over the predicted tokens, in nats.
    pub(crate) nll: f64,
    /// Σ KL(teacher ‖ model) over the same, 0 without a teacher.
    pub(crate) divergence: f64,
    /// The gradient of each parameter that is trained, flat, in the order in which the module is visited.
    pub(crate) gradients: Vec<Buffer>,
}

/// How a worker goes about its sequences.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Passes<'a> {
    /// Sequences taken through at once; all if `None`.
    pub(crate) sequences: Option<NonZeroUsize>,
    /// Whether layers' activations are made again in the backward pass instead of being kept.
    pub(crate) recompute: bool,
    pub(crate) terms: LossTerms,
    pub(crate) teacher: Option<&'a Teacher>,
}

/// Gradient of the objective over some sequences of the batch.
pub(crate) fn share(
    model: &Decoder,
    trained: &[Parameter],
    batch: &Batch,
    sequences: &[usize],
    passes: Passes<'_>,
) -> Share {
    let (mut nll, mut divergence, mut found) = (0.0, 0.0, vec![None; trained.len()]);
    for part in sequences.chunks(passes.sequences.map_or(usize::MAX, NonZeroUsize::get)) {
        let part: Vec<_> = part.iter().map(|&index| batch.sequence(index)).collect();
        let Some(pass) = Pass::new(model.spec(), &model.device(), &part, batch.length()) else {
            continue;
        };
        // Leaves of its own: tapes of workers that shared them would be one tape behind one lock.
        let own = model.clone().train();
        let teacher = passes.teacher.and_then(|teacher| {
            Some((teacher.reference().predict(&part, batch.length())?, teacher.terms))
        });
        let objective = Objective { pass: &pass, terms: passes.terms, teacher };
        let part_found = if passes.recompute {
            recomputed(&own, model, &objective)
        } else {
            taped(&own, &objective)
        };
        nll += part_found.nll;
        divergence += part_found.divergence;
        merge(&mut found, part_found.gradients);
    }
    Share { nll, divergence, gradients: complete(model, trained, found) }
}

/// What is minimised over some sequences.
struct Objective<'a> {
    pass: &'a Pass,
    terms: LossTerms,
    /// What the teacher predicts of them, and how it counts.
    teacher: Option<(Projection, DistillationTerms)>,
}

impl Objective<'_> {
    /// The scalar to differentiate, and what the loss and the divergence sum up to.
    fn of(&self, head: &Head, stream: Tensor<3>) -> (Tensor<1>, f64, f64) {
        let (stream, targets) = (rows(stream), &self.pass.targets);
        match &self.teacher {
            None => {
                let (objective, nll) = head.loss(stream, targets, self.terms);
                (objective, sum(&nll.inner()), 0.0)
            }
            Some((teacher, terms)) => {
                let found = head.distil(stream, teacher, targets, self.terms, *terms);
                let [nll, divergence] =
                    [found.nll, found.divergence].map(|rows| sum(&rows.inner()));
                (found.objective, nll, divergence)
            }
        }
    }
}

/// What one pass found.
struct Found {
    nll: f64,
    divergence: f64,
    gradients: Vec<Option<Tensor<1>>>,
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
fn taped(model: &Decoder, objective: &Objective<'_>) -> Found {
    let pass = objective.pass;
    let stream = model.stream_at(pass.tokens(&model.device()), &pass.rotary);
    let (objective, nll, divergence) = objective.of(&model.head(), stream);
    Found { nll, divergence, gradients: take(model, &mut objective.backward()) }
}

/// Forward without a tape, keeping each layer's input; then from the head to the embedding forward
/// again with a tape and backward, one layer at a time. The same operations on the same numbers as
/// [`taped`], so the same bits.
fn recomputed(own: &Decoder, model: &Decoder, objective: &Objective<'_>) -> Found {
    let pass = objective.pass;
    let tokens = pass.tokens(&model.device());
    let mut streams = model.streams_at(tokens.clone(), &pass.rotary);
    let leaf = |stream: Tensor<3>| Tensor::from_inner(stream).require_grad();
    let upstream_of = |leaf: &Tensor<3>, gradients: &mut Gradients| {
        leaf.grad_remove(gradients).unwrap_or_else(|| leaf.clone().inner().zeros_like())
    };
    let Some(last) = streams.pop() else { unreachable!("there is a stream before layer 0") };

    let input = leaf(last);
    let (loss, nll, divergence) = objective.of(&own.head(), input.clone());
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
    Found { nll, divergence, gradients: found }
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
