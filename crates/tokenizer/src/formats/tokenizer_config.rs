//! `tokenizer_config.json` and `chat_template.jinja`: what transformers puts beside `tokenizer.json`.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::read_if_there;
use crate::TokenizerError;

/// The file's name in a model's folder.
pub(crate) const FILE: &str = "tokenizer_config.json";
/// The file that newer versions of transformers write a chat template into.
pub(crate) const TEMPLATE_FILE: &str = "chat_template.jinja";
/// This project's own key, for the token between documents: `eos_token` ends a turn where the model
/// is one for chat.
const END_OF_TEXT_KEY: &str = "lns_end_of_text";
/// The largest file that is read; a chat template in it takes some kilobytes.
const MAX_BYTES: u64 = 16 << 20;
/// Templates with tools in them have some ten kilobytes.
const MAX_TEMPLATE: u64 = 1 << 20;

/// What a `tokenizer_config.json` says; nothing, if there is none. Whoever asks for a key hears of a
/// value that is not as transformers writes it.
#[derive(Debug)]
pub(crate) struct TokenizerConfig {
    path: PathBuf,
    entries: Map<String, Value>,
}

impl TokenizerConfig {
    /// The file beside a `tokenizer.json`.
    pub(crate) fn beside(tokenizer_json: &Path) -> Result<Self, TokenizerError> {
        Self::read(tokenizer_json.with_file_name(FILE))
    }

    /// The file in a model's folder.
    pub(crate) fn in_folder(folder: &Path) -> Result<Self, TokenizerError> {
        Self::read(folder.join(FILE))
    }

    fn read(path: PathBuf) -> Result<Self, TokenizerError> {
        let Some(json) = read_if_there(&path, MAX_BYTES)? else {
            return Ok(Self { path, entries: Map::new() });
        };
        match serde_json::from_slice(&json) {
            Ok(Value::Object(entries)) => Ok(Self { path, entries }),
            Ok(_) => Err(TokenizerError::TokenizerConfig {
                path,
                reason: "not a JSON object".to_owned(),
            }),
            Err(error) => Err(TokenizerError::TokenizerConfig { path, reason: error.to_string() }),
        }
    }

    /// The value of a key that is there and not null.
    fn get(&self, key: &str) -> Option<&Value> {
        self.entries.get(key).filter(|value| !value.is_null())
    }

    fn refused(&self, reason: String) -> TokenizerError {
        TokenizerError::TokenizerConfig { path: self.path.clone(), reason }
    }

    /// The text of a special token, such as `bos_token`.
    pub(crate) fn special_token(&self, key: &str) -> Result<Option<&str>, TokenizerError> {
        let Some(token) = self.get(key) else { return Ok(None) };
        let text = token.as_str().or_else(|| token.get("content")?.as_str());
        text.map(Some).ok_or_else(|| {
            self.refused(format!(
                "{key}: a special token is a string or an object with its content"
            ))
        })
    }

    /// The end-of-text token that [`save`](crate::Tokenizer::save) noted.
    pub(crate) fn end_of_text(&self) -> Result<Option<&str>, TokenizerError> {
        let Some(token) = self.get(END_OF_TEXT_KEY) else { return Ok(None) };
        let text = token.as_str();
        text.map(Some).ok_or_else(|| self.refused(format!("{END_OF_TEXT_KEY} is not a string")))
    }

    /// Whether the beginning-of-sequence token is to be put in front of text.
    pub(crate) fn add_bos_token(&self) -> Option<bool> {
        self.get("add_bos_token")?.as_bool()
    }

    /// The only chat template, or of several the one named `default`.
    fn chat_template(&self) -> Result<Option<&str>, TokenizerError> {
        let kind =
            || self.refused("a chat_template is a string or a list of {name, template}".into());
        let templates = match self.get("chat_template") {
            None => return Ok(None),
            Some(Value::String(template)) => return Ok(Some(template)),
            Some(Value::Array(templates)) => templates,
            Some(_) => return Err(kind()),
        };
        let mut names = Vec::new();
        for template in templates {
            let text = |key| template.get(key).and_then(Value::as_str);
            let (Some(name), Some(text)) = (text("name"), text("template")) else {
                return Err(kind());
            };
            if name == "default" {
                return Ok(Some(text));
            }
            names.push(name);
        }
        Err(self.refused(format!("of the chat templates {names:?} none is named \"default\"")))
    }
}

/// The chat template in a model's folder and the file it stands in: `chat_template.jinja`, else what
/// the `tokenizer_config.json` there says.
pub(crate) fn chat_template_beside(
    folder: &Path,
    config: &TokenizerConfig,
) -> Result<Option<(PathBuf, String)>, TokenizerError> {
    let path = folder.join(TEMPLATE_FILE);
    if let Some(bytes) = read_if_there(&path, MAX_TEMPLATE)? {
        return match String::from_utf8(bytes) {
            Ok(template) => Ok(Some((path, template))),
            Err(error) => {
                let offset = error.utf8_error().valid_up_to() as u64;
                Err(TokenizerError::InvalidUtf8 { path, offset })
            }
        };
    }
    let template = config.chat_template()?;
    Ok(template.map(|template| (config.path.clone(), template.to_owned())))
}

/// The text of a `tokenizer_config.json` for a tokenizer that is written here.
pub(crate) fn written<'a>(
    end_of_text: Option<String>,
    entries: impl IntoIterator<Item = (&'a str, Option<Value>)>,
) -> String {
    let always = [
        ("tokenizer_class", Some("PreTrainedTokenizerFast".into())),
        ("clean_up_tokenization_spaces", Some(false.into())),
    ];
    let own = [(END_OF_TEXT_KEY, end_of_text.map(Value::from))];
    let entries = always.into_iter().chain(entries).chain(own);
    let entries = entries.filter_map(|(key, value)| Some((key.to_owned(), value?)));
    format!("{:#}\n", Value::Object(entries.collect()))
}
