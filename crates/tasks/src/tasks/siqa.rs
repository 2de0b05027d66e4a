//! Social IQa: why people do things and what follows (Sap et al., arXiv 1904.09728).

use super::{Metrics, Task};
use crate::instruction::Listing;
use crate::{Instruction, Question, Source, Split, TaskRow};

pub(super) struct Siqa;

impl Task for Siqa {
    fn name(&self) -> &'static str {
        "siqa"
    }

    fn asks(&self) -> &'static str {
        "why people do things and what follows"
    }

    fn source(&self) -> Source {
        Source {
            hub: "lighteval/siqa",
            also: &["allenai/social_i_qa", "social_i_qa", "social_iqa", "socialiqa"],
            parts: &[],
            shared: false,
            columns: "context, question, answerA, answerB, answerC, label (1 to 3)",
        }
    }

    fn split(&self) -> Split {
        Split::Validation
    }

    fn metrics(&self) -> Metrics {
        Metrics::Acc
    }

    fn question(&self, row: TaskRow<'_>) -> Result<Question, String> {
        let context = format!("Q: {} {}\nA:", row.text("context")?, row.text("question")?);
        let answers = [row.text("answerA")?, row.text("answerB")?, row.text("answerC")?];
        Ok(Question::new(&context, &answers, gold(row)?))
    }

    fn instruction(&self, row: TaskRow<'_>) -> Result<Option<Instruction>, String> {
        let (context, question) = (row.text("context")?, row.text("question")?);
        let request =
            format!("Please choose the correct answer to the question: {context} {question}");
        let answers = [row.text("answerA")?, row.text("answerB")?, row.text("answerC")?];
        let gold = gold(row)?;
        Ok(Some(Listing::line("Answer").instruction(&request, &answers, gold)))
    }
}

/// The right answer, which is labelled from 1 on.
fn gold(row: TaskRow<'_>) -> Result<usize, String> {
    let label = row.index("label")?;
    Ok(label.checked_sub(1).ok_or("field \"label\" is 0; labels are 1 to 3")?)
}
