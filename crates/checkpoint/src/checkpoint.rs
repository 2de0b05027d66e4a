//! The opened checkpoint: one face for both file formats.

use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use lns_record::{FileRecord, ProvenanceRecord, file_sha256, open_regular, sha256};
use lns_spec::{ModelSpec, ModelTensor};
use serde_json::Value;

use crate::decode::decode;
use crate::map::FileMap;
use crate::safetensors_folder::folder_of;
use crate::{CheckpointError, GgufTokenizer, TensorAudit, TensorInfo, gguf, safetensors_folder};

/// Bytes of one tensor that are read before their pages are handed back.
const RELEASE_EVERY: usize = 8 << 20;

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

/// An opened checkpoint. Opening parses headers only. Tensor names are Hugging Face's and shapes
/// `[out, in]`, whatever the file format.
///
/// The weight files stay memory-mapped. Another process that truncates one of them meanwhile kills
/// this process, and one that overwrites it gives mixed values; a file that is replaced (written
/// beside and renamed) does neither.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    parts: Parts,
}

/// What a format's reader makes of its files.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) format: Format,
    pub(crate) spec: ModelSpec,
    /// One for each of `files`.
    pub(crate) maps: Vec<FileMap>,
    pub(crate) files: Vec<PathBuf>,
    pub(crate) tensors: Vec<TensorInfo>,
    pub(crate) tokenizer: TokenizerSource,
    /// Of a GGUF file the record that it holds.
    pub(crate) provenance: Option<ProvenanceRecord>,
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
        Ok(Self { path: path.to_owned(), parts })
    }

    /// What the model is.
    pub fn spec(&self) -> &ModelSpec {
        &self.parts.spec
    }

    /// The path it was opened at.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder that it is in: of a model folder the folder itself.
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
                sha256: file_sha256(path).map_err(io)?,
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

    /// What tells this model from others: the sha256 of those of its weight files and of what it is,
    /// in hexadecimal digits. The same wherever the files are.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn fingerprint(&self) -> Result<String, CheckpointError> {
        let mut lines = vec![self.spec().to_config().to_string()];
        for file in self.files() {
            lines.push(
                file_sha256(file)
                    .map_err(|error| CheckpointError::Io { path: file.clone(), error })?,
            );
        }
        Ok(sha256(lines.join("\n").as_bytes()))
    }

    /// Which format the files have.
    pub fn format(&self) -> Format {
        self.parts.format
    }

    /// All tensors, by name.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.parts.tensors.iter()
    }

    /// One tensor.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let tensors = &self.parts.tensors;
        let found = tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name)).ok()?;
        tensors.get(found)
    }

    /// The tokenizer: of a GGUF file the one inside, otherwise `tokenizer.json` beside the weights.
    pub fn tokenizer(&self) -> TokenizerSource {
        self.parts.tokenizer.clone()
    }

    /// Compares the tensors there are with those the model needs. A copy of a tied head and saved
    /// rotary frequencies (`*.rotary_emb.inv_freq`) are harmless and not counted.
    pub fn audit(&self) -> TensorAudit {
        TensorAudit::new(self.spec(), self.tensors())
    }

    /// All elements of one of the model's tensors as f32, row by row.
    ///
    /// # Errors
    /// As [`Checkpoint::read_f32`].
    pub fn read(&self, wanted: &ModelTensor) -> Result<Vec<f32>, CheckpointError> {
        let Some(rows) = &wanted.rows else { return self.read_f32(&wanted.name, &wanted.shape) };
        let mut shape = wanted.shape.clone();
        // As many rows as the file has, as long as those that are wanted are among them.
        if let Some(stored) = self.tensor(&wanted.name)
            && stored.shape.first().is_some_and(|count| rows.end <= *count)
        {
            shape[0] = stored.shape[0];
        }
        let stored = self.expect(&wanted.name, &shape)?;
        match shape.len() {
            1 => Ok(self.read_vector(stored)?[rows.clone()].to_vec()),
            _ => self.read_rows(stored, &Rows::of(stored), rows.clone()),
        }
    }

    /// All elements of a tensor as f32, row by row; `shape` is the one that the model needs.
    ///
    /// May be called from several threads. Of a GGUF file, query and key rows are brought into
    /// Hugging Face's (rotate-half) order.
    ///
    /// # Errors
    /// A missing tensor, another shape, a type that is not read, or no memory.
    pub fn read_f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        let tensor = self.expect(name, shape)?;
        if shape.len() < 2 {
            return self.read_vector(tensor);
        }
        let rows = Rows::of(tensor);
        self.read_rows(tensor, &rows, 0..rows.count)
    }

    /// The elements of a tensor in order, about `chunk` at a time.
    pub(crate) fn read_in_chunks(
        &self,
        name: &str,
        shape: &[usize],
        chunk: usize,
        take: &mut dyn FnMut(&[f32]) -> Result<(), CheckpointError>,
    ) -> Result<(), CheckpointError> {
        let tensor = self.expect(name, shape)?;
        if shape.len() < 2 {
            return take(&self.read_vector(tensor)?);
        }
        let rows = Rows::of(tensor);
        let at_once = (chunk / rows.length.max(1)).max(1);
        for first in (0..rows.count).step_by(at_once) {
            take(&self.read_rows(tensor, &rows, first..rows.count.min(first + at_once))?)?;
        }
        Ok(())
    }

    /// The given rows of a matrix, in the given order, one after the other.
    ///
    /// # Errors
    /// As [`Checkpoint::read_f32`], and a row beyond the last.
    pub fn read_rows_f32(
        &self,
        name: &str,
        shape: &[usize],
        rows: &[u32],
    ) -> Result<Vec<f32>, CheckpointError> {
        let tensor = self.expect(name, shape)?;
        let [count, _] = *shape else {
            let (path, tensor) = (self.file_of(tensor).to_owned(), name.to_owned());
            return Err(CheckpointError::NotAMatrix { path, tensor, shape: shape.to_vec() });
        };
        if let Some(row) = rows.iter().find(|row| **row as usize >= count) {
            return Err(CheckpointError::RowOutOfRange {
                path: self.file_of(tensor).to_owned(),
                tensor: name.to_owned(),
                row: *row,
                rows: count,
            });
        }
        self.read_rows(tensor, &Rows::of(tensor), rows.iter().map(|row| *row as usize))
    }

    fn file_of(&self, tensor: &TensorInfo) -> &Path {
        &self.parts.files[tensor.file]
    }

    /// The tensor of that name, if it has that shape, a type that is read, and whole heads.
    fn expect(&self, name: &str, shape: &[usize]) -> Result<&TensorInfo, CheckpointError> {
        let Some(tensor) = self.tensor(name) else {
            let (path, tensor) = (self.path.clone(), name.to_owned());
            return Err(CheckpointError::MissingTensor { path, tensor });
        };
        let path = self.file_of(tensor);
        if tensor.shape != shape {
            return Err(CheckpointError::WrongShape {
                path: path.to_owned(),
                tensor: name.to_owned(),
                expected: shape.to_vec(),
                found: tensor.shape.clone(),
            });
        }
        if tensor.dtype.block().is_none() {
            let (path, tensor, dtype) = (path.to_owned(), name.to_owned(), tensor.dtype);
            return Err(CheckpointError::WrongType { path, tensor, dtype });
        }
        let rows = tensor.shape.first().copied().unwrap_or(1);
        if let Some(head_dim) = tensor.interleaved_heads_of
            && !rows.is_multiple_of(head_dim)
        {
            let (path, tensor) = (path.to_owned(), name.to_owned());
            return Err(CheckpointError::NotWholeHeads { path, tensor, rows, head_dim });
        }
        Ok(tensor)
    }

    fn read_rows(
        &self,
        tensor: &TensorInfo,
        rows: &Rows,
        wanted: impl ExactSizeIterator<Item = usize>,
    ) -> Result<Vec<f32>, CheckpointError> {
        let map = &self.parts.maps[tensor.file];
        let stored = &map.bytes()[tensor.range.clone()];
        let elements = wanted.len().saturating_mul(rows.length);
        let mut out = self.allocate(tensor, elements)?;
        let mut resident = 0;
        for row in wanted {
            let row = rows.stored_at(row);
            let start = out.len();
            // Zeroing one row keeps it in the nearest cache for the conversion to overwrite.
            out.resize(start + rows.length, 0.0);
            decode(tensor.dtype, &stored[row * rows.bytes..][..rows.bytes], &mut out[start..]);
            resident += rows.bytes;
            if resident >= RELEASE_EVERY {
                map.release(tensor.range.clone());
                resident = 0;
            }
        }
        map.release(tensor.range.clone());
        Ok(out)
    }

    /// A scalar or vector, whose elements are its rows where heads are interleaved (biases).
    fn read_vector(&self, tensor: &TensorInfo) -> Result<Vec<f32>, CheckpointError> {
        let map = &self.parts.maps[tensor.file];
        let elements = tensor.elements();
        let mut out = self.allocate(tensor, elements)?;
        out.resize(elements, 0.0);
        decode(tensor.dtype, &map.bytes()[tensor.range.clone()], &mut out);
        map.release(tensor.range.clone());
        if let Some(head_dim) = tensor.interleaved_heads_of {
            out = (0..elements).map(|row| out[interleaved(row, head_dim)]).collect();
        }
        Ok(out)
    }

    fn allocate(&self, tensor: &TensorInfo, elements: usize) -> Result<Vec<f32>, CheckpointError> {
        let mut out = Vec::new();
        out.try_reserve_exact(elements).map_err(|_| CheckpointError::OutOfMemory {
            path: self.file_of(tensor).to_owned(),
            tensor: tensor.name.clone(),
            bytes: elements.saturating_mul(size_of::<f32>()),
        })?;
        Ok(out)
    }
}

/// How a tensor of two or more dimensions is cut into rows (its last dimension).
struct Rows {
    count: usize,
    /// Elements of a row.
    length: usize,
    /// Bytes of a row.
    bytes: usize,
    interleaved_heads_of: Option<usize>,
}

impl Rows {
    fn of(tensor: &TensorInfo) -> Self {
        let length = tensor.shape.last().copied().unwrap_or(1);
        let count = tensor.elements().checked_div(length).unwrap_or(0);
        let bytes = tensor.bytes().checked_div(count).unwrap_or(0);
        Self { count, length, bytes, interleaved_heads_of: tensor.interleaved_heads_of }
    }

    /// Where the file has a row.
    fn stored_at(&self, row: usize) -> usize {
        self.interleaved_heads_of.map_or(row, |head_dim| interleaved(row, head_dim))
    }
}

/// Where llama.cpp puts a row of q or k: it rotates neighbouring rows, Hugging Face rotates row j
/// of a head with row j + head_dim/2, so rows j and j + head_dim/2 become 2j and 2j + 1.
pub(crate) fn interleaved(row: usize, head_dim: usize) -> usize {
    let (head, feature, half) = (row / head_dim, row % head_dim, head_dim / 2);
    head * head_dim + feature % half * 2 + feature / half
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

    #[test]
    fn interleaving_pairs_the_halves_of_each_head() {
        // Two heads of 4: the file has rows 0 2 1 3 of each.
        let rows: Vec<_> = (0..8).map(|row| interleaved(row, 4)).collect();
        assert_eq!(rows, [0, 2, 1, 3, 4, 6, 5, 7]);
        let rows: Vec<_> = (0..6).map(|row| interleaved(row, 6)).collect();
        assert_eq!(rows, [0, 2, 4, 1, 3, 5]);
    }
}
