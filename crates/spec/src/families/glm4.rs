//! GLM-4 (0414): a sandwich of norms, biases on q, k and v, gate and up stored as one matrix, and half of
//! each head turned, neighbouring features together.

use serde_json::{Map, Value, json};

use super::{Description, Family, Gguf, StoredName, USUAL, common};
use crate::{ModelSpec, NormScheme, Role, Site, SpecError, config::keys::Keys};

pub(super) static FAMILY: Description = Description {
    model_type: "glm4",
    architecture: "Glm4ForCausalLM",
    names: &NAMES,
    own_scheme: NormScheme::sandwich,
    computes: &["partial_rotary_factor"],
    read,
    write,
    gguf: Some(Gguf { architecture: "glm4", usually_biased: true, ..Gguf::USUAL }),
    ..USUAL
};

static NAMES: [StoredName; 13] = [
    StoredName::new(&[Role::Embedding], "model.embed_tokens", "token_embd"),
    StoredName::new(&[Role::FinalNorm], "model.norm", "output_norm"),
    StoredName::new(&[Role::Head], "lm_head", "output"),
    StoredName::new(&[Role::InputNorm(Site::Attention)], "input_layernorm", "attn_norm"),
    StoredName::new(&[Role::Query], "self_attn.q_proj", "attn_q"),
    StoredName::new(&[Role::Key], "self_attn.k_proj", "attn_k"),
    StoredName::new(&[Role::Value], "self_attn.v_proj", "attn_v"),
    StoredName::new(&[Role::AttentionOutput], "self_attn.o_proj", "attn_output"),
    StoredName::new(
        &[Role::OutputNorm(Site::Attention)],
        "post_self_attn_layernorm",
        "post_attention_norm",
    ),
    StoredName::new(&[Role::InputNorm(Site::Mlp)], "post_attention_layernorm", "ffn_norm"),
    StoredName::new(&[Role::MlpGate, Role::MlpUp], "mlp.gate_up_proj", "ffn_up"),
    StoredName::new(&[Role::MlpDown], "mlp.down_proj", "ffn_down"),
    StoredName::new(&[Role::OutputNorm(Site::Mlp)], "post_mlp_layernorm", "post_ffw_norm"),
];

fn read(keys: &mut Keys) -> Result<ModelSpec, SpecError> {
    let defaults = common::Defaults {
        num_key_value_heads: Some(2),
        head_dim: Some(128),
        max_position_embeddings: 131_072,
        rms_norm_eps: 1.5625e-7,
        rotary_share: 0.5,
        ..common::Defaults::USUAL
    };
    let mut spec = common::read(Family(&FAMILY), keys, &defaults)?;
    spec.qkv_bias = keys.flag("attention_bias")?.unwrap_or(true);
    spec.rotary_interleaved = true;
    Ok(spec)
}

fn write(spec: &ModelSpec, config: &mut Map<String, Value>) {
    config.insert("attention_bias".to_owned(), json!(spec.qkv_bias));
    common::write_rotary_share(spec, "partial_rotary_factor", config);
}
