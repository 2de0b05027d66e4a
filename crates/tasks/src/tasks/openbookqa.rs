//! OpenBookQA: elementary science, one step from the book (Mihaylov et al., arXiv 1809.02789).

use super::{Metrics, Task};
use crate::instruction::Listing;
use crate::{Instruction, Question, Source, Split, TaskRow};

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

    fn instruction(&self, row: TaskRow<'_>) -> Result<Option<Instruction>, String> {
        let stem = row.text("question_stem")?;
        let request = format!("Please choose the correct answer to the question: {stem}");
        let gold = row.place("answerKey", "choices.label")?;
        let choices = row.texts("choices.text")?;
        Ok(Some(Listing::line("Answer").instruction(&request, &choices, gold)))
    }
}
