//! The probes of a diagnosis: their names on the command line and what they measure.

use crate::DiagnoseRecord;

/// One kind of evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Variance and rms of the residual stream.
    Stream,
    /// Branch variances, their ratio to the stream, cosine, block influence.
    Branches,
    /// The whole angular matrix and the most redundant blocks.
    Angular,
    /// Loss without each layer.
    Removal,
    /// Loss without each layer's attention, and without its MLP.
    Sublayers,
    /// Gradient norms.
    Gradients,
    /// Distance of each layer's Jacobian from the identity.
    Jacobian,
    /// Logit lens.
    Lens,
}

impl Probe {
    /// Every probe, cheap ones first.
    pub const ALL: [Self; 8] = [
        Self::Stream,
        Self::Branches,
        Self::Angular,
        Self::Removal,
        Self::Sublayers,
        Self::Gradients,
        Self::Jacobian,
        Self::Lens,
    ];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Branches => "branches",
            Self::Angular => "angular",
            Self::Removal => "removal",
            Self::Sublayers => "sublayers",
            Self::Gradients => "gradients",
            Self::Jacobian => "jacobian",
            Self::Lens => "lens",
        }
    }

    /// What it measures, in a few words.
    pub const fn measures(self) -> &'static str {
        match self {
            Self::Stream => "variance and rms of the residual stream",
            Self::Branches => "what attention and MLP add, cosine, block influence",
            Self::Angular => "angular distance of every pair of layers, most redundant blocks",
            Self::Removal => "loss without each layer",
            Self::Sublayers => "loss without each layer's attention, and without its MLP",
            Self::Gradients => "gradient norm of each layer's parameters and input",
            Self::Jacobian => "distance of each layer's Jacobian from the identity",
            Self::Lens => "how far the final prediction is already there after each layer",
        }
    }

    /// Whether `record` holds numbers of this probe.
    pub fn is_in(self, record: &DiagnoseRecord) -> bool {
        let layers = || record.layers.iter();
        match self {
            Self::Stream => !record.stream.is_empty(),
            Self::Branches => layers().any(|layer| layer.block_influence.is_some()),
            Self::Angular => !record.angular_distance.is_empty(),
            Self::Removal => layers().any(|layer| layer.removal.is_some()),
            Self::Sublayers => layers().any(|layer| layer.removal_attention.is_some()),
            Self::Gradients => layers().any(|layer| layer.gradient_norm.is_some()),
            Self::Jacobian => layers().any(|layer| layer.jacobian_identity_distance.is_some()),
            Self::Lens => !record.lens.is_empty(),
        }
    }

    /// Probes of which `record` holds nothing.
    pub fn missing_from(record: &DiagnoseRecord) -> Vec<Self> {
        Self::ALL.into_iter().filter(|probe| !probe.is_in(record)).collect()
    }
}
