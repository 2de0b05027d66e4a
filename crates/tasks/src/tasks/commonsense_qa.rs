//! CommonsenseQA: which of five things fits, answered by its letter (Talmor et al., arXiv 1811.00937).

use super::{Metrics, Task, mmlu::lettered};
use crate::{Question, Source, Split, TaskRow};

pub(super) struct CommonsenseQa;

impl Task for CommonsenseQa {
    fn name(&self) -> &'static str {
        "commonsense_qa"
    }

    fn asks(&self) -> &'static str {
        "which of five things fits, by letter"
    }

    fn source(&self) -> Source {
        Source {
            hub: "tau/commonsense_qa",
            also: &[],
            parts: &[],
            shared: false,
            columns: "question, choices {text, label}, answerKey",
        }
    }

    fn split(&self) -> Split {
        Split::Validation
    }

    fn metrics(&self) -> Metrics {
        Metrics::Acc
    }

    fn question(&self, row: TaskRow<'_>) -> Result<Question, String> {
        let question = format!("Question: {}", row.text("question")?.trim());
        let gold = row.place("answerKey", "choices.label")?;
        lettered(&question, &row.texts("choices.text")?, 5, gold)
    }
}
