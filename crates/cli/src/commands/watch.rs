//! `lns watch`: follow a run.

use lns_study::{Planned, StudyConfig};
use lns_watch::{PlannedRun, WatchOptions};

use crate::arguments::WatchArgs;

pub(crate) fn run(args: &WatchArgs) -> anyhow::Result<()> {
    // A study says in its settings what it has planned.
    let settings = args.run.join(StudyConfig::FILE_NAME);
    let planned = match settings.is_file() {
        true => StudyConfig::read(&settings)?.plan()?,
        false => Vec::new(),
    };
    let run = |Planned { folder, config, .. }| PlannedRun { folder, steps: config.steps };
    let planned = planned.into_iter().map(run).collect();
    Ok(lns_watch::watch(&args.run, WatchOptions { summary: args.summary, planned })?)
}
