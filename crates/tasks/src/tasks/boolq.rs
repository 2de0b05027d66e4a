//! BoolQ: a yes or no to a question about a passage (Clark et al., arXiv 1905.10044).

use super::{Metrics, Task};
use crate::{Instruction, Question, Source, Split, TaskRow};

pub(super) struct BoolQ;

impl Task for BoolQ {
    fn name(&self) -> &'static str {
        "boolq"
    }

    fn asks(&self) -> &'static str {
        "yes or no, to a question about a passage"
    }

    fn source(&self) -> Source {
        Source {
            hub: "google/boolq",
            also: &["super_glue", "aps/super_glue"],
            parts: &["boolq"],
            shared: false,
            columns: "passage, question, answer (true or false; or label, 1 or 0)",
        }
    }

    fn split(&self) -> Split {
        Split::Validation
    }

    fn metrics(&self) -> Metrics {
        Metrics::Acc
    }

    fn question(&self, row: TaskRow<'_>) -> Result<Question, String> {
        let (passage, question) = (row.text("passage")?, row.text("question")?);
        let context = format!("{passage}\nQuestion: {question}?\nAnswer:");
        Ok(Question::new(&context, &["no", "yes"], gold(row)?))
    }

    fn instruction(&self, row: TaskRow<'_>) -> Result<Option<Instruction>, String> {
        let request = format!(
            "Please answer the following question with true or false, question: {}?\n\n\
             Answer format: true/false",
            row.text("question")?
        );
        let answers = vec!["false".to_owned(), "true".to_owned()];
        Ok(Some(Instruction { request, answers, gold: gold(row)? }))
    }
}

/// Whether the answer is yes, under either of the names that it has.
fn gold(row: TaskRow<'_>) -> Result<usize, String> {
    row.index(if row.find("label").is_some() { "label" } else { "answer" })
}
