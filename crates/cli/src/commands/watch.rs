//! `lns watch`: follow a run.

use lns_watch::WatchOptions;

use crate::arguments::WatchArgs;

pub(crate) fn run(args: &WatchArgs) -> anyhow::Result<()> {
    Ok(lns_watch::watch(&args.run, WatchOptions { summary: args.summary })?)
}
