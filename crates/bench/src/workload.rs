//! The workloads, with weights and tokens that any program can make: splitmix64 of an index, so that
//! losses can be compared with another implementation's.

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{Shape, Tensor, TensorData},
};
use lns_kernels::Compute;
use lns_model::Decoder;
use lns_spec::{ModelSpec, NormScheme, Preset};
use lns_train::{Batch, BatchError, flops_per_token};

/// A model's shape and a batch's.
#[derive(Debug, Clone)]
pub struct Workload {
    /// The workload's name, one letter.
    pub name: &'static str,
    /// The workload in words.
    pub title: &'static str,
    /// The model.
    pub spec: ModelSpec,
    /// Tokens of a sequence.
    pub length: usize,
    /// Sequences of a batch.
    pub sequences: usize,
}

/// How many different batches there are; step s takes batch s mod 4.
const BATCHES: u64 = 4;

impl Workload {
    /// Every workload.
    pub fn all() -> Vec<Self> {
        let preset =
            |[vocab_size, hidden_size, intermediate_size, num_hidden_layers, heads]: [usize; 5]| {
                Preset {
                    name: "workload",
                    hidden_size,
                    intermediate_size,
                    num_attention_heads: heads,
                    num_hidden_layers,
                    vocab_size,
                    max_position_embeddings: 1024,
                }
            };
        let workload = |name, title, shape, scheme: NormScheme, [length, sequences]: [usize; 2]| {
            let mut spec = preset(shape).spec(scheme);
            spec.rms_norm_eps = 1e-5;
            Self { name, title, spec, length, sequences }
        };
        let pre = || NormScheme::pre();
        let a = [4096, 256, 688, 8, 4];
        let mut d =
            workload("D", "as A with 2 key/value heads and LNS", a, NormScheme::lns(), [256, 8]);
        d.spec.num_key_value_heads = 2;
        vec![
            workload("A", "8 layers × 256, vocabulary 4096", a, pre(), [256, 8]),
            workload(
                "B",
                "24 layers × 128, vocabulary 2048",
                [2048, 128, 352, 24, 4],
                pre(),
                [128, 16],
            ),
            workload("C", "the paper's 130M", [32_000, 768, 2048, 12, 12], pre(), [256, 8]),
            d,
        ]
    }

    /// Tokens of a batch.
    pub fn tokens(&self) -> usize {
        self.length * self.sequences
    }

    /// See [`lns_train::flops_per_token`].
    pub fn flops_per_token(&self) -> f64 {
        flops_per_token(&self.spec, self.length)
    }

    /// The model with its reproducible weights: uniform in ±0.034641016 (deviation 0.02), gains 1.
    pub fn model(&self, compute: &Compute) -> Decoder {
        struct Fill(u64);
        impl ModuleMapper for Fill {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                param.map(|tensor| {
                    if D != 2 {
                        return tensor;
                    }
                    let (shape, start) = (tensor.dims(), self.0 * 1_000_000_007);
                    self.0 += 1;
                    let count: usize = shape.iter().product();
                    let values: Vec<f32> = (start..start + count as u64).map(weight).collect();
                    Tensor::from_data(TensorData::new(values, Shape::from(shape)), &tensor.device())
                })
            }
        }
        let model = Decoder::new(&self.spec, 0, &compute.device).map(&mut Fill(0));
        model.with_precision(compute.precision)
    }

    /// The batch of step `step`.
    ///
    /// # Errors
    /// Never for the workloads of [`all`](Self::all).
    pub fn batch(&self, step: u64) -> Result<Batch, BatchError> {
        let vocabulary = self.spec.vocab_size as u64;
        let count = (self.sequences * (self.length + 1)) as u64;
        let start = (step % BATCHES) * 1_000_003 + 777_777_777_777;
        let ids: Vec<u32> = (start..start + count)
            .map(|index| {
                (splitmix(index) % vocabulary).min(splitmix(index + 5) % vocabulary) as u32
            })
            .collect();
        Batch::from_windows(&ids, self.length)
    }
}

fn weight(index: u64) -> f32 {
    let unit = (splitmix(index) >> 40) as f64 / f64::from(1u32 << 24);
    ((unit - 0.5) * 2.0 * 0.034_641_016) as f32
}

/// One step of splitmix64 (Steele et al., 2014).
fn splitmix(x: u64) -> u64 {
    let z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
