//! KEEL, N(αx + F(N(x))) with the first layer Pre-LN (arXiv 2601.19895): a Post-LN block whose stream
//! outweighs its branch, so that gradients reach the first layers.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use super::{Place, Scheme};
use crate::{Branch, Join};

/// N(αx + F(N(x))), the first layer `pre`
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keel {
    /// α; without it the number of layers L.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "alpha")]
    pub alpha: Option<f64>,
}

fn alpha<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let value = f64::deserialize(deserializer)?;
    if value > 0.0 && value <= 1e4 {
        Ok(Some(value))
    } else {
        Err(serde::de::Error::custom(format!("{value} is not a number above 0, at most 10000")))
    }
}

impl Scheme for Keel {
    fn branch(&self, place: Place) -> Branch {
        if place.depth.get() == 1 {
            return Branch::PRE;
        }
        let stream_scale = self.alpha.unwrap_or(place.count());
        Branch { join: Join { stream_scale, ..Join::NORMED }, ..Branch::PRE }
    }

    fn variants() -> Vec<(&'static str, Self)> {
        vec![("keel", Self { alpha: None })]
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("keel")?;
        self.alpha.map_or(Ok(()), |alpha| write!(f, ", α {alpha}"))
    }
}
