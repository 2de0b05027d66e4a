//! Writing safetensors and the config beside them.

use std::{borrow::Cow, path::Path};

use lns_spec::ModelSpec;
use safetensors::{Dtype, View};

use crate::CheckpointError;

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

impl View for &NamedTensor<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()
    }

    fn data_len(&self) -> usize {
        size_of_val(&*self.values)
    }
}

/// Writes tensors as one safetensors file, f32.
///
/// # Errors
/// [`CheckpointError::Write`].
pub fn write_tensors(path: &Path, tensors: &[NamedTensor<'_>]) -> Result<(), CheckpointError> {
    let named = tensors.iter().map(|tensor| (tensor.name.clone(), tensor));
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::serialize_to_file(named, Some(metadata), path).map_err(|error| {
        CheckpointError::Write { path: path.to_owned(), reason: error.to_string() }
    })
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
    write_config(folder, spec)?;
    write_tensors(&folder.join("model.safetensors"), tensors)
}

pub(crate) fn write_config(folder: &Path, spec: &ModelSpec) -> Result<(), CheckpointError> {
    let path = folder.join("config.json");
    let config = format!("{:#}\n", spec.to_config());
    std::fs::write(&path, config)
        .map_err(|error| CheckpointError::Write { path, reason: error.to_string() })
}
