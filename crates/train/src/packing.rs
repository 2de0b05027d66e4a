//! Sequences without their padding.
//!
//! What follows a sequence's last target changes nothing: attention is causal, so no token before it
//! sees it, and no loss is taken of it. Sequences with such an end are therefore laid end to end, as
//! documents that do not see each other and whose positions begin at 0 each
//! ([`packed_rotary_table`]): the same losses and gradients up to the rounding of sums, for the work of
//! the tokens that count.

use burn::tensor::{Int, Tensor};
use layernorm_scaling::{packed_rotary_table, rotary_table};
use lns_kernels::{IGNORED, RotaryTable, is_cpu};
use lns_model::Decoder;

use crate::gradients::ids;

/// A sequence's inputs and targets, one of each per token.
pub(crate) type Sequence<'a> = (&'a [u32], &'a [u32]);

/// Tokens of a sequence up to the last one with a target.
pub(crate) fn counted(targets: &[u32]) -> usize {
    targets.iter().rposition(|target| *target != IGNORED).map_or(0, |last| last + 1)
}

/// Sequences that go through the model together.
pub(crate) struct Pass {
    /// \[sequences, T\], or \[1, tokens\] when they are packed.
    pub(crate) tokens: Tensor<2, Int>,
    /// One for each token.
    pub(crate) targets: Vec<u32>,
    pub(crate) rotary: RotaryTable,
}

impl Pass {
    /// Sequences of `length` tokens, packed if one of them has padding; `None` if none of them has a
    /// target. On other devices than the CPU the attention of a packed sequence would be computed
    /// between all its documents, so there the padding stays.
    pub(crate) fn new(model: &Decoder, sequences: &[Sequence<'_>], length: usize) -> Option<Self> {
        let spec = model.spec();
        let mut lengths: Vec<usize> =
            sequences.iter().map(|(_, targets)| counted(targets)).collect();
        if lengths.iter().all(|tokens| *tokens == 0) {
            return None;
        }
        let packs = is_cpu(&model.device());
        let rotary = if !packs || lengths.iter().all(|tokens| *tokens == length) {
            lengths.fill(length);
            rotary_table(spec, length)
        } else {
            packed_rotary_table(spec, length, &lengths)
        };
        let (mut inputs, mut targets) = (Vec::new(), Vec::new());
        for (sequence, tokens) in sequences.iter().zip(lengths) {
            inputs.extend_from_slice(&sequence.0[..tokens]);
            targets.extend_from_slice(&sequence.1[..tokens]);
        }
        let width = if rotary.documents().is_some() { inputs.len() } else { length };
        Some(Self { tokens: ids(model, &inputs, width), targets, rotary })
    }
}

/// The sequences of each of `workers` workers, at most as many as there are sequences: in their order,
/// if they are of one length, otherwise each to the worker with the fewest tokens, the longest first.
pub(crate) fn dealt(lengths: &[usize], workers: usize) -> Vec<Vec<usize>> {
    if lengths.windows(2).all(|pair| pair[0] == pair[1]) {
        let first = |worker: usize| worker * lengths.len() / workers;
        return (0..workers).map(|worker| (first(worker)..first(worker + 1)).collect()).collect();
    }
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    // Stable: a batch is dealt in the same way every time.
    order.sort_by_key(|&sequence| std::cmp::Reverse(lengths[sequence]));
    let mut hands = vec![Vec::new(); workers];
    let mut tokens = vec![0; workers];
    for sequence in order {
        let Some(least) = (0..workers).min_by_key(|&worker| tokens[worker]) else { break };
        hands[least].push(sequence);
        tokens[least] += lengths[sequence];
    }
    hands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_the_last_target_does_not_count() {
        assert_eq!(counted(&[1, 2, 3]), 3);
        assert_eq!(counted(&[IGNORED, 2, IGNORED, IGNORED]), 2);
        assert_eq!(counted(&[IGNORED; 4]), 0);
    }

    #[test]
    fn sequences_of_one_length_are_dealt_in_their_order_and_others_by_their_tokens() {
        assert_eq!(dealt(&[4; 5], 2), [vec![0, 1], vec![2, 3, 4]]);
        assert_eq!(dealt(&[1, 9, 2, 3, 4], 2), [vec![1, 0], vec![4, 3, 2]]);
        assert_eq!(dealt(&[7, 0, 1], 3), [vec![0], vec![2], vec![1]]);
    }
}
