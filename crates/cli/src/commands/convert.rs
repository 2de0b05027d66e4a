//! What retrofit, fold, unfold, prune and export share on the command line: a place that is checked
//! before the work, edits that are shown, and what was measured in words.

use std::{collections::HashSet, path::Path};

use anyhow::Context;
use lns_checkpoint::{Checkpoint, Conversion, TensorEdit};
use lns_convert::{Existing, Job, Made, PlaceError, Tolerance, Written};
use lns_record::ProvenanceRecord;
use lns_score::Comparison;
use lns_show::with_minus;
use lns_spec::StoredTensor;
use serde_json::{Value, json};

use super::output;
use crate::{
    arguments::{ComputeArgs, ConversionArgs, CutArgs, OutputArgs},
    failure::usage,
    model::bytes,
    printer::Printer,
    text,
};

/// What the flag `--force` asks for.
pub(crate) fn under_force(force: bool) -> Existing {
    if force { Existing::Replaced } else { Existing::Kept }
}

/// Whether a conversion is meant to leave the function of the model as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    Kept,
    Changed,
}

/// Refuses a place before the work, in the words of the flags.
pub(crate) fn check_place(
    checkpoint: &Checkpoint,
    out: &Path,
    existing: Existing,
    made: Made,
) -> anyhow::Result<()> {
    if made == Made::Folder {
        output::check_folder_name(out)?;
    }
    lns_convert::check_place(checkpoint, out, existing, made).map_err(|error| {
        let shown = out.display();
        match error {
            PlaceError::HoldsSource { .. }
            | PlaceError::Folder { .. }
            | PlaceError::File { .. } => usage(format!("--out {error}")),
            // --force is not offered where it would be refused.
            PlaceError::NoModel { .. } => usage(format!(
                "{shown} is there already and is no model, or holds more than one, and --force \
                 replaces models only: name another folder"
            )),
            PlaceError::Taken { .. } => usage(format!(
                "{shown} is there already; name another place, or give --force to replace it"
            )),
            other => other.into(),
        }
    })
}

/// The edits of a conversion, for a person or a program.
pub(crate) fn show_edits(conversion: &Conversion<'_>, printer: &Printer) -> anyhow::Result<()> {
    let source = conversion.source();
    let kind = |edit: &TensorEdit| -> Option<String> {
        let Some(from) = &edit.source else { return Some("zeros".to_owned()) };
        let mut what = Vec::new();
        if edit.factor != 1.0 {
            what.push(format!("× {:.9}", edit.factor));
        }
        if from.name != edit.tensor.name {
            what.push(format!("from {}", from.name));
        }
        let stored = conversion.stored_as(edit);
        if let Some(stored) = stored.filter(|stored| *stored != edit.dtype) {
            what.push(format!("{stored} → {}", edit.dtype));
        }
        (!what.is_empty()).then(|| what.join(", "))
    };
    let edits: Vec<(&TensorEdit, String)> =
        conversion.tensors().iter().filter_map(|edit| Some((edit, kind(edit)?))).collect();
    let lines = edits.iter().map(|(edit, what)| {
        let StoredTensor { name, shape, .. } = &edit.tensor;
        format!("  {name:<52} {:<16} {what}\n", format!("{shape:?}"))
    });
    let unchanged = conversion.tensors().len() - edits.len();
    let sources = conversion.tensors().iter().filter_map(|edit| edit.source.as_ref());
    let parts = sources.flat_map(|from| &from.parts);
    let kept: HashSet<&str> =
        parts.filter_map(|part| source.holder(part)).map(|held| held.name.as_str()).collect();
    let gone = source.tensors().map(|tensor| tensor.name.as_str());
    let gone: String = gone
        .filter(|name| !kept.contains(name))
        .map(|name| format!("  {name:<52} left out\n"))
        .collect();
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
                "name": edit.tensor.name, "shape": edit.tensor.shape, "dtype": edit.dtype.name(),
                "source": edit.source.as_ref().map(|from| &from.name), "factor": edit.factor,
            })
        })
        .collect();
    printer.json(&json!({"config": conversion.spec().to_config(), "tensors": tensors}))
}

/// Writes a job's model beside its place, showing how far it is.
pub(crate) fn write<'a>(
    job: &Job<'a>,
    out: &Path,
    existing: Existing,
    printer: &Printer,
) -> anyhow::Result<Written<'a>> {
    let bar = printer.bytes("Writing", job.conversion.bytes());
    job.write(out, existing, &|written| bar.set(written)).with_context(|| not_written(out))
}

pub(crate) fn not_written(out: &Path) -> String {
    format!("{} was not written", out.display())
}

/// Where the model is now, and where it came from.
pub(crate) fn show_result(
    out: &Path,
    record: &ProvenanceRecord,
    printer: &Printer,
) -> anyhow::Result<()> {
    printer.result(&format!("model        {}\n", out.display()))?;
    printer.json(record)
}

/// Refuses options of a measurement where nothing is measured.
pub(crate) fn refuse_idle(cut: &CutArgs, compute: &ComputeArgs) -> anyhow::Result<()> {
    let cuts = cut.window.is_some() || cut.max_tokens.is_some() || cut.bos.given().is_some();
    if cuts || compute.threads.is_some() || compute.stream {
        return Err(usage(
            "--window, --max-tokens, --bos, --no-bos, --threads and --stream are for measuring on --text \
             FILE",
        ));
    }
    Ok(())
}

/// Retrofit, fold or unfold to the end: shown, or written, measured and put in place.
pub(crate) fn run(
    job: Job<'_>,
    args: &ConversionArgs,
    function: Function,
    printer: &Printer,
) -> anyhow::Result<()> {
    let job = job.stored_as(args.dtype);
    if args.files.is_empty() {
        refuse_idle(&args.cut, &args.compute)?;
    }
    let tolerance = expected(&job.conversion, printer)?;
    let OutputArgs { out, force, dry_run, .. } = &args.output;
    let Some(out) = out.as_ref().filter(|_| !dry_run) else {
        return show_edits(&job.conversion, printer);
    };
    let (source, existing) = (job.conversion.source(), under_force(*force));
    check_place(source, out, existing, Made::Folder)?;
    let text = match &args.files[..] {
        [] => None,
        files => Some(text::for_model(source, files, &args.cut, printer)?),
    };
    let mut written = write(&job, out, existing, printer)?;
    if let Some(text) = &text {
        let compute = args.compute.compute()?;
        let found = {
            let per_pass = text.window as f64 / source.spec().num_hidden_layers as f64;
            let progress = printer.progress("Comparing", written.work(text), per_pass);
            let advance = |passes| progress.advance(passes);
            written.compare(text, &compute, args.compute.layers(), &advance)?
        };
        if args.verify {
            tolerance.require(&found).with_context(|| not_written(out))?;
        }
        show_comparison(&found, printer)?;
    }
    let record = written.commit()?;
    if function == Function::Changed {
        printer.note("The function changed: `lns finetune` heals it (docs/surgery.md).");
    }
    show_result(out, &record, printer)
}

/// How far rounding may take the result from its source, said where it may.
fn expected(conversion: &Conversion<'_>, printer: &Printer) -> anyhow::Result<Tolerance> {
    let rounding = conversion.rounding()?;
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
    Ok(tolerance)
}

fn show_comparison(found: &Comparison, printer: &Printer) -> anyhow::Result<()> {
    let [before, after] = found.nll;
    printer.result(&format!(
        "nll          {before:.6} → {after:.6} nats per token ({})\nperplexity   {:.4} → {:.4}\n\
         logits       largest difference {:.2e}, {:.1e} of the largest logit\n",
        with_minus(&format!("{:+.2e}", after - before)),
        before.exp(),
        after.exp(),
        found.logit_difference,
        found.relative(),
    ))
}
