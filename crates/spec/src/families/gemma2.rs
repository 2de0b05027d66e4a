//! Gemma 2: a sandwich of norms whose gains are stored as γ − 1, scores and logits with soft-caps, GeGLU,
//! the embedding times √H, and a window in every other layer.

use serde_json::{Map, Value, json};

use super::{Description, Family, Gguf, StoredName, USUAL, common};
use crate::{
    Activation, AttentionScale, ModelSpec, NormKind, NormScheme, Role, Site, SpecError,
    config::keys::{Keys, invalid},
};

pub(super) static FAMILY: Description = Description {
    model_type: "gemma2",
    architecture: "Gemma2ForCausalLM",
    names: &NAMES,
    own_scheme: NormScheme::sandwich,
    computes: &["attn_logit_softcapping", "final_logit_softcapping"],
    read,
    write,
    gguf: Some(Gguf {
        architecture: "gemma2",
        keys: &[
            ("attention.sliding_window", "sliding_window"),
            ("attn_logit_softcapping", "attn_logit_softcapping"),
            ("final_logit_softcapping", "final_logit_softcapping"),
        ],
        scale_by_head: Some(("query_pre_attn_scalar", 46)),
        ..Gguf::USUAL
    }),
    ..USUAL
};

/// Also those of Gemma 3.
pub(super) static NAMES: [StoredName; 16] = [
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
    StoredName::new(
        &[Role::OutputNorm(Site::Attention)],
        "post_attention_layernorm",
        "post_attention_norm",
    ),
    StoredName::new(&[Role::InputNorm(Site::Mlp)], "pre_feedforward_layernorm", "ffn_norm"),
    StoredName::new(&[Role::MlpGate], "mlp.gate_proj", "ffn_gate"),
    StoredName::new(&[Role::MlpUp], "mlp.up_proj", "ffn_up"),
    StoredName::new(&[Role::MlpDown], "mlp.down_proj", "ffn_down"),
    StoredName::new(&[Role::OutputNorm(Site::Mlp)], "post_feedforward_layernorm", "post_ffw_norm"),
];

fn read(keys: &mut Keys) -> Result<ModelSpec, SpecError> {
    for (key, value) in [
        ("vocab_size", 256_000),
        ("hidden_size", 2304),
        ("intermediate_size", 9216),
        ("num_hidden_layers", 26),
        ("num_attention_heads", 8),
    ] {
        keys.or_default(key, value);
    }
    if !keys.0.contains_key("attn_logit_softcapping") {
        keys.or_default("attn_logit_softcapping", 50.0);
    }
    if !keys.0.contains_key("final_logit_softcapping") {
        keys.or_default("final_logit_softcapping", 30.0);
    }
    let defaults = common::Defaults { max_position_embeddings: 8192, ..DEFAULTS };
    let mut spec = read_gemma(Family(&FAMILY), keys, &defaults)?;
    common::read_sliding(keys, &mut spec, 2)?;
    Ok(spec)
}

/// What Gemma 2 and 3 have in common.
pub(super) const DEFAULTS: common::Defaults = common::Defaults {
    num_key_value_heads: Some(4),
    head_dim: Some(256),
    hidden_act: Activation::GeluTanh,
    tie_word_embeddings: true,
    ..common::Defaults::USUAL
};

/// A Gemma but for its windows.
pub(super) fn read_gemma(
    family: Family,
    keys: &mut Keys,
    defaults: &common::Defaults,
) -> Result<ModelSpec, SpecError> {
    keys.take("hidden_act");
    keys.rename("hidden_activation", "hidden_act");
    let mut spec = common::read(family, keys, defaults)?;
    spec.norm = NormKind::RmsPlusOne;
    spec.qkv_bias = keys.flag("attention_bias")?.unwrap_or(false);
    spec.attention_output_bias = spec.qkv_bias;
    spec.embedding_multiplier = (spec.hidden_size as f64).sqrt();
    let scalar = keys.number("query_pre_attn_scalar")?.unwrap_or(256.0);
    spec.attention_scale = AttentionScale::InverseRoot(scalar);
    let mut cap = |key: &str| match keys.number(key)? {
        Some(cap) if cap <= 0.0 => Err(invalid(key, &json!(cap), "a number above 0")),
        cap => Ok(cap),
    };
    spec.attention_softcap = cap("attn_logit_softcapping")?;
    spec.logits_softcap = cap("final_logit_softcapping")?;
    Ok(spec)
}

fn write(spec: &ModelSpec, config: &mut Map<String, Value>) {
    write_gemma(spec, config);
    common::write_sliding(spec, config);
}

/// Puts what [`read_gemma`] takes.
pub(super) fn write_gemma(spec: &ModelSpec, config: &mut Map<String, Value>) {
    common::rename(config, "hidden_act", "hidden_activation");
    config.insert("attention_bias".to_owned(), json!(spec.qkv_bias));
    if let AttentionScale::InverseRoot(scalar) = spec.attention_scale {
        config.insert("query_pre_attn_scalar".to_owned(), common::whole(scalar));
    }
    config.insert("attn_logit_softcapping".to_owned(), json!(spec.attention_softcap));
    config.insert("final_logit_softcapping".to_owned(), json!(spec.logits_softcap));
}
