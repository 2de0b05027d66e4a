//! Tables of rotary factors: tensors of a GGUF file that are no weights of the model.
//!
//! llama.cpp has one, `rope_freqs.weight`, for Llama 3's scaling, and a pair of them for Phi-3's LongRoPE,
//! of which the context's length chooses one. Each number divides a rotary frequency.

use std::path::Path;

use lns_spec::{Gguf, ModelSpec, RopeScaling, RopeSpec};

use super::metadata::Metadata;
use crate::decode::decode;
use crate::{CheckpointError, TensorInfo};

/// The table of Llama 3's factors.
const LLAMA3: &str = "rope_freqs.weight";
/// LongRoPE's factors beyond the context before extension, and within it.
const LONG: &str = "rope_factors_long.weight";
const SHORT: &str = "rope_factors_short.weight";

/// Where a file says by how much LongRoPE multiplies cos and sin.
pub(super) const ATTENTION_FACTOR: &str = "rope.scaling.attn_factor";

/// The tables that a file of this model has, by name.
pub(super) fn tables(spec: &ModelSpec) -> Vec<(&'static str, Vec<f32>)> {
    let rounded = |factors: &[f64]| factors.iter().map(|factor| *factor as f32).collect();
    match &spec.rope.scaling {
        RopeScaling::Llama3 { .. } => vec![(LLAMA3, llama3_factors(spec))],
        RopeScaling::LongRope { short_factor, long_factor, .. } => {
            vec![(LONG, rounded(long_factor)), (SHORT, rounded(short_factor))]
        }
        RopeScaling::Default
        | RopeScaling::Linear { .. }
        | RopeScaling::Dynamic { .. }
        | RopeScaling::Yarn { .. } => Vec::new(),
    }
}

/// The numbers by which Llama 3's scaling divides each rotary frequency.
fn llama3_factors(spec: &ModelSpec) -> Vec<f32> {
    let inverse = |scaling: RopeScaling| {
        let rope = RopeSpec { theta: spec.rope.theta, scaling };
        rope.frequencies(spec.rotary_dim, 1, spec.max_position_embeddings).inverse
    };
    let (plain, scaled) = (inverse(RopeScaling::Default), inverse(spec.rope.scaling.clone()));
    plain.iter().zip(scaled).map(|(plain, scaled)| (plain / scaled) as f32).collect()
}

/// Takes the tables out of the list of tensors.
pub(super) fn take_tables(tensors: &mut Vec<TensorInfo>) -> Vec<TensorInfo> {
    tensors.extract_if(.., |tensor| [LLAMA3, LONG, SHORT].contains(&tensor.name.as_str())).collect()
}

/// The scaling of a file that has these tables, `spec` being what its metadata say.
pub(super) fn scaling_of_tables(
    metadata: &Metadata<'_>,
    gguf: Gguf,
    bytes: &[u8],
    spec: &ModelSpec,
    tables: &[TensorInfo],
) -> Result<RopeScaling, CheckpointError> {
    let path = metadata.path();
    let named = |name: &str| tables.iter().find(|table| table.name == name);
    let key = |name: &str| format!("{}.{name}", gguf.architecture);
    let attention_factor = metadata.number(&key(ATTENTION_FACTOR))?;
    let (long, short, llama3) = (named(LONG), named(SHORT), named(LLAMA3));
    match (long, short, llama3) {
        (None, None, Some(table)) => return scaling_of_llama3(path, bytes, spec, table),
        (None, None, None) if gguf.long_rope && attention_factor.is_some_and(|by| by != 1.0) => {
            let why = "without tables of rotary factors it is not";
            return Err(metadata.unsupported(&key(ATTENTION_FACTOR), why));
        }
        (None, None, None) => return Ok(spec.rope.scaling.clone()),
        (Some(long), Some(short), None) if gguf.long_rope => {
            if spec.rope.scaling != RopeScaling::Default {
                return Err(refused(path, long, "the metadata has another rope scaling as well"));
            }
            let factors = |table| -> Result<Vec<f64>, CheckpointError> {
                let factors = factors(path, bytes, spec, table)?;
                let good = factors.iter().all(|factor| factor.is_finite() && *factor > 0.0);
                let good = good.then(|| factors.into_iter().map(f64::from).collect());
                good.ok_or_else(|| refused(path, table, "they are not all above 0"))
            };
            let original = metadata.whole(&key("rope.scaling.original_context_length"))?;
            let scaling = RopeScaling::LongRope {
                short_factor: factors(short)?,
                long_factor: factors(long)?,
                original_max_position_embeddings: original
                    .filter(|original| *original > 0)
                    .unwrap_or(spec.max_position_embeddings as u64)
                    as f64,
                attention_factor: attention_factor.unwrap_or(1.0),
            };
            return match attention_factor {
                Some(by) if !(by.is_finite() && by > 0.0) => {
                    Err(metadata.wrong(&key(ATTENTION_FACTOR), "a number above 0"))
                }
                _ => Ok(scaling),
            };
        }
        _ => {}
    }
    let table = long.or(short).or(llama3);
    let reason = match gguf.long_rope {
        true => "LongRoPE has one table for long contexts and one for short ones",
        false => "LongRoPE is read of the architecture phi3 alone",
    };
    Err(match table {
        Some(table) => refused(path, table, reason),
        None => metadata.missing(LONG),
    })
}

fn refused(path: &Path, table: &TensorInfo, reason: &str) -> CheckpointError {
    CheckpointError::GgufRopeFactors {
        path: path.to_owned(),
        table: table.name.clone(),
        reason: reason.to_owned(),
    }
}

/// The numbers of a table, one for each rotary frequency.
fn factors(
    path: &Path,
    bytes: &[u8],
    spec: &ModelSpec,
    table: &TensorInfo,
) -> Result<Vec<f32>, CheckpointError> {
    if table.elements() != spec.rotary_dim / 2 {
        return Err(refused(path, table, "their number is not half of the features that turn"));
    }
    let data = bytes.get(table.range.clone());
    let data = data.ok_or_else(|| refused(path, table, "they are beyond the end of the file"))?;
    let mut factors = vec![0.0; table.elements()];
    decode(table.dtype, data, &mut factors);
    Ok(factors)
}

/// The scaling behind `rope_freqs.weight`.
///
/// llama.cpp writes this table for Llama 3.1 and later without the numbers it was made from. Those
/// are the published ones (low 1, high 4, 8192 tokens) and the largest factor; they are taken only
/// if they give the table back.
fn scaling_of_llama3(
    path: &Path,
    bytes: &[u8],
    spec: &ModelSpec,
    table: &TensorInfo,
) -> Result<RopeScaling, CheckpointError> {
    let factors = factors(path, bytes, spec, table)?;
    if factors.iter().all(|factor| *factor == 1.0) {
        return Ok(spec.rope.scaling.clone());
    }
    if spec.rope.scaling != RopeScaling::Default {
        return Err(refused(path, table, "the metadata has another rope scaling as well"));
    }
    let scaling = RopeScaling::Llama3 {
        factor: factors.iter().copied().fold(1.0, f32::max).into(),
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192.0,
    };
    let inverse = |scaling: RopeScaling| {
        let rope = RopeSpec { theta: spec.rope.theta, scaling };
        rope.frequencies(spec.rotary_dim, 1, spec.max_position_embeddings).inverse
    };
    let (plain, scaled) = (inverse(RopeScaling::Default), inverse(scaling.clone()));
    let explained = plain.iter().zip(scaled).zip(factors).all(|((plain, scaled), factor)| {
        let factor = f64::from(factor);
        (plain / scaled - factor).abs() <= 1e-4 * factor
    });
    if explained { Ok(scaling) } else { Err(refused(path, table, "they are not those of Llama 3")) }
}
