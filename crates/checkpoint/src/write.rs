//! Writing safetensors and the config beside them.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

use lns_spec::ModelSpec;
use serde_json::{Map, Value, json};

use crate::{CheckpointError, StorageType};

/// One f32 tensor to be written, row-major.
#[derive(Debug, Clone)]
pub struct NamedTensor<'a> {
    /// Full name, e.g. `model.layers.3.mlp.up_proj.weight`.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// As many values as the shape says.
    pub values: Cow<'a, [f32]>,
}

/// Writes tensors as one safetensors file, f32.
///
/// # Errors
/// [`CheckpointError::Write`].
pub fn write_tensors(path: &Path, tensors: &[NamedTensor<'_>]) -> Result<(), CheckpointError> {
    let entries = tensors.iter().map(|tensor| {
        (
            tensor.name.as_str(),
            StorageType::F32,
            &tensor.shape[..],
            size_of_val(&*tensor.values) as u64,
        )
    });
    let write = || -> io::Result<()> {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        file.write_all(&header(entries))?;
        for value in tensors.iter().flat_map(|tensor| &*tensor.values) {
            file.write_all(&value.to_le_bytes())?;
        }
        file.flush()
    };
    write().map_err(|error| failed(path, &error))
}

/// The header of a safetensors file of tensors in this order (name, type, shape, bytes): its length,
/// then JSON, filled up with blanks to a multiple of 8.
pub(crate) fn header<'a>(
    tensors: impl Iterator<Item = (&'a str, StorageType, &'a [usize], u64)>,
) -> Vec<u8> {
    let mut entries = Map::new();
    entries.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut offset = 0;
    for (name, dtype, shape, bytes) in tensors {
        let end = offset + bytes;
        let entry = json!({"dtype": dtype.name(), "shape": shape, "data_offsets": [offset, end]});
        entries.insert(name.to_owned(), entry);
        offset = end;
    }
    let mut json = Value::Object(entries).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    header
}

pub(crate) fn failed(path: &Path, error: &io::Error) -> CheckpointError {
    CheckpointError::Write { path: path.to_owned(), reason: error.to_string() }
}

/// Writes `config.json` and `model.safetensors` into a folder that its caller will put in place.
///
/// # Errors
/// [`CheckpointError::Write`].
pub fn write_model(
    folder: &Path,
    spec: &ModelSpec,
    tensors: &[NamedTensor<'_>],
) -> Result<(), CheckpointError> {
    write_config(folder, spec, StorageType::F32)?;
    write_tensors(&folder.join("model.safetensors"), tensors)
}

/// Writes `config.json`. Where the config says how its weights are stored, it says `dtype`.
pub(crate) fn write_config(
    folder: &Path,
    spec: &ModelSpec,
    dtype: StorageType,
) -> Result<(), CheckpointError> {
    let path = folder.join("config.json");
    spec.check_config().map_err(|error| CheckpointError::Spec { path: path.clone(), error })?;
    let mut config = spec.to_config();
    let stored = match dtype {
        StorageType::BF16 => "bfloat16",
        StorageType::F16 => "float16",
        _ => "float32",
    };
    for key in ["dtype", "torch_dtype"] {
        if let Some(value) = config.get_mut(key) {
            *value = json!(stored);
        }
    }
    std::fs::write(&path, format!("{config:#}\n")).map_err(|error| failed(&path, &error))
}
