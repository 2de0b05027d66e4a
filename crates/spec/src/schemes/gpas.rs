//! Gradient-preserving activation scaling (arXiv 2506.22049): after each sum h the stream becomes
//! h − SiLU(a)·stopgrad(h), a one learned number for each layer, 0 at the start. The stream shrinks, the
//! gradient through it does not.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Place, Scheme};
use crate::{Branch, Join};

/// h − SiLU(a)·stopgrad(h) after each sum h = x + F(N(x))
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpas {}

impl Scheme for Gpas {
    fn branch(&self, _: Place) -> Branch {
        Branch { join: Join { damped: true, ..Join::ADD }, ..Branch::PRE }
    }

    fn variants() -> Vec<(&'static str, Self)> {
        vec![("gpas", Self {})]
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("gpas")
    }
}
