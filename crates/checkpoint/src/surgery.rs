//! A checkpoint turned into another, tensor by tensor: retrofit, fold, prune, cast.
//!
//! A [`Conversion`] is first a plan: each tensor of the result, where it comes from and what its gain
//! is multiplied by. Writing it holds a few megabytes at a time, whatever the model's size; tensors
//! that stay as they are go from file to file inside the kernel.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use lns_record::open_regular;
use lns_spec::{
    ConversionError, DepthScale, Gains, LayerIndex, ModelSpec, Removal, SpecError, StoredLayout,
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
    /// Its name in the result.
    pub name: String,
    /// What it holds.
    pub parts: Vec<TensorId>,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// How it will be stored.
    pub dtype: StorageType,
    /// The tensor of the source it is made of; zeros if there is none.
    pub source: Option<String>,
    /// What every element is multiplied by, `offset` being added before and taken away again.
    pub factor: f64,
    /// 1 for a gain that is stored as γ − 1.
    pub offset: f32,
    /// How the parts stand in it.
    pub layout: StoredLayout,
}

impl TensorEdit {
    /// The tensor that a folder will hold.
    fn stored(&self, name: &str) -> StoredTensor {
        StoredTensor {
            name: name.to_owned(),
            shape: self.shape.clone(),
            parts: self.parts.clone(),
            layout: self.layout,
            offset: self.offset,
        }
    }

    fn scaled(&self, values: &[f32]) -> Vec<f32> {
        let offset = f64::from(self.offset);
        let scaled = |value: &f32| ((f64::from(*value) + offset) * self.factor - offset) as f32;
        values.iter().map(scaled).collect()
    }

    fn bytes(&self) -> u64 {
        let elements = self.shape.iter().map(|n| *n as u64).product::<u64>();
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
        let mut tensors: Vec<_> = spec
            .stored_tensors()
            .into_iter()
            .filter_map(|StoredTensor { name, shape, parts, layout, offset }| {
                let stored = source.tensor(&name)?;
                let dtype = match stored.dtype {
                    StorageType::F16 | StorageType::BF16 => stored.dtype,
                    // BF16 holds every number of it.
                    StorageType::MXFP4 => StorageType::BF16,
                    _ => StorageType::F32,
                };
                let place = (stored.file, stored.range.start);
                let source = Some(name.clone());
                let factor = 1.0;
                let edit = TensorEdit { name, parts, shape, dtype, source, factor, offset, layout };
                Some((place, edit))
            })
            .collect();
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
                Err(ConversionError::NotScaled { scheme: folded.spec.norm_scheme.to_string() })
            }
        }
    }

    fn become_spec(mut self, after: ModelSpec, gains: Gains) -> Self {
        if gains == Gains::Compensated {
            for edit in &mut self.tensors {
                // A bias is scaled with its gain: the scale stands after both.
                if let [TensorId { layer: Some(layer), role, .. }] = edit.parts[..] {
                    edit.factor *= self.spec.gain_factor(&after, layer, role);
                }
            }
        }
        let dtype = self.tensors.first().map_or(StorageType::F32, |edit| edit.dtype);
        for StoredTensor { name, shape, parts, layout, offset } in after.stored_tensors() {
            if !self.tensors.iter().any(|edit| edit.name == name) {
                let (source, factor) = (None, 1.0);
                self.tensors.push(TensorEdit {
                    name,
                    parts,
                    shape,
                    dtype,
                    source,
                    factor,
                    offset,
                    layout,
                });
            }
        }
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
        let mut wanted: HashMap<Vec<TensorId>, String> =
            after.stored_tensors().into_iter().map(|tensor| (tensor.parts, tensor.name)).collect();
        self.tensors = std::mem::take(&mut self.tensors)
            .into_iter()
            .filter_map(|edit| {
                let parts = moved(&edit.parts, &kept)?;
                let name = wanted.remove(&parts)?;
                Some(TensorEdit { name, parts, ..edit })
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
            let stored = edit.source.as_deref().and_then(|name| self.source.tensor(name));
            let rounded = stored
                .is_some_and(|stored| stored.dtype != edit.dtype && edit.dtype != StorageType::F32);
            if edit.factor == 1.0 {
                if rounded {
                    rounding.cast += 1;
                    rounding.bound = rounding.bound.max(unit);
                }
                continue;
            }
            rounding.tensors += 1;
            rounding.bound = rounding.bound.max(unit);
            let Some(name) = &edit.source else { continue };
            let stored = self.read_source(edit, name)?;
            let mut bytes = Vec::new();
            self.encode(edit, &edit.scaled(&stored), &mut bytes)?;
            let mut written = vec![0.0; stored.len()];
            crate::decode::decode(edit.dtype, &bytes, &mut written);
            let offset = f64::from(edit.offset);
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

    /// All elements of a tensor of the result, before they are stored.
    ///
    /// # Errors
    /// As [`Checkpoint::read_f32`].
    pub fn read_f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        let Some(edit) = self.tensors.iter().find(|edit| edit.name == name) else {
            let (path, tensor) = (self.source.path().to_owned(), name.to_owned());
            return Err(CheckpointError::MissingTensor { path, tensor });
        };
        let values = match &edit.source {
            Some(_) if edit.shape != shape => {
                return Err(CheckpointError::WrongShape {
                    path: self.source.path().to_owned(),
                    tensor: name.to_owned(),
                    expected: shape.to_vec(),
                    found: edit.shape.clone(),
                });
            }
            Some(name) => self.read_source(edit, name)?,
            None => vec![0.0; shape.iter().product()],
        };
        Ok(if edit.factor == 1.0 { values } else { edit.scaled(&values) })
    }

    /// The source's tensor as a folder would have it.
    fn read_source(&self, edit: &TensorEdit, name: &str) -> Result<Vec<f32>, CheckpointError> {
        // The source's own parts: layers move when others are taken out.
        let mut stored = edit.stored(name);
        if let Some(source) = self.source_parts(name) {
            stored.parts = source;
        }
        self.source.read_stored(&stored)
    }

    /// What a tensor of the source holds, if its file has it otherwise than a folder would.
    fn source_parts(&self, name: &str) -> Option<Vec<TensorId>> {
        let stored = self.source.spec().stored_tensors();
        stored.into_iter().find(|stored| stored.name == name).map(|stored| stored.parts)
    }

    /// Whether the source's file has the tensor as a folder would.
    fn is_laid_out(&self, edit: &TensorEdit) -> bool {
        !self.source.is_plain() || (edit.layout == StoredLayout::Rows && edit.offset == 0.0)
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
        let dtype = |edit: &&TensorEdit| edit.shape.len() == 2;
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
            index.extend(shard.iter().map(|edit| (edit.name.clone(), json!(name))));
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
        file.write_all(&header(
            shard
                .iter()
                .map(|edit| (edit.name.as_str(), edit.dtype, &edit.shape[..], edit.bytes())),
        ))
        .map_err(|error| failed(path, &error))?;
        let mut bytes = Vec::new();
        for edit in shard {
            let before = *written;
            let mut advance = |bytes: u64| {
                *written += bytes;
                progress(*written);
            };
            match &edit.source {
                Some(name) if self.is_copy(edit) => {
                    self.copy(name, &mut file, path, &mut advance)?;
                }
                source => {
                    let mut put = |values: &[f32]| {
                        bytes.clear();
                        self.encode(edit, values, &mut bytes)?;
                        file.write_all(&bytes).map_err(|error| failed(path, &error))?;
                        advance(bytes.len() as u64);
                        Ok(())
                    };
                    match source {
                        Some(name) if !self.is_laid_out(edit) => {
                            put(&edit.scaled(&self.read_source(edit, name)?))?;
                        }
                        Some(name) => {
                            self.source.read_in_chunks(
                                name,
                                &edit.shape,
                                CHUNK,
                                &mut |values| {
                                    if edit.factor == 1.0 {
                                        put(values)
                                    } else {
                                        put(&edit.scaled(values))
                                    }
                                },
                            )?;
                        }
                        None => {
                            let elements: usize = edit.shape.iter().product();
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
    fn is_copy(&self, edit: &TensorEdit) -> bool {
        let stored = edit.source.as_deref().and_then(|name| self.source.tensor(name));
        edit.factor == 1.0
            && self.is_laid_out(edit)
            && stored.is_some_and(|stored| {
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
            tensor: edit.source.clone().unwrap_or_else(|| edit.name.clone()),
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
