//! GGUF files: a header, key-value metadata, a list of tensors, then their data
//! (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>). Versions 2 and 3, little endian.

mod config;
pub(crate) mod dequantise;
mod latent;
mod metadata;
mod plan;
mod quantise;
mod rope;
mod tensors;
mod tokenizer;
mod write;

use std::collections::HashSet;
use std::path::Path;

use lns_record::ProvenanceRecord;
use lns_spec::{Family, Gguf, ModelSpec, Role, StoredTensor};

use crate::map::FileMap;
use crate::opened::{Format, Parts, TokenizerSource, folder_of, tokenizer_in};
use crate::{CheckpointError, TensorInfo};
use metadata::{Metadata, Reader};
pub use plan::{GgufTensor, gguf_tensors};
pub(crate) use quantise::encode;
pub use write::{GgufOptions, write_gguf};

/// First bytes of every GGUF file.
pub(crate) const MAGIC: &[u8; 4] = b"GGUF";

/// The key of the record of where a model that this program wrote came from.
const PROVENANCE: &str = "lns.provenance";

/// Bytes of the smallest metadata entry: the key's length, the type and a value of one byte.
const LEAST_ENTRY: u64 = 8 + 4 + 1;
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_ALIGNMENT: u64 = 1 << 16;

/// Opens a GGUF file.
pub(crate) fn open(path: &Path) -> Result<Parts, CheckpointError> {
    let map = FileMap::open(path)?;
    let Head { spec, tensors, metadata } = read_head(path, map.bytes(), map.bytes().len())?;
    let tokenizer = match tokenizer::read(&metadata)? {
        Some(tokenizer) => TokenizerSource::Gguf(Box::new(tokenizer)),
        None => tokenizer_in(folder_of(path)),
    };
    // A record that cannot be read is as good as none.
    let provenance = metadata.text(PROVENANCE).ok().flatten().and_then(ProvenanceRecord::from_json);
    Ok(Parts {
        format: Format::Gguf,
        spec,
        files: vec![path.to_owned()],
        maps: vec![map],
        tensors,
        left_out: Vec::new(),
        tokenizer,
        provenance,
    })
}

/// What a file says whose model is not read.
pub(crate) struct Survey<'a> {
    pub(crate) architecture: &'a str,
    /// The names of its tensors, none if their list cannot be read.
    pub(crate) names: Vec<String>,
    metadata: Metadata<'a>,
}

/// Reads metadata and the names of tensors.
pub(crate) fn survey<'a>(path: &'a Path, bytes: &'a [u8]) -> Result<Survey<'a>, CheckpointError> {
    let mut reader = Reader::new(path, bytes);
    read_magic_and_version(&mut reader)?;
    let tensor_count = reader.count(tensors::LEAST_BYTES)?;
    let entry_count = reader.count(LEAST_ENTRY)?;
    let metadata = Metadata::read(&mut reader, entry_count)?;
    let alignment = alignment(&metadata).unwrap_or(DEFAULT_ALIGNMENT);
    let entries = tensors::read_entries(&mut reader, tensor_count, alignment).unwrap_or_default();
    Ok(Survey {
        architecture: metadata.text("general.architecture")?.unwrap_or_default(),
        names: entries.into_iter().map(|(tensor, _)| tensor.name).collect(),
        metadata,
    })
}

impl Survey<'_> {
    /// Why keys are refused in a file that is read as one of `gguf`.
    pub(crate) fn refusals(&self, family: Family, gguf: Gguf) -> Vec<CheckpointError> {
        config::refusals(&self.metadata, self.architecture, family, gguf).collect()
    }

    /// Keys that reading the file as one of `gguf` passes over.
    pub(crate) fn unread_keys(&self, gguf: Gguf) -> Vec<String> {
        config::unread(&self.metadata, self.architecture, gguf)
    }

    /// The family whose architecture it is.
    pub(crate) fn family(&self) -> Option<(Family, Gguf)> {
        config::family(&self.metadata, self.architecture).ok()
    }
}

/// What a file says before its data.
struct Head<'a> {
    spec: ModelSpec,
    tensors: Vec<TensorInfo>,
    metadata: Metadata<'a>,
}

/// Reads what a file of `size` bytes begins with; `bytes` are all of it, or those before its data.
fn read_head<'a>(
    path: &'a Path,
    bytes: &'a [u8],
    size: usize,
) -> Result<Head<'a>, CheckpointError> {
    let mut reader = Reader::new(path, bytes);
    read_magic_and_version(&mut reader)?;
    let tensor_count = reader.count(tensors::LEAST_BYTES)?;
    let entry_count = reader.count(LEAST_ENTRY)?;
    let metadata = Metadata::read(&mut reader, entry_count)?;
    if let Some(parts) = metadata.whole("split.count")?.filter(|parts| *parts > 1) {
        return Err(CheckpointError::GgufSplit { path: path.to_owned(), parts });
    }
    let architecture = config::architecture(&metadata)?;
    let alignment = alignment(&metadata)?;
    let entries = tensors::read_entries(&mut reader, tensor_count, alignment)?;
    let data = (reader.offset() as u64).next_multiple_of(alignment);
    let mut tensors = tensors::place(path, entries, data, size)?;

    let rope_tables = rope::take_tables(&mut tensors);
    let (family, gguf) = config::family(&metadata, architecture)?;
    for tensor in &mut tensors {
        if let Some(name) = family.hugging_face_name(&tensor.name) {
            tensor.name = name;
        }
    }
    let mut spec = config::read_spec(&metadata, family, gguf, &tensors)?;
    spec.rope.scaling = rope::scaling_of_tables(&metadata, gguf, bytes, &spec, &rope_tables)?;
    latent::lay_out(&spec, &mut tensors);
    if gguf.interleaved_rotary {
        let expected = spec.stored_tensors();
        let turned: HashSet<&str> = expected
            .iter()
            .filter(|tensor| is_query_or_key(tensor))
            .map(|tensor| tensor.name.as_str())
            .collect();
        for tensor in tensors.iter_mut().filter(|tensor| turned.contains(tensor.name.as_str())) {
            tensor.interleaved_heads_of = Some(spec.head_dim);
        }
    }
    Ok(Head { spec, tensors, metadata })
}

fn read_magic_and_version(reader: &mut Reader<'_>) -> Result<(), CheckpointError> {
    let path = reader.path;
    if reader.array::<4>()? != *MAGIC {
        return Err(CheckpointError::NotGguf { path: path.to_owned() });
    }
    match reader.u32()? {
        2 | 3 => Ok(()),
        version if (1..=3).contains(&version.swap_bytes()) => {
            Err(CheckpointError::GgufBigEndian { path: path.to_owned() })
        }
        version => Err(CheckpointError::GgufVersion { path: path.to_owned(), version }),
    }
}

fn alignment(metadata: &Metadata<'_>) -> Result<u64, CheckpointError> {
    let key = "general.alignment";
    match metadata.whole(key)? {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(alignment) if alignment.is_power_of_two() && alignment <= MAX_ALIGNMENT => {
            Ok(alignment)
        }
        Some(_) => Err(metadata.wrong(key, "a power of two, at most 65536")),
    }
}

fn is_query_or_key(tensor: &StoredTensor) -> bool {
    tensor.parts.iter().any(|part| matches!(part.id.role, Role::Query | Role::Key))
}
