//! Writing a model as one GGUF file, version 3, tensor by tensor.
//!
//! Keys are those that llama.cpp's `convert_hf_to_gguf.py` writes and its loader reads.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use lns_spec::{AttentionScale, Gguf, ModelSpec, ModelTensor, NormKind, RopeScaling, TensorId};

use super::latent;
use super::plan::place_in_gguf;
use super::quantise::encode;
use super::rope::{ATTENTION_FACTOR, tables};
use super::tokenizer::NO_TOKENIZER;
use super::{DEFAULT_ALIGNMENT, GgufTensor, MAGIC, PROVENANCE, gguf_tensors, is_query_or_key};
use crate::write::failed;
use crate::{CheckpointError, GgufTokenizer, StorageType};

const VERSION: u32 = 3;
/// How many values are encoded before they are written.
const CHUNK: usize = 1 << 18;

/// What a GGUF file is written with.
#[derive(Debug, Clone, Copy)]
pub struct GgufOptions<'a> {
    /// The model's name, `general.name`.
    pub name: &'a str,
    /// How matrices are stored: F32, F16, BF16 or Q8_0, or with MXFP4 those of experts and the others as BF16.
    /// Norms and biases stay F32, as llama.cpp expects.
    pub dtype: StorageType,
    /// The tokenizer, if there is one.
    pub tokenizer: Option<&'a GgufTokenizer>,
    /// Where the model came from ([`ProvenanceRecord`](lns_record::ProvenanceRecord) as JSON): in the
    /// file, under a key that other programs pass over, so that neither is ever without the other.
    pub provenance: Option<&'a str>,
}

/// Writes a whole model as one GGUF file, directly at `path`; to put it in place and on disk is the
/// caller's.
///
/// `read` gives a tensor of the model, matrices \[out, in\] and gains themselves, as [`Checkpoint::read`]
/// does; one tensor is in memory at a time. `progress` is told how many bytes are written so far.
///
/// [`Checkpoint::read`]: crate::Checkpoint::read
///
/// # Errors
/// What [`gguf_tensors`] refuses; a tokenizer of another size than the embedding; what `read` says; a
/// finite value that the type cannot hold; what the operating system says.
pub fn write_gguf(
    path: &Path,
    spec: &ModelSpec,
    options: &GgufOptions<'_>,
    read: &mut dyn FnMut(&ModelTensor) -> Result<Vec<f32>, CheckpointError>,
    progress: &dyn Fn(u64),
) -> Result<(), CheckpointError> {
    spec.validate().map_err(|error| CheckpointError::Spec { path: path.to_owned(), error })?;
    if let Some(tokens) = options.tokenizer.map(|tokenizer| tokenizer.tokens.len())
        && tokens != spec.vocab_size
    {
        let (path, vocab_size) = (path.to_owned(), spec.vocab_size);
        return Err(CheckpointError::GgufTokens { path, tokens, vocab_size });
    }
    let tensors = gguf_tensors(spec, options.dtype)?;
    let mut file = Output::create(path, progress)?;
    let gguf = place_in_gguf(spec)?;
    file.write(&header(&metadata(spec, gguf, options), &tensors))?;
    let of_model: HashMap<TensorId, ModelTensor> =
        spec.tensors().into_iter().map(|tensor| (tensor.id, tensor)).collect();
    for tensor in &tensors {
        let Some(source) = &tensor.source else {
            let tables = tables(spec);
            let table = tables.iter().find(|(name, _)| *name == tensor.name);
            file.write_values(tensor, table.map_or(&[], |(_, factors)| factors), None)?;
            file.fill_up()?;
            continue;
        };
        for part in source.parts.iter().filter_map(|part| of_model.get(&part.id)) {
            let values = read(part)?;
            if values.len() as u64 != part.elements() {
                return Err(CheckpointError::WrongShape {
                    path: path.to_owned(),
                    tensor: part.name.clone(),
                    expected: part.shape.clone(),
                    found: vec![values.len()],
                });
            }
            let values = latent::in_file_order(spec, part, values);
            file.write_values(tensor, &values, interleaved_heads_of(spec, gguf, tensor))?;
        }
        file.fill_up()?;
    }
    file.finish()
}

/// What a file without a tokenizer has before the weights: its tables of rotary factors are the first data.
pub(super) fn head(spec: &ModelSpec, gguf: Gguf, tensors: &[GgufTensor]) -> Vec<u8> {
    let options =
        GgufOptions { name: "", dtype: StorageType::F32, tokenizer: None, provenance: None };
    let mut head = header(&metadata(spec, gguf, &options), tensors);
    for (_, factors) in tables(spec) {
        factors.iter().for_each(|factor| head.extend(factor.to_le_bytes()));
        head.resize(head.len().next_multiple_of(DEFAULT_ALIGNMENT as usize), 0);
    }
    head
}

/// The number of features of a head, if llama.cpp wants the rows of each head in interleaved rotary
/// order.
fn interleaved_heads_of(spec: &ModelSpec, gguf: Gguf, tensor: &GgufTensor) -> Option<usize> {
    let source = tensor.source.as_ref()?;
    let wanted = gguf.interleaved_rotary && is_query_or_key(source);
    wanted.then_some(spec.head_dim)
}

/// Which of Hugging Face's rows stands at a row of the file: the inverse of
/// [`interleaved`](crate::checkpoint::interleaved).
fn rotate_half(row: usize, head_dim: usize) -> usize {
    let (head, feature, half) = (row / head_dim, row % head_dim, head_dim / 2);
    head * head_dim + feature % 2 * half + feature / 2
}

/// A metadata value.
enum Value<'a> {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(&'a str),
    Texts(&'a [String]),
    I32s(&'a [i32]),
    F32s(&'a [f32]),
}

impl Value<'_> {
    /// Appends the value's type and the value.
    fn write(&self, out: &mut Vec<u8>) {
        let number = |out: &mut Vec<u8>, number: u32| out.extend(number.to_le_bytes());
        match self {
            Self::U32(value) => {
                number(out, 4);
                number(out, *value);
            }
            Self::F32(value) => {
                number(out, 6);
                out.extend(value.to_le_bytes());
            }
            Self::Bool(value) => {
                number(out, 7);
                out.push((*value).into());
            }
            Self::Text(value) => {
                number(out, 8);
                write_text(value, out);
            }
            Self::Texts(values) => {
                write_array(8, values.len(), out);
                values.iter().for_each(|value| write_text(value, out));
            }
            Self::I32s(values) => {
                write_array(5, values.len(), out);
                values.iter().for_each(|value| out.extend(value.to_le_bytes()));
            }
            Self::F32s(values) => {
                write_array(6, values.len(), out);
                values.iter().for_each(|value| out.extend(value.to_le_bytes()));
            }
        }
    }
}

fn write_array(kind: u32, count: usize, out: &mut Vec<u8>) {
    out.extend(9_u32.to_le_bytes());
    out.extend(kind.to_le_bytes());
    out.extend((count as u64).to_le_bytes());
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

type Entries<'a> = Vec<(String, Value<'a>)>;

fn metadata<'a>(spec: &ModelSpec, gguf: Gguf, options: &GgufOptions<'a>) -> Entries<'a> {
    // The number of `llama_ftype` for the type that most of the file has.
    let file_type = match options.dtype {
        StorageType::F16 => 1,
        StorageType::Q8_0 => 7,
        StorageType::BF16 => 32,
        // Of experts alone.
        StorageType::MXFP4 => 38,
        _ => 0,
    };
    // By exactly this name transformers takes the file for an architecture that GGUF does not have.
    let name = if options.name == "mistral" { "Mistral" } else { options.name };
    let general = [
        ("architecture", Value::Text(gguf.architecture)),
        ("type", Value::Text("model")),
        ("name", Value::Text(name)),
        ("file_type", Value::U32(file_type)),
        ("quantization_version", Value::U32(2)),
    ];
    let mut entries: Entries<'a> =
        general.into_iter().map(|(key, value)| (format!("general.{key}"), value)).collect();
    let of_model = sizes(spec).into_iter().chain(rope(spec)).chain(own_keys(spec, gguf));
    entries.extend(of_model.map(|(key, value)| (format!("{}.{key}", gguf.architecture), value)));
    entries.extend(tokenizer(options.tokenizer));
    entries.extend(options.provenance.map(|json| (PROVENANCE.to_owned(), Value::Text(json))));
    entries
}

/// What the architecture has beside what all have, as `config.json` has it.
fn own_keys(spec: &ModelSpec, gguf: Gguf) -> Vec<(&'static str, Value<'static>)> {
    let config = spec.to_config();
    let value = |key: &str| match &config[key] {
        serde_json::Value::Bool(flag) => Some(Value::Bool(*flag)),
        serde_json::Value::Number(number) => match number.as_u64().map(u32::try_from) {
            Some(Ok(number)) => Some(Value::U32(number)),
            _ => number.as_f64().map(|number| Value::F32(number as f32)),
        },
        _ => None,
    };
    gguf.keys.iter().filter_map(|(own, usual)| Some((*own, value(usual)?))).collect()
}

fn sizes(spec: &ModelSpec) -> Vec<(&'static str, Value<'static>)> {
    // Sizes are far below 2³² (`ModelSpec::validate`).
    let size = |size: usize| Value::U32(size as u32);
    let epsilon = match spec.norm {
        NormKind::LayerNorm => "attention.layer_norm_epsilon",
        NormKind::Rms | NormKind::RmsPlusOne => "attention.layer_norm_rms_epsilon",
    };
    // With latents those of absorbed heads: one key for all heads, and its latent is the value.
    let [key_value_heads, key, value] = match spec.latent {
        None => [spec.num_key_value_heads, spec.head_dim, spec.head_dim],
        Some(latent) => [1, latent.kv_lora_rank + spec.rotary_dim, latent.kv_lora_rank],
    };
    let mut sizes = vec![
        ("vocab_size", size(spec.vocab_size)),
        ("context_length", size(spec.max_position_embeddings)),
        ("embedding_length", size(spec.hidden_size)),
        ("block_count", size(spec.num_hidden_layers)),
        ("feed_forward_length", size(spec.intermediate_size)),
        ("attention.head_count", size(spec.num_attention_heads)),
        ("attention.head_count_kv", size(key_value_heads)),
        ("attention.key_length", size(key)),
        ("attention.value_length", size(value)),
        (epsilon, Value::F32(spec.rms_norm_eps as f32)),
    ];
    if let Some(latent) = spec.latent {
        sizes.push(("attention.key_length_mla", size(spec.head_dim)));
        sizes.push(("attention.value_length_mla", size(latent.v_head_dim)));
        let mut experts = spec.per_layer.iter().filter_map(|layer| layer.experts);
        sizes.extend(experts.next().map(|experts| {
            let function = if experts.router.is_corrected() { 2 } else { 1 };
            ("expert_gating_func", Value::U32(function))
        }));
    }
    if !spec.learned_positions {
        sizes.push(("rope.dimension_count", size(spec.rotary_dim)));
        sizes.push(("rope.freq_base", Value::F32(spec.rope.theta as f32)));
    }
    sizes
}

/// What the file says about a rotary scaling that [`gguf_tensors`] did not refuse, beside its tables.
fn rope(spec: &ModelSpec) -> Vec<(&'static str, Value<'static>)> {
    let stretch = match spec.attention_scale {
        AttentionScale::Stretched { mscale_all_dim } => Some(mscale_all_dim),
        _ => None,
    };
    // A tenth of it, as the converter has it.
    let stretch = stretch.map(|by| (latent::STRETCH, Value::F32((0.1 * by) as f32)));
    let mut entries = match spec.rope.scaling {
        RopeScaling::Default | RopeScaling::Dynamic { .. } | RopeScaling::Llama3 { .. } => {
            Vec::new()
        }
        RopeScaling::LongRope {
            original_max_position_embeddings: original,
            attention_factor,
            ..
        } => vec![
            (ATTENTION_FACTOR, Value::F32(attention_factor as f32)),
            ("rope.scaling.original_context_length", Value::U32(original as u32)),
        ],
        RopeScaling::Linear { factor } => vec![
            ("rope.scaling.type", Value::Text("linear")),
            ("rope.scaling.factor", Value::F32(factor as f32)),
        ],
        RopeScaling::Yarn { factor, original_max_position_embeddings: original, .. } => vec![
            ("rope.scaling.type", Value::Text("yarn")),
            ("rope.scaling.factor", Value::F32(factor as f32)),
            ("rope.scaling.original_context_length", Value::U32(original as u32)),
        ],
    };
    entries.extend(stretch);
    entries
}

fn tokenizer(tokenizer: Option<&GgufTokenizer>) -> Entries<'_> {
    let Some(tokenizer) = tokenizer else {
        // llama.cpp opens no file that does not speak of a tokenizer.
        return vec![("tokenizer.ggml.model".to_owned(), Value::Text(NO_TOKENIZER))];
    };
    let id = |id: Option<u32>| id.map(Value::U32);
    let entries = [
        ("ggml.model", Some(Value::Text(&tokenizer.model))),
        ("ggml.pre", tokenizer.pre.as_deref().map(Value::Text)),
        ("ggml.tokens", Some(Value::Texts(&tokenizer.tokens))),
        ("ggml.token_type", listed(&tokenizer.token_types).map(Value::I32s)),
        ("ggml.scores", listed(&tokenizer.scores).map(Value::F32s)),
        ("ggml.merges", listed(&tokenizer.merges).map(Value::Texts)),
        ("ggml.bos_token_id", id(tokenizer.bos_token_id)),
        ("ggml.eos_token_id", id(tokenizer.eos_token_id)),
        ("ggml.unknown_token_id", id(tokenizer.unknown_token_id)),
        ("ggml.add_bos_token", tokenizer.add_bos_token.map(Value::Bool)),
        ("ggml.add_space_prefix", tokenizer.add_space_prefix.map(Value::Bool)),
        ("chat_template", tokenizer.chat_template.as_deref().map(Value::Text)),
    ];
    let key = |(key, value): (_, Option<_>)| Some((format!("tokenizer.{key}"), value?));
    entries.into_iter().filter_map(key).collect()
}

fn listed<T>(list: &[T]) -> Option<&[T]> {
    (!list.is_empty()).then_some(list)
}

/// Everything before the tensors' data, filled up with zeros to where the data begin.
fn header(metadata: &Entries<'_>, tensors: &[GgufTensor]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend(VERSION.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        write_text(key, &mut out);
        value.write(&mut out);
    }
    let mut offset = 0_u64;
    for tensor in tensors {
        write_text(&tensor.name, &mut out);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        // GGUF has the innermost dimension first.
        tensor.shape.iter().rev().for_each(|n| out.extend((*n as u64).to_le_bytes()));
        out.extend(tensor.dtype.ggml().unwrap_or(0).to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset = (offset + tensor.bytes()).next_multiple_of(DEFAULT_ALIGNMENT);
    }
    out.resize(out.len().next_multiple_of(DEFAULT_ALIGNMENT as usize), 0);
    out
}

/// The file that is being written.
struct Output<'a> {
    path: &'a Path,
    file: BufWriter<File>,
    written: u64,
    progress: &'a dyn Fn(u64),
}

impl<'a> Output<'a> {
    fn create(path: &'a Path, progress: &'a dyn Fn(u64)) -> Result<Self, CheckpointError> {
        let file = File::create(path).map_err(|error| failed(path, &error))?;
        Ok(Self { path, file: BufWriter::new(file), written: 0, progress })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
        self.file.write_all(bytes).map_err(|error| failed(self.path, &error))?;
        self.written += bytes.len() as u64;
        (self.progress)(self.written);
        Ok(())
    }

    /// Encodes values of a tensor, whole rows, some rows at a time.
    fn write_values(
        &mut self,
        tensor: &GgufTensor,
        values: &[f32],
        interleaved_heads_of: Option<usize>,
    ) -> Result<(), CheckpointError> {
        // The elements of a vector are its rows.
        let row = if let [.., _, row] = *tensor.shape { row } else { 1 };
        let (rows, at_once) = (values.len() / row, (CHUNK / row).max(1));
        let (mut chunk, mut bytes) = (Vec::new(), Vec::new());
        for first in (0..rows).step_by(at_once) {
            let some = first..rows.min(first + at_once);
            let values = match interleaved_heads_of {
                None => &values[some.start * row..some.end * row],
                Some(head_dim) => {
                    chunk.clear();
                    for place in some {
                        chunk.extend(&values[rotate_half(place, head_dim) * row..][..row]);
                    }
                    &chunk
                }
            };
            bytes.clear();
            encode(tensor.dtype, values, &mut bytes).map_err(|value| self.lost(tensor, value))?;
            self.write(&bytes)?;
        }
        Ok(())
    }

    /// Fills up to where the next tensor begins.
    fn fill_up(&mut self) -> Result<(), CheckpointError> {
        let end = self.written.next_multiple_of(DEFAULT_ALIGNMENT);
        self.write(&vec![0; (end - self.written) as usize])
    }

    fn lost(&self, tensor: &GgufTensor, value: f32) -> CheckpointError {
        CheckpointError::Unstorable {
            path: self.path.to_owned(),
            tensor: tensor.source.as_ref().map_or(&tensor.name, |source| &source.name).clone(),
            value,
            dtype: tensor.dtype,
        }
    }

    fn finish(mut self) -> Result<(), CheckpointError> {
        self.file.flush().map_err(|error| failed(self.path, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::interleaved;

    #[test]
    fn rows_are_put_where_the_reader_looks_for_them() {
        for head_dim in [2, 4, 6, 64] {
            for row in 0..3 * head_dim {
                assert_eq!(rotate_half(interleaved(row, head_dim), head_dim), row);
            }
        }
    }
}
