//! Muon (Jordan et al., 2024) for the layers' matrices: momentum made nearly orthogonal, as large as an
//! update of AdamW (Liu et al., arXiv 2502.16982), so that one learning rate and one decay suit both. Gains,
//! biases, the embedding and the head are updated by AdamW.

use lns_kernels::muon;
use lns_spec::{Part, TensorId};

use super::{AdamW, Decay, Job, Number, ParameterUpdate, Rule, state::Step};
use crate::ranges::Real;

/// Momentum of the matrices, and a decay for all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Muon {
    /// μ, the momentum of the matrices.
    pub momentum: f64,
    /// λ, the decoupled weight decay.
    pub weight_decay: f64,
    /// What decays.
    pub decay: Decay,
}

impl Default for Muon {
    fn default() -> Self {
        Self { momentum: 0.95, weight_decay: 0.0, decay: Decay::Projections }
    }
}

/// A matrix inside a layer, or a factor of an adapter beside one.
fn is_matrix(tensor: Option<TensorId>) -> bool {
    tensor.is_none_or(|id| id.part == Part::Weight && id.role.is_projection())
}

impl Rule for Muon {
    fn numbers(&mut self) -> Vec<Number<'_>> {
        vec![
            Number::new("optimiser.momentum", Real::BelowOne, &mut self.momentum),
            Number::new("optimiser.weight_decay", Real::NotNegative, &mut self.weight_decay),
        ]
    }

    fn decay(&mut self) -> Option<&mut Decay> {
        Some(&mut self.decay)
    }

    fn fixed(&self) -> Option<&'static str> {
        Some(
            "muon updates all but the layers' matrices by AdamW with beta1 = 0.9, beta2 = 0.95, \
             eps = 1e-8",
        )
    }

    fn moments(&self, tensor: Option<TensorId>) -> &'static [&'static str] {
        if is_matrix(tensor) { &["first"] } else { &["first", "second"] }
    }

    fn update<'a>(&self, update: ParameterUpdate<'a>) -> Vec<Job<'a>> {
        let Self { momentum, weight_decay, decay } = *self;
        if !is_matrix(update.parameter.tensor) {
            let (beta1, beta2, eps) = (0.9, 0.95, 1e-8);
            return AdamW { beta1, beta2, eps, weight_decay, decay }.update(update);
        }
        let weight_decay = if update.parameter.decays(decay) { weight_decay } else { 0.0 };
        let shape = [update.parameter.shape[0], update.parameter.shape[1]];
        let ParameterUpdate { weights, gradients, moments, step, .. } = update;
        let Step { learning_rate, gradient_scale, .. } = step;
        let step = lns_kernels::Muon { gradient_scale, learning_rate, momentum, weight_decay };
        let [first] = moments else { unreachable!("Muon keeps one moment of a matrix") };
        vec![Box::new(move || muon(weights, first, &gradients, shape, &step))]
    }
}
