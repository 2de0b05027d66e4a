//! Progressive residual warm-up (ProRes, arXiv 2603.05369): x + α·F(N(x)) with α = min(t/(T·ℓ), 1) at
//! training step t, so that deeper layers join later. When the last has joined, the model is Pre-LN.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{NormScheme, Place, Scheme, at_least_one};
use crate::{Branch, BranchGate};

/// x + min(t/(T·ℓ), 1)·F(N(x))
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progressive {
    /// T: steps until the first layer has joined; 1,000 in the paper.
    #[serde(default = "thousand", deserialize_with = "at_least_one")]
    pub steps: u64,
    /// t: training steps taken so far.
    #[serde(default)]
    pub taken: u64,
}

fn thousand() -> u64 {
    1000
}

impl Scheme for Progressive {
    fn branch(&self, place: Place) -> Branch {
        let share = self.taken as f64 / (self.steps as f64 * place.depth.value());
        Branch { gate: BranchGate::Constant(share.min(1.0)), ..Branch::PRE }
    }

    fn variants() -> Vec<(&'static str, Self)> {
        vec![("progressive", Self { steps: thousand(), taken: 0 })]
    }

    fn moves_until(&self, layers: usize) -> Option<u64> {
        Some(self.steps.saturating_mul(layers as u64))
    }

    fn at_step(&self, step: u64, layers: usize) -> Option<NormScheme> {
        let joined = self.moves_until(layers).is_some_and(|end| step >= end);
        Some(if joined {
            NormScheme::pre()
        } else {
            NormScheme::Progressive(Self { taken: step, ..*self })
        })
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "progressive, step {} of {} for each layer", self.taken, self.steps)
    }
}
