//! `lns watch`: follow a run.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use lns_study::{FinetuningConfig, Planned, StudyConfig};
use lns_watch::{PlannedRun, WatchOptions};

use super::Verb;
use crate::printer::Printer;

/// Follow a training run in the terminal
#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Folder of a run or of a study, running or finished; of a study, its runs together: those done,
    /// those to come, the time left
    pub(crate) run: PathBuf,

    /// Print a summary and return; so too when the output is not a terminal
    #[arg(long)]
    pub(crate) summary: bool,
}

impl Verb for WatchArgs {
    fn run(&self, _: &Printer) -> anyhow::Result<ExitCode> {
        run(self).map(|()| ExitCode::SUCCESS)
    }
}

fn run(args: &WatchArgs) -> anyhow::Result<()> {
    // A study says in its settings what it has planned.
    let settings = args.run.join(StudyConfig::FILE_NAME);
    let fine_tunes = FinetuningConfig::read_in(&args.run)?.is_some();
    let planned = match settings.is_file() && !fine_tunes {
        true => StudyConfig::read(&settings)?.plan()?,
        // A study that fine-tunes knows how many steps there are once it has its data.
        false => Vec::new(),
    };
    let run = |Planned { folder, config, .. }| PlannedRun { folder, steps: config.steps };
    let planned = planned.into_iter().map(run).collect();
    Ok(lns_watch::watch(&args.run, WatchOptions { summary: args.summary, planned })?)
}
