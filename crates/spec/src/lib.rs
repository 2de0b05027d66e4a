//! What a model *is*, as data: its layers and their depth, the norm scheme, the shape of every
//! tensor, and the `config.json` that says so. Nothing here computes with weights.
//!
//! The vocabulary is that of "The Curse of Depth in Large Language Models" (arXiv 2502.05795):
//! LayerNorm Scaling multiplies the output of each norm in decoder layer ℓ by 1/√ℓ (eq. 12).
//!
//! ```
//! use lns_spec::{DepthScale, LayerIndex, NormScheme, Site};
//!
//! let scheme = NormScheme::Lns(DepthScale::default());
//! let third = LayerIndex::new(2);
//! let branch = scheme.branch(third.depth(), 12, Site::Mlp);
//! assert_eq!(branch.output_scale(), 1.0 / 3f64.sqrt());
//! ```

mod branch;
mod config;
mod error;
mod experts;
mod families;
mod initialisation;
mod layer;
mod meant;
mod model;
mod presets;
mod roles;
mod rope;
pub mod schemes;
pub mod stranger;
mod surgery;
pub mod theory;

pub use branch::{Branch, BranchGate, InputNorm, Join};
pub use error::SpecError;
pub use experts::{ExpertGroups, ExpertsSpec, Router};
pub use families::{Family, Gguf, StoredName};
pub use initialisation::{Initialisation, Start};
pub use layer::{Depth, LayerIndex, LayerSelection, Site, Sites};
pub use meant::{differs_little, meant};
pub use model::{
    Activation, AttentionScale, ClampedGate, LatentSpec, LayerSpec, ModelSpec, NormKind,
    ParameterCount, Prediction, QkNorm, Rotary,
};
pub use presets::{PRESETS, Preset};
pub use roles::{
    ModelTensor, Part, Role, StackPlace, StoredLayout, StoredRows, StoredTensor, TensorId,
};
pub use rope::{RopeFrequencies, RopeScaling, RopeSpec};
pub use schemes::{Anneal, Block, DepthScale, NormScheme, Placement};
pub use surgery::{ConversionError, Gains, Removal};

/// What stands for a target, the id of the token to predict, at a position whose loss is not counted.
pub const IGNORED: u32 = u32::MAX;
