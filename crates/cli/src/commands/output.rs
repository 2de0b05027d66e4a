//! Output folders: checked before the work, written beside and renamed after it.

use std::path::Path;

use anyhow::Context;
use lns_record::{Claim, DiagnoseRecord, FolderKind, pretty_json, replace_file};
use lns_spec::meant;

use crate::{failure::usage, printer::Printer};

/// How names of files end that somebody may want written.
const FILES: [&str; 25] = [
    "gguf",
    "ggml",
    "safetensors",
    "bin",
    "pt",
    "pth",
    "ckpt",
    "onnx",
    "npz",
    "h5",
    "json",
    "jsonl",
    "toml",
    "yaml",
    "yml",
    "txt",
    "md",
    "csv",
    "parquet",
    "html",
    "log",
    "zip",
    "tar",
    "gz",
    "zst",
];

/// Refuses a name for a folder that is one for a file, or nearly: whoever typed it means a file.
pub(crate) fn check_folder_name(out: &Path) -> anyhow::Result<()> {
    let end = out.extension().and_then(|end| end.to_str()).map(str::to_ascii_lowercase);
    let Some(end) = end.filter(|_| !out.is_dir()) else { return Ok(()) };
    // `v12` and `7b` end names of folders: only endings of four letters are taken for misspelt.
    let misspelt = (end.len() > 3 && end.chars().all(|letter| letter.is_ascii_alphabetic()))
        .then(|| meant(&end, FILES.into_iter().filter(|known| known.len() > 3)))
        .flatten();
    let known = FILES.into_iter().find(|known| *known == end);
    let Some(known) = known.or(misspelt) else { return Ok(()) };
    let instead = out.with_extension("");
    let gguf = if known == "gguf" {
        format!(", or {} for a GGUF file of `lns export`", out.with_extension("gguf").display())
    } else {
        ", or with `lns export` a file that ends in .gguf".to_owned()
    };
    Err(usage(format!(
        "--out {}: what is made here is a folder, and this is the name of a file; name a folder, as \
         {}{gguf}",
        out.display(),
        instead.display()
    )))
}

/// Claims the folder of a result and tries to write there, so that a path that will not do fails before
/// hours of work. `of` is the model that it will be of, if another's is not to be overwritten.
pub(crate) fn claim(dir: &Path, kind: FolderKind, of: Option<&str>) -> anyhow::Result<Claim> {
    check_folder_name(dir)?;
    let mut claim = Claim::take(dir, kind, of)?;
    let charts = dir.join("charts");
    for folder in [dir, &charts].into_iter().filter(|folder| folder.exists()) {
        tempfile::tempfile_in(folder)
            .with_context(|| format!("{} cannot be written to", folder.display()))?;
    }
    claim.keep();
    Ok(claim)
}

/// The record of the other model, beside that of a diagnosis.
pub(crate) const AGAINST: &str = "against.json";

/// What a folder is of, wherever that was named from.
pub(crate) fn whole_path(subject: &Path) -> String {
    let whole = subject.canonicalize().unwrap_or_else(|_| subject.to_owned());
    whole.display().to_string()
}

/// Writes diagnose.json, against.json if there is a second record, and one report of all, shows the
/// tables and says where the report is. Files first: what reads the tables may go away.
pub(crate) fn finish_diagnosis(
    dir: &Path,
    records: &[DiagnoseRecord],
    printer: &Printer,
) -> anyhow::Result<()> {
    for (name, record) in [DiagnoseRecord::FILE_NAME, AGAINST].into_iter().zip(records) {
        let path = dir.join(name);
        replace_file(&path, &pretty_json(record)?)
            .with_context(|| format!("{} cannot be written", path.display()))?;
    }
    if records.len() == 1 {
        // That of an earlier diagnosis is not beside this one.
        let path = dir.join(AGAINST);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("{} cannot be removed", path.display()));
            }
            _ => {}
        }
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
    show(records, printer)?;
    printer.note(&format!("Report: {}", dir.join("report.html").display()));
    Ok(())
}

/// The tables, for a person on a terminal.
fn show(records: &[DiagnoseRecord], printer: &Printer) -> anyhow::Result<()> {
    let style = printer.table_style();
    for record in records {
        printer.table(&lns_report::diagnosis_table(record, style))?;
    }
    if records.len() < 2 {
        return Ok(());
    }
    printer.table(&format!("\n{}", lns_report::comparison_table(records, style)))
}
