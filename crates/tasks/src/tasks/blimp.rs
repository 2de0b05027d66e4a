//! BLiMP: which of two sentences is grammatical, 67 phenomena of 1,000 pairs (Warstadt et al., arXiv
//! 1912.00582).

use super::{Metrics, Task};
use crate::{Question, Source, Split, TaskRow};

pub(super) struct Blimp;

impl Task for Blimp {
    fn name(&self) -> &'static str {
        "blimp"
    }

    fn asks(&self) -> &'static str {
        "which of two sentences is grammatical, by phenomenon"
    }

    fn source(&self) -> Source {
        Source {
            hub: "nyu-mll/blimp",
            also: &["alexwarstadt/blimp"],
            parts: &[],
            shared: false,
            columns: "sentence_good, sentence_bad, UID",
        }
    }

    fn split(&self) -> Split {
        // The hub calls it `train`; its authors' files have no split.
        Split::All
    }

    fn examples(&self) -> Option<Split> {
        None
    }

    fn metrics(&self) -> Metrics {
        Metrics::Acc
    }

    fn question(&self, row: TaskRow<'_>) -> Result<Question, String> {
        Ok(Question::new("", &[row.text("sentence_good")?, row.text("sentence_bad")?], 0))
    }

    fn is_in_groups(&self) -> bool {
        true
    }

    fn group(&self, row: TaskRow<'_>) -> Result<Option<String>, String> {
        Ok(Some(row.text("UID")?.to_owned()))
    }
}
