//! OpenBookQA: elementary science, one step from the book (Mihaylov et al., arXiv 1809.02789).

use super::{Metrics, Task};
use crate::{Question, Source, Split, TaskRow};

pub(super) struct OpenBookQa;

impl Task for OpenBookQa {
    fn name(&self) -> &'static str {
        "openbookqa"
    }

    fn asks(&self) -> &'static str {
        "how a sentence of elementary science ends"
    }

    fn source(&self) -> Source {
        Source {
            hub: "allenai/openbookqa",
            also: &[],
            parts: &["main"],
            shared: false,
            columns: "question_stem, choices {text, label}, answerKey",
        }
    }

    fn split(&self) -> Split {
        Split::Test
    }

    fn metrics(&self) -> Metrics {
        Metrics::AccAndNorm
    }

    fn question(&self, row: TaskRow<'_>) -> Result<Question, String> {
        let gold = row.place("answerKey", "choices.label")?;
        Ok(Question::new(row.text("question_stem")?, &row.texts("choices.text")?, gold))
    }
}
