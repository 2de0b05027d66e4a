//! `[batch]`: the sequences of a step, and how they are taken through the model.

use serde::{Deserialize, Serialize};

use crate::ranges::{SEQUENCES, WholeSetting};

/// Sequences of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatchConfig {
    /// Sequences of a step, over all workers.
    pub sequences: usize,
    /// Sequences a worker takes through at once, gradients being accumulated; 0 is all of its share.
    pub sequences_per_pass: usize,
    /// Keep only layers' inputs and make activations again in the backward pass.
    pub recompute: bool,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self { sequences: 16, sequences_per_pass: 0, recompute: false }
    }
}

/// What its whole numbers may be.
pub(crate) const WHOLE: &[WholeSetting] = &[
    ("batch.sequences", |run| run.batch.sequences as u64, SEQUENCES),
    ("batch.sequences_per_pass", |run| run.batch.sequences_per_pass as u64, 0..=*SEQUENCES.end()),
];
