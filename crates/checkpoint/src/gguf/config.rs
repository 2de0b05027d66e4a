//! GGUF metadata → [`ModelSpec`], by way of the `config.json` that it was made from.
//!
//! Keys and defaults are llama.cpp's (`LLM_KV_*` and `llama_model::load_hparams`).

use lns_spec::{Family, Gguf, LayerIndex, ModelSpec, Part, Role, TensorId};
use serde_json::{Map, Value, json};

use super::latent::{self, has_latents};
use super::metadata::Metadata;
use super::rope::ATTENTION_FACTOR;
use crate::{CheckpointError, TensorInfo};

/// Keys (after the architecture's name) that ask for what is not implemented, each with the value
/// at which it asks for nothing.
const REFUSED: [(&str, f64, &str); 22] = [
    ("expert_count", 0.0, "mixtures of experts of this architecture are not"),
    ("expert_shared_count", 0.0, "experts that compute every token are not"),
    ("expert_shared_feed_forward_length", 0.0, "experts that compute every token are not"),
    ("expert_group_count", 0.0, "groups of experts are not"),
    ("expert_weights_scale", 1.0, "scaled weights of experts are not"),
    ("leading_dense_block_count", 0.0, "layers without experts before those with them are not"),
    ("interleave_moe_layer_step", 0.0, "layers without experts between those with them are not"),
    ("attention.clamp_kqv", 0.0, "clamped queries, keys and values are not"),
    ("attention.max_alibi_bias", 0.0, "ALiBi positions are not"),
    ("attention.scale", 0.0, "a custom attention scale is not"),
    ("attention.temperature_scale", 0.0, "attention temperature is not"),
    ("attention.temperature_length", 0.0, "attention temperature is not"),
    ("attn_logit_softcapping", 0.0, "soft-capped attention is not"),
    ("final_logit_softcapping", 0.0, "soft-capped logits are not"),
    ("logit_scale", 1.0, "scaled logits are not"),
    ("residual_scale", 1.0, "scaled residuals are not"),
    ("embedding_scale", 1.0, "scaled embeddings are not"),
    ("use_parallel_residual", 0.0, "parallel branches are not"),
    ("rope.scale_linear", 1.0, "this older key is not: convert the model again"),
    (ATTENTION_FACTOR, 1.0, "a custom attention factor is not"),
    ("rope.scaling.yarn_attn_factor", 1.0, "a custom attention factor is not"),
    ("rope.scaling.yarn_log_multiplier", 0.0, "a custom attention factor is not"),
];

/// The architecture's name, if it is one that is read.
pub(super) fn architecture<'a>(metadata: &Metadata<'a>) -> Result<&'a str, CheckpointError> {
    let key = "general.architecture";
    let name = metadata.text(key)?.ok_or_else(|| metadata.missing(key))?;
    let gguf = Family::all().filter_map(Family::gguf);
    let mut supported: Vec<&str> = gguf.map(|gguf| gguf.architecture).collect();
    if supported.contains(&name) {
        return Ok(name);
    }
    supported.dedup();
    Err(CheckpointError::GgufArchitecture {
        path: metadata.path().to_owned(),
        architecture: name.to_owned(),
        supported: supported.join(", "),
    })
}

/// The family of a file of that architecture.
pub(super) fn family(
    metadata: &Metadata<'_>,
    architecture: &str,
) -> Result<(Family, Gguf), CheckpointError> {
    let keys = Keys { metadata, architecture };
    let (window, experts) = (window(&keys)?, keys.size("expert_count")?);
    let sigmoid = metadata.whole(&keys.key("expert_gating_func"))? == Some(SIGMOID);
    let experts = experts.is_some_and(|count| count > 0);
    Family::of_gguf(architecture, window.is_some(), experts, sigmoid)
        .ok_or_else(|| metadata.missing("general.architecture"))
}

/// Typed access to one architecture's keys.
pub(super) struct Keys<'m, 'a> {
    pub(super) metadata: &'m Metadata<'a>,
    architecture: &'a str,
}

impl Keys<'_, '_> {
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    pub(super) fn size(&self, name: &str) -> Result<Option<u64>, CheckpointError> {
        self.metadata.same_for_all_layers(&self.key(name))
    }

    pub(super) fn required_size(&self, name: &str) -> Result<u64, CheckpointError> {
        self.size(name)?.ok_or_else(|| self.metadata.missing(&self.key(name)))
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<f64>, CheckpointError> {
        self.metadata.number(&self.key(name))
    }
}

/// Why each key that asks for what is not implemented is refused, in a file whose keys have that architecture's
/// name before them and are read as those of `gguf`.
pub(super) fn refusals<'m>(
    metadata: &'m Metadata<'_>,
    architecture: &'m str,
    family: Family,
    gguf: Gguf,
) -> impl Iterator<Item = CheckpointError> + 'm {
    let keys = Keys { metadata, architecture };
    let latents = has_latents(family);
    let named = REFUSED.into_iter().filter_map(move |(name, neutral, why)| {
        let is_read = gguf.keys.iter().any(|(own, _)| *own == name)
            || latents && name == latent::STRETCH
            || gguf.long_rope && name == ATTENTION_FACTOR;
        let refused = metadata.refuse(&format!("{architecture}.{name}"), neutral, why).err();
        refused.filter(|_| !is_read)
    });
    named.chain(both_directions(&keys).err()).chain(gating(&keys, gguf).err())
}

fn both_directions(keys: &Keys<'_, '_>) -> Result<(), CheckpointError> {
    let causal = keys.key("attention.causal");
    match keys.metadata.flag(&causal)? {
        Some(false) => {
            Err(keys.metadata.unsupported(&causal, "attention in both directions is not"))
        }
        _ => Ok(()),
    }
}

/// Keys (after the architecture's name) that are read of every architecture, and those below which all are.
const READ: [&str; 17] = [
    "attention.causal",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "expert_gating_func",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "tensor_data_layout",
    "vocab_size",
];

/// The architecture's keys that reading them as those of `gguf` passes over.
pub(super) fn unread(metadata: &Metadata<'_>, architecture: &str, gguf: Gguf) -> Vec<String> {
    let own = metadata.keys().filter_map(|key| {
        let name = key.strip_prefix(architecture)?.strip_prefix('.')?;
        let is_read = READ.contains(&name)
            || name.starts_with("rope.scaling.")
            || REFUSED.iter().any(|(refused, ..)| *refused == name)
            || gguf.keys.iter().any(|(own, _)| *own == name);
        (!is_read).then(|| key.to_owned())
    });
    let mut own: Vec<String> = own.collect();
    own.sort_unstable();
    own
}

/// The specification that the metadata and the list of tensors describe.
pub(super) fn read_spec(
    metadata: &Metadata<'_>,
    family: Family,
    gguf: Gguf,
    tensors: &[TensorInfo],
) -> Result<ModelSpec, CheckpointError> {
    let keys = Keys { metadata, architecture: gguf.architecture };
    if let Some(refusal) = refusals(metadata, gguf.architecture, family, gguf).next() {
        return Err(refusal);
    }
    let latents = has_latents(family);
    let mut config = sizes(&keys, family)?;
    config.insert("model_type".to_owned(), json!(family.model_type()));
    config.extend(facts_of_tensors(&keys, family, gguf, tensors)?);
    config.extend(sliding_window(&keys, gguf)?);
    if !has_learned_positions(family) {
        config.extend(rope(&keys, gguf)?);
    }
    if latents {
        config.extend(latent::config(&keys, gguf.sigmoid_experts)?);
        latent::add_stretch(&keys, &mut config)?;
    }
    config.extend(own_keys(&keys, gguf)?);
    let granted = gguf.takes_for_granted.iter();
    config.extend(granted.map(|(key, value)| ((*key).to_owned(), json!(value))));
    if let Some((key, layers)) = gguf.scale_by_head {
        let heads = keys.required_size("attention.head_count")?.max(1);
        let scalar = match keys.required_size("block_count")? == layers as u64 {
            true => json!(keys.required_size("embedding_length")? as f64 / heads as f64),
            false => config["head_dim"].clone(),
        };
        config.insert(key.to_owned(), scalar);
    }
    config.extend(names(metadata)?);
    ModelSpec::from_config(&Value::Object(config))
        .map_err(|error| CheckpointError::Spec { path: metadata.path().to_owned(), error })
}

/// The number of llama.cpp's gating function σ.
const SIGMOID: u64 = 2;

/// Refuses experts whose weights are another function of their scores than the family's. One softmax over all
/// experts and one over those that are chosen are the same where the weights of those that are chosen add up to 1.
fn gating(keys: &Keys<'_, '_>, gguf: Gguf) -> Result<(), CheckpointError> {
    const SOFTMAXES: [u64; 3] = [0, 1, 3];
    let key = keys.key("expert_gating_func");
    match keys.metadata.whole(&key)? {
        Some(SIGMOID) if gguf.sigmoid_experts => Ok(()),
        Some(function) if !SOFTMAXES.contains(&function) => {
            Err(keys.metadata.unsupported(&key, "only softmax is"))
        }
        _ => Ok(()),
    }
}

/// What the architecture has beside what all have.
fn own_keys(keys: &Keys<'_, '_>, gguf: Gguf) -> Result<Map<String, Value>, CheckpointError> {
    let mut config = Map::new();
    for (own, usual) in gguf.keys {
        let key = keys.key(own);
        let value = match keys.metadata.flag(&key) {
            Ok(flag) => flag.map(Value::from),
            Err(_) => keys.number(own)?.map(|number| match number as u32 {
                whole if f64::from(whole) == number => json!(whole),
                _ => json!(number),
            }),
        };
        config.extend(value.map(|value| ((*usual).to_owned(), value)));
    }
    Ok(config)
}

fn has_learned_positions(family: Family) -> bool {
    family.names().any(|name| name.roles.contains(&Role::PositionEmbedding))
}

fn sizes(keys: &Keys<'_, '_>, family: Family) -> Result<Map<String, Value>, CheckpointError> {
    let hidden = keys.required_size("embedding_length")?;
    let heads = keys.required_size("attention.head_count")?;
    let centred = "attention.layer_norm_epsilon";
    let epsilon = match keys.number(centred)? {
        Some(_) => centred,
        None => "attention.layer_norm_rms_epsilon",
    };
    let head_dim = match has_latents(family) {
        true => None,
        false => Some(head_dim(keys, family, hidden, heads)?),
    };
    let mut config = object([
        ("max_position_embeddings", json!(keys.required_size("context_length")?)),
        ("hidden_size", json!(hidden)),
        ("num_attention_heads", json!(heads)),
        ("num_key_value_heads", json!(keys.size("attention.head_count_kv")?.unwrap_or(heads))),
        ("num_hidden_layers", json!(keys.required_size("block_count")?)),
        ("intermediate_size", json!(keys.required_size("feed_forward_length")?)),
        (
            "rms_norm_eps",
            json!(keys.number(epsilon)?.ok_or_else(|| keys.metadata.missing(&keys.key(epsilon)))?),
        ),
    ]);
    let Some((head_dim, turned)) = head_dim else { return Ok(config) };
    config.insert("head_dim".to_owned(), json!(head_dim));
    if let Some(turned) = turned {
        let share = turned as f64 / head_dim.max(1) as f64;
        config.insert("partial_rotary_factor".to_owned(), json!(share));
    }
    Ok(config)
}

fn object<const N: usize>(entries: [(&str, Value); N]) -> Map<String, Value> {
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn facts_of_tensors(
    keys: &Keys<'_, '_>,
    family: Family,
    gguf: Gguf,
    tensors: &[TensorInfo],
) -> Result<Map<String, Value>, CheckpointError> {
    let tensor = |id| {
        let name = family.stored_name(id);
        tensors.iter().find(|tensor| tensor.name == name)
    };
    let bias = |role| {
        tensor(TensorId { part: Part::Bias, ..TensorId::of_layer(LayerIndex::new(0), role) })
            .is_some()
    };
    let rows = tensor(TensorId::outer(Role::Embedding)).and_then(|found| found.shape.first());
    let vocab_size = match (keys.size("vocab_size")?, rows) {
        (Some(size), _) => size,
        (None, Some(rows)) => *rows as u64,
        (None, None) => keys.metadata.length("tokenizer.ggml.tokens"),
    };
    let mut config = object([
        ("vocab_size", json!(vocab_size)),
        ("tie_word_embeddings", json!(tensor(TensorId::outer(Role::Head)).is_none())),
    ]);
    for (key, role) in [("attention_bias", Role::Query), ("mlp_bias", Role::MlpGate)] {
        if bias(role) {
            config.insert(key.to_owned(), json!(true));
        } else if role == Role::Query && gguf.usually_biased {
            config.insert(key.to_owned(), json!(false));
        }
    }
    Ok(config)
}

/// The sliding window in tokens, where it is shorter than the context.
fn window(keys: &Keys<'_, '_>) -> Result<Option<u64>, CheckpointError> {
    let (window, context) = (keys.size("attention.sliding_window")?, keys.size("context_length")?);
    Ok(window.filter(|window| *window > 0 && context.is_some_and(|context| *window < context)))
}

fn sliding_window(keys: &Keys<'_, '_>, gguf: Gguf) -> Result<Map<String, Value>, CheckpointError> {
    match window(keys)? {
        _ if has_window_key(gguf) => Ok(Map::new()),
        None => Ok(Map::new()),
        Some(window) if gguf.sliding_window => Ok(object([("sliding_window", json!(window))])),
        Some(_) => {
            let why = "of this architecture, only models without a sliding window are";
            Err(keys.metadata.unsupported(&keys.key("attention.sliding_window"), why))
        }
    }
}

/// Whether a window is one of the architecture's own keys.
pub(super) fn has_window_key(gguf: Gguf) -> bool {
    gguf.keys.iter().any(|(own, _)| *own == "attention.sliding_window")
}

fn names(metadata: &Metadata<'_>) -> Result<Map<String, Value>, CheckpointError> {
    let entries = [
        ("bos_token_id", metadata.whole("tokenizer.ggml.bos_token_id")?.map(Value::from)),
        ("eos_token_id", metadata.whole("tokenizer.ggml.eos_token_id")?.map(Value::from)),
        ("_name_or_path", metadata.text("general.name")?.map(Value::from)),
    ];
    Ok(entries
        .into_iter()
        .filter_map(|(key, value)| value.map(|value| (key.to_owned(), value)))
        .collect())
}

/// The features of a head, and how many of them are turned where that is said.
fn head_dim(
    keys: &Keys<'_, '_>,
    family: Family,
    hidden: u64,
    heads: u64,
) -> Result<(u64, Option<u64>), CheckpointError> {
    let head_dim = match keys.size("attention.key_length")? {
        Some(head_dim) => head_dim,
        None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            let expected = "a divisor of embedding_length where there is no attention.key_length";
            return Err(keys.metadata.wrong(&keys.key("attention.head_count"), expected));
        }
    };
    let partial = family.computes("partial_rotary_factor");
    for name in ["attention.value_length", "rope.dimension_count"] {
        if partial && name == "rope.dimension_count" {
            continue;
        }
        if keys.size(name)?.is_some_and(|size| size != head_dim) {
            let expected =
                "the same as attention.key_length, or embedding_length / attention.head_count";
            return Err(keys.metadata.wrong(&keys.key(name), expected));
        }
    }
    let turned = if partial { keys.size("rope.dimension_count")? } else { None };
    Ok((head_dim, turned))
}

fn rope(keys: &Keys<'_, '_>, gguf: Gguf) -> Result<Map<String, Value>, CheckpointError> {
    let theta = keys.number("rope.freq_base")?.unwrap_or(10_000.0);
    let mut config = object([("rope_theta", json!(theta))]);
    let key = keys.key("rope.scaling.type");
    let kind = match keys.metadata.text(&key)? {
        None | Some("none") => {
            config.insert("rope_scaling".to_owned(), json!({"rope_type": "default"}));
            return Ok(config);
        }
        // Its numbers are in tables.
        Some("longrope") if gguf.long_rope => return Ok(config),
        Some(kind @ ("linear" | "yarn")) => kind,
        Some(_) => {
            let why = "only \"none\", \"linear\" and \"yarn\" are";
            return Err(keys.metadata.unsupported(&key, why));
        }
    };
    let mut scaling = object([("rope_type", json!(kind))]);
    if kind == "yarn" && gguf.exact_yarn {
        scaling.insert("truncate".to_owned(), json!(false));
    }
    for (to, from) in [
        ("factor", "rope.scaling.factor"),
        ("original_max_position_embeddings", "rope.scaling.original_context_length"),
        ("beta_fast", "rope.scaling.yarn_beta_fast"),
        ("beta_slow", "rope.scaling.yarn_beta_slow"),
    ] {
        if let Some(number) = keys.number(from)? {
            scaling.insert(to.to_owned(), json!(number));
        }
    }
    config.insert("rope_scaling".to_owned(), Value::Object(scaling));
    Ok(config)
}
