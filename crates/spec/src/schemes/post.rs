//! Post-LN, N(x + F(x)): the placement of the first transformer (arXiv 1706.03762) and of BERT.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Place, Scheme};
use crate::Branch;

/// N(x + F(x))
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Post {}

impl Scheme for Post {
    fn branch(&self, _: Place) -> Branch {
        Branch::POST
    }

    fn variants() -> Vec<(&'static str, Self)> {
        vec![("post", Self {})]
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("post")
    }
}
