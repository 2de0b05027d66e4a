//! What a number of the settings may be. The command line reads its flags' ranges here, so that help,
//! flags and files cannot differ.

use std::ops::RangeInclusive;

use toml::{Table, Value};

use crate::{ConfigError, RunConfig};

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

const HEADS: u64 = 1 << 12;
const INNER: RangeInclusive<u64> = 1..=1 << 22;
const ROWS: RangeInclusive<u64> = 0..=1 << 24;
/// Steps between two of something; 0 has a meaning of its own.
const EVERY: RangeInclusive<u64> = 0..=*STEPS.end();

/// Of a whole number: its key, its value, its range.
type Whole = (&'static str, fn(&RunConfig) -> u64, RangeInclusive<u64>);

const WHOLE: [Whole; 20] = [
    ("seed", |run| run.seed, SEED),
    ("threads", |run| run.threads as u64, THREADS),
    ("steps", |run| run.steps, STEPS),
    ("tokens", |run| run.tokens.unwrap_or(1), TOKENS),
    ("model.hidden_size", |run| run.model.hidden_size as u64, HIDDEN),
    ("model.intermediate_size", |run| run.model.intermediate_size as u64, INNER),
    ("model.num_hidden_layers", |run| run.model.num_hidden_layers as u64, LAYERS),
    ("model.num_attention_heads", |run| run.model.num_attention_heads as u64, 1..=HEADS),
    ("model.num_key_value_heads", |run| run.model.num_key_value_heads as u64, 0..=HEADS),
    ("model.vocab_size", |run| run.model.vocab_size as u64, ROWS),
    ("data.length", |run| run.data.length as u64, LENGTH),
    ("batch.sequences", |run| run.batch.sequences as u64, SEQUENCES),
    ("batch.sequences_per_pass", |run| run.batch.sequences_per_pass as u64, 0..=1 << 20),
    ("schedule.steps", |run| run.schedule.steps.unwrap_or(1), STEPS),
    ("schedule.warmup", |run| run.schedule.warmup, EVERY),
    ("evaluation.every", |run| run.evaluation.every, EVERY),
    ("evaluation.tokens", |run| run.evaluation.tokens, 0..=*TOKENS.end()),
    ("statistics.every", |run| run.statistics.every, EVERY),
    ("snapshots.every", |run| run.snapshots.every, EVERY),
    ("snapshots.keep_last", |run| run.snapshots.keep_last as u64, 1..=1 << 20),
];

/// Refuses the first whole number that is out of its range.
pub(crate) fn check(run: &RunConfig) -> Result<(), ConfigError> {
    for (key, of, range) in WHOLE {
        let value = of(run);
        if !range.contains(&value) {
            return Err(outside(key, value.to_string(), &range));
        }
    }
    Ok(())
}

/// Refuses numbers that no whole number of the settings can be, such as -1 and 1e400, before their types
/// are: the message says what they may be.
pub(crate) fn check_table(settings: &Table) -> Result<(), ConfigError> {
    for (key, _, range) in WHOLE {
        let names: Vec<&str> = key.split('.').collect();
        let (last, tables) = names.split_last().unwrap_or((&key, &[]));
        let table = tables.iter().try_fold(settings, |table, name| table.get(*name)?.as_table());
        match table.and_then(|table| table.get(*last)) {
            Some(Value::Integer(number))
                if u64::try_from(*number).is_ok_and(|number| range.contains(&number)) => {}
            Some(value @ (Value::Integer(_) | Value::Float(_))) => {
                return Err(outside(key, value.to_string(), &range));
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
            assert!(WHOLE.iter().any(|(known, ..)| *known == key), "{key} has no range");
        }
    }
}
