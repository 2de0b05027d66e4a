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
    head_dim: usize,
    interleaved: bool,
    /// Whether the features that turn are a head's last.
    last: bool,
    positions: usize,
    documents: Option<DocumentStarts>,
    /// The table of the layers that have another base.
    local: Option<Arc<Self>>,
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
            head_dim: 2 * frequencies.inverse.len(),
            interleaved: false,
            last: false,
            positions,
            documents: None,
            local: None,
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
            head_dim: whole.head_dim,
            interleaved: false,
            last: false,
            positions,
            documents: Some(DocumentStarts::new(&starts, positions)),
            local: None,
        }
    }

    /// For heads of so many features, of which the table's are the first, or the last
    /// ([`turning_the_last`](Self::turning_the_last)).
    ///
    /// # Panics
    /// If they are fewer than the table's.
    #[must_use]
    pub fn for_heads_of(self, head_dim: usize) -> Self {
        assert!(head_dim >= 2 * self.pairs, "a head of {head_dim} has too few features to turn");
        Self { head_dim, ..self }
    }

    /// Turning neighbouring features together, 2j with 2j + 1, instead of the halves', j with j + pairs.
    #[must_use]
    pub fn interleaved(self, interleaved: bool) -> Self {
        Self { interleaved, ..self }
    }

    /// Turning the last features of each head instead of the first.
    #[must_use]
    pub fn turning_the_last(self, last: bool) -> Self {
        Self { last, ..self }
    }

    /// With a table for layers that turn by another base.
    #[must_use]
    pub fn with_local(self, local: Option<Self>) -> Self {
        Self { local: local.map(Arc::new), ..self }
    }

    /// The table of layers that turn by another base; itself if there is none.
    pub fn local(&self) -> &Self {
        self.local.as_deref().unwrap_or(self)
    }

    /// Which position each of `tokens` tokens from `start` has: in the table of a packed sequence,
    /// counted in its document.
    pub fn positions_of(&self, start: usize, tokens: usize) -> Vec<u32> {
        let began =
            |at: usize| self.documents.as_ref().map_or(0, |documents| documents.starts()[at]);
        (start..start + tokens).map(|at| at as u32 - began(at)).collect()
    }

    /// Where the documents begin, in the table of a packed sequence.
    pub fn documents(&self) -> Option<&DocumentStarts> {
        self.documents.as_ref()
    }

    /// Features per head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Pairs of features of each head that turn.
    pub fn pairs(&self) -> usize {
        self.pairs
    }

    /// The first feature of a head that turns.
    pub fn first_turned(&self) -> usize {
        if self.last { self.head_dim - 2 * self.pairs } else { 0 }
    }

    /// Whether neighbouring features turn together.
    pub fn is_interleaved(&self) -> bool {
        self.interleaved
    }

    /// Positions in the table.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// cos and sin of `tokens` positions from `start`: tokens × pairs each.
    pub(crate) fn rows(&self, start: usize, tokens: usize) -> (&[f32], &[f32]) {
        let range = start * self.pairs..(start + tokens) * self.pairs;
        (&self.cos[range.clone()], &self.sin[range])
    }
}
