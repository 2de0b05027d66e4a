//! `lns retrofit`, `lns fold`, `lns unfold`: between Pre-LN and LayerNorm Scaling, on disk.

use layernorm_scaling::Retrofit;
use lns_checkpoint::{Checkpoint, Conversion};
use lns_spec::{DepthScale, NormScheme, Sites};
use serde_json::json;

use super::convert::{self, Job, SHARD_BYTES};
use crate::{
    arguments::{FoldArgs, RetrofitArgs, RetrofitMode, ScaleArgs, SiteArg, UnfoldArgs},
    failure::usage,
    model,
    printer::Printer,
};

pub(crate) fn retrofit(args: &RetrofitArgs, printer: &Printer) -> anyhow::Result<()> {
    let mode = match (args.mode, args.steps) {
        (RetrofitMode::Anneal, Some(steps)) => Retrofit::Anneal { steps },
        (RetrofitMode::Anneal, None) => {
            return Err(usage("--mode anneal: give --steps N, over how many steps of a fine-tune"));
        }
        (_, Some(_)) => return Err(usage("--steps is for --mode anneal only")),
        (RetrofitMode::Preserve, None) => Retrofit::Preserve,
        (RetrofitMode::Replace, None) => Retrofit::Replace,
    };
    let output = &args.conversion.output;
    if mode == Retrofit::Replace && args.conversion.files.is_empty() && !output.dry_run {
        return Err(usage(
            "--mode replace changes what the model computes; give --text FILE to measure by how much",
        ));
    }
    if mode == Retrofit::Replace && args.conversion.verify {
        return Err(usage("--verify: --mode replace is not meant to leave the function alone"));
    }
    let scale = scale(&args.scale, DepthScale::default());
    let checkpoint = model::open(&args.model)?;
    let (begin, preserve) = mode.begin(scale);
    let conversion = Conversion::of(&checkpoint)?.with_layernorm_scaling(begin, preserve)?;
    let scheme = &conversion.spec().norm_scheme;
    let mode = match mode {
        Retrofit::Preserve => "preserve",
        Retrofit::Replace => "replace",
        Retrofit::Anneal { .. } => "anneal",
    };
    let options = json!({"mode": mode, "norm_scheme": scheme});
    let job = Job { verb: "retrofit", options, conversion, more: vec![], shard_bytes: SHARD_BYTES };
    convert::run(job, &args.conversion, mode != "replace", printer)
}

pub(crate) fn fold(args: &FoldArgs, printer: &Printer) -> anyhow::Result<()> {
    let checkpoint = model::open(&args.model)?;
    let spec = checkpoint.spec();
    if spec.norm_scheme.anneal().is_some() {
        printer.note(&format!(
            "The scale is still to be annealed ({}): it is folded as it is now.",
            spec.norm_scheme
        ));
    }
    let options = json!({"folded": spec.norm_scheme});
    let conversion = Conversion::of(&checkpoint)?.folded()?;
    let job = Job { verb: "fold", options, conversion, more: vec![], shard_bytes: SHARD_BYTES };
    convert::run(job, &args.conversion, true, printer)
}

pub(crate) fn unfold(args: &UnfoldArgs, printer: &Printer) -> anyhow::Result<()> {
    let checkpoint = model::open(&args.model)?;
    let noted = folded_from(&checkpoint);
    if let Some(noted) = noted {
        printer.note(&format!("The model was folded from {}.", NormScheme::Lns(noted)));
    }
    let scale = scale(&args.scale, noted.unwrap_or_default());
    let conversion = Conversion::of(&checkpoint)?.with_layernorm_scaling(scale, true)?;
    let options = json!({"norm_scheme": conversion.spec().norm_scheme});
    let job = Job { verb: "unfold", options, conversion, more: vec![], shard_bytes: SHARD_BYTES };
    convert::run(job, &args.conversion, true, printer)
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

/// What the flags say over `base`.
fn scale(args: &ScaleArgs, base: DepthScale) -> DepthScale {
    let sites = match &args.sites[..] {
        [] => base.sites,
        sites => Sites {
            attention: sites.contains(&SiteArg::Attention),
            mlp: sites.contains(&SiteArg::Mlp),
        },
    };
    DepthScale {
        exponent: args.exponent.unwrap_or(base.exponent),
        sites,
        first_layer: args.first_layer.unwrap_or(base.first_layer),
        ..base
    }
}
