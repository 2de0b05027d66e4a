//! OLMo 3: OLMo 2 with a window in three layers of four, and YaRN in the fourth alone.

use serde_json::{Map, Value};

use super::{Description, Family, Gguf, USUAL, common, olmo2};
use crate::{ModelSpec, NormScheme, RopeScaling, RopeSpec, SpecError, config::keys::Keys};

pub(super) static FAMILY: Description = Description {
    model_type: "olmo3",
    architecture: "Olmo3ForCausalLM",
    names: &olmo2::NAMES,
    own_scheme: NormScheme::output_norm,
    computes: &["rope_local_base_freq"],
    read,
    write,
    gguf: Some(Gguf {
        architecture: "olmo2",
        sliding_window: true,
        keys: &[("attention.sliding_window", "sliding_window")],
        heads_fill_stream: true,
        ..Gguf::USUAL
    }),
    ..USUAL
};

const THETA: f64 = 500_000.0;

fn read(keys: &mut Keys) -> Result<ModelSpec, SpecError> {
    let defaults = common::Defaults { rope_theta: THETA, ..olmo2::DEFAULTS };
    // In older files the scaling is that of layers without a window, and the base that of all.
    let theta = keys.0.get("rope_theta").and_then(Value::as_f64).unwrap_or(THETA);
    let mut spec = olmo2::read_olmo(Family(&FAMILY), keys, &defaults)?;
    if spec.local_rope.is_none() {
        spec.local_rope = Some(RopeSpec { theta, scaling: RopeScaling::Default });
    }
    common::read_sliding(keys, &mut spec, 4)?;
    Ok(spec)
}

fn write(spec: &ModelSpec, config: &mut Map<String, Value>) {
    olmo2::write(spec, config);
    common::write_sliding(spec, config);
    common::write_ropes(spec, config);
}
