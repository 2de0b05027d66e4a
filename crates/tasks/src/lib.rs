//! What is asked of a model, and what its answers come to.
//!
//! A [`Task`] is one file in `tasks/`: how a row of a data set becomes a context and choices, which split
//! counts, how it is scored; and, where it is one to learn from, how it is put as an instruction
//! ([`TaskFormat`]). [`ask`] reads the data where they lie (as the Hugging Face hub has them, as
//! OLMo's ready requests, or lines of one's own) and gives [`Asked`]: documents that any model can be
//! scored on. [`summary`] turns the scores into accuracies, and [`compare`] holds two models against each
//! other, document by document. Wording and scoring are those of lm-evaluation-harness, so that numbers
//! compare (github.com/EleutherAI/lm-evaluation-harness). Nothing here computes: `lns-score` does.

mod ask;
mod document;
mod error;
mod find;
mod instruction;
mod olmo;
mod own;
mod row;
mod summary;
mod tasks;

pub use ask::{AskOptions, Asked, ask};
pub use document::{Choice, Document, Question};
pub use error::TaskError;
pub use find::{Data, Source, Split};
pub use instruction::{Instruction, TaskFormat};
pub use row::TaskRow;
pub use summary::{ChoiceScore, Scored, compare, sample, summary, task_difference};
pub use tasks::{Metrics, Task, tasks};
