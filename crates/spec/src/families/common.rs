//! What the `config.json` of every Llama-like decoder has in common.

use serde_json::{Map, Value, json};

use super::Family;
use crate::{
    Activation, LayerSpec, ModelSpec, SpecError,
    config::{
        keys::{Keys, invalid},
        rope::rope_spec,
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
}

/// The decoder that the keys common to all families describe, without biases, head norms and
/// windows.
pub(super) fn read(
    family: Family,
    keys: &mut Keys,
    defaults: &Defaults,
) -> Result<ModelSpec, SpecError> {
    let hidden_act = match keys.text("hidden_act")?.as_deref() {
        None | Some("silu" | "swish") => Activation::Silu,
        Some(other) => {
            return Err(SpecError::Unsupported {
                key: "hidden_act".to_owned(),
                value: other.to_owned(),
                why: "only \"silu\" is".to_owned(),
            });
        }
    };
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
        rms_norm_eps: keys.number("rms_norm_eps")?.unwrap_or(defaults.rms_norm_eps),
        rope: rope_spec(keys, max_position_embeddings)?,
        qkv_bias: false,
        attention_output_bias: false,
        mlp_bias: false,
        qk_norm: false,
        hidden_act,
        tie_word_embeddings: keys.flag("tie_word_embeddings")?.unwrap_or(false),
        embedding_norm: false,
        norm_scheme: family.own_scheme(),
        per_layer: LayerSpec::unpruned(num_hidden_layers),
        trained_layers: num_hidden_layers,
        other_keys: Map::new(),
    })
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
    let types = keys.typed("layer_types", "a list of strings", |value| {
        let list = value.as_array()?;
        list.iter().map(|kind| kind.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
    })?;
    let windows = match types {
        None => (0..spec.num_hidden_layers as u64)
            .map(|layer| window.filter(|_| layer >= first))
            .collect(),
        Some(types) => types
            .into_iter()
            .map(|kind| window_of_type(&kind, window))
            .collect::<Result<Vec<_>, _>>()?,
    };
    if windows.len() != spec.num_hidden_layers {
        return Err(SpecError::Inconsistent {
            what: format!(
                "`layer_types` has {} entries for {} layers",
                windows.len(),
                spec.num_hidden_layers
            ),
        });
    }
    spec.set_windows(windows);
    Ok(())
}

fn window_of_type(kind: &str, window: Option<usize>) -> Result<Option<usize>, SpecError> {
    match kind {
        "full_attention" => Ok(None),
        "sliding_attention" if window.is_some() => Ok(window),
        "sliding_attention" => Err(SpecError::Inconsistent {
            what: "`layer_types` has \"sliding_attention\" but no window is in use".to_owned(),
        }),
        other => Err(SpecError::Unsupported {
            key: "layer_types".to_owned(),
            value: other.to_owned(),
            why: "only full_attention and sliding_attention are".to_owned(),
        }),
    }
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
