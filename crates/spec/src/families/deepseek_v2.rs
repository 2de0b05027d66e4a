//! DeepSeek-V2 and V2-Lite: latent attention; experts by their shares of a softmax, all of them or those of a
//! few groups.

use serde_json::{Map, Value, json};

use super::{Description, Family, USUAL, deepseek};
use crate::{ModelSpec, Router, SpecError, config::keys::Keys};

pub(super) static FAMILY: Description = Description {
    model_type: "deepseek_v2",
    architecture: "DeepseekV2ForCausalLM",
    names: &deepseek::NAMES,
    expert_names: &deepseek::EXPERT_NAMES,
    computes: deepseek::COMPUTES,
    read,
    write,
    gguf: Some(deepseek::GGUF),
    ..USUAL
};

const LIMITED: &str = "group_limited_greedy";

fn read(keys: &mut Keys) -> Result<ModelSpec, SpecError> {
    let defaults = deepseek::Defaults {
        max_position_embeddings: 2048,
        n_routed_experts: 64,
        num_experts_per_tok: None,
        moe_intermediate_size: 1407,
        n_shared_experts: 2,
        first_k_dense_replace: 0,
        routed_scaling_factor: 1.0,
    };
    let neighbours = "model_type \"deepseek_v2\" turns neighbours together";
    deepseek::only(keys, "rope_interleave", &[json!(true)], neighbours)?;
    deepseek::read(Family(&FAMILY), keys, &defaults, |keys| {
        let why = "transformers does not divide the weights of this model_type by their sum";
        deepseek::only(keys, "norm_topk_prob", &[json!(false)], why)?;
        let why = "experts of model_type \"deepseek_v2\" have the shares of a softmax";
        deepseek::only(keys, "scoring_func", &[json!("softmax")], why)?;
        let groups = match keys.text("topk_method")?.as_deref() {
            None | Some("greedy") => {
                // They mean nothing then.
                keys.take("n_group");
                keys.take("topk_group");
                None
            }
            Some(LIMITED) => Some(deepseek::groups(keys, [1, 1])?),
            Some(other) => {
                return Err(SpecError::Unsupported {
                    key: "topk_method".to_owned(),
                    value: format!("{other:?}"),
                    why: format!("only \"greedy\" and \"{LIMITED}\" are"),
                });
            }
        };
        Ok(deepseek::Choice { router: Router::Softmax, groups })
    })
}

fn write(spec: &ModelSpec, config: &mut Map<String, Value>) {
    deepseek::write(spec, config);
    let groups = spec.per_layer.iter().find_map(|layer| layer.experts).and_then(|own| own.groups);
    let method = if groups.is_some() { LIMITED } else { "greedy" };
    config.insert("topk_method".to_owned(), json!(method));
    config.insert("n_group".to_owned(), json!(groups.map(|groups| groups.count)));
    config.insert("topk_group".to_owned(), json!(groups.map(|groups| groups.per_token)));
    config.insert("norm_topk_prob".to_owned(), json!(false));
    config.insert("scoring_func".to_owned(), json!("softmax"));
}
