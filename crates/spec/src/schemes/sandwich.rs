//! Sandwich-LN, x + N₂(F(N₁(x))) (arXiv 2105.13290).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Place, Scheme};
use crate::Branch;

/// x + N₂(F(N₁(x)))
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sandwich {}

impl Scheme for Sandwich {
    fn branch(&self, _: Place) -> Branch {
        Branch::SANDWICH
    }

    fn variants() -> Vec<(&'static str, Self)> {
        vec![("sandwich", Self {})]
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sandwich")
    }
}
