//! Output folders: checked before the work, written beside and renamed after it.

use std::path::Path;

use anyhow::Context;
use lns_record::{Claim, DiagnoseRecord, FolderKind, pretty_json, replace_file};

use crate::{failure::usage, printer::Printer};

/// Refuses a name for a folder that is one for a file: whoever typed it means a file.
pub(crate) fn check_folder_name(out: &Path) -> anyhow::Result<()> {
    const FILES: [&str; 9] =
        ["gguf", "ggml", "safetensors", "bin", "pt", "pth", "ckpt", "onnx", "json"];
    let ends = out
        .extension()
        .is_some_and(|end| FILES.iter().any(|known| end.eq_ignore_ascii_case(known)));
    if ends && !out.is_dir() {
        return Err(usage(format!(
            "--out {}: safetensors are written as a folder with config and tokenizer; name a folder, \
             or a file that ends in .gguf for `lns export`",
            out.display()
        )));
    }
    Ok(())
}

/// Claims the folder of a result and tries to write there, so that a path that will not do fails before
/// hours of work. `of` is the model that it will be of, if another's is not to be overwritten.
pub(crate) fn claim(dir: &Path, kind: FolderKind, of: Option<&str>) -> anyhow::Result<Claim> {
    let mut claim = Claim::take(dir, kind, of)?;
    let charts = dir.join("charts");
    for folder in [dir, &charts].into_iter().filter(|folder| folder.exists()) {
        tempfile::tempfile_in(folder)
            .with_context(|| format!("{} cannot be written to", folder.display()))?;
    }
    claim.keep();
    Ok(claim)
}

/// Writes diagnose.json, against.json if there is a second record, and one report of all, shows the
/// tables and says where the report is. Files first: what reads the tables may go away.
pub(crate) fn finish_diagnosis(
    dir: &Path,
    records: &[DiagnoseRecord],
    printer: &Printer,
) -> anyhow::Result<()> {
    for (name, record) in [DiagnoseRecord::FILE_NAME, "against.json"].into_iter().zip(records) {
        let path = dir.join(name);
        replace_file(&path, &pretty_json(record)?)
            .with_context(|| format!("{} cannot be written", path.display()))?;
    }
    finish_report(dir, records, printer)
}

/// Writes the page and charts, shows the tables and says where the report is.
pub(crate) fn finish_report(
    dir: &Path,
    records: &[DiagnoseRecord],
    printer: &Printer,
) -> anyhow::Result<()> {
    lns_report::write_report(dir, records)?;
    super::diagnose::show(records, printer)?;
    printer.note(&format!("Report: {}", dir.join("report.html").display()));
    Ok(())
}
