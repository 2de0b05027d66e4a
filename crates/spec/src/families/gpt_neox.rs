//! GPT-NeoX and Pythia: LayerNorm with biases, both branches on the same stream, q, k and v stored head by
//! head, and a quarter of each head turned.

use serde_json::{Map, Value, json};

use super::{Description, Family, Gguf, StoredName, USUAL, common};
use crate::{
    Activation, ModelSpec, NormKind, Role, Site, SpecError, StoredLayout, config::keys::Keys,
};

pub(super) static FAMILY: Description = Description {
    model_type: "gpt_neox",
    architecture: "GPTNeoXForCausalLM",
    names: &NAMES,
    layer_prefix: "gpt_neox.layers.",
    computes: &["partial_rotary_factor"],
    read,
    write,
    gguf: Some(Gguf {
        architecture: "gptneox",
        keys: &[("use_parallel_residual", "use_parallel_residual")],
        usually_biased: true,
        ..Gguf::USUAL
    }),
    ..USUAL
};

static NAMES: [StoredName; 9] = [
    StoredName::new(&[Role::Embedding], "gpt_neox.embed_in", "token_embd"),
    StoredName::new(&[Role::FinalNorm], "gpt_neox.final_layer_norm", "output_norm"),
    StoredName::new(&[Role::Head], "embed_out", "output"),
    StoredName::new(&[Role::InputNorm(Site::Attention)], "input_layernorm", "attn_norm"),
    StoredName::new(
        &[Role::Query, Role::Key, Role::Value],
        "attention.query_key_value",
        "attn_qkv",
    )
    .laid_out(StoredLayout::HeadByHead),
    StoredName::new(&[Role::AttentionOutput], "attention.dense", "attn_output"),
    StoredName::new(&[Role::InputNorm(Site::Mlp)], "post_attention_layernorm", "ffn_norm"),
    StoredName::new(&[Role::MlpUp], "mlp.dense_h_to_4h", "ffn_up"),
    StoredName::new(&[Role::MlpDown], "mlp.dense_4h_to_h", "ffn_down"),
];

/// The usual share of a head that is turned.
const SHARE: f64 = 0.25;

fn read(keys: &mut Keys) -> Result<ModelSpec, SpecError> {
    keys.rename("layer_norm_eps", "rms_norm_eps");
    keys.rename("rotary_emb_base", "rope_theta");
    keys.rename("rotary_pct", "partial_rotary_factor");
    let defaults = common::Defaults {
        rms_norm_eps: 1e-5,
        rotary_share: SHARE,
        hidden_act: Activation::Gelu,
        ..common::Defaults::USUAL
    };
    let mut spec = common::read(Family(&FAMILY), keys, &defaults)?;
    common::whole_heads(&spec)?;
    spec.norm = NormKind::LayerNorm;
    spec.gated_mlp = false;
    spec.qkv_bias = keys.flag("attention_bias")?.unwrap_or(true);
    spec.attention_output_bias = spec.qkv_bias;
    spec.mlp_bias = true;
    spec.parallel_branches = keys.flag("use_parallel_residual")?.unwrap_or(true);
    Ok(spec)
}

fn write(spec: &ModelSpec, config: &mut Map<String, Value>) {
    for key in ["head_dim", "num_key_value_heads"] {
        config.remove(key);
    }
    common::rename(config, "rms_norm_eps", "layer_norm_eps");
    common::rename(config, "rope_theta", "rotary_emb_base");
    common::write_rotary_share(spec, "rotary_pct", config);
    config.insert("attention_bias".to_owned(), json!(spec.qkv_bias));
    config.insert("use_parallel_residual".to_owned(), json!(spec.parallel_branches));
}
