//! Where the parameters of a layer or model come from, asked for by role. One constructor serves a
//! seeded initialisation and whatever holds trained values.

use std::{convert::Infallible, sync::Arc};

use burn::tensor::{Device, Tensor, TensorData};
use lns_spec::{Initialisation, LayerIndex, ModelSpec, ModelTensor, NormKind, Part, Role, Start};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use rand_distr::{Distribution, Normal};

use crate::{ExpertSource, NormScaling, Projection};

/// Where tensors come from.
pub trait Weights {
    /// Why one could not be had.
    type Error;

    /// One tensor of the model, row-major, of the shape that it names.
    ///
    /// # Errors
    /// When it cannot be had.
    fn fetch(&mut self, tensor: &ModelTensor) -> Result<Vec<f32>, Self::Error>;

    /// Where the experts of a layer come from when tokens are sent to them; `None` where all are fetched
    /// with the layer.
    fn experts(&mut self, _layer: LayerIndex) -> Option<Arc<dyn ExpertSource>> {
        None
    }
}

/// Random weights, a function of the seed and of which tensor it is: two models of one shape get the
/// same weights whatever their scheme and family, tensor by tensor.
#[derive(Debug)]
pub struct RandomWeights<'a> {
    spec: &'a ModelSpec,
    initialisation: Initialisation,
    embedding_std: f64,
    seed: u64,
}

impl<'a> RandomWeights<'a> {
    /// The default initialisation, [`Initialisation::Normal`].
    pub fn normal(spec: &'a ModelSpec, seed: u64) -> Self {
        Self::new(spec, Initialisation::Normal, Initialisation::STD, seed)
    }

    /// Another initialisation, and the embedding's standard deviation
    /// ([`lns_spec::embedding_std`]).
    ///
    /// # Panics
    /// If `embedding_std` is not a finite number of at least 0.
    pub fn new(
        spec: &'a ModelSpec,
        initialisation: Initialisation,
        embedding_std: f64,
        seed: u64,
    ) -> Self {
        assert!(
            embedding_std.is_finite() && embedding_std >= 0.0,
            "embedding_std: {embedding_std}"
        );
        Self { spec, initialisation, embedding_std, seed }
    }
}

impl Weights for RandomWeights<'_> {
    type Error = Infallible;

    fn fetch(&mut self, tensor: &ModelTensor) -> Result<Vec<f32>, Infallible> {
        let count = tensor.shape.iter().product();
        let std = match self.spec.start(tensor.id, self.initialisation, self.embedding_std) {
            Start::Constant(value) => return Ok(vec![value as f32; count]),
            Start::Normal { std } => std,
        };
        let mut rng = ChaCha8Rng::seed_from_u64(tensor_seed(self.seed, &tensor.id.to_string()));
        let Ok(normal) = Normal::new(0.0, std) else {
            unreachable!("every deviation is a finite number")
        };
        Ok((0..count).map(|_| normal.sample(&mut rng) as f32).collect())
    }
}

/// The seed of one tensor among those of a model that is drawn from `seed`. FNV-1a of its name, so that
/// a tensor's values never depend on a hasher's version.
pub fn tensor_seed(seed: u64, name: &str) -> u64 {
    seed ^ name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Builds the parameters of one part of a model, by their roles.
#[derive(Debug)]
pub struct Builder<'a, W> {
    weights: &'a mut W,
    layer: Option<LayerIndex>,
    tensors: Vec<ModelTensor>,
    /// Whose tensors are asked for: an expert's, or those that all tokens meet.
    expert: Option<usize>,
    norm: NormKind,
    device: &'a Device,
}

impl<'a, W: Weights> Builder<'a, W> {
    /// For tensors outside the layers.
    pub fn outer(spec: &ModelSpec, weights: &'a mut W, device: &'a Device) -> Self {
        let tensors = spec.outer_tensors();
        Self { weights, layer: None, tensors, expert: None, norm: spec.norm, device }
    }

    /// For the tensors of one layer.
    pub fn layer(
        spec: &ModelSpec,
        layer: LayerIndex,
        weights: &'a mut W,
        device: &'a Device,
    ) -> Self {
        let tensors = spec.layer_tensors(layer);
        Self { weights, layer: Some(layer), tensors, expert: None, norm: spec.norm, device }
    }

    /// What `build` makes of the tensors of one of the layer's experts.
    pub(crate) fn of_expert<T>(
        &mut self,
        expert: usize,
        build: impl FnOnce(&mut Self) -> Result<T, W::Error>,
    ) -> Result<T, W::Error> {
        self.expert = Some(expert);
        let built = build(self);
        self.expert = None;
        built
    }

    /// Where the layer's experts come from if they are not fetched with it.
    pub(crate) fn expert_source(&mut self) -> Option<Arc<dyn ExpertSource>> {
        self.weights.experts(self.layer?)
    }

    /// The weight or bias of a role, if the model has it.
    ///
    /// # Errors
    /// What the weights fail with.
    pub fn optional<const D: usize>(
        &mut self,
        role: Role,
        part: Part,
    ) -> Result<Option<Tensor<D>>, W::Error> {
        let expert = self.expert;
        let wanted = |tensor: &&ModelTensor| {
            (tensor.id.expert, tensor.id.role, tensor.id.part) == (expert, role, part)
        };
        let Some(tensor) = self.tensors.iter().find(wanted) else { return Ok(None) };
        let values = self.weights.fetch(tensor)?;
        let data = TensorData::new(values, tensor.shape.clone());
        Ok(Some(Tensor::from_data(data, self.device)))
    }

    /// The weight of a role that every model of this kind has.
    ///
    /// # Errors
    /// What the weights fail with.
    pub fn weight<const D: usize>(&mut self, role: Role) -> Result<Tensor<D>, W::Error> {
        match self.optional(role, Part::Weight)? {
            Some(tensor) => Ok(tensor),
            None => unreachable!("the inventory of tensors has no {role:?}"),
        }
    }

    /// The matrix and the bias of a role, if the model has them.
    ///
    /// # Errors
    /// What the weights fail with.
    pub fn projection(&mut self, role: Role) -> Result<Option<Projection>, W::Error> {
        let Some(weight) = self.optional(role, Part::Weight)? else { return Ok(None) };
        let bias = self.optional(role, Part::Bias)?;
        Ok(Some(Projection::new(weight, bias)))
    }

    /// The norm of a role, if the model has it.
    ///
    /// # Errors
    /// What the weights fail with.
    pub fn norm(
        &mut self,
        role: Role,
        epsilon: f64,
        scale: f64,
    ) -> Result<Option<NormScaling>, W::Error> {
        let gamma = self.optional(role, Part::Weight)?;
        let beta = self.optional(role, Part::Bias)?;
        Ok(gamma.map(|gamma| NormScaling::new(self.norm, gamma, beta, epsilon, scale)))
    }
}
