//! Phi-3 and Phi-4: a Llama whose q, k and v are stored as one matrix, and its gate and up as another;
//! LongRoPE, and a window in every layer where there is one.

use serde_json::{Map, Value, json};

use super::{Description, Family, Gguf, StoredName, USUAL, common};
use crate::{ModelSpec, Role, Site, SpecError, config::keys::Keys};

pub(super) static FAMILY: Description = Description {
    model_type: "phi3",
    architecture: "Phi3ForCausalLM",
    names: &NAMES,
    computes: &["partial_rotary_factor"],
    read,
    write,
    gguf: Some(Gguf {
        architecture: "phi3",
        keys: &[("attention.sliding_window", "sliding_window")],
        long_rope: true,
        heads_fill_stream: true,
        window_is_ignored: true,
        ..Gguf::USUAL
    }),
    ..USUAL
};

static NAMES: [StoredName; 9] = [
    StoredName::new(&[Role::Embedding], "model.embed_tokens", "token_embd"),
    StoredName::new(&[Role::FinalNorm], "model.norm", "output_norm"),
    StoredName::new(&[Role::Head], "lm_head", "output"),
    StoredName::new(&[Role::InputNorm(Site::Attention)], "input_layernorm", "attn_norm"),
    StoredName::new(&[Role::Query, Role::Key, Role::Value], "self_attn.qkv_proj", "attn_qkv"),
    StoredName::new(&[Role::AttentionOutput], "self_attn.o_proj", "attn_output"),
    StoredName::new(&[Role::InputNorm(Site::Mlp)], "post_attention_layernorm", "ffn_norm"),
    StoredName::new(&[Role::MlpGate, Role::MlpUp], "mlp.gate_up_proj", "ffn_up"),
    StoredName::new(&[Role::MlpDown], "mlp.down_proj", "ffn_down"),
];

fn read(keys: &mut Keys) -> Result<ModelSpec, SpecError> {
    let defaults = common::Defaults {
        max_position_embeddings: 4096,
        rms_norm_eps: 1e-5,
        ..common::Defaults::USUAL
    };
    // The context before extension stands beside the scaling, not in it; older files call LongRoPE "su".
    let original = keys.size("original_max_position_embeddings")?;
    for key in ["rope_scaling", "rope_parameters"] {
        let Some(Value::Object(scaling)) = keys.0.get_mut(key) else { continue };
        let lacks_factors =
            !["short_factor", "long_factor"].iter().all(|list| scaling.contains_key(*list));
        for name in ["type", "rope_type"] {
            if lacks_factors && scaling.get(name).is_some_and(|kind| kind == "yarn") {
                return Err(SpecError::Unsupported {
                    key: format!("{key}.{name}"),
                    value: "yarn".to_owned(),
                    why: "in a phi3 it is an older name of longrope, whose short_factor and long_factor are \
                          not there; YaRN itself is not computed for phi3"
                        .to_owned(),
                });
            }
            if scaling.get(name).is_some_and(|kind| kind == "su" || kind == "yarn") {
                scaling.insert(name.to_owned(), json!("longrope"));
            }
        }
        if let Some(original) = original {
            let key = "original_max_position_embeddings";
            scaling.entry(key).or_insert(json!(original));
        }
    }
    let mut spec = common::read(Family(&FAMILY), keys, &defaults)?;
    let window = keys.size("sliding_window")?;
    spec.set_windows(vec![window; spec.num_hidden_layers]);
    Ok(spec)
}

fn write(spec: &ModelSpec, config: &mut Map<String, Value>) {
    config.insert("sliding_window".to_owned(), json!(spec.windows().next().flatten()));
    if spec.rotary_dim != spec.head_dim {
        common::write_rotary_share(spec, "partial_rotary_factor", config);
    }
    if let crate::RopeScaling::LongRope { original_max_position_embeddings: original, .. } =
        spec.rope.scaling
    {
        config.insert("original_max_position_embeddings".to_owned(), json!(original as u64));
    }
}
