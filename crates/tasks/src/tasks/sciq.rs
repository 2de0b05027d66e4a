//! SciQ: questions of science with a text that supports the answer (Welbl et al., arXiv 1707.06209).

use super::{Metrics, Task};
use crate::{Question, Source, Split, TaskRow};

pub(super) struct SciQ;

impl Task for SciQ {
    fn name(&self) -> &'static str {
        "sciq"
    }

    fn asks(&self) -> &'static str {
        "questions of science after a text that answers most"
    }

    fn source(&self) -> Source {
        Source {
            hub: "allenai/sciq",
            also: &[],
            parts: &[],
            shared: false,
            columns: "support, question, distractor1, distractor2, distractor3, correct_answer",
        }
    }

    fn split(&self) -> Split {
        Split::Test
    }

    fn metrics(&self) -> Metrics {
        Metrics::AccAndNorm
    }

    fn question(&self, row: TaskRow<'_>) -> Result<Question, String> {
        let (support, question) = (row.text("support")?.trim_start(), row.text("question")?);
        let context = format!("{support}\nQuestion: {question}\nAnswer:");
        let choices = [
            row.text("distractor1")?,
            row.text("distractor2")?,
            row.text("distractor3")?,
            row.text("correct_answer")?,
        ];
        Ok(Question::new(&context, &choices, 3))
    }
}
