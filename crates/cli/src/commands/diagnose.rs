//! `lns diagnose`: which layers work, which idle.

use std::path::{Path, PathBuf};

use layernorm_scaling::LayerSource;
use lns_checkpoint::Checkpoint;
use lns_data::Windows;
use lns_diagnose::{Probe, Probes};
use lns_kernels::Workers;
use lns_record::DiagnoseRecord;

use super::output;
use crate::{
    arguments::{ComputeArgs, CutArgs, DiagnoseArgs},
    failure::usage,
    model,
    printer::Printer,
    text,
};

pub(crate) fn run(args: &DiagnoseArgs, printer: &Printer) -> anyhow::Result<()> {
    let out = match (&args.out, args.json) {
        (Some(dir), _) => Some(dir.clone()),
        (None, true) => None,
        (None, false) => {
            Some(PathBuf::from(format!("diagnosis-{}", model::short_name(&args.model))))
        }
    };
    if let Some(dir) = &out {
        output::prepare(dir)?;
    }
    let request = Request {
        files: &args.text.files,
        cut: &args.text.cut,
        probes: &args.probes,
        compute: &args.compute,
        workers: &model::workers(args.compute.threads)?,
    };
    // The other side first when it is a finished run: a wrong path should not cost a diagnosis.
    let finished = match &args.against {
        Some(path) if is_finished(path) => Some(DiagnoseRecord::read(path)?),
        Some(path) if !path.exists() => {
            return Err(usage(format!(
                "--against {} does not exist; name a model or the folder of a finished diagnosis",
                path.display()
            )));
        }
        _ => None,
    };
    let mut records = vec![request.diagnose(&args.model, printer)?];
    match (&args.against, finished) {
        (_, Some(record)) => records.push(record),
        (Some(path), None) => records.push(request.diagnose(path, printer)?),
        (None, None) => {}
    }
    show(&records, printer)?;
    match &records[..] {
        [record] => printer.json(record)?,
        records => printer.json(&records)?,
    }
    match out {
        Some(dir) => output::write_diagnosis(&dir, &records, printer),
        None => Ok(()),
    }
}

fn is_finished(path: &Path) -> bool {
    path.join(DiagnoseRecord::FILE_NAME).is_file() || path.extension().is_some_and(|e| e == "json")
}

/// The tables, for a person on a terminal.
pub(crate) fn show(records: &[DiagnoseRecord], printer: &Printer) -> anyhow::Result<()> {
    let style = printer.table_style();
    for record in records {
        printer.result(&lns_report::diagnosis_table(record, style))?;
    }
    if records.len() > 1 {
        printer.result(&format!("\n{}", lns_report::comparison_table(records, style)))?;
    }
    Ok(())
}

/// What to measure, for any model.
pub(crate) struct Request<'a> {
    pub(crate) files: &'a [PathBuf],
    pub(crate) cut: &'a CutArgs,
    pub(crate) probes: &'a Probes,
    pub(crate) compute: &'a ComputeArgs,
    pub(crate) workers: &'a Workers,
}

impl Request<'_> {
    pub(crate) fn diagnose(
        &self,
        path: &Path,
        printer: &Printer,
    ) -> anyhow::Result<DiagnoseRecord> {
        let checkpoint = Checkpoint::open(path)?;
        let tokenizer = model::tokenizer(&checkpoint)?;
        let text = text::windows(self.files, self.cut, checkpoint.spec(), &tokenizer)?;
        let source = model::load(checkpoint, self.compute, printer)?;
        let files = text.files.iter().map(|file| file.display().to_string()).collect();
        let labels = (path.display().to_string(), files);
        measure(&*source, &text, self.probes, self.workers, labels, printer)
    }
}

/// Runs the probes with a progress bar, saying first what the dear ones cost.
pub(crate) fn measure(
    source: &dyn LayerSource,
    text: &Windows,
    probes: &Probes,
    workers: &Workers,
    labels: (String, Vec<String>),
    printer: &Printer,
) -> anyhow::Result<DiagnoseRecord> {
    let layers = source.spec().num_hidden_layers;
    let dear: Vec<_> = probes
        .iter()
        .filter(|probe| !Probes::default().has(*probe))
        .map(|probe: Probe| format!("{} ≈ {:.0}", probe.name(), probe.price(layers)))
        .collect();
    if !dear.is_empty() {
        printer.note(&format!("Price in forward passes: {}.", dear.join(", ")));
    }
    let work = lns_diagnose::work(layers, text.windows.len(), probes);
    let progress = printer.progress("Diagnosing", work, text.window as f64 / layers as f64);
    let advance = |passes| progress.advance(passes);
    Ok(lns_diagnose::diagnose(source, &text.windows, probes, workers, &advance, labels)?)
}
