//! One file for each verb: its flags, what makes them valid, and its run.

mod bench;
mod completions;
mod convert;
mod diagnose;
mod eval;
mod export;
mod finetune;
mod fold;
mod generate;
mod inspect;
mod output;
mod prune;
mod quickstart;
mod report;
mod retrofit;
mod stranger;
mod study;
mod tokenize;
mod train;
mod unfold;
mod watch;

use std::{path::PathBuf, process::ExitCode};

use crate::printer::Printer;

pub(crate) use bench::BenchArgs;
pub(crate) use completions::CompletionsArgs;
pub(crate) use diagnose::DiagnoseArgs;
pub(crate) use eval::EvalArgs;
pub(crate) use export::ExportArgs;
pub(crate) use finetune::FinetuneArgs;
pub(crate) use fold::FoldArgs;
pub(crate) use generate::GenerateArgs;
pub(crate) use inspect::InspectArgs;
pub(crate) use prune::PruneArgs;
pub(crate) use quickstart::QuickstartArgs;
pub(crate) use report::ReportArgs;
pub(crate) use retrofit::RetrofitArgs;
pub(crate) use study::StudyArgs;
pub(crate) use tokenize::TokenizeArgs;
pub(crate) use train::TrainArgs;
pub(crate) use unfold::UnfoldArgs;
pub(crate) use watch::WatchArgs;

/// A verb's flags as they were typed.
pub(crate) trait Verb {
    /// The lists of text files among them; a pipe in these is replaced by a file of what came through.
    fn texts(&mut self) -> Vec<&mut Vec<PathBuf>> {
        Vec::new()
    }

    /// Whether standard output is for a program.
    fn prints_json(&self) -> bool {
        false
    }

    /// Does what was asked for. A verb that a signal stopped in an orderly way says so by its exit code.
    fn run(&self, printer: &Printer) -> anyhow::Result<ExitCode>;
}
