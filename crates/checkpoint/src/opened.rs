//! What opening makes of a model's files, whatever their format.

use std::path::{Path, PathBuf};

use lns_record::ProvenanceRecord;
use lns_spec::ModelSpec;

use crate::map::FileMap;
use crate::{GgufTokenizer, TensorInfo};

/// File format of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `.safetensors` files with a `config.json`.
    Safetensors,
    /// One `.gguf` file.
    Gguf,
}

/// Where a checkpoint's tokenizer is.
#[derive(Debug, Clone, PartialEq)]
pub enum TokenizerSource {
    /// In a `tokenizer.json` beside the weights.
    Json(PathBuf),
    /// In the GGUF file's metadata.
    Gguf(Box<GgufTokenizer>),
    /// Nowhere.
    None,
}

/// What a format's reader makes of its files.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) format: Format,
    pub(crate) spec: ModelSpec,
    /// The maps of `files`, in their order.
    pub(crate) maps: Vec<FileMap>,
    pub(crate) files: Vec<PathBuf>,
    pub(crate) tensors: Vec<TensorInfo>,
    /// Names in the files of tensors that are no part of the model.
    pub(crate) left_out: Vec<String>,
    pub(crate) tokenizer: TokenizerSource,
    /// How the model was made, where the weights' own file says so, as a GGUF file does.
    pub(crate) provenance: Option<ProvenanceRecord>,
}

/// Where `tokenizer.json` is, if it is in `folder`.
pub(crate) fn tokenizer_in(folder: &Path) -> TokenizerSource {
    let path = folder.join("tokenizer.json");
    if path.exists() { TokenizerSource::Json(path) } else { TokenizerSource::None }
}

/// The folder a file is in.
pub(crate) fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_file_name_is_in_the_current_folder() {
        assert_eq!(folder_of(Path::new("a.gguf")), Path::new("."));
        assert_eq!(folder_of(Path::new("m/a.gguf")), Path::new("m"));
    }
}
