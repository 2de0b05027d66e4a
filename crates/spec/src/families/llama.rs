//! Llama 1 to 3, and whatever has its `config.json`: SmolLM, DeepSeek's dense models, Yi, TinyLlama.

use serde_json::{Map, Value, json};

use super::{Description, Family, Gguf, StoredName, USUAL, common};
use crate::{ModelSpec, Role, Site, SpecError, config::keys::Keys};

pub(super) static FAMILY: Description = Description {
    model_type: "llama",
    architecture: "LlamaForCausalLM",
    names: &NAMES,
    read,
    write,
    gguf: Some(Gguf {
        architecture: "llama",
        interleaved_rotary: true,
        optional_biases: true,
        llama3_rope: true,
        ..Gguf::USUAL
    }),
    ..USUAL
};

/// Hugging Face's names, and those of gguf-py's `tensor_mapping.py`.
pub(super) static NAMES: [StoredName; 14] = [
    StoredName::new(&[Role::Embedding], "model.embed_tokens", "token_embd"),
    StoredName::new(&[Role::FinalNorm], "model.norm", "output_norm"),
    StoredName::new(&[Role::Head], "lm_head", "output"),
    StoredName::new(&[Role::InputNorm(Site::Attention)], "input_layernorm", "attn_norm"),
    StoredName::new(&[Role::Query], "self_attn.q_proj", "attn_q"),
    StoredName::new(&[Role::Key], "self_attn.k_proj", "attn_k"),
    StoredName::new(&[Role::Value], "self_attn.v_proj", "attn_v"),
    StoredName::new(&[Role::AttentionOutput], "self_attn.o_proj", "attn_output"),
    StoredName::new(&[Role::QueryNorm], "self_attn.q_norm", "attn_q_norm"),
    StoredName::new(&[Role::KeyNorm], "self_attn.k_norm", "attn_k_norm"),
    StoredName::new(&[Role::InputNorm(Site::Mlp)], "post_attention_layernorm", "ffn_norm"),
    StoredName::new(&[Role::MlpGate], "mlp.gate_proj", "ffn_gate"),
    StoredName::new(&[Role::MlpUp], "mlp.up_proj", "ffn_up"),
    StoredName::new(&[Role::MlpDown], "mlp.down_proj", "ffn_down"),
];

pub(super) fn read(keys: &mut Keys) -> Result<ModelSpec, SpecError> {
    let defaults = common::Defaults::USUAL;
    let mut spec = common::read(Family(&FAMILY), keys, &defaults)?;
    spec.qkv_bias = keys.flag("attention_bias")?.unwrap_or(false);
    spec.attention_output_bias = spec.qkv_bias;
    spec.mlp_bias = keys.flag("mlp_bias")?.unwrap_or(false);
    // Llamas have no window; a configuration that names one belongs to another implementation.
    match keys.size("sliding_window")? {
        None => Ok(spec),
        Some(window) => Err(SpecError::Unsupported {
            key: "sliding_window".to_owned(),
            value: window.to_string(),
            why: "model_type \"llama\" has no sliding window".to_owned(),
        }),
    }
}

pub(super) fn write(spec: &ModelSpec, config: &mut Map<String, Value>) {
    config.insert("attention_bias".to_owned(), json!(spec.qkv_bias));
    config.insert("mlp_bias".to_owned(), json!(spec.mlp_bias));
}
