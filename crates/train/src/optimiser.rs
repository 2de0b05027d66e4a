//! Which rule updates which parameter, and the moments it keeps.

use std::sync::Arc;

use burn::module::ParamId;
use lns_kernels::{AdamW, Muon, Workers, adamw, muon, squared_norm};
use lns_spec::{Part, TensorId};
use serde::{Deserialize, Serialize};

/// Numbers that one job updates: enough to be worth handing out, few enough to share evenly.
const CHUNK: usize = 1 << 16;

/// Which parameters decay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// Every one.
    All,
    /// Projections only: no norm's gain, no bias, no embedding (nor a head tied to it).
    #[default]
    Projections,
}

/// How parameters follow their gradients. The learning rate comes with each step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Optimiser {
    /// AdamW; Adam when `weight_decay` is 0.
    AdamW {
        /// Decay of the first moment.
        beta1: f64,
        /// Decay of the second moment.
        beta2: f64,
        /// Added to the root of the second moment.
        eps: f64,
        /// Decoupled weight decay.
        weight_decay: f64,
        /// What decays.
        decay: Decay,
    },
    /// Muon for the layers' matrices, AdamW (β = 0.9, 0.95, eps 1e-8) for the rest; both decay.
    Muon {
        /// Momentum of the matrices.
        momentum: f64,
        /// Decoupled weight decay.
        weight_decay: f64,
        /// What decays.
        decay: Decay,
    },
}

impl Default for Optimiser {
    /// AdamW with β = (0.9, 0.95), eps 1e-8, decay 0.1 of the projections.
    fn default() -> Self {
        Self::AdamW {
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            decay: Decay::Projections,
        }
    }
}

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

    /// A matrix inside a layer, or a factor of an adapter beside one.
    fn is_projection(&self) -> bool {
        self.tensor.is_none_or(|id| id.part == Part::Weight && id.role.is_projection())
    }

    fn decays(&self, decay: Decay) -> bool {
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
    pub(crate) first: Vec<Vec<f32>>,
    /// Empty where the rule keeps none.
    pub(crate) second: Vec<Vec<f32>>,
}

/// One parameter during an update: its weights and the workers' gradients.
pub(crate) struct Update<'a> {
    pub(crate) weights: &'a mut [f32],
    pub(crate) gradients: Vec<&'a [f32]>,
}

enum Job<'a> {
    AdamW {
        weights: &'a mut [f32],
        first: &'a mut [f32],
        second: &'a mut [f32],
        gradients: Vec<&'a [f32]>,
        step: AdamW,
    },
    Muon {
        weights: &'a mut [f32],
        momentum: &'a mut [f32],
        gradients: Vec<&'a [f32]>,
        shape: [usize; 2],
        step: Muon,
    },
}

impl Optimiser {
    fn uses_muon(&self, parameter: &Parameter) -> bool {
        matches!(self, Self::Muon { .. }) && parameter.is_projection()
    }

    pub(crate) fn moments(&self, parameters: Vec<Parameter>) -> Moments {
        let zeros = |wanted: &dyn Fn(&Parameter) -> bool| -> Vec<Vec<f32>> {
            parameters
                .iter()
                .map(|parameter| vec![0.0; if wanted(parameter) { parameter.len() } else { 0 }])
                .collect()
        };
        let first = zeros(&|_| true);
        let second = zeros(&|parameter| !self.uses_muon(parameter));
        Moments { parameters: parameters.into(), first, second }
    }

    /// Updates every parameter. `steps` counts from 1.
    pub(crate) fn step(
        &self,
        moments: &mut Moments,
        updates: Vec<Update<'_>>,
        learning_rate: f64,
        gradient_scale: f64,
        steps: u64,
        workers: &Workers,
    ) {
        let mut jobs = Vec::new();
        let state = moments.first.iter_mut().zip(&mut moments.second);
        for ((update, parameter), (first, second)) in
            updates.into_iter().zip(&*moments.parameters).zip(state)
        {
            let (beta1, beta2, eps, weight_decay, decay) = match *self {
                Self::AdamW { beta1, beta2, eps, weight_decay, decay } => {
                    (beta1, beta2, eps, weight_decay, decay)
                }
                Self::Muon { weight_decay, decay, .. } => (0.9, 0.95, 1e-8, weight_decay, decay),
            };
            let weight_decay = if parameter.decays(decay) { weight_decay } else { 0.0 };
            if let Self::Muon { momentum, .. } = *self
                && self.uses_muon(parameter)
            {
                jobs.push(Job::Muon {
                    weights: update.weights,
                    momentum: first,
                    gradients: update.gradients,
                    shape: [parameter.shape[0], parameter.shape[1]],
                    step: Muon { gradient_scale, learning_rate, momentum, weight_decay },
                });
                continue;
            }
            let step =
                AdamW { gradient_scale, learning_rate, beta1, beta2, eps, weight_decay, steps };
            let chunks = update
                .weights
                .chunks_mut(CHUNK)
                .zip(first.chunks_mut(CHUNK).zip(second.chunks_mut(CHUNK)));
            for (index, (weights, (first, second))) in chunks.enumerate() {
                let range = index * CHUNK..index * CHUNK + weights.len();
                let gradients = update.gradients.iter().map(|g| &g[range.clone()]).collect();
                jobs.push(Job::AdamW { weights, first, second, gradients, step });
            }
        }
        workers.each(jobs, |job| match job {
            Job::AdamW { weights, first, second, gradients, step } => {
                adamw(weights, first, second, &gradients, &step);
            }
            Job::Muon { weights, momentum, gradients, shape, step } => {
                muon(weights, momentum, &gradients, shape, &step);
            }
        });
    }
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
