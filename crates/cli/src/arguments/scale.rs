//! The flags of LayerNorm Scaling.

use clap::Args;
use lns_spec::{Block, DepthScale, Site, Sites};
use lns_train::ranges::LAYERS;

use super::{
    names::one_of,
    numbers::{EXPONENT, real, whole},
};

/// What differs from the LayerNorm Scaling that a verb begins with.
#[derive(Debug, Clone, Args)]
pub(crate) struct ScaleArgs {
    /// Power of the depth: 0.5 is the paper's 1/√ℓ (−8 to 8)
    #[arg(long, value_name = "E", value_parser = real(EXPONENT))]
    pub(crate) exponent: Option<f64>,

    /// Which norms are scaled, separated by commas
    #[arg(long, value_name = "SITES", value_delimiter = ',', value_parser = site())]
    pub(crate) sites: Vec<Site>,

    /// Leave the layers before this one (0-based, counted before any pruning) unscaled
    /// (0–4096)
    #[arg(long, value_name = "I", value_parser = whole::<u32>(0..=*LAYERS.end()))]
    pub(crate) first_layer: Option<u32>,

    /// Which of a sandwich's norms are scaled: those on the branches' output (the default) or on their
    /// input
    #[arg(long, value_name = "NORM", value_parser = norm_of_a_sandwich())]
    pub(crate) sandwich_norm: Option<Block>,
}

impl ScaleArgs {
    /// The scale that the flags say, over `base`.
    pub(crate) fn over(&self, base: DepthScale) -> DepthScale {
        let sites: Sites = self.sites.iter().copied().collect();
        DepthScale {
            exponent: self.exponent.unwrap_or(base.exponent),
            sites: if sites.any() { sites } else { base.sites },
            first_layer: self.first_layer.unwrap_or(base.first_layer),
            block: self.sandwich_norm.unwrap_or(base.block),
            ..base
        }
    }
}

fn norm_of_a_sandwich() -> impl clap::builder::TypedValueParser<Value = Block> {
    one_of([
        ("output", Block::Sandwich, "What the branch adds to the stream"),
        ("input", Block::SandwichInput, "What the branch reads"),
    ])
}

/// A site, named for the norm before it.
fn site() -> impl clap::builder::TypedValueParser<Value = Site> {
    one_of([
        (Site::Attention.name(), Site::Attention, "The norm before the attention"),
        (Site::Mlp.name(), Site::Mlp, "The norm before the MLP"),
    ])
}
