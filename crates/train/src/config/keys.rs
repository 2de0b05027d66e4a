//! Which settings there are, for those that are misspelt.

use std::{path::PathBuf, sync::LazyLock};

use lns_model::LoraConfig;
use lns_spec::{Anneal, DepthScale, NormScheme, differs_little, schemes::Keel};
use toml::{Table, Value};

use super::{FinetuneConfig, OptimiserConfig, RunConfig, SourceConfig, TeacherConfig, flattened};
use crate::{Optimiser, Schedule};

/// Every setting's dotted key. Those of a source of text stand without their number.
pub(crate) static KEYS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let finetune = Some(FinetuneConfig {
        lora: Some(LoraConfig::default()),
        teacher: Some(TeacherConfig::of(PathBuf::new())),
        ..FinetuneConfig::of(PathBuf::new())
    });
    let schedule = Schedule { steps: Some(1), ..Schedule::default() };
    let full = RunConfig { tokens: Some(1), finetune, schedule, ..RunConfig::default() };
    let mut keys = keys_of("", &full);
    keys.extend(keys_of("data.sources.", &SourceConfig::new(PathBuf::new())));
    let anneal = Some(Anneal { exponent: 0.5, steps: 1 });
    let annealed = DepthScale { first_layer: 1, anneal, ..DepthScale::default() };
    let keel = NormScheme::Keel(Keel { alpha: Some(1.0) });
    let named = NormScheme::named().into_iter().map(|(_, scheme)| scheme);
    for scheme in named.chain([NormScheme::Lns(annealed), keel]) {
        keys.extend(keys_of("model.scheme.", &scheme));
    }
    for rule in Optimiser::all() {
        keys.extend(keys_of("optimiser.", &OptimiserConfig { rule, ..OptimiserConfig::default() }));
    }
    keys.sort();
    keys.dedup();
    keys
});

fn keys_of(prefix: &str, settings: &impl serde::Serialize) -> Vec<String> {
    let table = Table::try_from(settings).unwrap_or_default();
    flattened(&table).into_iter().map(|(key, _)| format!("{prefix}{key}")).collect()
}

/// The first key of these settings that is none, with the setting that was probably meant.
pub(crate) fn misspelt(settings: &Table) -> Option<(String, Option<String>)> {
    let key = unknown(settings, "")?;
    let meant = meant(&key);
    Some((key, meant))
}

fn unknown(table: &Table, prefix: &str) -> Option<String> {
    table.iter().find_map(|(name, value)| {
        let key = format!("{prefix}{name}");
        let inside = format!("{key}.");
        if KEYS.iter().any(|known| known.starts_with(&inside)) {
            return match value {
                Value::Table(table) => unknown(table, &inside),
                Value::Array(values) => values
                    .iter()
                    .filter_map(Value::as_table)
                    .find_map(|table| unknown(table, &inside)),
                _ => None,
            };
        }
        if KEYS.contains(&key) {
            return None;
        }
        // The whole of what was typed is compared, down to the first setting inside.
        Some(match value {
            Value::Table(table) => {
                let first = flattened(table).into_iter().next();
                first.map_or(key, |(rest, _)| format!("{inside}{rest}"))
            }
            _ => key,
        })
    })
}

/// The known key that differs least from this one, as a whole or in its last part, if at most a third
/// of it differs.
fn meant(key: &str) -> Option<String> {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    KEYS.iter()
        .filter_map(|known| {
            let whole = differs_little(key, known);
            // A right name in a wrong table is further off than one letter.
            let part = differs_little(&last(key), &last(known)).map(|differs| differs + 2);
            Some((whole.into_iter().chain(part).min()?, known))
        })
        .min()
        .map(|(_, known)| known.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_known_and_every_misspelling_of_one_letter_finds_it() {
        assert!(KEYS.len() > 50, "{}", KEYS.len());
        for key in KEYS.iter() {
            let typed = |key: &str| {
                let text = format!("{key} = 1");
                misspelt(&text.parse().expect("TOML"))
            };
            assert_eq!(typed(key), None);
            let last = key.rsplit('.').next().expect("a name");
            if last.len() < 4 {
                continue;
            }
            for at in key.len() - last.len()..key.len() {
                let wrong = format!("{}x{}", &key[..at], &key[at + 1..]);
                if KEYS.contains(&wrong) {
                    continue;
                }
                let found = typed(&wrong).expect("no setting").1.expect("something close");
                let known = found.rsplit('.').next().expect("a name");
                assert!(strsim::damerau_levenshtein(last, known) <= 2, "{wrong}: {found}");
            }
        }
    }

    #[test]
    fn the_setting_that_was_meant_is_named() {
        let meant = |text: &str| misspelt(&text.parse().expect("TOML")).and_then(|found| found.1);
        for (typed, expected) in [
            ("optimizer.name = 'adam'", "optimiser.name"),
            ("learning_rate = 1", "schedule.learning_rate"),
            ("model.qknorm = true", "model.qk_norm"),
            ("model.embed_norm = true", "model.embedding_norm"),
            ("model.scheme = { name = 'lns', exponnent = 1 }", "model.scheme.exponent"),
            ("data.sources = [{ corpuss = 'c' }]", "data.sources.corpus"),
            ("optimizer.clip = 1\noptimizer.eps = 1", "optimiser.clip"),
        ] {
            assert_eq!(meant(typed).as_deref(), Some(expected), "{typed}");
        }
        assert_eq!(meant("zzzzzzzzzzzz = 1"), None);
    }
}
