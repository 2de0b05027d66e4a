//! Adam (Kingma & Ba, arXiv 1412.6980), as the paper of LayerNorm Scaling trains: without weight decay.

use lns_spec::TensorId;

use super::{AdamW, Job, Number, ParameterUpdate, Rule};
use crate::ranges::Real;

/// m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², w ← w − η·m̂/(√v̂ + eps).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adam {
    /// β₁, the decay of the first moment.
    pub beta1: f64,
    /// β₂, the decay of the second moment.
    pub beta2: f64,
    /// What is added to the root of the second moment.
    pub eps: f64,
}

impl Default for Adam {
    fn default() -> Self {
        let AdamW { beta1, beta2, eps, .. } = AdamW::default();
        Self { beta1, beta2, eps }
    }
}

impl Rule for Adam {
    fn numbers(&mut self) -> Vec<Number<'_>> {
        vec![
            Number::new("optimiser.beta1", Real::BelowOne, &mut self.beta1),
            Number::new("optimiser.beta2", Real::BelowOne, &mut self.beta2),
            Number::new("optimiser.eps", Real::NotNegative, &mut self.eps),
        ]
    }

    fn moments(&self, _: Option<TensorId>) -> &'static [&'static str] {
        &["first", "second"]
    }

    fn update<'a>(&self, update: ParameterUpdate<'a>) -> Vec<Job<'a>> {
        let Self { beta1, beta2, eps } = *self;
        AdamW { beta1, beta2, eps, weight_decay: 0.0, ..AdamW::default() }.update(update)
    }
}
