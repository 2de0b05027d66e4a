//! What training will need, before it is started.

use std::fmt;

use lns_model::{LoraConfig, available_memory};
use lns_show::with_prefix;
use lns_spec::{ModelSpec, ModelTensor};
use serde::Serialize;

use crate::{RunConfig, RunError, TrainingOptions};

const F32: u64 = size_of::<f32>() as u64;

/// Floating-point operations per token of forward and backward: 6 per parameter outside the embedding
/// (a tied head counts), and 12·L·T·H for attention as if every token saw every other; a third of it
/// for forward.
pub fn flops_per_token(spec: &ModelSpec, length: usize) -> f64 {
    let counts = spec.parameter_count();
    let head = spec.vocab_size as f64 * spec.hidden_size as f64;
    let active = (counts.layers + counts.norms) as f64 + head;
    let attention = 12.0 * spec.num_hidden_layers as f64 * length as f64 * spec.query_size() as f64;
    6.0 * active + attention
}

/// Memory and work of a training step, in bytes and floating-point operations.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// Parameters.
    pub parameters: u64,
    /// Numbers that are trained: all parameters, or those of the adapters.
    pub trained: u64,
    /// Workers that have sequences.
    pub workers: u64,
    /// The model's f32 weights.
    #[serde(rename = "weights_bytes")]
    pub weights: u64,
    /// The optimiser's moments.
    #[serde(rename = "moments_bytes")]
    pub moments: u64,
    /// What one worker holds: the gradient of everything that is trained.
    #[serde(rename = "worker_gradients_bytes")]
    pub gradients: u64,
    /// What one worker holds: matrices with their adapters added, which every pass makes anew.
    #[serde(rename = "worker_adapted_bytes")]
    pub adapted: u64,
    /// What one worker holds: activations that the tape keeps of its sequences.
    #[serde(rename = "worker_activations_bytes")]
    pub activations: u64,
    /// What one worker holds: logits at one time, and the gradient of the stream they make.
    #[serde(rename = "worker_logits_bytes")]
    pub logits: u64,
    /// The teacher's f32 weights, 0 without one.
    #[serde(rename = "teacher_bytes")]
    pub teacher: u64,
    /// What one worker holds: a layer of the teacher on its way through the sequences.
    #[serde(rename = "worker_teacher_bytes")]
    pub teaching: u64,
    /// Weights before and after a step whose statistics are taken.
    #[serde(rename = "statistics_bytes")]
    pub statistics: u64,
    /// Floating-point operations of a step; see [`flops_per_token`].
    #[serde(rename = "flops_per_step")]
    pub flops: f64,
}

impl Estimate {
    /// For a run of these settings on a model of this specification, with the predictions of a teacher.
    pub fn of(config: &RunConfig, spec: &ModelSpec, teacher: Option<&ModelSpec>) -> Self {
        let (sequences, length) = (config.batch.sequences, config.data.length);
        let options = config.training_options();
        let mut estimate = Self::new(spec, sequences, length, config.threads, &options);
        if config.statistics.every > 0 {
            estimate.statistics = product(&[2, estimate.weights]);
        }
        let estimate = match config.finetune.as_ref().and_then(|from| from.lora.as_ref()) {
            Some(lora) => estimate.with_lora(lora, spec, &options),
            None => estimate,
        };
        let Some(teacher) = teacher else { return estimate };
        let tokens = tokens_of_a_pass(sequences, length, config.threads, &options);
        let kept = of_layer(teacher) + 2 * teacher.hidden_size as u64;
        // A third of the work of a model that is trained.
        let forward = flops_per_token(teacher, length) / 3.0;
        Self {
            teacher: product(&[F32, teacher.parameter_count().total()]),
            teaching: product(&[F32, tokens, kept]),
            flops: estimate.flops + sequences as f64 * length as f64 * forward,
            ..estimate
        }
    }

    /// For batches of `sequences` sequences of `length` tokens on `threads` workers. Sizes that no
    /// machine has are the largest number.
    pub fn new(
        spec: &ModelSpec,
        sequences: usize,
        length: usize,
        threads: usize,
        options: &TrainingOptions,
    ) -> Self {
        let counts = spec.parameter_count();
        let parameters = counts.total();
        let workers = threads.min(sequences).max(1);
        let tokens = tokens_of_a_pass(sequences, length, threads, options);
        let [hidden, layers] = [spec.hidden_size, spec.num_hidden_layers].map(|size| size as u64);
        let of_layer = of_layer(spec);
        let activations = match options.recompute {
            false => layers * of_layer,
            true => layers * hidden + of_layer,
        };
        let rows = tokens.min(512).min((1 << 24) / spec.vocab_size.max(1) as u64).max(1);
        let kept = |tensor: &ModelTensor| options.optimiser.moments(Some(tensor.id)).len() as u64;
        let moments: u64 =
            spec.tensors().iter().map(|tensor| kept(tensor) * tensor.elements()).sum();
        Self {
            parameters,
            trained: parameters,
            workers: workers as u64,
            weights: product(&[F32, parameters]),
            moments: product(&[F32, moments]),
            gradients: product(&[F32, parameters]),
            adapted: 0,
            teacher: 0,
            teaching: 0,
            statistics: 0,
            activations: product(&[F32, tokens, activations + 2 * hidden]),
            logits: product(&[F32, rows, spec.vocab_size as u64 + hidden]),
            flops: sequences as f64 * length as f64 * flops_per_token(spec, length),
        }
    }

    /// The estimate when only adapters are trained: two matrices beside each target, whose product is
    /// added to it in every pass.
    #[must_use]
    fn with_lora(self, lora: &LoraConfig, spec: &ModelSpec, options: &TrainingOptions) -> Self {
        let (trained, beside) = lora.sizes(spec);
        let kept = options.optimiser.moments(None).len() as u64;
        Self {
            trained,
            moments: product(&[F32, kept, trained]),
            gradients: product(&[F32, trained]),
            adapted: product(&[F32, beside]),
            weights: product(&[F32, self.parameters + trained]),
            ..self
        }
    }

    /// All of it at once, with matrices and adapters added once more for evaluations. Gradients appear as activations go, and statistics are taken when these are
    /// gone, but the memory of one is only partly used again for the other: runs were found at this
    /// sum, give or take 8 % (docs/performance.md).
    pub fn total(&self) -> u64 {
        let sum = |parts: &[u64]| parts.iter().fold(0, |sum: u64, part| sum.saturating_add(*part));
        let passing = sum(&[self.activations, self.adapted, self.logits, self.teaching]);
        sum(&[
            self.weights,
            self.moments,
            product(&[self.workers, self.gradients]),
            product(&[self.workers, passing]),
            self.statistics,
            self.adapted,
            self.teacher,
        ])
    }
}

/// Tokens that a worker takes through at once.
fn tokens_of_a_pass(
    sequences: usize,
    length: usize,
    threads: usize,
    options: &TrainingOptions,
) -> u64 {
    let share = sequences.div_ceil(threads.min(sequences).max(1));
    let pass = options.sequences_per_pass.map_or(share, |most| share.min(most.get()));
    product(&[pass as u64, length as u64])
}

/// Numbers that are kept of a layer for each token: the stream at both sites, both norms' outputs, q, k, v
/// and the attention's output with its log-sums, gate, up and their product.
fn of_layer(spec: &ModelSpec) -> u64 {
    let [hidden, queries, keys, inner] =
        [spec.hidden_size, spec.query_size(), spec.key_value_size(), spec.intermediate_size]
            .map(|size| size as u64);
    4 * hidden + 2 * queries + 2 * keys + spec.num_attention_heads as u64 + 3 * inner
}

/// Refuses a run that needs more memory than there is, before any of it is taken: the system would end
/// the program in the middle of it, without a word.
///
/// # Errors
/// [`RunError::Memory`].
pub fn check_memory(
    config: &RunConfig,
    spec: &ModelSpec,
    teacher: Option<&ModelSpec>,
) -> Result<(), RunError> {
    let needed = Estimate::of(config, spec, teacher).total();
    match available_memory() {
        Some(available) if needed > available => Err(RunError::Memory {
            needed: in_bytes(needed),
            available: in_bytes(available),
            cure: cures(config, available, |config| Estimate::of(config, spec, teacher).total()),
        }),
        _ => Ok(()),
    }
}

/// What would make it fit, of the settings that leave the result as it is, and of those that do not.
fn cures(config: &RunConfig, available: u64, needed: impl Fn(&RunConfig) -> u64) -> String {
    let fits = |config: &RunConfig| needed(config) <= available;
    let mut smallest = config.clone();
    smallest.batch.sequences_per_pass = 1;
    if fits(&smallest) {
        return "give --set batch.sequences_per_pass=1, the same training in less memory"
            .to_owned();
    }
    smallest.batch.recompute = true;
    if fits(&smallest) {
        return "give --set batch.sequences_per_pass=1 --set batch.recompute=true, the same training \
                in less memory"
            .to_owned();
    }
    smallest.threads = 1;
    if fits(&smallest) {
        return "give --threads 1 --set batch.sequences_per_pass=1 --set batch.recompute=true"
            .to_owned();
    }
    match config.finetune.as_ref().map(|from| &from.lora) {
        Some(None) => {
            "train adapters (--lora 16), shorter sequences (--length), or a smaller model"
        }
        Some(Some(_)) => "use shorter sequences (--length) or a smaller model",
        None => "use a smaller model or shorter sequences (--length)",
    }
    .to_owned()
}

/// Saturating: sizes come from people.
fn product(factors: &[u64]) -> u64 {
    factors.iter().fold(1, |product: u64, factor| product.saturating_mul(*factor))
}

fn in_bytes(bytes: u64) -> String {
    with_prefix(bytes as f64, "B")
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  parameters   {}", self.parameters)?;
        if self.trained != self.parameters {
            writeln!(f, "  trained      {}, in adapters", self.trained)?;
        }
        writeln!(f, "  weights      {}", in_bytes(self.weights))?;
        writeln!(f, "  optimiser    {}", in_bytes(self.moments))?;
        writeln!(f, "  per worker   {} of activations", in_bytes(self.activations))?;
        writeln!(f, "               {} of gradients", in_bytes(self.gradients))?;
        if self.adapted > 0 {
            writeln!(f, "               {} of matrices with adapters", in_bytes(self.adapted))?;
        }
        writeln!(f, "               {} of logits", in_bytes(self.logits))?;
        if self.teacher > 0 {
            writeln!(f, "               {} of a layer of the teacher", in_bytes(self.teaching))?;
        }
        writeln!(f, "  workers      {}", self.workers)?;
        if self.teacher > 0 {
            writeln!(f, "  teacher      {}", in_bytes(self.teacher))?;
        }
        if self.statistics > 0 {
            writeln!(f, "  statistics   {} between passes", in_bytes(self.statistics))?;
        }
        writeln!(f, "  memory       {} at most", in_bytes(self.total()))?;
        write!(f, "  work         {} a step", with_prefix(self.flops, "FLOP"))
    }
}
