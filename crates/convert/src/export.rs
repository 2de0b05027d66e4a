//! A model as other programs read it: folded if need be, pruned branches as zeros.

use std::path::Path;

use lns_checkpoint::{
    Checkpoint, Conversion, GgufOptions, GgufTensor, GgufTokenizer, StorageType, gguf_tensors,
    write_gguf,
};
use lns_record::{NewFile, ProvenanceRecord};
use lns_spec::NormScheme;
use lns_tokenizer::gguf_tokenizer;
use serde_json::json;

use crate::{ConvertError, Existing, Job, Made, check_place};

/// A model as a folder of safetensors, each number as `dtype` or as in the source, in files of at most
/// `shard_gb` GB.
///
/// # Errors
/// [`ConvertError`] when the checkpoint is not whole, or its scheme does not fold.
///
/// # Panics
/// If `dtype` is none of F32, BF16 and F16.
pub fn export(
    source: &Checkpoint,
    dtype: Option<StorageType>,
    shard_gb: f64,
) -> Result<Job<'_>, ConvertError> {
    let conversion = Conversion::of(source)?.for_stock_runtimes()?;
    let options = json!({
        "format": "safetensors", "dtype": dtype.map(StorageType::name), "shard_gb": shard_gb,
        "folded": folded(source),
    });
    let shard_bytes = (shard_gb * 1e9) as u64;
    Ok(Job { shard_bytes, ..Job::new("export", conversion, options) }.stored_as(dtype))
}

/// The scheme that is folded away, if one is.
fn folded(source: &Checkpoint) -> Option<NormScheme> {
    let spec = source.spec();
    (spec.norm_scheme != spec.family.own_scheme()).then(|| spec.norm_scheme.clone())
}

/// A model to be written as one GGUF file.
#[derive(Debug, Clone)]
pub struct GgufExport<'a> {
    /// What becomes of each tensor.
    pub conversion: Conversion<'a>,
    /// The file's tensors, in its order.
    pub tensors: Vec<GgufTensor>,
    dtype: StorageType,
}

/// A model as one GGUF file whose matrices are of type `dtype`, or of the usual one: F16, and MXFP4 where the
/// experts are stored so, which loses nothing.
///
/// # Errors
/// [`ConvertError`] when the checkpoint is not whole, its scheme does not fold, or GGUF does not know
/// its family or the type.
pub fn export_gguf(
    source: &Checkpoint,
    dtype: Option<StorageType>,
) -> Result<GgufExport<'_>, ConvertError> {
    let conversion = Conversion::of(source)?.for_stock_runtimes()?;
    let in_four_bits = source.tensors().any(|tensor| tensor.dtype == StorageType::MXFP4);
    let usual = if in_four_bits && source.spec().is_mixture() {
        StorageType::MXFP4
    } else {
        StorageType::F16
    };
    let dtype = dtype.unwrap_or(usual);
    let tensors = gguf_tensors(conversion.spec(), dtype)?;
    Ok(GgufExport { conversion, tensors, dtype })
}

impl GgufExport<'_> {
    /// Bytes of the file's tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(GgufTensor::bytes).sum()
    }

    /// The model's tokenizer, of as many tokens as the embedding has rows; `None` if it has none.
    ///
    /// # Errors
    /// [`ConvertError::TokenizerSize`], or a tokenizer that is not read.
    pub fn tokenizer(&self) -> Result<Option<GgufTokenizer>, ConvertError> {
        let tokenizer = gguf_tokenizer(self.conversion.source())?;
        let rows = self.conversion.spec().vocab_size;
        match &tokenizer {
            Some(GgufTokenizer { tokens, .. }) if tokens.len() != rows => {
                Err(ConvertError::TokenizerSize { tokens: tokens.len(), rows })
            }
            _ => Ok(tokenizer),
        }
    }

    /// Writes the file beside `place` and puts it there. `name` is the model's for people; `progress`
    /// is told how many bytes are written.
    ///
    /// # Errors
    /// [`ConvertError`]: a place that will not do, a tensor that cannot be read or stored, what the
    /// operating system says.
    pub fn write(
        &self,
        place: &Path,
        existing: Existing,
        name: &str,
        tokenizer: Option<&GgufTokenizer>,
        progress: &dyn Fn(u64),
    ) -> Result<ProvenanceRecord, ConvertError> {
        let (conversion, spec) = (&self.conversion, self.conversion.spec());
        check_place(conversion.source(), place, existing, Made::File)?;
        let io = |what| move |source| ConvertError::Io { path: place.to_owned(), what, source };
        let told = json!({
            "format": "gguf", "dtype": self.dtype.name(), "folded": folded(conversion.source()),
        });
        let record = conversion.source().provenance("export", spec, told)?;
        let provenance =
            serde_json::to_string(&record).map_err(|error| io("was not written")(error.into()))?;
        let options =
            GgufOptions { name, dtype: self.dtype, tokenizer, provenance: Some(&provenance) };
        let file = NewFile::create(place, existing).map_err(io("cannot be made"))?;
        let read = conversion.reader();
        write_gguf(file.path(), spec, &options, &mut |tensor| read(tensor), progress)?;
        file.commit().map_err(io("was not put in place"))?;
        remove_older_record(place);
        Ok(record)
    }
}

/// Earlier versions put the record beside the file: that of the file which was replaced goes with it.
fn remove_older_record(place: &Path) {
    let beside = ProvenanceRecord::beside(place);
    if ProvenanceRecord::read(&beside).is_some() {
        let _ = std::fs::remove_file(beside);
    }
}
