//! Cross-entropy and divergence over the vocabulary without ever holding tokens × vocabulary.

use super::{
    dispatch,
    exp::{exp, exp_sum},
    linear::linear,
    simd::maximum,
};

/// Vocabulary entries whose logits exist at once, for all rows of a block.
const VOCABULARY_BLOCK: usize = 1024;

/// Rows taken together: 512 × 1024 logits are 2 MiB, one core's L2 on the machines measured.
const ROW_BLOCK: usize = 512;

/// Logits of each side that [`divergence_to`] holds: 32 MiB, enough rows that packing the head for the
/// product does not outweigh it (32 rows of a vocabulary of 49,152 took half as long again as 170).
const DIVERGENCE_LOGITS: usize = 1 << 23;

/// −log softmax(hidden · headᵀ)\[target\] for each row. hidden: rows × width, head: vocabulary × width.
///
/// One pass over the vocabulary with a running maximum and sum (the online softmax), so the head is
/// read once per row block.
pub(crate) fn next_token_nll(
    nll: &mut [f32],
    hidden: &[f32],
    head: &[f32],
    targets: &[u32],
    width: usize,
) {
    let mut logits = vec![0f32; ROW_BLOCK.min(nll.len()) * VOCABULARY_BLOCK];
    for ((nll, hidden), targets) in nll
        .chunks_mut(ROW_BLOCK)
        .zip(hidden.chunks(ROW_BLOCK * width))
        .zip(targets.chunks(ROW_BLOCK))
    {
        let rows = targets.len();
        let mut running = vec![LogSum::default(); rows];
        let mut target_logits = vec![0f32; rows];
        for (block, head) in head.chunks(VOCABULARY_BLOCK * width).enumerate() {
            let (first, count) = (block * VOCABULARY_BLOCK, head.len() / width);
            let logits = &mut logits[..rows * count];
            linear(logits, hidden, head, width);
            for (row, logits) in logits.chunks_exact(count).enumerate() {
                running[row].add(logits);
                if let Some(at) = (targets[row] as usize).checked_sub(first)
                    && let Some(logit) = logits.get(at)
                {
                    target_logits[row] = *logit;
                }
            }
        }
        for ((nll, sum), logit) in nll.iter_mut().zip(&running).zip(&target_logits) {
            *nll = (sum.value() - f64::from(*logit)) as f32;
        }
    }
}

/// For each row, KL(softmax(reference · headᵀ) ‖ softmax(hidden · headᵀ)) in nats, and whether both
/// have their largest logit at the same place.
pub(crate) fn divergence_to(
    reference: &[f32],
    hidden: &[f32],
    head: &[f32],
    width: usize,
) -> Vec<(f64, bool)> {
    let vocabulary = head.len() / width;
    let block = (DIVERGENCE_LOGITS / vocabulary).clamp(1, ROW_BLOCK);
    let (mut p, mut q) = (vec![0f32; block * vocabulary], vec![0f32; block * vocabulary]);
    let mut out = Vec::with_capacity(hidden.len() / width);
    for (reference, hidden) in reference.chunks(block * width).zip(hidden.chunks(block * width)) {
        let count = hidden.len() / width * vocabulary;
        linear(&mut p[..count], reference, head, width);
        linear(&mut q[..count], hidden, head, width);
        for (p, q) in p[..count].chunks_exact(vocabulary).zip(q[..count].chunks_exact(vocabulary)) {
            out.push(divergence(p, q));
        }
    }
    out
}

/// Σ p·(log p − log q) = Σ p·(x − y) − (log Σ eˣ − log Σ eʸ) for logits x of p and y of q.
fn divergence(x: &[f32], y: &[f32]) -> (f64, bool) {
    let (mut x_sum, mut y_sum) = (LogSum::default(), LogSum::default());
    x_sum.add(x);
    y_sum.add(y);
    let (mut weights, mut weighted) = (0f64, 0f64);
    // Blocks added in f64, so that a vocabulary of any size keeps the f32 sums short.
    for (x, y) in x.chunks(VOCABULARY_BLOCK).zip(y.chunks(VOCABULARY_BLOCK)) {
        let (block_weights, block_weighted) = weighted_difference(x, y, x_sum.largest);
        weights += f64::from(block_weights);
        weighted += f64::from(block_weighted);
    }
    let argmax = |logits: &[f32], largest: f32| logits.iter().position(|logit| *logit == largest);
    let agree = argmax(x, x_sum.largest) == argmax(y, y_sum.largest);
    ((weighted / weights - (x_sum.value() - y_sum.value())).max(0.0), agree)
}

/// log Σ e^x of the values seen so far, as maximum and scaled sum.
#[derive(Clone, Copy)]
struct LogSum {
    largest: f32,
    sum: f64,
}

impl Default for LogSum {
    fn default() -> Self {
        Self { largest: f32::NEG_INFINITY, sum: 0.0 }
    }
}

impl LogSum {
    fn add(&mut self, values: &[f32]) {
        let (largest, sum) = shifted_sum(values);
        if largest > self.largest {
            self.sum *= f64::from(self.largest - largest).exp();
            self.largest = largest;
        }
        self.sum += f64::from(sum) * f64::from(largest - self.largest).exp();
    }

    fn value(&self) -> f64 {
        f64::from(self.largest) + self.sum.ln()
    }
}

dispatch! {
    /// Σ e^(x − shift) and Σ e^(x − shift)·(x − y).
    fn weighted_difference(x: &[f32], y: &[f32], shift: f32) -> (f32, f32) {
        const LANES: usize = 16;
        let (mut weights, mut weighted) = ([0f32; LANES], [0f32; LANES]);
        for (x, y) in x.chunks(LANES).zip(y.chunks(LANES)) {
            for ((x, y), lane) in x.iter().zip(y).zip(0..LANES) {
                let weight = exp(x - shift);
                weights[lane] += weight;
                weighted[lane] += weight * (x - y);
            }
        }
        (weights.iter().sum(), weighted.iter().sum())
    }

    fn shifted_sum(values: &[f32]) -> (f32, f32) {
        let largest = maximum(values);
        (largest, exp_sum(values, largest))
    }
}
