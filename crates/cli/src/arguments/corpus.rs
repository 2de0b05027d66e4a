//! The flags of what a model is trained on.

use std::path::PathBuf;

use clap::Args;
use lns_train::ranges::TOKENS;

use super::numbers::{VOCABULARY, whole};

/// Text that is prepared for a run, or that was prepared before.
#[derive(Debug, Clone, Args)]
pub(crate) struct CorpusArgs {
    /// Text to train on: .txt, .jsonl (one {"text": …} a line), either also as .gz or .zst, .parquet (a
    /// column `text`), or folders of them; - is standard input. Without --text and --corpus: the built-in language
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "corpus")]
    pub(crate) text: Vec<PathBuf>,

    /// Text to hold out; 5 % of the documents of --text if not given. If they are fewer than 20, the last
    /// 5 % of each, or more where that is under 8 KiB in all, a quarter at most
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "text")]
    pub(crate) validation: Vec<PathBuf>,

    /// Text that `lns tokenize` prepared
    #[arg(long, value_name = "DIR")]
    pub(crate) corpus: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) tokenizer: TokenizerArgs,
}

/// How text becomes tokens.
#[derive(Debug, Clone, Args)]
pub(crate) struct TokenizerArgs {
    /// A tokenizer.json, or a model: its own tokenizer
    #[arg(long, value_name = "FILE", conflicts_with = "vocab")]
    pub(crate) tokenizer: Option<PathBuf>,

    /// Train a byte-level BPE of this many tokens on the text, if no --tokenizer is given
    /// (257–1048576)
    #[arg(
        long, value_name = "N", default_value_t = Self::VOCAB, value_parser = whole::<usize>(VOCABULARY)
    )]
    pub(crate) vocab: usize,

    /// Prepare at most this many tokens to train on (1–1000000000000000)
    #[arg(long, value_name = "N", requires = "text", value_parser = whole::<u64>(TOKENS))]
    pub(crate) max_train_tokens: Option<u64>,
}

impl TokenizerArgs {
    /// Tokens of a BPE that is trained, if no other number is given.
    pub(crate) const VOCAB: usize = 2048;
}
