//! A row's fields as a task asks for them; what is missing or of another kind is said with its name.

use lns_corpus::Fields;
use serde_json::Value;

/// A row of a data set.
#[derive(Debug, Clone, Copy)]
pub struct TaskRow<'a>(pub &'a Fields);

impl<'a> TaskRow<'a> {
    /// The field at `path`, names of nested fields being joined by dots; `None` if it is absent or null.
    pub fn find(&self, path: &str) -> Option<&'a Value> {
        let mut names = path.split('.');
        let first = self.0.get(names.next()?)?;
        let found = names.try_fold(first, |value, name| value.get(name))?;
        (!found.is_null()).then_some(found)
    }

    fn get(&self, path: &str) -> Result<&'a Value, String> {
        self.find(path).ok_or_else(|| {
            let has = self.0.keys().map(String::as_str).take(20).collect::<Vec<_>>().join(", ");
            format!("no field \"{path}\"; the row has {has}")
        })
    }

    /// A text.
    ///
    /// # Errors
    /// The field is absent or no text.
    pub fn text(&self, path: &str) -> Result<&'a str, String> {
        self.get(path)?.as_str().ok_or_else(|| format!("field \"{path}\" is not a text"))
    }

    /// A list of texts.
    ///
    /// # Errors
    /// The field is absent or no such list.
    pub fn texts(&self, path: &str) -> Result<Vec<&'a str>, String> {
        let list = self.get(path)?.as_array();
        let texts = list.and_then(|list| list.iter().map(Value::as_str).collect());
        texts.ok_or_else(|| format!("field \"{path}\" is not a list of texts"))
    }

    /// A number from 0: a number, a text of one, or a truth value (false is 0).
    ///
    /// # Errors
    /// The field is absent or no such number.
    pub fn index(&self, path: &str) -> Result<usize, String> {
        let value = self.get(path)?;
        let number = match value {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.trim().parse().ok(),
            Value::Bool(value) => Some(u64::from(*value)),
            _ => None,
        };
        let index = number.and_then(|number| usize::try_from(number).ok());
        index.ok_or_else(|| format!("field \"{path}\" is {value}, which is no number from 0"))
    }

    /// The place of the text at `answer` in the list of labels at `labels`.
    ///
    /// # Errors
    /// Either is absent, or the list lacks the answer.
    pub fn place(&self, answer: &str, labels: &str) -> Result<usize, String> {
        let (given, labels) = (self.text(answer)?.trim(), self.texts(labels)?);
        let place = labels.iter().position(|label| *label == given);
        place.ok_or_else(|| format!("\"{answer}\" is \"{given}\", which is none of {labels:?}"))
    }
}
