//! LayerScale, x + diag(λ)·F(N(x)) with λ learned from a small start (arXiv 2103.17239).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Place, Scheme, within_eight};
use crate::{Branch, BranchGate};

/// x + diag(λ)·F(N(x))
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerScale {
    /// Initial value of every λ.
    #[serde(default = "small", deserialize_with = "within_eight")]
    pub init: f64,
}

fn small() -> f64 {
    1e-4
}

impl Scheme for LayerScale {
    fn branch(&self, _: Place) -> Branch {
        Branch { gate: BranchGate::Learned { scalar: false, init: self.init }, ..Branch::PRE }
    }

    fn variants() -> Vec<(&'static str, Self)> {
        vec![("layerscale", Self { init: small() })]
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layerscale, λ from {}", self.init)
    }
}
