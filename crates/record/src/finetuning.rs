//! `study.json` of a study that fine-tunes finished models on instructions: accuracies on tasks, before and
//! after.

use serde::{Deserialize, Serialize};

use crate::{Interval, TaskDifferenceRecord, TaskRecord};

/// What a study that fine-tunes found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FinetuningRecord {
    /// Name of the study.
    pub name: String,
    /// What every run has in common, as (what, value), in the order to be shown.
    pub settings: Vec<(String, String)>,
    /// The group that the others are compared to.
    pub baseline: String,
    /// How the instruction data are put: `continuation` or `generating`.
    pub format: String,
    /// How the tasks are asked: the same two words.
    pub asked: String,
    /// What is learned from; absent before it is prepared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<InstructionDataRecord>,
    /// The tasks, in the order of the table's columns.
    pub columns: Vec<TaskColumnRecord>,
    /// The models that share a scheme and differ in the seed.
    pub groups: Vec<FinetunedGroupRecord>,
    /// Each other group against the baseline.
    pub pairs: Vec<FinetunedPairRecord>,
    /// Models that are not tuned and scored yet.
    pub missing_runs: u64,
}

impl FinetuningRecord {
    /// At which a test decides.
    pub const LEVEL: f64 = 0.05;
}

/// The instruction data, rebuilt from the tasks' training sets.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct InstructionDataRecord {
    /// In the order in which they were named.
    pub sets: Vec<InstructionSetRecord>,
    /// Examples to learn from, of all sets.
    pub train: u64,
    /// Examples that are held out, of all sets.
    pub held_out: u64,
    /// SHA-256 of the file of those to learn from, in their order.
    pub sha256: String,
}

/// One training set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstructionSetRecord {
    /// Its task.
    pub set: String,
    /// Documents that its files have.
    pub documents: u64,
    /// Examples that say the same as one before them, and are left out.
    pub duplicates: u64,
    /// Examples that are among the questions that are asked, and are left out.
    pub asked: u64,
    /// Examples to learn from.
    pub train: u64,
    /// Examples that are held out.
    pub held_out: u64,
    /// Examples of it in LLM-Adapters' Commonsense170K, if it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commonsense170k: Option<u64>,
}

/// A column of the table: a task and what those reach who do not read the questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskColumnRecord {
    /// The task's name.
    pub task: String,
    /// Documents that were asked.
    pub documents: u64,
    /// Documents that there are.
    pub of: u64,
    /// Documents that no model was asked, because one of them has no room for a choice.
    #[serde(default)]
    pub too_long: u64,
    /// Examples before every question.
    pub shots: u64,
    /// Accuracy of one who always takes the first choice; absent where the right one never moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub always_first: Option<f64>,
    /// Accuracy of one who always takes the same choice, the luckiest; absent as above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub always_same: Option<f64>,
    /// Accuracy of one who guesses; absent where nothing is chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chance: Option<f64>,
}

impl TaskColumnRecord {
    /// The best of those who do not read the questions.
    pub fn floor(&self) -> Option<f64> {
        [self.always_first, self.always_same, self.chance].into_iter().flatten().reduce(f64::max)
    }
}

/// Models that share a scheme, and their rows of the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FinetunedGroupRecord {
    /// The group's name.
    pub name: String,
    /// One for each seed.
    pub runs: Vec<FinetunedRunRecord>,
    /// Before fine-tuning: for each column, and last the mean over them.
    pub before: Vec<CellRecord>,
    /// After it.
    pub after: Vec<CellRecord>,
    /// After minus before.
    pub difference: Vec<CellRecord>,
}

/// A number of the table: an accuracy, or a difference of two.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CellRecord {
    /// The mean over seeds with Student's interval over them; of one seed with the interval over the
    /// task's documents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Interval>,
    /// `seeds` or `documents`: what the interval is over.
    pub over: String,
    /// Of an accuracy: that of some seed is not above what is reached without reading the questions, by an
    /// exact binomial test at 5 %.
    #[serde(default)]
    pub at_floor: bool,
    /// Why there is no number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One model, tuned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FinetunedRunRecord {
    /// The seed that the model was trained with.
    pub seed: u64,
    /// Where the model lies.
    pub model: String,
    /// Folder of the run, relative to the study's.
    pub folder: String,
    /// `finished`, `diverged`, `interrupted`, `running` or `not begun`.
    pub outcome: String,
    /// Steps taken.
    pub steps: u64,
    /// Loss on held-out examples before the first step, in nats per token of a response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_before: Option<f64>,
    /// The same at the end of a finished run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_after: Option<f64>,
    /// Answers of the model as it was, for each column; none where it was not asked yet.
    pub before: Vec<Option<AnswersRecord>>,
    /// Answers of the tuned model.
    pub after: Vec<Option<AnswersRecord>>,
    /// After against before, document by document.
    pub changes: Vec<Option<TaskDifferenceRecord>>,
}

/// A model's answers to a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnswersRecord {
    /// What they come to.
    #[serde(flatten)]
    pub answers: TaskRecord,
    /// The p-value of the exact binomial test that the accuracy is no higher than the column's floor;
    /// absent without an accuracy or a floor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor_p: Option<f64>,
}

/// A group against the baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FinetunedPairRecord {
    /// The group.
    pub name: String,
    /// Accuracy of the group minus that of the baseline, before fine-tuning: for each column, and last the
    /// mean.
    pub before: Vec<CellRecord>,
    /// The same after it.
    pub after: Vec<CellRecord>,
    /// Seed by seed, paired by document.
    pub seeds: Vec<PairedSeedRecord>,
}

/// Two models of one seed, document by document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairedSeedRecord {
    /// The seed.
    pub seed: u64,
    /// Before fine-tuning, for each column.
    pub before: Vec<Option<TaskDifferenceRecord>>,
    /// After it.
    pub after: Vec<Option<TaskDifferenceRecord>>,
}
