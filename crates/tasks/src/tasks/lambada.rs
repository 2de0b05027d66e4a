//! LAMBADA: the last word of a passage, which only the whole of it gives away (Paperno et al., arXiv
//! 1606.06031); in the text that OpenAI used.

use super::{Metrics, Task};
use crate::{Question, Source, Split, TaskRow};

pub(super) struct Lambada;

impl Task for Lambada {
    fn name(&self) -> &'static str {
        "lambada"
    }

    fn asks(&self) -> &'static str {
        "the last word of a passage"
    }

    fn source(&self) -> Source {
        Source {
            hub: "EleutherAI/lambada_openai",
            also: &["lambada_openai"],
            parts: &["default", "lambada_test", "en", "lambada_test_en"],
            shared: false,
            columns: "text",
        }
    }

    fn split(&self) -> Split {
        Split::Test
    }

    fn examples(&self) -> Option<Split> {
        None
    }

    fn metrics(&self) -> Metrics {
        Metrics::Greedy
    }

    fn question(&self, row: TaskRow<'_>) -> Result<Question, String> {
        let text = row.text("text")?;
        let (context, word) = text.rsplit_once(' ').unwrap_or(("", text));
        Ok(Question::new(context, &[word], 0))
    }
}
