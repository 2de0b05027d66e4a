//! Cross-entropy over the vocabulary without ever holding tokens × vocabulary.

use super::{
    buffer::{over, with_scratch},
    dispatch,
    exp::{exp, exp_in_place, exp_sum, soft_capped},
    linear::{Strides, Target, linear, linear_input_gradient, product},
    simd::maximum,
};
use crate::{IGNORED, LossTerms};

/// Vocabulary entries whose logits exist at once, for all rows of a block.
pub(super) const VOCABULARY_BLOCK: usize = 1024;

/// Rows taken together: 512 × 1024 logits are 2 MiB, one core's L2 on the machines measured.
pub(super) const ROW_BLOCK: usize = 512;

/// Logits of whole rows that the loss with gradients holds: 64 MiB. The head's gradient is read and
/// written once per block of rows, so the blocks should not be small.
pub(super) const GRADIENT_LOGITS: usize = 1 << 24;

/// What one row contributes.
#[derive(Clone, Copy)]
pub(crate) struct RowLoss {
    /// −log softmax\[target\]
    pub(crate) nll: f64,
    /// log Σ e^logit
    pub(crate) log_sum: f64,
    /// Whether no logit is larger than the target's; false where one is no number.
    pub(crate) likeliest: bool,
}

/// The loss of each row; [`IGNORED`] targets give `nll` 0. hidden: rows × width, head: vocabulary ×
/// width.
///
/// One pass over the vocabulary with a running maximum and sum (the online softmax), so the head is
/// read once per row block.
pub(crate) fn row_losses(
    hidden: &[f32],
    head: &[f32],
    targets: &[u32],
    width: usize,
    softcap: Option<f64>,
) -> Vec<RowLoss> {
    let mut losses = Vec::with_capacity(targets.len());
    let mut logits = vec![0f32; ROW_BLOCK.min(targets.len()) * VOCABULARY_BLOCK];
    for (hidden, targets) in hidden.chunks(ROW_BLOCK * width).zip(targets.chunks(ROW_BLOCK)) {
        let rows = targets.len();
        let mut running = vec![LogSum::default(); rows];
        let mut target_logits = vec![0f32; rows];
        for (block, head) in head.chunks(VOCABULARY_BLOCK * width).enumerate() {
            let (first, count) = (block * VOCABULARY_BLOCK, head.len() / width);
            let logits = &mut logits[..rows * count];
            linear(over(logits), hidden, head, width);
            if let Some(cap) = softcap {
                soft_cap(logits, cap as f32);
            }
            for (row, logits) in logits.chunks_exact(count).enumerate() {
                running[row].add(logits);
                if let Some(at) = (targets[row] as usize).checked_sub(first)
                    && let Some(logit) = logits.get(at)
                {
                    target_logits[row] = *logit;
                }
            }
        }
        for ((target, sum), logit) in targets.iter().zip(&running).zip(&target_logits) {
            let log_sum = sum.value();
            let nll = if *target == IGNORED { 0.0 } else { log_sum - f64::from(*logit) };
            let likeliest = nll.is_finite() && *logit >= sum.largest;
            losses.push(RowLoss { nll, log_sum, likeliest });
        }
    }
    losses
}

/// [`row_losses`] with the gradients of weight · Σ (nll + z_loss · log_sum²) over the rows that are
/// not ignored, which are written to `dhidden` and, if wanted, `dhead`.
///
/// With E = e^(logit − max) of a row and s its sum, ∂/∂logits = factor·E − weight·onehot(target),
/// factor = weight·(1 + 2·z_loss·log_sum)/s: the rows of E·head and of hidden are scaled instead of E.
/// Under a soft-cap, E and the weight of the target are multiplied by the cap's slope.
pub(crate) fn row_losses_with_gradients(
    dhidden: &mut [f32],
    mut dhead: Option<&mut [f32]>,
    hidden: &[f32],
    head: &[f32],
    targets: &[u32],
    width: usize,
    (LossTerms { weight, z_loss }, softcap): (LossTerms, Option<f64>),
) -> Vec<RowLoss> {
    let vocabulary = head.len() / width;
    let block = (GRADIENT_LOGITS / vocabulary).clamp(1, ROW_BLOCK).min(targets.len().max(1));
    let mut losses = Vec::with_capacity(targets.len());
    if let Some(dhead) = &mut dhead
        && targets.is_empty()
    {
        dhead.fill(0.0);
    }
    with_scratch(block * (vocabulary + width + 2), |scratch| {
        let (logits, rest) = scratch.split_at_mut(block * vocabulary);
        let (scaled, rest) = rest.split_at_mut(block * width);
        let (factors, weights) = rest.split_at_mut(block);
        for (index, targets) in targets.chunks(block).enumerate() {
            let rows = targets.len();
            let range = index * block * width..(index * block + rows) * width;
            let (hidden, dhidden) = (&hidden[range.clone()], &mut dhidden[range]);
            let logits = &mut logits[..rows * vocabulary];
            linear(over(logits), hidden, head, width);
            let numbers = factors.iter_mut().zip(weights.iter_mut());
            for ((logits, target), (factor, own)) in
                logits.chunks_exact_mut(vocabulary).zip(targets).zip(numbers)
            {
                let mut logit = logits.get(*target as usize).copied().unwrap_or(0.0);
                *own = weight as f32;
                let (largest, sum) = match softcap {
                    None => exponentials(logits),
                    Some(cap) => {
                        let (capped, slope) = soft_capped(logit, cap as f32);
                        (logit, *own) = (capped, *own * slope);
                        capped_exponentials(logits, cap as f32)
                    }
                };
                let logit = f64::from(logit);
                let log_sum = f64::from(largest) + f64::from(sum).ln();
                let ignored = *target == IGNORED;
                *factor = match ignored {
                    true => 0.0,
                    false => (weight * (1.0 + 2.0 * z_loss * log_sum) / f64::from(sum)) as f32,
                };
                losses.push(RowLoss {
                    nll: if ignored { 0.0 } else { log_sum - logit },
                    log_sum,
                    likeliest: logit >= f64::from(largest),
                });
            }
            linear_input_gradient(over(dhidden), logits, head, width);
            finish_rows(dhidden, head, targets, factors, weights, width);
            let Some(dhead) = &mut dhead else { continue };
            let scaled = &mut scaled[..rows * width];
            scale_rows(scaled, hidden, factors, width);
            add_head_gradient(dhead, index == 0, logits, scaled, width);
            let rows = targets.iter().zip(hidden.chunks_exact(width)).zip(&*weights);
            for ((target, hidden), weight) in rows {
                if *target != IGNORED {
                    let row = &mut dhead[*target as usize * width..][..width];
                    subtract(row, hidden, *weight);
                }
            }
        }
    });
    losses
}

/// Adds logitsᵀ · hidden to the head's gradient, over what is there if this is the `first` block of rows.
///
/// By blocks of the vocabulary, so that the part of the gradient being added to stays in the cache while
/// all rows pass over it.
pub(super) fn add_head_gradient(
    dhead: &mut [f32],
    first: bool,
    logits: &[f32],
    hidden: &[f32],
    width: usize,
) {
    let (vocabulary, rows) = (dhead.len() / width, hidden.len() / width);
    for (at, dhead) in dhead.chunks_mut(VOCABULARY_BLOCK * width).enumerate() {
        let count = dhead.len() / width;
        let target = match first {
            true => Target::New(over(dhead)),
            false => Target::Added(dhead),
        };
        product(
            [count, width, rows],
            (target, Strides::row_major(width)),
            (&logits[at * VOCABULARY_BLOCK..], Strides::row_major(vocabulary).transposed()),
            (hidden, Strides::row_major(width)),
            1.0,
        );
    }
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
    /// logits ← e^(logit − max); the maximum and the sum.
    fn exponentials(logits: &mut [f32]) -> (f32, f32) {
        let largest = maximum(logits);
        (largest, exp_in_place(logits, largest))
    }

    /// x ← cap·tanh(x/cap)
    pub(super) fn soft_cap(logits: &mut [f32], cap: f32) {
        for logit in logits {
            *logit = soft_capped(*logit, cap).0;
        }
    }

    /// logits ← e^(capped − max) · slope, capped being cap·tanh(logit/cap) and slope its derivative; the
    /// maximum of the capped and Σ e^(capped − max).
    fn capped_exponentials(logits: &mut [f32], cap: f32) -> (f32, f32) {
        // The cap keeps the order.
        let largest = soft_capped(maximum(logits), cap).0;
        let mut lanes = [0f32; 16];
        for block in logits.chunks_mut(16) {
            for (x, lane) in block.iter_mut().zip(&mut lanes) {
                let (capped, slope) = soft_capped(*x, cap);
                let e = exp(capped - largest);
                *lane += e;
                *x = e * slope;
            }
        }
        (largest, lanes.iter().sum())
    }

    /// dhidden ← factor · dhidden − weight · head\[target\], row by row.
    fn finish_rows(
        dhidden: &mut [f32], head: &[f32], targets: &[u32], factors: &[f32], weights: &[f32],
        width: usize,
    ) {
        let rows = dhidden.chunks_exact_mut(width).zip(targets).zip(factors.iter().zip(weights));
        for ((row, target), (factor, weight)) in rows {
            if *target == IGNORED {
                row.fill(0.0);
                continue;
            }
            let head = &head[*target as usize * width..][..width];
            for (d, w) in row.iter_mut().zip(head) {
                *d = *d * factor - weight * w;
            }
        }
    }

    fn scale_rows(scaled: &mut [f32], hidden: &[f32], factors: &[f32], width: usize) {
        let rows = scaled.chunks_exact_mut(width).zip(hidden.chunks_exact(width)).zip(factors);
        for ((scaled, hidden), factor) in rows {
            for (s, h) in scaled.iter_mut().zip(hidden) {
                *s = h * factor;
            }
        }
    }

    /// row ← row − weight · x
    fn subtract(row: &mut [f32], x: &[f32], weight: f32) {
        for (row, x) in row.iter_mut().zip(x) {
            *row -= weight * x;
        }
    }

    fn shifted_sum(values: &[f32]) -> (f32, f32) {
        let largest = maximum(values);
        (largest, exp_sum(values, largest))
    }
}
