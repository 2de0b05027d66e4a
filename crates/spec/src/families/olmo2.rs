//! OLMo 2: the only norms of a branch are on its output, and those on q and k are on their full width.

use serde_json::{Map, Value, json};

use super::{Description, Family, Gguf, StoredName, USUAL, common};
use crate::{ModelSpec, NormScheme, QkNorm, Role, Site, SpecError, config::keys::Keys};

pub(super) static FAMILY: Description = Description {
    model_type: "olmo2",
    architecture: "Olmo2ForCausalLM",
    names: &NAMES,
    own_scheme: NormScheme::output_norm,
    read,
    write,
    gguf: Some(Gguf { architecture: "olmo2", heads_fill_stream: true, ..Gguf::USUAL }),
    ..USUAL
};

/// Also those of OLMo 3. The input norms are there under schemes that have them.
pub(super) static NAMES: [StoredName; 16] = [
    StoredName::new(&[Role::Embedding], "model.embed_tokens", "token_embd"),
    StoredName::new(&[Role::FinalNorm], "model.norm", "output_norm"),
    StoredName::new(&[Role::Head], "lm_head", "output"),
    StoredName::new(&[Role::InputNorm(Site::Attention)], "input_layernorm", ""),
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
    StoredName::new(&[Role::InputNorm(Site::Mlp)], "pre_feedforward_layernorm", ""),
    StoredName::new(&[Role::MlpGate], "mlp.gate_proj", "ffn_gate"),
    StoredName::new(&[Role::MlpUp], "mlp.up_proj", "ffn_up"),
    StoredName::new(&[Role::MlpDown], "mlp.down_proj", "ffn_down"),
    StoredName::new(&[Role::OutputNorm(Site::Mlp)], "post_feedforward_layernorm", "post_ffw_norm"),
];

/// What OLMo 2 and 3 have in common.
pub(super) const DEFAULTS: common::Defaults =
    common::Defaults { rms_norm_eps: 1e-5, ..common::Defaults::USUAL };

fn read(keys: &mut Keys) -> Result<ModelSpec, SpecError> {
    read_olmo(Family(&FAMILY), keys, &DEFAULTS)
}

/// An OLMo but for its windows.
pub(super) fn read_olmo(
    family: Family,
    keys: &mut Keys,
    defaults: &common::Defaults,
) -> Result<ModelSpec, SpecError> {
    let mut spec = common::read(family, keys, defaults)?;
    spec.qk_norm = QkNorm::FullWidth;
    spec.qkv_bias = keys.flag("attention_bias")?.unwrap_or(false);
    spec.attention_output_bias = spec.qkv_bias;
    Ok(spec)
}

pub(super) fn write(spec: &ModelSpec, config: &mut Map<String, Value>) {
    config.insert("attention_bias".to_owned(), json!(spec.qkv_bias));
}
