//! gpt_oss: experts with biases behind a clamped gate, attention sinks, a window in every other layer, YaRN.
//!
//! Its router takes the softmax over the scores of the experts that it has chosen. Over all experts, then
//! divided by the sum of the chosen ones' shares, is the same.

use serde_json::{Map, Value, json};

use super::{Description, Family, Gguf, StoredName, USUAL, common};
use crate::{
    Activation, ClampedGate, ExpertsSpec, ModelSpec, Role, RopeScaling, Router, Site, SpecError,
    StoredLayout, config::keys::Keys,
};

pub(super) static FAMILY: Description = Description {
    model_type: "gpt_oss",
    architecture: "GptOssForCausalLM",
    names: &NAMES,
    expert_names: &EXPERT_NAMES,
    computes: &["num_local_experts", "num_experts", "swiglu_limit", "swiglu_alpha"],
    read,
    write,
    gguf: Some(Gguf {
        architecture: "gpt-oss",
        keys: &[
            ("attention.sliding_window", "sliding_window"),
            ("expert_count", "num_local_experts"),
            ("expert_used_count", "num_experts_per_tok"),
            ("expert_feed_forward_length", "intermediate_size"),
        ],
        exact_yarn: true,
        usually_biased: true,
        ..Gguf::USUAL
    }),
    ..USUAL
};

const LIMIT: f64 = 7.0;
const ALPHA: f64 = 1.702;

static NAMES: [StoredName; 10] = [
    StoredName::new(&[Role::Embedding], "model.embed_tokens", "token_embd"),
    StoredName::new(&[Role::FinalNorm], "model.norm", "output_norm"),
    StoredName::new(&[Role::Head], "lm_head", "output"),
    StoredName::new(&[Role::InputNorm(Site::Attention)], "input_layernorm", "attn_norm"),
    StoredName::new(&[Role::Query], "self_attn.q_proj", "attn_q"),
    StoredName::new(&[Role::Key], "self_attn.k_proj", "attn_k"),
    StoredName::new(&[Role::Value], "self_attn.v_proj", "attn_v"),
    StoredName::new(&[Role::AttentionOutput], "self_attn.o_proj", "attn_output"),
    StoredName::new(&[Role::Sinks], "self_attn.sinks", "attn_sinks"),
    // llama.cpp's name for the norm before the experts.
    StoredName::new(
        &[Role::InputNorm(Site::Mlp)],
        "post_attention_layernorm",
        "post_attention_norm",
    ),
];

static EXPERT_NAMES: [StoredName; 3] = [
    StoredName::new(&[Role::Router], "mlp.router", "ffn_gate_inp"),
    StoredName::new(&[Role::MlpGate, Role::MlpUp], "mlp.experts.gate_up_proj", "")
        .laid_out(StoredLayout::Stacked),
    StoredName::new(&[Role::MlpDown], "mlp.experts.down_proj", "").laid_out(StoredLayout::Stacked),
];

fn read(keys: &mut Keys) -> Result<ModelSpec, SpecError> {
    let defaults = common::Defaults {
        num_key_value_heads: Some(8),
        head_dim: Some(64),
        max_position_embeddings: 131_072,
        rms_norm_eps: 1e-5,
        rope_theta: 150_000.0,
        ..common::Defaults::USUAL
    };
    if ["rope_parameters", "rope_scaling"]
        .iter()
        .all(|key| keys.0.get(*key).is_none_or(Value::is_null))
    {
        let yarn = json!({
            "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": false,
            "original_max_position_embeddings": 4096,
        });
        keys.or_default("rope_scaling", yarn);
    }
    let mut spec = common::read(Family(&FAMILY), keys, &defaults)?;
    if spec.hidden_act != Activation::Silu {
        return Err(SpecError::Unsupported {
            key: "hidden_act".to_owned(),
            value: spec.hidden_act.name().to_owned(),
            why: "model_type \"gpt_oss\" has a clamped \"silu\" and no other".to_owned(),
        });
    }
    spec.qkv_bias = keys.flag("attention_bias")?.unwrap_or(true);
    spec.attention_output_bias = spec.qkv_bias;
    spec.mlp_bias = true;
    spec.attention_sinks = true;
    spec.clamped_gate = Some(ClampedGate {
        limit: keys.number("swiglu_limit")?.unwrap_or(LIMIT),
        alpha: keys.number("swiglu_alpha")?.unwrap_or(ALPHA),
    });
    if !keys.0.contains_key("sliding_window") {
        keys.or_default("sliding_window", 128);
    }
    common::read_sliding(keys, &mut spec, 2)?;
    let experts = ExpertsSpec {
        count: common::expert_count(keys)?.unwrap_or(128),
        per_token: keys.size("num_experts_per_tok")?.unwrap_or(4),
        intermediate_size: spec.intermediate_size,
        router: Router::SoftmaxRenormalised,
        ..ExpertsSpec::PLAIN
    };
    spec.per_layer.iter_mut().for_each(|layer| layer.experts = Some(experts));
    Ok(spec)
}

fn write(spec: &ModelSpec, config: &mut Map<String, Value>) {
    common::write_sliding(spec, config);
    if spec.rope.scaling == RopeScaling::Default {
        // Without a word the reference class takes YaRN.
        config.remove("rope_theta");
        let plain = json!({"rope_type": "default", "rope_theta": spec.rope.theta});
        config.insert("rope_parameters".to_owned(), plain);
    }
    let mut put = |key: &str, value: Value| config.insert(key.to_owned(), value);
    put("hidden_act", json!(Activation::Silu.name()));
    put("attention_bias", json!(spec.qkv_bias));
    if let Some(gate) = spec.clamped_gate {
        put("swiglu_limit", json!(gate.limit));
        put("swiglu_alpha", json!(gate.alpha));
    }
    if let Some(experts) = spec.per_layer.first().and_then(|layer| layer.experts) {
        put("num_local_experts", json!(experts.count));
        put("num_experts_per_tok", json!(experts.per_token));
    }
}
