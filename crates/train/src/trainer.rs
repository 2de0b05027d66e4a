//! One training step after another.

use std::{num::NonZeroUsize, sync::Arc};

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{Device, Shape, Tensor},
};
use layernorm_scaling::{Decoder, tensor_id, visit_parameters};
use lns_kernels::{Buffer, LossTerms, Workers};

use crate::{
    Batch, BatchError, Optimiser,
    exchange::Exchange,
    gradients::{Passes, Share, flat, share},
    optimiser::{Moments, Parameter, Update, gradient_norm},
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

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Mean loss per predicted token before the update, in nats, without the z-loss.
    pub loss: f64,
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
    /// Tokens that were predicted.
    pub tokens: usize,
    /// ‖gradient‖₂ over all parameters, before clipping.
    pub norm: f64,
    shares: Vec<Share>,
}

impl BatchGradient {
    /// Of parameter `index`: the workers' parts, whose sum it is.
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
    pub(crate) moments: Moments,
    options: TrainingOptions,
    workers: Workers,
    pub(crate) steps: u64,
    exchange: Option<Box<dyn Exchange>>,
}

impl Trainer {
    /// Trains what is not frozen of `model` with the given workers. On another device than the CPU
    /// gradients are computed there and the update here, in f32.
    pub fn new(model: Decoder, options: TrainingOptions, workers: Workers) -> Self {
        let moments = options.optimiser.moments(parameters(&model));
        Self { model, moments, options, workers, steps: 0, exchange: None }
    }

    /// Trains together with other processes that hold the same model, each with its own part of every
    /// batch.
    pub fn with_exchange(mut self, exchange: Box<dyn Exchange>) -> Self {
        self.exchange = Some(exchange);
        self
    }

    /// Its threads.
    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    /// The model as it is now.
    pub fn model(&self) -> &Decoder {
        &self.model
    }

    /// Ends the training.
    pub fn into_model(self) -> Decoder {
        self.model
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
    /// Worker w of n takes the sequences from w·B/n to (w+1)·B/n; fewer sequences than workers leave
    /// some idle.
    ///
    /// # Errors
    /// [`BatchError::OutOfVocabulary`]; the model is unchanged.
    pub fn step(&mut self, batch: &Batch, learning_rate: f64) -> Result<Step, BatchError> {
        let gradient = self.gradient(batch)?;
        let step =
            Step { loss: gradient.loss, tokens: gradient.tokens, gradient_norm: gradient.norm };
        self.apply(gradient, learning_rate);
        Ok(step)
    }

    /// The gradient of the mean loss over `batch`, and over what the other processes of an
    /// [`Exchange`] hold.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn gradient(&self, batch: &Batch) -> Result<BatchGradient, BatchError> {
        batch.check(self.model.spec().vocab_size)?;
        let mut totals = [batch.predicted() as f64, 0.0];
        if let Some(exchange) = &self.exchange {
            exchange.sum_counts(&mut totals[..1]);
        }
        let predicted = totals[0];
        let mut shares = self.shares(batch, predicted);
        totals[1] = shares.iter().map(|share| share.nll).sum::<f64>();
        if let Some(exchange) = &self.exchange {
            exchange.sum_counts(&mut totals[1..]);
            for index in 0..shares[0].gradients.len() {
                let (sum, parts) = shares.split_at_mut(1);
                let sum = sum[0].gradients[index].as_mut_slice();
                for part in parts {
                    let part = part.gradients[index].as_slice();
                    sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
                }
                exchange.sum(sum);
            }
            shares.truncate(1);
        }
        let mut gradient = BatchGradient {
            loss: totals[1] / predicted,
            tokens: predicted as usize,
            norm: 0.0,
            shares,
        };
        gradient.norm = gradient_norm(&gradient.all_parts(), &self.workers);
        Ok(gradient)
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
                gradient_norm(&parts, &self.workers)
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
        let mut weights = Weights::take(&mut self.model, self.moments.parameters.clone());
        let updates = weights.buffers.iter_mut().zip(gradients);
        self.options.optimiser.step(
            &mut self.moments,
            updates
                .map(|(weights, gradients)| Update { weights: weights.as_mut_slice(), gradients })
                .collect(),
            learning_rate,
            scale,
            self.steps,
            &self.workers,
        );
        weights.put_back(&mut self.model);
    }

    /// Every worker's gradient of the mean loss.
    fn shares(&self, batch: &Batch, predicted: f64) -> Vec<Share> {
        let sequences = batch.sequences();
        let count = self.workers.count().min(sequences);
        let largest = sequences.div_ceil(count);
        let passes = Passes {
            sequences: self.options.sequences_per_pass.map_or(largest, NonZeroUsize::get),
            recompute: self.options.recompute,
            terms: LossTerms { weight: 1.0 / predicted, z_loss: self.options.z_loss },
        };
        self.workers.map(count, |worker| {
            let own = worker * sequences / count..(worker + 1) * sequences / count;
            share(&self.model, &self.moments.parameters, batch, own, passes)
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
                    if self.1 == Device::flex() { tensor } else { tensor.to_device(&self.1) }
                })
            }
        }
        let taken = self.buffers.into_iter().zip(&*self.parameters).peekable();
        *model = model.clone().map(&mut Put(taken, self.device));
    }
}

#[cfg(test)]
mod tests {
    use lns_spec::{NormScheme, Preset};

    use super::*;

    #[test]
    fn taking_and_putting_back_copies_nothing_and_changes_nothing() {
        let spec = Preset::named("9m").expect("a preset").spec(NormScheme::lns());
        let mut model = Decoder::new(&spec, 1, &lns_kernels::Device::flex());
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
