//! LayerNorm Scaling for Burn: "The Curse of Depth in Large Language Models" (Sun et al., arXiv
//! 2502.05795) as norm layers, a transformer layer and a decoder.
//!
//! In a Pre-LN transformer the residual stream's variance grows with depth until deep layers barely
//! change it. LNS multiplies the output of both norms of layer ℓ by 1/√ℓ (eq. 12).
//!
//! | to | use |
//! |---|---|
//! | swap the norms of your own model | [`RmsNormScaling`], [`LayerNormScaling`], or the functions [`rms_norm_scaling`], [`layer_norm_scaling`] |
//! | build a model of whole layers | [`TransformerLayerWithScaling`] |
//! | make a Llama with LNS, or any other norm scheme | [`Decoder::new`] |
//! | load a Hugging Face folder or GGUF file | [`Decoder::from_checkpoint`], [`StreamingDecoder`] |
//! | give a trained model LNS, or fold it away | [`apply_curse_of_depth_mitigation`], [`Decoder::fold`] |
//! | see a model without some of its layers | [`Pruned`] |
//! | train adapters beside frozen matrices | [`Decoder::with_lora`] |
//! | generate text | [`Decoder::generate`] |

mod cache;
mod decoder;
mod generate;
mod layer;
mod lora;
mod norm;
mod pruned;
mod retrofit;
mod streaming;
mod tensors;
mod weights;

pub use cache::{KvCache, LayerCache};
pub use decoder::{Decoder, Head, LayerSource, ids_tensor};
pub use generate::{Generation, Sampling};
pub use layer::{
    BranchEnd, GatedMlp, Projection, SelfAttention, TransformerLayerWithScaling,
    TransformerLayerWithScalingConfig, packed_rotary_table, rotary_table,
};
pub use lns_spec::ConversionError;
pub use lora::{LoraConfig, LoraError};
pub use norm::{
    LayerNormScaling, LayerNormScalingConfig, RmsNormScaling, RmsNormScalingConfig,
    layer_norm_scaling, rms_norm_scaling,
};
pub use pruned::Pruned;
pub use retrofit::{Retrofit, apply_curse_of_depth_mitigation};
pub use streaming::StreamingDecoder;
pub use tensors::{VisitedParameter, tensor_id, visit_parameters};
pub use weights::LoadError;
