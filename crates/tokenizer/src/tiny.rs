//! Tokenizers of the tiny vocabularies.

use std::path::Path;
use std::sync::LazyLock;

use lns_checkpoint::GgufTokenizer;
use lns_testing::vocabularies::{PRE, byte_level, sentencepiece};

use crate::Tokenizer;

pub(crate) fn build(gguf: &GgufTokenizer) -> Tokenizer {
    Tokenizer::from_gguf(gguf, Path::new("tiny.gguf")).unwrap()
}

/// A tokenizer for each of [`PRE`], then the SentencePiece one.
pub(crate) fn tokenizers() -> &'static [Tokenizer] {
    static TOKENIZERS: LazyLock<Vec<Tokenizer>> =
        LazyLock::new(|| PRE.map(byte_level).iter().chain([&sentencepiece()]).map(build).collect());
    &TOKENIZERS
}
