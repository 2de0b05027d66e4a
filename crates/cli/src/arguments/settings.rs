//! The flags that are settings of a training run, and the settings they make.

use clap::Args;
use lns_train::{
    Settings,
    ranges::{HIDDEN, LAYERS, LENGTH, SEQUENCES, STEPS, TOKENS},
    scheme_as_table,
};
use toml::{Table, Value};

use super::numbers::{NOT_NEGATIVE, real, whole};
use crate::failure::usage;

/// Settings of a training run, over those of a preset and a file.
#[derive(Debug, Clone, Args)]
pub(crate) struct SettingArgs {
    /// Steps of the run (1–1000000000)
    #[arg(
        long, value_name = "N", conflicts_with = "tokens", value_parser = whole::<u64>(STEPS)
    )]
    pub(crate) steps: Option<u64>,

    /// Instead of --steps: tokens of the run (1–1000000000000000)
    #[arg(long, value_name = "N", value_parser = whole::<u64>(TOKENS))]
    pub(crate) tokens: Option<u64>,

    /// Sequences of a step (1–1048576)
    #[arg(long, value_name = "N", value_parser = whole::<u64>(SEQUENCES))]
    pub(crate) batch: Option<u64>,

    /// Tokens of a sequence (1–1048576)
    #[arg(long, value_name = "N", value_parser = whole::<u64>(LENGTH))]
    pub(crate) length: Option<u64>,

    /// Peak learning rate (0 or more)
    #[arg(long, value_name = "RATE", value_parser = real(NOT_NEGATIVE))]
    pub(crate) lr: Option<f64>,

    /// Any other setting, e.g. --set optimiser.clip=0 --set schedule.shape=linear; config.toml in a
    /// run's folder has those that it uses
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) settings: Vec<String>,
}

/// Sizes of a model that is trained from scratch.
#[derive(Debug, Clone, Args)]
pub(crate) struct ShapeArgs {
    /// Layers of the model (1–4096)
    #[arg(long, value_name = "N", value_parser = whole::<u64>(LAYERS))]
    pub(crate) layers: Option<u64>,

    /// Features of the stream (1–1048576). The MLP's and the number of heads stay as they are: --set
    /// model.intermediate_size=N, --set model.num_attention_heads=N
    #[arg(long, value_name = "N", value_parser = whole::<u64>(HIDDEN))]
    pub(crate) hidden: Option<u64>,
}

/// The settings that flags gave; `None` when there was no such flag.
pub(crate) fn given(
    args: &SettingArgs,
    shape: Option<&ShapeArgs>,
    more: &[(&str, Option<Value>)],
) -> anyhow::Result<Option<Settings>> {
    let number = |value: Option<u64>| value.map(integer);
    let mut given = vec![
        ("steps", number(args.steps)),
        ("tokens", number(args.tokens)),
        ("model.num_hidden_layers", number(shape.and_then(|shape| shape.layers))),
        ("model.hidden_size", number(shape.and_then(|shape| shape.hidden))),
        ("batch.sequences", number(args.batch)),
        ("data.length", number(args.length)),
        ("schedule.learning_rate", args.lr.map(Value::Float)),
    ];
    given.extend(more.iter().cloned());
    let mut table = Table::new();
    for (key, value) in given {
        if let Some(value) = value {
            insert(&mut table, key, value).map_err(usage)?;
        }
    }
    for setting in &args.settings {
        let Some((key, value)) = setting.split_once('=') else {
            return Err(usage(format!(
                "--set {}: expected KEY=VALUE, as in optimiser.clip=0",
                shown(setting)
            )));
        };
        let key = key.trim();
        if key.split('.').count() > DEEPEST || key.split('.').any(str::is_empty) {
            return Err(usage(format!(
                "--set {}: expected the names of a setting's table and its own with dots between, as \
                 in optimiser.clip=0",
                shown(setting)
            )));
        }
        insert(&mut table, key, parsed(value.trim()))
            .map_err(|inner| usage(format!("--set {key}: {inner} is not a table of settings")))?;
    }
    Ok((!table.is_empty()).then(|| Settings::from_table("the command line", table)))
}

/// How many names a key may be made of; the longest key that there is has four.
const DEEPEST: usize = 8;

/// What was typed, cut to the length of a line.
fn shown(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text.to_owned(),
    }
}

/// TOML's integers end at 2⁶³ − 1; what is beyond is refused by any setting.
pub(crate) fn integer(value: u64) -> Value {
    Value::Integer(i64::try_from(value).unwrap_or(i64::MAX))
}

/// A value as TOML; what is none is a string, so that names need no quotes.
fn parsed(text: &str) -> Value {
    let table = format!("value = {text}").parse::<Table>();
    let value = table.ok().and_then(|mut table| table.remove("value"));
    value.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Puts a value under a dotted key; the name of what is no table, if it cannot be put there. Options of
/// a scheme that was given by its name stand beside it.
fn insert(table: &mut Table, key: &str, value: Value) -> Result<(), String> {
    let Some((first, rest)) = key.split_once('.') else {
        table.insert(key.to_owned(), value);
        return Ok(());
    };
    let inside = table.entry(first).or_insert_with(|| Value::Table(Table::new()));
    if first == "scheme" {
        *inside = scheme_as_table(inside.clone());
    }
    match inside {
        Value::Table(inner) => insert(inner, rest, value),
        _ => Err(first.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use lns_train::RunConfig;

    use super::*;

    #[test]
    fn values_are_toml_and_names_need_no_quotes() {
        assert_eq!(parsed("0"), Value::Integer(0));
        assert_eq!(parsed("1e-3"), Value::Float(1e-3));
        assert_eq!(parsed("linear"), Value::String("linear".to_owned()));
        assert_eq!(parsed("\"linear\""), Value::String("linear".to_owned()));
        let mut table = Table::new();
        insert(&mut table, "a.b.c", Value::Integer(1)).expect("a new place");
        insert(&mut table, "a.b.d", Value::Integer(2)).expect("beside it");
        assert_eq!(table.to_string(), "[a.b]\nc = 1\nd = 2\n");
        assert!(insert(&mut table, "a.b.c.x", Value::Integer(3)).is_err());
    }

    #[test]
    fn options_stand_beside_the_name_of_a_scheme() {
        for (name, expected) in [
            ("lns", "lns, exponent 0.25"),
            ("before-norm", "before-norm, exponent 0.25"),
            ("LNS", "error"),
        ] {
            let mut table = Table::new();
            insert(&mut table, "model.scheme", Value::String(name.to_owned())).expect("a place");
            let placed = insert(&mut table, "model.scheme.exponent", Value::Float(0.25));
            let config = RunConfig::default().with(&[Settings::from_table("flags", table)]);
            match config {
                Ok(config) => assert_eq!(config.model.scheme.to_string(), expected),
                Err(_) => assert!(placed.is_err() && expected == "error", "{name}"),
            }
        }
    }
}
