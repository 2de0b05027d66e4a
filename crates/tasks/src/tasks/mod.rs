//! The tasks: one file each, and the registry. A task says how a row of its data becomes a question; where
//! the data lie, examples, scoring and statistics are the same for all.

mod arc;
mod blimp;
mod boolq;
mod commonsense_qa;
mod hellaswag;
mod lambada;
mod mmlu;
mod openbookqa;
mod piqa;
mod sciq;
mod siqa;
mod winogrande;

use crate::{Instruction, Question, Source, Split, TaskRow};

/// Every task, by name.
const REGISTRY: &[&dyn Task] = &[
    &arc::CHALLENGE,
    &arc::EASY,
    &blimp::Blimp,
    &boolq::BoolQ,
    &commonsense_qa::CommonsenseQa,
    &hellaswag::HellaSwag,
    &lambada::Lambada,
    &mmlu::Mmlu,
    &openbookqa::OpenBookQa,
    &piqa::Piqa,
    &sciq::SciQ,
    &siqa::Siqa,
    &winogrande::WinoGrande,
];

/// How a task's answers are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metrics {
    /// The likeliest choice is right (`acc`).
    Acc,
    /// The same, and with log-likelihoods divided by the choices' characters (`acc_norm`).
    AccAndNorm,
    /// The one continuation is what the model would say (`acc`), and e to its mean loss (`perplexity`).
    Greedy,
}

/// A task.
pub trait Task: Sync {
    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// What it asks, in a few words.
    fn asks(&self) -> &'static str;

    /// Where its data come from.
    fn source(&self) -> Source;

    /// The split whose answers count.
    fn split(&self) -> Split;

    /// The split that examples are taken from, if it has one.
    fn examples(&self) -> Option<Split> {
        Some(Split::Train)
    }

    /// How its answers are counted.
    fn metrics(&self) -> Metrics;

    /// The question that a row asks, or what is wrong with the row.
    ///
    /// # Errors
    /// A field that is missing or is not what it should be, in words.
    fn question(&self, row: TaskRow<'_>) -> Result<Question, String>;

    /// What LLM-Adapters asks of the row, if it trains on this task.
    ///
    /// # Errors
    /// As [`question`](Self::question).
    fn instruction(&self, _row: TaskRow<'_>) -> Result<Option<Instruction>, String> {
        Ok(None)
    }

    /// Whether every row belongs to a part of the task.
    fn is_in_groups(&self) -> bool {
        false
    }

    /// The part that the row belongs to.
    ///
    /// # Errors
    /// As [`question`](Self::question).
    fn group(&self, _row: TaskRow<'_>) -> Result<Option<String>, String> {
        Ok(None)
    }

    /// What stands before the examples and the question.
    fn opening(&self, _group: Option<&str>) -> String {
        String::new()
    }
}

/// Every task, by name.
pub fn tasks() -> impl Iterator<Item = &'static dyn Task> {
    REGISTRY.iter().copied()
}
