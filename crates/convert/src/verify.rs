//! Whether a conversion did no more than rounding explains.

use lns_checkpoint::Rounding;
use lns_score::Comparison;
use serde_json::{Value, json};

/// Logits of the same function in f32 differ by less than this, relative to the largest: sums are
/// taken of other numbers.
const F32_NOISE: f64 = 1e-5;

/// How far rounding may take a model that should be the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// Largest difference of two logits over the largest logit.
    pub logits: f64,
    /// Difference of the losses, in nats per token.
    pub nll: f64,
}

/// A model that differs from its source by more than rounding explains.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error(
    "the logits differ by {relative:.1e} of the largest and the loss by {nll_difference:.1e}, more than \
     the {:.1e} and {:.1e} that rounding explains",
    tolerance.logits,
    tolerance.nll
)]
pub struct BeyondTolerance {
    /// Largest difference of two logits over the largest logit.
    pub relative: f64,
    /// The loss after minus the loss before, in nats per token.
    pub nll_difference: f64,
    /// What rounding explains.
    pub tolerance: Tolerance,
}

impl Tolerance {
    /// To first order: every rounded tensor is off by its bound, independently of the others. Losses
    /// average over tokens.
    pub fn of(rounding: &Rounding) -> Self {
        let tensors = (rounding.tensors + rounding.cast) as f64;
        Self {
            logits: tensors.sqrt() * rounding.bound + F32_NOISE,
            nll: 10.0 * rounding.bound + 1e-4,
        }
    }

    /// Refuses what differs by more; numbers that are none do.
    ///
    /// # Errors
    /// [`BeyondTolerance`].
    pub fn require(&self, found: &Comparison) -> Result<(), BeyondTolerance> {
        let [before, after] = found.nll;
        let (relative, nll_difference) = (found.relative(), after - before);
        if relative <= self.logits && nll_difference.abs() <= self.nll {
            return Ok(());
        }
        Err(BeyondTolerance { relative, nll_difference, tolerance: *self })
    }
}

/// As the record of where a model came from has it.
pub(crate) fn measured(found: &Comparison) -> Value {
    let [before, after] = found.nll;
    json!({
        "nll_before": before, "nll_after": after,
        "logit_difference": found.logit_difference, "largest_logit": found.largest_logit,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tolerance_holds_what_rounding_explains_and_refuses_more_and_what_is_no_number() {
        let rounding = Rounding { bound: 2f64.powi(-8), measured: 0.001, tensors: 9, cast: 0 };
        let tolerance = Tolerance::of(&rounding);
        assert!((tolerance.logits - (3.0 / 256.0 + 1e-5)).abs() < 1e-12, "{tolerance:?}");
        let found = |nll: f64, logit_difference: f64| Comparison {
            nll: [2.0, 2.0 + nll],
            logit_difference,
            largest_logit: 10.0,
        };
        assert_eq!(tolerance.require(&found(0.03, 0.11)), Ok(()));
        let error = tolerance.require(&found(-0.05, 0.01)).expect_err("the loss");
        assert!((error.nll_difference + 0.05).abs() < 1e-12);
        let error = tolerance.require(&found(0.0, 0.2)).expect_err("the logits");
        assert!(error.to_string().contains("differ by 2.0e-2 of the largest"), "{error}");
        tolerance.require(&found(f64::NAN, 0.0)).expect_err("no number");
        tolerance.require(&found(0.0, f64::NAN)).expect_err("no number");
    }
}
