//! The flags of text to measure on, the same for every verb that reads one.

use clap::Args;
use lns_checkpoint::Checkpoint;
use lns_tokenizer::{Tokenizer, begins_with_bos};
use lns_train::ranges::TOKENS;

use super::numbers::{WINDOW, whole};
use crate::failure::usage;

/// What may follow `--text`.
pub(crate) fn text_help() -> &'static str {
    "Text: .txt, .jsonl (one {\"text\": …} a line), either also as .gz or .zst, .parquet (a column \
     `text`), or folders of them; - is standard input"
}

/// How a text is cut into the windows that a model reads.
#[derive(Debug, Clone, Args)]
pub(crate) struct CutArgs {
    /// Tokens per window; 512, or the model's context where that is shorter (2–1048576)
    #[arg(long, value_name = "N", value_parser = whole::<usize>(WINDOW))]
    pub(crate) window: Option<usize>,

    /// Read at most this many tokens, in whole windows. `diagnose` reads 2048 if not given (four
    /// windows, where those are longer; four times as many with --removal-error), other verbs all (1–1000000000000000)
    #[arg(long, value_name = "N", value_parser = whole::<u64>(TOKENS))]
    pub(crate) max_tokens: Option<u64>,

    #[command(flatten)]
    pub(crate) bos: BosArgs,
}

/// Whether what a model reads begins with its begin-of-text token. Gemma loses two nats per token without it,
/// and other models lose where they never saw it.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct BosArgs {
    /// Begin every window, question or prompt with the begin-of-text token. Without this and --no-bos the
    /// model's own files decide: add_bos_token in a GGUF file or in tokenizer_config.json, else the
    /// post-processor in tokenizer.json
    #[arg(long, conflicts_with = "no_bos")]
    bos: bool,

    /// Leave the begin-of-text token out, whatever the model's files say
    #[arg(long)]
    no_bos: bool,
}

impl BosArgs {
    /// What the model's own files say.
    pub(crate) const AS_THE_MODEL_SAYS: Self = Self { bos: false, no_bos: false };

    /// The flag that was given.
    pub(crate) fn given(self) -> Option<&'static str> {
        match (self.bos, self.no_bos) {
            (true, _) => Some("--bos"),
            (false, true) => Some("--no-bos"),
            (false, false) => None,
        }
    }

    /// Whether the token is put in front, for a model and its tokenizer.
    pub(crate) fn of(self, checkpoint: &Checkpoint, tokenizer: &Tokenizer) -> anyhow::Result<bool> {
        match (self.bos, self.no_bos, tokenizer.bos_id()) {
            (true, _, None) => Err(usage(
                "--bos: the tokenizer names no beginning-of-sequence token; leave --bos out",
            )),
            (false, true, _) | (false, false, None) => Ok(false),
            (true, _, Some(_)) => Ok(true),
            (false, false, Some(_)) => Ok(begins_with_bos(checkpoint)?),
        }
    }
}
