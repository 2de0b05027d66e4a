//! Latent attention in GGUF files: architecture `deepseek2`, as llama.cpp's converter has written it since its
//! heads are absorbed (a stack with a matrix of each head for keys, transposed, and one for values), and before
//! (one matrix for both, head by head, as in a folder).

use std::collections::HashMap;

use lns_spec::{Family, LatentSpec, ModelSpec, ModelTensor, Role, StoredRows, TensorId};
use serde_json::{Map, Value, json};

use super::config::Keys;
use crate::tensor::OfHeads;
use crate::{CheckpointError, TensorInfo};

/// Where a file says a tenth of the m by which YaRN stretches the scores.
pub(super) const STRETCH: &str = "rope.scaling.yarn_log_multiplier";

/// Whether models of this family have latents.
pub(super) fn has_latents(family: Family) -> bool {
    family.names().any(|name| name.roles.contains(&Role::KeyValueLatent))
}

/// Whether an epsilon is that of the norms on latents, as an f32; llama.cpp takes the other norms' for both.
pub(super) fn is_usual_epsilon(epsilon: f64) -> bool {
    (epsilon - LatentSpec::NORM_EPS).abs() <= 1e-6 * LatentSpec::NORM_EPS
}

/// What llama.cpp would compute otherwise.
pub(super) fn fault(spec: &ModelSpec) -> Option<String> {
    if spec.latent.is_some() && !is_usual_epsilon(spec.rms_norm_eps) {
        let epsilon = spec.rms_norm_eps;
        return Some(format!("rms_norm_eps = {epsilon} beside 1e-6 for norms on latents"));
    }
    // It tells a model whose queries have no latent (V2-Lite and others of its shape) by its size alone.
    let layers = spec.num_hidden_layers;
    let lite = matches!(layers, 26 | 27) || (layers == 48 && spec.vocab_size == 128_256);
    match spec.latent.map(|latent| latent.q_lora_rank) {
        Some(None) if !lite => {
            return Some(format!(
                "queries without a latent in {layers} layers: llama.cpp takes them of 26 or 27 layers"
            ));
        }
        Some(Some(rank)) if lite => {
            return Some(format!("q_lora_rank = {rank} in {layers} layers: llama.cpp takes none"));
        }
        _ => {}
    }
    let experts = spec.per_layer.iter().find_map(|layer| layer.experts)?;
    let groups = experts.groups?;
    if !experts.router.is_corrected() {
        let by = "llama.cpp chooses groups by the sum of two shares";
        return Some(format!("groups of experts that are chosen by their largest share: {by}"));
    }
    (groups.per_token == groups.count).then(|| "groups that are all used".to_owned())
}

/// What the metadata say of heads, latents and experts, as `config.json` has it.
pub(super) fn config(
    keys: &Keys<'_, '_>,
    sigmoid: bool,
) -> Result<Map<String, Value>, CheckpointError> {
    let epsilon = "attention.layer_norm_rms_epsilon";
    if keys.number(epsilon)?.is_some_and(|epsilon| !is_usual_epsilon(epsilon)) {
        let why = "the norms on latents would have it too, and only 1e-6 is for those";
        return Err(keys.metadata.unsupported(&keys.key(epsilon), why));
    }
    // Those without the suffix are the sizes of absorbed heads where these are there.
    let suffix = if keys.size("attention.key_length_mla")?.is_some() { "_mla" } else { "" };
    let key_length = format!("attention.key_length{suffix}");
    let head_dim = keys.required_size(&key_length)?;
    let turned = keys.required_size("rope.dimension_count")?;
    let Some(unturned) = head_dim.checked_sub(turned).filter(|unturned| *unturned > 0) else {
        return Err(keys.metadata.wrong(&keys.key(&key_length), "more than rope.dimension_count"));
    };
    // What llama.cpp takes where the file is silent; `own_keys` come after.
    let mut config = json!({
        "num_key_value_heads": keys.required_size("attention.head_count")?,
        "qk_nope_head_dim": unturned,
        "qk_rope_head_dim": turned,
        "v_head_dim": keys.required_size(&format!("attention.value_length{suffix}"))?,
        "q_lora_rank": null,
        "kv_lora_rank": keys.required_size("attention.kv_lora_rank")?,
        "n_shared_experts": 0,
        "routed_scaling_factor": 1.0,
        "norm_topk_prob": false,
    });
    if sigmoid {
        (config["n_group"], config["topk_group"]) = (json!(1), json!(1));
    } else if keys.size("expert_group_count")?.is_some_and(|groups| groups > 1) {
        config["topk_method"] = json!("group_limited_greedy");
    }
    match config {
        Value::Object(config) => Ok(config),
        _ => Ok(Map::new()),
    }
}

/// Adds YaRN's stretch of the scores to what is said of the rotary scaling. cos and sin have none then: llama.cpp
/// assumes that `mscale` and `mscale_all_dim` are the same.
pub(super) fn add_stretch(
    keys: &Keys<'_, '_>,
    config: &mut Map<String, Value>,
) -> Result<(), CheckpointError> {
    let key = STRETCH;
    let Some(Value::Object(scaling)) = config.get_mut("rope_scaling") else { return Ok(()) };
    if scaling.get("rope_type").is_none_or(|kind| kind != "yarn") {
        return keys.metadata.refuse(&keys.key(key), 0.0, "scores stretched without YaRN are not");
    }
    let Some(multiplier) = keys.number(key)?.filter(|multiplier| *multiplier != 0.0) else {
        return Err(keys.metadata.missing(&keys.key(key)));
    };
    for key in ["mscale", "mscale_all_dim"] {
        scaling.insert(key.to_owned(), json!(10.0 * multiplier));
    }
    Ok(())
}

/// The shape of the stack in which a file has the matrix of each head; `None` of what is no such stack.
pub(super) fn stack(spec: &ModelSpec, role: Role) -> Option<[usize; 3]> {
    let (latent, heads) = (spec.latent?, spec.num_attention_heads);
    match role {
        Role::Key => Some([heads, latent.kv_lora_rank, spec.unturned_dim()]),
        Role::Value => Some([heads, latent.v_head_dim, latent.kv_lora_rank]),
        _ => None,
    }
}

/// The numbers of a tensor in the order in which a file has them: those of keys transposed head by head.
pub(super) fn in_file_order(spec: &ModelSpec, part: &ModelTensor, values: Vec<f32>) -> Vec<f32> {
    let (Some([heads, rank, unturned]), Role::Key) = (stack(spec, part.id.role), part.id.role)
    else {
        return values;
    };
    let of_head = |head: usize| &values[head * rank * unturned..][..rank * unturned];
    (0..heads)
        .flat_map(|head| {
            let of_head = of_head(head);
            (0..rank).flat_map(move |column| of_head.iter().skip(column).step_by(rank).copied())
        })
        .collect()
}

/// Lets the tensors of keys and values be those of the model, \[heads · features, rank\], whichever way the file
/// has them. One of another shape stays as it is, for the audit to name.
pub(super) fn lay_out(spec: &ModelSpec, tensors: &mut Vec<TensorInfo>) {
    let Some(latent) = spec.latent else { return };
    let (heads, rank) = (spec.num_attention_heads, latent.kv_lora_rank);
    let [keys, values] = [spec.unturned_dim(), latent.v_head_dim];
    let together = keys + values;
    let mut places: HashMap<String, usize> = HashMap::new();
    for (place, tensor) in tensors.iter().enumerate() {
        places.insert(tensor.name.clone(), place);
    }
    let mut gone = Vec::new();
    for layer in spec.layers() {
        let name = |role| spec.family.stored_name(TensorId::of_layer(layer, role));
        let parts = [
            (Role::Key, Role::KeyOfLatent, 0, keys),
            (Role::Value, Role::ValueOfLatent, keys, values),
        ];
        for (role, own, _, features) in parts {
            let Some(found) = places.get(&name(own)).map(|place| &mut tensors[*place]) else {
                continue;
            };
            if stack(spec, role).is_some_and(|stack| found.shape == stack) {
                found.shape = vec![heads * features, rank];
                if role == Role::Key {
                    (found.transposed, found.of_heads) = (true, Some(OfHeads::Transposed(heads)));
                }
            }
        }
        let Some(place) = places.get(&name(Role::Key)).copied() else { continue };
        if tensors[place].shape != [heads * together, rank] {
            continue;
        }
        for (_, own, first, run) in parts {
            let rows = StoredRows { first, run, stride: together };
            let (shape, of_heads) = (vec![heads * run, rank], Some(OfHeads::Rows(rows)));
            tensors.push(TensorInfo { name: name(own), shape, of_heads, ..tensors[place].clone() });
        }
        gone.push(place);
    }
    // From the last on, so that the places before stay what they are.
    gone.sort_unstable();
    gone.into_iter().rev().for_each(|place| {
        tensors.remove(place);
    });
}

#[cfg(test)]
mod tests {
    use lns_spec::LayerIndex;

    use super::*;

    #[test]
    fn keys_are_transposed_head_by_head_and_values_stay() {
        let config = json!({
            "model_type": "deepseek_v3", "vocab_size": 8, "hidden_size": 4, "intermediate_size": 4,
            "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
            "kv_lora_rank": 2, "qk_nope_head_dim": 3, "qk_rope_head_dim": 2, "v_head_dim": 1,
        });
        let spec = ModelSpec::from_config(&config).expect("reads");
        let tensors = spec.layer_tensors(LayerIndex::new(0));
        let of = |role| tensors.iter().find(|tensor| tensor.id.role == role).expect("is there");
        let numbers: Vec<f32> = (0..12u8).map(f32::from).collect();
        let keys = in_file_order(&spec, of(Role::Key), numbers.clone());
        assert_eq!(keys, [0.0, 2.0, 4.0, 1.0, 3.0, 5.0, 6.0, 8.0, 10.0, 7.0, 9.0, 11.0]);
        assert_eq!(in_file_order(&spec, of(Role::Value), numbers[..4].to_vec()), numbers[..4]);
        assert_eq!(stack(&spec, Role::Key), Some([2, 2, 3]));
        assert_eq!(stack(&spec, Role::Value), Some([2, 1, 2]));
    }
}
