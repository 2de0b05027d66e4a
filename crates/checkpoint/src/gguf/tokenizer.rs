//! `tokenizer.*` metadata → [`GgufTokenizer`].

use super::metadata::Metadata;
use crate::{CheckpointError, GgufTokenizer};

/// What llama.cpp calls the model of a tokenizer that is not there.
pub(super) const NO_TOKENIZER: &str = "none";

/// The tokenizer in the metadata; `None` if there is no `tokenizer.ggml.model`, or one that says so.
pub(super) fn read(metadata: &Metadata<'_>) -> Result<Option<GgufTokenizer>, CheckpointError> {
    let model = match metadata.text("tokenizer.ggml.model")? {
        None | Some(NO_TOKENIZER | "no_vocab") => return Ok(None),
        Some(model) => model,
    };
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let text = |name: &str| Ok(metadata.text(name)?.map(str::to_owned));
    let token = |name: &str| -> Result<Option<u32>, CheckpointError> {
        let (key, expected) = (key(name), "a token id");
        let Some(id) = metadata.whole(&key)? else { return Ok(None) };
        u32::try_from(id).map(Some).map_err(|_| metadata.wrong(&key, expected))
    };
    let tokenizer = GgufTokenizer {
        model: model.to_owned(),
        pre: text("tokenizer.ggml.pre")?,
        tokens: metadata.texts(&key("tokens"))?,
        token_types: metadata.integers(&key("token_type"))?,
        scores: metadata.numbers(&key("scores"))?,
        merges: metadata.texts(&key("merges"))?,
        bos_token_id: token("bos_token_id")?,
        eos_token_id: token("eos_token_id")?,
        unknown_token_id: token("unknown_token_id")?,
        add_bos_token: metadata.flag(&key("add_bos_token"))?,
        add_space_prefix: metadata.flag(&key("add_space_prefix"))?,
        chat_template: text("tokenizer.chat_template")?,
    };
    let tokens = tokenizer.tokens.len();
    for (name, length) in
        [("token_type", tokenizer.token_types.len()), ("scores", tokenizer.scores.len())]
    {
        if length != 0 && length != tokens {
            return Err(metadata.wrong(&key(name), "an array as long as tokenizer.ggml.tokens"));
        }
    }
    Ok(Some(tokenizer))
}
