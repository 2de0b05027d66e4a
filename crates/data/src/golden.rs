//! Tiny vocabularies with the ids that outside witnesses give for them: made by
//! `golden/tokenizer_ids.py small`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use lns_checkpoint::GgufTokenizer;
use proptest::prelude::*;
use serde::Deserialize;

use crate::Tokenizer;

/// One name for each way to split text.
pub(crate) const PRE: [&str; 5] = ["gpt-2", "smollm", "llama-bpe", "qwen2", "tekken"];

#[derive(Deserialize)]
pub(crate) struct Golden {
    pub(crate) strings: Vec<String>,
    pub(crate) byte_level: ByteLevel,
    pub(crate) sentencepiece: SentencePiece,
}

#[derive(Deserialize)]
pub(crate) struct ByteLevel {
    tokens: Vec<String>,
    token_types: Vec<i32>,
    merges: Vec<String>,
    /// Ids of each of the strings, by pre-tokenizer.
    pub(crate) expected: BTreeMap<String, Vec<Vec<u32>>>,
}

#[derive(Deserialize)]
pub(crate) struct SentencePiece {
    tokens: Vec<String>,
    token_types: Vec<i32>,
    scores: Vec<f32>,
    pub(crate) strings: Vec<String>,
    pub(crate) expected: Vec<Vec<u32>>,
}

pub(crate) fn golden() -> Golden {
    serde_json::from_str(include_str!("../golden/tokenizer_ids.json")).unwrap()
}

pub(crate) fn byte_level(pre: &str) -> GgufTokenizer {
    let ByteLevel { tokens, token_types, merges, .. } = golden().byte_level;
    GgufTokenizer {
        model: "gpt2".to_owned(),
        pre: Some(pre.to_owned()),
        tokens,
        token_types,
        merges,
        bos_token_id: Some(1),
        eos_token_id: Some(2),
        ..GgufTokenizer::default()
    }
}

pub(crate) fn sentencepiece() -> GgufTokenizer {
    let SentencePiece { tokens, token_types, scores, .. } = golden().sentencepiece;
    GgufTokenizer {
        model: "llama".to_owned(),
        tokens,
        token_types,
        scores,
        bos_token_id: Some(1),
        eos_token_id: Some(2),
        unknown_token_id: Some(0),
        ..GgufTokenizer::default()
    }
}

pub(crate) fn build(gguf: &GgufTokenizer) -> Tokenizer {
    Tokenizer::from_gguf(gguf, Path::new("tiny.gguf")).unwrap()
}

/// A tokenizer for each of [`PRE`], then the SentencePiece one.
pub(crate) fn tokenizers() -> &'static [Tokenizer] {
    static TOKENIZERS: LazyLock<Vec<Tokenizer>> =
        LazyLock::new(|| PRE.map(byte_level).iter().chain([&sentencepiece()]).map(build).collect());
    &TOKENIZERS
}

/// Text of what tokenizers find hard: words, capitals, digits, white space of all kinds,
/// punctuation, scripts, combining marks, emoji, special tokens.
pub(crate) fn text() -> impl Strategy<Value = String> {
    let chunk = prop_oneof![
        4 => "[a-z]{1,8}",
        4 => Just(" ".to_owned()),
        1 => "[A-Z][a-z]{0,3}",
        1 => "[0-9]{1,5}",
        2 => "[ \n\r\t\u{a0}\u{3000}\u{2028}\u{85}]{1,4}",
        2 => "[.,;:!?'\"/(){}<>|=+*#-]{1,3}",
        1 => prop::sample::select(vec!["'s", "'LL", "'ſ", "n't", "e\u{301}", " \u{301}", "½", "²", "٣٤"])
            .prop_map(str::to_owned),
        1 => "[\u{e0}-\u{ff}\u{391}-\u{3c9}\u{410}-\u{44f}]{1,4}",
        1 => "[\u{4e00}-\u{4e40}\u{3040}-\u{3060}\u{ac00}-\u{ac20}]{1,4}",
        1 => prop::sample::select(vec!["😀", "👩‍👧", "🏽", "❤️", "\u{feff}", "\0", "<|im_start|>", "<tool>", "</s>"])
            .prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(chunk, 0..40).prop_map(|chunks| chunks.concat())
}
