//! Between plain Pre-LN and LayerNorm Scaling.

use lns_checkpoint::{Checkpoint, Conversion};
use lns_model::Retrofit;
use lns_spec::{DepthScale, Gains, NormScheme};
use serde_json::json;

use crate::{ConvertError, Job};

/// A Pre-LN model given LayerNorm Scaling.
///
/// # Errors
/// [`ConvertError`] when the checkpoint is not whole, or the model cannot take the scale.
pub fn retrofit(
    source: &Checkpoint,
    mode: Retrofit,
    scale: DepthScale,
) -> Result<Job<'_>, ConvertError> {
    let (begin, gains) = mode.begin(scale);
    let conversion = Conversion::of(source)?.with_layernorm_scaling(begin, gains)?;
    let options = json!({"mode": mode.name(), "norm_scheme": conversion.spec().norm_scheme});
    Ok(Job::new("retrofit", conversion, options))
}

/// A model with LayerNorm Scaling, or with branches that were pruned, as a plain one that computes the
/// same.
///
/// # Errors
/// [`ConvertError`] when the checkpoint is not whole, or there is nothing to fold.
pub fn fold(source: &Checkpoint) -> Result<Job<'_>, ConvertError> {
    let options = json!({"folded": source.spec().norm_scheme});
    Ok(Job::new("fold", Conversion::of(source)?.folded()?, options))
}

/// A plain model given the scale back that it was folded from, or another; it computes the same.
///
/// # Errors
/// [`ConvertError`] when the checkpoint is not whole, or the model cannot take the scale.
pub fn unfold(source: &Checkpoint, scale: DepthScale) -> Result<Job<'_>, ConvertError> {
    let conversion = Conversion::of(source)?.with_layernorm_scaling(scale, Gains::Compensated)?;
    let options = json!({"norm_scheme": conversion.spec().norm_scheme});
    Ok(Job::new("unfold", conversion, options))
}

/// The scale that was folded away, if the model's record, or that of a model before it, notes one.
pub fn folded_from(source: &Checkpoint) -> Option<DepthScale> {
    let mut record = source.own_provenance().map(Box::new);
    while let Some(found) = record {
        let scheme = found.options.get("folded").cloned();
        if let Some(Ok(NormScheme::Lns(scale))) = scheme.map(serde_json::from_value) {
            return Some(DepthScale { anneal: None, ..scale });
        }
        record = found.before;
    }
    None
}
