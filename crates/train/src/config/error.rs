//! What is wrong with settings, told so that it can be mended: where, what was typed, what was meant.

use std::path::PathBuf;

use lns_spec::meant;
use toml::Table;

use super::keys::misspelt;

/// Why settings make no run.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message names its fields")]
pub enum ConfigError {
    #[error("{place}: {reason}")]
    Malformed { place: String, reason: String },
    #[error("{path} cannot be read: {reason}")]
    Unreadable { path: PathBuf, reason: String },
    #[error("`{key}` is {value}; {expected}")]
    Invalid { key: &'static str, value: String, expected: String },
    #[error(
        "{place}: `{key}` is not a setting{} A run's config.toml has those of the run.",
        did_you_mean(meant.as_deref())
    )]
    Unknown { place: String, key: String, meant: Option<String> },
    #[error(
        "{}: a run's settings are text and hold its paths, and this one is not UTF-8: rename it, or \
         give a link to it", path.display()
    )]
    NotText { path: PathBuf },
    #[error("both `steps` and `tokens` are given; the length of a run is one of them")]
    TwoLengths,
}

fn did_you_mean(meant: Option<&str>) -> String {
    meant.map_or_else(|| ".".to_owned(), |meant| format!(": did you mean `{meant}`?"))
}

/// An error's text, its lines cut to what a person reads: it quotes values, which may be of any length.
/// Where it has no line of a file, its key stands first.
pub(super) fn shown(error: &toml::de::Error) -> String {
    const LONGEST: usize = 200;
    let cut = |line: &str| match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{} …", &line[..end]),
        None => line.to_owned(),
    };
    let mut text = error.to_string();
    if error.span().is_none()
        && let Some((what, key)) = text.trim_end().rsplit_once("\nin ")
    {
        text = format!("{key}: {what}");
    }
    text.lines().map(cut).collect::<Vec<_>>().join("\n")
}

/// What is wrong with a file of settings: the error with its line, and what was probably meant. `inside`
/// is the way to the settings in the file.
pub fn explained(error: &toml::de::Error, text: &str, inside: &[&str]) -> String {
    let mut reason = shown(error);
    let table = text.parse::<Table>().unwrap_or_default();
    let settings = inside.iter().try_fold(&table, |table, key| table.get(*key)?.as_table());
    let setting = settings.and_then(misspelt).and_then(|(key, meant)| Some((key, meant?)));
    if let Some((key, meant)) = setting.or_else(|| misspelt_field(error.message())) {
        reason += &format!("\n`{key}`: did you mean `{meant}`?");
    }
    reason
}

/// The name that serde knows no field of, and the one that was probably meant of those it expects.
fn misspelt_field(message: &str) -> Option<(String, String)> {
    let mut names = message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    let given = names.next()?;
    Some((given.to_owned(), meant(given, names)?.to_owned()))
}
