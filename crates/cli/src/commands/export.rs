//! `lns export`: a model as other programs read it.

use std::{collections::HashMap, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Args, builder::TypedValueParser};
use lns_checkpoint::{Conversion, StorageType};
use lns_convert::{GgufExport, Job, Made, export, export_gguf};
use lns_spec::RopeScaling;
use serde_json::json;

use super::{Verb, convert, output};
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
        (
            "mxfp4",
            StorageType::MXFP4,
            "GGUF only: 4 bits and a power of two for 32 numbers of experts, bf16 for the others; the default \
             where experts are stored so",
        ),
    ])
}

/// What is written.
enum Target {
    /// A file whose matrices are of this type, or of the usual one.
    Gguf(Option<StorageType>),
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
            (Some(out), dtype) if is_gguf(out) => Ok(Self::Gguf(dtype)),
            (out, Some(dtype @ (StorageType::Q8_0 | StorageType::MXFP4))) => match out {
                None => Ok(Self::Gguf(Some(dtype))),
                Some(_) => Err(usage(format!(
                    "--dtype {} is for GGUF: let --out end in .gguf",
                    dtype.name().to_lowercase()
                ))),
            },
            (out, dtype) => {
                out.as_deref().map(output::check_folder_name).transpose()?;
                Ok(Self::Safetensors(dtype))
            }
        }
    }
}

fn run(args: &ExportArgs, printer: &Printer) -> anyhow::Result<()> {
    let target = Target::valid(args)?;
    let checkpoint = model::open(&args.model)?;
    match target {
        Target::Gguf(dtype) => gguf(args, &export_gguf(&checkpoint, dtype)?, printer),
        Target::Safetensors(dtype) => {
            safetensors(args, &export(&checkpoint, dtype, args.shard_size)?, printer)
        }
    }
}

/// A note when the model was folded.
fn note_folding(conversion: &Conversion<'_>, printer: &Printer) {
    let spec = conversion.source().spec();
    if !spec.is_stock() {
        printer.note(&format!("Folded: {spec} → {}.", conversion.spec().norm_scheme));
    }
}

fn safetensors(args: &ExportArgs, job: &Job<'_>, printer: &Printer) -> anyhow::Result<()> {
    note_folding(&job.conversion, printer);
    let Some(out) = args.out.as_ref().filter(|_| !args.output.dry_run) else {
        return convert::show_edits(&job.conversion, printer);
    };
    let existing = convert::under_force(args.output.force);
    convert::check_place(job.conversion.source(), out, existing, Made::Folder)?;
    let record = convert::write(job, out, existing, printer)?.commit()?;
    convert::show_result(out, &record, printer)
}

fn gguf(args: &ExportArgs, export: &GgufExport<'_>, printer: &Printer) -> anyhow::Result<()> {
    let source = export.conversion.source();
    note_folding(&export.conversion, printer);
    let Some(out) = args.out.as_ref().filter(|_| !args.output.dry_run) else {
        return show(export, printer);
    };
    let existing = convert::under_force(args.output.force);
    convert::check_place(source, out, existing, Made::File)?;
    let tokenizer = export.tokenizer()?;
    if tokenizer.is_none() {
        printer.note(&format!(
            "{} has no tokenizer: the file will have none either.",
            source.path().display()
        ));
    }
    let spec = export.conversion.spec();
    let exact = spec.family.gguf().is_some_and(|gguf| gguf.exact_yarn);
    if exact && matches!(spec.rope.scaling, RopeScaling::Yarn { .. }) {
        printer.note(
            "llama.cpp rounds the ends of YaRN's range in every file of this architecture, the original \
             model does not: its losses differ a little.",
        );
    }
    let name = model::short_name(source.path());
    let bar = printer.bytes("Writing", export.bytes());
    let record = export
        .write(out, existing, &name, tokenizer.as_ref(), &|written| bar.set(written))
        .with_context(|| convert::not_written(out))?;
    drop(bar);
    printer.result(&format!("model        {} ({})\n", out.display(), bytes(export.bytes())))?;
    printer.json(&record)
}

fn show(export: &GgufExport<'_>, printer: &Printer) -> anyhow::Result<()> {
    let GgufExport { conversion, tensors, .. } = export;
    let factors: HashMap<&str, f64> =
        conversion.tensors().iter().map(|edit| (&edit.tensor.name[..], edit.factor)).collect();
    let lines: String = tensors
        .iter()
        .map(|tensor| {
            let shape = format!("{:?}", tensor.shape);
            let source = tensor.source.as_ref().map_or("", |source| &source.name[..]);
            let factor = factors.get(source).copied().unwrap_or(1.0);
            let factor = if factor == 1.0 { String::new() } else { format!(" × {factor:.9}") };
            format!("  {:<28} {shape:<16} {:<5} {source}{factor}\n", tensor.name, tensor.dtype)
        })
        .collect();
    printer.result(&format!(
        "{}\n{lines}{} tensors, {}\n",
        conversion.spec(),
        tensors.len(),
        bytes(export.bytes())
    ))?;
    let list: Vec<_> = tensors
        .iter()
        .map(|t| {
            json!({"name": t.name, "shape": t.shape, "dtype": t.dtype.name(), "source": t.source})
        })
        .collect();
    printer.json(&json!({"tensors": list}))
}
