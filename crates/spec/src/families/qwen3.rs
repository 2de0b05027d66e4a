//! Qwen 3 (dense): norms on the heads of q and k, and windows in some layers.

use serde_json::{Map, Value, json};

use super::{Description, Family, Gguf, USUAL, common, llama};
use crate::{ModelSpec, QkNorm, SpecError, config::keys::Keys};

pub(super) static FAMILY: Description = Description {
    model_type: "qwen3",
    architecture: "Qwen3ForCausalLM",
    names: &llama::NAMES,
    read,
    write,
    gguf: Some(Gguf { architecture: "qwen3", ..Gguf::USUAL }),
    ..USUAL
};

fn read(keys: &mut Keys) -> Result<ModelSpec, SpecError> {
    let defaults = common::Defaults {
        num_key_value_heads: Some(32),
        head_dim: Some(128),
        max_position_embeddings: 32_768,
        ..common::Defaults::USUAL
    };
    let mut spec = common::read(Family(&FAMILY), keys, &defaults)?;
    spec.qk_norm = QkNorm::PerHead;
    spec.qkv_bias = keys.flag("attention_bias")?.unwrap_or(false);
    spec.attention_output_bias = spec.qkv_bias;
    common::read_windows(keys, &mut spec)?;
    Ok(spec)
}

fn write(spec: &ModelSpec, config: &mut Map<String, Value>) {
    config.insert("attention_bias".to_owned(), json!(spec.qkv_bias));
    common::write_windows(spec, config);
}
