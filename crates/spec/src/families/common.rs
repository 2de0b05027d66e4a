//! What the `config.json` of every Llama-like decoder has in common.

use lns_show::counted;
use serde_json::{Map, Value, json};

use super::Family;
use crate::{
    Activation, AttentionScale, LayerSpec, ModelSpec, NormKind, Prediction, QkNorm, RopeSpec,
    Rotary, SpecError,
    config::{
        keys::{Keys, invalid},
        rope::{Ropes, ropes},
    },
};

/// Values of absent keys: those of the family's reference configuration class.
pub(super) struct Defaults {
    /// Key/value heads; `None` is as many as query heads.
    pub(super) num_key_value_heads: Option<usize>,
    /// Features of a head; `None` is hidden_size / num_attention_heads.
    pub(super) head_dim: Option<usize>,
    pub(super) max_position_embeddings: usize,
    pub(super) rms_norm_eps: f64,
    pub(super) rope_theta: f64,
    /// Share of each head's features that are turned.
    pub(super) rotary_share: f64,
    pub(super) hidden_act: Activation,
    pub(super) tie_word_embeddings: bool,
}

impl Defaults {
    /// What most classes have.
    pub(super) const USUAL: Self = Self {
        num_key_value_heads: None,
        head_dim: None,
        max_position_embeddings: 2048,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        rotary_share: 1.0,
        hidden_act: Activation::Silu,
        tie_word_embeddings: false,
    };
}

/// The activation that `key` names.
pub(super) fn activation(
    keys: &mut Keys,
    key: &str,
    default: Activation,
) -> Result<Activation, SpecError> {
    let Some(name) = keys.text(key)? else { return Ok(default) };
    Activation::named(&name).ok_or_else(|| SpecError::Unsupported {
        key: key.to_owned(),
        value: name,
        why: "only \"silu\", \"gelu\" and \"gelu_pytorch_tanh\" are".to_owned(),
    })
}

/// The decoder that the keys common to all families describe, without biases, head norms and
/// windows.
pub(super) fn read(
    family: Family,
    keys: &mut Keys,
    defaults: &Defaults,
) -> Result<ModelSpec, SpecError> {
    let hidden_act = activation(keys, "hidden_act", defaults.hidden_act)?;
    let hidden_size = keys.required_size("hidden_size")?;
    let num_hidden_layers = keys.required_size("num_hidden_layers")?;
    let num_attention_heads = keys.required_size("num_attention_heads")?;
    let given = keys.size("num_key_value_heads")?;
    let num_key_value_heads = given.or(defaults.num_key_value_heads).unwrap_or(num_attention_heads);
    let head_dim = match keys.size("head_dim")?.or(defaults.head_dim) {
        Some(head_dim) => head_dim,
        None if hidden_size.is_multiple_of(num_attention_heads) => {
            hidden_size / num_attention_heads
        }
        None => {
            return Err(SpecError::Inconsistent {
                what: format!(
                    "`hidden_size` ({hidden_size}) is not a multiple of `num_attention_heads` \
                     ({num_attention_heads}) and there is no `head_dim`"
                ),
            });
        }
    };
    // `max_sequence_length` is what the paper's own configurations call it.
    let older = keys.size("max_sequence_length");
    let max_position_embeddings = keys
        .size("max_position_embeddings")?
        .or(older?)
        .unwrap_or(defaults.max_position_embeddings);
    let mut rope = ropes(keys, max_position_embeddings, defaults.rope_theta)?;
    if !family.computes("rope_local_base_freq")
        && let Some(local) = rope.local.take()
        && local != rope.main
    {
        return Err(SpecError::Unsupported {
            key: "rope_parameters.sliding_attention".to_owned(),
            value: format!("base {}", local.theta),
            why: format!(
                "model_type \"{}\" has one rotary embedding for all layers",
                family.model_type()
            ),
        });
    }
    let rotary_dim = rotary_dim(family, keys, &rope, head_dim, defaults.rotary_share)?;
    // Checked before anything is made for each layer, so that a hostile number takes no memory.
    if num_hidden_layers > 1 << 12 {
        let expected = "a number from 1 to 4096";
        return Err(invalid("num_hidden_layers", &json!(num_hidden_layers), expected));
    }
    Ok(ModelSpec {
        family,
        vocab_size: keys.required_size("vocab_size")?,
        hidden_size,
        intermediate_size: keys.required_size("intermediate_size")?,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        max_position_embeddings,
        prediction: Prediction::NextToken,
        norm: NormKind::Rms,
        rms_norm_eps: keys.number("rms_norm_eps")?.unwrap_or(defaults.rms_norm_eps),
        learned_positions: false,
        token_types: 0,
        rope: rope.main,
        local_rope: rope.local,
        rotary_dim,
        rotary_interleaved: false,
        latent: None,
        qkv_bias: false,
        attention_output_bias: false,
        mlp_bias: false,
        qk_norm: QkNorm::None,
        attention_scale: AttentionScale::HeadSize,
        attention_softcap: None,
        attention_sinks: false,
        gated_mlp: true,
        hidden_act,
        clamped_gate: None,
        parallel_branches: false,
        embedding_multiplier: 1.0,
        residual_multiplier: 1.0,
        logits_divisor: 1.0,
        logits_softcap: None,
        tie_word_embeddings: keys
            .flag("tie_word_embeddings")?
            .unwrap_or(defaults.tie_word_embeddings),
        embedding_norm: false,
        norm_scheme: family.own_scheme(),
        per_layer: LayerSpec::unpruned(num_hidden_layers),
        trained_layers: num_hidden_layers,
        other_keys: Map::new(),
    })
}

/// How many of a head's features are turned: the share that the rotary keys name, or else
/// `partial_rotary_factor`, in families that know one.
fn rotary_dim(
    family: Family,
    keys: &mut Keys,
    rope: &Ropes,
    head_dim: usize,
    usual: f64,
) -> Result<usize, SpecError> {
    let key = "partial_rotary_factor";
    let outer = if family.computes(key) { keys.number(key)? } else { None };
    let share = rope.share.or(outer).unwrap_or(usual);
    if !family.computes(key) && share != 1.0 {
        return Err(SpecError::Unsupported {
            key: key.to_owned(),
            value: share.to_string(),
            why: format!("model_type \"{}\" turns all of each head", family.model_type()),
        });
    }
    if !(share > 0.0 && share <= 1.0) {
        return Err(invalid(key, &json!(share), "a number above 0, at most 1"));
    }
    Ok((head_dim as f64 * share) as usize)
}

/// `layer_types`, if it is there: for each layer whether its attention has a window.
pub(super) fn layer_types(keys: &mut Keys, layers: usize) -> Result<Option<Vec<bool>>, SpecError> {
    let types = keys.typed("layer_types", "a list of strings", |value| {
        let list = value.as_array()?;
        list.iter().map(|kind| kind.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
    })?;
    let Some(types) = types else { return Ok(None) };
    if types.len() != layers {
        return Err(SpecError::Inconsistent {
            what: format!(
                "`layer_types` lists {} for {}",
                counted(types.len(), "value"),
                counted(layers, "layer")
            ),
        });
    }
    types
        .into_iter()
        .map(|kind| match kind.as_str() {
            "full_attention" => Ok(false),
            "sliding_attention" => Ok(true),
            _ => Err(SpecError::Unsupported {
                key: "layer_types".to_owned(),
                value: kind,
                why: "only full_attention and sliding_attention are".to_owned(),
            }),
        })
        .collect::<Result<_, _>>()
        .map(Some)
}

/// Gives the layers that `layer_types` calls sliding the window of `sliding_window`, 4096 where that key is
/// absent, and the local rotary embedding if there is one. Without `layer_types` every layer has a window but
/// each `full_every`-th.
pub(super) fn read_sliding(
    keys: &mut Keys,
    spec: &mut ModelSpec,
    full_every: usize,
) -> Result<(), SpecError> {
    let layers = spec.num_hidden_layers;
    let sliding = &layer_types(keys, layers)?
        .unwrap_or_else(|| (1..=layers).map(|nth| !nth.is_multiple_of(full_every)).collect());
    let absent = !keys.0.contains_key("sliding_window");
    let window = keys.size("sliding_window")?.or(absent.then_some(4096));
    if window.is_none() && sliding.contains(&true) {
        return Err(SpecError::Inconsistent {
            what: "`layer_types` has \"sliding_attention\" but no window is in use".to_owned(),
        });
    }
    spec.set_windows(sliding.iter().map(|sliding| window.filter(|_| *sliding)).collect());
    // One that no layer uses, or that is the model's own, is none.
    if spec.local_rope.as_ref() == Some(&spec.rope) || !sliding.contains(&true) {
        spec.local_rope = None;
    }
    if spec.local_rope.is_some() {
        for (layer, sliding) in spec.per_layer.iter_mut().zip(sliding) {
            layer.rotary = if *sliding { Rotary::Local } else { Rotary::Main };
        }
    }
    Ok(())
}

/// Puts the types that [`layer_types`] reads and the window.
pub(super) fn write_sliding(spec: &ModelSpec, config: &mut Map<String, Value>) {
    let types = spec.windows().map(|window| match window {
        Some(_) => "sliding_attention",
        None => "full_attention",
    });
    config.insert("layer_types".to_owned(), types.collect());
    config.insert("sliding_window".to_owned(), json!(spec.windows().find_map(|window| window)));
}

/// Puts both rotary embeddings by type of layer, instead of the model's alone.
pub(super) fn write_ropes(spec: &ModelSpec, config: &mut Map<String, Value>) {
    let parameters = |rope: &RopeSpec| {
        let mut parameters = match json!(rope.scaling) {
            Value::Object(parameters) => parameters,
            _ => Map::new(),
        };
        parameters.insert("rope_theta".to_owned(), json!(rope.theta));
        parameters
    };
    config.remove("rope_theta");
    config.remove("rope_scaling");
    let local = spec.local_rope.as_ref().unwrap_or(&spec.rope);
    config.insert(
        "rope_parameters".to_owned(),
        json!({"full_attention": parameters(&spec.rope), "sliding_attention": parameters(local)}),
    );
}

/// Puts what share of each head is turned.
pub(super) fn write_rotary_share(spec: &ModelSpec, key: &str, config: &mut Map<String, Value>) {
    let mut share = spec.rotary_dim as f64 / spec.head_dim as f64;
    // Readers round the product down.
    while ((spec.head_dim as f64 * share) as usize) < spec.rotary_dim {
        share = share.next_up();
    }
    config.insert(key.to_owned(), json!(share));
}

/// A whole number as such, which some readers insist on.
pub(super) fn whole(number: f64) -> Value {
    if number == f64::from(number as u32) { json!(number as u32) } else { json!(number) }
}

/// Refuses a key that the family does not have.
pub(super) fn refuse_key(family: Family, keys: &mut Keys, key: &str) -> Result<(), SpecError> {
    match keys.take(key) {
        None => Ok(()),
        Some(value) => Err(SpecError::Unsupported {
            key: key.to_owned(),
            value: value.to_string(),
            why: format!("model_type \"{}\" has no such key", family.model_type()),
        }),
    }
}

/// Refuses heads that share keys and values or have a size of their own, in a family whose `config.json`
/// has no word for either.
pub(super) fn whole_heads(spec: &ModelSpec) -> Result<(), SpecError> {
    let family = spec.family.model_type();
    let refuse = |key: &str, value: usize| SpecError::Unsupported {
        key: key.to_owned(),
        value: value.to_string(),
        why: format!("the heads of model_type \"{family}\" share the stream and nothing else"),
    };
    if spec.num_key_value_heads != spec.num_attention_heads {
        return Err(refuse("num_key_value_heads", spec.num_key_value_heads));
    }
    if spec.query_size() != spec.hidden_size {
        return Err(refuse("head_dim", spec.head_dim));
    }
    Ok(())
}

/// Gives a key another name.
pub(super) fn rename(config: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = config.remove(from) {
        config.insert(to.to_owned(), value);
    }
}

/// The window that `sliding_window` gives, 4096 where it is absent: absent and null differ in the
/// reference classes of Mistral and Qwen.
pub(super) fn sliding_window(keys: &mut Keys) -> Result<Option<usize>, SpecError> {
    let absent = !keys.0.contains_key("sliding_window");
    let window = keys.size("sliding_window")?;
    Ok(if absent { Some(4096) } else { window })
}

/// Reads the windows of a Qwen: `use_sliding_window`, `layer_types`, or `max_window_layers`.
pub(super) fn read_windows(keys: &mut Keys, spec: &mut ModelSpec) -> Result<(), SpecError> {
    let used = keys.flag("use_sliding_window")?.unwrap_or(false);
    let window = sliding_window(keys)?.filter(|_| used);
    let first = keys.typed("max_window_layers", "a whole number", Value::as_u64)?.unwrap_or(28);
    let windows = match layer_types(keys, spec.num_hidden_layers)? {
        None => (0..spec.num_hidden_layers as u64)
            .map(|layer| window.filter(|_| layer >= first))
            .collect(),
        Some(sliding) if window.is_none() && sliding.contains(&true) => {
            return Err(SpecError::Inconsistent {
                what: "`layer_types` has \"sliding_attention\" but no window is in use".to_owned(),
            });
        }
        Some(sliding) => sliding.into_iter().map(|sliding| window.filter(|_| sliding)).collect(),
    };
    spec.set_windows(windows);
    Ok(())
}

/// Writes the keys that [`read_windows`] reads.
pub(super) fn write_windows(spec: &ModelSpec, config: &mut Map<String, Value>) {
    let window = spec.windows().find_map(|window| window);
    let types = spec.windows().map(|window| match window {
        Some(_) => "sliding_attention",
        None => "full_attention",
    });
    config.insert("use_sliding_window".to_owned(), json!(window.is_some()));
    config.insert("sliding_window".to_owned(), json!(window));
    config.insert("layer_types".to_owned(), types.collect());
}

/// How many experts there are, which files of other versions of a family's class call otherwise.
pub(super) fn expert_count(keys: &mut Keys) -> Result<Option<usize>, SpecError> {
    let mut found: Option<(&str, usize)> = None;
    for key in ["num_local_experts", "num_experts", "n_routed_experts"] {
        let count = keys.typed(key, "a whole number", |value| {
            value.as_u64().and_then(|count| usize::try_from(count).ok())
        })?;
        match (found, count) {
            (Some((other, before)), Some(count)) if before != count => {
                let what = format!("`{other}` is {before} and `{key}` {count}");
                return Err(SpecError::Inconsistent { what });
            }
            (None, Some(count)) => found = Some((key, count)),
            _ => {}
        }
    }
    Ok(found.map(|(_, count)| count))
}
