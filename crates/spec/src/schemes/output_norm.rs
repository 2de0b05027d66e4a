//! Norms on the branches' outputs only, x + N(F(x)): OLMo 2's placement (arXiv 2501.00656, §3.1).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Place, Scheme};
use crate::Branch;

/// x + N(F(x))
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputNorm {}

impl Scheme for OutputNorm {
    fn branch(&self, _: Place) -> Branch {
        Branch { input_norm: None, ..Branch::SANDWICH }
    }

    fn variants() -> Vec<(&'static str, Self)> {
        vec![("output-norm", Self {})]
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("output-norm")
    }
}
