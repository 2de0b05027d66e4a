//! AdamW: Adam with decoupled weight decay (Loshchilov & Hutter, arXiv 1711.05101).

use lns_kernels::adamw;
use lns_spec::TensorId;

use super::{
    Decay, Job, Number, ParameterUpdate, Rule,
    state::{CHUNK, Step},
};
use crate::ranges::Real;

/// m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², w ← w(1 − η·λ) − η·m̂/(√v̂ + eps).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// β₁, the decay of the first moment.
    pub beta1: f64,
    /// β₂, the decay of the second moment.
    pub beta2: f64,
    /// What is added to the root of the second moment.
    pub eps: f64,
    /// λ, the decoupled weight decay.
    pub weight_decay: f64,
    /// What decays.
    pub decay: Decay,
}

impl Default for AdamW {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0, decay: Decay::Projections }
    }
}

impl Rule for AdamW {
    fn numbers(&mut self) -> Vec<Number<'_>> {
        vec![
            Number::new("optimiser.beta1", Real::BelowOne, &mut self.beta1),
            Number::new("optimiser.beta2", Real::BelowOne, &mut self.beta2),
            Number::new("optimiser.eps", Real::NotNegative, &mut self.eps),
            Number::new("optimiser.weight_decay", Real::NotNegative, &mut self.weight_decay),
        ]
    }

    fn decay(&mut self) -> Option<&mut Decay> {
        Some(&mut self.decay)
    }

    fn moments(&self, _: Option<TensorId>) -> &'static [&'static str] {
        &["first", "second"]
    }

    fn update<'a>(&self, update: ParameterUpdate<'a>) -> Vec<Job<'a>> {
        let Self { beta1, beta2, eps, weight_decay, decay } = *self;
        let weight_decay = if update.parameter.decays(decay) { weight_decay } else { 0.0 };
        let ParameterUpdate { weights, gradients, moments, step, .. } = update;
        let Step { learning_rate, gradient_scale, number: steps } = step;
        let step = lns_kernels::AdamW {
            gradient_scale,
            learning_rate,
            beta1,
            beta2,
            eps,
            weight_decay,
            steps,
        };
        let [first, second] = moments else { unreachable!("AdamW keeps two moments") };
        let moments = first.chunks_mut(CHUNK).zip(second.chunks_mut(CHUNK));
        let chunks = weights.chunks_mut(CHUNK).zip(moments).enumerate();
        chunks
            .map(|(index, (weights, (first, second)))| -> Job<'a> {
                let range = index * CHUNK..index * CHUNK + weights.len();
                let gradients: Vec<&[f32]> =
                    gradients.iter().map(|gradient| &gradient[range.clone()]).collect();
                Box::new(move || adamw(weights, first, second, &gradients, &step))
            })
            .collect()
    }
}
