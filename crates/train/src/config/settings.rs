//! Settings as they are given: some from a file, some from the command line, laid one over the other.

use std::path::Path;

use lns_record::{SMALL_FILE, read_regular_text};
use lns_spec::NormScheme;
use toml::{Table, Value};

use super::{
    ConfigError, RunConfig,
    error::{explained, shown},
};

/// Some settings of a run, from one place such as a file or the command line.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where they are from, for errors.
    pub(super) place: String,
    pub(super) table: Table,
}

impl Settings {
    /// Those of a file's text.
    ///
    /// # Errors
    /// [`ConfigError::Malformed`] with line and column, for what is no TOML, a key that does not exist
    /// or a value of another type.
    pub fn from_toml(place: &str, text: &str) -> Result<Self, ConfigError> {
        let malformed = |reason: String| ConfigError::Malformed { place: place.to_owned(), reason };
        // Typed first, for an error that points at the line; then as a table, for what it sets.
        toml::from_str::<RunConfig>(text)
            .map_err(|error| malformed(explained(&error, text, &[])))?;
        let table = toml::from_str(text).map_err(|error| malformed(shown(&error)))?;
        Ok(Self { place: place.to_owned(), table })
    }

    /// Those of a file.
    ///
    /// # Errors
    /// As [`from_toml`](Self::from_toml), and when it cannot be read.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = read_regular_text(path, SMALL_FILE).map_err(|error| {
            ConfigError::Unreadable { path: path.to_owned(), reason: error.to_string() }
        })?;
        Self::from_toml(&path.display().to_string(), &text)
    }

    /// The settings that they set.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Whether they set a key of the outermost table.
    pub fn sets(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Those that were made elsewhere, such as flags.
    pub fn from_table(place: &str, table: Table) -> Self {
        Self { place: place.to_owned(), table }
    }
}

/// A scheme's name as the table of its options, in which single ones can be set; what names no scheme
/// stays as it is.
#[must_use]
pub fn scheme_as_table(name: Value) -> Value {
    let scheme = name.as_str().and_then(|name| name.parse::<NormScheme>().ok());
    scheme.and_then(|scheme| Value::try_from(scheme).ok()).unwrap_or(name)
}

/// Lays `over` over `under`, table by table. A scheme with its name is one value: options of another
/// scheme's table do not linger. Options without a name are of the scheme that is there.
pub(super) fn merge(under: &mut Table, over: &Table) {
    for (key, value) in over {
        if key == "scheme"
            && let Some(there) = under.get_mut(key)
        {
            *there = scheme_as_table(there.clone());
        }
        match (under.get_mut(key), value) {
            (Some(Value::Table(under)), Value::Table(over))
                if key != "scheme" || !over.contains_key("name") =>
            {
                merge(under, over);
            }
            _ => drop(under.insert(key.clone(), value.clone())),
        }
    }
}

/// Dotted keys and values as text.
pub(crate) fn flattened(table: &Table) -> Vec<(String, String)> {
    let mut flat = Vec::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) => {
                let inner = flattened(inner).into_iter();
                flat.extend(inner.map(|(name, value)| (format!("{key}.{name}"), value)));
            }
            other => flat.push((key.clone(), other.to_string())),
        }
    }
    flat
}
