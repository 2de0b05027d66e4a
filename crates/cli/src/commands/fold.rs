//! `lns fold`: LayerNorm Scaling, and branches that were pruned, written as a plain model.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::{
    Verb,
    convert::{self, Function},
};
use crate::{arguments::ConversionArgs, model, printer::Printer};

/// Fold LayerNorm Scaling into the gains: a plain model that every runtime loads, the same function
#[derive(Debug, Args)]
pub(crate) struct FoldArgs {
    /// Folder of a model with LayerNorm Scaling, or of one that lacks branches
    pub(crate) model: PathBuf,

    #[command(flatten)]
    pub(crate) conversion: ConversionArgs,
}

impl Verb for FoldArgs {
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

fn run(args: &FoldArgs, printer: &Printer) -> anyhow::Result<()> {
    let checkpoint = model::open(&args.model)?;
    let spec = checkpoint.spec();
    if spec.norm_scheme.anneal().is_some() {
        printer.note(&format!(
            "The scale is still to be annealed ({}): it is folded as it is now.",
            spec.norm_scheme
        ));
    }
    convert::run(lns_convert::fold(&checkpoint)?, &args.conversion, Function::Kept, printer)
}
