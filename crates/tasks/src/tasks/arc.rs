//! ARC: questions of science examinations (Clark et al., arXiv 1803.05457).

use super::{Metrics, Task};
use crate::instruction::Listing;
use crate::{Instruction, Question, Source, Split, TaskRow};

/// Its two sets.
pub(super) struct Arc {
    name: &'static str,
    asks: &'static str,
    parts: &'static [&'static str],
}

pub(super) const EASY: Arc =
    Arc { name: "arc_easy", asks: "easy questions of school science", parts: &["ARC-Easy"] };
pub(super) const CHALLENGE: Arc = Arc {
    name: "arc_challenge",
    asks: "questions of school science that word statistics do not answer",
    parts: &["ARC-Challenge"],
};

impl Task for Arc {
    fn name(&self) -> &'static str {
        self.name
    }

    fn asks(&self) -> &'static str {
        self.asks
    }

    fn source(&self) -> Source {
        Source {
            hub: "allenai/ai2_arc",
            also: &[],
            parts: self.parts,
            shared: true,
            columns: "question, choices {text, label}, answerKey",
        }
    }

    fn split(&self) -> Split {
        Split::Test
    }

    fn metrics(&self) -> Metrics {
        Metrics::AccAndNorm
    }

    fn question(&self, row: TaskRow<'_>) -> Result<Question, String> {
        let context = format!("Question: {}\nAnswer:", row.text("question")?);
        let gold = row.place("answerKey", "choices.label")?;
        Ok(Question::new(&context, &row.texts("choices.text")?, gold))
    }

    fn instruction(&self, row: TaskRow<'_>) -> Result<Option<Instruction>, String> {
        let request =
            format!("Please choose the correct answer to the question: {}", row.text("question")?);
        let gold = row.place("answerKey", "choices.label")?;
        let choices = row.texts("choices.text")?;
        Ok(Some(Listing::line("Answer").instruction(&request, &choices, gold)))
    }
}
