//! Training a decoder: one step, and a whole run in a folder.
//!
//! Each worker takes its own sequences of the batch through the whole forward and backward pass with
//! single-threaded operations, on parameters of its own tape that share the model's memory. Then the
//! workers' gradients are added in the workers' order, fused with the update of the parameters. The
//! result is the same to the bit for a given model, batch and number of workers. Padding is not computed.

mod batch;
mod config;
mod dealing;
mod estimate;
mod gradients;
mod guard;
mod optimisers;
mod presets;
pub mod ranges;
mod run;
mod schedule;
mod snapshot;
mod statistics;
mod trainer;

pub use batch::{Batch, BatchError};
pub use config::{
    BatchConfig, CheckpointConfig, ConfigError, DataConfig, EvaluationConfig, FinetuneConfig,
    ModelConfig, OptimiserConfig, RunConfig, Settings, SnapshotConfig, SourceConfig,
    StatisticsConfig, TeacherConfig, explained, path_in_file, scheme_as_table,
};
pub use estimate::{Estimate, check_memory, flops_per_token};
pub use guard::{GuardConfig, NotFinite};
pub use lns_kernels::{Compute, Exchange};
pub use optimisers::{Adam, AdamW, Decay, Muon, Optimiser};
pub use presets::{RUN_PRESETS, RunPreset, finetune_defaults, run_preset};
pub use run::{RunError, Summary, check, check_checkpoint, check_teacher, train};
pub use schedule::{Schedule, ScheduleShape};
pub use snapshot::SnapshotError;
pub use trainer::{BatchGradient, Step, Teacher, Trainer, TrainingOptions};
