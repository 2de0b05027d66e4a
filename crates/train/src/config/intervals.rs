//! `[evaluation]`, `[statistics]`, `[snapshots]` and `[checkpoints]`: what a run does every so many steps.

use serde::{Deserialize, Serialize};

use crate::ranges::{EVERY, TOKENS, WholeSetting};

/// Loss on held-out text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluationConfig {
    /// Steps between evaluations; 0 is at the start and the end only.
    pub every: u64,
    /// Tokens of held-out text at most; 0 is all.
    pub tokens: u64,
}

/// Per-layer statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StatisticsConfig {
    /// Steps between them; 0 is never.
    pub every: u64,
}

/// What is kept to resume from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SnapshotConfig {
    /// Steps between them; 0 is only when the run is stopped.
    pub every: u64,
    /// The latest that are kept, at least 1.
    pub keep_last: usize,
    /// Whether the one with the lowest held-out loss is kept too.
    pub keep_best: bool,
}

/// Models that are kept along the way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Steps between them, from the model as it was drawn on; 0 keeps the finished model only.
    pub every: u64,
}

impl Default for EvaluationConfig {
    fn default() -> Self {
        Self { every: 50, tokens: 32_768 }
    }
}

impl Default for StatisticsConfig {
    fn default() -> Self {
        Self { every: 20 }
    }
}

impl Default for SnapshotConfig {
    fn default() -> Self {
        Self { every: 200, keep_last: 2, keep_best: true }
    }
}

/// What their whole numbers may be.
pub(crate) const WHOLE: &[WholeSetting] = &[
    ("evaluation.every", |run| run.evaluation.every, EVERY),
    ("evaluation.tokens", |run| run.evaluation.tokens, 0..=*TOKENS.end()),
    ("statistics.every", |run| run.statistics.every, EVERY),
    ("snapshots.every", |run| run.snapshots.every, EVERY),
    ("snapshots.keep_last", |run| run.snapshots.keep_last as u64, 1..=1 << 20),
    ("checkpoints.every", |run| run.checkpoints.every, EVERY),
];
