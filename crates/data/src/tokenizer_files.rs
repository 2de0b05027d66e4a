//! A model's tokenizer, moved with the model: into a Hugging Face folder or into a GGUF file.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;

use lns_checkpoint::{Checkpoint, Format, GgufTokenizer, TokenizerSource};
use lns_record::replace_file;
use serde::Deserialize;
use serde_json::{Value, json};
use tokenizers::PostProcessorWrapper;

use crate::tokenizer::{
    CONFIG_FILE, END_OF_TEXT_KEY, MAX_TOKENIZER_CONFIG, MAX_TOKENIZER_JSON, read_at_most,
};
use crate::{DataError, Tokenizer};

const TOKENIZER_FILE: &str = "tokenizer.json";
const TEMPLATE_FILE: &str = "chat_template.jinja";

/// What belongs to a tokenizer in a Hugging Face folder, and how text is made with the model.
const FILES: [&str; 9] = [
    TOKENIZER_FILE,
    CONFIG_FILE,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    TEMPLATE_FILE,
    "generation_config.json",
];

/// Puts the model's tokenizer into a Hugging Face folder that is being written; gives the names of
/// the files, none if there is no tokenizer.
///
/// The files of a folder are copied byte for byte. The tokenizer inside a GGUF file becomes a
/// `tokenizer.json` and a `tokenizer_config.json`.
///
/// # Errors
/// A tokenizer that is not read, a file larger than any such file, what the operating system says.
pub fn write_tokenizer(checkpoint: &Checkpoint, folder: &Path) -> Result<Vec<String>, DataError> {
    match checkpoint.tokenizer() {
        TokenizerSource::Gguf(gguf) => write_from_gguf(checkpoint, &gguf, folder),
        TokenizerSource::None if checkpoint.format() == Format::Gguf => Ok(Vec::new()),
        TokenizerSource::Json(_) | TokenizerSource::None => {
            copy_files(folder_of(checkpoint), folder)
        }
    }
}

/// The tokenizer for a GGUF file with this model, if it has one: that of a GGUF file unchanged, else
/// the one in `tokenizer.json` ([`Tokenizer::to_gguf`]) with what `config.json` and the files beside
/// say of it.
///
/// # Errors
/// A tokenizer that is not read or that a GGUF file cannot say.
pub fn gguf_tokenizer(checkpoint: &Checkpoint) -> Result<Option<GgufTokenizer>, DataError> {
    let path = match checkpoint.tokenizer() {
        TokenizerSource::Gguf(gguf) => return Ok(Some(*gguf)),
        TokenizerSource::None => return Ok(None),
        TokenizerSource::Json(path) => path,
    };
    let spec = checkpoint.spec();
    let config = Config::beside(&path)?;
    let tokenizer = Tokenizer::from_json_file(&path)?;
    let mut gguf = tokenizer.to_gguf(spec.vocab_size, config.chat_template(&path)?)?;
    gguf.bos_token_id = spec.bos_token_id().or(gguf.bos_token_id);
    // Of several ends the one that the tokenizer names.
    let ends = spec.eos_token_ids();
    let named = config.token("eos_token").and_then(|token| tokenizer.inner.token_to_id(token));
    gguf.eos_token_id = named
        .filter(|id| ends.is_empty() || ends.contains(id))
        .or(ends.first().copied())
        .or(gguf.eos_token_id);
    let bos = gguf.bos_token_id.and_then(|id| tokenizer.token(id));
    let adds_bos = match (config.0.get("add_bos_token").and_then(Value::as_bool), bos) {
        (Some(adds), _) => adds,
        (None, Some(bos)) => begins_with(&path, &bos)?,
        (None, None) => false,
    };
    gguf.add_bos_token = Some(adds_bos);
    Ok(Some(gguf))
}

fn folder_of(checkpoint: &Checkpoint) -> &Path {
    let path = checkpoint.path();
    if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) }
}

fn copy_files(from: &Path, to: &Path) -> Result<Vec<String>, DataError> {
    let mut copied = Vec::new();
    for name in FILES {
        let source = from.join(name);
        // A link to a regular file is one: model caches are made of them.
        if fs::metadata(&source).is_ok_and(|metadata| metadata.is_file()) {
            write_file(&to.join(name), &read_file(&source, MAX_TOKENIZER_JSON)?)?;
            copied.push(name.to_owned());
        }
    }
    Ok(copied)
}

fn write_from_gguf(
    checkpoint: &Checkpoint,
    gguf: &GgufTokenizer,
    folder: &Path,
) -> Result<Vec<String>, DataError> {
    let tokenizer = Tokenizer::from_gguf(gguf, checkpoint.path())?;
    let mut whole = tokenizer.inner.clone();
    let name = |id: Option<u32>| id.and_then(|id| tokenizer.token(id));
    if let (Some(true), Some(id), Some(bos)) =
        (gguf.add_bos_token, gguf.bos_token_id, name(gguf.bos_token_id))
    {
        whole.with_post_processor(Some(in_front(id, &bos)));
    }
    let json = whole.to_string(false).map_err(|error| DataError::GgufVocabulary {
        path: checkpoint.path().to_owned(),
        what: error.to_string(),
    })?;
    let entries = [
        ("tokenizer_class", Some(json!("PreTrainedTokenizerFast"))),
        ("clean_up_tokenization_spaces", Some(json!(false))),
        ("model_max_length", Some(json!(checkpoint.spec().max_position_embeddings))),
        ("bos_token", name(gguf.bos_token_id).map(Value::from)),
        ("eos_token", name(gguf.eos_token_id).map(Value::from)),
        ("unk_token", name(gguf.unknown_token_id).map(Value::from)),
        ("add_bos_token", gguf.add_bos_token.map(Value::from)),
        ("chat_template", gguf.chat_template.clone().map(Value::from)),
        (END_OF_TEXT_KEY, name(tokenizer.end_of_text_id()).map(Value::from)),
    ];
    let entries = entries.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    let config = format!("{:#}\n", Value::Object(entries.collect()));
    write_file(&folder.join(TOKENIZER_FILE), json.as_bytes())?;
    write_file(&folder.join(CONFIG_FILE), config.as_bytes())?;
    Ok(vec![TOKENIZER_FILE.to_owned(), CONFIG_FILE.to_owned()])
}

/// Puts a token in front of every text.
fn in_front(id: u32, token: &str) -> PostProcessorWrapper {
    let special = json!({"SpecialToken": {"id": token, "type_id": 0}});
    let text = |name, type_id| json!({"Sequence": {"id": name, "type_id": type_id}});
    let template = json!({
        "type": "TemplateProcessing",
        "single": [special, text("A", 0)],
        "pair": [special, text("A", 0), special, text("B", 1)],
        "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}},
    });
    serde_json::from_value(template).expect("it has the library's own form")
}

/// Whether a `tokenizer.json` puts this token in front of text.
fn begins_with(path: &Path, token: &str) -> Result<bool, DataError> {
    #[derive(Deserialize)]
    struct Whole {
        #[serde(default)]
        post_processor: Value,
    }
    let refused = |error: serde_json::Error| DataError::TokenizerJson {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let bytes = read_file(path, MAX_TOKENIZER_JSON)?;
    let whole: Whole = serde_json::from_slice(&bytes).map_err(refused)?;
    let one = std::slice::from_ref(&whole.post_processor);
    let steps = whole.post_processor["processors"].as_array().map_or(one, Vec::as_slice);
    Ok(steps.iter().any(|step| step["single"][0]["SpecialToken"]["id"] == token))
}

/// `tokenizer_config.json`, empty if it is not there.
struct Config(Value);

impl Config {
    fn beside(tokenizer_json: &Path) -> Result<Self, DataError> {
        let path = tokenizer_json.with_file_name(CONFIG_FILE);
        let Some(bytes) = read_if_there(&path)? else { return Ok(Self(Value::Null)) };
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|error| DataError::TokenizerConfig { path, reason: error.to_string() })
    }

    /// The text of a special token, which is a string or an object with its content.
    fn token(&self, key: &str) -> Option<&str> {
        let token = self.0.get(key)?;
        token.as_str().or_else(|| token.get("content")?.as_str())
    }

    /// The template of a conversation: its own file, else the only one here or the one of several
    /// that is named `default`.
    fn chat_template(&self, tokenizer_json: &Path) -> Result<Option<String>, DataError> {
        let path = tokenizer_json.with_file_name(TEMPLATE_FILE);
        if let Some(bytes) = read_if_there(&path)? {
            return match String::from_utf8(bytes) {
                Ok(template) => Ok(Some(template)),
                Err(error) => {
                    let offset = error.utf8_error().valid_up_to() as u64;
                    Err(DataError::InvalidUtf8 { path, offset })
                }
            };
        }
        let template = match self.0.get("chat_template") {
            Some(Value::Array(several)) => {
                let default = several.iter().find(|template| template["name"] == "default");
                default.and_then(|template| template["template"].as_str())
            }
            one => one.and_then(Value::as_str),
        };
        Ok(template.map(str::to_owned))
    }
}

fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>, DataError> {
    File::open(path)
        .and_then(|file| read_at_most(file, limit))
        .map_err(|source| DataError::Io { path: path.to_owned(), source })
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, DataError> {
    match read_file(path, MAX_TOKENIZER_CONFIG) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(DataError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), DataError> {
    replace_file(path, bytes).map_err(|source| DataError::Write { path: path.to_owned(), source })
}
