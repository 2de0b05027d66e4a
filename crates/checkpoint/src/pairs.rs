//! Quantised safetensors: weights that are stored as two tensors, their numbers and the scales of these,
//! appear as one.
//!
//! | in the file | appears as |
//! |---|---|
//! | `X` (F8_E4M3) and `X_scale_inv`, e.g. of `q_proj.weight` | `X`, F8_E4M3 |
//! | `X_blocks` (U8, \[experts, out, in/32, 16\]) and `X_scales` (U8, \[experts, out, in/32\]) | `X`, MXFP4, \[experts, in, out\] |
//!
//! The first is DeepSeek V3's and others', the second gpt_oss's, whose unquantised weights are
//! `[experts, in, out]`. Pairs are known by their names and types; `quantization_config` says how large the
//! blocks of FP8 are.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::scales::{ScaleType, Scales};
use crate::{CheckpointError, StorageType, TensorInfo};

/// Rows and columns of FP8 weights that have one scale in common where `quantization_config` does not say.
const USUAL_BLOCK: [usize; 2] = [128, 128];

/// Numbers of MXFP4 that have one scale in common, and the bytes that they take.
const MXFP4_BLOCK: (usize, usize) = (32, 16);

/// What `quantization_config` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quantisation {
    /// Rows and columns of a block of FP8 weights; `None` is the whole matrix.
    fp8_block: Option<[usize; 2]>,
}

impl Quantisation {
    /// How a model without `quantization_config` stores its scales.
    pub(crate) const NONE: Self = Self { fp8_block: Some(USUAL_BLOCK) };

    /// Takes `quantization_config` out of the `config.json` at `path`: it says how the files are stored and
    /// nothing of the model.
    ///
    /// # Errors
    /// [`CheckpointError::Quantisation`] for what is not read.
    pub(crate) fn take(path: &Path, config: &mut Value) -> Result<Self, CheckpointError> {
        let given = config.as_object_mut().and_then(|keys| keys.remove("quantization_config"));
        let Some(given) = given.filter(|value| !value.is_null()) else { return Ok(Self::NONE) };
        let text = |key: &str| match given.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(value) => Err((key.to_owned(), value.to_string())),
        };
        let read = || match text("quant_method")? {
            Some("mxfp4") => Ok(Self::NONE),
            Some("fp8") => {
                for (key, read) in [("fmt", "e4m3"), ("expert_dtype", "fp8")] {
                    if let Some(other) = text(key)?.filter(|found| *found != read) {
                        return Err((key.to_owned(), format!("{other:?}")));
                    }
                }
                let key = "weight_block_size";
                let fp8_block = match given.get(key) {
                    None => Some(USUAL_BLOCK),
                    Some(Value::Null) => None,
                    Some(value) => {
                        Some(block_size(value).ok_or_else(|| (key.to_owned(), value.to_string()))?)
                    }
                };
                Ok(Self { fp8_block })
            }
            other => Err(("quant_method".to_owned(), format!("{:?}", other.unwrap_or_default()))),
        };
        read().map_err(|(key, value)| CheckpointError::Quantisation {
            path: path.to_owned(),
            key,
            value: value.chars().take(80).collect(),
        })
    }
}

fn block_size(value: &Value) -> Option<[usize; 2]> {
    let sizes = value.as_array()?.iter().map(|size| usize::try_from(size.as_u64()?).ok());
    let sizes = sizes.collect::<Option<Vec<_>>>()?;
    <[usize; 2]>::try_from(sizes).ok().filter(|sizes| !sizes.contains(&0))
}

/// Makes one tensor of each pair.
///
/// # Errors
/// Half a pair; scales of another type, or of another number than the blocks.
pub(crate) fn join(
    tensors: Vec<TensorInfo>,
    files: &[PathBuf],
    quantisation: Quantisation,
) -> Result<Vec<TensorInfo>, CheckpointError> {
    let (scales, tensors): (Vec<_>, Vec<_>) = tensors.into_iter().partition(is_scales);
    let mut scales: HashMap<String, TensorInfo> =
        scales.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
    let mut joined = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        joined.push(if let Some(stem) = blocks_of(&tensor) {
            let name = format!("{stem}_scales");
            let Some(found) = scales.remove(&name) else {
                return Err(half(&files[tensor.file], &tensor.name, name));
            };
            mxfp4(files, stem.to_owned(), tensor, &found)?
        } else if let Some(found) = scales.remove(&format!("{}_scale_inv", tensor.name)) {
            fp8(files, tensor, &found, quantisation)?
        } else {
            tensor
        });
    }
    if let Some(left) = scales.into_values().min_by(|a, b| a.name.cmp(&b.name)) {
        let missing = match left.name.strip_suffix("_scales") {
            Some(stem) => format!("{stem}_blocks"),
            None => left.name.trim_end_matches("_scale_inv").to_owned(),
        };
        return Err(half(&files[left.file], &left.name, missing));
    }
    // They scale what an FP8 matrix is multiplied with, where that is FP8 too: here it is f32.
    let of_activations: HashSet<String> = joined
        .iter()
        .filter(|tensor| tensor.dtype == StorageType::F8E4M3)
        .filter_map(|tensor| {
            Some(format!("{}activation_scale", tensor.name.strip_suffix("weight")?))
        })
        .collect();
    joined.retain(|tensor| !of_activations.contains(&tensor.name));
    Ok(joined)
}

fn is_scales(tensor: &TensorInfo) -> bool {
    tensor.name.ends_with("_scale_inv")
        || (tensor.name.ends_with("_scales") && tensor.dtype == StorageType::Other("U8"))
}

/// The name that the blocks are stored under without `_blocks`, if they are blocks.
fn blocks_of(tensor: &TensorInfo) -> Option<&str> {
    let stem = tensor.name.strip_suffix("_blocks")?;
    (tensor.dtype == StorageType::Other("U8")).then_some(stem)
}

fn half(path: &Path, tensor: &str, missing: String) -> CheckpointError {
    CheckpointError::HalfPair { path: path.to_owned(), tensor: tensor.to_owned(), missing }
}

fn mxfp4(
    files: &[PathBuf],
    name: String,
    blocks: TensorInfo,
    scales: &TensorInfo,
) -> Result<TensorInfo, CheckpointError> {
    let (elements, bytes) = MXFP4_BLOCK;
    let shape = match *blocks.shape {
        [experts, out, groups, last] if last == bytes => {
            countable(groups.checked_mul(elements).map(|inputs| vec![experts, inputs, out]))
        }
        _ => None,
    };
    let Some(shape) = shape else {
        return Err(CheckpointError::NotBlocks {
            path: files[blocks.file].clone(),
            tensor: blocks.name,
            shape: blocks.shape,
        });
    };
    let block = [1, elements];
    let scales = checked(files, scales, block, &blocks.shape[..3])?;
    let (dtype, scales) = (StorageType::MXFP4, Some(scales));
    Ok(TensorInfo { name, dtype, shape, scales, transposed: true, ..blocks })
}

fn fp8(
    files: &[PathBuf],
    weight: TensorInfo,
    scales: &TensorInfo,
    quantisation: Quantisation,
) -> Result<TensorInfo, CheckpointError> {
    let (true, [stack @ .., rows, columns]) =
        (weight.dtype == StorageType::Other("F8_E4M3"), &weight.shape[..])
    else {
        return Err(CheckpointError::NotScaled {
            path: files[scales.file].clone(),
            tensor: scales.name.clone(),
            dtype: weight.dtype,
            shape: weight.shape,
        });
    };
    let block = quantisation.fp8_block.unwrap_or([*rows, *columns]).map(|size| size.max(1));
    let mut grid = stack.to_vec();
    grid.extend([rows.div_ceil(block[0]), columns.div_ceil(block[1])]);
    let scales = checked(files, scales, block, &grid)?;
    Ok(TensorInfo { dtype: StorageType::F8E4M3, scales: Some(scales), ..weight })
}

/// The scales, if they are one for each block: `grid` is how many there are along each dimension.
fn checked(
    files: &[PathBuf],
    scales: &TensorInfo,
    block: [usize; 2],
    grid: &[usize],
) -> Result<Scales, CheckpointError> {
    let path = files[scales.file].clone();
    let Some(dtype) = ScaleType::of(scales.dtype) else {
        let (tensor, dtype) = (scales.name.clone(), scales.dtype);
        return Err(CheckpointError::ScaleType { path, tensor, dtype });
    };
    // The one scale of a whole matrix may be a number without dimensions.
    let single = grid.iter().all(|count| *count == 1) && scales.shape.iter().all(|n| *n == 1);
    if scales.shape != grid && !single {
        return Err(CheckpointError::ScaleShape {
            path,
            tensor: scales.name.clone(),
            block,
            expected: grid.into(),
            found: scales.shape.as_slice().into(),
        });
    }
    Ok(Scales { file: scales.file, range: scales.range.clone(), dtype, block })
}

/// A shape whose elements can be counted; that of the stored bytes, from which it is made, may hold a zero.
fn countable(shape: Option<Vec<usize>>) -> Option<Vec<usize>> {
    let elements = shape.as_ref()?.iter().try_fold(1usize, |product, n| product.checked_mul(*n));
    shape.filter(|_| elements.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn take(quantisation: Value) -> Result<Quantisation, String> {
        let mut config = json!({"model_type": "llama", "quantization_config": quantisation});
        let taken = Quantisation::take(Path::new("config.json"), &mut config);
        assert_eq!(config, json!({"model_type": "llama"}));
        taken.map_err(|error| error.to_string())
    }

    #[test]
    fn the_block_of_fp8_weights_is_what_the_config_says_or_the_usual() {
        let blocks = |block| Ok(Quantisation { fp8_block: block });
        let fp8 = |extra: Value| {
            let mut config = json!({"quant_method": "fp8"});
            config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            take(config)
        };
        assert_eq!(take(json!(null)), blocks(Some([128, 128])));
        assert_eq!(take(json!({"quant_method": "mxfp4"})), blocks(Some([128, 128])));
        assert_eq!(fp8(json!({})), blocks(Some([128, 128])));
        assert_eq!(fp8(json!({"weight_block_size": [64, 32]})), blocks(Some([64, 32])));
        assert_eq!(fp8(json!({"weight_block_size": null})), blocks(None));
        // DeepSeek V3's own.
        let own = json!({"activation_scheme": "dynamic", "fmt": "e4m3", "scale_fmt": "ue8m0"});
        assert_eq!(fp8(own), blocks(Some([128, 128])));
    }

    #[test]
    fn what_is_not_read_is_refused_by_key_and_value() {
        let fp8 = |key: &str, value: Value| json!({"quant_method": "fp8", key: value});
        for (quantisation, part) in [
            (json!({"quant_method": "gptq", "bits": 4}), "`quant_method` = \"gptq\""),
            (json!({"bits": 4}), "`quant_method` = \"\""),
            (json!("fp8"), "`quant_method`"),
            (json!([]), "`quant_method`"),
            (json!({"quant_method": 8}), "`quant_method` = 8"),
            (fp8("fmt", json!("e5m2")), "`fmt` = \"e5m2\""),
            (fp8("expert_dtype", json!("fp4")), "`expert_dtype` = \"fp4\""),
            (fp8("weight_block_size", json!([128])), "`weight_block_size` = [128]"),
            (fp8("weight_block_size", json!([0, 128])), "`weight_block_size` = [0,128]"),
            (fp8("weight_block_size", json!([-1, 128])), "`weight_block_size` = [-1,128]"),
            (fp8("weight_block_size", json!([1.5, 128])), "`weight_block_size` = [1.5,128]"),
            (fp8("weight_block_size", json!("128")), "`weight_block_size` = \"128\""),
        ] {
            let message = take(quantisation).unwrap_err();
            assert!(message.contains("config.json") && message.contains(part), "{message}");
        }
    }
}
