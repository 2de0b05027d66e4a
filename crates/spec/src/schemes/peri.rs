//! Peri-LN: a sandwich, and a norm on the embedding (arXiv 2502.02732).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Place, Scheme};
use crate::Branch;

/// `sandwich` and a norm on the embedding
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peri {}

impl Scheme for Peri {
    fn branch(&self, _: Place) -> Branch {
        Branch::SANDWICH
    }

    fn variants() -> Vec<(&'static str, Self)> {
        vec![("peri", Self {})]
    }

    fn norms_embedding(&self) -> bool {
        true
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("peri")
    }
}
