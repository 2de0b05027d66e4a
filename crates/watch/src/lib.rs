//! Following a training run: a terminal dashboard and TensorBoard files, both from its events.
//!
//! [`watch`] shows a running or finished run, or a study's runs together, on the terminal;
//! [`summary`] says the same in a few lines of text. [`TensorBoard`] writes what TensorBoard reads.
//! `events.jsonl` stays the source of truth: everything here can be made again from it.

mod dashboard;
mod follow;
mod format;
mod plot;
mod run;
#[cfg(test)]
mod sample;
mod screen;
mod study;
mod summary;
mod tensorboard;

pub use dashboard::{WatchError, WatchOptions, watch};
pub use study::PlannedRun;
pub use summary::summary;
pub use tensorboard::{TensorBoard, TensorBoardError, convert};
