//! A checkpoint opened for computing: in memory, or layer by layer from disk.

use std::{num::NonZeroUsize, path::Path, time::Instant};

use layernorm_scaling::{Decoder, LayerSource, StreamingDecoder};
use lns_checkpoint::Checkpoint;
use lns_data::{Tokenizer, model_tokenizer};
use lns_kernels::Workers;
use lns_spec::ModelSpec;
use lns_train::{available_memory, ranges::THREADS};

use crate::{
    arguments::{ComputeArgs, PlaceArgs},
    failure::usage,
    printer::Printer,
};

/// The model's own tokenizer.
pub(crate) fn tokenizer(checkpoint: &Checkpoint) -> anyhow::Result<Tokenizer> {
    model_tokenizer(checkpoint)?.ok_or_else(|| {
        usage(format!(
            "{} has no tokenizer; put the model's tokenizer.json beside its weights",
            checkpoint.path().display()
        ))
    })
}

/// A note when the tokenizer knows more tokens than the model: such ids are refused where they occur.
pub(crate) fn compare_vocabularies(spec: &ModelSpec, tokenizer: &Tokenizer, printer: &Printer) {
    let (known, rows) = (tokenizer.vocab_size(), spec.vocab_size);
    if known > rows {
        printer.note(&format!(
            "The tokenizer has {known} tokens, the model's embedding {rows} rows; text that needs one \
             of the others is refused."
        ));
    }
}

/// Loads the model, or arranges to read it layer by layer when it is too large or `--stream` says so.
pub(crate) fn load(
    checkpoint: Checkpoint,
    compute: &ComputeArgs,
    printer: &Printer,
) -> anyhow::Result<Box<dyn LayerSource>> {
    let needed = f32_bytes(checkpoint.spec());
    if compute.stream || is_too_large(checkpoint.spec()) {
        let why = if compute.stream { "as asked" } else { "it would fill half of the free memory" };
        printer.note(&format!(
            "Reading layers from disk one at a time ({why}; all at once would take {}).",
            bytes(needed)
        ));
        let decoder = StreamingDecoder::new(checkpoint, compute.place.device.clone())?;
        return Ok(Box::new(decoder.with_precision(compute.place.precision)));
    }
    let start = Instant::now();
    let decoder = Decoder::from_checkpoint(&checkpoint, &compute.place.device)?;
    printer.note(&format!(
        "Loaded {} ({}, {} in memory) in {:.1} s.",
        checkpoint.path().display(),
        checkpoint.spec(),
        bytes(needed),
        start.elapsed().as_secs_f64()
    ));
    Ok(Box::new(decoder.with_precision(compute.place.precision)))
}

/// As [`load`], saying nothing.
pub(crate) fn load_quietly(
    checkpoint: Checkpoint,
    compute: &ComputeArgs,
) -> anyhow::Result<Box<dyn LayerSource>> {
    load(checkpoint, compute, &Printer::new(true, false))
}

/// The whole model in memory, for what cannot be done layer by layer.
pub(crate) fn load_whole(checkpoint: &Checkpoint, place: &PlaceArgs) -> anyhow::Result<Decoder> {
    let spec = checkpoint.spec();
    if is_too_large(spec) {
        return Err(usage(format!(
            "{} needs {} in memory, more than half of what is free; use a smaller model or a larger \
             machine",
            checkpoint.path().display(),
            bytes(f32_bytes(spec))
        )));
    }
    let decoder = Decoder::from_checkpoint(checkpoint, &place.device)?;
    Ok(decoder.with_precision(place.precision))
}

/// Whether the weights would fill more than half of the free memory.
fn is_too_large(spec: &ModelSpec) -> bool {
    available_memory().is_some_and(|available| f32_bytes(spec) > available / 2)
}

/// A short name for output folders: the folder's or file's own.
pub(crate) fn short_name(path: &Path) -> String {
    let resolved = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = if resolved.is_dir() { resolved.file_name() } else { resolved.file_stem() };
    name.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Worker threads: as many as asked for, or one per core.
pub(crate) fn workers(threads: Option<usize>) -> anyhow::Result<Workers> {
    Ok(Workers::new(thread_count(threads))?)
}

/// The number of threads to use.
pub(crate) fn thread_count(threads: Option<usize>) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    threads.unwrap_or_else(|| cores().min(*THREADS.end() as usize))
}

/// Bytes of the weights once they are f32 in memory.
pub(crate) fn f32_bytes(spec: &ModelSpec) -> u64 {
    spec.parameter_count().total() * 4
}

/// A size for a person.
pub(crate) fn bytes(count: u64) -> String {
    let count = count as f64;
    match count {
        c if c >= 1e9 => format!("{:.2} GB", c / 1e9),
        c if c >= 1e6 => format!("{:.1} MB", c / 1e6),
        c => format!("{:.1} kB", c / 1e3),
    }
}
