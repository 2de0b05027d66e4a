//! `[data]` and `[finetune]`: the text, and the checkpoint that a run goes on from.

use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use lns_corpus::Layout;
use lns_kernels::{DistillationTerms, Precision};
use lns_model::LoraConfig;
use serde::{Deserialize, Serialize};

use super::{ConfigError, RunConfig};
use crate::ranges::{LENGTH, Real, RealSetting, WholeSetting};

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
    /// Learn from the predictions of another model too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<TeacherConfig>,
}

impl FinetuneConfig {
    /// All of a checkpoint, from the text alone.
    pub fn of(base: PathBuf) -> Self {
        Self { base, fingerprint: String::new(), lora: None, teacher: None }
    }
}

/// A model whose predictions are learned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeacherConfig {
    /// The model: a folder, a `.gguf` or a `.safetensors` file, of the same vocabulary.
    pub model: PathBuf,
    /// What it holds: filled in when the run begins, so that it cannot go on with another.
    #[serde(default)]
    pub fingerprint: String,
    /// Its share of the objective; the text has the rest.
    #[serde(default = "weight")]
    pub weight: f64,
    /// Both models' logits are divided by it before they are compared.
    #[serde(default = "temperature")]
    pub temperature: f64,
    /// Precision of its matrix products; its weights are as its file holds them.
    #[serde(default, with = "super::precision")]
    pub precision: Precision,
}

impl TeacherConfig {
    /// Temperatures: outside of these a prediction is all on one token or the same on all, in f32.
    pub const TEMPERATURE: RangeInclusive<f64> = 0.01..=100.0;
    /// The weight of a teacher without one being set: half. A pruned model is seldom healed on the text that
    /// its teacher was trained on; there the teacher alone holds it to what the teacher does not know of that
    /// text, and the text alone lets go of what the teacher knows of everything else.
    pub const WEIGHT: f64 = 0.5;

    /// With the usual weight and temperature.
    pub fn of(model: PathBuf) -> Self {
        Self {
            model,
            fingerprint: String::new(),
            weight: weight(),
            temperature: temperature(),
            precision: Precision::F32,
        }
    }

    /// How it counts.
    pub fn terms(&self) -> DistillationTerms {
        DistillationTerms { weight: self.weight, temperature: self.temperature }
    }
}

const fn weight() -> f64 {
    TeacherConfig::WEIGHT
}

const fn temperature() -> f64 {
    1.0
}

/// What its whole numbers may be.
pub(crate) const WHOLE: &[WholeSetting] = &[("data.length", |run| run.data.length as u64, LENGTH)];

/// What its other numbers may be.
pub(crate) const REAL: &[RealSetting] = &[
    ("finetune.teacher.weight", |run| of_teacher(run, |teacher| teacher.weight), Real::Share),
    (
        "finetune.teacher.temperature",
        |run| of_teacher(run, |teacher| teacher.temperature),
        Real::Temperature,
    ),
];

/// A number of the teacher, 1 without one.
fn of_teacher(run: &RunConfig, number: fn(&TeacherConfig) -> f64) -> f64 {
    run.finetune.as_ref().and_then(|from| from.teacher.as_ref()).map_or(1.0, number)
}

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
