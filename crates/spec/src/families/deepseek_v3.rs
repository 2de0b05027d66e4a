//! DeepSeek-V3 and R1, and what has their `config.json`: as V2, the experts of a few groups chosen by a sigmoid
//! with a correction that keeps their load even.

use serde_json::{Map, Value, json};

use super::{Description, Family, Gguf, USUAL, deepseek};
use crate::{ModelSpec, Router, SpecError, config::keys::Keys};

pub(super) static FAMILY: Description = Description {
    model_type: "deepseek_v3",
    architecture: "DeepseekV3ForCausalLM",
    names: &deepseek::NAMES,
    expert_names: &deepseek::EXPERT_NAMES,
    computes: deepseek::COMPUTES,
    read,
    write,
    gguf: Some(Gguf { sigmoid_experts: true, ..deepseek::GGUF }),
    ..USUAL
};

fn read(keys: &mut Keys) -> Result<ModelSpec, SpecError> {
    let defaults = deepseek::Defaults {
        max_position_embeddings: 4096,
        n_routed_experts: 256,
        num_experts_per_tok: Some(8),
        moe_intermediate_size: 2048,
        n_shared_experts: 1,
        first_k_dense_replace: 3,
        routed_scaling_factor: 2.5,
    };
    let neighbours = keys.flag("rope_interleave")?.unwrap_or(true);
    let mut spec = deepseek::read(Family(&FAMILY), keys, &defaults, |keys| {
        let why = "experts of model_type \"deepseek_v3\" have a sigmoid of their score";
        deepseek::only(keys, "scoring_func", &[json!("sigmoid")], why)?;
        let why =
            "experts of model_type \"deepseek_v3\" are chosen by corrected scores (\"noaux_tc\")";
        deepseek::only(keys, "topk_method", &[json!("noaux_tc")], why)?;
        let router = match keys.flag("norm_topk_prob")?.unwrap_or(true) {
            true => Router::SigmoidRenormalised,
            false => Router::Sigmoid,
        };
        // One group is no limit.
        let groups = Some(deepseek::groups(keys, [8, 4])?)
            .filter(|groups| (groups.count, groups.per_token) != (1, 1));
        Ok(deepseek::Choice { router, groups })
    })?;
    spec.rotary_interleaved = neighbours;
    Ok(spec)
}

fn write(spec: &ModelSpec, config: &mut Map<String, Value>) {
    deepseek::write(spec, config);
    let mut put = |key: &str, value: Value| config.insert(key.to_owned(), value);
    put("rope_interleave", json!(spec.rotary_interleaved));
    put("scoring_func", json!("sigmoid"));
    put("topk_method", json!("noaux_tc"));
    let Some(experts) = spec.per_layer.iter().find_map(|layer| layer.experts) else { return };
    let (groups, chosen) = experts.groups.map_or((1, 1), |groups| (groups.count, groups.per_token));
    put("n_group", json!(groups));
    put("topk_group", json!(chosen));
    put("norm_topk_prob", json!(experts.router == Router::SigmoidRenormalised));
}
