//! The forms that a tokenizer comes in and is written in: Hugging Face's files and GGUF's metadata.

pub(crate) mod folder;
pub(crate) mod gguf;
pub(crate) mod pre_tokenizer;
mod to_gguf;
pub(crate) mod tokenizer_config;
pub(crate) mod tokenizer_json;

use std::io::ErrorKind;
use std::path::Path;

use lns_checkpoint::{Checkpoint, TokenizerSource};
use lns_record::read_regular;

use crate::{Tokenizer, TokenizerError};

/// The model's own tokenizer, if it has one. Where the tokenizer does not say which tokens begin and
/// end a text, the model's config does.
///
/// # Errors
/// A tokenizer that cannot be read.
pub fn model_tokenizer(checkpoint: &Checkpoint) -> Result<Option<Tokenizer>, TokenizerError> {
    let spec = checkpoint.spec();
    let tokenizer = match checkpoint.tokenizer() {
        TokenizerSource::Json(path) => Tokenizer::from_json_file(&path)?,
        TokenizerSource::Gguf(gguf) => Tokenizer::from_gguf(&gguf, checkpoint.path())?,
        TokenizerSource::None => return Ok(None),
    };
    let tokenizer = match (tokenizer.end_of_text_id(), spec.eos_token_ids().first()) {
        (None, Some(id)) => tokenizer.with_end_of_text(*id),
        _ => tokenizer,
    };
    Ok(Some(match (tokenizer.bos_id(), spec.bos_token_id()) {
        (None, Some(id)) => tokenizer.with_bos(id),
        _ => tokenizer,
    }))
}

/// The bytes of a file, if it is there.
fn read_if_there(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, TokenizerError> {
    match read_regular(path, limit) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TokenizerError::Io { path: path.to_owned(), source }),
    }
}
