//! The flags of text to measure on, the same for every verb that reads one.

use clap::Args;
use lns_train::ranges::TOKENS;

use super::numbers::{WINDOW, whole};

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

    /// Begin every window with the model's begin-of-text token
    #[arg(long)]
    pub(crate) bos: bool,
}
