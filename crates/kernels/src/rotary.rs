//! Cosines and sines of every position, made once per model.

use std::sync::Arc;

use lns_spec::RopeFrequencies;

use crate::DocumentStarts;

/// cos and sin of position × inverse frequency, times the attention factor. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RotaryTable {
    cos: Arc<[f32]>,
    sin: Arc<[f32]>,
    pairs: usize,
    positions: usize,
    documents: Option<DocumentStarts>,
}

impl RotaryTable {
    /// A table for positions `0..positions`, computed in f64.
    pub fn new(frequencies: &RopeFrequencies, positions: usize) -> Self {
        let table = |f: fn(f64) -> f64| -> Arc<[f32]> {
            (0..positions)
                .flat_map(|position| {
                    frequencies.inverse.iter().map(move |inverse| {
                        (f(position as f64 * inverse) * frequencies.attention_factor) as f32
                    })
                })
                .collect()
        };
        Self {
            cos: table(f64::cos),
            sin: table(f64::sin),
            pairs: frequencies.inverse.len(),
            positions,
            documents: None,
        }
    }

    /// A table for one sequence of documents laid end to end, each of the given length: the positions
    /// begin at 0 in each of them, and [`documents`](Self::documents) keeps them apart.
    pub fn packed(frequencies: &RopeFrequencies, lengths: &[usize]) -> Self {
        let whole = Self::new(frequencies, lengths.iter().copied().max().unwrap_or(0));
        let rows = |table: &[f32]| -> Arc<[f32]> {
            let of = |length: &usize| table[..length * whole.pairs].iter().copied();
            lengths.iter().flat_map(of).collect()
        };
        let positions = lengths.iter().sum();
        let mut starts: Vec<u32> = Vec::with_capacity(positions);
        for length in lengths {
            starts.resize(starts.len() + length, starts.len() as u32);
        }
        Self {
            cos: rows(&whole.cos),
            sin: rows(&whole.sin),
            pairs: whole.pairs,
            positions,
            documents: Some(DocumentStarts::new(&starts, positions)),
        }
    }

    /// Where the documents begin, in the table of a packed sequence.
    pub fn documents(&self) -> Option<&DocumentStarts> {
        self.documents.as_ref()
    }

    /// Features per head.
    pub fn head_dim(&self) -> usize {
        2 * self.pairs
    }

    /// Positions in the table.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// cos and sin of `tokens` positions from `start`: tokens × head_dim/2 each.
    pub(crate) fn rows(&self, start: usize, tokens: usize) -> (&[f32], &[f32]) {
        let range = start * self.pairs..(start + tokens) * self.pairs;
        (&self.cos[range.clone()], &self.sin[range])
    }
}
