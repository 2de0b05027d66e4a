//! Which tensors a GGUF file of a model has, and whether it can have them at all.
//!
//! As llama.cpp's converter has it, vectors (norms, biases) stay F32, and a matrix whose rows are not
//! whole blocks becomes F16.

use std::path::Path;

use lns_spec::{
    AttentionScale, Family, Gguf, ModelSpec, NormKind, Part, Role, RopeScaling, StoredTensor,
    TensorId,
};
use serde_json::{Map, Value};

use super::config::has_window_key;
use super::latent;
use super::rope::tables;
use super::{DEFAULT_ALIGNMENT, read_head, write};
use crate::{CheckpointError, StorageType};

/// One tensor of a GGUF file that is to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufTensor {
    /// Its name in the file, e.g. `blk.3.ffn_up.weight`.
    pub name: String,
    /// What it holds of the model, where a GGUF file has it; `None` for a table of rotary factors.
    pub source: Option<StoredTensor>,
    /// How its numbers are stored. A matrix whose rows are not whole blocks of the type that was
    /// asked for is F16, a vector F32.
    pub dtype: StorageType,
    /// Dimensions, outermost first (`[out, in]`).
    pub shape: Vec<usize>,
}

impl GgufTensor {
    /// Bytes of its data, without those that fill up to the next tensor.
    pub fn bytes(&self) -> u64 {
        let elements: u64 = self.shape.iter().map(|n| *n as u64).product();
        let (block, bytes) = self.dtype.block().unwrap_or((1, 0));
        elements / block as u64 * bytes as u64
    }
}

/// The tensors of a GGUF file with this model, its matrices stored as `dtype` (F32, F16, BF16 or
/// Q8_0; with MXFP4 those of experts, and the others as BF16).
///
/// # Errors
/// Another type; a scheme other than `pre`; anything else that would change the function and that
/// the file cannot say: a sliding window shorter than the context, biases of a Qwen 3, some rotary
/// scalings.
pub fn gguf_tensors(
    spec: &ModelSpec,
    dtype: StorageType,
) -> Result<Vec<GgufTensor>, CheckpointError> {
    let writable = match dtype {
        StorageType::F32 | StorageType::F16 | StorageType::BF16 | StorageType::Q8_0 => true,
        StorageType::MXFP4 => spec.is_mixture(),
        _ => false,
    };
    if !writable {
        return Err(CheckpointError::GgufWriteType { dtype });
    }
    refuse_what_cannot_be_said(spec)?;
    let table = |(name, factors): (&str, Vec<f32>)| GgufTensor {
        name: name.to_owned(),
        source: None,
        dtype: StorageType::F32,
        shape: vec![factors.len()],
    };
    let mut tensors: Vec<GgufTensor> = tables(spec).into_iter().map(table).collect();
    for tensor in spec.stored_in_gguf() {
        let id = tensor.parts[0].id;
        let Some(name) = spec.gguf_name(id) else {
            return Err(CheckpointError::GgufNoName { tensor: tensor.name });
        };
        let stack = latent::stack(spec, id.role);
        let shape = stack.map_or_else(|| tensor.shape.clone(), Vec::from);
        let dtype = stored_as(id, &shape, dtype);
        tensors.push(GgufTensor { name, source: Some(tensor), dtype, shape });
    }
    check_said(spec, &tensors)?;
    Ok(tensors)
}

/// What numbers a tensor is stored as. Routers are among what llama.cpp takes in F32 alone.
fn stored_as(id: TensorId, shape: &[usize], dtype: StorageType) -> StorageType {
    let of_experts = id.expert.is_some();
    let dtype = if dtype == StorageType::MXFP4 && !of_experts { StorageType::BF16 } else { dtype };
    let (block, _) = dtype.block().unwrap_or((1, 0));
    match *shape {
        _ if id.part == Part::Bias || id.role == Role::Router => StorageType::F32,
        [.., _, row] if row.is_multiple_of(block) => dtype,
        [.., _, _] => StorageType::F16,
        _ => StorageType::F32,
    }
}

/// The model's place in GGUF files.
pub(super) fn place_in_gguf(spec: &ModelSpec) -> Result<Gguf, CheckpointError> {
    let model_type = spec.family.model_type();
    spec.family.gguf().ok_or(CheckpointError::GgufFamily { model_type })
}

fn refuse_what_cannot_be_said(spec: &ModelSpec) -> Result<(), CheckpointError> {
    let gguf = place_in_gguf(spec)?;
    let architecture = gguf.architecture;
    if spec.norm_scheme != spec.family.own_scheme() {
        return Err(CheckpointError::GgufScheme { scheme: spec.norm_scheme.to_string() });
    }
    if spec.embedding_norm {
        let scheme = format!("{} with a norm on the embedding", spec.norm_scheme);
        return Err(CheckpointError::GgufScheme { scheme });
    }
    // llama.cpp reads no window of these architectures, or passes over it (`load_arch_hparams`).
    let context = spec.max_position_embeddings;
    if (!has_window_key(gguf) || gguf.window_is_ignored)
        && let Some(window) = spec.windows().flatten().find(|window| *window < context)
    {
        return Err(CheckpointError::GgufWindow { architecture, window, context });
    }
    let heads = spec.query_size();
    if gguf.heads_fill_stream && heads != spec.hidden_size {
        let hidden_size = spec.hidden_size;
        return Err(CheckpointError::GgufHeads { architecture, heads, hidden_size });
    }
    // Qwen 2 always has biases of queries, keys and values.
    let always = spec.family == Family::QWEN2;
    // LayerNorm models of llama.cpp have those of every matrix.
    let places = gguf.optional_biases || gguf.usually_biased || spec.norm == NormKind::LayerNorm;
    let biases = spec.attention_output_bias || spec.mlp_bias || (spec.qkv_bias && !always);
    if biases && !places {
        return Err(CheckpointError::GgufBias { architecture });
    }
    if let Some(lost) = latent::fault(spec) {
        return Err(CheckpointError::GgufCannotSay { architecture, lost });
    }
    match rope_scaling_fault(spec, gguf) {
        Some(what) => Err(CheckpointError::GgufRopeScaling { architecture, what }),
        None => Ok(()),
    }
}

/// Reads what the file will say and holds it against the model: what it cannot say would silently be
/// lost. Numbers may be rounded to f32.
fn check_said(spec: &ModelSpec, tensors: &[GgufTensor]) -> Result<(), CheckpointError> {
    // From what numbers Llama 3's table was made is guessed on reading; llama.cpp needs only the table.
    if matches!(spec.rope.scaling, RopeScaling::Llama3 { .. }) {
        return Ok(());
    }
    let gguf = place_in_gguf(spec)?;
    let head = write::head(spec, gguf, tensors);
    let data: u64 = tensors.iter().map(|tensor| tensor.bytes() + DEFAULT_ALIGNMENT).sum();
    let path = Path::new("model.gguf");
    let said = read_head(path, &head, head.len() + data as usize)?.spec;
    let fields = |spec: &ModelSpec| match serde_json::to_value(usual(spec)) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    let (wanted, found) = (fields(spec), fields(&said));
    // Which of several look-alike families it is, no file says.
    let lost: Vec<String> = wanted
        .iter()
        .filter(|(key, value)| {
            *key != "family" && !found.get(*key).is_some_and(|found| about_equal(found, value))
        })
        .map(|(key, value)| format!("{key} = {value}"))
        .collect();
    if lost.is_empty() {
        return Ok(());
    }
    let (architecture, lost) = (gguf.architecture, lost.join(", "));
    Err(CheckpointError::GgufCannotSay { architecture, lost })
}

/// The model without what changes nothing: depths where nothing is made of them, and windows as long as the
/// context.
fn usual(spec: &ModelSpec) -> ModelSpec {
    let mut spec = spec.clone();
    for (index, layer) in spec.layers().zip(&mut spec.per_layer) {
        layer.attention_window =
            layer.attention_window.filter(|window| *window < spec.max_position_embeddings);
        if spec.attention_scale != AttentionScale::HeadSizeAndDepth {
            layer.depth = index.depth();
        }
    }
    spec.trained_layers = spec.num_hidden_layers;
    spec
}

fn about_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(_), Value::Number(_)) => match (a.as_f64(), b.as_f64()) {
            (Some(a), Some(b)) => (a - b).abs() <= 1e-7 * b.abs(),
            _ => false,
        },
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| about_equal(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| about_equal(a, b)))
        }
        _ => a == b,
    }
}

/// What part of the rotary scaling a GGUF file of this architecture could not say.
fn rope_scaling_fault(spec: &ModelSpec, gguf: Gguf) -> Option<&'static str> {
    match spec.rope.scaling {
        RopeScaling::Default | RopeScaling::Linear { .. } => None,
        RopeScaling::Dynamic { .. } => Some(
            "\"dynamic\" scaling; without rope_scaling in config.json the function is the same \
             within the context the model was trained for",
        ),
        RopeScaling::Llama3 { .. } => (!gguf.llama3_rope).then_some("\"llama3\" scaling"),
        RopeScaling::LongRope { original_max_position_embeddings: original, .. } => {
            if !gguf.long_rope {
                Some("LongRoPE")
            } else if original != f64::from(original as u32) {
                Some("LongRoPE from a context that is not a whole number of tokens")
            } else {
                None
            }
        }
        RopeScaling::Yarn {
            factor,
            attention_factor,
            truncate,
            original_max_position_embeddings: original,
            beta_fast,
            beta_slow,
        } => {
            // What llama.cpp multiplies with (`yarn_attn_factor`); it reads no other betas of these
            // architectures.
            let usual = match spec.latent {
                // The stretch of the scores makes up for it.
                Some(_) => 1.0,
                None if factor <= 1.0 => 1.0,
                None => 0.1 * factor.ln() + 1.0,
            };
            let stretched = matches!(spec.attention_scale, AttentionScale::Stretched { .. });
            if spec.latent.is_some() && (!stretched || (attention_factor - 1.0).abs() > 1e-6) {
                Some("YaRN whose `mscale` and `mscale_all_dim` are not the same number")
            } else if truncate && gguf.exact_yarn {
                Some("YaRN whose range is rounded (\"truncate\": true)")
            } else if !truncate && !gguf.exact_yarn {
                Some("YaRN whose range is not rounded (\"truncate\": false)")
            } else if (beta_fast, beta_slow) != (32.0, 1.0) {
                Some("YaRN with another beta_fast and beta_slow than 32 and 1")
            } else if (attention_factor - usual).abs() > 1e-6 * usual {
                Some("YaRN with another attention factor than 0.1·ln(factor) + 1")
            } else if original != f64::from(original as u32) {
                Some("YaRN from a context that is not a whole number of tokens")
            } else {
                None
            }
        }
    }
}
