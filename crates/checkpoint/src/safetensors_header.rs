//! The header of a safetensors file: 8 bytes of length (little endian), that much JSON
//! (`{"name": {"dtype", "shape", "data_offsets"}, "__metadata__": {…}}`), then the data, which the
//! tensors must cover without gap or overlap
//! (<https://github.com/huggingface/safetensors#format>).
//!
//! Types and entries are parsed by the `safetensors` crate. The layout is checked here, because
//! that crate's own check adds the data's end and the header's length unchecked, so that a hostile
//! header panics a debug build, and because its errors do not all name the tensor.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use safetensors::Dtype;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use crate::{CheckpointError, StorageType, TensorInfo};

/// The format's own limit.
const MAX_HEADER: u64 = 100_000_000;

/// The entries of a JSON object that has no duplicate keys; `__metadata__` is passed over.
pub(crate) struct UniqueEntries<T>(pub(crate) BTreeMap<String, T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for UniqueEntries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = BTreeMap<String, T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with an entry for each tensor")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    let entry = map
                        .next_value()
                        .map_err(|error| A::Error::custom(format!("tensor {name:?}: {error}")))?;
                    if entries.contains_key(&name) {
                        return Err(A::Error::custom(format!("tensor {name:?} is there twice")));
                    }
                    entries.insert(name, entry);
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_map(Entries(PhantomData)).map(Self)
    }
}

/// Reads the header of `bytes`, the whole of the file at `path`, which is number `file`.
pub(crate) fn read_header(
    path: &Path,
    bytes: &[u8],
    file: usize,
) -> Result<Vec<TensorInfo>, CheckpointError> {
    let size = bytes.len() as u64;
    let Some((length, rest)) = bytes.split_first_chunk() else {
        return Err(CheckpointError::NoHeader { path: path.to_owned(), size });
    };
    let header = u64::from_le_bytes(*length);
    if header > rest.len() as u64 {
        return Err(CheckpointError::HeaderLength { path: path.to_owned(), header, size });
    }
    if header > MAX_HEADER {
        let limit = MAX_HEADER;
        return Err(CheckpointError::HeaderTooLarge { path: path.to_owned(), header, limit });
    }
    // The length is at most `rest.len()`, so it fits a usize.
    let (json, data) = rest.split_at(header as usize);
    let entries: UniqueEntries<safetensors::tensor::TensorInfo> = serde_json::from_slice(json)
        .map_err(|error| CheckpointError::Header {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
    let mut entries: Vec<_> = entries.0.into_iter().collect();
    entries.sort_by_key(|(_, entry)| entry.data_offsets);

    let start = bytes.len() - data.len();
    let mut end_of_last = 0;
    let mut tensors = Vec::with_capacity(entries.len());
    for (name, entry) in entries {
        let (begin, end) = entry.data_offsets;
        if begin != end_of_last || end < begin {
            let (tensor, expected) = (name, end_of_last);
            let path = path.to_owned();
            return Err(CheckpointError::Offsets { path, tensor, begin, end, expected });
        }
        end_of_last = end;
        let dtype = storage_type(entry.dtype);
        let Some(expected) = size_in_bytes(&entry.shape, entry.dtype.bitsize()) else {
            let shape = entry.shape.iter().map(|n| *n as u64).collect();
            return Err(CheckpointError::ShapeOverflow {
                path: path.to_owned(),
                tensor: name,
                shape,
            });
        };
        if end - begin != expected {
            return Err(CheckpointError::TensorSize {
                path: path.to_owned(),
                tensor: name,
                dtype,
                shape: entry.shape,
                expected,
                found: end - begin,
            });
        }
        tensors.push(TensorInfo {
            name,
            dtype,
            shape: entry.shape,
            file,
            // Saturated only if the check below fails.
            range: start.saturating_add(begin)..start.saturating_add(end),
            interleaved_heads_of: None,
            scales: None,
            transposed: false,
            of_heads: None,
        });
    }
    if end_of_last != data.len() {
        let expected = (start as u64).saturating_add(end_of_last as u64);
        return Err(CheckpointError::DataLength { path: path.to_owned(), expected, found: size });
    }
    Ok(tensors)
}

fn size_in_bytes(shape: &[usize], bits: usize) -> Option<usize> {
    let elements = shape.iter().try_fold(1usize, |product, n| product.checked_mul(*n))?;
    elements.checked_mul(bits).map(|bits| bits.div_ceil(8))
}

fn storage_type(dtype: Dtype) -> StorageType {
    match dtype {
        Dtype::F64 => StorageType::F64,
        Dtype::F32 => StorageType::F32,
        Dtype::F16 => StorageType::F16,
        Dtype::BF16 => StorageType::BF16,
        Dtype::BOOL => StorageType::Other("BOOL"),
        Dtype::F4 => StorageType::Other("F4"),
        Dtype::F6_E2M3 => StorageType::Other("F6_E2M3"),
        Dtype::F6_E3M2 => StorageType::Other("F6_E3M2"),
        Dtype::F8_E5M2 => StorageType::Other("F8_E5M2"),
        Dtype::F8_E4M3 => StorageType::Other("F8_E4M3"),
        Dtype::F8_E8M0 => StorageType::Other("F8_E8M0"),
        Dtype::F8_E4M3FNUZ => StorageType::Other("F8_E4M3FNUZ"),
        Dtype::F8_E5M2FNUZ => StorageType::Other("F8_E5M2FNUZ"),
        Dtype::U8 => StorageType::Other("U8"),
        Dtype::I8 => StorageType::Other("I8"),
        Dtype::U16 => StorageType::Other("U16"),
        Dtype::I16 => StorageType::Other("I16"),
        Dtype::U32 => StorageType::Other("U32"),
        Dtype::I32 => StorageType::Other("I32"),
        Dtype::U64 => StorageType::Other("U64"),
        Dtype::I64 => StorageType::Other("I64"),
        Dtype::C64 => StorageType::Other("C64"),
        _ => StorageType::Other("a type unknown here"),
    }
}
