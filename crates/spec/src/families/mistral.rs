//! Mistral 7B: a Llama whose attention may see only a window, the same in every layer.

use serde_json::{Map, Value, json};

use super::{Description, Family, Gguf, USUAL, common, llama};
use crate::{ModelSpec, SpecError, config::keys::Keys};

pub(super) static FAMILY: Description = Description {
    model_type: "mistral",
    architecture: "MistralForCausalLM",
    names: &llama::NAMES,
    read,
    write,
    // llama.cpp does not tell Mistral from Llama; the window is the difference.
    gguf: Some(Gguf {
        architecture: "llama",
        sliding_window: true,
        interleaved_rotary: true,
        optional_biases: true,
        llama3_rope: true,
        ..Gguf::USUAL
    }),
    ..USUAL
};

fn read(keys: &mut Keys) -> Result<ModelSpec, SpecError> {
    let defaults = common::Defaults {
        num_key_value_heads: Some(8),
        max_position_embeddings: 131_072,
        ..common::Defaults::USUAL
    };
    let mut spec = common::read(Family(&FAMILY), keys, &defaults)?;
    let window = common::sliding_window(keys)?;
    spec.set_windows(vec![window; spec.num_hidden_layers]);
    Ok(spec)
}

fn write(spec: &ModelSpec, config: &mut Map<String, Value>) {
    let window = spec.windows().next().flatten();
    config.insert("sliding_window".to_owned(), json!(window));
}
