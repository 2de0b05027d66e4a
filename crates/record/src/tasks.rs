//! `eval --tasks --json` and the lines of `--samples`.

use serde::{Deserialize, Serialize};

/// `eval --tasks --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TasksRecord {
    /// The model as it was named on the command line.
    pub model: String,
    /// In the order in which they were asked for.
    pub tasks: Vec<TaskRecord>,
    /// Wall-clock seconds of scoring.
    pub seconds: f64,
}

impl TasksRecord {
    /// Reads what `lns eval --tasks --json` printed: of one model, or of several that were asked at once.
    /// `None` where `bytes` are something else.
    pub fn read_all(bytes: &[u8]) -> Option<Vec<Self>> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Printed {
            One(TasksRecord),
            Several(Vec<TasksRecord>),
        }
        match serde_json::from_slice(bytes).ok()? {
            Printed::One(record) => Some(vec![record]),
            Printed::Several(records) => (!records.is_empty()).then_some(records),
        }
    }
}

/// What a model's answers to a task come to. An accuracy is absent where it means nothing: the task does
/// not have it, a score is not a finite number, or the best choices tie in more than 1 % of the documents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// Its name.
    pub task: String,
    /// Documents that were scored.
    pub documents: u64,
    /// Documents that there are.
    pub of: u64,
    /// Examples before every question.
    pub shots: u64,
    /// Share of documents whose likeliest choice is right (of one continuation: is what the model would say).
    pub acc: Option<f64>,
    /// Standard error of `acc`; absent with fewer than two documents.
    pub acc_stderr: Option<f64>,
    /// The same, log-likelihoods divided by the choices' characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acc_norm: Option<f64>,
    /// Standard error of `acc_norm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acc_norm_stderr: Option<f64>,
    /// Mean of the groups' accuracies, each counting alike; absent where there are no groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acc_by_group: Option<f64>,
    /// e to the mean loss of the continuation, where there is one for each document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<f64>,
    /// Accuracy of one who always takes the first choice; absent where the right one never moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub always_first: Option<f64>,
    /// Accuracy of one who guesses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chance: Option<f64>,
    /// Documents of which two different choices have the best sum.
    pub tied: u64,
    /// The same for sums divided by characters.
    pub tied_norm: u64,
    /// Documents with a score that is not a finite number.
    pub not_finite: u64,
    /// Documents of which a context lost its beginning, being longer than the window.
    pub truncated: u64,
    /// Subjects or phenomena, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<TaskGroupRecord>,
    /// Against the first of several models.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<TaskDifferenceRecord>,
}

/// A part of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskGroupRecord {
    /// Its name.
    pub group: String,
    /// Documents that were scored.
    pub documents: u64,
    /// As the task's.
    pub acc: Option<f64>,
    /// As the task's.
    pub acc_stderr: Option<f64>,
}

/// A model against another on the same documents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskDifferenceRecord {
    /// `acc` or `acc_norm`.
    pub metric: String,
    /// Mean over documents of this model's 0 or 1 minus the first's.
    pub difference: f64,
    /// Its standard error, paired by document.
    pub stderr: Option<f64>,
    /// Lower end of its 95 % confidence interval.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
    /// Documents that only the first model has right.
    pub only_first: u64,
    /// Documents that only this model has right.
    pub only_second: u64,
    /// Exact McNemar test that neither is better, two-sided.
    pub mcnemar_p: f64,
}

/// A task in `diagnose.json`: the whole model's answers, and how its layers' costs in them compare with
/// those in loss. What each layer costs stands with the layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskRemovalRecord {
    /// The whole model's answers.
    #[serde(flatten)]
    pub answers: TaskRecord,
    /// Mean over documents of the right answer's Σ log p, in nats; absent where one is not a finite
    /// number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gold_logprob: Option<f64>,
    /// Standard error of `gold_logprob`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gold_logprob_stderr: Option<f64>,
    /// For each measure, where removal was measured in loss too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub against_loss: Vec<AgainstLossRecord>,
}

/// Whether layers that are cheap in loss are cheap by a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgainstLossRecord {
    /// `gold`, `acc` or `acc_norm`.
    pub measure: String,
    /// Spearman's rank correlation over layers of the cost by the task and the cost in loss.
    pub rank_correlation: f64,
    /// Lower end of its 95 % confidence interval, the layers being taken for a sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// Upper end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
    /// Layers of which both costs were measured.
    pub layers: u64,
    /// The quarter of the layers that costs least in loss.
    pub cheapest_by_loss: Vec<usize>,
    /// As many layers that cost least by the task.
    pub cheapest_by_task: Vec<usize>,
}

/// What a task loses without a layer. A cost is absent where one of the accuracies means nothing, or a
/// score is not a finite number.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskCostRecord {
    /// Of the right answer's Σ log p, in nats per document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gold: Option<CostRecord>,
    /// Of `acc`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acc: Option<CostRecord>,
    /// Of `acc_norm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acc_norm: Option<CostRecord>,
}

/// A mean over documents of what the whole model has more.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CostRecord {
    /// With the layer minus without it; above 0 means that the layer helps.
    pub drop: f64,
    /// Standard error, paired by document; absent with fewer than two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<f64>,
    /// Half the 95 % confidence interval (Student's t).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
}

/// A line of `--samples`: one document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampleRecord {
    /// The model, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The task's name.
    pub task: String,
    /// The document's number in the data set, from 0.
    pub doc_id: u64,
    /// Its subject or phenomenon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Its choices in order.
    pub choices: Vec<ChoiceRecord>,
    /// Which one is right, from 0.
    pub gold: u64,
    /// 1 if it was chosen by sum; null where a score is not finite.
    pub acc: Option<u8>,
    /// 1 if it was chosen by sum over characters.
    pub acc_norm: Option<u8>,
}

/// What a model gave a choice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChoiceRecord {
    /// Σ log p of its tokens, in nats; null where that is not a finite number.
    pub logprob: Option<f64>,
    /// Its tokens.
    pub tokens: u64,
    /// Its characters, without the space before it.
    pub characters: u64,
    /// Whether each token is the likeliest where it stands.
    pub greedy: bool,
}
