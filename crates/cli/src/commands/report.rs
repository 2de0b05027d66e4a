//! `lns report`: the page of a study, of finished diagnoses, or of answers to tasks.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use lns_record::{Claim, FolderKind, RecordError, SMALL_FILE, TasksRecord, read_regular};
use lns_study::{FinetuningConfig, StudyConfig};

use super::{Verb, output};
use crate::{failure::usage, printer::Printer};

/// Make the page of a study, of finished diagnoses side by side, or of answers to tasks
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// The folder of a study; or folders that hold a diagnose.json, the first being the subject; or files
    /// that hold what `lns eval --tasks --json` printed
    #[arg(value_name = "DIR", required = true)]
    pub(crate) runs: Vec<PathBuf>,

    /// Folder for report.html and charts/; the first DIR, or the first file's, if not given
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
        let out = args.out.as_deref().unwrap_or(study);
        if let Some(config) = FinetuningConfig::read_in(study)? {
            let record = lns_study::finetuning_record(&config, study)?;
            let _claim = claim(args, out)?;
            lns_report::write_finetuning(out, &record)?;
            return super::study::show_finetuning(out, &record, printer);
        }
        let config = StudyConfig::read(&study.join(StudyConfig::FILE_NAME))?;
        let record = lns_study::record(&config, study)?;
        let _claim = claim(args, out)?;
        lns_report::write_study(out, &record)?;
        return super::study::show(out, &record, printer);
    }
    if let Some(answers) = answers(&args.runs)? {
        let records: Vec<TasksRecord> = answers.iter().flatten().cloned().collect();
        let names = super::eval::tasks::names(&records);
        let out = args.out.as_deref().unwrap_or(folder_of(&args.runs[0]));
        let _claim = claim(args, out)?;
        let page = lns_report::write_tasks(out, &answers, &names)?;
        printer.table(&lns_report::tasks_table(&records, &names))?;
        printer.note(&format!("Report: {}", page.display()));
        return Ok(());
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
    let out = args.out.as_deref().unwrap_or(folder_of(&args.runs[0]));
    let _claim = claim(args, out)?;
    output::finish_report(out, &records, printer)
}

/// What `lns eval --tasks --json` printed into the files, if the first is such a file.
fn answers(files: &[PathBuf]) -> anyhow::Result<Option<Vec<Vec<TasksRecord>>>> {
    let read = |file: &PathBuf| -> anyhow::Result<Option<Vec<TasksRecord>>> {
        if file.is_dir() {
            return Ok(None);
        }
        let bytes = read_regular(file, SMALL_FILE)
            .map_err(|source| RecordError::Io { path: file.clone(), source })?;
        Ok(TasksRecord::read_all(&bytes))
    };
    let read = files.iter().map(read).collect::<anyhow::Result<Vec<_>>>()?;
    if read.iter().all(Option::is_none) {
        return Ok(None);
    }
    let all = files.iter().zip(read).map(|(file, records)| {
        records.ok_or_else(|| {
            usage(format!(
                "{}: not what `lns eval --tasks --json` prints, as the others are; answers to tasks and \
                 diagnoses have pages of their own",
                file.display()
            ))
        })
    });
    all.collect::<anyhow::Result<_>>().map(Some)
}

/// A folder, or that of a file.
fn folder_of(path: &Path) -> &Path {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if path.is_dir() { path } else { folder.unwrap_or(Path::new(".")) }
}

/// A folder of its own; where the records are it joins what is there.
fn claim(args: &ReportArgs, out: &Path) -> anyhow::Result<Option<Claim>> {
    let beside = args.out.is_none() || args.runs.iter().any(|run| run == out);
    let subjects: Vec<String> = args.runs.iter().map(|run| output::whole_path(run)).collect();
    let of = subjects.join(", ");
    (!beside).then(|| output::claim(out, FolderKind::Report, Some(&of))).transpose()
}
