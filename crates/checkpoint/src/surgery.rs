//! A checkpoint turned into another, tensor by tensor: retrofit, fold, prune, cast.
//!
//! A [`Conversion`] is first a plan: each tensor of the result, where it comes from and what its gain
//! is multiplied by. Writing it holds a few megabytes at a time, whatever the model's size; tensors
//! that stay as they are go from file to file inside the kernel.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use lns_record::open_regular;
use lns_spec::{
    ConversionError, DepthScale, Gains, LayerIndex, ModelSpec, ModelTensor, Removal, SpecError,
    StoredTensor, TensorId,
};
use serde_json::{Map, Value, json};

use crate::gguf::encode;
use crate::write::{failed, header, write_config};
use crate::{Checkpoint, CheckpointError, StorageType};

/// How many values are converted at a time.
const CHUNK: usize = 1 << 21;

/// One tensor of a [`Conversion`]'s result.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorEdit {
    /// Its name, its dimensions and what it holds.
    pub tensor: StoredTensor,
    /// How it will be stored.
    pub dtype: StorageType,
    /// The tensor that a folder of the source has and that it is made of, part by part; zeros if there is
    /// none.
    pub source: Option<StoredTensor>,
    /// What every element is multiplied by, a gain that is stored as γ − 1 as γ.
    pub factor: f64,
}

impl TensorEdit {
    fn scaled(&self, values: &[f32]) -> Vec<f32> {
        let offset = f64::from(self.tensor.offset());
        let scaled = |value: &f32| ((f64::from(*value) + offset) * self.factor - offset) as f32;
        values.iter().map(scaled).collect()
    }

    fn bytes(&self) -> u64 {
        let elements = self.tensor.shape.iter().map(|n| *n as u64).product::<u64>();
        let (_, size) = self.dtype.block().unwrap_or((1, 4));
        elements * size as u64
    }
}

/// How far the gains of a conversion are from what they should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rounding {
    /// Largest relative error that storing a number in the gains' type can make: 2⁻⁸ in bf16, 2⁻¹¹
    /// in f16, 2⁻²⁴ in f32.
    pub bound: f64,
    /// The largest relative error that storing a gain has made.
    pub measured: f64,
    /// Gain tensors that are multiplied by something other than 1.
    pub tensors: usize,
    /// Other tensors that are stored with less precision than they have.
    pub cast: usize,
}

/// A checkpoint and what is to become of it.
#[derive(Debug, Clone)]
pub struct Conversion<'a> {
    source: &'a Checkpoint,
    spec: ModelSpec,
    tensors: Vec<TensorEdit>,
}

impl<'a> Conversion<'a> {
    /// The model as it is. Quantised numbers become f32 (MXFP4, which bf16 holds exactly, bf16), others
    /// keep their type.
    ///
    /// # Errors
    /// [`CheckpointError::Incomplete`] when tensors are missing, misshapen or unknown.
    pub fn of(source: &'a Checkpoint) -> Result<Self, CheckpointError> {
        let audit = source.audit();
        if !audit.is_clean() {
            let (path, audit) = (source.path().to_owned(), audit.to_string());
            return Err(CheckpointError::Incomplete { path, audit });
        }
        let spec = source.spec().clone();
        let edit = |tensor: StoredTensor| {
            let stored = tensor.parts.first().and_then(|part| source.holder(part))?;
            let dtype = match stored.dtype {
                StorageType::F16 | StorageType::BF16 => stored.dtype,
                // BF16 holds every number of it.
                StorageType::MXFP4 => StorageType::BF16,
                _ => StorageType::F32,
            };
            let place = (stored.file, stored.range.start, tensor.parts[0].id.expert);
            let source = Some(tensor.clone());
            Some((place, TensorEdit { tensor, dtype, source, factor: 1.0 }))
        };
        let mut tensors: Vec<_> = spec.stored_tensors().into_iter().filter_map(edit).collect();
        // Tensors stay in the order of the files, which are then read from front to back.
        tensors.sort_by_key(|(place, _)| *place);
        Ok(Self { source, spec, tensors: tensors.into_iter().map(|(_, edit)| edit).collect() })
    }

    /// The model with LayerNorm Scaling, and its gains γ·ℓ^e so that the function stays, or as they are.
    ///
    /// # Errors
    /// [`ConversionError`] when the model cannot take the scale.
    pub fn with_layernorm_scaling(
        self,
        scale: DepthScale,
        gains: Gains,
    ) -> Result<Self, ConversionError> {
        let after = self.spec.with_layernorm_scaling(scale)?;
        Ok(self.become_spec(after, gains))
    }

    /// The same function as a plain Pre-LN model of whole layers.
    ///
    /// # Errors
    /// [`ConversionError::NotScaled`] when there is nothing to fold.
    pub fn folded(self) -> Result<Self, ConversionError> {
        let after = self.spec.folded()?;
        Ok(self.become_spec(after, Gains::Compensated))
    }

    /// The same as a model that every runtime can run: folded if need be.
    ///
    /// # Errors
    /// [`ConversionError::NotScaled`] for a scheme that does not fold, or not to the family's own.
    pub fn for_stock_runtimes(self) -> Result<Self, ConversionError> {
        if self.spec.is_stock() {
            return Ok(self);
        }
        let folded = self.folded()?;
        match folded.spec.is_stock() {
            true => Ok(folded),
            false => {
                let (scheme, is_own) = (folded.spec.norm_scheme.to_string(), false);
                Err(ConversionError::NotScaled { scheme, is_own })
            }
        }
    }

    fn become_spec(mut self, after: ModelSpec, gains: Gains) -> Self {
        if gains == Gains::Compensated {
            for edit in &mut self.tensors {
                // A bias is scaled with its gain: the scale stands after both.
                if let [ModelTensor { id: TensorId { layer: Some(layer), role, .. }, .. }] =
                    edit.tensor.parts[..]
                {
                    edit.factor *= self.spec.gain_factor(&after, layer, role);
                }
            }
        }
        let dtype = self.tensors.first().map_or(StorageType::F32, |edit| edit.dtype);
        let there: HashSet<String> =
            self.tensors.iter().map(|edit| edit.tensor.name.clone()).collect();
        let new = after.stored_tensors().into_iter();
        let zeros = |tensor| TensorEdit { tensor, dtype, source: None, factor: 1.0 };
        self.tensors.extend(new.filter(|tensor| !there.contains(&tensor.name)).map(zeros));
        self.spec = after;
        self
    }

    /// The model without some layers or branches. The layers that remain take the indices of those
    /// before them that are gone.
    ///
    /// # Errors
    /// As [`ModelSpec::without`].
    pub fn without(mut self, removals: &[Removal]) -> Result<Self, SpecError> {
        let (after, kept) = self.spec.without(removals)?;
        let mut wanted: HashMap<Vec<TensorId>, StoredTensor> =
            after.stored_tensors().into_iter().map(|tensor| (tensor.ids(), tensor)).collect();
        self.tensors = std::mem::take(&mut self.tensors)
            .into_iter()
            .filter_map(|edit| {
                let tensor = wanted.remove(&moved(&edit.tensor.ids(), &kept)?)?;
                Some(TensorEdit { tensor, ..edit })
            })
            .collect();
        self.spec = after;
        Ok(self)
    }

    /// The same with every tensor stored as `dtype`.
    ///
    /// # Panics
    /// If `dtype` is none of F32, BF16 and F16.
    #[must_use]
    pub fn cast(mut self, dtype: StorageType) -> Self {
        assert!(
            matches!(dtype, StorageType::F32 | StorageType::BF16 | StorageType::F16),
            "safetensors are not written as {dtype}"
        );
        self.tensors.iter_mut().for_each(|edit| edit.dtype = dtype);
        self
    }

    /// What the result is.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// What it is made from.
    pub fn source(&self) -> &'a Checkpoint {
        self.source
    }

    /// Every tensor of the result.
    pub fn tensors(&self) -> &[TensorEdit] {
        &self.tensors
    }

    /// Bytes of the result's tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(TensorEdit::bytes).sum()
    }

    /// What rounding does to the gains that change.
    ///
    /// # Errors
    /// When a gain cannot be read, or the type cannot hold it.
    pub fn rounding(&self) -> Result<Rounding, CheckpointError> {
        let mut rounding = Rounding { bound: 0.0, measured: 0.0, tensors: 0, cast: 0 };
        for edit in &self.tensors {
            let unit = match edit.dtype {
                StorageType::BF16 => 2f64.powi(-8),
                StorageType::F16 => 2f64.powi(-11),
                _ => 2f64.powi(-24),
            };
            let rounded = self
                .stored_as(edit)
                .is_some_and(|stored| stored != edit.dtype && edit.dtype != StorageType::F32);
            if edit.factor == 1.0 {
                if rounded {
                    rounding.cast += 1;
                    rounding.bound = rounding.bound.max(unit);
                }
                continue;
            }
            rounding.tensors += 1;
            rounding.bound = rounding.bound.max(unit);
            let Some(source) = &edit.source else { continue };
            let stored = self.source.read_stored(source)?;
            let mut bytes = Vec::new();
            self.encode(edit, &edit.scaled(&stored), &mut bytes)?;
            let mut written = vec![0.0; stored.len()];
            crate::decode::decode(edit.dtype, &bytes, &mut written);
            let offset = f64::from(edit.tensor.offset());
            for (stored, written) in stored.iter().zip(written) {
                let wanted = (f64::from(*stored) + offset) * edit.factor - offset;
                if wanted != 0.0 {
                    let error = ((f64::from(written) - wanted) / wanted).abs();
                    rounding.measured = rounding.measured.max(error);
                }
            }
        }
        Ok(rounding)
    }

    /// How the files of the source have what a tensor of the result is made of; `None` of zeros.
    pub fn stored_as(&self, edit: &TensorEdit) -> Option<StorageType> {
        let part = edit.source.as_ref()?.parts.first()?;
        self.source.holder(part).map(|stored| stored.dtype)
    }

    /// What reads the tensors of the resulting model, before they are stored: each of all elements as f32,
    /// row by row, as [`Checkpoint::read`] gives them.
    pub fn reader(&self) -> impl Fn(&ModelTensor) -> Result<Vec<f32>, CheckpointError> {
        let edits: HashMap<&str, &TensorEdit> =
            self.tensors.iter().map(|edit| (edit.tensor.name.as_str(), edit)).collect();
        move |wanted| {
            let edit = edits.get(wanted.name.as_str());
            let place =
                edit.and_then(|edit| edit.tensor.parts.iter().position(|p| p.id == wanted.id));
            let (Some(edit), Some(place)) = (edit, place) else {
                let (path, tensor) = (self.source.path().to_owned(), wanted.name.clone());
                return Err(CheckpointError::MissingTensor { path, tensor });
            };
            let part = edit.source.as_ref().and_then(|source| source.parts.get(place));
            let Some(part) = part else { return Ok(vec![0.0; wanted.shape.iter().product()]) };
            let mut values = self.source.read(part)?;
            if edit.factor != 1.0 {
                let scaled = |value: &mut f32| *value = (f64::from(*value) * edit.factor) as f32;
                values.iter_mut().for_each(scaled);
            }
            Ok(values)
        }
    }

    /// Writes `config.json` and the weights, in shards of at most `shard_bytes`, into a folder that
    /// its caller will put in place; returns the files. `progress` is told how many bytes are
    /// written.
    ///
    /// # Errors
    /// [`CheckpointError`], naming the file and the tensor.
    pub fn write(
        &self,
        folder: &Path,
        shard_bytes: u64,
        progress: &dyn Fn(u64),
    ) -> Result<Vec<PathBuf>, CheckpointError> {
        // The type that most of the weights have.
        let dtype = |edit: &&TensorEdit| edit.tensor.shape.len() == 2;
        let matrix = self.tensors.iter().find(dtype);
        write_config(folder, &self.spec, matrix.map_or(StorageType::F32, |edit| edit.dtype))?;
        let shards = shards(&self.tensors, shard_bytes);
        let mut written = 0;
        let (mut files, mut index) = (Vec::new(), Map::new());
        for (number, shard) in shards.iter().enumerate() {
            let name = match shards.len() {
                1 => "model.safetensors".to_owned(),
                count => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
            };
            let path = folder.join(&name);
            self.write_shard(&path, shard, &mut written, progress)?;
            index.extend(shard.iter().map(|edit| (edit.tensor.name.clone(), json!(name))));
            files.push(path);
        }
        if shards.len() > 1 {
            let path = folder.join("model.safetensors.index.json");
            let mut index: Vec<(String, Value)> = index.into_iter().collect();
            index.sort_by(|a, b| a.0.cmp(&b.0));
            let index = json!({
                "metadata": {"total_size": self.bytes()},
                "weight_map": index.into_iter().collect::<Map<_, _>>(),
            });
            std::fs::write(&path, format!("{index:#}\n")).map_err(|e| failed(&path, &e))?;
            files.push(path);
        }
        Ok(files)
    }

    fn write_shard(
        &self,
        path: &Path,
        shard: &[&TensorEdit],
        written: &mut u64,
        progress: &dyn Fn(u64),
    ) -> Result<(), CheckpointError> {
        let mut file = File::create(path).map_err(|error| failed(path, &error))?;
        file.write_all(&header(shard.iter().map(|edit| (&edit.tensor, edit)).map(
            |(tensor, edit)| (&tensor.name[..], edit.dtype, &tensor.shape[..], edit.bytes()),
        )))
        .map_err(|error| failed(path, &error))?;
        let mut bytes = Vec::new();
        for edit in shard {
            let before = *written;
            let mut advance = |bytes: u64| {
                *written += bytes;
                progress(*written);
            };
            match &edit.source {
                Some(source) if self.is_copy(edit, source) => {
                    self.copy(&source.name, &mut file, path, &mut advance)?;
                }
                source => {
                    let mut put = |values: &[f32]| {
                        bytes.clear();
                        match edit.factor {
                            1.0 => self.encode(edit, values, &mut bytes)?,
                            _ => self.encode(edit, &edit.scaled(values), &mut bytes)?,
                        }
                        file.write_all(&bytes).map_err(|error| failed(path, &error))?;
                        advance(bytes.len() as u64);
                        Ok(())
                    };
                    match source {
                        Some(source) if !self.source.has_as_stored(source) => {
                            self.source.read_by_members(source, &mut put)?;
                        }
                        Some(source) => {
                            let (name, shape) = (&source.name, &source.shape);
                            self.source.read_in_chunks(name, shape, CHUNK, &mut put)?;
                        }
                        None => {
                            let elements: usize = edit.tensor.shape.iter().product();
                            let zeros = vec![0.0; elements.min(CHUNK)];
                            for start in (0..elements).step_by(CHUNK) {
                                put(&zeros[..(elements - start).min(CHUNK)])?;
                            }
                        }
                    }
                }
            }
            debug_assert_eq!(*written - before, edit.bytes());
        }
        Ok(())
    }

    /// Whether the stored bytes are what is wanted.
    fn is_copy(&self, edit: &TensorEdit, source: &StoredTensor) -> bool {
        edit.factor == 1.0
            && self.source.has_as_stored(source)
            && self.source.tensor(&source.name).is_some_and(|stored| {
                stored.dtype == edit.dtype && stored.interleaved_heads_of.is_none()
            })
    }

    /// Copies bytes from file to file; `std::io::copy` leaves that to the operating system where it
    /// can.
    fn copy(
        &self,
        name: &str,
        to: &mut File,
        path: &Path,
        advance: &mut dyn FnMut(u64),
    ) -> Result<(), CheckpointError> {
        const AT_ONCE: u64 = 64 << 20;
        let Some(stored) = self.source.tensor(name) else { return Ok(()) };
        let from = &self.source.files()[stored.file];
        let io = |error: io::Error| CheckpointError::Io { path: from.clone(), error };
        let mut file = open_regular(from).map_err(io)?;
        file.seek(SeekFrom::Start(stored.range.start as u64)).map_err(io)?;
        let mut left = stored.range.len() as u64;
        while left > 0 {
            let copied = io::copy(&mut (&mut file).take(left.min(AT_ONCE)), to)
                .map_err(|error| failed(path, &error))?;
            if copied == 0 {
                return Err(io(io::ErrorKind::UnexpectedEof.into()));
            }
            left -= copied;
            advance(copied);
        }
        Ok(())
    }

    fn encode(
        &self,
        edit: &TensorEdit,
        values: &[f32],
        bytes: &mut Vec<u8>,
    ) -> Result<(), CheckpointError> {
        encode(edit.dtype, values, bytes).map_err(|value| CheckpointError::Unstorable {
            path: self.source.path().to_owned(),
            tensor: edit.source.as_ref().unwrap_or(&edit.tensor).name.clone(),
            value,
            dtype: edit.dtype,
        })
    }
}

/// The parts of a tensor by the indices that layers have once only those in `kept` are left; `None`
/// if the tensor's layer is gone.
fn moved(parts: &[TensorId], kept: &[LayerIndex]) -> Option<Vec<TensorId>> {
    let place = |layer| kept.iter().position(|kept| *kept == layer).map(LayerIndex::new);
    parts
        .iter()
        .map(|id| match id.layer {
            None => Some(*id),
            Some(layer) => Some(TensorId { layer: Some(place(layer)?), ..*id }),
        })
        .collect()
}

/// Cuts the tensors, in their order, into files of at most `shard_bytes` bytes; a larger tensor has
/// a file of its own.
fn shards(tensors: &[TensorEdit], shard_bytes: u64) -> Vec<Vec<&TensorEdit>> {
    let mut shards: Vec<Vec<&TensorEdit>> = vec![Vec::new()];
    let mut size = 0;
    for edit in tensors {
        if size > 0 && size + edit.bytes() > shard_bytes {
            shards.push(Vec::new());
            size = 0;
        }
        size += edit.bytes();
        if let Some(shard) = shards.last_mut() {
            shard.push(edit);
        }
    }
    shards
}
