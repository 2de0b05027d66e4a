//! What an optimiser keeps of every parameter, and a step over all of them.

use std::sync::Arc;

use burn::module::ParamId;
use lns_kernels::Workers;
use lns_spec::TensorId;

use super::{Decay, Optimiser};

/// Numbers that one job updates: enough to be worth handing out, few enough to share evenly.
pub(crate) const CHUNK: usize = 1 << 16;

/// What the optimiser knows of a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parameter {
    /// What tells it from others in any clone of the module.
    pub(crate) id: ParamId,
    /// Which of the model's tensors it is; none for a factor of an adapter.
    pub(crate) tensor: Option<TensorId>,
    /// Path of fields in the module: `layers.0.mlp.up_proj.weight`.
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
}

impl Parameter {
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether weight decay is for it.
    pub(super) fn decays(&self, decay: Decay) -> bool {
        match decay {
            Decay::All => true,
            Decay::Projections => self.tensor.is_none_or(TensorId::decays),
        }
    }
}

/// The moments of every parameter.
#[derive(Debug)]
pub(crate) struct Moments {
    pub(crate) parameters: Arc<[Parameter]>,
    /// The names of the moments of each parameter.
    pub(crate) names: Vec<&'static [&'static str]>,
    /// The values of each moment of each parameter.
    pub(crate) values: Vec<Vec<Vec<f32>>>,
}

/// A step of an optimiser, as far as it is the same for every parameter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub(crate) learning_rate: f64,
    /// Multiplies the summed gradient: 1, or what clipping asks for.
    pub(crate) gradient_scale: f64,
    /// Counted from 1.
    pub(crate) number: u64,
}

/// One parameter during a step.
pub(crate) struct ParameterUpdate<'a> {
    pub(crate) parameter: &'a Parameter,
    pub(crate) weights: &'a mut [f32],
    /// The workers' gradients, whose sum it follows.
    pub(crate) gradients: Vec<&'a [f32]>,
    /// Those that the optimiser keeps of it, in their order.
    pub(crate) moments: &'a mut [Vec<f32>],
    pub(crate) step: Step,
}

/// A part of the work of a step.
pub(crate) type Job<'a> = Box<dyn FnOnce() + Send + 'a>;

impl Moments {
    /// What `optimiser` keeps of the parameters before the first step.
    pub(crate) fn new(optimiser: &Optimiser, parameters: Vec<Parameter>) -> Self {
        let names: Vec<&'static [&'static str]> =
            parameters.iter().map(|parameter| optimiser.moments(parameter.tensor)).collect();
        let values = parameters
            .iter()
            .zip(&names)
            .map(|(parameter, names)| vec![vec![0.0; parameter.len()]; names.len()])
            .collect();
        Self { parameters: parameters.into(), names, values }
    }

    /// Updates every parameter: its weights and the workers' gradients, in the parameters' order.
    pub(crate) fn step<'a>(
        &'a mut self,
        optimiser: &Optimiser,
        updates: impl Iterator<Item = (&'a mut [f32], Vec<&'a [f32]>)>,
        step: Step,
        workers: &Workers,
    ) {
        let parameters = self.parameters.iter().zip(&mut self.values);
        let jobs =
            parameters.zip(updates).flat_map(|((parameter, moments), (weights, gradients))| {
                let update = ParameterUpdate { parameter, weights, gradients, moments, step };
                optimiser.update(update)
            });
        workers.each(jobs.collect(), |job: Job<'_>| job());
    }
}
