//! What retrofit, fold, unfold, prune and export share: a place that is checked before the work, edits
//! that are shown, a result that appears whole, and the record of where it came from.

use std::path::{Path, PathBuf};

use anyhow::Context;
use lns_checkpoint::{Checkpoint, Conversion, Rounding, TensorEdit};
use lns_corpus::Windows;
use lns_model::LayerSource;
use lns_record::{NewFolder, ProvenanceRecord, pretty_json};
use lns_score::{Comparison, compare};
use lns_tokenizer::write_tokenizer;
use serde_json::{Value, json};

use super::output;
use crate::{
    arguments::{ComputeArgs, ConversionArgs, CutArgs, OutputArgs},
    failure::usage,
    model::{self, bytes},
    printer::Printer,
    text,
};

/// Weights are written in files of at most so many bytes, as Hugging Face does.
pub(crate) const SHARD_BYTES: u64 = 5_000_000_000;
/// Logits of the same function in f32 differ by less than this, relative to the largest: sums are
/// taken of other numbers.
const F32_NOISE: f64 = 1e-5;

/// What is to be made at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Made {
    Folder,
    File,
}

/// What happens to what is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    /// It stays, and the verb refuses to go on.
    Kept,
    /// It is replaced, if it is a model.
    Replaced,
}

impl Existing {
    /// What the flag `--force` asks for.
    pub(crate) fn under_force(force: bool) -> Self {
        if force { Self::Replaced } else { Self::Kept }
    }
}

/// Whether a conversion is meant to leave the function of the model as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    Kept,
    Changed,
}

/// Whether `place` is, or holds, a file of the model.
pub(crate) fn holds(place: &Path, checkpoint: &Checkpoint) -> bool {
    let Ok(place) = place.canonicalize() else { return false };
    let inside = |file: &PathBuf| file.canonicalize().is_ok_and(|file| file.starts_with(&place));
    checkpoint.all_files().iter().any(inside)
}

/// Refuses a place that is the source's or that something else holds, and makes the folder that it will
/// be in.
pub(crate) fn check_place(
    checkpoint: &Checkpoint,
    out: &Path,
    existing: Existing,
    made: Made,
) -> anyhow::Result<()> {
    let shown = out.display();
    if made == Made::Folder {
        output::check_folder_name(out)?;
    }
    if holds(out, checkpoint) {
        return Err(usage(format!(
            "--out {shown} holds the source, which is never changed in place; name another place"
        )));
    }
    match out.symlink_metadata() {
        Err(_) => {}
        Ok(found) if found.is_dir() != (made == Made::Folder) => {
            let (is, needed) = match made {
                Made::File => ("a folder", "file"),
                Made::Folder => ("a file", "folder"),
            };
            return Err(usage(format!("--out {shown} is {is}; name a {needed}")));
        }
        // --force is not offered where it would be refused.
        Ok(_) if made == Made::Folder && !is_replaceable(out) => {
            return Err(usage(format!(
                "{shown} is there already and is no model, or holds more than one, and --force \
                 replaces models only: name another folder"
            )));
        }
        Ok(_) if existing == Existing::Kept => {
            return Err(usage(format!(
                "{shown} is there already; name another place, or give --force to replace it"
            )));
        }
        Ok(_) => {}
    }
    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        std::fs::create_dir_all(parent)
            .with_context(|| format!("{} cannot be made", parent.display()))?;
    }
    Ok(())
}

/// Whether a folder is empty or a model's: a mistyped `--out` must not cost anything else.
fn is_replaceable(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    let entries: Vec<_> = entries.flatten().collect();
    let only_files = entries.iter().all(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    let has = |name: &str| folder.join(name).is_file();
    let weights = has("model.safetensors") || has("model.safetensors.index.json");
    entries.is_empty() || only_files && has("config.json") && weights
}

/// The edits of a conversion, for a person or a program.
pub(crate) fn show_edits(conversion: &Conversion<'_>, printer: &Printer) -> anyhow::Result<()> {
    let source = conversion.source();
    let kind = |edit: &TensorEdit| -> Option<String> {
        let Some(name) = &edit.source else { return Some("zeros".to_owned()) };
        let mut what = Vec::new();
        if edit.factor != 1.0 {
            what.push(format!("× {:.9}", edit.factor));
        }
        if *name != edit.name {
            what.push(format!("from {name}"));
        }
        let stored = source.tensor(name).map(|tensor| tensor.dtype);
        if let Some(stored) = stored.filter(|stored| *stored != edit.dtype) {
            what.push(format!("{stored} → {}", edit.dtype));
        }
        (!what.is_empty()).then(|| what.join(", "))
    };
    let edits: Vec<(&TensorEdit, String)> =
        conversion.tensors().iter().filter_map(|edit| Some((edit, kind(edit)?))).collect();
    let lines = edits.iter().map(|(edit, what)| {
        format!("  {:<52} {:<16} {what}\n", edit.name, format!("{:?}", edit.shape))
    });
    let unchanged = conversion.tensors().len() - edits.len();
    let gone: Vec<&str> = source
        .tensors()
        .map(|tensor| tensor.name.as_str())
        .filter(|name| {
            !conversion.tensors().iter().any(|edit| edit.source.as_deref() == Some(*name))
        })
        .collect();
    let gone: String = gone.iter().map(|name| format!("  {name:<52} left out\n")).collect();
    printer.result(&format!(
        "{}\n→ {}\n{}{gone}{} of {} tensors change, {unchanged} are copied; {} are written\n",
        source.spec(),
        conversion.spec(),
        lines.collect::<String>(),
        edits.len(),
        conversion.tensors().len(),
        bytes(conversion.bytes()),
    ))?;
    let tensors: Vec<Value> = conversion
        .tensors()
        .iter()
        .map(|edit| {
            json!({
                "name": edit.name, "shape": edit.shape, "dtype": edit.dtype.name(),
                "source": edit.source, "factor": edit.factor,
            })
        })
        .collect();
    printer.json(&json!({"config": conversion.spec().to_config(), "tensors": tensors}))
}

/// A conversion to be written as a folder.
pub(crate) struct Job<'a> {
    pub(crate) verb: &'static str,
    pub(crate) conversion: Conversion<'a>,
    /// Every option, resolved.
    pub(crate) options: Value,
    /// Files of its own beside the model.
    pub(crate) more: Vec<(&'static str, Vec<u8>)>,
    pub(crate) shard_bytes: u64,
}

impl Job<'_> {
    /// Writes the model into a folder that is not yet in place. The source is hashed meanwhile.
    pub(crate) fn write(
        &self,
        folder: &Path,
        printer: &Printer,
    ) -> anyhow::Result<ProvenanceRecord> {
        let source = self.conversion.source();
        let bar = printer.bytes("Writing", self.conversion.bytes());
        let record = std::thread::scope(|scope| {
            let record = scope.spawn(|| {
                source.provenance(self.verb, self.conversion.spec(), self.options.clone())
            });
            self.conversion.write(folder, self.shard_bytes, &|written| bar.set(written))?;
            match record.join() {
                Ok(record) => record,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })?;
        write_tokenizer(source, folder)?;
        for (name, contents) in &self.more {
            write_file(&folder.join(name), contents)?;
        }
        Ok(record)
    }
}

/// Adds the record of where the model came from, and puts the folder in place.
pub(crate) fn finish(
    folder: NewFolder,
    out: &Path,
    record: &ProvenanceRecord,
) -> anyhow::Result<()> {
    write_file(&folder.path().join(ProvenanceRecord::FILE_NAME), &pretty_json(record)?)?;
    folder.commit().with_context(|| format!("{} was not put in place", out.display()))
}

fn write_file(path: &Path, contents: &[u8]) -> anyhow::Result<()> {
    std::fs::write(path, contents).with_context(|| not_written(path))
}

/// A folder beside `out` that will be there.
pub(crate) fn new_folder(out: &Path, existing: Existing) -> anyhow::Result<NewFolder> {
    let folder = match existing {
        Existing::Replaced => NewFolder::replace(out),
        Existing::Kept => NewFolder::create(out),
    };
    folder.with_context(|| format!("{} cannot be made", out.display()))
}

pub(crate) fn not_written(out: &Path) -> String {
    format!("{} was not written", out.display())
}

/// Refuses options of a measurement where nothing is measured.
pub(crate) fn refuse_idle(cut: &CutArgs, compute: &ComputeArgs) -> anyhow::Result<()> {
    let cuts = cut.window.is_some() || cut.max_tokens.is_some() || cut.bos;
    if cuts || compute.threads.is_some() || compute.stream {
        return Err(usage(
            "--window, --max-tokens, --bos, --threads and --stream are for measuring on --text FILE",
        ));
    }
    Ok(())
}

/// Retrofit, fold or unfold to the end: shown, or written, measured and put in place.
pub(crate) fn run(
    mut job: Job<'_>,
    args: &ConversionArgs,
    function: Function,
    printer: &Printer,
) -> anyhow::Result<()> {
    if let Some(dtype) = args.dtype {
        job.conversion = job.conversion.cast(dtype);
    }
    if args.files.is_empty() {
        refuse_idle(&args.cut, &args.compute)?;
    }
    let rounding = job.conversion.rounding()?;
    let tolerance = Tolerance::of(&rounding);
    if rounding.tensors + rounding.cast > 0 {
        let cast = match rounding.cast {
            0 => String::new(),
            cast => format!(", {cast} other tensors lose precision"),
        };
        printer.note(&format!(
            "{} gains change{cast}. Stored, a number is at most {:.1e} off (relative; gains measured \
             {:.1e}). Expect logits within {:.1e} of the largest.",
            rounding.tensors, rounding.bound, rounding.measured, tolerance.logits,
        ));
    }
    let OutputArgs { out, force, dry_run, .. } = &args.output;
    let existing = Existing::under_force(*force);
    let Some(out) = out.as_ref().filter(|_| !dry_run) else {
        return show_edits(&job.conversion, printer);
    };
    check_place(job.conversion.source(), out, existing, Made::Folder)?;
    let source = job.conversion.source();
    let text = match &args.files[..] {
        [] => None,
        files => Some(text::for_model(source, files, &args.cut, printer)?),
    };
    let folder = new_folder(out, existing)?;
    let mut record = job.write(folder.path(), printer).with_context(|| not_written(out))?;
    if let Some(text) = &text {
        let measured = measure(source, folder.path(), text, &args.compute, printer)?;
        if args.verify && !tolerance.holds(&measured) {
            anyhow::bail!(
                "the logits differ by {:.1e} of the largest and the loss by {:.1e}, more than the \
                 {:.1e} and {:.1e} that rounding explains; {} was not written",
                measured.relative(),
                measured.nll[1] - measured.nll[0],
                tolerance.logits,
                tolerance.nll,
                out.display()
            );
        }
        record.measured = Some(show_comparison(&measured, printer)?);
    }
    finish(folder, out, &record)?;
    if function == Function::Changed {
        printer.note("The function changed: `lns finetune` heals it (docs/surgery.md).");
    }
    printer.result(&format!("model        {}\n", out.display()))?;
    printer.json(&record)
}

/// How far rounding may take a model that should be the same.
struct Tolerance {
    /// Largest difference of two logits over the largest logit.
    logits: f64,
    /// Difference of the losses, in nats per token.
    nll: f64,
}

impl Tolerance {
    /// To first order: every rounded tensor is off by its bound, independently of the others. Losses
    /// average over tokens.
    fn of(rounding: &Rounding) -> Self {
        let tensors = (rounding.tensors + rounding.cast) as f64;
        Self {
            logits: tensors.sqrt() * rounding.bound + F32_NOISE,
            nll: 10.0 * rounding.bound + 1e-4,
        }
    }

    fn holds(&self, measured: &Comparison) -> bool {
        let [before, after] = measured.nll;
        measured.relative() <= self.logits && (after - before).abs() <= self.nll
    }
}

fn show_comparison(measured: &Comparison, printer: &Printer) -> anyhow::Result<Value> {
    let [before, after] = measured.nll;
    printer.result(&format!(
        "nll          {before:.6} → {after:.6} nats per token ({:+.2e})\nperplexity   {:.4} → {:.4}\n\
         logits       largest difference {:.2e}, {:.1e} of the largest logit\n",
        after - before,
        before.exp(),
        after.exp(),
        measured.logit_difference,
        measured.relative(),
    ))?;
    Ok(json!({
        "nll_before": before, "nll_after": after,
        "logit_difference": measured.logit_difference, "largest_logit": measured.largest_logit,
    }))
}

/// Both models on one text.
fn measure(
    source: &Checkpoint,
    result: &Path,
    text: &Windows,
    compute: &ComputeArgs,
    printer: &Printer,
) -> anyhow::Result<Comparison> {
    let workers = model::workers(compute.threads)?;
    let load = |checkpoint: Checkpoint| -> anyhow::Result<Box<dyn LayerSource>> {
        model::load_quietly(checkpoint, compute)
    };
    let models = [load(Checkpoint::open(source.path())?)?, load(Checkpoint::open(result)?)?];
    let work: u64 = models.iter().map(|model| lns_score::work(&**model, &text.windows)).sum();
    let per_pass = text.window as f64 / models[0].spec().num_hidden_layers as f64;
    let progress = printer.progress("Comparing", work, per_pass);
    let advance = |passes| progress.advance(passes);
    Ok(compare([&*models[0], &*models[1]], &text.windows, &workers, &advance)?)
}
