//! What a model *is*, as data: its layers and their depth, the norm scheme, the shape of every
//! tensor, and the `config.json` that says so. Nothing here computes with weights.
//!
//! The vocabulary is that of "The Curse of Depth in Large Language Models" (arXiv 2502.05795):
//! LayerNorm Scaling multiplies the output of each norm in decoder layer ℓ by 1/√ℓ (eq. 12).
//!
//! ```
//! use lns_spec::{DepthScale, LayerIndex, NormScheme, Residual, Site};
//!
//! let scheme = NormScheme::Lns(DepthScale::default());
//! let third = LayerIndex::new(2);
//! let Residual::Pre { output_scale, .. } = scheme.residual(third.depth(), 12, Site::Mlp) else {
//!     unreachable!("LNS is a Pre-LN scheme")
//! };
//! assert_eq!(output_scale, 1.0 / 3f64.sqrt());
//! ```

mod config;
mod error;
mod layer;
mod model;
mod presets;
mod rope;
mod scheme;
mod surgery;
pub mod theory;

pub use error::SpecError;
pub use layer::{Depth, LayerIndex, LayerSelection, Site};
pub use model::{Activation, Family, ModelSpec, ParameterCount, TensorShape};
pub use presets::{PRESETS, Preset};
pub use rope::{RopeFrequencies, RopeScaling, RopeSpec};
pub use scheme::{
    Anneal, BranchRule, DepthScale, Initialisation, NormScheme, Placement, Residual, Sites,
    embedding_std,
};
pub use surgery::{ConversionError, Removal};
