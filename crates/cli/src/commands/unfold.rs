//! `lns unfold`: LayerNorm Scaling taken out of the gains again.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use lns_checkpoint::{Checkpoint, Conversion};
use lns_spec::{DepthScale, NormScheme};
use serde_json::json;

use super::{
    Verb,
    convert::{self, Function, Job, SHARD_BYTES},
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
    let conversion = Conversion::of(&checkpoint)?.with_layernorm_scaling(scale, true)?;
    let options = json!({"norm_scheme": conversion.spec().norm_scheme});
    let job = Job { verb: "unfold", options, conversion, more: vec![], shard_bytes: SHARD_BYTES };
    convert::run(job, &args.conversion, Function::Kept, printer)
}

/// The scale that `lns fold` or `lns export` noted, however long ago.
fn folded_from(checkpoint: &Checkpoint) -> Option<DepthScale> {
    let mut record = checkpoint.own_provenance().map(Box::new);
    while let Some(found) = record {
        let scheme = found.options.get("folded").cloned();
        if let Some(Ok(NormScheme::Lns(scale))) = scheme.map(serde_json::from_value) {
            return Some(DepthScale { anneal: None, ..scale });
        }
        record = found.before;
    }
    None
}
