//! How weights start, before training.

use serde::{Deserialize, Serialize};

use crate::{BranchGate, Depth, ModelSpec, Part, Role, TensorId};

/// How weights start, before training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Initialisation {
    /// N(0, 0.02²) everywhere.
    #[default]
    Normal,
    /// As `normal`, the output projections (`o_proj`, `down_proj`) divided by √(2L).
    Scaled,
    /// As `normal`, the output projections divided by √(2ℓ).
    DepthScaled,
}

impl Initialisation {
    /// Standard deviation of every weight matrix before any of the factors below.
    pub const STD: f64 = 0.02;

    /// √(2/5) = 0.632, the embedding's standard deviation in the paper's published code until 2026-01-02.
    /// Its authors say that the reported runs had 0.02; nobody has reproduced either. It sets the
    /// stream's variance at layer 0, and with it every variance curve.
    pub const LARGE_EMBEDDING_STD: f64 = 0.632_455_532_033_675_9;

    /// Every one, the default first.
    pub const ALL: [Self; 3] = [Self::Normal, Self::Scaled, Self::DepthScaled];

    /// Its name in settings and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Scaled => "scaled",
            Self::DepthScaled => "depth-scaled",
        }
    }

    /// Standard deviation of an output projection at `depth` in a model of `layers` layers.
    pub fn output_projection_std(self, depth: Depth, layers: usize) -> f64 {
        match self {
            Self::Normal => Self::STD,
            Self::Scaled => Self::STD / (2.0 * layers as f64).sqrt(),
            Self::DepthScaled => Self::STD / (2.0 * depth.value()).sqrt(),
        }
    }
}

/// What the values of a tensor are before training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Start {
    /// Every value is this number.
    Constant(f64),
    /// Drawn from N(0, std²).
    Normal {
        /// The standard deviation.
        std: f64,
    },
}

impl ModelSpec {
    /// What the values of a tensor of this model are before training; `embedding_std` is the
    /// standard deviation of the embedding.
    pub fn start(&self, id: TensorId, initialisation: Initialisation, embedding_std: f64) -> Start {
        let site = match id.role {
            Role::BranchGate(site) => Some(site),
            _ => None,
        };
        if let (Some(site), Some(layer)) = (site, id.layer)
            && let BranchGate::Learned { init, .. } = self.branch(layer, site).gate
        {
            return Start::Constant(init);
        }
        if id.part == Part::Bias || matches!(id.role, Role::StreamGate | Role::HeadBias) {
            return Start::Constant(0.0);
        }
        if id.role.is_gain() {
            return Start::Constant(1.0);
        }
        let layers = self.trained_layers;
        let depth = id.layer.and_then(|layer| self.per_layer.get(layer.get())).map(|own| own.depth);
        let std = match depth {
            Some(depth) if id.role.is_output_projection() => {
                initialisation.output_projection_std(depth, layers)
            }
            _ if id.role == Role::Embedding => embedding_std,
            _ => Initialisation::STD,
        };
        Start::Normal { std: self.norm_scheme.initial_gain(id.role, layers) * std }
    }
}
