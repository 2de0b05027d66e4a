//! What is told of a model that cannot be opened because it is not supported.

use std::path::Path;

use lns_spec::stranger::{Naming, Nearest, faults, nearest, of_family, unread_keys};
use lns_spec::{Family, SpecError};
use serde_json::Value;

use crate::map::FileMap;
use crate::{CheckpointError, gguf, safetensors_folder};

/// A model that is not supported, as far as its files can be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Stranger {
    /// Its `model_type`, or the architecture of a GGUF file; empty if it says none.
    pub model_type: String,
    /// Whether its own family is supported.
    pub is_known: bool,
    /// What its own family refuses, and the way in which its weights are stored if that is not read.
    pub refused: Vec<String>,
    /// The nearest family, if its own is not supported and some is near.
    pub nearest: Option<NearestFamily>,
}

/// The supported family that a model is nearest to, and what it would take.
#[derive(Debug, Clone, PartialEq)]
pub struct NearestFamily {
    /// Which, what it was found by, and which tensors differ.
    pub found: Nearest,
    /// What that family would refuse of the model's keys.
    pub refused: Vec<String>,
    /// Keys that it would pass over and that may mean something.
    pub unread_keys: Vec<String>,
}

impl Stranger {
    /// What stops the model whose opening failed with `error`; `None` if that is not what the model is, but a
    /// file that is absent or broken.
    ///
    /// # Errors
    /// Any [`CheckpointError`] of reading the files again.
    pub fn of(path: &Path, error: &CheckpointError) -> Result<Option<Self>, CheckpointError> {
        match error {
            CheckpointError::Spec { error: SpecError::NotJson { .. }, .. } => Ok(None),
            CheckpointError::GgufArchitecture { .. }
            | CheckpointError::GgufUnsupported { .. }
            | CheckpointError::GgufKey { .. }
            | CheckpointError::GgufMissingKey { .. } => of_gguf(path, error).map(Some),
            CheckpointError::Spec { .. } | CheckpointError::Quantisation { .. } => {
                if path.extension().is_some_and(|extension| extension == "gguf") {
                    of_gguf(path, error).map(Some)
                } else {
                    of_folder(path).map(Some)
                }
            }
            _ => Ok(None),
        }
    }
}

fn of_folder(path: &Path) -> Result<Stranger, CheckpointError> {
    let (mut config, names) = safetensors_folder::survey(path)?;
    let quantisation = safetensors_folder::take_quantisation(path, &mut config);
    let mut refused: Vec<String> = quantisation.err().iter().map(ToString::to_string).collect();
    let found = faults(&config);
    let model_type = |config: &Value| {
        config.get("model_type").and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let own = model_type(&config);
    if !matches!(found[..], [SpecError::UnknownArchitecture { .. }] | [SpecError::Missing { .. }])
        || Family::named(&own).is_some()
    {
        refused.extend(found.iter().map(ToString::to_string));
        return Ok(Stranger { model_type: own, is_known: true, refused, nearest: None });
    }
    let inner = config.get("text_config").map(model_type).filter(|inner| !inner.is_empty());
    let called = inner.as_ref().unwrap_or(&own);
    let found = nearest(&names, Naming::HuggingFace, &config, called);
    let nearest = found.map(|found| NearestFamily {
        refused: faults(&of_family(&config, found.family))
            .iter()
            .map(ToString::to_string)
            .collect(),
        unread_keys: unread_keys(&config, found.family),
        found,
    });
    Ok(Stranger { model_type: own, is_known: false, refused, nearest })
}

fn of_gguf(path: &Path, error: &CheckpointError) -> Result<Stranger, CheckpointError> {
    let map = FileMap::open(path)?;
    let survey = gguf::survey(path, map.bytes())?;
    let model_type = survey.architecture.to_owned();
    let place = format!("{}: ", path.display());
    let told = |error: &CheckpointError| {
        let text = error.to_string();
        text.strip_prefix(&place).unwrap_or(&text).to_owned()
    };
    if let Some((family, own)) = survey.family() {
        let mut refused: Vec<String> = survey.refusals(family, own).iter().map(told).collect();
        let first = told(error);
        if !refused.contains(&first) {
            refused.push(first);
        }
        return Ok(Stranger { model_type, is_known: true, refused, nearest: None });
    }
    let found = nearest(&survey.names, Naming::Gguf, &Value::Null, &model_type);
    let nearest = found.and_then(|found| {
        let gguf = found.family.gguf()?;
        Some(NearestFamily {
            refused: survey.refusals(found.family, gguf).iter().map(told).collect(),
            unread_keys: survey.unread_keys(gguf),
            found,
        })
    });
    Ok(Stranger { model_type, is_known: false, refused: Vec::new(), nearest })
}
