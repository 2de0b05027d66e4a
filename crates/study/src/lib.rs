//! Paired experiments: train, evaluate and diagnose norm schemes over seeds, then compare.
//!
//! Every run of a seed sees the same tokens in the same order and starts from the same weights where
//! shapes agree, so that differences within a seed are the scheme's doing; over seeds they get a
//! confidence interval. A study that is stopped goes on where it stopped: each run is a folder that
//! knows whether it is finished.
//!
//! A study that fine-tunes ([`FinetuningConfig`], [`finetune`]) takes models that are finished, and compares
//! what they answer before and after.

mod compare;
mod config;
mod contrast;
mod finetuning;
mod grid;
mod presets;
mod record;
mod runs;
mod study;
mod tuned;
mod tuning;

pub use config::{DiagnosisConfig, Group, Planned, StudyConfig, StudyError};
pub use contrast::Contrast;
pub use finetuning::{
    FinetuneTable, FinetuningConfig, FinetuningProgress, FinishedModel, InstructionTable,
    ModelEntry, TaskTable, finetune, finetuning_record,
};
pub use grid::{Factor, Level};
pub use presets::{PRESET_NAMES, pair, preset};
pub use record::record;
pub use study::{StudyOutcome, StudyProgress, run};
pub use tuning::Tuning;
