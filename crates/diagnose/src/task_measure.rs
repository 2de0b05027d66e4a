//! By what a layer's cost in a task is told.

use lns_record::{CostRecord, TaskCostRecord};

/// By what a layer's cost in a task is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskMeasure {
    /// The right answer's Σ log p: every document says something, so that it tells layers apart best.
    Gold,
    /// Accuracy, which moves only where a document changes sides.
    Acc,
    /// Accuracy by log-likelihoods divided by the choices' characters.
    AccNorm,
}

impl TaskMeasure {
    /// Every measure, the default first.
    pub const ALL: [Self; 3] = [Self::Gold, Self::Acc, Self::AccNorm];

    /// Its name on the command line and in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gold => "gold",
            Self::Acc => "acc",
            Self::AccNorm => "acc_norm",
        }
    }

    /// The measure of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|measure| measure.name() == name)
    }

    /// A layer's cost by it.
    pub fn of(self, costs: &TaskCostRecord) -> Option<CostRecord> {
        match self {
            Self::Gold => costs.gold,
            Self::Acc => costs.acc,
            Self::AccNorm => costs.acc_norm,
        }
    }
}
