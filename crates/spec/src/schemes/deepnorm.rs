//! DeepNorm, N(αx + F(x)) with α = (2L)^¼ and value, output and MLP weights that start (8L)^-¼ times
//! as large (arXiv 2203.00555, Table 2, decoder-only).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Place, Scheme};
use crate::{Branch, Join, Role};

/// N(αx + F(x)), α = (2L)^¼
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeepNorm {}

impl Scheme for DeepNorm {
    fn branch(&self, place: Place) -> Branch {
        let stream_scale = (2.0 * place.count()).powf(0.25);
        Branch { join: Join { stream_scale, ..Join::NORMED }, ..Branch::POST }
    }

    fn variants() -> Vec<(&'static str, Self)> {
        vec![("deepnorm", Self {})]
    }

    fn initial_gain(&self, role: Role, layers: usize) -> f64 {
        match role {
            Role::Value
            | Role::AttentionOutput
            | Role::MlpGate
            | Role::MlpUp
            | Role::MlpDown
            | Role::SharedMlpGate
            | Role::SharedMlpUp
            | Role::SharedMlpDown => (8.0 * layers as f64).powf(-0.25),
            _ => 1.0,
        }
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("deepnorm")
    }
}
