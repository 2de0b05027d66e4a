//! What holds for every family that is registered: its row in the documentation, and that no value in a
//! `config.json` does harm.

use std::{fs, path::PathBuf};

use lns_spec::{Family, ModelSpec};
use serde_json::{Value, json};

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn every_family_has_its_row_in_the_documentation() {
    let table =
        fs::read_to_string(repository().join("docs/families.md")).expect("in the repository");
    for family in Family::all().map(Family::model_type) {
        let row = format!("| `{family}` |");
        assert!(table.lines().any(|line| line.starts_with(&row)), "{family} has no row");
    }
}

#[test]
fn the_readme_names_every_family_once_and_counts_them_and_their_checkpoints() {
    let readme = fs::read_to_string(repository().join("README.md")).expect("in the repository");
    let table = readme.lines().skip_while(|line| !line.starts_with("| family |")).skip(2);
    let rows: Vec<Vec<&str>> = table
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    let mut named = Vec::new();
    for row in &rows {
        let types: Vec<&str> = row[2].split(", ").map(|name| name.trim_matches('`')).collect();
        for name in &types {
            let family = Family::named(name).unwrap_or_else(|| panic!("no family is {name}"));
            assert!(!family.is_encoder() || row[5] == "no", "{name} is not trained");
        }
        named.extend(types);
    }
    let mut registered: Vec<&str> = Family::all().map(Family::model_type).collect();
    named.sort_unstable();
    registered.sort_unstable();
    assert_eq!(named, registered);

    let folders = fs::read_dir(repository().join("golden/tiny")).expect("in the repository");
    let compared = folders
        .filter(|entry| {
            entry.as_ref().expect("readable").path().join("expected.safetensors").is_file()
        })
        .count();
    for said in [
        format!("{compared} tiny checkpoints: {} families", registered.len()),
        format!("[{} families](docs/families.md)", registered.len()),
    ] {
        assert!(readme.contains(&said), "the README does not say \"{said}\"");
    }
}

/// Other values for a value: of other types, none, and out of all proportion.
fn others(value: &Value) -> Vec<Value> {
    let mut others = vec![json!(null), json!("x"), json!([]), json!({}), json!(true)];
    match value {
        Value::Number(_) => others.extend([
            json!(0),
            json!(-1),
            json!(1),
            json!(7),
            json!(0.5),
            json!(4_000_000_000_u64),
            json!(u64::MAX),
            json!(1e300),
            json!(-1e-300),
        ]),
        Value::Array(list) => {
            others.push(list.iter().skip(1).cloned().collect());
            others.push(list.iter().chain(list.last()).cloned().collect());
            others.push(vec![json!(-1); list.len()].into());
        }
        _ => {}
    }
    others
}

#[test]
fn no_value_in_any_golden_config_panics_or_takes_memory() {
    let mut read = 0;
    for entry in fs::read_dir(repository().join("golden/tiny")).expect("in the repository") {
        let path = entry.expect("readable").path().join("config.json");
        let Ok(text) = fs::read_to_string(path) else { continue };
        let config: Value = serde_json::from_str(&text).expect("JSON");
        let keys = config.as_object().expect("an object");
        for (key, value) in keys {
            for other in others(value) {
                let mut changed = keys.clone();
                changed.insert(key.clone(), other);
                read += usize::from(bounded(&Value::Object(changed)));
            }
            let Value::Object(inner) = value else { continue };
            for (inner_key, value) in inner {
                for other in others(value) {
                    let mut changed = config.clone();
                    changed[key][inner_key] = other;
                    read += usize::from(bounded(&changed));
                }
            }
        }
    }
    assert!(read > 10_000, "only {read} of the changed files are models");
}

/// Whether it is a model; what is made for each of its layers is then bounded.
fn bounded(config: &Value) -> bool {
    match ModelSpec::from_config(config) {
        Ok(spec) => {
            assert!(spec.per_layer.len() <= 1 << 12);
            let experts: usize =
                spec.per_layer.iter().filter_map(|layer| layer.experts).map(|own| own.count).sum();
            assert!(experts <= 1 << 20, "{experts} experts");
            true
        }
        Err(error) => {
            assert!(error.to_string().len() < 2_000, "{error}");
            false
        }
    }
}
