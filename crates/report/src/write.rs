//! The report's files: each written beside its place, synced and renamed, so that a reader finds
//! the old one or the new one.

use std::path::{Path, PathBuf};

use lns_record::{DiagnoseRecord, FinetuningRecord, StudyRecord, TasksRecord, replace_file};

use crate::{
    Chart, diagnosis_charts, diagnosis_page, finetuning_page, study_charts, study_page, tasks_page,
};

/// Why a report could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message names its fields")]
pub enum ReportError {
    #[error("a report needs at least one diagnosis; `lns diagnose MODEL --out DIR` writes one")]
    NoRecords,
    #[error("{}: cannot make this folder: {source}", path.display())]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("{}: cannot write: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
}

/// Writes `report.html` and `charts/*.svg` into `dir` and says where; charts of an earlier report
/// that this one does not have are left alone.
///
/// # Errors
/// [`ReportError`], naming the file.
pub fn write_report(dir: &Path, records: &[DiagnoseRecord]) -> Result<Vec<PathBuf>, ReportError> {
    if records.is_empty() {
        return Err(ReportError::NoRecords);
    }
    write_all(dir, &diagnosis_page(records), diagnosis_charts(records))
}

/// Writes a study's `report.html` and `charts/*.svg` into `dir` and says where; charts of an
/// earlier report that this one does not have are left alone.
///
/// # Errors
/// [`ReportError`], naming the file.
pub fn write_study(dir: &Path, record: &StudyRecord) -> Result<Vec<PathBuf>, ReportError> {
    write_all(dir, &study_page(record), study_charts(record))
}

/// Writes the `report.html` of answers to tasks ([`tasks_page`]) into `dir` and says where.
///
/// # Errors
/// [`ReportError`], naming the file.
pub fn write_tasks(
    dir: &Path,
    asked_together: &[Vec<TasksRecord>],
    names: &[String],
) -> Result<PathBuf, ReportError> {
    std::fs::create_dir_all(dir)
        .map_err(|source| ReportError::Folder { path: dir.to_owned(), source })?;
    write(dir.join("report.html"), &tasks_page(asked_together, names))
}

/// Writes the `report.html` of a study that fine-tunes into `dir` and says where.
///
/// # Errors
/// [`ReportError`], naming the file.
pub fn write_finetuning(
    dir: &Path,
    record: &FinetuningRecord,
) -> Result<Vec<PathBuf>, ReportError> {
    write_all(dir, &finetuning_page(record), Vec::new())
}

fn write_all(dir: &Path, page: &str, drawn: Vec<Chart>) -> Result<Vec<PathBuf>, ReportError> {
    let charts = dir.join("charts");
    std::fs::create_dir_all(&charts)
        .map_err(|source| ReportError::Folder { path: charts.clone(), source })?;
    let mut written = vec![write(dir.join("report.html"), page)?];
    for chart in drawn {
        written.push(write(charts.join(format!("{}.svg", chart.name)), &chart.svg)?);
    }
    Ok(written)
}

fn write(path: PathBuf, text: &str) -> Result<PathBuf, ReportError> {
    match replace_file(&path, text.as_bytes()) {
        Ok(()) => Ok(path),
        Err(source) => Err(ReportError::Write { path, source }),
    }
}
