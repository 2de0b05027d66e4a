//! `[optimiser]`: the update rule with its own settings, and the objective.

use std::{fmt, sync::LazyLock};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, Visitor},
    ser::SerializeMap,
};
use toml::{Table, Value};

use super::{ConfigError, RunConfig};
use crate::{
    Decay, Optimiser,
    ranges::{Real, RealSetting},
};

/// Update rule and objective.
///
/// In settings the optimiser's name and its own numbers stand beside those of the objective. Numbers that
/// only other optimisers have are left out of what is written, and taken at their usual values where they
/// are read: files of earlier versions have them all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptimiserConfig {
    /// Which rule, and its settings.
    pub rule: Optimiser,
    /// Largest ‖gradient‖₂; 0 is without clipping.
    pub clip: f64,
    /// Weight of the squared log-sum of the logits; 0 is without.
    pub z_loss: f64,
}

impl Default for OptimiserConfig {
    fn default() -> Self {
        Self { rule: Optimiser::default(), clip: 1.0, z_loss: 0.0 }
    }
}

/// What the numbers of the objective may be; those of an optimiser stand with it.
pub(crate) const REAL: &[RealSetting] = &[
    ("optimiser.clip", |run| run.optimiser.clip, Real::NotNegative),
    ("optimiser.z_loss", |run| run.optimiser.z_loss, Real::NotNegative),
];

const DECAY: &str = "optimiser.decay";

/// A setting's name in its table, which its key ends with.
fn name(key: &'static str) -> &'static str {
    key.rsplit('.').next().unwrap_or(key)
}

/// The names of all settings of the table.
static NAMES: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let mut names = vec!["name"];
    for mut optimiser in Optimiser::all() {
        names.extend(optimiser.numbers().iter().map(|number| name(number.key)));
    }
    names.extend(["decay", "clip", "z_loss"]);
    let mut seen = Vec::new();
    names.retain(|name| {
        let new = !seen.contains(name);
        seen.push(name);
        new
    });
    names
});

impl Serialize for OptimiserConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { mut rule, clip, z_loss } = *self;
        let mut table = serializer.serialize_map(None)?;
        table.serialize_entry("name", rule.name())?;
        for number in rule.numbers() {
            table.serialize_entry(name(number.key), number.value)?;
        }
        if let Some(decay) = rule.decay() {
            table.serialize_entry("decay", decay)?;
        }
        table.serialize_entry("clip", &clip)?;
        table.serialize_entry("z_loss", &z_loss)?;
        table.end()
    }
}

impl<'de> Deserialize<'de> for OptimiserConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Given;
        impl<'de> Visitor<'de> for Given {
            type Value = OptimiserConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of the optimiser's settings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<OptimiserConfig, A::Error> {
                let mut config = OptimiserConfig::default();
                let (mut numbers, mut decays) = (Vec::new(), None);
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "name" => config.rule = map.next_value()?,
                        "decay" => decays = Some(map.next_value::<Decay>()?),
                        "clip" => config.clip = map.next_value()?,
                        "z_loss" => config.z_loss = map.next_value()?,
                        known if NAMES.contains(&known) => numbers.push((key, map.next_value()?)),
                        unknown => return Err(A::Error::unknown_field(unknown, &NAMES)),
                    }
                }
                for number in config.rule.numbers() {
                    let given = numbers.iter().find(|(given, _)| given == name(number.key));
                    given.iter().for_each(|(_, value)| *number.value = *value);
                }
                if let (Some(own), Some(decays)) = (config.rule.decay(), decays) {
                    *own = decays;
                }
                Ok(config)
            }
        }
        deserializer.deserialize_map(Given)
    }
}

/// Refuses settings of the table that the optimiser lacks and that ask for something.
pub(super) fn refuse_idle(run: &Table) -> Result<(), ConfigError> {
    let Some(given) = run.get("optimiser").and_then(Value::as_table) else { return Ok(()) };
    let named = |mut optimiser: Optimiser| -> Vec<(&'static str, Value)> {
        let numbers = optimiser.numbers().into_iter();
        let mut settings: Vec<_> =
            numbers.map(|number| (number.key, Value::Float(*number.value))).collect();
        let decay = optimiser.decay().and_then(|decay| Value::try_from(*decay).ok());
        settings.extend(decay.map(|decay| (DECAY, decay)));
        settings
    };
    let chosen = given.get("name").and_then(Value::as_str);
    let chosen = chosen.map_or_else(
        || Some(Optimiser::default()),
        |chosen| Optimiser::all().into_iter().find(|optimiser| optimiser.name() == chosen),
    );
    // A name that is none is refused as such.
    let Some(chosen) = chosen else { return Ok(()) };
    let own = named(chosen);
    for (key, usual) in Optimiser::all().into_iter().flat_map(named) {
        let Some(value) = given.get(name(key)) else { continue };
        let same = match (value, &usual) {
            (Value::Integer(value), Value::Float(usual)) => *value as f64 == *usual,
            (value, usual) => value == usual,
        };
        if !same && own.iter().all(|(known, _)| *known != key) {
            return Err(ConfigError::Invalid {
                key,
                value: value.to_string(),
                expected: lacking(chosen, key, &usual),
            });
        }
    }
    Ok(())
}

/// What to do with a setting that the chosen optimiser lacks.
fn lacking(chosen: Optimiser, key: &str, usual: &Value) -> String {
    let has = |optimiser: &Optimiser| match key {
        DECAY => optimiser.clone().decay().is_some(),
        key => optimiser.number(key).is_some(),
    };
    let others: Vec<&str> =
        Optimiser::all().iter().filter(|other| has(other)).map(Optimiser::name).collect();
    let why = chosen.fixed().map_or_else(|| format!("{} has none", chosen.name()), str::to_owned);
    format!("{why}: leave it at {usual} or use {}", others.join(" or "))
}

/// What the optimiser's own numbers may be.
pub(crate) fn check(run: &RunConfig) -> Result<(), ConfigError> {
    let mut rule = run.optimiser.rule;
    for number in rule.numbers() {
        number.range.check(number.key, *number.value)?;
    }
    Ok(())
}
