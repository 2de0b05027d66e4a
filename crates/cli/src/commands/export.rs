//! `lns export`: a model as other programs read it.

use std::path::Path;

use anyhow::Context;
use lns_checkpoint::{
    Checkpoint, CheckpointError, Conversion, GgufOptions, GgufTokenizer, StorageType, gguf_tensors,
    write_gguf,
};
use lns_data::gguf_tokenizer;
use lns_record::{NewFile, ProvenanceRecord};
use lns_spec::NormScheme;
use serde_json::json;

use super::{
    convert::{self, Job},
    output,
};
use crate::{
    arguments::{ExportArgs, ExportType},
    failure::usage,
    model::{self, bytes},
    printer::Printer,
};

impl ExportType {
    fn storage(self) -> StorageType {
        match self {
            Self::F32 => StorageType::F32,
            Self::F16 => StorageType::F16,
            Self::Bf16 => StorageType::BF16,
            Self::Q8_0 => StorageType::Q8_0,
        }
    }
}

pub(crate) fn run(args: &ExportArgs, printer: &Printer) -> anyhow::Result<()> {
    let checkpoint = model::open(&args.model)?;
    let spec = checkpoint.spec();
    let conversion = Conversion::of(&checkpoint)?.for_stock_runtimes()?;
    if !spec.is_stock() {
        printer.note(&format!("Folded: {spec} → {}.", conversion.spec().norm_scheme));
    }
    let ends = |path: &Path, with: &str| {
        path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(with))
    };
    match &args.out {
        Some(out) if ends(out, "gguf") => gguf(args, conversion, Some(out), printer),
        Some(out) => {
            output::check_folder_name(out)?;
            safetensors(args, conversion, printer)
        }
        None if args.dtype == Some(ExportType::Q8_0) => gguf(args, conversion, None, printer),
        None => safetensors(args, conversion, printer),
    }
}

fn safetensors(
    args: &ExportArgs,
    mut conversion: Conversion<'_>,
    printer: &Printer,
) -> anyhow::Result<()> {
    if args.dtype == Some(ExportType::Q8_0) {
        return Err(usage("--dtype q8_0 is for GGUF: let --out end in .gguf"));
    }
    let dtype = args.dtype.map(ExportType::storage);
    if let Some(dtype) = dtype {
        conversion = conversion.cast(dtype);
    }
    let force = args.output.force;
    let Some(out) = args.out.as_ref().filter(|_| !args.output.dry_run) else {
        return convert::show_edits(&conversion, printer);
    };
    convert::check_place(conversion.source(), out, force, false)?;
    let dtype = dtype.map(StorageType::name);
    let options = json!({
        "format": "safetensors", "dtype": dtype, "shard_gb": args.shard_size,
        "folded": folded(&conversion),
    });
    let shard_bytes = (args.shard_size * 1e9) as u64;
    let job = Job { verb: "export", conversion, options, more: vec![], shard_bytes };
    let folder = convert::new_folder(out, force)?;
    let record = job.write(folder.path(), printer).with_context(|| convert::not_written(out))?;
    convert::finish(folder, out, &record)?;
    printer.result(&format!("model        {}\n", out.display()))?;
    printer.json(&record)
}

fn gguf(
    args: &ExportArgs,
    conversion: Conversion<'_>,
    out: Option<&Path>,
    printer: &Printer,
) -> anyhow::Result<()> {
    let dtype = args.dtype.unwrap_or(ExportType::F16).storage();
    let spec = conversion.spec();
    let tensors = gguf_tensors(spec, dtype)?;
    let Some(out) = out.filter(|_| !args.output.dry_run) else {
        return show(&conversion, &tensors, printer);
    };
    convert::check_place(conversion.source(), out, args.output.force, true)?;
    let tokenizer = tokenizer(conversion.source(), spec.vocab_size, printer)?;
    let name = model::short_name(conversion.source().path());
    let told = json!({"format": "gguf", "dtype": dtype.name(), "folded": folded(&conversion)});
    let record = conversion.source().provenance("export", spec, told)?;
    let provenance = serde_json::to_string(&record)?;
    let options = GgufOptions {
        name: &name,
        dtype,
        tokenizer: tokenizer.as_ref(),
        provenance: Some(&provenance),
    };
    let total = tensors.iter().map(lns_checkpoint::GgufTensor::bytes).sum();
    let bar = printer.bytes("Writing", total);
    let file = NewFile::create(out, args.output.force)
        .with_context(|| format!("{} cannot be made", out.display()))?;
    let mut read = |tensor: &lns_spec::StoredTensor| -> Result<Vec<f32>, CheckpointError> {
        conversion.read_f32(&tensor.name, &tensor.shape)
    };
    write_gguf(file.path(), spec, &options, &mut read, &|written| bar.set(written))
        .with_context(|| convert::not_written(out))?;
    drop(bar);
    file.commit().with_context(|| format!("{} was not put in place", out.display()))?;
    remove_older_record(out);
    printer.result(&format!("model        {} ({})\n", out.display(), bytes(total)))?;
    printer.json(&record)
}

/// Earlier versions put the record beside the file: that of the file which was replaced goes with it.
fn remove_older_record(out: &Path) {
    let beside = ProvenanceRecord::beside(out);
    if ProvenanceRecord::read(&beside).is_some() {
        let _ = std::fs::remove_file(beside);
    }
}

/// The scheme that was folded away, if one was.
fn folded(conversion: &Conversion<'_>) -> Option<NormScheme> {
    let spec = conversion.source().spec();
    (spec.norm_scheme != spec.family.own_scheme()).then(|| spec.norm_scheme.clone())
}

/// The model's tokenizer, of as many tokens as the embedding has rows.
fn tokenizer(
    source: &Checkpoint,
    vocab_size: usize,
    printer: &Printer,
) -> anyhow::Result<Option<GgufTokenizer>> {
    let tokenizer = gguf_tokenizer(source)?;
    if tokenizer.is_none() {
        printer.note(&format!(
            "{} has no tokenizer: the file will have none either.",
            source.path().display()
        ));
    }
    let known = tokenizer.as_ref().map_or(vocab_size, |tokenizer| tokenizer.tokens.len());
    if known != vocab_size {
        return Err(usage(format!(
            "the tokenizer has {known} tokens and the embedding {vocab_size} rows; a GGUF file needs as \
             many of one as of the other"
        )));
    }
    Ok(tokenizer)
}

fn show(
    conversion: &Conversion<'_>,
    tensors: &[lns_checkpoint::GgufTensor],
    printer: &Printer,
) -> anyhow::Result<()> {
    let lines: String = tensors
        .iter()
        .map(|tensor| {
            let shape = format!("{:?}", tensor.shape);
            let source = tensor.source.as_ref().map_or("", |source| &source.name);
            let factor = conversion.tensors().iter().find(|edit| edit.name == source);
            let factor = factor.map_or(1.0, |edit| edit.factor);
            let factor = if factor == 1.0 { String::new() } else { format!(" × {factor:.9}") };
            format!("  {:<28} {shape:<16} {:<5} {source}{factor}\n", tensor.name, tensor.dtype)
        })
        .collect();
    let total = tensors.iter().map(lns_checkpoint::GgufTensor::bytes).sum();
    printer.result(&format!(
        "{}\n{lines}{} tensors, {}\n",
        conversion.spec(),
        tensors.len(),
        bytes(total)
    ))?;
    let list: Vec<_> = tensors
        .iter()
        .map(|t| {
            json!({"name": t.name, "shape": t.shape, "dtype": t.dtype.name(), "source": t.source})
        })
        .collect();
    printer.json(&json!({"tensors": list}))
}
