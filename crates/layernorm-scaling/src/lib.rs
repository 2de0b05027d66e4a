//! LayerNorm Scaling for Burn: "The Curse of Depth in Large Language Models" (Sun et al., arXiv
//! 2502.05795) as norm layers and a transformer layer.
//!
//! In a Pre-LN transformer the residual stream's variance grows with depth until deep layers barely
//! change it. LNS multiplies the output of both norms of layer ℓ by 1/√ℓ (eq. 12).
//!
//! | to | use |
//! |---|---|
//! | swap the norms of your own model | [`RmsNormScaling`], [`LayerNormScaling`], or the functions [`rms_norm_scaling`], [`layer_norm_scaling`] |
//! | build a model of whole layers | [`TransformerLayerWithScaling`] |
//! | give such layers values of your own | [`Weights`] |
//!
//! Whole models, checkpoints, LoRA and surgery are the crate `lns-model`'s; this one knows no file
//! format.

mod attention;
mod cache;
mod experts;
mod latent;
mod layer;
mod mlp;
mod norm;
mod projection;
mod segments;
mod weights;

pub use attention::{SelfAttention, packed_rotary_table, rotary_table};
pub use cache::LayerCache;
pub use experts::{ExpertSource, Experts};
pub use latent::{Latent, Latents};
pub use layer::{BranchEnd, TransformerLayerWithScaling, TransformerLayerWithScalingConfig};
pub use mlp::{Mlp, gate_of};
pub use norm::{
    LayerNormScaling, LayerNormScalingConfig, NormScaling, RmsNormScaling, RmsNormScalingConfig,
    layer_norm_scaling, rms_norm_scaling,
};
pub use projection::Projection;
pub use segments::Segment;
pub use weights::{Builder, RandomWeights, Weights, tensor_seed};
