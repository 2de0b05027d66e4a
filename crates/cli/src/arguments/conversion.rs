//! The flags of verbs that make a model from another.

use std::path::PathBuf;

use clap::{Args, builder::TypedValueParser};
use lns_checkpoint::StorageType;

use super::{ComputeArgs, CutArgs, names::one_of};

/// Where a model goes that is made from another.
#[derive(Debug, Clone, Args)]
pub(crate) struct OutputArgs {
    /// Folder to make; the source is never changed
    #[arg(long, value_name = "DIR", required_unless_present = "dry_run")]
    pub(crate) out: Option<PathBuf>,

    /// Replace what is at --out
    #[arg(long)]
    pub(crate) force: bool,

    /// Say what would be done, every edit with names, factors and shapes, and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Print the record of where the model came from as JSON; with --dry-run the edits
    #[arg(long)]
    pub(crate) json: bool,
}

/// How numbers are stored in safetensors.
pub(crate) fn stored_type() -> impl TypedValueParser<Value = StorageType> {
    one_of([
        ("f32", StorageType::F32, "4 bytes a number"),
        ("bf16", StorageType::BF16, "2 bytes, the range of f32, 8 bits of precision"),
        ("f16", StorageType::F16, "2 bytes, up to 65,504, 11 bits of precision"),
    ])
}

/// What retrofit, fold and unfold take: the same model in other numbers, and whether to measure it.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConversionArgs {
    #[command(flatten)]
    pub(crate) output: OutputArgs,

    /// Store the result so; as the source does if not given, GGUF blocks as f32
    #[arg(long, value_name = "TYPE", value_parser = stored_type())]
    pub(crate) dtype: Option<StorageType>,

    /// Measure what the conversion did to loss and logits on this text
    #[arg(long = "text", value_name = "FILE", num_args = 1..)]
    pub(crate) files: Vec<PathBuf>,

    /// Fail, and write nothing, if the logits on --text differ by more than rounding explains
    #[arg(long, requires = "files")]
    pub(crate) verify: bool,

    #[command(flatten)]
    pub(crate) cut: CutArgs,

    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
}
