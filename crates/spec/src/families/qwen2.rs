//! Qwen 2 and 2.5: biases on q, k and v, and windows in some layers.

use super::{Description, Family, Gguf, common, llama};
use crate::{ModelSpec, NormScheme, SpecError, config::keys::Keys};

pub(super) static FAMILY: Description = Description {
    model_type: "qwen2",
    architecture: "Qwen2ForCausalLM",
    names: &llama::NAMES,
    own_scheme: NormScheme::pre,
    read,
    write: common::write_windows,
    gguf: Some(Gguf {
        architecture: "qwen2",
        sliding_window: false,
        interleaved_rotary: false,
        optional_biases: false,
        llama3_rope: false,
    }),
};

fn read(keys: &mut Keys) -> Result<ModelSpec, SpecError> {
    let defaults = common::Defaults {
        num_key_value_heads: Some(32),
        head_dim: None,
        max_position_embeddings: 32_768,
        rms_norm_eps: 1e-6,
    };
    let mut spec = common::read(Family(&FAMILY), keys, &defaults)?;
    spec.qkv_bias = true;
    common::read_windows(keys, &mut spec)?;
    Ok(spec)
}
