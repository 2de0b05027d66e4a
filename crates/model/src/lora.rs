//! LoRA: low-rank adapters beside frozen matrices (Hu et al., arXiv 2106.09685), as Burn's
//! reparameterisation of a parameter: W + alpha/rank · B·A wherever W is used.
//!
//! The effective matrix is made anew in every pass and its whole gradient is computed, so an adapter
//! saves the optimiser's memory and the snapshots' size, not work.

use burn::{
    module::{LoraAdapter, Module, Param, Reparameterizer},
    tensor::{Tensor, TensorData},
};
use layernorm_scaling::tensor_seed;
use lns_checkpoint::NamedTensor;
use lns_spec::{ModelSpec, ModelTensor, Part, Role, TensorId};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use rand_distr::{Distribution, Normal};
use serde::{Deserialize, Serialize};

use crate::{
    Decoder,
    lora_file::{Factors, Side, read, written},
    tensors::{field_name, tensor_id, visit_parameters},
};

/// The matrices that can have an adapter, by the names of their fields in a layer, as PEFT has them.
fn target_names() -> Vec<&'static str> {
    Role::PROJECTIONS.into_iter().filter_map(field_name).collect()
}

/// Adapters of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank of every adapter.
    pub rank: usize,
    /// The adapters' sum is scaled by `alpha / rank`.
    pub alpha: f64,
    /// Which of the layers' matrices have one.
    pub targets: Vec<String>,
}

impl Default for LoraConfig {
    /// Rank 16, alpha 32, all seven matrices of a layer.
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 32.0,
            targets: target_names().into_iter().map(str::to_owned).collect(),
        }
    }
}

/// Why a model cannot have these adapters.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message names its fields")]
pub enum LoraError {
    #[error(
        "a LoRA of rank {rank} is larger than {tensor}, which is {rows} × {columns}: use a rank from \
         1 to {}, or train the model in full",
        rows.min(columns)
    )]
    Rank { rank: usize, tensor: String, rows: usize, columns: usize },
    #[error("LoRA's alpha is {alpha}; it is a finite number above 0")]
    Alpha { alpha: f64 },
    #[error("LoRA's targets name {given:?}; the matrices of a layer are {}", target_names().join(", "))]
    Target { given: String },
    #[error("LoRA has no target; the matrices of a layer are {}", target_names().join(", "))]
    NoTarget,
    #[error("the adapter file lacks {name} of shape {shape:?}, or holds another")]
    Adapter { name: String, shape: Vec<usize> },
}

impl LoraConfig {
    pub(crate) fn targets(&self, id: TensorId) -> bool {
        let name = field_name(id.role).filter(|_| id.part == Part::Weight);
        name.is_some_and(|name| self.targets.iter().any(|target| target == name))
    }

    /// Numbers in the adapters of a model, and in the matrices that they stand beside.
    pub fn sizes(&self, spec: &ModelSpec) -> (u64, u64) {
        let targets = spec.tensors().into_iter().filter(|tensor| self.targets(tensor.id));
        targets.fold((0, 0), |(adapters, beside), tensor| {
            let [rows, columns] =
                [0, 1].map(|axis| tensor.shape.get(axis).map_or(0, |n| *n as u64));
            (adapters + self.rank as u64 * (rows + columns), beside + rows * columns)
        })
    }

    /// Whether a model can have these adapters.
    ///
    /// # Errors
    /// [`LoraError`], naming the matrix.
    pub fn check(&self, spec: &ModelSpec) -> Result<(), LoraError> {
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return Err(LoraError::Alpha { alpha: self.alpha });
        }
        if let Some(given) =
            self.targets.iter().find(|name| !target_names().contains(&name.as_str()))
        {
            return Err(LoraError::Target { given: given.clone() });
        }
        if self.targets.is_empty() {
            return Err(LoraError::NoTarget);
        }
        let rank = self.rank;
        let too_small = |tensor: &ModelTensor| {
            self.targets(tensor.id) && (rank == 0 || tensor.shape.iter().any(|n| *n < rank))
        };
        match spec.tensors().into_iter().find(too_small) {
            Some(ModelTensor { id, shape, .. }) => {
                let (tensor, rows, columns) = (id.to_string(), shape[0], shape[1]);
                Err(LoraError::Rank { rank, tensor, rows, columns })
            }
            None => Ok(()),
        }
    }
}

/// Gives a factor of the adapter beside a matrix, by its shape.
type Make<'a> = dyn FnMut(TensorId, Side, [usize; 2]) -> Vec<f32> + 'a;

impl Decoder {
    /// The same function, every parameter frozen, with an adapter beside each target: B zeros, A
    /// N(0, 1/(3·in)), the variance of the usual uniform start, from the seed and the matrix's name.
    ///
    /// # Errors
    /// [`LoraError`].
    pub fn with_lora(self, config: &LoraConfig, seed: u64) -> Result<Self, LoraError> {
        self.with_factors(config, &mut |id, side, [rows, columns]| {
            let count = rows * columns;
            if side == Side::B {
                return vec![0.0; count];
            }
            // Named as beside a Llama's matrix, whatever the family.
            let name = id.to_string();
            let module = name.strip_suffix(".weight").unwrap_or(&name);
            let name = format!("base_model.model.{module}.lora_A.weight");
            let mut rng = ChaCha8Rng::seed_from_u64(tensor_seed(seed, &name));
            let Ok(normal) = Normal::new(0.0, (3.0 * columns as f64).sqrt().recip()) else {
                unreachable!("a matrix has columns")
            };
            (0..count).map(|_| normal.sample(&mut rng) as f32).collect()
        })
    }

    /// As [`with_lora`](Self::with_lora), going on from [`adapters`](Self::adapters) that were saved, which
    /// are asked for by name and shape.
    ///
    /// # Errors
    /// [`LoraError::Adapter`] for one that is missing or of another shape.
    pub fn with_saved_lora(
        self,
        config: &LoraConfig,
        mut saved: impl FnMut(&str, &[usize]) -> Option<Vec<f32>>,
    ) -> Result<Self, LoraError> {
        config.check(self.spec())?;
        let mut factors = read(self.spec(), config, &mut saved)?;
        self.with_factors(config, &mut |id, side, _| {
            factors.remove(&(id, side)).unwrap_or_default()
        })
    }

    fn with_factors(self, config: &LoraConfig, make: &mut Make<'_>) -> Result<Self, LoraError> {
        config.check(self.spec())?;
        // Every factor first, since what attaches them cannot fail.
        let mut made = Vec::new();
        visit_parameters(&self, &mut |parameter| {
            let Some(id) = tensor_id(parameter.path).filter(|id| config.targets(*id)) else {
                return;
            };
            let (rows, columns) = (parameter.shape[0], parameter.shape[1]);
            let a = make(id, Side::A, [config.rank, columns]);
            let b = make(id, Side::B, [rows, config.rank]);
            made.push((parameter.path.to_owned(), a, b));
        });
        let attach = Attach { config, made: made.into_iter() };
        Ok(self.apply_reparameterization(attach))
    }

    /// The adapters' factors as the tensors of an `adapter_model.safetensors` of PEFT: one adapter for each
    /// module of the family's model in transformers, which may be several matrices of a layer.
    pub fn adapters(&self) -> Vec<NamedTensor<'static>> {
        let (mut factors, mut rank) = (Factors::new(), 0);
        visit_parameters(self, &mut |parameter| {
            // Burn's `a` is the left factor.
            let (path, side) = match parameter.path.rsplit_once(".lora.") {
                Some((path, "b")) => (path, Side::A),
                Some((path, "a")) => (path, Side::B),
                _ => return,
            };
            let Some(id) = tensor_id(path) else { return };
            let factor = parameter.copied(String::new());
            if side == Side::A {
                rank = factor.shape[0];
            }
            factors.insert((id, side), factor.values.into_owned());
        });
        written(self.spec(), &factors, rank)
    }

    /// The model with its adapters added to the matrices.
    pub fn merged(&self) -> Self {
        self.clone().materialize()
    }
}

/// Attaches factors that were made, in the order in which the module is mapped: that of its visit.
struct Attach<'a> {
    config: &'a LoraConfig,
    made: std::vec::IntoIter<(String, Vec<f32>, Vec<f32>)>,
}

impl Reparameterizer for Attach<'_> {
    type Reparam = LoraAdapter;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<LoraAdapter>) {
        let tensor = param.base();
        let frozen = param.set_require_grad(false);
        if !tensor_id(path).is_some_and(|id| self.config.targets(id)) {
            return (frozen, None);
        }
        let Some((made_for, a, b)) = self.made.next() else {
            unreachable!("factors were made for every target")
        };
        assert_eq!(made_for, path, "a module is mapped in the order of its visit");
        let (device, rank) = (tensor.device(), self.config.rank);
        let (rows, columns) = (tensor.dims()[0], tensor.dims()[D - 1]);
        let factor = |values, shape: [usize; 2]| {
            Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), &device))
        };
        // Burn's `a` is the left factor.
        let adapter = LoraAdapter {
            a: factor(b, [rows, rank]),
            b: factor(a, [rank, columns]),
            scale: self.config.alpha / rank as f64,
        };
        (frozen, Some(adapter))
    }
}
