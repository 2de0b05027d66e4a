//! Small checkpoints to write, whole or with one thing wrong.

use std::fs;
use std::path::{Path, PathBuf};

use lns_checkpoint::{Checkpoint, CheckpointError};
use lns_spec::ModelSpec;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder that vanishes with the test.
#[derive(Debug)]
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().expect("inside the folder")).expect("folders");
        fs::write(&path, bytes).expect("a temporary file");
        path
    }
}

/// Opens what must not open.
pub(crate) fn refused(path: &Path) -> CheckpointError {
    Checkpoint::open(path).expect_err("the checkpoint was accepted")
}

/// Reads every tensor there is, ignoring errors: for panics.
pub(crate) fn read_everything(path: &Path) {
    let Ok(checkpoint) = Checkpoint::open(path) else { return };
    let _ = checkpoint.audit().to_string();
    let _ = checkpoint.tokenizer();
    for tensor in checkpoint.tensors() {
        let _ = checkpoint.read_f32(&tensor.name, &tensor.shape);
        let _ = checkpoint.read_rows_f32(&tensor.name, &tensor.shape, &[0, 1, u32::MAX]);
        let _ = checkpoint.read_matrix(&tensor.name, &tensor.shape, 0);
        let _ = checkpoint.read_matrix_transposed(&tensor.name, &tensor.shape, 1);
    }
    // A damaged count may be of many experts that are not there.
    for tensor in checkpoint.spec().tensors().iter().take(64) {
        let _ = checkpoint.read_f32(&tensor.name, &tensor.shape);
        if let Ok(values) = checkpoint.read(tensor) {
            assert_eq!(values.len() as u64, tensor.elements(), "{}", tensor.name);
        }
    }
}

/// `config.json` of a Llama with one layer.
pub(crate) fn config() -> Value {
    json!({
        "model_type": "llama", "vocab_size": 6, "hidden_size": 8, "intermediate_size": 32,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "max_position_embeddings": 16, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
    })
}

/// One tensor of a safetensors file.
#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Vec<u8>,
}

impl Tensor {
    pub(crate) fn f32(name: &str, shape: &[usize], numbers: &[f32]) -> Self {
        let data = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        Self { name: name.to_owned(), dtype: "F32", shape: shape.to_vec(), data }
    }
}

/// Every tensor that the model of [`config`] needs; element j of tensor i is i + j/64.
pub(crate) fn tensors() -> Vec<Tensor> {
    let spec = ModelSpec::from_config(&config()).expect("the test's config is valid");
    spec.tensors()
        .iter()
        .enumerate()
        .map(|(i, tensor)| {
            let elements: usize = tensor.shape.iter().product();
            let numbers: Vec<_> = (0..elements).map(|j| i as f32 + j as f32 / 64.0).collect();
            Tensor::f32(&tensor.name, &tensor.shape, &numbers)
        })
        .collect()
}

/// A safetensors file of the given header and data.
pub(crate) fn raw_safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

pub(crate) fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    for tensor in tensors {
        let begin = data.len();
        data.extend(&tensor.data);
        let offsets = [begin, data.len()];
        let entry = json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets});
        header.insert(tensor.name.clone(), entry);
    }
    raw_safetensors(&Value::Object(header).to_string(), &data)
}

/// A folder with the model of [`config`] in one file.
pub(crate) fn model_folder(tensors: &[Tensor]) -> Folder {
    let folder = Folder::new();
    folder.write("config.json", config().to_string());
    folder.write("model.safetensors", safetensors(tensors));
    folder
}

/// A GGUF metadata value.
#[derive(Clone)]
pub(crate) enum Meta {
    U32(u32),
    I32(i32),
    U64(u64),
    F32(f32),
    Bool(bool),
    Text(&'static str),
    Texts(Vec<&'static str>),
    U32s(Vec<u32>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    /// Type number and bytes as they are.
    Raw(u32, Vec<u8>),
}

fn text(bytes: &str) -> Vec<u8> {
    let mut out = (bytes.len() as u64).to_le_bytes().to_vec();
    out.extend(bytes.as_bytes());
    out
}

fn array(kind: u32, elements: Vec<Vec<u8>>) -> Vec<u8> {
    let mut out = kind.to_le_bytes().to_vec();
    out.extend((elements.len() as u64).to_le_bytes());
    out.extend(elements.concat());
    out
}

impl Meta {
    fn bytes(&self) -> (u32, Vec<u8>) {
        match self {
            Self::U32(number) => (4, number.to_le_bytes().to_vec()),
            Self::I32(number) => (5, number.to_le_bytes().to_vec()),
            Self::F32(number) => (6, number.to_le_bytes().to_vec()),
            Self::Bool(flag) => (7, vec![u8::from(*flag)]),
            Self::Text(value) => (8, text(value)),
            Self::Texts(values) => (9, array(8, values.iter().map(|value| text(value)).collect())),
            Self::U32s(values) => {
                (9, array(4, values.iter().map(|value| value.to_le_bytes().to_vec()).collect()))
            }
            Self::I32s(values) => {
                (9, array(5, values.iter().map(|value| value.to_le_bytes().to_vec()).collect()))
            }
            Self::F32s(values) => {
                (9, array(6, values.iter().map(|value| value.to_le_bytes().to_vec()).collect()))
            }
            Self::U64(number) => (10, number.to_le_bytes().to_vec()),
            Self::Raw(kind, bytes) => (*kind, bytes.clone()),
        }
    }
}

/// One tensor of a GGUF file; `dims` innermost first, as in the file.
#[derive(Clone)]
pub(crate) struct GgufTensor {
    pub(crate) name: String,
    pub(crate) dims: Vec<u64>,
    pub(crate) kind: u32,
    pub(crate) data: Vec<u8>,
    /// Instead of the place where the data really are.
    pub(crate) offset: Option<u64>,
}

impl GgufTensor {
    pub(crate) fn new(name: &str, dims: &[u64], kind: u32, data: Vec<u8>) -> Self {
        Self { name: name.to_owned(), dims: dims.to_vec(), kind, data, offset: None }
    }

    pub(crate) fn f32(name: &str, dims: &[u64], numbers: impl IntoIterator<Item = f32>) -> Self {
        let data = numbers.into_iter().flat_map(f32::to_le_bytes).collect();
        Self::new(name, dims, 0, data)
    }
}

/// A GGUF file to be written.
#[derive(Clone)]
pub(crate) struct Gguf {
    pub(crate) version: u32,
    pub(crate) metadata: Vec<(String, Meta)>,
    pub(crate) tensors: Vec<GgufTensor>,
    pub(crate) alignment: usize,
}

impl Gguf {
    /// The model of [`config`] for `architecture`, with a tokenizer, and of each of F32, F16 and
    /// Q8_0 some tensors. Every number is its tensor's place plus its own, over 64.
    pub(crate) fn model(architecture: &'static str) -> Self {
        let mut metadata = vec![("general.architecture".to_owned(), Meta::Text(architecture))];
        for (key, value) in [
            ("block_count", Meta::U32(1)),
            ("context_length", Meta::U32(16)),
            ("embedding_length", Meta::U32(8)),
            ("feed_forward_length", Meta::U32(32)),
            ("attention.head_count", Meta::U32(2)),
            ("attention.head_count_kv", Meta::U32(1)),
            ("attention.layer_norm_rms_epsilon", Meta::F32(1e-5)),
        ] {
            metadata.push((format!("{architecture}.{key}"), value));
        }
        for (key, value) in [
            ("general.name", Meta::Text("Tiny")),
            ("tokenizer.ggml.model", Meta::Text("gpt2")),
            ("tokenizer.ggml.tokens", Meta::Texts(vec!["a", "b", "c", "ab", "Ġ", "<|end|>"])),
            ("tokenizer.ggml.token_type", Meta::I32s(vec![1, 1, 1, 1, 1, 3])),
            ("tokenizer.ggml.merges", Meta::Texts(vec!["a b"])),
            ("tokenizer.ggml.eos_token_id", Meta::U32(5)),
            ("tokenizer.ggml.add_bos_token", Meta::Bool(false)),
        ] {
            metadata.push((key.to_owned(), value));
        }
        let mut tensors = Vec::new();
        let bias = architecture == "qwen2";
        for (name, dims, kind) in [
            ("token_embd.weight", vec![8, 6], 0),
            ("output_norm.weight", vec![8], 0),
            ("blk.0.attn_norm.weight", vec![8], 0),
            ("blk.0.attn_q.weight", vec![8, 8], 0),
            ("blk.0.attn_k.weight", vec![8, 4], 1),
            ("blk.0.attn_v.weight", vec![8, 4], 0),
            ("blk.0.attn_output.weight", vec![8, 8], 0),
            ("blk.0.ffn_norm.weight", vec![8], 0),
            ("blk.0.ffn_gate.weight", vec![8, 32], 1),
            ("blk.0.ffn_up.weight", vec![8, 32], 1),
            ("blk.0.ffn_down.weight", vec![32, 8], 8),
            ("blk.0.attn_q.bias", vec![8], 0),
            ("blk.0.attn_k.bias", vec![4], 0),
            ("blk.0.attn_v.bias", vec![4], 0),
        ] {
            if bias || !name.ends_with("bias") {
                let elements: u64 = dims.iter().product();
                let first = tensors.len();
                let number = |j: u64| first as f32 + j as f32 / 64.0;
                let data = match kind {
                    0 => (0..elements).flat_map(|j| number(j).to_le_bytes()).collect(),
                    1 => (0..elements)
                        .flat_map(|j| half::f16::from_f32(number(j)).to_le_bytes())
                        .collect(),
                    _ => (0..elements / 32)
                        .flat_map(|_| [&[0, 0x3c][..], &[7; 32]].concat())
                        .collect(),
                };
                tensors.push(GgufTensor::new(name, &dims, kind, data));
            }
        }
        Self { version: 3, metadata, tensors, alignment: 32 }
    }

    /// The same with three experts in the place of its MLP, two for each token: a Mixtral.
    pub(crate) fn mixture() -> Self {
        let mut file = Self::model("llama");
        file.set("llama.expert_count", Meta::U32(3)).set("llama.expert_used_count", Meta::U32(2));
        file.tensors.retain(|tensor| {
            !["ffn_gate", "ffn_up", "ffn_down"].iter().any(|name| tensor.name.contains(name))
        });
        for (name, dims) in [
            ("blk.0.ffn_gate_inp.weight", &[8, 3][..]),
            ("blk.0.ffn_gate_exps.weight", &[8, 32, 3]),
            ("blk.0.ffn_up_exps.weight", &[8, 32, 3]),
            ("blk.0.ffn_down_exps.weight", &[32, 8, 3]),
        ] {
            let elements: u64 = dims.iter().product();
            let numbers = (0..elements).map(|at| at as f32 / 64.0);
            file.tensors.push(GgufTensor::f32(name, dims, numbers));
        }
        file
    }

    pub(crate) fn set(&mut self, key: &str, value: Meta) -> &mut Self {
        match self.metadata.iter_mut().find(|(known, _)| known == key) {
            Some((_, old)) => *old = value,
            None => self.metadata.push((key.to_owned(), value)),
        }
        self
    }

    pub(crate) fn unset(&mut self, key: &str) -> &mut Self {
        self.metadata.retain(|(known, _)| known != key);
        self
    }

    pub(crate) fn tensor(&mut self, name: &str) -> &mut GgufTensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).expect("a tensor of the model")
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            let (kind, bytes) = value.bytes();
            out.extend(text(key));
            out.extend(kind.to_le_bytes());
            out.extend(bytes);
        }
        let mut data: Vec<u8> = Vec::new();
        for tensor in &self.tensors {
            data.resize(data.len().next_multiple_of(self.alignment), 0);
            out.extend(text(&tensor.name));
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            out.extend(tensor.dims.iter().flat_map(|n| n.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&tensor.data);
        }
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out.extend(data);
        out
    }

    pub(crate) fn write(&self) -> (Folder, PathBuf) {
        let folder = Folder::new();
        let path = folder.write("tiny.gguf", self.bytes());
        (folder, path)
    }

    pub(crate) fn open(&self) -> Result<Checkpoint, CheckpointError> {
        let (_folder, path) = self.write();
        Checkpoint::open(&path)
    }

    /// The message with which it is refused.
    pub(crate) fn refused(&self) -> String {
        match self.open() {
            Ok(_) => panic!("the file was accepted"),
            Err(error) => {
                let message = error.to_string();
                assert!(message.contains("tiny.gguf"), "{message} does not name the file");
                message
            }
        }
    }
}
