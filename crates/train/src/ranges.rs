//! What a number of the settings may be. The command line reads its flags' ranges here, so that help,
//! flags and files cannot differ. Which setting has which range stands with the setting.

use std::ops::RangeInclusive;

use toml::{Table, Value};

use crate::{ConfigError, RunConfig, TeacherConfig};

/// Steps of a run.
pub const STEPS: RangeInclusive<u64> = 1..=1_000_000_000;
/// Tokens of a text, or of a run whose length is given so.
pub const TOKENS: RangeInclusive<u64> = 1..=1_000_000_000_000_000;
/// Worker threads.
pub const THREADS: RangeInclusive<u64> = 1..=1 << 10;
/// Seeds: those that TOML's integers can hold.
pub const SEED: RangeInclusive<u64> = 0..=i64::MAX as u64;
/// Sequences of a step.
pub const SEQUENCES: RangeInclusive<u64> = 1..=1 << 20;
/// Tokens of a sequence.
pub const LENGTH: RangeInclusive<u64> = 1..=1 << 20;
/// Layers of a model, as `config.json` may say.
pub const LAYERS: RangeInclusive<u64> = 1..=1 << 12;
/// Features of the stream, as `config.json` may say.
pub const HIDDEN: RangeInclusive<u64> = 1..=1 << 20;

pub(crate) const HEADS: u64 = 1 << 12;
pub(crate) const INNER: RangeInclusive<u64> = 1..=1 << 22;
pub(crate) const ROWS: RangeInclusive<u64> = 0..=1 << 24;
/// Steps between two of something; 0 has a meaning of its own.
pub(crate) const EVERY: RangeInclusive<u64> = 0..=*STEPS.end();

/// A setting that is a whole number: its key, its value, its range.
pub(crate) type WholeSetting = (&'static str, fn(&RunConfig) -> u64, RangeInclusive<u64>);

/// A setting that is any other number: its key, its value, what it may be.
pub(crate) type RealSetting = (&'static str, fn(&RunConfig) -> f64, Real);

/// What a number that need not be whole may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Real {
    /// At least 0, and finite.
    NotNegative,
    /// At least 0 and below 1.
    BelowOne,
    /// A share, from 0 to 1.
    Share,
    /// What logits may be divided by.
    Temperature,
}

impl Real {
    pub(crate) fn contains(self, value: f64) -> bool {
        match self {
            Self::NotNegative => value.is_finite() && value >= 0.0,
            Self::BelowOne => (0.0..1.0).contains(&value),
            Self::Share => (0.0..=1.0).contains(&value),
            Self::Temperature => TeacherConfig::TEMPERATURE.contains(&value),
        }
    }

    /// Refuses a value of the setting `key` that it may not be.
    pub(crate) fn check(self, key: &'static str, value: f64) -> Result<(), ConfigError> {
        if self.contains(value) {
            return Ok(());
        }
        let expected = match self {
            Self::NotNegative => "it must be a finite number of at least 0",
            Self::BelowOne => "it must be at least 0 and below 1",
            Self::Share => "it is a share, from 0 to 1",
            Self::Temperature => "logits are divided by it: it must be from 0.01 to 100",
        };
        Err(ConfigError::Invalid { key, value: value.to_string(), expected: expected.to_owned() })
    }
}

/// The whole numbers of all tables.
fn whole() -> impl Iterator<Item = &'static WholeSetting> {
    use crate::config::{RUN, batch, data, intervals, model};
    [RUN, model::WHOLE, data::WHOLE, batch::WHOLE, crate::schedule::WHOLE, intervals::WHOLE]
        .into_iter()
        .flatten()
}

/// The other numbers of all tables, but for those that only some optimisers have.
fn real() -> impl Iterator<Item = &'static RealSetting> {
    use crate::config::{data, model, optimiser};
    [model::REAL, data::REAL, optimiser::REAL, crate::schedule::REAL, crate::guard::REAL]
        .into_iter()
        .flatten()
}

/// Refuses the first number that is out of its range.
pub(crate) fn check(run: &RunConfig) -> Result<(), ConfigError> {
    for (key, of, range) in whole() {
        let value = of(run);
        if !range.contains(&value) {
            return Err(outside(key, value.to_string(), range));
        }
    }
    for (key, of, range) in real() {
        range.check(key, of(run))?;
    }
    crate::config::optimiser::check(run)
}

/// Refuses numbers that no whole number of the settings can be, such as -1 and 1e400, before their types
/// are: the message says what they may be.
pub(crate) fn check_table(settings: &Table) -> Result<(), ConfigError> {
    for (key, _, range) in whole() {
        let names: Vec<&str> = key.split('.').collect();
        let (last, tables) = names.split_last().unwrap_or((key, &[]));
        let table = tables.iter().try_fold(settings, |table, name| table.get(*name)?.as_table());
        match table.and_then(|table| table.get(*last)) {
            Some(Value::Integer(number))
                if u64::try_from(*number).is_ok_and(|number| range.contains(&number)) => {}
            Some(value @ (Value::Integer(_) | Value::Float(_))) => {
                return Err(outside(key, value.to_string(), range));
            }
            _ => {}
        }
    }
    Ok(())
}

fn outside(key: &'static str, value: String, range: &RangeInclusive<u64>) -> ConfigError {
    let expected = format!("it must be a whole number from {} to {}", range.start(), range.end());
    ConfigError::Invalid { key, value, expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_in_its_range() {
        check(&RunConfig::default()).expect("in range");
        for name in crate::RUN_PRESETS {
            check(&crate::run_preset(name).expect(name).config).expect(name);
        }
    }

    #[test]
    fn every_whole_number_of_the_settings_has_a_range() {
        let settings = toml::Table::try_from(RunConfig::default()).expect("a table");
        let mut numbers = Vec::new();
        for (key, value) in crate::config::flattened(&settings) {
            if value.parse::<u64>().is_ok() {
                numbers.push(key);
            }
        }
        assert!(numbers.len() >= 18, "{numbers:?}");
        for key in numbers {
            assert!(whole().any(|(known, ..)| *known == key), "{key} has no range");
        }
    }
}
