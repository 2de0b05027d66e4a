//! Everything that can be wrong with a checkpoint on disk, one variant per broken rule.

use std::io;
use std::path::{Path, PathBuf};

use lns_spec::SpecError;

use crate::StorageType;

#[expect(missing_docs, reason = "each variant's message names its fields")]
/// Why a checkpoint, or a tensor of it, could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The path leads nowhere.
    #[error(
        "{path} does not exist; a model is a folder with config.json and model.safetensors, a \
         .gguf file, or a .safetensors file with its config.json beside it"
    )]
    NotFound { path: PathBuf },
    /// The path is a file of another kind.
    #[error(
        "{path} is not a model; a model is a folder with config.json and model.safetensors, a \
         .gguf file, or a .safetensors file with its config.json beside it"
    )]
    NotAModel { path: PathBuf },
    /// A folder lacks a file that makes it a model.
    #[error("no {file} in {folder}; {remedy}")]
    MissingFile { folder: PathBuf, file: &'static str, remedy: &'static str },
    /// A pipe, a socket or a folder is where a file is needed.
    #[error("{path} is not a regular file")]
    NotAFile { path: PathBuf },
    /// A file could not be written.
    #[error("{path} cannot be written: {reason}")]
    Write { path: PathBuf, reason: String },
    /// The operating system refused to read a file.
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
    /// A JSON file is too large to be what its name says.
    #[error("{path} has more than the {limit} bytes that are read of such a file")]
    JsonTooLarge { path: PathBuf, limit: u64 },
    /// The specification is not one this project runs.
    #[error("{path}: {error}")]
    Spec { path: PathBuf, error: SpecError },

    /// The index is not an object with a `weight_map`.
    #[error("{path}: not an index of shards: {reason}")]
    Index { path: PathBuf, reason: String },
    /// The index names a shard outside its folder.
    #[error("{path}: shard {shard:?} of tensor {tensor:?} is not a path inside the model's folder")]
    ShardPath { path: PathBuf, tensor: String, shard: String },
    /// A shard that the index lists is absent.
    #[error("{path} lists tensor {tensor:?} in {shard}, which does not exist; fetch the shard")]
    MissingShard { path: PathBuf, tensor: String, shard: PathBuf },
    /// A tensor that the index lists is not in its shard.
    #[error(
        "{path} lists tensor {tensor:?} in {shard}, which does not hold it; the index and the \
         shards are not of one model"
    )]
    NotInShard { path: PathBuf, tensor: String, shard: PathBuf },
    /// Two tensors have the same name.
    #[error("tensor {tensor:?} is twice there: in {first} and in {second}")]
    DuplicateTensor { tensor: String, first: PathBuf, second: PathBuf },

    /// The file ends before the header's length.
    #[error("{path} has {size} bytes, too few for a safetensors file; fetch it again")]
    NoHeader { path: PathBuf, size: u64 },
    /// The header does not fit into the file.
    #[error(
        "{path}: the header's length is {header} bytes in a file of {size}; the file is truncated \
         or not safetensors"
    )]
    HeaderLength { path: PathBuf, header: u64, size: u64 },
    /// The header is larger than the format allows.
    #[error("{path}: the header's length is {header} bytes; at most {limit} are allowed")]
    HeaderTooLarge { path: PathBuf, header: u64, limit: u64 },
    /// The header is not what the format says.
    #[error("{path}: the header is not valid: {reason}")]
    Header { path: PathBuf, reason: String },
    /// The product of a tensor's dimensions is larger than any file.
    #[error("{path}: tensor {tensor:?} of shape {shape:?} has more elements than can be counted")]
    ShapeOverflow { path: PathBuf, tensor: String, shape: Vec<u64> },
    /// Tensors overlap, leave a gap, or are out of order.
    #[error(
        "{path}: the data of tensor {tensor:?} are at bytes {begin}..{end} but must begin at \
         {expected}, where those of the tensor before end"
    )]
    Offsets { path: PathBuf, tensor: String, begin: usize, end: usize, expected: usize },
    /// A tensor's offsets contradict its shape and type.
    #[error("{path}: tensor {tensor:?}, {dtype} {shape:?}, takes {expected} bytes but has {found}")]
    TensorSize {
        path: PathBuf,
        tensor: String,
        dtype: StorageType,
        shape: Vec<usize>,
        expected: usize,
        found: usize,
    },
    /// The file has more or fewer bytes than the header describes.
    #[error(
        "{path} has {found} bytes but its header describes {expected}; the file is truncated or \
         damaged: fetch it again"
    )]
    DataLength { path: PathBuf, expected: u64, found: u64 },

    /// Quantised in a way that is not read.
    #[error(
        "{path}: `{key}` = {value} in `quantization_config` is not supported; read are \"fp8\" in E4M3 \
         with `weight_scale_inv` and \"mxfp4\" with `_blocks` and `_scales`: use the original or a GGUF \
         file"
    )]
    Quantisation { path: PathBuf, key: String, value: String },
    /// Numbers without their scales, or scales without their numbers.
    #[error(
        "{path} has {tensor:?} but no file of the model has {missing:?}, which belongs to it; fetch the \
         model again"
    )]
    HalfPair { path: PathBuf, tensor: String, missing: String },
    /// MXFP4 blocks of an impossible shape.
    #[error(
        "{path}: tensor {tensor:?} has shape {shape:?}; MXFP4 blocks have [experts, out, in/32, 16]"
    )]
    NotBlocks { path: PathBuf, tensor: String, shape: Vec<usize> },
    /// Scales beside something that is not scaled.
    #[error(
        "{path}: {tensor:?} are scales of a tensor of type {dtype} and shape {shape:?}; only matrices in \
         F8_E4M3 have such"
    )]
    NotScaled { path: PathBuf, tensor: String, dtype: StorageType, shape: Vec<usize> },
    /// Scales of a type that they do not have.
    #[error(
        "{path}: the scales {tensor:?} are {dtype}; they are read from F32, F16, BF16, F8_E8M0 and U8"
    )]
    ScaleType { path: PathBuf, tensor: String, dtype: StorageType },
    /// More or fewer scales than blocks.
    #[error(
        "{path}: the scales {tensor:?} have shape {found:?}; blocks of {} × {} need {expected:?}",
        block[0],
        block[1]
    )]
    ScaleShape {
        path: PathBuf,
        tensor: String,
        block: [usize; 2],
        expected: Box<[usize]>,
        found: Box<[usize]>,
    },
    /// A scale that no weight can have been divided by.
    #[error(
        "{path}: in tensor {tensor:?}, the scale of the block at row {row} and column {column} is {value}; \
         the file is damaged: fetch it again"
    )]
    BadScale { path: PathBuf, tensor: String, row: usize, column: usize, value: f32 },

    /// The magic number is missing.
    #[error("{path} does not begin with \"GGUF\"; it is not a GGUF file")]
    NotGguf { path: PathBuf },
    /// The GGUF version is neither 2 nor 3.
    #[error("{path} is GGUF version {version}; versions 2 and 3 are read: convert it again")]
    GgufVersion { path: PathBuf, version: u32 },
    /// The GGUF file was written for big-endian machines.
    #[error("{path} is a big-endian GGUF file; only little-endian ones are read")]
    GgufBigEndian { path: PathBuf },
    /// The file is one part of a model that was split into several.
    #[error("{path} is one of {parts} parts of a GGUF file; merge them with llama-gguf-split")]
    GgufSplit { path: PathBuf, parts: u64 },
    /// Something is announced that cannot fit into the rest of the file.
    #[error(
        "{path}: at byte {offset}, {reading} needs {needed} bytes and {remaining} are left; the \
         file is truncated or damaged: fetch it again"
    )]
    GgufTruncated { path: PathBuf, offset: usize, reading: String, needed: u64, remaining: usize },
    /// A name is longer than the format allows.
    #[error("{path}: at byte {offset}, {reading} has {length} bytes; at most {limit} are allowed")]
    GgufNameTooLong { path: PathBuf, offset: usize, reading: String, length: u64, limit: u64 },
    /// A string is not UTF-8.
    #[error("{path}: at byte {offset}, {reading} is not UTF-8")]
    GgufNotUtf8 { path: PathBuf, offset: usize, reading: String },
    /// A metadata value has a type that the format does not have.
    #[error("{path}: at byte {offset}, {reading} has type {number}, which GGUF does not have")]
    GgufValueType { path: PathBuf, offset: usize, reading: String, number: u32 },
    /// Arrays are nested deeper than any real file nests them.
    #[error("{path}: at byte {offset}, {reading} nests arrays deeper than {limit}")]
    GgufNesting { path: PathBuf, offset: usize, reading: String, limit: usize },
    /// A metadata key occurs twice.
    #[error("{path}: metadata key {key:?} is there twice")]
    GgufDuplicateKey { path: PathBuf, key: String },
    /// A key the model cannot be built without is absent.
    #[error("{path}: metadata key {key:?} is missing")]
    GgufMissingKey { path: PathBuf, key: String },
    /// The value of a metadata key has the wrong type or is out of range.
    #[error("{path}: metadata key {key:?} is {found}; expected {expected}")]
    GgufKey { path: PathBuf, key: String, found: String, expected: &'static str },
    /// The value of a metadata key asks for something that would change the function and is not
    /// implemented.
    #[error("{path}: metadata key {key:?} = {value} is not supported: {why}")]
    GgufUnsupported { path: PathBuf, key: String, value: String, why: &'static str },
    /// The model's architecture is not one that this project runs.
    #[error("{path}: architecture {architecture:?} is not supported; supported: {supported}")]
    GgufArchitecture { path: PathBuf, architecture: String, supported: String },
    /// The file has rotary factors that no supported scaling explains.
    #[error(
        "{path}: the rotary factors in {table} are not supported: {reason}; use the safetensors folder \
         this file was made from"
    )]
    GgufRopeFactors { path: PathBuf, table: String, reason: String },
    /// A tensor has more dimensions than the format allows.
    #[error("{path}: tensor {tensor:?} has {count} dimensions; at most {limit} are allowed")]
    GgufDimensions { path: PathBuf, tensor: String, count: u32, limit: usize },
    /// A tensor is stored in a block format that is not read.
    #[error("{path}: tensor {tensor:?} has ggml type {number}{name}; supported: {supported}")]
    GgufTensorType { path: PathBuf, tensor: String, number: u32, name: String, supported: String },
    /// The rows of a tensor are not whole blocks.
    #[error(
        "{path}: tensor {tensor:?} has rows of {row} elements, not whole {dtype} blocks of {block}"
    )]
    GgufRow { path: PathBuf, tensor: String, row: usize, dtype: StorageType, block: usize },
    /// A tensor's offset is not a multiple of the file's alignment.
    #[error("{path}: the data of tensor {tensor:?} are at {offset}, not a multiple of {alignment}")]
    GgufMisaligned { path: PathBuf, tensor: String, offset: u64, alignment: u64 },
    /// A tensor's data end beyond the end of the file.
    #[error(
        "{path}: the data of tensor {tensor:?} end at byte {end} in a file of {size}; the file is \
         truncated or damaged: fetch it again"
    )]
    GgufRange { path: PathBuf, tensor: String, end: u128, size: usize },
    /// Two tensors share bytes.
    #[error("{path}: the data of tensors {first:?} and {second:?} overlap")]
    GgufOverlap { path: PathBuf, first: String, second: String },

    /// The model has a norm scheme that the programs which read GGUF files do not know.
    #[error(
        "a model of scheme {scheme} cannot be a GGUF file: every program would run it as plain \
         Pre-LN. An LNS model can be folded first (lns fold)"
    )]
    GgufScheme { scheme: String },
    /// It is not known here how GGUF files of this family look.
    #[error("GGUF files of model_type \"{model_type}\" are not written; use a safetensors folder")]
    GgufFamily { model_type: &'static str },
    /// The model has a sliding window that a GGUF file could not say.
    #[error(
        "attention sees {window} tokens back in a context of {context}, which a GGUF file of \
         architecture {architecture:?} cannot say; with max_position_embeddings {window} or less in \
         config.json it need not"
    )]
    GgufWindow { architecture: &'static str, window: usize, context: usize },
    /// llama.cpp takes it for granted that the heads are together as wide as the stream.
    #[error(
        "the heads have {heads} features together and the stream {hidden_size}, which llama.cpp does not \
         read in a GGUF file of architecture {architecture:?}; use a safetensors folder"
    )]
    GgufHeads { architecture: &'static str, heads: usize, hidden_size: usize },
    /// The model has biases for which a GGUF file of this architecture has no tensors.
    #[error(
        "the model has biases that a GGUF file of architecture {architecture:?} has no place for"
    )]
    GgufBias { architecture: &'static str },
    /// The model has a rotary scaling that a GGUF file could not say.
    #[error("the model has {what}, which a GGUF file of architecture {architecture:?} cannot say")]
    GgufRopeScaling { architecture: &'static str, what: &'static str },
    /// Something else that would silently be lost.
    #[error("a GGUF file of architecture {architecture:?} cannot say {lost}")]
    GgufCannotSay { architecture: &'static str, lost: String },
    /// GGUF has no name for a tensor of this kind.
    #[error("tensor {tensor:?} has no name in GGUF files")]
    GgufNoName { tensor: String },
    /// GGUF files are not written with this type.
    #[error(
        "GGUF files are written with F32, F16, BF16 or Q8_0, the experts of a mixture also with MXFP4; not \
         this one with {dtype}"
    )]
    GgufWriteType { dtype: StorageType },
    /// The tokenizer has another number of tokens than the embedding has rows.
    #[error(
        "the tokenizer for {path} has {tokens} tokens but the model has embeddings for \
         {vocab_size}; a GGUF file needs as many of the one as of the other"
    )]
    GgufTokens { path: PathBuf, tokens: usize, vocab_size: usize },

    /// The files' tensors are not those that the `config.json` describes.
    #[error("{path}: the tensors are not those of its config.json\n{audit}")]
    Incomplete { path: PathBuf, audit: String },
    /// A number is too large for the type it was to be stored in.
    #[error(
        "{path}: {value} in tensor {tensor:?} is beyond what {dtype} can hold; write BF16 or F32"
    )]
    Unstorable { path: PathBuf, tensor: String, value: f32, dtype: StorageType },
    /// There is no tensor of that name.
    #[error("{path}: there is no tensor {tensor:?}")]
    MissingTensor { path: PathBuf, tensor: String },
    /// A tensor has another shape than the model needs.
    #[error("{path}: tensor {tensor:?} has shape {found:?}; the model needs {expected:?}")]
    WrongShape { path: PathBuf, tensor: String, expected: Vec<usize>, found: Vec<usize> },
    /// A tensor has a type that weights are not read from.
    #[error(
        "{path}: tensor {tensor:?} is {dtype}; weights are read from F64, F32, F16 and BF16 tensors, from \
         F8_E4M3 and MXFP4 with their scales, and from GGUF blocks"
    )]
    WrongType { path: PathBuf, tensor: String, dtype: StorageType },
    /// Rows were asked of a tensor that is not a matrix.
    #[error("{path}: tensor {tensor:?} of shape {shape:?} is not a matrix")]
    NotAMatrix { path: PathBuf, tensor: String, shape: Vec<usize> },
    /// A row beyond the last was asked for.
    #[error("{path}: row {row} of tensor {tensor:?} was asked for; it has {rows}")]
    RowOutOfRange { path: PathBuf, tensor: String, row: u32, rows: usize },
    /// One matrix asked of something that is no stack of them.
    #[error("{path}: tensor {tensor:?} of shape {shape:?} is not a stack of matrices")]
    NotAStack { path: PathBuf, tensor: String, shape: Vec<usize> },
    /// A matrix beyond the last.
    #[error("{path}: matrix {index} of tensor {tensor:?} was asked for; it has {count}")]
    MatrixOutOfRange { path: PathBuf, tensor: String, index: usize, count: usize },
    /// The rows of queries or keys are not whole heads.
    #[error("{path}: tensor {tensor:?} has {rows} rows, not whole heads of {head_dim}")]
    NotWholeHeads { path: PathBuf, tensor: String, rows: usize, head_dim: usize },
    /// There is not enough memory for a tensor.
    #[error("{path}: no memory for the {bytes} bytes of tensor {tensor:?}")]
    OutOfMemory { path: PathBuf, tensor: String, bytes: usize },
}

impl CheckpointError {
    /// Whether what was given is at fault, and not the machine.
    pub fn is_input(&self) -> bool {
        !matches!(self, Self::Write { .. } | Self::OutOfMemory { .. })
    }

    /// What [`lns_record::open_regular`] and its like say of a file.
    pub(crate) fn of_reading(path: &Path, error: io::Error) -> Self {
        let path = path.to_owned();
        match error.kind() {
            io::ErrorKind::InvalidInput | io::ErrorKind::IsADirectory => Self::NotAFile { path },
            _ => Self::Io { path, error },
        }
    }
}
