//! MMLU: 57 subjects of school, study and profession, answered by letter (Hendrycks et al., arXiv
//! 2009.03300).

use serde_json::Value;

use super::{Metrics, Task};
use crate::{Question, Source, Split, TaskRow};

const LETTERS: [&str; 5] = ["A", "B", "C", "D", "E"];

pub(super) struct Mmlu;

impl Task for Mmlu {
    fn name(&self) -> &'static str {
        "mmlu"
    }

    fn asks(&self) -> &'static str {
        "questions of 57 subjects, by letter; examples are the subject's own (dev)"
    }

    fn source(&self) -> Source {
        Source {
            hub: "cais/mmlu",
            also: &["hails/mmlu_no_train"],
            parts: &["all"],
            shared: false,
            columns: "question, subject, choices, answer",
        }
    }

    fn split(&self) -> Split {
        Split::Test
    }

    fn examples(&self) -> Option<Split> {
        Some(Split::Dev)
    }

    fn metrics(&self) -> Metrics {
        Metrics::Acc
    }

    fn question(&self, row: TaskRow<'_>) -> Result<Question, String> {
        let gold = match row.find("answer") {
            Some(Value::String(letter)) if letter.parse::<usize>().is_err() => {
                let place = LETTERS.iter().position(|known| *known == letter.trim());
                place.ok_or_else(|| format!("field \"answer\" is \"{letter}\", no letter"))?
            }
            _ => row.index("answer")?,
        };
        lettered(row.text("question")?.trim(), &row.texts("choices")?, 4, gold)
    }

    fn is_in_groups(&self) -> bool {
        true
    }

    fn group(&self, row: TaskRow<'_>) -> Result<Option<String>, String> {
        Ok(Some(row.text("subject")?.to_owned()))
    }

    fn opening(&self, group: Option<&str>) -> String {
        let subject = group.unwrap_or("various subjects").replace('_', " ");
        format!("The following are multiple choice questions (with answers) about {subject}.\n\n")
    }
}

/// A question with `count` choices listed under their letters, which are what is scored.
pub(super) fn lettered(
    question: &str,
    choices: &[&str],
    count: usize,
    gold: usize,
) -> Result<Question, String> {
    if choices.len() != count {
        return Err(format!("{} choices, there are {count} in this task", choices.len()));
    }
    let listed =
        LETTERS.iter().zip(choices).map(|(letter, choice)| format!("{letter}. {choice}\n"));
    let context = format!("{question}\n{}Answer:", listed.collect::<String>());
    Ok(Question::new(&context, &LETTERS[..count], gold))
}
