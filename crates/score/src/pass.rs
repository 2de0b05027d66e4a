//! Sequences without their padding.
//!
//! What follows a sequence's last target changes nothing: attention is causal, so no token before it
//! sees it, and no loss is taken of it. Sequences with such an end are therefore laid end to end, as
//! documents that do not see each other and whose positions begin at 0 each
//! ([`packed_rotary_table`]): the same losses and gradients up to the rounding of sums, for the work of
//! the tokens that count. The documents of one sequence are kept apart in the same way where that is
//! asked for.

use burn::tensor::{Device, Int, Tensor, TensorData};
use layernorm_scaling::{packed_rotary_table, rotary_table};
use lns_kernels::{IGNORED, RotaryTable, is_cpu};
use lns_spec::ModelSpec;

/// A sequence of tokens and what follows each.
#[derive(Debug, Clone, Copy)]
pub struct Sequence<'a> {
    /// The tokens' ids.
    pub inputs: &'a [u32],
    /// The id that follows each, or [`IGNORED`].
    pub targets: &'a [u32],
    /// The lengths of the documents in it, in order, if no token is to see another document's; empty if each
    /// sees all before it.
    pub documents: &'a [usize],
}

impl Sequence<'_> {
    /// The lengths of the parts of its first `tokens` tokens that do not see each other.
    pub fn parts(&self, tokens: usize) -> Vec<usize> {
        if self.documents.len() < 2 {
            return vec![tokens];
        }
        let mut left = tokens;
        let mut part = |document: &usize| {
            let own = left.min(*document);
            left -= own;
            own
        };
        self.documents.iter().map(&mut part).collect()
    }
}

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
    /// Sequences of `length` tokens, packed if one of them has padding or documents to be kept apart;
    /// `None` if none of them has a target. On other devices than the CPU the attention of a packed
    /// sequence would be computed between all its documents, so there padding alone stays.
    pub fn new(
        spec: &ModelSpec,
        device: &Device,
        sequences: &[Sequence<'_>],
        length: usize,
    ) -> Option<Self> {
        let mut lengths: Vec<usize> =
            sequences.iter().map(|sequence| counted(sequence.targets)).collect();
        if lengths.iter().all(|tokens| *tokens == 0) {
            return None;
        }
        let apart = sequences.iter().any(|sequence| sequence.documents.len() > 1);
        let padded = lengths.iter().any(|tokens| *tokens != length);
        let rotary = if apart || (padded && is_cpu(device)) {
            let parts = sequences.iter().zip(&lengths);
            let parts: Vec<usize> =
                parts.flat_map(|(sequence, tokens)| sequence.parts(*tokens)).collect();
            packed_rotary_table(spec, length, &parts)
        } else {
            lengths.fill(length);
            rotary_table(spec, length)
        };
        let (mut ids, mut targets) = (Vec::new(), Vec::new());
        for (sequence, tokens) in sequences.iter().zip(lengths) {
            ids.extend_from_slice(&sequence.inputs[..tokens]);
            targets.extend_from_slice(&sequence.targets[..tokens]);
        }
        let sequences = if rotary.documents().is_some() { 1 } else { sequences.len() };
        Some(Self { ids, sequences, targets, rotary })
    }

    /// The position of each id in its sequence, or in its document.
    pub fn positions(&self) -> Vec<u32> {
        let tokens = self.ids.len() / self.sequences;
        self.rotary.positions_of(0, tokens).repeat(self.sequences)
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
    fn documents_are_cut_where_the_sequence_is() {
        let documents = [3, 4, 2];
        let of = |documents, tokens| {
            Sequence { inputs: &[0; 9], targets: &[0; 9], documents }.parts(tokens)
        };
        assert_eq!(of(&documents, 9), [3, 4, 2]);
        assert_eq!(of(&documents, 5), [3, 2, 0]);
        assert_eq!(of(&[], 5), [5]);
    }

    #[test]
    fn what_follows_the_last_target_does_not_count() {
        assert_eq!(counted(&[1, 2, 3]), 3);
        assert_eq!(counted(&[IGNORED, 2, IGNORED, IGNORED]), 2);
        assert_eq!(counted(&[IGNORED; 4]), 0);
    }
}
