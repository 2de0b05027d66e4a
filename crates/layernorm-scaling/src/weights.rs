//! Where a model's tensors come from: a checkpoint, or a seeded initialisation. One constructor
//! serves both.

use burn::tensor::{Device, Tensor, TensorData};
use lns_checkpoint::{Checkpoint, CheckpointError, TensorAudit};
use lns_spec::{Initialisation, LayerIndex, ModelSpec, ModelTensor, Part, Role, Start};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use rand_distr::{Distribution, Normal};

use crate::RmsNormScaling;

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

/// Fetches one tensor of the model, row-major.
pub(crate) trait Weights {
    fn fetch(&mut self, tensor: &ModelTensor) -> Result<Vec<f32>, LoadError>;
}

impl Weights for &Checkpoint {
    fn fetch(&mut self, tensor: &ModelTensor) -> Result<Vec<f32>, LoadError> {
        Ok(self.read(tensor)?)
    }
}

/// Random weights, a function of the seed and of which tensor it is: two models of one shape get the
/// same weights whatever their scheme and family, tensor by tensor.
pub(crate) struct RandomWeights<'a> {
    pub(crate) spec: &'a ModelSpec,
    pub(crate) initialisation: Initialisation,
    pub(crate) embedding_std: f64,
    pub(crate) seed: u64,
}

impl Weights for RandomWeights<'_> {
    fn fetch(&mut self, tensor: &ModelTensor) -> Result<Vec<f32>, LoadError> {
        let count = tensor.shape.iter().product();
        let std = match self.spec.start(tensor.id, self.initialisation, self.embedding_std) {
            Start::Constant(value) => return Ok(vec![value as f32; count]),
            Start::Normal { std } => std,
        };
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ fnv1a(&tensor.id.to_string()));
        let Ok(normal) = Normal::new(0.0, std) else {
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

/// Builds the parameters of one part of a model, by their roles.
pub(crate) struct Builder<'a> {
    weights: &'a mut dyn Weights,
    tensors: Vec<ModelTensor>,
    device: &'a Device,
}

impl<'a> Builder<'a> {
    /// For tensors outside the layers.
    pub(crate) fn outer(
        spec: &ModelSpec,
        weights: &'a mut dyn Weights,
        device: &'a Device,
    ) -> Self {
        Self { weights, tensors: spec.outer_tensors(), device }
    }

    /// For the tensors of one layer.
    pub(crate) fn layer(
        spec: &ModelSpec,
        layer: LayerIndex,
        weights: &'a mut dyn Weights,
        device: &'a Device,
    ) -> Self {
        Self { weights, tensors: spec.layer_tensors(layer), device }
    }

    /// The weight or bias of a role, if the model has it.
    pub(crate) fn optional<const D: usize>(
        &mut self,
        role: Role,
        part: Part,
    ) -> Result<Option<Tensor<D>>, LoadError> {
        let wanted = |tensor: &&ModelTensor| (tensor.id.role, tensor.id.part) == (role, part);
        let Some(tensor) = self.tensors.iter().find(wanted) else { return Ok(None) };
        let values = self.weights.fetch(tensor)?;
        let data = TensorData::new(values, tensor.shape.clone());
        Ok(Some(Tensor::from_data(data, self.device)))
    }

    /// The weight of a role that every model of this kind has.
    pub(crate) fn weight<const D: usize>(&mut self, role: Role) -> Result<Tensor<D>, LoadError> {
        match self.optional(role, Part::Weight)? {
            Some(tensor) => Ok(tensor),
            None => unreachable!("the inventory of tensors has no {role:?}"),
        }
    }

    /// The norm of a role, if the model has it.
    pub(crate) fn norm(
        &mut self,
        role: Role,
        epsilon: f64,
        scale: f64,
    ) -> Result<Option<RmsNormScaling>, LoadError> {
        let gamma = self.optional(role, Part::Weight)?;
        Ok(gamma.map(|gamma| RmsNormScaling::new(gamma, epsilon, scale)))
    }
}
