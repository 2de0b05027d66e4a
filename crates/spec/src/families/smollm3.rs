//! SmolLM3: a Llama in which every fourth layer sees no positions.

use lns_show::counted;
use serde_json::{Map, Value, json};

use super::{Description, Family, Gguf, USUAL, common, llama};
use crate::{ModelSpec, Rotary, SpecError, config::keys::Keys};

pub(super) static FAMILY: Description = Description {
    model_type: "smollm3",
    architecture: "SmolLM3ForCausalLM",
    names: &llama::NAMES,
    read,
    write,
    gguf: Some(Gguf {
        architecture: "smollm3",
        interleaved_rotary: true,
        optional_biases: true,
        llama3_rope: true,
        ..Gguf::USUAL
    }),
    ..USUAL
};

fn read(keys: &mut Keys) -> Result<ModelSpec, SpecError> {
    let defaults = common::Defaults {
        num_key_value_heads: Some(4),
        max_position_embeddings: 32_768,
        rope_theta: 2_000_000.0,
        tie_word_embeddings: true,
        ..common::Defaults::USUAL
    };
    let mut spec = common::read(Family(&FAMILY), keys, &defaults)?;
    spec.qkv_bias = keys.flag("attention_bias")?.unwrap_or(false);
    spec.attention_output_bias = spec.qkv_bias;
    spec.mlp_bias = keys.flag("mlp_bias")?.unwrap_or(false);
    let layers = spec.num_hidden_layers;
    let interval = keys.size("no_rope_layer_interval")?.unwrap_or(4);
    let listed = keys.typed("no_rope_layers", "a list of 0 and 1 (1: with rotary)", |value| {
        let list = value.as_array()?;
        list.iter().map(|one| one.as_u64().filter(|one| *one < 2)).collect::<Option<Vec<_>>>()
    })?;
    let turned: Vec<bool> = match listed {
        None => (0..layers).map(|i| !(i + 1).is_multiple_of(interval)).collect(),
        Some(list) if list.len() == layers => list.into_iter().map(|one| one == 1).collect(),
        Some(list) => {
            return Err(SpecError::Inconsistent {
                what: format!(
                    "`no_rope_layers` lists {} for {}",
                    counted(list.len(), "value"),
                    counted(layers, "layer")
                ),
            });
        }
    };
    for (layer, turned) in spec.per_layer.iter_mut().zip(&turned) {
        layer.rotary = if *turned { Rotary::Main } else { Rotary::None };
    }
    let used = keys.flag("use_sliding_window")?.unwrap_or(false);
    let window = keys.size("sliding_window")?.filter(|_| used);
    let sliding = match common::layer_types(keys, layers)? {
        Some(sliding) if window.is_none() && sliding.contains(&true) => {
            return Err(SpecError::Inconsistent {
                what: "`layer_types` has \"sliding_attention\" but no window is in use".to_owned(),
            });
        }
        Some(sliding) => sliding,
        None => turned.iter().map(|turned| !turned).collect(),
    };
    spec.set_windows(sliding.into_iter().map(|sliding| window.filter(|_| sliding)).collect());
    Ok(spec)
}

fn write(spec: &ModelSpec, config: &mut Map<String, Value>) {
    llama::write(spec, config);
    common::write_windows(spec, config);
    let turned = spec.per_layer.iter().map(|layer| u8::from(layer.rotary != Rotary::None));
    config.insert("no_rope_layers".to_owned(), json!(turned.collect::<Vec<_>>()));
}
