//! `lns retrofit`: a Pre-LN model on disk given LayerNorm Scaling.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use lns_model::Retrofit;
use lns_spec::DepthScale;
use lns_train::ranges::STEPS;

use super::{
    Verb,
    convert::{self, Function},
};
use crate::{
    arguments::{ConversionArgs, ScaleArgs, numbers::whole},
    failure::usage,
    model,
    printer::Printer,
};

/// How a model takes LayerNorm Scaling, by name: with --steps this is a [`Retrofit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum RetrofitMode {
    /// Gains times √ℓ together with the scale: the function stays
    Preserve,
    /// The scale alone: the function changes, which --text measures
    Replace,
    /// The scale is brought in over the first steps of `lns finetune`
    Anneal,
}

/// Give a trained Pre-LN model LayerNorm Scaling
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  lns retrofit SmolLM2 --out SmolLM2-lns --dry-run\n  lns retrofit \
SmolLM2 --out SmolLM2-lns --verify --text book.txt\n  lns retrofit SmolLM2 --out annealed --mode anneal \
--steps 50 && lns finetune annealed --text books/ --out healed"
)]
pub(crate) struct RetrofitArgs {
    /// Folder, .gguf file, or .safetensors file of a plain Pre-LN model
    pub(crate) model: PathBuf,

    /// How the model takes the scale
    #[arg(long, value_name = "MODE", default_value = "preserve")]
    pub(crate) mode: RetrofitMode,

    /// Steps of a fine-tune over which `anneal` brings the scale in (1–1000000000)
    #[arg(long, value_name = "N", value_parser = whole::<u64>(STEPS))]
    pub(crate) steps: Option<u64>,

    #[command(flatten)]
    pub(crate) scale: ScaleArgs,

    #[command(flatten)]
    pub(crate) conversion: ConversionArgs,
}

impl Verb for RetrofitArgs {
    fn texts(&mut self) -> Vec<&mut Vec<PathBuf>> {
        vec![&mut self.conversion.files]
    }

    fn prints_json(&self) -> bool {
        self.conversion.output.json
    }

    fn run(&self, printer: &Printer) -> anyhow::Result<ExitCode> {
        run(self, printer).map(|()| ExitCode::SUCCESS)
    }
}

/// What the flags ask for, if they make sense together.
fn valid(args: &RetrofitArgs) -> anyhow::Result<Retrofit> {
    let mode = match (args.mode, args.steps) {
        (RetrofitMode::Anneal, Some(steps)) => Retrofit::Anneal { steps },
        (RetrofitMode::Anneal, None) => {
            return Err(usage("--mode anneal: give --steps N, over how many steps of a fine-tune"));
        }
        (_, Some(_)) => return Err(usage("--steps is for --mode anneal only")),
        (RetrofitMode::Preserve, None) => Retrofit::Preserve,
        (RetrofitMode::Replace, None) => Retrofit::Replace,
    };
    let conversion = &args.conversion;
    if mode == Retrofit::Replace && conversion.files.is_empty() && !conversion.output.dry_run {
        return Err(usage(
            "--mode replace changes what the model computes; give --text FILE to measure by how much",
        ));
    }
    if mode == Retrofit::Replace && conversion.verify {
        return Err(usage("--verify: --mode replace is not meant to leave the function alone"));
    }
    Ok(mode)
}

fn run(args: &RetrofitArgs, printer: &Printer) -> anyhow::Result<()> {
    let mode = valid(args)?;
    let checkpoint = model::open(&args.model)?;
    let scale = args.scale.over(DepthScale::default());
    let job = lns_convert::retrofit(&checkpoint, mode, scale)?;
    let function = match mode {
        Retrofit::Preserve | Retrofit::Anneal { .. } => Function::Kept,
        Retrofit::Replace => Function::Changed,
    };
    convert::run(job, &args.conversion, function, printer)
}
