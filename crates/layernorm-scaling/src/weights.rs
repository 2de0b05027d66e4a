//! Where a model's tensors come from: a checkpoint, or a seeded initialisation. One constructor
//! serves both.

use burn::{
    module::Param,
    tensor::{Device, Tensor, TensorData},
};
use lns_checkpoint::{Checkpoint, CheckpointError, TensorAudit};
use lns_spec::{Depth, Initialisation, LayerIndex, ModelSpec, Residual, Site};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use rand_distr::{Distribution, Normal};

/// Why a model could not be made from a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message names its fields")]
pub enum LoadError {
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("{path}: the tensors are not those of its config.json\n{audit}")]
    Audit { path: String, audit: Box<TensorAudit> },
}

/// Fetches one named tensor of a known shape, row-major.
pub(crate) trait Weights {
    fn fetch(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError>;
}

impl Weights for &Checkpoint {
    fn fetch(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        Ok(self.read_f32(name, shape)?)
    }
}

/// Random weights, a function of the seed and the tensor's name alone: two models of one shape get
/// the same weights whatever their scheme, tensor by tensor.
pub(crate) struct RandomWeights<'a> {
    pub(crate) spec: &'a ModelSpec,
    pub(crate) initialisation: Initialisation,
    pub(crate) embedding_std: f64,
    pub(crate) seed: u64,
}

impl RandomWeights<'_> {
    fn layer(name: &str) -> Option<LayerIndex> {
        let layer = name.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()?;
        Some(LayerIndex::new(layer))
    }

    fn depth(&self, name: &str) -> Option<Depth> {
        self.spec.depths.get(Self::layer(name)?.get()).copied()
    }

    /// Where the learned λ called `name` starts.
    fn branch_scale(&self, name: &str) -> Option<f32> {
        let site = match name.rsplit('.').next()? {
            "attention_branch_scale" => Site::Attention,
            "mlp_branch_scale" => Site::Mlp,
            _ => return None,
        };
        match self.spec.residual(Self::layer(name)?, site) {
            Residual::Learned { init, .. } => Some(init as f32),
            Residual::Pre { .. } | Residual::Post { .. } | Residual::Sandwich => None,
        }
    }

    /// Standard deviation of the matrix called `name`.
    fn std(&self, name: &str) -> f64 {
        let layers = self.spec.trained_layers;
        let is = |suffixes: &[&str]| {
            suffixes.iter().any(|suffix| name.ends_with(&format!("{suffix}.weight")))
        };
        let gain = if is(&["v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]) {
            self.spec.norm_scheme.deepnorm_gain(layers)
        } else {
            1.0
        };
        gain * match self.depth(name) {
            Some(depth) if is(&["o_proj", "down_proj"]) => {
                self.initialisation.output_projection_std(depth, layers)
            }
            _ if name == "model.embed_tokens.weight" => self.embedding_std,
            _ => Initialisation::STD,
        }
    }
}

impl Weights for RandomWeights<'_> {
    fn fetch(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        let count = shape.iter().product();
        if name.ends_with("norm.weight") {
            return Ok(vec![1.0; count]);
        }
        if name.ends_with(".bias") {
            return Ok(vec![0.0; count]);
        }
        if let Some(init) = self.branch_scale(name) {
            return Ok(vec![init; count]);
        }
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ fnv1a(name));
        let Ok(normal) = Normal::new(0.0, self.std(name)) else {
            unreachable!("`Decoder::initialised` checks the only deviation it is given")
        };
        Ok((0..count).map(|_| normal.sample(&mut rng) as f32).collect())
    }
}

/// FNV-1a, so that a name's weights never depend on a hasher's version.
pub(crate) fn fnv1a(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Builds the parameters of one part of a model, names given relative to `prefix`.
pub(crate) struct Builder<'a> {
    pub(crate) weights: &'a mut dyn Weights,
    pub(crate) prefix: String,
    pub(crate) device: &'a Device,
}

impl<'a> Builder<'a> {
    /// For tensors outside the layers.
    pub(crate) fn outer(weights: &'a mut dyn Weights, device: &'a Device) -> Self {
        Self { weights, prefix: String::new(), device }
    }

    /// For the tensors of one layer.
    pub(crate) fn layer(
        weights: &'a mut dyn Weights,
        device: &'a Device,
        layer: LayerIndex,
    ) -> Self {
        Self { weights, prefix: format!("model.layers.{layer}."), device }
    }

    pub(crate) fn param<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
    ) -> Result<Param<Tensor<D>>, LoadError> {
        Ok(Param::from_tensor(self.tensor(name, shape)?))
    }

    pub(crate) fn tensor<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
    ) -> Result<Tensor<D>, LoadError> {
        let values = self.weights.fetch(&format!("{}{name}", self.prefix), &shape)?;
        Ok(Tensor::from_data(TensorData::new(values, shape), self.device))
    }
}
