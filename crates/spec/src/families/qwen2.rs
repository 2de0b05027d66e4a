//! Qwen 2 and 2.5: biases on q, k and v, and windows in some layers.

use super::{Description, Family, Gguf, USUAL, common, llama};
use crate::{ModelSpec, SpecError, config::keys::Keys};

pub(super) static FAMILY: Description = Description {
    model_type: "qwen2",
    architecture: "Qwen2ForCausalLM",
    names: &llama::NAMES,
    read,
    write: common::write_windows,
    gguf: Some(Gguf { architecture: "qwen2", heads_fill_stream: true, ..Gguf::USUAL }),
    ..USUAL
};

fn read(keys: &mut Keys) -> Result<ModelSpec, SpecError> {
    let defaults = common::Defaults {
        num_key_value_heads: Some(32),
        max_position_embeddings: 32_768,
        ..common::Defaults::USUAL
    };
    let mut spec = common::read(Family(&FAMILY), keys, &defaults)?;
    spec.qkv_bias = true;
    common::read_windows(keys, &mut spec)?;
    Ok(spec)
}
