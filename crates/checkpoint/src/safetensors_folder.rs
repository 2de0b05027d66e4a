//! A model as Hugging Face writes it: `config.json` beside `model.safetensors`, or beside shards
//! and the `model.safetensors.index.json` that lists them.

use std::collections::{BTreeMap, HashSet};
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use lns_record::read_regular;
use lns_spec::{ModelSpec, SpecError};
use serde::Deserialize;
use serde_json::Value;

use crate::map::FileMap;
use crate::opened::{Format, Parts, folder_of, tokenizer_in};
use crate::pairs::{Quantisation, join};
use crate::safetensors_header::{UniqueEntries, read_header};
use crate::{CheckpointError, TensorInfo};

/// Far above any real `config.json` or index (a 1000-shard index has a few MB).
const MAX_JSON: u64 = 64 << 20;

const CONFIG: &str = "config.json";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Opens a model folder.
pub(crate) fn open_folder(folder: &Path) -> Result<Parts, CheckpointError> {
    let config = read_config(folder)?;
    let single = folder.join(SINGLE);
    if single.exists() {
        return open_file_with(config, folder, &single);
    }
    let index = folder.join(INDEX);
    if index.exists() {
        return open_shards(config, folder, &index);
    }
    Err(CheckpointError::MissingFile {
        folder: folder.to_owned(),
        file: "model.safetensors or model.safetensors.index.json",
        remedy: "save the model's weights as safetensors there, or name a .gguf or .safetensors \
                 file itself",
    })
}

/// Opens one file, with the `config.json` beside it.
pub(crate) fn open_file(file: &Path) -> Result<Parts, CheckpointError> {
    let folder = folder_of(file);
    open_file_with(read_config(folder)?, folder, file)
}

/// The `config.json` of a folder, or beside a file, and the names of its tensors as far as they can be read.
pub(crate) fn survey(path: &Path) -> Result<(Value, Vec<String>), CheckpointError> {
    let folder = if path.is_dir() { path } else { folder_of(path) };
    let config = read_config_json(folder)?;
    let single = if path.is_dir() { folder.join(SINGLE) } else { path.to_owned() };
    let names = if single.exists() {
        let map = FileMap::open(&single)?;
        read_header(&single, map.bytes(), 0)?.into_iter().map(|tensor| tensor.name).collect()
    } else if folder.join(INDEX).exists() {
        read_index(&folder.join(INDEX))?.into_keys().collect()
    } else {
        Vec::new()
    };
    Ok((config, names))
}

/// Takes out of a `config.json` how its weights are stored.
pub(crate) fn take_quantisation(
    path: &Path,
    config: &mut Value,
) -> Result<Quantisation, CheckpointError> {
    Quantisation::take(path, config)
}

/// What `config.json` says of the model and of how its weights are stored.
type Config = (ModelSpec, Quantisation);

fn open_file_with(config: Config, folder: &Path, file: &Path) -> Result<Parts, CheckpointError> {
    let map = FileMap::open(file)?;
    let tensors = read_header(file, map.bytes(), 0)?;
    parts(config, folder, vec![file.to_owned()], vec![map], tensors)
}

fn parts(
    (spec, quantisation): Config,
    folder: &Path,
    files: Vec<PathBuf>,
    maps: Vec<FileMap>,
    tensors: Vec<TensorInfo>,
) -> Result<Parts, CheckpointError> {
    let (tensors, left_out) = named(&spec, join(tensors, &files, quantisation)?);
    let tokenizer = tokenizer_in(folder);
    let (format, provenance) = (Format::Safetensors, None);
    Ok(Parts { format, spec, files, maps, tensors, left_out, tokenizer, provenance })
}

fn open_shards(config: Config, folder: &Path, index: &Path) -> Result<Parts, CheckpointError> {
    let mut listed: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, shard) in read_index(index)? {
        if !is_inside(&shard) {
            let path = index.to_owned();
            return Err(CheckpointError::ShardPath { path, tensor, shard });
        }
        listed.entry(shard).or_default().push(tensor);
    }
    let (mut files, mut maps, mut tensors) = (Vec::new(), Vec::new(), Vec::new());
    for (shard, listed) in listed {
        let (path, shard) = (index.to_owned(), folder.join(shard));
        if !shard.exists() {
            let tensor = listed.into_iter().next().unwrap_or_default();
            return Err(CheckpointError::MissingShard { path, tensor, shard });
        }
        let map = FileMap::open(&shard)?;
        let found = read_header(&shard, map.bytes(), files.len())?;
        let names: HashSet<_> = found.iter().map(|tensor| tensor.name.as_str()).collect();
        if let Some(tensor) = listed.into_iter().find(|name| !names.contains(name.as_str())) {
            return Err(CheckpointError::NotInShard { path, tensor, shard });
        }
        tensors.extend(found);
        files.push(shard);
        maps.push(map);
    }
    parts(config, folder, files, maps, tensors)
}

/// The tensors by the names that this project has for them, and the names of those that are left out.
fn named(spec: &ModelSpec, tensors: Vec<TensorInfo>) -> (Vec<TensorInfo>, Vec<String>) {
    let (mut kept, mut left_out) = (Vec::with_capacity(tensors.len()), Vec::new());
    for tensor in tensors {
        match spec.family.name_in_folder(&tensor.name) {
            Some(name) => kept.push(TensorInfo { name, ..tensor }),
            None => left_out.push(tensor.name),
        }
    }
    left_out.sort_unstable();
    (kept, left_out)
}

fn read_index(path: &Path) -> Result<BTreeMap<String, String>, CheckpointError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: UniqueEntries<String>,
    }
    let text = read_json(path)?;
    let index: Index = serde_json::from_slice(&text).map_err(|error| CheckpointError::Index {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    Ok(index.weight_map.0)
}

fn is_inside(shard: &str) -> bool {
    let path = Path::new(shard);
    !shard.is_empty()
        && !shard.contains(['\\', ':', '\0'])
        && path.components().all(|component| matches!(component, Component::Normal(_)))
}

fn read_config(folder: &Path) -> Result<Config, CheckpointError> {
    let mut config = read_config_json(folder)?;
    let path = folder.join(CONFIG);
    let quantisation = Quantisation::take(&path, &mut config);
    // What the model is comes first: a stranger need not hear how its weights are stored.
    let model = ModelSpec::from_config(&config)
        .map_err(|error| CheckpointError::Spec { path: path.clone(), error })?;
    Ok((model, quantisation?))
}

fn read_config_json(folder: &Path) -> Result<Value, CheckpointError> {
    let path = folder.join(CONFIG);
    if !path.exists() {
        if folder.join("adapter_config.json").exists() {
            return Err(CheckpointError::MissingFile {
                folder: folder.to_owned(),
                file: CONFIG,
                remedy: "these are the adapters of a LoRA alone; the finished run's model/ has them \
                         merged",
            });
        }
        return Err(CheckpointError::MissingFile {
            folder: folder.to_owned(),
            file: CONFIG,
            remedy: "a model folder holds config.json and model.safetensors (or shards with \
                     model.safetensors.index.json)",
        });
    }
    let spec = |error| CheckpointError::Spec { path: path.clone(), error };
    let not_json = |reason| spec(SpecError::NotJson { reason });
    let text = String::from_utf8(read_json(&path)?).map_err(|error| not_json(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| not_json(error.to_string()))
}

fn read_json(path: &Path) -> Result<Vec<u8>, CheckpointError> {
    read_regular(path, MAX_JSON).map_err(|error| match error.kind() {
        ErrorKind::FileTooLarge => {
            CheckpointError::JsonTooLarge { path: path.to_owned(), limit: MAX_JSON }
        }
        _ => CheckpointError::of_reading(path, error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_may_be_in_the_folder_or_below_and_nowhere_else() {
        for shard in ["model-00001-of-00002.safetensors", "part/a.safetensors", "..a"] {
            assert!(is_inside(shard), "{shard} was refused");
        }
        for shard in
            ["", ".", "..", "../a", "a/../../b", "/etc/passwd", "a\\b", "C:a", "a\0", "./a"]
        {
            assert!(!is_inside(shard), "{shard} was accepted");
        }
    }
}
