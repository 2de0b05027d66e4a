//! Studies that fine-tune: do the benefits of a scheme carry through to supervised fine-tuning? Finished
//! models, grouped by scheme and seed, are fine-tuned on the same instructions in the same order and asked
//! the same questions before and after (Table 2 of arXiv 2502.05795).
//!
//! [`FinetuningConfig`] is the study as TOML, [`finetune`] makes what is still to be made in its folder,
//! and [`finetuning_record`] says what the folder holds.

mod answers;
mod cells;
mod config;
mod examples;
mod models;
mod record;
mod run;

pub use config::{FinetuneTable, FinetuningConfig, InstructionTable, TaskTable};
pub use models::{FinishedModel, ModelEntry};
pub use record::finetuning_record;
pub use run::{FinetuningProgress, finetune};
