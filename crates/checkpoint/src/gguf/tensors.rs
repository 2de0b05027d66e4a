//! The tensor list of a GGUF file, its checks, and the way back to Hugging Face's names.

use std::path::Path;

use super::metadata::Reader;
use crate::{CheckpointError, StorageType, TensorInfo};

const MAX_DIMENSIONS: usize = 4;
/// Bytes of the smallest entry: the name's length, the number of dimensions, the type and the
/// offset.
pub(super) const LEAST_BYTES: u64 = 8 + 4 + 4 + 8;

/// Types that exist but are not read, so that the message can name them.
const NOT_READ: [(u32, &str); 17] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (40, "NVFP4"),
    (41, "Q1_0"),
];

/// Reads `count` entries. Ranges are relative to the data section until [`place`] moves them;
/// names are still GGUF's.
pub(super) fn read_entries(
    reader: &mut Reader<'_>,
    count: u64,
    alignment: u64,
) -> Result<Vec<(TensorInfo, u64)>, CheckpointError> {
    (0..count)
        .map(|number| {
            reader.reading = format!("entry {number} of the tensor list");
            read_entry(reader, alignment)
        })
        .collect()
}

fn read_entry(
    reader: &mut Reader<'_>,
    alignment: u64,
) -> Result<(TensorInfo, u64), CheckpointError> {
    let name = reader.name()?.to_owned();
    let path = reader.path;
    let count = reader.u32()?;
    if count as usize > MAX_DIMENSIONS {
        let (path, limit) = (path.to_owned(), MAX_DIMENSIONS);
        return Err(CheckpointError::GgufDimensions { path, tensor: name, count, limit });
    }
    let mut dimensions = Vec::with_capacity(MAX_DIMENSIONS);
    for _ in 0..count {
        dimensions.push(reader.u64()?);
    }
    // GGUF has the innermost dimension first.
    dimensions.reverse();
    let number = reader.u32()?;
    let Some(dtype) = StorageType::GGML.into_iter().find(|dtype| dtype.ggml() == Some(number))
    else {
        return Err(unknown_type(path, name, number));
    };
    let offset = reader.u64()?;
    let Some((shape, bytes)) = size(&dimensions, dtype) else {
        let path = path.to_owned();
        return Err(CheckpointError::ShapeOverflow { path, tensor: name, shape: dimensions });
    };
    let (block, _) = dtype.block().unwrap_or((1, 1));
    let row = shape.last().copied().unwrap_or(1);
    if !row.is_multiple_of(block) {
        let path = path.to_owned();
        return Err(CheckpointError::GgufRow { path, tensor: name, row, dtype, block });
    }
    if !offset.is_multiple_of(alignment) {
        let path = path.to_owned();
        return Err(CheckpointError::GgufMisaligned { path, tensor: name, offset, alignment });
    }
    let tensor = TensorInfo {
        name,
        dtype,
        shape,
        file: 0,
        range: 0..bytes,
        interleaved_heads_of: None,
        scales: None,
        transposed: false,
        of_heads: None,
    };
    Ok((tensor, offset))
}

fn unknown_type(path: &Path, tensor: String, number: u32) -> CheckpointError {
    let name = NOT_READ.into_iter().find(|(known, _)| *known == number);
    CheckpointError::GgufTensorType {
        path: path.to_owned(),
        tensor,
        number,
        name: name.map_or_else(String::new, |(_, name)| format!(" ({name})")),
        supported: StorageType::GGML.map(StorageType::name).join(", "),
    }
}

/// Shape and size in bytes; `None` where one of them overflows.
fn size(dimensions: &[u64], dtype: StorageType) -> Option<(Vec<usize>, usize)> {
    let shape = dimensions.iter().map(|n| usize::try_from(*n).ok()).collect::<Option<Vec<_>>>()?;
    let elements = shape.iter().try_fold(1usize, |product, n| product.checked_mul(*n))?;
    let (block, bytes) = dtype.block()?;
    Some((shape, elements.div_ceil(block).checked_mul(bytes)?))
}

/// Moves the ranges to where the data are, after checking that they are in the file and apart.
pub(super) fn place(
    path: &Path,
    entries: Vec<(TensorInfo, u64)>,
    data: u64,
    size: usize,
) -> Result<Vec<TensorInfo>, CheckpointError> {
    let mut tensors = Vec::with_capacity(entries.len());
    for (mut tensor, offset) in entries {
        let start = u128::from(data) + u128::from(offset);
        let end = start + tensor.range.len() as u128;
        if end > size as u128 {
            let (path, tensor) = (path.to_owned(), tensor.name);
            return Err(CheckpointError::GgufRange { path, tensor, end, size });
        }
        // Both ends lie within the file, so they fit a usize.
        tensor.range = start as usize..end as usize;
        tensors.push(tensor);
    }
    tensors.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));
    if let Some(pair) = tensors.windows(2).find(|pair| pair[0].range.end > pair[1].range.start) {
        return Err(CheckpointError::GgufOverlap {
            path: path.to_owned(),
            first: pair[0].name.clone(),
            second: pair[1].name.clone(),
        });
    }
    Ok(tensors)
}
