//! The opened checkpoint: one face for both file formats.

use std::collections::HashMap;
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use lns_record::{FileRecord, ProvenanceRecord, file_sha256, open_regular, sha256};
use lns_spec::ModelSpec;
use serde_json::Value;

use crate::opened::{Format, Parts, TokenizerSource, folder_of};
use crate::{CheckpointError, TensorAudit, TensorInfo, gguf, safetensors_folder};

/// An opened checkpoint. Opening parses headers only. Tensor names are Hugging Face's and shapes
/// `[out, in]`, whatever the file format.
///
/// The weight files stay memory-mapped. Another process that truncates one of them meanwhile kills
/// this process, and one that overwrites it gives mixed values; a file that is replaced (written
/// beside and renamed) does neither.
#[derive(Debug)]
pub struct Checkpoint {
    pub(crate) path: PathBuf,
    pub(crate) parts: Parts,
    /// The sha256 of each file that was asked for: hashing takes as long as reading all of it.
    pub(crate) digests: Mutex<HashMap<PathBuf, String>>,
}

impl Checkpoint {
    /// Opens a folder (`config.json` and `model.safetensors`, or shards with
    /// `model.safetensors.index.json`), a GGUF file (known by its first bytes), or a `.safetensors`
    /// file with its `config.json` beside it.
    ///
    /// # Errors
    /// Any [`CheckpointError`] except those about a tensor asked for.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let has_extension = |extension: &str| {
            path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
        };
        let metadata = fs::metadata(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => CheckpointError::NotFound { path: path.to_owned() },
            _ => CheckpointError::Io { path: path.to_owned(), error },
        })?;
        let mut parts = if metadata.is_dir() {
            safetensors_folder::open_folder(path)?
        } else if !metadata.is_file() {
            return Err(CheckpointError::NotAFile { path: path.to_owned() });
        } else if has_extension("safetensors") {
            safetensors_folder::open_file(path)?
        } else if has_extension("gguf") || begins_like_gguf(path)? {
            gguf::open(path)?
        } else {
            return Err(CheckpointError::NotAModel { path: path.to_owned() });
        };
        parts.tensors.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(twice) = parts.tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(CheckpointError::DuplicateTensor {
                tensor: twice[0].name.clone(),
                first: parts.files[twice[0].file].clone(),
                second: parts.files[twice[1].file].clone(),
            });
        }
        Ok(Self { path: path.to_owned(), parts, digests: Mutex::default() })
    }

    /// What the model is.
    pub fn spec(&self) -> &ModelSpec {
        &self.parts.spec
    }

    /// The path it was opened at.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder that holds the files; for a model that is a folder, that folder itself.
    pub fn folder(&self) -> &Path {
        if self.path.is_dir() { &self.path } else { folder_of(&self.path) }
    }

    /// Every file that says what the model is: its weights and, beside safetensors, `config.json`.
    pub fn all_files(&self) -> Vec<PathBuf> {
        let config = self.folder().join("config.json");
        let config = (self.format() == Format::Safetensors).then_some(config);
        config.into_iter().chain(self.files().iter().cloned()).collect()
    }

    /// The record of how `model` was made from this checkpoint by `verb`.
    ///
    /// # Errors
    /// [`CheckpointError::Io`] when a file cannot be read.
    pub fn provenance(
        &self,
        verb: &str,
        model: &ModelSpec,
        options: Value,
    ) -> Result<ProvenanceRecord, CheckpointError> {
        let describe = |path: &PathBuf| -> Result<FileRecord, CheckpointError> {
            let io = |error| CheckpointError::Io { path: path.clone(), error };
            Ok(FileRecord {
                name: path.strip_prefix(self.folder()).unwrap_or(path).display().to_string(),
                bytes: path.metadata().map_err(io)?.len(),
                sha256: self.digest(path)?,
            })
        };
        Ok(ProvenanceRecord {
            verb: verb.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            options,
            measured: None,
            model: model.to_string(),
            source: self.path().display().to_string(),
            source_model: self.spec().to_string(),
            source_files: self.all_files().iter().map(describe).collect::<Result<_, _>>()?,
            before: self.own_provenance().map(Box::new),
        })
    }

    /// How this checkpoint was made, if it says so: in its folder, or in a GGUF file (beside it where an
    /// earlier version wrote it).
    pub fn own_provenance(&self) -> Option<ProvenanceRecord> {
        match self.format() {
            Format::Safetensors => {
                ProvenanceRecord::read(&self.folder().join(ProvenanceRecord::FILE_NAME))
            }
            Format::Gguf => self
                .parts
                .provenance
                .clone()
                .or_else(|| ProvenanceRecord::read(&ProvenanceRecord::beside(&self.path))),
        }
    }

    /// The files that hold the weights.
    pub fn files(&self) -> &[PathBuf] {
        &self.parts.files
    }

    /// What tells this model from others, wherever its files are: a sha256, in hexadecimal digits,
    /// of the sha256 of each weight file and of the specification.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn fingerprint(&self) -> Result<String, CheckpointError> {
        let mut lines = vec![self.spec().to_config().to_string()];
        for file in self.files() {
            lines.push(self.digest(file)?);
        }
        Ok(sha256(lines.join("\n").as_bytes()))
    }

    /// The sha256 of a file of this model, in hexadecimal digits.
    fn digest(&self, file: &Path) -> Result<String, CheckpointError> {
        // A thread that panicked while it held the lock left no half of an entry.
        let mut digests = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = digests.get(file) {
            return Ok(known.clone());
        }
        let digest = file_sha256(file)
            .map_err(|error| CheckpointError::Io { path: file.to_owned(), error })?;
        digests.insert(file.to_owned(), digest.clone());
        Ok(digest)
    }

    /// Which format the files have.
    pub fn format(&self) -> Format {
        self.parts.format
    }

    /// All tensors, by name.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.parts.tensors.iter()
    }

    /// The names of tensors that the files hold beside the model, in order: heads for other tasks, towers for
    /// other modalities.
    pub fn left_out(&self) -> &[String] {
        &self.parts.left_out
    }

    /// One tensor.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let tensors = &self.parts.tensors;
        let found = tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name)).ok()?;
        tensors.get(found)
    }

    /// Where the tokenizer is: inside a GGUF file, otherwise in a `tokenizer.json` beside the
    /// weights.
    pub fn tokenizer(&self) -> TokenizerSource {
        self.parts.tokenizer.clone()
    }

    /// Compares the tensors there are with those the model needs. A copy of a tied head and saved
    /// rotary frequencies (`*.rotary_emb.inv_freq`) are harmless and not counted.
    pub fn audit(&self) -> TensorAudit {
        TensorAudit::new(self.spec(), self.is_plain(), self.tensors())
    }
}

fn begins_like_gguf(path: &Path) -> Result<bool, CheckpointError> {
    let mut magic = Vec::new();
    open_regular(path)
        .and_then(|file| file.take(4).read_to_end(&mut magic))
        .map_err(|error| CheckpointError::of_reading(path, error))?;
    Ok(magic == gguf::MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_may_be_shared_between_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Checkpoint>();
    }
}
