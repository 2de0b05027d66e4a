//! Tiny vocabularies with the ids that outside witnesses give for them: made by
//! `golden/tokenizer_ids.py small`.

use std::collections::BTreeMap;

use lns_checkpoint::GgufTokenizer;
use proptest::prelude::*;
use serde::Deserialize;

use crate::golden::golden_json;

/// One name for each way to split text.
pub const PRE: [&str; 5] = ["gpt-2", "smollm", "llama-bpe", "qwen2", "tekken"];

/// Strings, vocabularies, and the ids that one gives the other.
#[derive(Deserialize)]
pub struct Golden {
    /// What the byte-level vocabulary is tried on.
    pub strings: Vec<String>,
    /// A byte-level vocabulary.
    pub byte_level: ByteLevel,
    /// A SentencePiece vocabulary.
    pub sentencepiece: SentencePiece,
}

/// A byte-level vocabulary.
#[derive(Deserialize)]
pub struct ByteLevel {
    tokens: Vec<String>,
    token_types: Vec<i32>,
    merges: Vec<String>,
    /// Ids of each of the strings, by pre-tokenizer.
    pub expected: BTreeMap<String, Vec<Vec<u32>>>,
}

/// A SentencePiece vocabulary.
#[derive(Deserialize)]
pub struct SentencePiece {
    tokens: Vec<String>,
    token_types: Vec<i32>,
    scores: Vec<f32>,
    /// What it is tried on.
    pub strings: Vec<String>,
    /// Ids of each of the strings.
    pub expected: Vec<Vec<u32>>,
}

/// What `golden/tokenizer_ids.json` says.
pub fn golden() -> Golden {
    golden_json("tokenizer_ids.json")
}

/// The byte-level vocabulary, as a GGUF file holds it, with one of [`PRE`].
pub fn byte_level(pre: &str) -> GgufTokenizer {
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

/// The SentencePiece vocabulary, as a GGUF file holds it.
pub fn sentencepiece() -> GgufTokenizer {
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

/// Text of what tokenizers find hard: words, capitals, digits, white space of all kinds,
/// punctuation, scripts, combining marks, emoji, special tokens.
pub fn text() -> impl Strategy<Value = String> {
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
