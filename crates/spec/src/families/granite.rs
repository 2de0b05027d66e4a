//! Granite 3: a Llama with constants on its embedding, scores, branches and logits.

use serde_json::{Map, Value, json};

use super::{Description, Family, Gguf, USUAL, common, llama};
use crate::{AttentionScale, ModelSpec, SpecError, config::keys::Keys};

pub(super) static FAMILY: Description = Description {
    model_type: "granite",
    architecture: "GraniteForCausalLM",
    names: &llama::NAMES,
    computes: &[
        "embedding_multiplier",
        "residual_multiplier",
        "attention_multiplier",
        "logits_scaling",
    ],
    read,
    write,
    gguf: Some(Gguf {
        architecture: "granite",
        interleaved_rotary: true,
        optional_biases: true,
        llama3_rope: true,
        keys: &[
            ("attention.scale", "attention_multiplier"),
            ("embedding_scale", "embedding_multiplier"),
            ("residual_scale", "residual_multiplier"),
            ("logit_scale", "logits_scaling"),
        ],
        ..Gguf::USUAL
    }),
    ..USUAL
};

fn read(keys: &mut Keys) -> Result<ModelSpec, SpecError> {
    let mut spec = common::read(Family(&FAMILY), keys, &common::Defaults::USUAL)?;
    spec.qkv_bias = keys.flag("attention_bias")?.unwrap_or(false);
    spec.attention_output_bias = spec.qkv_bias;
    spec.mlp_bias = keys.flag("mlp_bias")?.unwrap_or(false);
    let mut number = |key: &str| Ok::<_, SpecError>(keys.number(key)?.unwrap_or(1.0));
    spec.embedding_multiplier = number("embedding_multiplier")?;
    spec.residual_multiplier = number("residual_multiplier")?;
    spec.logits_divisor = number("logits_scaling")?;
    spec.attention_scale = AttentionScale::Constant(number("attention_multiplier")?);
    Ok(spec)
}

fn write(spec: &ModelSpec, config: &mut Map<String, Value>) {
    llama::write(spec, config);
    config.insert("embedding_multiplier".to_owned(), json!(spec.embedding_multiplier));
    config.insert("residual_multiplier".to_owned(), json!(spec.residual_multiplier));
    config.insert("logits_scaling".to_owned(), json!(spec.logits_divisor));
    if let AttentionScale::Constant(scale) = spec.attention_scale {
        config.insert("attention_multiplier".to_owned(), json!(scale));
    }
}
