//! The rotary embedding's keys, in their older and newer spelling.

use serde_json::{Map, Value, json};

use super::keys::{Keys, invalid};
use crate::{
    RopeScaling, RopeSpec, SpecError,
    rope::{longrope_mscale, yarn_mscale},
};

/// What the rotary keys say.
#[derive(Debug)]
pub(crate) struct Ropes {
    /// The rotary embedding of all layers, or of those without a window.
    pub(crate) main: RopeSpec,
    /// The rotary embedding of layers with a window, where they have one of their own.
    pub(crate) local: Option<RopeSpec>,
    /// The share of each head that is turned, where it stands among the rotary keys.
    pub(crate) share: Option<f64>,
}

const BY_TYPE: [&str; 2] = ["full_attention", "sliding_attention"];

/// `rope_parameters` (newer files; perhaps one for each type of layer) or `rope_theta` with `rope_scaling`
/// (older ones), and `rope_local_base_freq`.
pub(crate) fn ropes(
    keys: &mut Keys,
    max_position_embeddings: usize,
    default_theta: f64,
) -> Result<Ropes, SpecError> {
    let parameters = keys.take("rope_parameters");
    let scaling = keys.take("rope_scaling");
    let outer_theta = keys.number("rope_theta")?;
    let name = if parameters.is_some() { "rope_parameters" } else { "rope_scaling" };
    let mut inner = object(name, parameters.or(scaling))?;
    let theta = outer_theta.unwrap_or(default_theta);
    if BY_TYPE.iter().any(|kind| inner.0.contains_key(*kind)) {
        let mut of = |kind: &str| {
            let name = format!("{name}.{kind}");
            let mut keys = object(&name, inner.take(kind))?;
            rope_spec(&name, &mut keys, theta, max_position_embeddings)
        };
        let ((main, share), (local, _)) = (of(BY_TYPE[0])?, of(BY_TYPE[1])?);
        return Ok(Ropes { main, local: Some(local), share });
    }
    let (main, share) = rope_spec(name, &mut inner, theta, max_position_embeddings)?;
    Ok(Ropes { main, local: None, share })
}

fn object(name: &str, value: Option<Value>) -> Result<Keys, SpecError> {
    match value {
        None => Ok(Keys(Map::new())),
        Some(Value::Object(map)) => Ok(Keys(map)),
        Some(value) => Err(invalid(name, &value, "an object")),
    }
}

/// One object of rotary keys, and the share of each head that it turns.
fn rope_spec(
    name: &str,
    inner: &mut Keys,
    default_theta: f64,
    max_position_embeddings: usize,
) -> Result<(RopeSpec, Option<f64>), SpecError> {
    let theta = inner.number("rope_theta")?.unwrap_or(default_theta);
    let older_name = inner.text("type")?;
    let kind = inner.text("rope_type")?.or(older_name).unwrap_or_else(|| "default".to_owned());
    let in_object = |error: SpecError| match error {
        SpecError::Missing { key } => SpecError::Missing { key: format!("{name}.{key}") },
        SpecError::Invalid { key, value, expected } => {
            SpecError::Invalid { key: format!("{name}.{key}"), value, expected }
        }
        other => other,
    };
    let scaling = rope_scaling(&kind, inner, max_position_embeddings).map_err(in_object)?;
    let share = inner.number("partial_rotary_factor").map_err(in_object)?;
    Ok((RopeSpec { theta, scaling }, share))
}

fn rope_scaling(
    kind: &str,
    keys: &mut Keys,
    max_position_embeddings: usize,
) -> Result<RopeScaling, SpecError> {
    let positive = |key: &str, value: f64| {
        if value > 0.0 { Ok(value) } else { Err(invalid(key, &json!(value), "a number above 0")) }
    };
    let factor = |keys: &mut Keys| positive("factor", keys.required_number("factor")?);
    let original = |keys: &mut Keys| -> Result<f64, SpecError> {
        let given = keys.number("original_max_position_embeddings")?;
        positive(
            "original_max_position_embeddings",
            given.unwrap_or(max_position_embeddings as f64),
        )
    };
    let scaling = match kind {
        "default" => RopeScaling::Default,
        "linear" => RopeScaling::Linear { factor: factor(keys)? },
        "dynamic" => RopeScaling::Dynamic { factor: factor(keys)? },
        "llama3" => RopeScaling::Llama3 {
            factor: factor(keys)?,
            low_freq_factor: positive("low_freq_factor", keys.required_number("low_freq_factor")?)?,
            high_freq_factor: positive(
                "high_freq_factor",
                keys.required_number("high_freq_factor")?,
            )?,
            original_max_position_embeddings: original(keys)?,
        },
        "yarn" => {
            let factor = factor(keys)?;
            let (mscale, all) = (keys.number("mscale")?, keys.number("mscale_all_dim")?);
            let inferred = match (mscale, all) {
                (Some(mscale), Some(all)) if mscale != 0.0 && all != 0.0 => {
                    yarn_mscale(factor, mscale) / yarn_mscale(factor, all)
                }
                _ => yarn_mscale(factor, 1.0),
            };
            RopeScaling::Yarn {
                factor,
                original_max_position_embeddings: original(keys)?,
                beta_fast: keys.number("beta_fast")?.unwrap_or(32.0),
                beta_slow: keys.number("beta_slow")?.unwrap_or(1.0),
                attention_factor: keys.number("attention_factor")?.unwrap_or(inferred),
                truncate: keys.flag("truncate")?.unwrap_or(true),
            }
        }
        "longrope" => {
            let expected = "a list of numbers above 0, one for each pair of a head's features";
            let mut list = |key: &str| {
                let list = keys.typed(key, expected, |value| {
                    let list = serde_json::from_value::<Vec<f64>>(value.clone()).ok()?;
                    list.iter().all(|by| *by > 0.0 && by.is_finite()).then_some(list)
                })?;
                list.ok_or_else(|| SpecError::Missing { key: key.to_owned() })
            };
            let (short_factor, long_factor) = (list("short_factor")?, list("long_factor")?);
            let original = original(keys)?;
            let stretch = max_position_embeddings as f64 / original;
            let factor = keys.number("factor")?.unwrap_or(stretch);
            let inferred = longrope_mscale(factor, original);
            RopeScaling::LongRope {
                short_factor,
                long_factor,
                original_max_position_embeddings: original,
                attention_factor: keys.number("attention_factor")?.unwrap_or(inferred),
            }
        }
        other => {
            return Err(SpecError::Unsupported {
                key: "rope_type".to_owned(),
                value: other.to_owned(),
                why: "only default, linear, dynamic, llama3, yarn and longrope are".to_owned(),
            });
        }
    };
    match scaling {
        RopeScaling::Llama3 { low_freq_factor: low, high_freq_factor: high, .. } if low >= high => {
            Err(invalid("high_freq_factor", &json!(high), "more than `low_freq_factor`"))
        }
        RopeScaling::Yarn { beta_fast, beta_slow, .. }
            if !(beta_fast > beta_slow && beta_slow > 0.0) =>
        {
            Err(invalid("beta_fast", &json!(beta_fast), "more than `beta_slow`, both above 0"))
        }
        RopeScaling::Yarn { attention_factor, .. }
        | RopeScaling::LongRope { attention_factor, .. }
            if attention_factor <= 0.0 =>
        {
            Err(invalid("attention_factor", &json!(attention_factor), "a number above 0"))
        }
        scaling => Ok(scaling),
    }
}
