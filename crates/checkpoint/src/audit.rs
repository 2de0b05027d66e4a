//! What a checkpoint holds against what its specification says it must hold.

use std::collections::HashMap;
use std::fmt;

use lns_spec::{ModelSpec, Role, StoredTensor, TensorId};
use serde_json::Value;

use crate::{StorageType, TensorInfo};

/// How many names of a kind a message lists before it only counts the rest.
const SHOWN: usize = 8;

/// Differences between a checkpoint's tensors and its specification's.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TensorAudit {
    /// Tensors the model needs and the files lack.
    pub missing: Vec<StoredTensor>,
    /// Tensors in the files that the model has no place for.
    pub unexpected: Vec<String>,
    /// Tensors of another shape than the model's.
    pub misshapen: Vec<Misshapen>,
    /// Tensors the model needs, of a type that is not read.
    pub unreadable: Vec<(String, StorageType)>,
}

/// A tensor of another shape than the model's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misshapen {
    /// Its name.
    pub name: String,
    /// What the model needs.
    pub expected: Vec<usize>,
    /// What the file holds.
    pub found: Vec<usize>,
}

impl TensorAudit {
    /// `plain`: tensors are as llama.cpp's converter has them, whatever the family's folders have.
    pub(crate) fn new<'a>(
        spec: &ModelSpec,
        plain: bool,
        tensors: impl Iterator<Item = &'a TensorInfo>,
    ) -> Self {
        let mut present: HashMap<&str, &TensorInfo> =
            tensors.map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let mut audit = Self::default();
        let wanted = if plain { spec.stored_in_gguf() } else { spec.stored_tensors() };
        for expected in wanted {
            let Some(found) = present.remove(expected.name.as_str()) else {
                audit.missing.push(expected);
                continue;
            };
            if found.dtype.block().is_none() {
                audit.unreadable.push((expected.name.clone(), found.dtype));
            }
            let StoredTensor { name, shape: expected, .. } = expected;
            if found.shape != expected {
                audit.misshapen.push(Misshapen { name, expected, found: found.shape.clone() });
            }
        }
        // An untied head is expected, so one that is left here is a copy of a tied one.
        let head = spec.family.stored_name(TensorId::outer(Role::Head));
        // Masks and frequencies that older files keep are made anew.
        let kept = [
            ".rotary_emb.inv_freq",
            ".attn.bias",
            ".attn.masked_bias",
            ".attention.bias",
            ".attention.masked_bias",
            ".position_ids",
            // A copy of the bias beside it.
            ".predictions.decoder.bias",
        ];
        let harmless = |name: &str| {
            name == head
                || kept.iter().any(|end| name.ends_with(end))
                || predicts_further(spec, name)
        };
        audit.unexpected =
            present.into_keys().filter(|name| !harmless(name)).map(str::to_owned).collect();
        audit.unexpected.sort_unstable();
        audit
    }

    /// Whether every tensor is there, readable and in shape, and nothing else is.
    pub fn is_clean(&self) -> bool {
        self.missing.is_empty()
            && self.unexpected.is_empty()
            && self.misshapen.is_empty()
            && self.unreadable.is_empty()
    }
}

/// Whether a tensor is of a layer after the last, of which `config.json` says that it predicts tokens after
/// the next one (DeepSeek-V3, arXiv 2412.19437, §2.2): the model computes the same without it.
fn predicts_further(spec: &ModelSpec, name: &str) -> bool {
    let further = spec.other_keys.get("num_nextn_predict_layers").and_then(Value::as_u64);
    let first = spec.num_hidden_layers as u64;
    let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next());
    layer
        .and_then(|layer| layer.parse::<u64>().ok())
        .is_some_and(|layer| layer >= first && layer - first < further.unwrap_or(0))
}

impl fmt::Display for TensorAudit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_clean() {
            return f.write_str("all tensors are as the model needs them");
        }
        let missing =
            self.missing.iter().map(|tensor| format!("{:?} {:?}", tensor.name, tensor.shape));
        let unexpected = self.unexpected.iter().map(|name| format!("{name:?}"));
        let misshapen = self.misshapen.iter().map(|tensor| {
            format!("{:?} is {:?}, needs {:?}", tensor.name, tensor.found, tensor.expected)
        });
        let unreadable = self.unreadable.iter().map(|(name, dtype)| format!("{name:?} is {dtype}"));
        let mut separator = "";
        for (kind, mut names) in [
            ("missing", missing.collect::<Vec<_>>()),
            ("unexpected", unexpected.collect()),
            ("misshapen", misshapen.collect()),
            ("of a type that is not read", unreadable.collect()),
        ] {
            if names.is_empty() {
                continue;
            }
            let count = names.len();
            names.truncate(SHOWN);
            write!(f, "{separator}{count} {kind}: {}", names.join(", "))?;
            if count > SHOWN {
                write!(f, " and {} more", count - SHOWN)?;
            }
            separator = "; ";
        }
        let heads =
            |name: &String| name.ends_with("q_norm.weight") || name.ends_with("k_norm.weight");
        if !self.unexpected.is_empty() && self.unexpected.iter().all(heads) {
            f.write_str(
                "; these are norms on the heads of q and k, which lns wrote into a llama's folder up to \
                 2026-11: let `model_type` in its config.json be qwen3 instead of llama, or lns_qwen3 \
                 instead of lns_llama",
            )?;
        }
        Ok(())
    }
}
