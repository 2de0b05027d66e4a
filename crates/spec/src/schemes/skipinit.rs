//! SkipInit, x + α·F(N(x)) with one learned α for each branch, 1/√L at the start (arXiv 2002.10444; the
//! start is that of arXiv 2502.05795, Table 6).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Place, Scheme};
use crate::{Branch, BranchGate};

/// x + α·F(N(x))
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SkipInit {}

impl Scheme for SkipInit {
    fn branch(&self, place: Place) -> Branch {
        let init = 1.0 / place.count().sqrt();
        Branch { gate: BranchGate::Learned { scalar: true, init }, ..Branch::PRE }
    }

    fn variants() -> Vec<(&'static str, Self)> {
        vec![("skipinit", Self {})]
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("skipinit")
    }
}
