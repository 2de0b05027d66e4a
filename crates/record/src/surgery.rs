//! What surgery leaves beside a model: where it came from, and the plan of a pruning.

use std::path::{Path, PathBuf};

use lns_spec::Removal;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{RecordError, SMALL_FILE, read_regular};

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Its name in the model's folder.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its sha256, in hexadecimal digits.
    pub sha256: String,
}

/// `lns-provenance.json`: how a model was made from another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProvenanceRecord {
    /// The verb: `retrofit`, `fold`, `unfold`, `prune`, `export`, `finetune`.
    pub verb: String,
    /// Version of this program.
    pub version: String,
    /// The options of the verb, all resolved.
    pub options: Value,
    /// What was measured when it was made, if anything was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<Value>,
    /// What the model is now.
    pub model: String,
    /// The source's path as it was given.
    pub source: String,
    /// What the source was.
    pub source_model: String,
    /// The source's weights and config.
    pub source_files: Vec<FileRecord>,
    /// How the source was made, if it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Box<ProvenanceRecord>>,
}

impl ProvenanceRecord {
    /// The file's name in a model's folder.
    pub const FILE_NAME: &str = "lns-provenance.json";

    /// Where earlier versions put the record of a model that is one file.
    pub fn beside(file: &Path) -> PathBuf {
        let mut name = file.as_os_str().to_owned();
        name.push(format!(".{}", Self::FILE_NAME));
        name.into()
    }

    /// The record at `path`; `None` if there is none that can be read.
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&read_regular(path, SMALL_FILE).ok()?).ok()
    }

    /// The record that a text is; `None` if it is none.
    pub fn from_json(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// One step of a pruning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PruneStep {
    /// What went, by its index in the model before any pruning.
    pub removal: Removal,
    /// The rule's number for it when it was chosen: nats per token for a measured removal, what a task
    /// loses (nats per document, or a share of accuracy), an angle over π, an influence. Absent where the
    /// rule has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Standard error of a measured `score` over windows or documents; absent with fewer than two, and in plans of
    /// earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score_stderr: Option<f64>,
    /// Loss on the text with this and everything before it removed, in nats per token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nll: Option<f64>,
    /// Standard error over windows of the paired difference of `nll` and the plan's `baseline_nll`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rise_stderr: Option<f64>,
}

/// A pruning, to be done again: `prune.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PrunePlan {
    /// Always [`PrunePlan::FORMAT`].
    pub format: String,
    /// What the model is, for people.
    pub model: String,
    /// The model's fingerprint: the plan is for no other.
    pub fingerprint: String,
    /// How the steps were chosen: `removal`, `task`, `angular`, `influence`, `deepest` or `given`.
    pub rule: String,
    /// Of the rule `task`: its name and the measure, `piqa, gold`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Loss on the text before the first step, if one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline_nll: Option<f64>,
    /// What goes, in this order.
    pub steps: Vec<PruneStep>,
}

impl PrunePlan {
    /// The file's name in the folder of a pruned model.
    pub const FILE_NAME: &str = "prune.json";
    /// Version of the format.
    pub const FORMAT: &str = "lns-prune-plan-1";

    /// Reads a plan.
    ///
    /// # Errors
    /// [`RecordError`], naming the file.
    pub fn read(path: &Path) -> Result<Self, RecordError> {
        let invalid = |what: String| RecordError::Inconsistent { path: path.to_owned(), what };
        let text = read_regular(path, SMALL_FILE)
            .map_err(|source| RecordError::Io { path: path.to_owned(), source })?;
        let plan: Self = serde_json::from_slice(&text)
            .map_err(|error| invalid(format!("not a plan of `lns prune`: {error}")))?;
        if plan.format != Self::FORMAT {
            return Err(invalid(format!(
                "its format is {:?}, not {:?}",
                plan.format,
                Self::FORMAT
            )));
        }
        Ok(plan)
    }

    /// Everything that the plan removes.
    pub fn removals(&self) -> Vec<Removal> {
        self.steps.iter().map(|step| step.removal).collect()
    }
}
