//! `lns export`: a model as other programs read it.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::{Args, builder::TypedValueParser};
use lns_checkpoint::{
    Checkpoint, CheckpointError, Conversion, GgufOptions, GgufTokenizer, StorageType, gguf_tensors,
    write_gguf,
};
use lns_record::{NewFile, ProvenanceRecord};
use lns_spec::NormScheme;
use lns_tokenizer::gguf_tokenizer;
use serde_json::json;

use super::{
    Verb,
    convert::{self, Existing, Job, Made},
    output,
};
use crate::{
    arguments::{names::one_of, numbers::positive},
    failure::usage,
    model::{self, bytes},
    printer::Printer,
};

/// Write a model as safetensors or GGUF, for other programs
#[derive(Debug, Args)]
#[command(
    after_long_help = "A model with LayerNorm Scaling is folded, and branches that were pruned become \
zeros: what is written runs everywhere.\n\nExamples:\n  lns export MODEL --out model.gguf --dtype \
q8_0\n  lns export MODEL.gguf --out folder --dtype bf16"
)]
pub(crate) struct ExportArgs {
    /// Folder, .gguf file, or .safetensors file
    pub(crate) model: PathBuf,

    /// A file that ends in .gguf, or a folder for safetensors
    #[arg(long, value_name = "PATH", required_unless_present = "dry_run")]
    pub(crate) out: Option<PathBuf>,

    /// Type of the numbers; f16 for GGUF and the source's for safetensors if not given
    #[arg(long, value_name = "TYPE", value_parser = exported_type())]
    pub(crate) dtype: Option<StorageType>,

    /// Largest safetensors file, in GB (above 0)
    #[arg(long, value_name = "GB", default_value_t = 5.0, value_parser = positive(f64::MAX))]
    pub(crate) shard_size: f64,

    #[command(flatten)]
    pub(crate) output: ExportOutputArgs,
}

impl Verb for ExportArgs {
    fn prints_json(&self) -> bool {
        self.output.json
    }

    fn run(&self, printer: &Printer) -> anyhow::Result<ExitCode> {
        run(self, printer).map(|()| ExitCode::SUCCESS)
    }
}

/// What happens to what is there, what is written, and what is printed of it.
#[derive(Debug, Clone, Args)]
pub(crate) struct ExportOutputArgs {
    /// Replace what is at --out
    #[arg(long)]
    pub(crate) force: bool,

    /// Say what would be written, and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Print the record of where the model came from as JSON; with --dry-run the tensors
    #[arg(long)]
    pub(crate) json: bool,
}

/// How numbers are stored in an exported file.
fn exported_type() -> impl TypedValueParser<Value = StorageType> {
    one_of([
        ("f32", StorageType::F32, "4 bytes a number"),
        ("f16", StorageType::F16, "2 bytes, 11 bits of precision; GGUF's default"),
        ("bf16", StorageType::BF16, "2 bytes, the range of f32, 8 bits of precision"),
        ("q8_0", StorageType::Q8_0, "GGUF only: 8 bits and a scale for 32 numbers"),
    ])
}

/// What is written.
enum Target {
    /// A file whose matrices are of this type.
    Gguf(StorageType),
    /// A folder, all of whose numbers are of this type, or each as in the source.
    Safetensors(Option<StorageType>),
}

impl Target {
    /// What the flags ask for, if they make sense together.
    fn valid(args: &ExportArgs) -> anyhow::Result<Self> {
        let is_gguf = |out: &PathBuf| {
            out.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
        };
        match (&args.out, args.dtype) {
            (Some(out), dtype) if is_gguf(out) => Ok(Self::Gguf(dtype.unwrap_or(StorageType::F16))),
            (None, Some(StorageType::Q8_0)) => Ok(Self::Gguf(StorageType::Q8_0)),
            (out, dtype) => {
                out.as_deref().map(output::check_folder_name).transpose()?;
                if dtype == Some(StorageType::Q8_0) {
                    return Err(usage("--dtype q8_0 is for GGUF: let --out end in .gguf"));
                }
                Ok(Self::Safetensors(dtype))
            }
        }
    }
}

fn run(args: &ExportArgs, printer: &Printer) -> anyhow::Result<()> {
    let target = Target::valid(args)?;
    let checkpoint = model::open(&args.model)?;
    let spec = checkpoint.spec();
    let conversion = Conversion::of(&checkpoint)?.for_stock_runtimes()?;
    if !spec.is_stock() {
        printer.note(&format!("Folded: {spec} → {}.", conversion.spec().norm_scheme));
    }
    match target {
        Target::Gguf(dtype) => gguf(args, dtype, conversion, printer),
        Target::Safetensors(dtype) => safetensors(args, dtype, conversion, printer),
    }
}

fn safetensors(
    args: &ExportArgs,
    dtype: Option<StorageType>,
    mut conversion: Conversion<'_>,
    printer: &Printer,
) -> anyhow::Result<()> {
    if let Some(dtype) = dtype {
        conversion = conversion.cast(dtype);
    }
    let Some(out) = args.out.as_ref().filter(|_| !args.output.dry_run) else {
        return convert::show_edits(&conversion, printer);
    };
    let existing = Existing::under_force(args.output.force);
    convert::check_place(conversion.source(), out, existing, Made::Folder)?;
    let dtype = dtype.map(StorageType::name);
    let options = json!({
        "format": "safetensors", "dtype": dtype, "shard_gb": args.shard_size,
        "folded": folded(&conversion),
    });
    let shard_bytes = (args.shard_size * 1e9) as u64;
    let job = Job { verb: "export", conversion, options, more: vec![], shard_bytes };
    let folder = convert::new_folder(out, existing)?;
    let record = job.write(folder.path(), printer).with_context(|| convert::not_written(out))?;
    convert::finish(folder, out, &record)?;
    printer.result(&format!("model        {}\n", out.display()))?;
    printer.json(&record)
}

fn gguf(
    args: &ExportArgs,
    dtype: StorageType,
    conversion: Conversion<'_>,
    printer: &Printer,
) -> anyhow::Result<()> {
    let spec = conversion.spec();
    let tensors = gguf_tensors(spec, dtype)?;
    let Some(out) = args.out.as_ref().filter(|_| !args.output.dry_run) else {
        return show(&conversion, &tensors, printer);
    };
    let existing = Existing::under_force(args.output.force);
    convert::check_place(conversion.source(), out, existing, Made::File)?;
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
