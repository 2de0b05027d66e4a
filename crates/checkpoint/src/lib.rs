//! Checkpoints as files: safetensors folders and GGUF, read lazily and never trusted.
//!
//! [`Checkpoint::open`] parses headers only; numbers are read tensor by tensor from memory-mapped
//! files, always as f32 in Hugging Face's names and `[out, in]` layout.
//!
//! ```no_run
//! use lns_checkpoint::Checkpoint;
//!
//! # fn main() -> Result<(), lns_checkpoint::CheckpointError> {
//! let checkpoint = Checkpoint::open("SmolLM2-135M".as_ref())?;
//! assert!(checkpoint.audit().is_clean());
//! let hidden = checkpoint.spec().hidden_size;
//! let gain = checkpoint.read_f32("model.norm.weight", &[hidden])?;
//! # Ok(())
//! # }
//! ```
//!
//! A weight file that another process truncates while it is mapped kills this process; see
//! [`Checkpoint`].

mod audit;
mod checkpoint;
mod decode;
mod e4m3;
mod error;
mod gguf;
mod gguf_tokenizer;
mod map;
mod opened;
mod pairs;
mod reading;
mod rows;
mod safetensors_folder;
mod safetensors_header;
mod scales;
mod stranger;
mod surgery;
mod tensor;
mod write;

pub use audit::{Misshapen, TensorAudit};
pub use checkpoint::Checkpoint;
pub use error::CheckpointError;
pub use gguf::{GgufOptions, GgufTensor, gguf_tensors, write_gguf};
pub use gguf_tokenizer::GgufTokenizer;
pub use opened::{Format, TokenizerSource};
pub use stranger::{NearestFamily, Stranger};
pub use surgery::{Conversion, Rounding, TensorEdit};
pub use tensor::{StorageType, TensorInfo};
pub use write::{NamedTensor, write_model, write_tensors};
