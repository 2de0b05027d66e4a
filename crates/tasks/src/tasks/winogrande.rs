//! WinoGrande: who is meant (Sakaguchi et al., arXiv 1907.10641). The choices stand in the context: what
//! is scored is the rest of the sentence after either.

use super::{Metrics, Task};
use crate::instruction::Listing;
use crate::{Choice, Instruction, Question, Source, Split, TaskRow};

pub(super) struct WinoGrande;

impl Task for WinoGrande {
    fn name(&self) -> &'static str {
        "winogrande"
    }

    fn asks(&self) -> &'static str {
        "which of two is meant in a sentence"
    }

    fn source(&self) -> Source {
        Source {
            hub: "allenai/winogrande",
            also: &[],
            parts: &["winogrande_xl"],
            shared: false,
            columns: "sentence, option1, option2, answer (1 or 2)",
        }
    }

    fn split(&self) -> Split {
        Split::Validation
    }

    fn metrics(&self) -> Metrics {
        Metrics::Acc
    }

    fn question(&self, row: TaskRow<'_>) -> Result<Question, String> {
        let sentence = row.text("sentence")?;
        let (before, after) =
            sentence.split_once('_').ok_or("field \"sentence\" has no _ to fill in")?;
        let choice = |option: &str| Choice {
            context: format!("{before}{option}"),
            continuation: format!(" {}", after.trim()),
        };
        let choices = vec![choice(row.text("option1")?), choice(row.text("option2")?)];
        Ok(Question { choices, gold: gold(row)? })
    }

    fn instruction(&self, row: TaskRow<'_>) -> Result<Option<Instruction>, String> {
        let request = format!(
            "Please choose the correct answer to fill in the blank to complete the given sentence: {}",
            row.text("sentence")?
        );
        let options = [row.text("option1")?, row.text("option2")?];
        let listing = Listing { end: " ", ..Listing::line("Option") };
        Ok(Some(listing.instruction(&request, &options, gold(row)?)))
    }
}

/// The right option, which is called 1 or 2.
fn gold(row: TaskRow<'_>) -> Result<usize, String> {
    let answer = row.index("answer")?;
    Ok(answer.checked_sub(1).ok_or("field \"answer\" is 0; answers are 1 and 2")?)
}
