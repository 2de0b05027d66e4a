//! `lns unfold`: LayerNorm Scaling taken out of the gains again.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use lns_convert::folded_from;
use lns_spec::NormScheme;

use super::{
    Verb,
    convert::{self, Function},
};
use crate::{
    arguments::{ConversionArgs, ScaleArgs},
    model,
    printer::Printer,
};

/// Take LayerNorm Scaling out of the gains again: the opposite of fold
#[derive(Debug, Args)]
#[command(
    after_long_help = "Without options the scale is the one that `lns fold` noted in the model's \
lns-provenance.json; if there is none, the paper's."
)]
pub(crate) struct UnfoldArgs {
    /// Folder, .gguf file, or .safetensors file of a plain model
    pub(crate) model: PathBuf,

    #[command(flatten)]
    pub(crate) scale: ScaleArgs,

    #[command(flatten)]
    pub(crate) conversion: ConversionArgs,
}

impl Verb for UnfoldArgs {
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

fn run(args: &UnfoldArgs, printer: &Printer) -> anyhow::Result<()> {
    let checkpoint = model::open(&args.model)?;
    let noted = folded_from(&checkpoint);
    if let Some(noted) = noted {
        printer.note(&format!("The model was folded from {}.", NormScheme::Lns(noted)));
    }
    let scale = args.scale.over(noted.unwrap_or_default());
    convert::run(
        lns_convert::unfold(&checkpoint, scale)?,
        &args.conversion,
        Function::Kept,
        printer,
    )
}
