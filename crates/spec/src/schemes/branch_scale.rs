//! A constant on the branch's output, x + c·F(N(x)): what LayerNorm Scaling is often mistaken for, and
//! the α of CompleteP (arXiv 2505.01618).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Place, Scheme};
use crate::{Branch, BranchGate};

/// x + c·F(N(x))
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BranchScale {
    /// How c depends on the depth or on the number of layers.
    pub rule: BranchRule,
}

/// The constant of [`BranchScale`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BranchRule {
    /// c = 1/√ℓ
    SqrtDepth,
    /// c = 1/√L
    SqrtLayers,
    /// c = 1/L
    Layers,
}

impl Scheme for BranchScale {
    fn branch(&self, place: Place) -> Branch {
        let constant = match self.rule {
            BranchRule::SqrtDepth => 1.0 / place.depth.value().sqrt(),
            BranchRule::SqrtLayers => 1.0 / place.count().sqrt(),
            BranchRule::Layers => 1.0 / place.count(),
        };
        Branch { gate: BranchGate::Constant(constant), ..Branch::PRE }
    }

    fn variants() -> Vec<(&'static str, Self)> {
        vec![("branch-scale", Self { rule: BranchRule::SqrtDepth })]
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.rule {
            BranchRule::SqrtDepth => "branch-scale 1/√ℓ",
            BranchRule::SqrtLayers => "branch-scale 1/√L",
            BranchRule::Layers => "branch-scale 1/L",
        })
    }
}
