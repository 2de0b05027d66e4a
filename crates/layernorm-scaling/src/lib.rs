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
//! | convert a loaded model without changing what it computes | [`Decoder::with_layernorm_scaling`], [`Decoder::fold`] |
//! | generate text | [`Decoder::generate`] |

mod cache;
mod decoder;
mod generate;
mod layer;
mod norm;
mod retrofit;
mod streaming;
mod tensors;
mod weights;

pub use cache::{KvCache, LayerCache};
pub use decoder::{Decoder, Head, LayerSource, ids_tensor};
pub use generate::{Generation, Sampling};
pub use layer::{
    BranchEnd, GatedMlp, Projection, SelfAttention, TransformerLayerWithScaling,
    TransformerLayerWithScalingConfig, rotary_table,
};
pub use norm::{
    LayerNormScaling, LayerNormScalingConfig, RmsNormScaling, RmsNormScalingConfig,
    layer_norm_scaling, rms_norm_scaling,
};
pub use retrofit::ConversionError;
pub use streaming::StreamingDecoder;
pub use tensors::tensor_name;
pub use weights::LoadError;
