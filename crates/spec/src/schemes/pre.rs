//! Pre-LN, x + F(N(x)): the placement of GPT-2, Llama and most that came after.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Place, Scheme};
use crate::Branch;

/// x + F(N(x))
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pre {}

impl Scheme for Pre {
    fn branch(&self, _: Place) -> Branch {
        Branch::PRE
    }

    fn variants() -> Vec<(&'static str, Self)> {
        vec![("pre", Self {})]
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("pre")
    }
}
