//! `study.json`: norm schemes trained on the same tokens in the same order, compared.

use serde::{Deserialize, Serialize};

use crate::DiagnoseRecord;

/// What a study found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StudyRecord {
    /// Name of the preset, or of the study's file.
    pub name: String,
    /// What every run has in common, as (what, value), in the order to be shown: model, text, steps,
    /// batch, learning rate, …
    pub settings: Vec<(String, String)>,
    /// What the groups are compared to: the name of one of them.
    pub baseline: String,
    /// One entry per scheme and initialisation, in the order they were asked for.
    pub groups: Vec<GroupRecord>,
    /// Each other group against the baseline, seed by seed.
    pub pairs: Vec<PairRecord>,
    /// Comparisons of more than a group and the baseline.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contrasts: Vec<ContrastRecord>,
    /// What a setting was tuned to before the seeds that are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuning: Option<TuningRecord>,
    /// Loss of a reader that knows the language's grammar, for the built-in language: nobody can do
    /// better than this, in nats per token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ideal_loss: Option<f64>,
    /// Where `published_perplexity` comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published_source: Option<String>,
    /// The paper's lemmas against these runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub theory: Option<TheoryRecord>,
    /// Runs that are not finished yet.
    pub missing_runs: u64,
    /// What a reader must know before the findings: that the runs were far too short to judge by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caution: Option<String>,
}

/// The runs of one scheme and initialisation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupRecord {
    /// `lns`, `pre + scaled init`, …
    pub name: String,
    /// Finished, or diverged, or not yet: one entry per seed that has events.
    pub runs: Vec<RunRecord>,
    /// Mean over seeds of the runs' final loss, in nats per token; absent when none finished.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<Interval>,
    /// The perplexity e^loss, at the mean of the loss and at both ends of its interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<Interval>,
    /// The paper's perplexity for this scheme at the preset's size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published_perplexity: Option<f64>,
}

/// A mean with its 95 % confidence interval (Student's t over seeds), or alone when one seed gives it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The mean of the sample.
    pub mean: f64,
    /// Lower end; absent with one seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// Upper end; absent with one seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
    /// Number of seeds.
    pub count: u64,
}

impl Interval {
    /// The exponentials of the mean and of both ends: of a loss with its interval, the perplexity with
    /// its own. Between e^low and e^high lies e^mean, which the mean of exponentials need not.
    pub fn exp(self) -> Self {
        Self {
            mean: self.mean.exp(),
            low: self.low.map(f64::exp),
            high: self.high.map(f64::exp),
            count: self.count,
        }
    }
}

/// One training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Folder of the run, relative to the study's.
    pub folder: String,
    /// Seed of weights and order.
    pub seed: u64,
    /// `finished`, `diverged`, `interrupted` or `running`.
    pub outcome: String,
    /// Steps taken.
    pub steps: u64,
    /// Tokens predicted in training.
    pub tokens: u64,
    /// Held-out loss at the end, in nats per token; absent unless the run finished.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Held-out loss over the run.
    pub curve: Vec<CurvePoint>,
    /// Variance of each layer's output over the run, at each step where it was measured: (step, the
    /// stream before layer 0, …, after the last).
    pub variance: Vec<(u64, Vec<f64>)>,
    /// What the models that were kept along the way do with their layers, by step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub along: Vec<AlongRecord>,
    /// The finished model's diagnosis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diagnosis: Option<Box<DiagnoseRecord>>,
}

/// What a model in training does with its layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlongRecord {
    /// Steps taken.
    pub step: u64,
    /// Tokens predicted in training.
    pub tokens: u64,
    /// Loss on the text of the diagnosis, in nats per token.
    pub loss: f64,
    /// See [`VerdictRecord::effective_depth`](crate::VerdictRecord::effective_depth).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_depth: Option<f64>,
    /// Number of idle layers; absent where removal was not measured or there were too few windows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_layers: Option<u64>,
    /// The median content token's variance before layer 0, …, after the last layer.
    pub variance: Vec<f64>,
    /// Rise of the loss when a layer is removed, in nats per token; empty where it was not measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removal: Vec<f64>,
}

impl AlongRecord {
    /// The few numbers of `diagnosis` that a line over training is drawn from; `None` of a model without a
    /// loss.
    pub fn of(diagnosis: &DiagnoseRecord, step: u64, tokens: u64) -> Option<Self> {
        let removal = diagnosis.layers.iter().map(|layer| Some(layer.removal?.delta_nll));
        let verdict = &diagnosis.verdict;
        let idle = verdict.idle_threshold.map(|_| verdict.idle_layers.len() as u64);
        Some(Self {
            step,
            tokens,
            loss: diagnosis.baseline.as_ref()?.nll,
            effective_depth: verdict.effective_depth,
            idle_layers: idle,
            variance: diagnosis.stream.iter().map(crate::StreamRecord::typical).collect(),
            removal: removal.collect::<Option<_>>().unwrap_or_default(),
        })
    }
}

/// An evaluation on held-out text.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Steps taken.
    pub step: u64,
    /// Tokens predicted in training.
    pub tokens: u64,
    /// Held-out loss, in nats per token.
    pub loss: f64,
}

/// A group against the baseline, over the seeds both have finished.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairRecord {
    /// The group.
    pub name: String,
    /// Loss of the group minus loss of the baseline, in nats per token: below 0 the group is better.
    pub difference: Interval,
    /// The difference for each seed.
    pub differences: Vec<(u64, f64)>,
    /// Whether this pair is the noise probe: the scale before the norm, which changes nothing but
    /// rounding, so its difference is what chance alone does.
    pub noise_probe: bool,
}

/// A weighted sum of groups' losses, taken within each seed that all of them have finished.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContrastRecord {
    /// What it is called.
    pub name: String,
    /// Weight of each group's loss.
    pub weights: Vec<(String, f64)>,
    /// Whether a claim rests on it.
    pub primary: bool,
    /// Over the seeds, in nats per token.
    pub estimate: Interval,
    /// The value for each seed.
    pub by_seed: Vec<(u64, f64)>,
    /// Of Student's t test that it is 0, two-sided; absent with one seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p: Option<f64>,
    /// Of a primary contrast, `p` after Holm's correction for the primary contrasts of the plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p_holm: Option<f64>,
    /// Whether it is inside a margin that was named beforehand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equivalence: Option<EquivalenceRecord>,
}

impl ContrastRecord {
    /// At which a test decides.
    pub const LEVEL: f64 = 0.05;

    /// Whether it differs from 0, a primary one after correction; undecided where there is no test.
    pub fn differs(&self) -> bool {
        let p = if self.primary { self.p_holm } else { self.p };
        p.is_some_and(|p| p < Self::LEVEL)
    }

    /// Whether both one-sided tests place it inside the margin.
    pub fn is_equivalent(&self) -> bool {
        let p = self.equivalence.as_ref().and_then(|found| found.p);
        p.is_some_and(|p| p < Self::LEVEL)
    }
}

/// Two one-sided tests that a contrast lies between −margin and +margin.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EquivalenceRecord {
    /// In nats per token.
    pub margin: f64,
    /// The larger of the two p-values; absent with one seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p: Option<f64>,
}

/// A setting that was tuned for each group on a seed of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TuningRecord {
    /// As `--set` names it: `schedule.learning_rate`.
    pub setting: String,
    /// The seed that it was tuned on.
    pub seed: u64,
    /// In the order of the study's groups.
    pub groups: Vec<TunedGroupRecord>,
}

/// What a setting was tuned to for one group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TunedGroupRecord {
    /// The group.
    pub name: String,
    /// Values that were tried, rising, each with its held-out loss in nats per token; none where the run
    /// diverged.
    pub tried: Vec<(f64, Option<f64>)>,
    /// The value that the group's seeds were run with: that of the lowest loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best: Option<f64>,
    /// Whether it is the smallest or largest that was tried, so that a better one may lie beyond.
    pub at_edge: bool,
    /// Whether no value is left to be tried.
    pub finished: bool,
}

/// The paper's statements on variance and gradients beside what was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TheoryRecord {
    /// One row per statement and scheme.
    pub checks: Vec<TheoryCheck>,
    /// Variance against depth.
    pub curves: Vec<TheoryCurve>,
}

/// A statement and what was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TheoryCheck {
    /// Where it is stated: `Lemma 3.2`, `eq. 52`, …
    pub source: String,
    /// Scheme it was measured on.
    pub scheme: String,
    /// `initialisation` or `trained`.
    pub when: String,
    /// What was measured, in words.
    pub quantity: String,
    /// What is expected, in words and numbers.
    pub expected: String,
    /// What was found.
    pub measured: f64,
    /// Goodness of the fit, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r_squared: Option<f64>,
    /// Whether the two agree; absent where the statement leaves it open.
    pub agrees: Option<bool>,
}

/// Stream variance by depth of one scheme at one time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TheoryCurve {
    /// The scheme of the model.
    pub scheme: String,
    /// `initialisation` or `trained`.
    pub when: String,
    /// Variance of the stream before layer 0, before layer 1, …, after the last layer.
    pub variance: Vec<f64>,
}

impl StudyRecord {
    /// The file's name in a study's folder.
    pub const FILE_NAME: &str = "study.json";
}
