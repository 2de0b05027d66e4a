//! PIQA: how something is done with things (Bisk et al., arXiv 1911.11641).

use super::{Metrics, Task};
use crate::instruction::Listing;
use crate::{Instruction, Question, Source, Split, TaskRow};

pub(super) struct Piqa;

impl Task for Piqa {
    fn name(&self) -> &'static str {
        "piqa"
    }

    fn asks(&self) -> &'static str {
        "which of two ways of doing something works"
    }

    fn source(&self) -> Source {
        Source {
            hub: "baber/piqa",
            also: &["ybisk/piqa"],
            parts: &[],
            shared: false,
            columns: "goal, sol1, sol2, label",
        }
    }

    fn split(&self) -> Split {
        Split::Validation
    }

    fn metrics(&self) -> Metrics {
        Metrics::AccAndNorm
    }

    fn question(&self, row: TaskRow<'_>) -> Result<Question, String> {
        let context = format!("Question: {}\nAnswer:", row.text("goal")?);
        let solutions = [row.text("sol1")?, row.text("sol2")?];
        Ok(Question::new(&context, &solutions, row.index("label")?))
    }

    fn instruction(&self, row: TaskRow<'_>) -> Result<Option<Instruction>, String> {
        let request =
            format!("Please choose the correct solution to the question: {}", row.text("goal")?);
        let solutions = [row.text("sol1")?, row.text("sol2")?];
        let listing = Listing { between: "\n\n", ..Listing::line("Solution") };
        Ok(Some(listing.instruction(&request, &solutions, row.index("label")?)))
    }
}
