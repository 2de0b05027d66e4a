//! Mixtral: a Mistral with experts in the place of every MLP, their shares renormalised.

use serde_json::{Map, Value, json};

use super::{Description, Family, Gguf, StoredName, USUAL, common, llama};
use crate::{ExpertsSpec, ModelSpec, Role, Router, SpecError, config::keys::Keys};

pub(super) static FAMILY: Description = Description {
    model_type: "mixtral",
    architecture: "MixtralForCausalLM",
    names: &llama::NAMES,
    expert_names: &EXPERT_NAMES,
    computes: &["num_local_experts", "num_experts"],
    read,
    write,
    // llama.cpp does not tell Mixtral from Llama; experts are the difference.
    gguf: Some(Gguf {
        architecture: "llama",
        experts: true,
        interleaved_rotary: true,
        llama3_rope: true,
        keys: &[
            ("expert_count", "num_local_experts"),
            ("expert_used_count", "num_experts_per_tok"),
        ],
        ..Gguf::USUAL
    }),
    ..USUAL
};

static EXPERT_NAMES: [StoredName; 4] = [
    StoredName::new(&[Role::Router], "block_sparse_moe.gate", "ffn_gate_inp"),
    StoredName::new(&[Role::MlpGate], "block_sparse_moe.experts.{expert}.w1", ""),
    StoredName::new(&[Role::MlpUp], "block_sparse_moe.experts.{expert}.w3", ""),
    StoredName::new(&[Role::MlpDown], "block_sparse_moe.experts.{expert}.w2", ""),
];

fn read(keys: &mut Keys) -> Result<ModelSpec, SpecError> {
    let defaults = common::Defaults {
        num_key_value_heads: Some(8),
        max_position_embeddings: 131_072,
        rms_norm_eps: 1e-5,
        rope_theta: 1e6,
        ..common::Defaults::USUAL
    };
    let mut spec = common::read(Family(&FAMILY), keys, &defaults)?;
    let window = keys.size("sliding_window")?;
    spec.set_windows(vec![window; spec.num_hidden_layers]);
    let experts = ExpertsSpec {
        count: common::expert_count(keys)?.unwrap_or(8),
        per_token: keys.size("num_experts_per_tok")?.unwrap_or(2),
        intermediate_size: spec.intermediate_size,
        router: Router::SoftmaxRenormalised,
        ..ExpertsSpec::PLAIN
    };
    spec.per_layer.iter_mut().for_each(|layer| layer.experts = Some(experts));
    Ok(spec)
}

fn write(spec: &ModelSpec, config: &mut Map<String, Value>) {
    let window = spec.windows().next().flatten();
    config.insert("sliding_window".to_owned(), json!(window));
    if let Some(experts) = spec.per_layer.first().and_then(|layer| layer.experts) {
        config.insert("num_local_experts".to_owned(), json!(experts.count));
        config.insert("num_experts_per_tok".to_owned(), json!(experts.per_token));
    }
}
