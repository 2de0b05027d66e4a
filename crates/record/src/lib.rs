//! The JSON that one verb writes and another reads.
//!
//! Field names are a contract with other programs: fields may be added, not renamed. A probe that
//! was not run leaves its fields absent. Losses are in nats per token; layers and stream indices are
//! 0-based: `stream[i]` enters layer i, `stream[L]` leaves the last layer, before the final norm.

mod claim;
mod description;
mod diagnosis;
mod digest;
mod events;
mod finetuning;
mod heavy;
mod read;
mod study;
mod surgery;
mod tasks;
mod write;

use serde::{Deserialize, Serialize};

pub use claim::{Claim, ClaimError, FolderKind, FolderMarker, refuse_sources};
pub use description::{
    Axis, ChartDescription, ChartScale, ColumnDescription, Format, Group, LineDescription, Numbers,
    ProbeDescription, Quantity, SeriesDescription,
};
pub use diagnosis::{
    BaselineRecord, BlockRecord, DiagnoseRecord, EstimateRecord, GrowthModel, LayerRecord,
    LensRecord, ProbeRecord, RecordError, RemovalRecord, StreamRecord, TextRecord, VarianceGrowth,
    VerdictRecord,
};
pub use digest::{file_sha256, sha256};
pub use events::{
    EvalEvent, Event, EventsError, LayersEvent, Outcome, StartEvent, StepEvent, read_events,
};
pub use finetuning::{
    AnswersRecord, CellRecord, FinetunedGroupRecord, FinetunedPairRecord, FinetunedRunRecord,
    FinetuningRecord, InstructionDataRecord, InstructionSetRecord, PairedSeedRecord,
    TaskColumnRecord,
};
pub use heavy::{HeavyKind, HeavyToken};
pub use read::{SMALL_FILE, open_regular, read_regular, read_regular_text, regular};
pub use study::{
    AlongRecord, ContrastRecord, CurvePoint, EquivalenceRecord, GroupRecord, Interval, PairRecord,
    RunRecord, StudyRecord, TheoryCheck, TheoryCurve, TheoryRecord, TunedGroupRecord, TuningRecord,
};
pub use surgery::{FileRecord, ProvenanceRecord, PrunePlan, PruneStep};
pub use tasks::{
    AgainstLossRecord, ChoiceRecord, CostRecord, SampleRecord, TaskCostRecord,
    TaskDifferenceRecord, TaskGroupRecord, TaskRecord, TaskRemovalRecord, TasksRecord,
};
pub use write::{Existing, NewFile, NewFolder, pretty_json, remove_unfinished, replace_file};

/// `bench --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BenchRecord {
    /// Matrix-product peak of all threads, measured in the same run.
    pub peak_gflops: f64,
    /// Worker threads.
    pub threads: u64,
    /// Vector instructions of the CPU's loops and products; absent on other devices and in records of
    /// earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instruction_set: Option<String>,
    /// Cores that other programs kept busy meanwhile, where the system says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy_elsewhere: Option<f64>,
    /// What was measured, a workload in a mode each.
    pub workloads: Vec<BenchResult>,
    /// The norm against memory, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub norm: Option<NormRecord>,
}

/// One workload in one mode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BenchResult {
    /// Name of the workload.
    pub name: String,
    /// `train`, `forward`, `prefill` or `decode`.
    pub mode: String,
    /// Tokens over the median time of a step.
    pub tokens_per_second: f64,
    /// Half of the range that holds the middle half of the steps' times, as a share of their median.
    #[serde(default)]
    pub spread: f64,
    /// Counted as 6 × parameters outside the embedding + 12·L·T·H per token, a third of it for
    /// forward.
    pub gflops: f64,
    /// `gflops` over `peak_gflops`.
    pub share_of_peak: f64,
    /// Peak resident memory of the process during this workload, where the system says; what earlier
    /// workloads left with the process counts too.
    pub peak_rss_bytes: Option<u64>,
    /// Steps measured.
    pub steps: u64,
    /// Losses of the first steps, if they were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<f64>,
}

/// The RMS norm's forward and backward beside a copy of the same memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NormRecord {
    /// GB/s of a copy, bytes read and written.
    pub copy_gigabytes_per_second: f64,
    /// GB/s of forward and backward: five passes over the tensor.
    pub norm_gigabytes_per_second: f64,
    /// Time with LNS's scale over time without: the median of the rounds.
    pub lns_over_plain: f64,
    /// The least and the greatest ratio of a round: where 1 lies between them, the ratio says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lns_over_plain_range: Option<(f64, f64)>,
}

/// `eval --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalRecord {
    /// The model as it was named on the command line.
    pub model: String,
    /// Tokens predicted: every token of a window but its first; of a model of masked tokens, those masked.
    pub tokens: u64,
    /// Bytes of text those tokens stand for.
    pub bytes: u64,
    /// Mean negative log-likelihood per predicted token, in nats.
    pub nll: f64,
    /// The perplexity e^nll.
    pub perplexity: f64,
    /// Total nll in bits, divided by `bytes`; absent when the bytes are not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits_per_byte: Option<f64>,
    /// Standard error of `nll` over windows; absent with fewer than two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nll_stderr: Option<f64>,
    /// Windows the text was cut into.
    pub windows: u64,
    /// Tokens per window.
    pub window_len: u64,
    /// How the predicted tokens were chosen, by a model of masked tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masking: Option<MaskingRecord>,
    /// Wall-clock seconds, without loading a model that is in memory, with reading one layer by layer.
    pub seconds: f64,
    /// Against the first of several models on the same tokens, window by window; absent for the
    /// first, and where the models cut the text into different tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difference: Option<DifferenceRecord>,
}

/// How the tokens were chosen that a model of masked tokens predicts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MaskingRecord {
    /// Share of the tokens between a window's first and its last that give way to the mask.
    pub share: f64,
    /// Seed of the choice.
    pub seed: u64,
}

/// A paired difference of two models' losses, in nats per token.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DifferenceRecord {
    /// This model's loss minus the other's: below 0, this one is better.
    pub nll: f64,
    /// Standard error of the difference over windows; absent with fewer than two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<f64>,
    /// Lower end of the 95 % confidence interval (Student's t over windows).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// Upper end of the interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
}
