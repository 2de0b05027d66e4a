//! Gemma 3, alone or as the text model of one that also reads images: Gemma 2 with norms on the heads of
//! q and k, without soft-caps, five layers with a window to one without, and a rotary base for each kind.

use serde_json::{Map, Value, json};

use super::{Description, Family, Gguf, USUAL, common, gemma2};
use crate::{ModelSpec, NormScheme, QkNorm, RopeScaling, RopeSpec, SpecError, config::keys::Keys};

pub(super) static FAMILY: Description = Description {
    model_type: "gemma3_text",
    architecture: "Gemma3ForCausalLM",
    names: &gemma2::NAMES,
    own_scheme: NormScheme::sandwich,
    left_out: &["vision_tower.", "multi_modal_projector.", "vision_model."],
    inside: Some("gemma3"),
    computes: &["attn_logit_softcapping", "final_logit_softcapping", "rope_local_base_freq"],
    read,
    write,
    gguf: Some(Gguf {
        architecture: "gemma3",
        keys: &[
            ("attention.sliding_window", "sliding_window"),
            ("final_logit_softcapping", "final_logit_softcapping"),
            ("rope.freq_base_swa", "rope_local_base_freq"),
        ],
        scale_by_head: Some(("query_pre_attn_scalar", 62)),
        ..Gguf::USUAL
    }),
    ..USUAL
};

/// The base of layers with a window, where the file does not say it.
const LOCAL_THETA: f64 = 10_000.0;

fn read(keys: &mut Keys) -> Result<ModelSpec, SpecError> {
    for (key, value) in [
        ("vocab_size", 262_208),
        ("hidden_size", 2304),
        ("intermediate_size", 9216),
        ("num_hidden_layers", 26),
        ("num_attention_heads", 8),
    ] {
        keys.or_default(key, value);
    }
    let defaults = common::Defaults {
        max_position_embeddings: 131_072,
        rope_theta: 1_000_000.0,
        ..gemma2::DEFAULTS
    };
    let mut spec = gemma2::read_gemma(Family(&FAMILY), keys, &defaults)?;
    spec.qk_norm = QkNorm::PerHead;
    let local = keys.number("rope_local_base_freq")?.unwrap_or(LOCAL_THETA);
    if spec.local_rope.is_none() {
        spec.local_rope = Some(RopeSpec { theta: local, scaling: RopeScaling::Default });
    }
    let newer = keys.size("_sliding_window_pattern")?;
    let pattern = keys.size("sliding_window_pattern")?.or(newer).unwrap_or(6);
    common::read_sliding(keys, &mut spec, pattern)?;
    Ok(spec)
}

fn write(spec: &ModelSpec, config: &mut Map<String, Value>) {
    gemma2::write_gemma(spec, config);
    common::write_sliding(spec, config);
    match spec.local_rope.as_ref().unwrap_or(&spec.rope) {
        // As Gemma 3's own files have it, which programs of any age read.
        RopeSpec { theta, scaling: RopeScaling::Default } => {
            config.insert("rope_local_base_freq".to_owned(), json!(theta));
        }
        _ => common::write_ropes(spec, config),
    }
}
