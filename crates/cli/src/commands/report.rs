//! `lns report`: one page of finished diagnoses.

use lns_record::DiagnoseRecord;

use super::output;
use crate::{arguments::ReportArgs, printer::Printer};

pub(crate) fn run(args: &ReportArgs, printer: &Printer) -> anyhow::Result<()> {
    let records =
        args.runs.iter().map(|run| DiagnoseRecord::read(run)).collect::<Result<Vec<_>, _>>()?;
    let first = &args.runs[0];
    let beside = if first.is_dir() { first.as_path() } else { first.parent().unwrap_or(first) };
    let out = args.out.as_deref().unwrap_or(beside);
    output::prepare(out)?;
    output::finish_report(out, &records, printer)
}
