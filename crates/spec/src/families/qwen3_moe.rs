//! Qwen 3 with experts: in every layer, or with an MLP in some.

use serde_json::{Map, Value, json};

use super::{Description, Family, Gguf, StoredName, USUAL, common, llama};
use crate::{
    ExpertsSpec, ModelSpec, QkNorm, Role, Router, SpecError,
    config::keys::{Keys, invalid},
};

pub(super) static FAMILY: Description = Description {
    model_type: "qwen3_moe",
    architecture: "Qwen3MoeForCausalLM",
    names: &llama::NAMES,
    expert_names: &EXPERT_NAMES,
    computes: &["num_experts", "num_local_experts"],
    read,
    write,
    gguf: Some(Gguf {
        architecture: "qwen3moe",
        keys: &[
            ("expert_count", "num_experts"),
            ("expert_used_count", "num_experts_per_tok"),
            ("expert_feed_forward_length", "moe_intermediate_size"),
        ],
        takes_for_granted: &[("norm_topk_prob", true)],
        ..Gguf::USUAL
    }),
    ..USUAL
};

static EXPERT_NAMES: [StoredName; 4] = [
    StoredName::new(&[Role::Router], "mlp.gate", "ffn_gate_inp"),
    StoredName::new(&[Role::MlpGate], "mlp.experts.{expert}.gate_proj", ""),
    StoredName::new(&[Role::MlpUp], "mlp.experts.{expert}.up_proj", ""),
    StoredName::new(&[Role::MlpDown], "mlp.experts.{expert}.down_proj", ""),
];

fn read(keys: &mut Keys) -> Result<ModelSpec, SpecError> {
    let defaults = common::Defaults {
        num_key_value_heads: Some(4),
        max_position_embeddings: 32_768,
        ..common::Defaults::USUAL
    };
    let mut spec = common::read(Family(&FAMILY), keys, &defaults)?;
    spec.qk_norm = QkNorm::PerHead;
    spec.qkv_bias = keys.flag("attention_bias")?.unwrap_or(false);
    spec.attention_output_bias = spec.qkv_bias;
    let used = keys.flag("use_sliding_window")?.unwrap_or(false);
    let window = common::sliding_window(keys)?.filter(|_| used);
    spec.set_windows(vec![window; spec.num_hidden_layers]);

    let renormalised = keys.flag("norm_topk_prob")?.unwrap_or(false);
    let experts = ExpertsSpec {
        count: common::expert_count(keys)?.unwrap_or(128),
        per_token: keys.size("num_experts_per_tok")?.unwrap_or(8),
        intermediate_size: keys.size("moe_intermediate_size")?.unwrap_or(768),
        router: if renormalised { Router::SoftmaxRenormalised } else { Router::Softmax },
        ..ExpertsSpec::PLAIN
    };
    let step = keys.size("decoder_sparse_step")?.unwrap_or(1);
    let dense = keys.typed("mlp_only_layers", "a list of layers", |value| {
        value.as_array()?.iter().map(Value::as_u64).collect::<Option<Vec<_>>>()
    })?;
    let dense = dense.unwrap_or_default();
    if let Some(layer) = dense.iter().find(|layer| **layer >= spec.num_hidden_layers as u64) {
        return Err(invalid("mlp_only_layers", &json!(layer), "layers of the model"));
    }
    for (layer, own) in spec.per_layer.iter_mut().enumerate() {
        let sparse = (layer + 1).is_multiple_of(step) && !dense.contains(&(layer as u64));
        own.experts = (sparse && experts.count > 0).then_some(experts);
    }
    Ok(spec)
}

fn write(spec: &ModelSpec, config: &mut Map<String, Value>) {
    let mut put = |key: &str, value: Value| config.insert(key.to_owned(), value);
    let window = spec.windows().find_map(|window| window);
    put("use_sliding_window", json!(window.is_some()));
    put("sliding_window", json!(window));
    put("attention_bias", json!(spec.qkv_bias));
    let Some(experts) = spec.per_layer.iter().find_map(|layer| layer.experts) else {
        put("num_experts", json!(0));
        return;
    };
    put("num_experts", json!(experts.count));
    put("num_experts_per_tok", json!(experts.per_token));
    put("moe_intermediate_size", json!(experts.intermediate_size));
    put("norm_topk_prob", json!(experts.router == Router::SoftmaxRenormalised));
    put("decoder_sparse_step", json!(1));
    let layers = spec.per_layer.iter().enumerate();
    put(
        "mlp_only_layers",
        layers
            .filter(|(_, layer)| layer.experts.is_none())
            .map(|(layer, _)| json!(layer))
            .collect(),
    );
}
