//! `lns report`: the page of a study, or one page of finished diagnoses.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use lns_record::{Claim, FolderKind};
use lns_study::StudyConfig;

use super::{Verb, output};
use crate::{failure::usage, printer::Printer};

/// Make the page of a study, or of finished diagnoses side by side
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// The folder of a study; or folders that hold a diagnose.json, the first being the subject
    #[arg(value_name = "DIR", required = true)]
    pub(crate) runs: Vec<PathBuf>,

    /// Folder for report.html and charts/; the first DIR if not given
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

impl Verb for ReportArgs {
    fn run(&self, printer: &Printer) -> anyhow::Result<ExitCode> {
        run(self, printer).map(|()| ExitCode::SUCCESS)
    }
}

fn run(args: &ReportArgs, printer: &Printer) -> anyhow::Result<()> {
    if let Some(study) = args.runs.iter().find(|dir| dir.join(StudyConfig::FILE_NAME).exists()) {
        let [_] = &args.runs[..] else {
            return Err(usage(format!("{} is a study; name it alone", study.display())));
        };
        let config = StudyConfig::read(&study.join(StudyConfig::FILE_NAME))?;
        let record = lns_study::record(&config, study)?;
        let out = args.out.as_deref().unwrap_or(study);
        let _claim = claim(args, out)?;
        lns_report::write_study(out, &record)?;
        return super::study::show(out, &record, printer);
    }
    let mut records =
        args.runs.iter().map(|run| lns_diagnose::read(run)).collect::<Result<Vec<_>, _>>()?;
    // A diagnosis that was made beside another's keeps it.
    if let [run] = &args.runs[..]
        && let against = run.join(output::AGAINST)
        && against.is_file()
    {
        records.push(lns_diagnose::read(&against)?);
    }
    let first = &args.runs[0];
    let beside = if first.is_dir() { first.as_path() } else { first.parent().unwrap_or(first) };
    let out = args.out.as_deref().unwrap_or(beside);
    let _claim = claim(args, out)?;
    output::finish_report(out, &records, printer)
}

/// A folder of its own; where the records are it joins what is there.
fn claim(args: &ReportArgs, out: &Path) -> anyhow::Result<Option<Claim>> {
    let beside = args.out.is_none() || args.runs.iter().any(|run| run == out);
    let subjects: Vec<String> = args.runs.iter().map(|run| output::whole_path(run)).collect();
    let of = subjects.join(", ");
    (!beside).then(|| output::claim(out, FolderKind::Report, Some(&of))).transpose()
}
