//! The tokenizer of a checkpoint.

use lns_checkpoint::{Checkpoint, TokenizerSource};

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
