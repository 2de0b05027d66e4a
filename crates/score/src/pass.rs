//! Sequences without their padding.
//!
//! What follows a sequence's last target changes nothing: attention is causal, so no token before it
//! sees it, and no loss is taken of it. Sequences with such an end are therefore laid end to end, as
//! documents that do not see each other and whose positions begin at 0 each
//! ([`packed_rotary_table`]): the same losses and gradients up to the rounding of sums, for the work of
//! the tokens that count.

use burn::tensor::{Device, Int, Tensor, TensorData};
use layernorm_scaling::{packed_rotary_table, rotary_table};
use lns_kernels::{IGNORED, RotaryTable, is_cpu};
use lns_spec::ModelSpec;

/// A sequence's inputs and targets, one of each per token; a target may be [`IGNORED`].
pub type Sequence<'a> = (&'a [u32], &'a [u32]);

/// Tokens of a sequence up to the last one with a target.
pub fn counted(targets: &[u32]) -> usize {
    targets.iter().rposition(|target| *target != IGNORED).map_or(0, |last| last + 1)
}

/// Sequences that go through the model together.
#[derive(Debug)]
pub struct Pass {
    /// Token ids, sequence after sequence.
    pub ids: Vec<u32>,
    /// Sequences of a batch that the ids are: one, when they are packed.
    pub sequences: usize,
    /// One for each token.
    pub targets: Vec<u32>,
    /// Their positions.
    pub rotary: RotaryTable,
}

impl Pass {
    /// Sequences of `length` tokens, packed if one of them has padding; `None` if none of them has a
    /// target. On other devices than the CPU the attention of a packed sequence would be computed
    /// between all its documents, so there the padding stays.
    pub fn new(
        spec: &ModelSpec,
        device: &Device,
        sequences: &[Sequence<'_>],
        length: usize,
    ) -> Option<Self> {
        let mut lengths: Vec<usize> =
            sequences.iter().map(|(_, targets)| counted(targets)).collect();
        if lengths.iter().all(|tokens| *tokens == 0) {
            return None;
        }
        let packs = is_cpu(device);
        let rotary = if !packs || lengths.iter().all(|tokens| *tokens == length) {
            lengths.fill(length);
            rotary_table(spec, length)
        } else {
            packed_rotary_table(spec, length, &lengths)
        };
        let (mut ids, mut targets) = (Vec::new(), Vec::new());
        for (sequence, tokens) in sequences.iter().zip(lengths) {
            ids.extend_from_slice(&sequence.0[..tokens]);
            targets.extend_from_slice(&sequence.1[..tokens]);
        }
        let sequences = if rotary.documents().is_some() { 1 } else { sequences.len() };
        Some(Self { ids, sequences, targets, rotary })
    }

    /// The ids as the tensor that a decoder takes, \[sequences, T\].
    pub fn tokens(&self, device: &Device) -> Tensor<2, Int> {
        let ids: Vec<i32> = self.ids.iter().map(|id| *id as i32).collect();
        let shape = [self.sequences, self.ids.len() / self.sequences];
        Tensor::from_data(TensorData::new(ids, shape), device)
    }
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
}
