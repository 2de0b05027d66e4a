//! `[data]` and `[finetune]`: the text, and the checkpoint that a run goes on from.

use std::path::{Path, PathBuf};

use lns_corpus::Layout;
use lns_model::LoraConfig;
use serde::{Deserialize, Serialize};

use super::ConfigError;
use crate::ranges::{LENGTH, WholeSetting};

/// A prepared text and its share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// Folder of the prepared text.
    pub corpus: PathBuf,
    /// Share of the sequences, relative to the other sources.
    #[serde(default = "one")]
    pub weight: f64,
    /// Which tokens it holds: filled in when the run begins, so that it cannot go on with others.
    #[serde(default)]
    pub fingerprint: String,
}

impl SourceConfig {
    /// The only text.
    pub fn new(corpus: PathBuf) -> Self {
        Self { corpus, weight: one(), fingerprint: String::new() }
    }
}

fn one() -> f64 {
    1.0
}

/// The text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// Prepared texts, of one tokenizer.
    pub sources: Vec<SourceConfig>,
    /// How documents become sequences.
    pub layout: Layout,
    /// Tokens of a sequence.
    pub length: usize,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self { sources: Vec::new(), layout: Layout::Packed, length: 128 }
    }
}

/// A checkpoint whose training is continued.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinetuneConfig {
    /// The checkpoint: a folder, a `.gguf` or a `.safetensors` file.
    pub base: PathBuf,
    /// What it holds: filled in when the run begins, so that it cannot go on from another.
    #[serde(default)]
    pub fingerprint: String,
    /// Train adapters instead of the whole model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
}

/// What its whole numbers may be.
pub(crate) const WHOLE: &[WholeSetting] = &[("data.length", |run| run.data.length as u64, LENGTH)];

/// Refuses a path that the settings of a run cannot hold: they are text.
///
/// # Errors
/// [`ConfigError::NotText`].
pub fn path_in_file(path: &Path) -> Result<(), ConfigError> {
    match path.to_str() {
        Some(_) => Ok(()),
        None => Err(ConfigError::NotText { path: path.to_owned() }),
    }
}
