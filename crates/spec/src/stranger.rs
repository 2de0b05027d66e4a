//! What a model that is not supported would take: everything that stops it, and the family it is nearest to.

use std::collections::BTreeSet;

use lns_show::counted;
use serde_json::{Map, Value, json};

use crate::{Family, LayerIndex, ModelSpec, Role, Site, SpecError, StoredName};

/// More than any `config.json` can have wrong at once.
const MOST_FAULTS: usize = 64;

/// Keys of a `config.json` that say nothing about what a decoder computes.
const SAYS_NOTHING: [&str; 26] = [
    "_name_or_path",
    "architectures",
    "auto_map",
    "bos_token_id",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "dtype",
    "eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "initializer_range",
    "is_decoder",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "pretraining_tp",
    "return_dict",
    "router_aux_loss_coef",
    "task_specific_params",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "use_return_dict",
    "_attn_implementation_autoset",
];

/// Whose names a model's tensors have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// Those of a Hugging Face folder.
    HuggingFace,
    /// Those of a GGUF file.
    Gguf,
}

/// The supported family that a model is nearest to.
#[derive(Debug, Clone, PartialEq)]
pub struct Nearest {
    /// That family.
    pub family: Family,
    /// What it was found by, in words.
    pub found_by: String,
    /// The model's kinds of tensors for which the family has no role, layers and experts written `N`.
    pub without_role: Vec<String>,
    /// The kinds that every model of the family has and this one lacks.
    pub missing: Vec<String>,
}

/// Every fault of a `config.json`, in the order in which they are met: each is mended in a copy to see the next.
pub fn faults(config: &Value) -> Vec<SpecError> {
    let mut config = text_config(config).clone();
    let mut faults: Vec<SpecError> = Vec::new();
    while faults.len() < MOST_FAULTS {
        let Err(fault) = ModelSpec::from_config(&config) else { break };
        let key = match &fault {
            SpecError::Unsupported { key, .. } | SpecError::Invalid { key, .. } => key.clone(),
            // What else is wrong cannot be told from what follows from this.
            _ => {
                let follows = matches!(fault, SpecError::Missing { .. }) && !faults.is_empty();
                faults.extend(Some(fault).filter(|_| !follows));
                break;
            }
        };
        faults.push(fault);
        let outer = key.split('.').next().unwrap_or_default();
        let removed = config.as_object_mut().and_then(|keys| keys.remove(outer));
        // The rotary keys name their own, wherever they stand.
        let ropes = ["rope_parameters", "rope_scaling"];
        let removed = removed.or_else(|| {
            let keys = config.as_object_mut()?;
            let found = ropes.into_iter().find(|name| keys.contains_key(*name))?;
            keys.remove(found)
        });
        if removed.is_none() {
            break;
        }
    }
    faults
}

/// The keys of a `config.json` that a family passes over and that are not known to say nothing.
pub fn unread_keys(config: &Value, family: Family) -> Vec<String> {
    let says_nothing = |key: &str| {
        SAYS_NOTHING.contains(&key) || key.contains("dropout") || key.ends_with("_pdrop")
    };
    let left = read_as(config, family).map_or_else(Map::new, |spec| spec.other_keys);
    left.into_iter()
        .filter(|(key, value)| !value.is_null() && !says_nothing(key))
        .map(|(key, _)| key)
        .collect()
}

/// What a family leaves of a `config.json`, without what it refuses; all of it where it is no model.
fn left_over(config: &Value, family: Family) -> Map<String, Value> {
    match read_as(config, family) {
        Some(spec) => spec.other_keys,
        None => text_config(config).as_object().cloned().unwrap_or_default(),
    }
}

/// The model of that family that a `config.json` describes but for what the family refuses.
fn read_as(config: &Value, family: Family) -> Option<ModelSpec> {
    let mut config = of_family(config, family);
    for fault in faults(&config) {
        if let (SpecError::Unsupported { key, .. } | SpecError::Invalid { key, .. }, Some(keys)) =
            (fault, config.as_object_mut())
        {
            keys.remove(key.split('.').next().unwrap_or_default());
        }
    }
    ModelSpec::from_config(&config).ok()
}

/// The `config.json` with another family's name.
pub fn of_family(config: &Value, family: Family) -> Value {
    let mut config = text_config(config).clone();
    if let Some(keys) = config.as_object_mut() {
        keys.insert("model_type".to_owned(), json!(family.model_type()));
    }
    config
}

/// The text model's keys: those of `text_config` where the outer ones say nothing of its size.
fn text_config(config: &Value) -> &Value {
    let inner = config.get("text_config").filter(|inner| inner.is_object());
    match inner {
        Some(inner) if config.get("hidden_size").is_none() && is_unknown(config) => inner,
        _ => config,
    }
}

fn is_unknown(config: &Value) -> bool {
    let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
    Family::named(model_type).is_none() && Family::inside(model_type).is_none()
}

/// The family nearest to a model with these tensors; without any, to its `config.json`; `None` if none is near.
/// `called` is its own name, which decides between families that are equally near.
pub fn nearest(names: &[String], naming: Naming, config: &Value, called: &str) -> Option<Nearest> {
    let kinds: BTreeSet<String> = names.iter().filter_map(|name| kind(name)).collect();
    let keys = text_config(config).as_object().map_or(0, Map::len);
    let has_files = |family: &Family| naming == Naming::HuggingFace || family.gguf().is_some();
    let candidates = Family::all().rev().filter(has_files).map(|family| {
        let own = Kinds::of(family, naming, config);
        let shared = own.known.intersection(&kinds).count();
        // Of all that either has: a family with many names is no nearer for it.
        let all = own.needed.union(&kinds).count().max(1);
        let read = keys.saturating_sub(left_over(config, family).len());
        let name = family.model_type().bytes();
        let alike = called.bytes().zip(name).take_while(|(own, other)| own == other).count();
        // Fewer letters are the same by chance.
        let alike = if alike < 4 { 0 } else { alike };
        ((shared * 1000 / all, read, alike), shared, own)
    });
    // Fewer than a third of its tensors in common is no likeness. Of equal ones the first in the registry.
    let ((_, read, _), shared, own) = candidates.max_by_key(|(nearness, ..)| *nearness)?;
    let found_by = match (kinds.len(), read) {
        (0, 0) => return None,
        (all, _) if shared * 3 < all => return None,
        (0, read) => format!("it reads {} of config.json", counted(read, "key")),
        (all, _) => format!("it has {shared} of the model's {all} kinds of tensors"),
    };
    let absent = |name: &&String| !kinds.is_empty() && !kinds.contains(*name);
    Some(Nearest {
        family: own.family,
        found_by,
        without_role: kinds.difference(&own.known).cloned().collect(),
        missing: own.needed.iter().filter(absent).cloned().collect(),
    })
}

/// The kinds of tensors of a family's models.
struct Kinds {
    family: Family,
    /// All that one of them may have.
    known: BTreeSet<String>,
    /// Those that all of them have, or this one would have.
    needed: BTreeSet<String>,
}

impl Kinds {
    /// Those that the model would have as one of the family, if its `config.json` says; otherwise the family's.
    fn of(family: Family, naming: Naming, config: &Value) -> Self {
        let of_family = |wanted: &dyn Fn(&StoredName) -> bool| -> BTreeSet<String> {
            let stems = family.stored_stems(naming == Naming::Gguf, wanted);
            stems.filter_map(|name| kind(&name)).collect()
        };
        if let (Naming::HuggingFace, Some(spec)) = (naming, read_as(config, family)) {
            let stored = spec.stored_tensors();
            let needed: BTreeSet<String> =
                stored.iter().filter_map(|tensor| kind(&tensor.name)).collect();
            // Folders may have a copy of a tied head.
            let head = of_family(&|name| name.roles.contains(&Role::Head));
            return Self { family, known: needed.union(&head).cloned().collect(), needed };
        }
        let needed = of_family(&|name| is_always_there(family, name));
        Self { family, known: of_family(&|_| true), needed }
    }
}

/// A tensor's name without `.weight` or `.bias`, numbers written `N`; `None` for one of another modality.
fn kind(name: &str) -> Option<String> {
    let other =
        ["vision", "visual", "image", "audio", "multi_modal", "mm_projector", "embed_vision"];
    let own = name.strip_prefix("model.").unwrap_or(name);
    if other.iter().any(|part| own.starts_with(part)) {
        return None;
    }
    let name = name.strip_prefix("language_model.").unwrap_or(name);
    let name = match name.strip_prefix("model.language_model.") {
        Some(rest) => format!("model.{rest}"),
        None => name.to_owned(),
    };
    let ends = [".weight", ".bias", ".weight_scale_inv", "_blocks", "_scales"];
    let stem = ends.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<&str> =
        stem.split('.').map(|part| if number(part) { "N" } else { part }).collect();
    Some(parts.join("."))
}

/// Whether every model of the family has it.
fn is_always_there(family: Family, name: &StoredName) -> bool {
    let experts = family.has_expert_names();
    let latent = family.names().any(|name| name.roles.contains(&Role::KeyValueLatent));
    let scheme = family.own_scheme();
    let branch = |site: Site| scheme.branch(LayerIndex::new(0).depth(), 1, site);
    name.roles.iter().any(|role| match *role {
        Role::Embedding | Role::FinalNorm | Role::AttentionOutput | Role::PositionEmbedding => true,
        Role::Query | Role::Key | Role::Value => !latent,
        Role::Router => true,
        Role::MlpGate | Role::MlpUp | Role::MlpDown => !experts,
        Role::InputNorm(site) => branch(site).input_norm.is_some(),
        Role::OutputNorm(site) => branch(site).output_norm,
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(model_type: &str, more: &Value) -> Value {
        let mut config = json!({
            "model_type": model_type, "vocab_size": 32, "hidden_size": 32, "intermediate_size": 24,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        });
        let keys = config.as_object_mut().expect("an object");
        keys.extend(more.as_object().expect("an object").clone());
        config
    }

    #[test]
    fn every_key_that_stops_a_model_is_told_and_not_the_first_alone() {
        let given = config(
            "llama",
            &json!({
                "num_experts": 4, "alibi": true, "attn_logit_softcapping": 50.0, "hidden_act": "relu",
                "head_dim": "eight", "rope_scaling": {"rope_type": "own"},
            }),
        );
        let found = faults(&given);
        let named = |key: &str| {
            found.iter().any(|fault| fault.to_string().starts_with(&format!("`{key}`")))
        };
        for key in [
            "num_experts",
            "alibi",
            "attn_logit_softcapping",
            "hidden_act",
            "head_dim",
            "rope_type",
        ] {
            assert!(named(key), "{key} is not among {found:?}");
        }
        assert_eq!(found.len(), 6);
        assert_eq!(faults(&config("llama", &json!({}))), []);
    }

    #[test]
    fn a_model_that_is_not_one_has_the_faults_that_can_be_told() {
        for given in [json!({}), json!([]), json!(null), json!({"model_type": "llama"})] {
            assert_eq!(faults(&given).len(), 1, "{given}");
        }
        assert_eq!(nearest(&[], Naming::HuggingFace, &json!({}), ""), None);
    }

    fn in_layer(stems: &[&str]) -> Vec<String> {
        let outer = ["model.embed_tokens.weight", "model.norm.weight"].map(str::to_owned);
        let layer = |stem: &&str| format!("model.language_model.layers.1.{stem}");
        outer.into_iter().chain(stems.iter().map(layer)).collect()
    }

    const GEMMA: [&str; 13] = [
        "input_layernorm.weight",
        "post_attention_layernorm.weight",
        "pre_feedforward_layernorm.weight",
        "post_feedforward_layernorm.weight",
        "self_attn.q_proj.weight",
        "self_attn.k_proj.weight",
        "self_attn.v_proj.weight",
        "self_attn.o_proj.weight",
        "self_attn.q_norm.weight",
        "self_attn.k_norm.weight",
        "mlp.gate_proj.weight",
        "mlp.up_proj.weight",
        "mlp.down_proj.weight",
    ];

    #[test]
    fn a_newer_gemma_is_nearest_to_gemma_3_and_what_differs_is_named() {
        let mut names = in_layer(&GEMMA);
        names.push("model.language_model.layers.0.layer_scalar".to_owned());
        names.push("model.vision_tower.encoder.layers.3.fc1.weight".to_owned());
        let outer = json!({
            "model_type": "gemma4",
            "text_config": config("gemma4_text", &json!({
                "final_logit_softcapping": 30.0, "num_kv_shared_layers": 1, "attention_dropout": 0.1,
            })),
        });
        let found = nearest(&names, Naming::HuggingFace, &outer, "gemma4_text").expect("some");
        assert_eq!(found.family.model_type(), "gemma3_text");
        assert_eq!(found.found_by, "it has 15 of the model's 16 kinds of tensors");
        assert_eq!(found.without_role, ["model.layers.N.layer_scalar"]);
        assert!(found.missing.is_empty(), "{:?}", found.missing);
        assert_eq!(unread_keys(&outer, found.family), ["num_kv_shared_layers"]);
    }

    #[test]
    fn a_hybrid_of_experts_is_nearest_to_the_experts_it_has() {
        let names = in_layer(&[
            "input_layernorm.weight",
            "post_attention_layernorm.weight",
            "linear_attn.A_log",
            "linear_attn.in_proj_qkvz.weight",
            "self_attn.q_proj.weight",
            "self_attn.k_proj.weight",
            "self_attn.v_proj.weight",
            "self_attn.o_proj.weight",
            "self_attn.q_norm.weight",
            "self_attn.k_norm.weight",
            "mlp.gate.weight",
            "mlp.experts.7.gate_proj.weight",
            "mlp.experts.7.up_proj.weight",
            "mlp.experts.7.down_proj.weight",
        ]);
        let given = config("qwen3_next", &json!({"num_experts": 8, "linear_num_key_heads": 2}));
        let found = nearest(&names, Naming::HuggingFace, &given, "qwen3_next").expect("some");
        assert_eq!(found.family, Family::QWEN3_MOE);
        assert_eq!(
            found.without_role,
            ["model.layers.N.linear_attn.A_log", "model.layers.N.linear_attn.in_proj_qkvz"]
        );
        assert_eq!(unread_keys(&given, found.family), ["linear_num_key_heads"]);
    }

    #[test]
    fn without_tensors_the_keys_decide_and_then_the_name() {
        let more = json!({"query_pre_attn_scalar": 16, "sliding_window": 8, "final_logit_softcapping": 30.0,
            "attn_logit_softcapping": 50.0});
        let found = nearest(&[], Naming::HuggingFace, &config("gemma9", &more), "gemma9");
        let found = found.expect("some");
        assert_eq!(found.family.model_type(), "gemma2");
        assert!(found.found_by.ends_with("of config.json"), "{}", found.found_by);
        let found = nearest(&[], Naming::HuggingFace, &config("mistral9", &json!({})), "mistral9");
        assert_eq!(found.expect("some").family, Family::MISTRAL);
    }

    #[test]
    fn what_a_family_always_has_and_a_model_lacks_is_missing() {
        let names: Vec<String> = [
            "token_embd.weight",
            "output_norm.weight",
            "blk.0.attn_norm.weight",
            "blk.0.attn_q.weight",
            "blk.0.attn_k.weight",
            "blk.0.attn_v.weight",
            "blk.0.attn_output.weight",
            "blk.0.ffn_norm.weight",
            "blk.0.ffn_up.weight",
            "blk.0.ffn_down.weight",
            "blk.1.ssm_in.weight",
        ]
        .map(str::to_owned)
        .to_vec();
        let found = nearest(&names, Naming::Gguf, &json!({}), "nemotron_h").expect("some");
        assert_eq!(found.without_role, ["blk.N.ssm_in"]);
        assert_eq!(
            (found.family, found.missing),
            (Family::LLAMA, vec!["blk.N.ffn_gate".to_owned()])
        );
    }
}
