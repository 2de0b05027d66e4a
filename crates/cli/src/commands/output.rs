//! Output folders: checked before the work, written beside and renamed after it.

use std::{io::Write, path::Path};

use anyhow::Context;
use lns_record::DiagnoseRecord;
use serde::Serialize;

use crate::{failure::usage, printer::Printer};

/// Makes `dir`, so that a path that cannot be one fails before hours of work.
pub(crate) fn prepare(dir: &Path) -> anyhow::Result<()> {
    if dir.exists() && !dir.is_dir() {
        return Err(usage(format!(
            "--out {} is a file; name a folder, which is made if it does not exist",
            dir.display()
        )));
    }
    std::fs::create_dir_all(dir)
        .with_context(|| format!("the output folder {} cannot be made", dir.display()))
}

/// Writes `value` to `dir/name`: beside it, synced, renamed.
pub(crate) fn write_json(dir: &Path, name: &str, value: &impl Serialize) -> anyhow::Result<()> {
    let path = dir.join(name);
    let write = || -> anyhow::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(&serde_json::to_vec_pretty(value)?)?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
        Ok(())
    };
    write().with_context(|| format!("{} cannot be written", path.display()))
}

/// Writes diagnose.json of the first record, and one report of all.
pub(crate) fn write_diagnosis(
    dir: &Path,
    records: &[DiagnoseRecord],
    printer: &Printer,
) -> anyhow::Result<()> {
    if let Some(subject) = records.first() {
        write_json(dir, DiagnoseRecord::FILE_NAME, subject)?;
    }
    write_report(dir, records, printer)
}

/// Writes the page and charts and says where.
pub(crate) fn write_report(
    dir: &Path,
    records: &[DiagnoseRecord],
    printer: &Printer,
) -> anyhow::Result<()> {
    let written = lns_report::write_report(dir, records)?;
    if let Some(page) = written.iter().find(|path| path.extension().is_some_and(|e| e == "html")) {
        printer.note(&format!("Report: {}", page.display()));
    }
    Ok(())
}
