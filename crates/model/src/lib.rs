//! Whole models: a decoder under any norm scheme, from a seed or from a checkpoint, in memory or a
//! layer at a time, and what is done to one in memory.
//!
//! | to | use |
//! |---|---|
//! | make a Llama with LNS, or any other norm scheme | [`Decoder::new`] |
//! | load a Hugging Face folder or GGUF file | [`Decoder::from_checkpoint`], [`StreamingDecoder`] |
//! | load all of a mixture but its experts | [`Decoder::with_experts_on_disk`] |
//! | give a trained model LNS, or fold it away | [`apply_curse_of_depth_mitigation`], [`Decoder::fold`] |
//! | see a model without some of its layers | [`Pruned`] |
//! | train adapters beside frozen matrices | [`Decoder::with_lora`] |
//! | generate text | [`Decoder::generate`] |

mod cache;
mod decoder;
mod experts_on_disk;
mod generate;
mod load;
mod lora;
mod lora_file;
mod memory;
mod pruned;
mod retrofit;
mod source;
mod streaming;
mod tensors;

pub use cache::KvCache;
pub use decoder::{Decoder, Head, ids_tensor};
pub use experts_on_disk::ExpertsOnDisk;
pub use generate::{Generation, Sampling};
pub use lns_spec::ConversionError;
pub use load::LoadError;
pub use lora::{LoraConfig, LoraError};
pub use lora_file::PeftModules;
pub use memory::{
    Layers, available_memory, f32_bytes, f32_bytes_without_experts, fits, fits_without_experts,
    open_layers, room_for_experts,
};
pub use pruned::Pruned;
pub use retrofit::{Retrofit, apply_curse_of_depth_mitigation};
pub use source::LayerSource;
pub use streaming::StreamingDecoder;
pub use tensors::{VisitedParameter, tensor_id, visit_parameters};
