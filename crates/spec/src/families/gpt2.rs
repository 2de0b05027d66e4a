//! GPT-2: LayerNorm with biases, learned positions, an MLP of two matrices, and matrices that are stored
//! as [in, out].

use serde_json::{Map, Value, json};

use super::{Description, Family, Gguf, StoredName, USUAL, common};
use crate::{
    Activation, AttentionScale, ModelSpec, NormKind, Role, Rotary, Site, SpecError, StoredLayout,
    config::keys::Keys,
};

pub(super) static FAMILY: Description = Description {
    model_type: "gpt2",
    architecture: "GPT2LMHeadModel",
    names: &NAMES,
    layer_prefix: "transformer.h.",
    optional_prefix: "transformer.",
    read,
    write,
    gguf: Some(Gguf { architecture: "gpt2", ..Gguf::USUAL }),
    ..USUAL
};

static NAMES: [StoredName; 10] = [
    StoredName::new(&[Role::Embedding], "transformer.wte", "token_embd"),
    StoredName::new(&[Role::PositionEmbedding], "transformer.wpe", "position_embd"),
    StoredName::new(&[Role::FinalNorm], "transformer.ln_f", "output_norm"),
    StoredName::new(&[Role::Head], "lm_head", "output"),
    StoredName::new(&[Role::InputNorm(Site::Attention)], "ln_1", "attn_norm"),
    StoredName::new(&[Role::Query, Role::Key, Role::Value], "attn.c_attn", "attn_qkv")
        .laid_out(StoredLayout::Transposed),
    StoredName::new(&[Role::AttentionOutput], "attn.c_proj", "attn_output")
        .laid_out(StoredLayout::Transposed),
    StoredName::new(&[Role::InputNorm(Site::Mlp)], "ln_2", "ffn_norm"),
    StoredName::new(&[Role::MlpUp], "mlp.c_fc", "ffn_up").laid_out(StoredLayout::Transposed),
    StoredName::new(&[Role::MlpDown], "mlp.c_proj", "ffn_down").laid_out(StoredLayout::Transposed),
];

/// GPT-2's words for sizes, each with that of most families.
const WORDS: [(&str, &str); 7] = [
    ("n_embd", "hidden_size"),
    ("n_layer", "num_hidden_layers"),
    ("n_head", "num_attention_heads"),
    ("n_positions", "max_position_embeddings"),
    ("n_inner", "intermediate_size"),
    ("layer_norm_epsilon", "rms_norm_eps"),
    ("activation_function", "hidden_act"),
];

fn read(keys: &mut Keys) -> Result<ModelSpec, SpecError> {
    for (own, usual) in WORDS {
        keys.rename(own, usual);
    }
    for key in ["rope_theta", "rope_scaling", "rope_parameters"] {
        common::refuse_key(Family(&FAMILY), keys, key)?;
    }
    if let Some(hidden) = keys.0.get("hidden_size").and_then(Value::as_u64) {
        keys.or_default("intermediate_size", hidden.saturating_mul(4));
    }
    let defaults = common::Defaults {
        max_position_embeddings: 1024,
        rms_norm_eps: 1e-5,
        hidden_act: Activation::GeluTanh,
        tie_word_embeddings: true,
        ..common::Defaults::USUAL
    };
    let mut spec = common::read(Family(&FAMILY), keys, &defaults)?;
    common::whole_heads(&spec)?;
    spec.norm = NormKind::LayerNorm;
    spec.learned_positions = true;
    spec.gated_mlp = false;
    (spec.qkv_bias, spec.attention_output_bias, spec.mlp_bias) = (true, true, true);
    spec.per_layer.iter_mut().for_each(|layer| layer.rotary = Rotary::None);
    if keys.flag("scale_attn_weights")? == Some(false) {
        return Err(SpecError::Unsupported {
            key: "scale_attn_weights".to_owned(),
            value: "false".to_owned(),
            why: "scores without a scale are not".to_owned(),
        });
    }
    if keys.flag("scale_attn_by_inverse_layer_idx")? == Some(true) {
        spec.attention_scale = AttentionScale::HeadSizeAndDepth;
    }
    Ok(spec)
}

fn write(spec: &ModelSpec, config: &mut Map<String, Value>) {
    for (own, usual) in WORDS {
        common::rename(config, usual, own);
    }
    for key in ["head_dim", "num_key_value_heads", "rope_theta", "rope_scaling"] {
        config.remove(key);
    }
    if spec.hidden_act == Activation::GeluTanh {
        config.insert("activation_function".to_owned(), json!("gelu_new"));
    }
    let by_depth = spec.attention_scale == AttentionScale::HeadSizeAndDepth;
    config.insert("scale_attn_by_inverse_layer_idx".to_owned(), json!(by_depth));
}
