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
    let context = spec.max_position_embeddings;
    if cut.window > context {
        return Err(usage(format!(
            "--window {} is longer than the model's context of {context} tokens; use --window \
             {context} or less",
            cut.window
        )));
    }
    let options = TextOptions {
        files: files.to_vec(),
        window: cut.window,
        max_tokens: cut.max_tokens,
        bos: cut.bos,
    };
    Ok(read_windows(tokenizer, &options, spec.vocab_size)?)
}
