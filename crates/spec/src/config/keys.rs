//! Typed values out of a JSON object, one key at a time: what is left is what nobody understood.

use serde_json::{Map, Value};

use crate::SpecError;

/// Takes typed values out of a JSON object.
pub(crate) struct Keys(pub(crate) Map<String, Value>);

impl Keys {
    pub(crate) fn take(&mut self, key: &str) -> Option<Value> {
        self.0.remove(key).filter(|value| !value.is_null())
    }

    /// Puts a value where there is none: the reference class's default.
    pub(crate) fn or_default(&mut self, key: &str, value: impl Into<Value>) {
        if self.0.get(key).is_none_or(Value::is_null) {
            self.0.insert(key.to_owned(), value.into());
        }
    }

    /// Gives a key the name that it has in most families.
    pub(crate) fn rename(&mut self, from: &str, to: &str) {
        if let Some(value) = self.take(from) {
            self.0.insert(to.to_owned(), value);
        }
    }

    pub(crate) fn typed<T>(
        &mut self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, SpecError> {
        let Some(value) = self.take(key) else { return Ok(None) };
        read(&value).map(Some).ok_or_else(|| invalid(key, &value, expected))
    }

    pub(crate) fn size(&mut self, key: &str) -> Result<Option<usize>, SpecError> {
        self.typed(key, "a whole number of at least 1", |value| {
            value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0)
        })
    }

    pub(crate) fn required_size(&mut self, key: &str) -> Result<usize, SpecError> {
        self.size(key)?.ok_or_else(|| SpecError::Missing { key: key.to_owned() })
    }

    pub(crate) fn number(&mut self, key: &str) -> Result<Option<f64>, SpecError> {
        self.typed(key, "a number", |value| value.as_f64().filter(|n| n.is_finite()))
    }

    pub(crate) fn required_number(&mut self, key: &str) -> Result<f64, SpecError> {
        self.number(key)?.ok_or_else(|| SpecError::Missing { key: key.to_owned() })
    }

    pub(crate) fn flag(&mut self, key: &str) -> Result<Option<bool>, SpecError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(crate) fn text(&mut self, key: &str) -> Result<Option<String>, SpecError> {
        self.typed(key, "a string", |value| value.as_str().map(str::to_owned))
    }
}

/// The error for a value of the wrong type or range.
pub(crate) fn invalid(key: &str, value: &Value, expected: &str) -> SpecError {
    SpecError::Invalid { key: key.to_owned(), value: shown(value), expected: expected.to_owned() }
}

/// A value as a message quotes it, cut to the length of a line.
pub(crate) fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 80 {
        text.chars().take(77).chain("...".chars()).collect()
    } else {
        text
    }
}
