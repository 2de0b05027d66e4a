//! HellaSwag: how a scene goes on (Zellers et al., arXiv 1905.07830).

use super::{Metrics, Task};
use crate::instruction::Listing;
use crate::{Choice, Instruction, Question, Source, Split, TaskRow};

pub(super) struct HellaSwag;

impl Task for HellaSwag {
    fn name(&self) -> &'static str {
        "hellaswag"
    }

    fn asks(&self) -> &'static str {
        "how a scene goes on"
    }

    fn source(&self) -> Source {
        Source {
            hub: "Rowan/hellaswag",
            also: &[],
            parts: &[],
            shared: false,
            columns: "activity_label, ctx_a, ctx_b, endings, label",
        }
    }

    fn split(&self) -> Split {
        Split::Validation
    }

    fn metrics(&self) -> Metrics {
        Metrics::AccAndNorm
    }

    fn question(&self, row: TaskRow<'_>) -> Result<Question, String> {
        let (label, ctx_a) = (row.text("activity_label")?, row.text("ctx_a")?);
        let ctx_b = capitalised(row.text("ctx_b")?);
        let context = clean(&format!("{label}: {ctx_a} {ctx_b}"));
        let endings: Vec<String> = row.texts("endings")?.into_iter().map(clean).collect();
        let endings: Vec<&str> = endings.iter().map(String::as_str).collect();
        Ok(Question::new(&context, &endings, row.index("label")?))
    }

    fn instruction(&self, row: TaskRow<'_>) -> Result<Option<Instruction>, String> {
        let Question { choices, gold } = self.question(row)?;
        let endings: Vec<&str> = choices.iter().map(Choice::choice).collect();
        let context = choices.first().map_or("", |choice| &choice.context);
        let request =
            format!("Please choose the correct ending to complete the given sentence: {context}");
        Ok(Some(Listing::line("Ending").instruction(&request, &endings, gold)))
    }
}

/// The first letter large, the others small.
fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().collect::<String>() + &letters.as_str().to_lowercase(),
        None => String::new(),
    }
}

/// Without the marks that its half from WikiHow is full of.
fn clean(text: &str) -> String {
    without_brackets(&text.trim().replace(" [title]", ". ")).replace("  ", " ")
}

/// Without every `[…]` on one line.
fn without_brackets(text: &str) -> String {
    let (mut kept, mut rest) = (String::new(), text);
    while let Some(open) = rest.find('[') {
        let inside = &rest[open + 1..];
        match inside.find([']', '\n']) {
            Some(end) if inside[end..].starts_with(']') => {
                kept.push_str(&rest[..open]);
                rest = &inside[end + 1..];
            }
            _ => {
                kept.push_str(&rest[..=open]);
                rest = inside;
            }
        }
    }
    kept + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_cleaned_away_as_the_reference_does() {
        for (given, expected) in [
            (" How to mow [title] Walk. [step] Go  on. ", "How to mow. Walk. Go on."),
            ("a [header] b [", "a b ["),
            ("[a\n] [b] c", "[a\n] c"),
            ("[[x] y]", " y]"),
        ] {
            assert_eq!(clean(given), expected, "{given:?}");
        }
        assert_eq!(capitalised("then HE goes"), "Then he goes");
        assert_eq!(capitalised(""), "");
    }
}
