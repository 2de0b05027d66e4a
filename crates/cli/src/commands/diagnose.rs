//! `lns diagnose`: which layers work, which idle.

use std::path::{Path, PathBuf};

use layernorm_scaling::LayerSource;
use lns_data::Windows;
use lns_diagnose::Probes;
use lns_kernels::Workers;
use lns_record::{Claim, ClaimError, DiagnoseRecord, FolderKind};

use super::output;
use crate::{
    arguments::{ComputeArgs, CutArgs, DiagnoseArgs},
    failure::usage,
    model, pipes,
    printer::Printer,
    text::{self, Opened},
};

pub(crate) fn run(args: &DiagnoseArgs, printer: &Printer) -> anyhow::Result<()> {
    let request = Request {
        files: &args.text.files,
        cut: &args.text.cut,
        probes: &args.probes,
        compute: &args.compute,
        workers: &model::workers(args.compute.threads)?,
    };
    // Everything is opened before anything is measured: a wrong path should not cost a diagnosis.
    let subject = request.open(&args.model, printer)?;
    let other = args.against.as_deref().map(|path| Other::open(path, &request, printer));
    let other = other.transpose()?;
    let claim = match (&args.out, args.json) {
        (Some(dir), _) => {
            let of = whole_path(subject.checkpoint.path());
            Some(output::claim(dir, FolderKind::Diagnosis, Some(&of))?)
        }
        (None, true) => None,
        (None, false) => Some(claim_for(subject.checkpoint.path())?),
    };
    let mut records = vec![request.measure(subject, printer)?];
    match other {
        Some(Other::Finished(record)) => records.push(*record),
        Some(Other::Model(opened)) => records.push(request.measure(*opened, printer)?),
        None => {}
    }
    if let Some(claim) = &claim {
        output::finish_diagnosis(claim.folder(), &records, printer)?;
    }
    match &records[..] {
        [record] => printer.json(record),
        records => printer.json(&records),
    }
}

/// What a diagnosis is of, wherever it was named from.
fn whole_path(model: &Path) -> String {
    let whole = model.canonicalize().unwrap_or_else(|_| model.to_owned());
    whole.display().to_string()
}

/// The folder that a diagnosis is written to if none is named: that of this model and no other's.
fn claim_for(model: &Path) -> anyhow::Result<Claim> {
    let (name, of) = (model::short_name(model), whole_path(model));
    let mut dir = PathBuf::from(format!("diagnosis-{name}"));
    for number in 2.. {
        match output::claim(&dir, FolderKind::Diagnosis, Some(&of)) {
            Err(error) if matches!(error.downcast_ref(), Some(ClaimError::OfAnother { .. })) => {}
            claim => return claim,
        }
        dir = PathBuf::from(format!("diagnosis-{name}-{number}"));
    }
    unreachable!("numbers do not end")
}

/// What `--against` names.
enum Other {
    Finished(Box<DiagnoseRecord>),
    Model(Box<Opened>),
}

impl Other {
    fn open(path: &Path, request: &Request<'_>, printer: &Printer) -> anyhow::Result<Self> {
        if !path.exists() {
            return Err(usage(format!(
                "--against {} does not exist; name a model or the folder of a finished diagnosis",
                path.display()
            )));
        }
        // A model folder may also hold the diagnosis of it.
        let is_model = path.join("config.json").is_file();
        let is_finished = path.join(DiagnoseRecord::FILE_NAME).is_file()
            || path.extension().is_some_and(|extension| extension == "json");
        if is_finished && !is_model {
            return Ok(Self::Finished(Box::new(DiagnoseRecord::read(path)?)));
        }
        Ok(Self::Model(Box::new(request.open(path, printer)?)))
    }
}

/// The tables, for a person on a terminal.
pub(crate) fn show(records: &[DiagnoseRecord], printer: &Printer) -> anyhow::Result<()> {
    let style = printer.table_style();
    for record in records {
        printer.table(&lns_report::diagnosis_table(record, style))?;
    }
    if records.len() < 2 {
        return Ok(());
    }
    printer.table(&format!("\n{}", lns_report::comparison_table(records, style)))
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
    pub(crate) fn open(&self, path: &Path, printer: &Printer) -> anyhow::Result<Opened> {
        text::open(path, self.files, self.cut, printer)
    }

    pub(crate) fn measure(
        &self,
        opened: Opened,
        printer: &Printer,
    ) -> anyhow::Result<DiagnoseRecord> {
        let Opened { name, checkpoint, text } = opened;
        let source = model::load(checkpoint, self.compute, printer)?;
        let shown = |file: &PathBuf| pipes::shown(file).display().to_string();
        let files = text.files.iter().map(shown).collect();
        measure(&*source, &text, self.probes, self.workers, (name, files), printer)
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
    printer.note(&text::described(text));
    let dear: Vec<_> = probes
        .iter()
        .filter(|probe| !Probes::default().has(*probe))
        .map(|probe| format!("{} ≈ {:.0}", probe.name(), lns_diagnose::price(probe, layers)))
        .collect();
    if !dear.is_empty() {
        printer.note(&format!("Price in forward passes: {}.", dear.join(", ")));
    }
    let work = lns_diagnose::work(source.spec(), text.windows.len(), probes);
    let progress = printer.progress("Diagnosing", work, text.window as f64 / layers as f64);
    let advance = |passes| progress.advance(passes);
    Ok(lns_diagnose::diagnose(source, &text.windows, probes, workers, &advance, labels)?)
}
