//! One file per verb.

mod bench;
mod convert;
mod diagnose;
mod eval;
mod export;
mod finetune;
mod generate;
mod inspect;
mod output;
mod prune;
mod quickstart;
mod report;
mod retrofit;
mod study;
mod tokenize;
mod train;
mod watch;

use std::process::ExitCode;

use crate::{
    arguments::{self, Cli, Verb},
    printer::Printer,
};

/// Runs the verb. One that a signal stopped in an orderly way says so by its exit code.
pub(crate) fn run(cli: &Cli, printer: &Printer) -> anyhow::Result<ExitCode> {
    match &cli.verb {
        Verb::Quickstart(args) => return quickstart::run(args, printer),
        Verb::Train(args) => return train::run(args, printer),
        Verb::Study(args) => return study::run(args, printer),
        Verb::Finetune(args) => return finetune::run(args, printer),
        Verb::Inspect(args) => inspect::run(args, printer),
        Verb::Diagnose(args) => return diagnose::run(args, printer),
        Verb::Eval(args) => eval::run(args, printer),
        Verb::Generate(args) => generate::run(args, printer),
        Verb::Watch(args) => watch::run(args),
        Verb::Retrofit(args) => retrofit::retrofit(args, printer),
        Verb::Fold(args) => retrofit::fold(args, printer),
        Verb::Unfold(args) => retrofit::unfold(args, printer),
        Verb::Prune(args) => prune::run(args, printer),
        Verb::Export(args) => export::run(args, printer),
        Verb::Tokenize(args) => tokenize::run(args, printer),
        Verb::Report(args) => report::run(args, printer),
        Verb::Bench(args) => bench::run(args, printer),
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut arguments::command(), "lns", &mut script);
            printer.stream(&String::from_utf8_lossy(&script))
        }
    }?;
    Ok(ExitCode::SUCCESS)
}
