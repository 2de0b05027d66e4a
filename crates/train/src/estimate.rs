//! What training will need, before it is started.

use std::fmt;

use lns_spec::ModelSpec;

use crate::{Optimiser, TrainingOptions};

/// Floating-point operations per token of forward and backward: 6 per parameter outside the embedding
/// (a tied head counts), and 12·L·T·H for attention as if every token saw every other; a third of it
/// for forward.
pub fn flops_per_token(spec: &ModelSpec, length: usize) -> f64 {
    let counts = spec.parameter_count();
    let head = (spec.vocab_size * spec.hidden_size) as u64;
    let active = counts.layers + counts.norms + head;
    let attention = 12 * spec.num_hidden_layers * length * spec.query_size();
    (6 * active) as f64 + attention as f64
}

/// Memory and work of a training step, in bytes and floating-point operations.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Parameters.
    pub parameters: u64,
    /// Workers that have sequences.
    pub workers: u64,
    /// The model's f32 weights.
    pub weights: u64,
    /// The optimiser's moments.
    pub moments: u64,
    /// Of one worker: the gradient of every parameter.
    pub gradients: u64,
    /// Of one worker: what the tape keeps of its sequences.
    pub activations: u64,
    /// Of one worker: logits held at once, and the gradient of the stream they make.
    pub logits: u64,
    /// Floating-point operations of a step; see [`flops_per_token`].
    pub flops: f64,
}

impl Estimate {
    /// For batches of `sequences` sequences of `length` tokens on `threads` workers.
    pub fn new(
        spec: &ModelSpec,
        sequences: usize,
        length: usize,
        threads: usize,
        options: &TrainingOptions,
    ) -> Self {
        const F32: u64 = size_of::<f32>() as u64;
        let counts = spec.parameter_count();
        let parameters = counts.total();
        let workers = threads.min(sequences).max(1);
        let share = sequences.div_ceil(workers);
        let pass = options.sequences_per_pass.map_or(share, |most| share.min(most.get()));
        let tokens = (pass * length) as u64;
        let [hidden, queries, keys, inner, layers] = [
            spec.hidden_size,
            spec.query_size(),
            spec.key_value_size(),
            spec.intermediate_size,
            spec.num_hidden_layers,
        ]
        .map(|size| size as u64);
        // Kept of a layer: the stream at both sites, both norms' outputs, q, k, v and the attention's
        // output with its log-sums, gate, up and their product.
        let of_layer =
            4 * hidden + 2 * queries + 2 * keys + spec.num_attention_heads as u64 + 3 * inner;
        let kept = match options.recompute {
            false => layers * of_layer,
            true => layers * hidden + of_layer,
        };
        let rows = tokens.min(512).min((1 << 24) / spec.vocab_size.max(1) as u64).max(1);
        let muon = matches!(options.optimiser, Optimiser::Muon { .. });
        let moments = if muon { 2 * parameters - matrices(spec) } else { 2 * parameters };
        Self {
            parameters,
            workers: workers as u64,
            weights: F32 * parameters,
            moments: F32 * moments,
            gradients: F32 * parameters,
            activations: F32 * tokens * (kept + 2 * hidden),
            logits: F32 * rows * (spec.vocab_size as u64 + hidden),
            flops: (sequences * length) as f64 * flops_per_token(spec, length),
        }
    }

    /// All of it at once. Gradients appear as activations go, so a run stays below; the memory of one
    /// is only partly used again for the other, so not far below.
    pub fn total(&self) -> u64 {
        let worker = self.activations + self.gradients + self.logits;
        self.weights + self.moments + self.workers * worker
    }
}

/// Numbers in the layers' matrices.
fn matrices(spec: &ModelSpec) -> u64 {
    let layers = spec.layers().flat_map(|layer| spec.layer_tensors(layer));
    let matrices = layers.filter(|tensor| tensor.shape.len() == 2);
    matrices.map(|tensor| tensor.shape.iter().product::<usize>() as u64).sum()
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gigabytes = |bytes: u64| format!("{:.3} GB", bytes as f64 / 1e9);
        writeln!(f, "  parameters   {}", self.parameters)?;
        writeln!(f, "  weights      {}", gigabytes(self.weights))?;
        writeln!(f, "  optimiser    {}", gigabytes(self.moments))?;
        writeln!(f, "  per worker   {} of activations", gigabytes(self.activations))?;
        writeln!(f, "               {} of gradients", gigabytes(self.gradients))?;
        writeln!(f, "               {} of logits", gigabytes(self.logits))?;
        writeln!(f, "  workers      {}", self.workers)?;
        writeln!(f, "  memory       {} at most", gigabytes(self.total()))?;
        write!(f, "  work         {:.3} TFLOP a step", self.flops / 1e12)
    }
}
