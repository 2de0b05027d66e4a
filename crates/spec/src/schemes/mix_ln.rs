//! Mix-LN: Post-LN in the first ⌊fraction·L⌋ layers, Pre-LN in the rest (arXiv 2412.13795).

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use super::{Place, Scheme};
use crate::Branch;

/// The first ⌊fraction·L⌋ layers `post`, the rest `pre`
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixLn {
    /// Share of Post-LN layers, ¼ in the paper.
    #[serde(default = "quarter", deserialize_with = "unit_interval")]
    pub post_fraction: f64,
}

fn quarter() -> f64 {
    0.25
}

fn unit_interval<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let value = f64::deserialize(deserializer)?;
    if (0.0..=1.0).contains(&value) {
        Ok(value)
    } else {
        Err(serde::de::Error::custom(format!("{value} is not within 0..=1")))
    }
}

impl Scheme for MixLn {
    fn branch(&self, place: Place) -> Branch {
        if place.depth.value() <= (self.post_fraction * place.count()).floor() {
            Branch::POST
        } else {
            Branch::PRE
        }
    }

    fn variants() -> Vec<(&'static str, Self)> {
        vec![("mix-ln", Self { post_fraction: quarter() })]
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mix-ln, first {} of the layers post", self.post_fraction)
    }
}
