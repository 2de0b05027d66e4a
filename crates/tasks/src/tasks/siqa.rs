//! Social IQa: why people do things and what follows (Sap et al., arXiv 1904.09728).

use super::{Metrics, Task};
use crate::{Question, Source, Split, TaskRow};

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
        let label = row.index("label")?;
        let gold = label.checked_sub(1).ok_or("field \"label\" is 0; labels are 1 to 3")?;
        Ok(Question::new(&context, &answers, gold))
    }
}
