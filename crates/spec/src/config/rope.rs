//! The rotary embedding's keys, in their older and newer spelling.

use serde_json::{Map, Value, json};

use super::keys::{Keys, invalid};
use crate::{
    RopeScaling, RopeSpec, SpecError,
    rope::{longrope_mscale, yarn_mscale},
};

/// `rope_parameters` (newer files) or `rope_theta` with `rope_scaling` (older ones).
pub(crate) fn rope_spec(
    keys: &mut Keys,
    max_position_embeddings: usize,
) -> Result<RopeSpec, SpecError> {
    let object = |key: &str, value: Option<Value>| match value {
        None => Ok(Keys(Map::new())),
        Some(Value::Object(map)) => Ok(Keys(map)),
        Some(value) => Err(invalid(key, &value, "an object")),
    };
    let parameters = keys.take("rope_parameters");
    let scaling = keys.take("rope_scaling");
    let outer_theta = keys.number("rope_theta")?;
    let name = if parameters.is_some() { "rope_parameters" } else { "rope_scaling" };
    let mut inner = object(name, parameters.or(scaling))?;
    let theta = inner.number("rope_theta")?.or(outer_theta).unwrap_or(10_000.0);
    let older_name = inner.text("type")?;
    let kind = inner.text("rope_type")?.or(older_name).unwrap_or_else(|| "default".to_owned());
    let in_object = |error: SpecError| match error {
        SpecError::Missing { key } => SpecError::Missing { key: format!("{name}.{key}") },
        SpecError::Invalid { key, value, expected } => {
            SpecError::Invalid { key: format!("{name}.{key}"), value, expected }
        }
        other => other,
    };
    let scaling = rope_scaling(&kind, &mut inner, max_position_embeddings).map_err(in_object)?;
    if let Some(partial) = inner.number("partial_rotary_factor").map_err(in_object)?
        && partial != 1.0
    {
        return Err(SpecError::Unsupported {
            key: format!("{name}.partial_rotary_factor"),
            value: partial.to_string(),
            why: "rotary embedding of a part of each head is not supported".to_owned(),
        });
    }
    Ok(RopeSpec { theta, scaling })
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
