//! One training step after another.

use std::{num::NonZeroUsize, sync::Arc};

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{Shape, Tensor},
};
use lns_kernels::{Buffer, Compute, Device, DistillationTerms, LossTerms, Workers, is_cpu};
use lns_model::{Decoder, tensor_id, visit_parameters};
use lns_score::Reference;

use crate::{
    Batch, BatchError, Optimiser,
    dealing::dealt,
    gradients::{Passes, Share, flat, gradient_norm, share},
    optimisers::{self, Moments, Parameter},
};

/// How a [`Trainer`] computes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainingOptions {
    /// The update rule.
    pub optimiser: Optimiser,
    /// Largest ‖gradient‖₂ over all parameters; larger ones are scaled down to it.
    pub clip: Option<f64>,
    /// Multiplies the squared log-sum of the logits in the objective; 0 is without.
    pub z_loss: f64,
    /// Sequences a worker takes through at once; all of its share if `None`. Fewer need less memory;
    /// the gradient is the same but for the order of its sums.
    pub sequences_per_pass: Option<NonZeroUsize>,
    /// Keep only each layer's input and make its activations again in the backward pass: less memory,
    /// a third more work, the same bits.
    pub recompute: bool,
}

impl Default for TrainingOptions {
    fn default() -> Self {
        Self {
            optimiser: Optimiser::default(),
            clip: None,
            z_loss: 0.0,
            sequences_per_pass: None,
            recompute: false,
        }
    }
}

/// A model whose predictions are learned beside the text; nothing of it is trained.
#[derive(Debug)]
pub struct Teacher {
    /// The model, of the vocabulary of the one that is trained and on its device.
    pub model: Decoder,
    /// How it counts.
    pub terms: DistillationTerms,
}

impl Teacher {
    /// It as what is compared with.
    pub(crate) fn reference(&self) -> Reference<'_> {
        Reference { model: &self.model, temperature: self.terms.temperature }
    }
}

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Mean loss per predicted token before the update, in nats, without the z-loss.
    pub loss: f64,
    /// Mean KL(teacher ‖ model) per predicted token at the temperature, where there is a teacher.
    pub divergence: Option<f64>,
    /// Tokens that were predicted.
    pub tokens: usize,
    /// ‖gradient‖₂ before clipping.
    pub gradient_norm: f64,
}

/// The gradient of the mean loss over a batch, not yet applied.
#[derive(Debug)]
pub struct BatchGradient {
    /// Mean loss per predicted token, in nats, without the z-loss.
    pub loss: f64,
    /// Mean KL(teacher ‖ model) per predicted token at the temperature, where there is a teacher.
    pub divergence: Option<f64>,
    /// Tokens that were predicted.
    pub tokens: usize,
    /// ‖gradient‖₂ over all parameters, before clipping.
    pub norm: f64,
    shares: Vec<Share>,
}

impl BatchGradient {
    /// The workers' parts of the gradient of parameter `index`, whose sum it is.
    fn parts(&self, index: usize) -> Vec<&[f32]> {
        self.shares.iter().map(|share| share.gradients[index].as_slice()).collect()
    }

    fn all_parts(&self) -> Vec<Vec<&[f32]>> {
        (0..self.shares[0].gradients.len()).map(|index| self.parts(index)).collect()
    }
}

/// A model in training.
#[derive(Debug)]
pub struct Trainer {
    model: Decoder,
    teacher: Option<Teacher>,
    pub(crate) moments: Moments,
    options: TrainingOptions,
    compute: Compute,
    pub(crate) steps: u64,
}

impl Trainer {
    /// Trains what is not frozen of `model`, which is on the device and in the precision of `compute`, with
    /// its workers and together with the processes of its exchange. On another device than the CPU
    /// gradients are computed there and the update here, in f32.
    pub fn new(model: Decoder, options: TrainingOptions, compute: Compute) -> Self {
        let moments = Moments::new(&options.optimiser, parameters(&model));
        Self { model, teacher: None, moments, options, compute, steps: 0 }
    }

    /// Learns from a teacher's predictions too: the objective is that of
    /// [`distillation_loss`](lns_kernels::distillation_loss).
    #[must_use]
    pub fn with_teacher(self, teacher: Teacher) -> Self {
        Self { teacher: Some(teacher), ..self }
    }

    /// The model whose predictions are learned.
    pub fn teacher(&self) -> Option<&Teacher> {
        self.teacher.as_ref()
    }

    /// Its threads.
    pub fn workers(&self) -> &Workers {
        &self.compute.workers
    }

    /// The model as it is now.
    pub fn model(&self) -> &Decoder {
        &self.model
    }

    /// Brings a scheme that training moves to where it is after step `step`.
    pub fn move_scheme(&mut self, step: u64) {
        let spec = self.model.spec();
        if spec.norm_scheme.moves_until(spec.trained_layers).is_some() {
            self.model = self.model.clone().at_step(step);
        }
    }

    /// How many numbers are trained.
    pub fn trainable(&self) -> u64 {
        self.moments.parameters.iter().map(|parameter| parameter.len() as u64).sum()
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// One update from the mean loss over `batch`.
    ///
    /// Worker w of n takes the sequences from w·B/n to (w+1)·B/n, or, if they are not equally long
    /// without their padding, such that all have about as many tokens; fewer sequences than workers
    /// leave some idle.
    ///
    /// # Errors
    /// [`BatchError::OutOfVocabulary`]; the model is unchanged.
    pub fn step(&mut self, batch: &Batch, learning_rate: f64) -> Result<Step, BatchError> {
        let gradient = self.gradient(batch)?;
        let BatchGradient { loss, divergence, tokens, norm, .. } = gradient;
        let step = Step { loss, divergence, tokens, gradient_norm: norm };
        self.apply(gradient, learning_rate);
        Ok(step)
    }

    /// The gradient of the mean loss over `batch`, and over what the other processes of an
    /// [`Exchange`](crate::Exchange) hold.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn gradient(&self, batch: &Batch) -> Result<BatchGradient, BatchError> {
        batch.check(self.model.spec().vocab_size)?;
        let predicted = self.over_all_processes(batch.predicted() as f64);
        let shares = self.shares(batch, predicted);
        let nll = self.over_all_processes(shares.iter().map(|share| share.nll).sum());
        let divergence = self.teacher.as_ref().map(|_| {
            let own = shares.iter().map(|share| share.divergence).sum();
            self.over_all_processes(own) / predicted
        });
        let shares = self.exchanged(shares);
        let mut gradient = BatchGradient {
            loss: nll / predicted,
            divergence,
            tokens: predicted as usize,
            norm: 0.0,
            shares,
        };
        gradient.norm = gradient_norm(&gradient.all_parts(), self.workers());
        Ok(gradient)
    }

    /// The sum of a number that every process has its own of.
    fn over_all_processes(&self, own: f64) -> f64 {
        let mut sum = [own];
        if let Some(exchange) = &self.compute.exchange {
            exchange.sum_counts(&mut sum);
        }
        sum[0]
    }

    /// The gradients of all processes in one share; the workers' own where there is one process.
    fn exchanged(&self, mut shares: Vec<Share>) -> Vec<Share> {
        let Some(exchange) = &self.compute.exchange else { return shares };
        let (sums, parts) = shares.split_at_mut(1);
        for (index, sum) in sums[0].gradients.iter_mut().enumerate() {
            let sum = sum.as_mut_slice();
            for part in &*parts {
                let part = part.gradients[index].as_slice();
                sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            }
            exchange.sum(sum);
        }
        shares.truncate(1);
        shares
    }

    /// ‖gradient‖₂ over the parameters of each layer.
    pub fn layer_norms(&self, gradient: &BatchGradient) -> Vec<f64> {
        (0..self.model.layers.len())
            .map(|layer| {
                let prefix = format!("layers.{layer}.");
                let parameters = self.moments.parameters.iter().enumerate();
                let parts: Vec<Vec<&[f32]>> = parameters
                    .filter(|(_, parameter)| parameter.name.starts_with(&prefix))
                    .map(|(index, _)| gradient.parts(index))
                    .collect();
                gradient_norm(&parts, self.workers())
            })
            .collect()
    }

    /// One update from a gradient, clipped as the options say.
    pub fn apply(&mut self, gradient: BatchGradient, learning_rate: f64) {
        let scale = match self.options.clip {
            Some(limit) if gradient.norm > limit => limit / gradient.norm,
            _ => 1.0,
        };
        let gradients = gradient.all_parts();
        self.steps += 1;
        let step = optimisers::Step { learning_rate, gradient_scale: scale, number: self.steps };
        let mut weights = Weights::take(&mut self.model, self.moments.parameters.clone());
        let updates = weights.buffers.iter_mut().map(Buffer::as_mut_slice).zip(gradients);
        self.moments.step(&self.options.optimiser, updates, step, &self.compute.workers);
        weights.put_back(&mut self.model);
    }

    /// Every worker's gradient of the mean loss.
    fn shares(&self, batch: &Batch, predicted: f64) -> Vec<Share> {
        let sequences = batch.sequences();
        let count = self.workers().count().min(sequences);
        let hands = dealt(&batch.counted(), count);
        let passes = Passes {
            sequences: self.options.sequences_per_pass,
            recompute: self.options.recompute,
            terms: LossTerms { weight: 1.0 / predicted, z_loss: self.options.z_loss },
            teacher: self.teacher.as_ref(),
        };
        self.workers().map(count, |worker| {
            share(&self.model, &self.moments.parameters, batch, &hands[worker], passes)
        })
    }
}

/// The parameters that are trained, in the order in which the module is visited.
fn parameters(model: &Decoder) -> Vec<Parameter> {
    let mut found = Vec::new();
    visit_parameters(&model.clone().train(), &mut |parameter| {
        if parameter.requires_gradient {
            let (id, name, shape) = (parameter.id, parameter.path.to_owned(), parameter.shape);
            found.push(Parameter { id, tensor: tensor_id(&name), name, shape });
        }
    });
    found
}

/// The model's parameters as memory, while they are being changed.
struct Weights {
    device: Device,
    buffers: Vec<Buffer>,
    parameters: Arc<[Parameter]>,
}

impl Weights {
    /// Takes the parameters `wanted` out of the model, which holds placeholders until they are put
    /// back.
    fn take(model: &mut Decoder, wanted: Arc<[Parameter]>) -> Self {
        struct Take<'a> {
            wanted: &'a [Parameter],
            tensors: Vec<Tensor<1>>,
        }
        impl ModuleMapper for Take<'_> {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                if self.wanted.get(self.tensors.len()).is_none_or(|next| next.id != param.id) {
                    return param;
                }
                param.map(|tensor| {
                    let placeholder = Tensor::zeros([1; D], &tensor.device());
                    self.tensors.push(flat(tensor));
                    placeholder
                })
            }
        }
        let device = model.device();
        let mut taken = Take { wanted: &wanted, tensors: Vec::new() };
        // The clone shares its memory with the model only until the model is replaced.
        *model = model.clone().map(&mut taken);
        assert_eq!(
            taken.tensors.len(),
            wanted.len(),
            "a module is mapped in the order of its visit"
        );
        let buffers = taken.tensors.into_iter().map(Buffer::new).collect();
        Self { device, buffers, parameters: wanted }
    }

    fn put_back(self, model: &mut Decoder) {
        struct Put<'a, I: Iterator<Item = (Buffer, &'a Parameter)>>(std::iter::Peekable<I>, Device);
        impl<'a, I: Iterator<Item = (Buffer, &'a Parameter)>> ModuleMapper for Put<'a, I> {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                let Some((buffer, taken)) = self.0.next_if(|(_, next)| next.id == param.id) else {
                    return param;
                };
                param.map(|_| {
                    let shape = Shape::from(taken.shape.clone());
                    let tensor = buffer.into_tensor::<1>().reshape(shape);
                    if is_cpu(&self.1) { tensor } else { tensor.to_device(&self.1) }
                })
            }
        }
        let taken = self.buffers.into_iter().zip(&*self.parameters).peekable();
        *model = model.clone().map(&mut Put(taken, self.device));
    }
}

#[cfg(test)]
mod tests {
    use lns_kernels::{IGNORED, cpu_device, with_slices};
    use lns_score::Pass;
    use lns_spec::{NormScheme, Preset};

    use lns_testing::models::TINY;

    use super::*;
    use crate::gradients::rows;

    /// Five sequences of 24 tokens: whole, with learned responses, with much padding, without a
    /// target, with little padding.
    fn padded() -> Batch {
        const LENGTH: usize = 24;
        let (mut inputs, mut targets) = (Vec::new(), Vec::new());
        for (row, learned) in [0..LENGTH, 5..9, 1..3, 0..0, 0..20].into_iter().enumerate() {
            let id = |position: usize| ((position * 31 + row * 7) % 47) as u32;
            inputs.extend((0..LENGTH).map(id));
            let target = |position| {
                if learned.contains(&position) { id(position + 1) } else { IGNORED }
            };
            targets.extend((0..LENGTH).map(target));
        }
        Batch::new(inputs, targets, LENGTH).expect("a batch")
    }

    fn tiny(scheme: NormScheme) -> Decoder {
        let preset = Preset {
            hidden_size: 32,
            intermediate_size: 56,
            num_attention_heads: 4,
            vocab_size: 50,
            max_position_embeddings: 24,
            ..TINY
        };
        let mut spec = preset.spec(scheme);
        spec.num_key_value_heads = 2;
        spec.per_layer[1].attention_window = Some(4);
        Decoder::new(&spec, 3, &cpu_device())
    }

    fn summed(gradient: &BatchGradient) -> Vec<Vec<f64>> {
        let sum = |parts: Vec<&[f32]>| {
            let of = |index: usize| parts.iter().map(|part| f64::from(part[index])).sum();
            (0..parts[0].len()).map(of).collect()
        };
        gradient.all_parts().into_iter().map(sum).collect()
    }

    #[test]
    fn padding_is_not_computed_and_leaves_the_loss_and_the_gradient_as_they_are_with_it() {
        let batch = padded();
        assert_eq!(batch.tokens(), 24 + 9 + 3 + 20, "of {}", batch.sequences() * batch.length());
        for (scheme, teacher) in
            [("lns", None), ("lns", Some("post")), ("post", None), ("progressive", None)]
        {
            let model = tiny(scheme.parse().expect("a scheme"));
            let teacher = |options: TrainingOptions, threads| {
                let compute = Compute::on_cpu(threads).expect("threads start");
                let trainer = Trainer::new(model.clone(), options, compute);
                let Some(scheme) = teacher else { return trainer };
                let terms = DistillationTerms { weight: 0.3, temperature: 2.0 };
                let model = tiny(scheme.parse().expect("a scheme"));
                trainer.with_teacher(Teacher { model, terms })
            };
            let trained = parameters(&model);
            // All of the padding, on one tape.
            let (inputs, targets) = batch.part(0..batch.sequences());
            let pass = Pass {
                ids: inputs.to_vec(),
                sequences: batch.sequences(),
                targets: targets.to_vec(),
                rotary: layernorm_scaling::rotary_table(model.spec(), batch.length()),
            };
            let own = model.clone().train();
            let terms = LossTerms { weight: 1.0 / batch.predicted() as f64, z_loss: 1e-3 };
            let stream = own.stream_at(pass.tokens(&model.device()), &pass.rotary);
            let sum = |rows: Tensor<1>| -> f64 {
                with_slices([&rows.inner()], |[rows]| rows.iter().map(|x| f64::from(*x)).sum())
            };
            let (objective, loss, divergence) = match teacher(TrainingOptions::default(), 1).teacher
            {
                None => {
                    let (objective, nll) = own.head().loss(rows(stream), &pass.targets, terms);
                    (objective, sum(nll) * terms.weight, None)
                }
                Some(teacher) => {
                    let theirs =
                        teacher.model.stream_at(pass.tokens(&model.device()), &pass.rotary);
                    let theirs = teacher.model.head().projection(rows(theirs));
                    let (stream, targets) = (rows(stream), &pass.targets);
                    let found = own.head().distil(stream, &theirs, targets, terms, teacher.terms);
                    let divergence = sum(found.divergence) * terms.weight;
                    (found.objective, sum(found.nll) * terms.weight, Some(divergence))
                }
            };
            let mut gradients = objective.backward();
            let expected = crate::gradients::complete(
                &model,
                &trained,
                crate::gradients::take(&own, &mut gradients),
            );
            for (threads, sequences_per_pass, recompute) in
                [(1, None, false), (2, None, false), (3, NonZeroUsize::new(1), true)]
            {
                let options = TrainingOptions {
                    z_loss: terms.z_loss,
                    sequences_per_pass,
                    recompute,
                    ..TrainingOptions::default()
                };
                let trainer = teacher(options, threads);
                let gradient = trainer.gradient(&batch).expect("a gradient");
                assert!((gradient.loss - loss).abs() < 1e-5, "{} {loss}", gradient.loss);
                match (gradient.divergence, divergence) {
                    (None, None) => {}
                    (Some(found), Some(kl)) => {
                        assert!(kl > 1e-4 && (found - kl).abs() < 1e-5, "{found} {kl}");
                    }
                    other => panic!("{other:?}"),
                }
                for (parameter, (found, expected)) in
                    trained.iter().zip(summed(&gradient).iter().zip(&expected))
                {
                    let largest = expected.as_slice().iter().fold(0f32, |a, b| a.max(b.abs()));
                    for (found, expected) in found.iter().zip(expected.as_slice()) {
                        let difference = (found - f64::from(*expected)).abs();
                        assert!(
                            difference <= 2e-5 * f64::from(largest) + 1e-9,
                            "{threads} threads, {}: {found} and {expected}",
                            parameter.name
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn taking_and_putting_back_copies_nothing_and_changes_nothing() {
        let spec = Preset::named("9m").expect("a preset").spec(NormScheme::lns());
        let mut model = Decoder::new(&spec, 1, &cpu_device());
        let address = |weights: &Weights| weights.buffers[0].as_slice().as_ptr();
        let all: Arc<[Parameter]> = parameters(&model).into();
        let first = Weights::take(&mut model, all.clone());
        assert!(first.buffers.iter().all(Buffer::is_unique), "nothing else holds the weights");
        let (at, values) = (address(&first), first.buffers[3].as_slice().to_vec());
        first.put_back(&mut model);
        let mut second = Weights::take(&mut model, all.clone());
        assert_eq!(at, address(&second));
        assert!(second.buffers.iter().all(Buffer::is_unique));
        assert_eq!(values, second.buffers[3].as_mut_slice());
    }
}
