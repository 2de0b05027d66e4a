//! Text options, resolved: windows of token ids for a model.

use std::path::PathBuf;

use lns_data::{TextOptions, Tokenizer, Windows, read_windows};
use lns_spec::ModelSpec;

use crate::{arguments::CutArgs, failure::usage};

/// Reads `files` for a model, refusing windows beyond its context.
pub(crate) fn windows(
    files: &[PathBuf],
    cut: &CutArgs,
    spec: &ModelSpec,
    tokenizer: &Tokenizer,
) -> anyhow::Result<Windows> {
    const WINDOW: usize = 512;
    let context = spec.max_position_embeddings;
    let window = cut.window.unwrap_or(WINDOW.min(context));
    if window > context {
        return Err(usage(format!(
            "--window {window} is longer than the model's context of {context} tokens; use --window \
             {context} or less"
        )));
    }
    let options =
        TextOptions { files: files.to_vec(), window, max_tokens: cut.max_tokens, bos: cut.bos };
    Ok(read_windows(tokenizer, &options, spec.vocab_size)?)
}

/// How much text there is, for a person.
pub(crate) fn described(text: &Windows) -> String {
    let windows = text.windows.len();
    let plural = if windows == 1 { "" } else { "s" };
    format!("Text: {windows} window{plural} of {} tokens.", text.window)
}
