//! The model's tokenizer: the `tokenizers` library behind errors instead of panics, with the bytes
//! of text that each token stands for.

use std::fmt;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use lns_checkpoint::GgufTokenizer;
use lns_record::{read_regular, sha256};
use serde::Deserialize;
use tokenizers::ModelWrapper;

use crate::cut::Cut;
use crate::tokenizer_limits::{self, Steps, check_text, ticks, within};
use crate::{StreamDecoder, TokenizerError, gguf};

/// The largest `tokenizer.json` that is read; Gemma's, with 262,144 tokens, has 33 MB.
pub(crate) const MAX_TOKENIZER_JSON: u64 = 512 << 20;
/// Of a word in an error.
const SHOWN_CHARACTERS: usize = 40;
/// Far beyond any vocabulary: the library takes time and memory for ids that are not used.
const MAX_VOCAB: usize = 1 << 24;
/// The largest `tokenizer_config.json` that is read; a chat template in it takes some kilobytes.
pub(crate) const MAX_TOKENIZER_CONFIG: u64 = 16 << 20;

/// What Hugging Face puts beside `tokenizer.json`, and this project's own key in it: `eos_token` is
/// the token that ends a turn where the model is one for chat.
pub(crate) const CONFIG_FILE: &str = "tokenizer_config.json";
pub(crate) const END_OF_TEXT_KEY: &str = "lns_end_of_text";

/// Names of the token that ends a text, in the order they are looked for. A model for chat ends its
/// turns with another token, but between documents stands the one of its pre-training.
const END_OF_TEXT: [&str; 6] =
    ["<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<｜end▁of▁sentence｜>", "[EOS]"];

/// Names of the token that begins a text.
const BEGIN_OF_TEXT: [&str; 6] =
    ["<|begin_of_text|>", "<s>", "<bos>", "<|startoftext|>", "<｜begin▁of▁sentence｜>", "[BOS]"];

/// Text to token ids and back.
pub struct Tokenizer {
    pub(crate) inner: Arc<tokenizers::Tokenizer>,
    vocab_size: usize,
    bos: Option<u32>,
    end_of_text: Option<u32>,
    cut: Option<Cut>,
    normalizer: Arc<Steps>,
    /// Whether a text is given a time: not all that is done with it is known to take time in
    /// proportion to its length.
    is_watched: bool,
}

/// The tokens of a text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Encoding {
    /// Token ids.
    pub ids: Vec<u32>,
    /// For each token, how many bytes of the text it stands for. They sum to the text's length:
    /// bytes that tokens share count for the first of them, and bytes that the tokenizer drops
    /// count for the token that follows (at the end of the text, for the last one).
    pub bytes: Vec<u32>,
}

impl Tokenizer {
    /// The longest text, in bytes, that should be tokenised in one piece. The tokenizers library was
    /// seen to take 400 bytes of memory for each byte of text.
    pub const MAX_PIECE_BYTES: usize = 8 << 20;

    /// Reads a Hugging Face `tokenizer.json`. Truncation and padding that it asks for are dropped.
    ///
    /// The end-of-text token is the one that [`Tokenizer::save`] noted, if it did. Else that one and
    /// the beginning-of-sequence token are found by their usual names; the model's `config.json`
    /// knows better ([`Tokenizer::with_bos`], [`Tokenizer::with_end_of_text`]).
    pub fn from_json_file(path: &Path) -> Result<Self, TokenizerError> {
        let failed = |source| TokenizerError::Io { path: path.to_owned(), source };
        let json = read_regular(path, MAX_TOKENIZER_JSON).map_err(failed)?;
        let mut tokenizer = Self::from_json(&json, path)?;
        if let Some(token) = saved_end_of_text(path)? {
            tokenizer.end_of_text = tokenizer.inner.token_to_id(&token);
        }
        Ok(tokenizer)
    }

    /// The same from the text of a `tokenizer.json`, with nothing beside it; `source` names it in
    /// messages.
    pub fn from_json(json: &[u8], source: &Path) -> Result<Self, TokenizerError> {
        let refused = |reason| TokenizerError::TokenizerJson { path: source.to_owned(), reason };
        tokenizer_limits::check(json).map_err(refused)?;
        let inner = guarded(|| tokenizers::Tokenizer::from_bytes(json)).map_err(refused)?;
        if let ModelWrapper::BPE(bpe) = inner.get_model()
            && bpe.dropout.is_some_and(|dropout| dropout > 0.0)
        {
            return Err(refused("model.dropout makes tokens random; set it to null".to_owned()));
        }
        let vocab = inner.get_vocab(true);
        let vocab_size = vocab.values().max().map_or(0, |&id| id as usize + 1);
        if vocab_size == 0 {
            return Err(refused("the vocabulary is empty".to_owned()));
        }
        if vocab_size > MAX_VOCAB {
            return Err(refused(format!("a token has id {}", vocab_size - 1)));
        }
        let added = inner.get_added_vocabulary().get_vocab();
        let named = |names: &[&str]| names.iter().find_map(|name| added.get(*name).copied());
        let bos = named(&BEGIN_OF_TEXT);
        let end_of_text = named(&END_OF_TEXT);
        Self::new(inner, vocab_size, bos, end_of_text).map_err(refused)
    }

    /// Builds the tokenizer inside a GGUF file; `source` names the file in messages.
    ///
    /// Text is split as in the model's original `tokenizer.json`. The end-of-text token is
    /// `<|endoftext|>` where the vocabulary has it, and else the file's end-of-sequence token.
    pub fn from_gguf(gguf: &GgufTokenizer, source: &Path) -> Result<Self, TokenizerError> {
        let inner = gguf::tokenizer(gguf, source)?;
        let end_of_text = inner.token_to_id("<|endoftext|>").or(gguf.eos_token_id);
        Self::new(inner, gguf.tokens.len(), gguf.bos_token_id, end_of_text)
            .map_err(|what| TokenizerError::GgufVocabulary { path: source.to_owned(), what })
    }

    pub(crate) fn new(
        mut inner: tokenizers::Tokenizer,
        vocab_size: usize,
        bos: Option<u32>,
        end_of_text: Option<u32>,
    ) -> Result<Self, String> {
        // Special tokens are never added, so a post-processor could only blur the offsets.
        inner.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| error.to_string())?;
        let cut = Cut::of(&inner);
        let normalizer = Arc::new(Steps::of(inner.get_normalizer()));
        let is_watched = cut.is_none() || !matches!(inner.get_model(), ModelWrapper::BPE(_));
        let inner = Arc::new(inner);
        Ok(Self { inner, vocab_size, bos, end_of_text, cut, normalizer, is_watched })
    }

    /// The same tokenizer with another end-of-text token, such as the model's `eos_token_id`.
    #[must_use]
    pub fn with_end_of_text(self, id: u32) -> Self {
        Self { end_of_text: Some(id), ..self }
    }

    /// The same tokenizer with another beginning-of-sequence token.
    #[must_use]
    pub fn with_bos(self, id: u32) -> Self {
        Self { bos: Some(id), ..self }
    }

    /// The highest token id, added tokens included, plus one.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The token that begins a sequence.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    /// The token that stands between documents.
    pub fn end_of_text_id(&self) -> Option<u32> {
        self.end_of_text
    }

    /// The tokens that set documents apart instead of saying something: the one that begins a
    /// sequence, the one that stands between documents, and every special token that has the name
    /// of such a separator. In the order of their ids.
    pub fn separators(&self) -> Vec<u32> {
        let added = self.inner.get_added_vocabulary().get_vocab();
        let named = BEGIN_OF_TEXT.iter().chain(&END_OF_TEXT);
        let named = named.filter_map(|name| added.get(*name).copied());
        let mut ids: Vec<u32> = self.bos.into_iter().chain(self.end_of_text).chain(named).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Tokenises a text without adding special tokens. Special tokens that are spelt out in the
    /// text, such as `<|im_start|>`, become those tokens.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`]: the library fails, or the tokenizer is made so that it takes memory or
    /// time out of all proportion.
    pub fn encode(&self, text: &str) -> Result<Encoding, TokenizerError> {
        self.encode_within(text, ticks(text.len()))
    }

    fn encode_within(&self, text: &str, ticks: u64) -> Result<Encoding, TokenizerError> {
        let refused = |reason| TokenizerError::Encode { bytes: text.len(), reason };
        let length = u32::try_from(text.len())
            .map_err(|_| refused(format!("at most {} at a time", u32::MAX)))?;
        let encode = |inner: &tokenizers::Tokenizer, steps: &Steps, text: &str| {
            guarded(|| {
                check_text(steps, text)?;
                inner.encode(text, false).map_err(|error| error.to_string())
            })
        };
        let encoding = if self.is_watched {
            let (inner, steps) = (Arc::clone(&self.inner), Arc::clone(&self.normalizer));
            let text = text.to_owned();
            within(ticks, move || encode(&inner, &steps, &text))
        } else {
            encode(&self.inner, &self.normalizer, text)
        };
        let encoding = encoding.map_err(|reason| match self.unknown_word(text) {
            Some(word) => TokenizerError::UnknownWord { word },
            None => refused(reason),
        })?;
        Ok(Encoding {
            ids: encoding.get_ids().to_vec(),
            bytes: bytes_per_token(encoding.get_offsets(), length),
        })
    }

    /// The first word of a text that could not be tokenised because the vocabulary is one of whole words
    /// and has no token for others.
    fn unknown_word(&self, text: &str) -> Option<String> {
        let ModelWrapper::WordLevel(model) = self.inner.get_model() else { return None };
        if self.inner.token_to_id(&model.unk_token).is_some() {
            return None;
        }
        let unknown = |word: &&str| {
            guarded(|| self.inner.encode(*word, false).map_err(|error| error.to_string())).is_err()
        };
        let word = text.split_whitespace().find(unknown)?;
        Some(word.chars().take(SHOWN_CHARACTERS).collect())
    }

    /// Turns token ids back into text, special tokens spelt out. Bytes that are not UTF-8 become
    /// U+FFFD, and ids that the vocabulary lacks are left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        guarded(|| self.inner.decode(ids, false))
            .map_err(|reason| TokenizerError::Decode { count: ids.len(), reason })
    }

    /// A decoder for tokens that come one at a time.
    pub fn stream_decoder(&self) -> StreamDecoder<'_> {
        StreamDecoder::new(self)
    }

    /// The text of a `tokenizer.json` with this tokenizer.
    pub fn to_json(&self) -> String {
        self.inner.to_string(false).expect("what was read from JSON or built here is JSON again")
    }

    /// What tells this tokenizer from others: the sha256 of [`Tokenizer::to_json`], in hexadecimal
    /// digits.
    pub fn fingerprint(&self) -> String {
        sha256(self.to_json().as_bytes())
    }

    /// The vocabulary's spelling of a token.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Checks that a model with so many embeddings has one for this token.
    ///
    /// # Errors
    /// [`TokenizerError::IdBeyondVocabulary`].
    pub fn check_id(&self, id: u32, model_vocab: usize) -> Result<(), TokenizerError> {
        if (id as usize) < model_vocab {
            return Ok(());
        }
        Err(TokenizerError::IdBeyondVocabulary {
            id,
            token: self.token(id).unwrap_or_default(),
            tokenizer_vocab: self.vocab_size,
            model_vocab,
        })
    }

    /// Where a text may be cut to be tokenised in pieces; `None` if nowhere.
    pub fn cut(&self) -> Option<Cut> {
        self.cut
    }

    /// Tokenises a piece of text that follows another one, behind a [`Cut`].
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_continuation(&self, text: &str) -> Result<Encoding, TokenizerError> {
        match (self.cut, text.strip_prefix(' ')) {
            (Some(Cut::Prefixed), Some(rest)) => {
                let mut encoding = self.encode(rest)?;
                if let Some(first) = encoding.bytes.first_mut() {
                    *first += 1;
                }
                Ok(encoding)
            }
            _ => self.encode(text),
        }
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size)
            .field("bos", &self.bos)
            .field("end_of_text", &self.end_of_text)
            .finish_non_exhaustive()
    }
}

/// The bytes of a file, if it is there.
pub(crate) fn read_if_there(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, TokenizerError> {
    match read_regular(path, limit) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TokenizerError::Io { path: path.to_owned(), source }),
    }
}

/// The end-of-text token that [`Tokenizer::save`] noted beside a `tokenizer.json`.
fn saved_end_of_text(tokenizer_json: &Path) -> Result<Option<String>, TokenizerError> {
    #[derive(Deserialize)]
    struct Config {
        lns_end_of_text: Option<String>,
    }
    let path = tokenizer_json.with_file_name(CONFIG_FILE);
    let Some(json) = read_if_there(&path, MAX_TOKENIZER_CONFIG)? else { return Ok(None) };
    let config: Config = serde_json::from_slice(&json)
        .map_err(|error| TokenizerError::TokenizerConfig { path, reason: error.to_string() })?;
    Ok(config.lns_end_of_text)
}

/// Runs a call into a library that may panic on input that its own checks let through, as that for
/// tokenizers does on some vocabularies.
///
/// # Errors
/// What the call says, or that the library panicked.
pub fn guarded<T, E: ToString>(call: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the library that reads it panicked".to_owned()),
    }
}

/// Shares `length` bytes among tokens by where each one ends.
fn bytes_per_token(offsets: &[(usize, usize)], length: u32) -> Vec<u32> {
    let mut covered = 0;
    let mut bytes: Vec<u32> = offsets
        .iter()
        .map(|&(_, end)| {
            let end = u32::try_from(end).map_or(length, |end| end.min(length)).max(covered);
            end - std::mem::replace(&mut covered, end)
        })
        .collect();
    if let Some(last) = bytes.last_mut() {
        *last += length - covered;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::fs;

    use lns_testing::vocabularies::{PRE, byte_level, text};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::tiny::{build, tokenizers};

    /// A `tokenizer.json` of five tokens, changed.
    fn from_json(change: impl FnOnce(&mut Value)) -> Result<Tokenizer, TokenizerError> {
        let special = |id: u32, content: &str| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false, "special": true})
        };
        let mut json = json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [special(3, "<s>"), special(5, "</s>")],
            "normalizer": null, "post_processor": null,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "<s>": 3, "Ġ": 4},
                      "merges": [["a", "b"]]},
        });
        change(&mut json);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        fs::write(&path, json.to_string()).unwrap();
        Tokenizer::from_json_file(&path)
    }

    proptest! {
        #[test]
        fn the_bytes_of_the_tokens_sum_to_the_text(text in text()) {
            for tokenizer in tokenizers() {
                let encoding = tokenizer.encode(&text).unwrap();
                prop_assert_eq!(encoding.ids.len(), encoding.bytes.len());
                prop_assert_eq!(encoding.bytes.iter().sum::<u32>() as usize, text.len());
            }
        }

        #[test]
        fn a_byte_level_vocabulary_gives_the_text_back(text in text()) {
            let composes = |pre: &str| pre == "qwen2";
            for (_, tokenizer) in PRE.iter().zip(tokenizers()).filter(|(pre, _)| !composes(pre)) {
                let ids = tokenizer.encode(&text).unwrap().ids;
                prop_assert_eq!(tokenizer.decode(&ids).unwrap(), text.as_str());
            }
        }
    }

    #[test]
    fn bytes_of_a_character_that_tokens_share_count_once() {
        let tokenizer = build(&byte_level("smollm"));
        let encoding = tokenizer.encode("b😀 b").unwrap();
        assert_eq!(encoding.bytes, [1, 4, 0, 0, 0, 2]);
    }

    #[test]
    fn bytes_that_the_tokenizer_drops_count_for_the_next_token() {
        let tokenizer = from_json(|_| ()).unwrap();
        let encoding = tokenizer.encode("xxabxxx").unwrap();
        assert_eq!((encoding.ids, encoding.bytes), (vec![2], vec![7]));
        let encoding = tokenizer.encode("axa").unwrap();
        assert_eq!((encoding.ids, encoding.bytes), (vec![0, 0], vec![1, 2]));
    }

    #[test]
    fn a_tokenizer_json_is_read() {
        let tokenizer = from_json(|_| ()).unwrap();
        assert_eq!(tokenizer.vocab_size(), 6, "</s> has id 5");
        assert_eq!((tokenizer.bos_id(), tokenizer.end_of_text_id()), (Some(3), Some(5)));
        let encoding = tokenizer.encode("ab ab</s>").unwrap();
        assert_eq!(encoding.ids, [2, 4, 2, 5]);
        assert_eq!(encoding.bytes, [2, 1, 2, 4]);
        assert_eq!(tokenizer.decode(&encoding.ids).unwrap(), "ab ab</s>");
    }

    #[test]
    fn nothing_is_added_cut_off_or_filled_up() {
        let tokenizer = from_json(|json| {
            json["truncation"] = json!({"max_length": 1, "strategy": "LongestFirst", "stride": 0,
                                        "direction": "Right"});
            json["padding"] = json!({"strategy": {"Fixed": 8}, "direction": "Right",
                "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "a"});
            json["post_processor"] = json!({"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [3], "tokens": ["<s>"]}}});
        })
        .unwrap();
        assert_eq!(tokenizer.encode("ab ab").unwrap().ids, [2, 4, 2]);
    }

    #[test]
    fn a_bad_tokenizer_json_is_an_error() {
        let message = |change: fn(&mut Value)| from_json(change).unwrap_err().to_string();
        assert!(message(|json| *json = json!([1])).contains("not a usable tokenizer.json"));
        assert!(message(|json| json["model"]["dropout"] = json!(0.5)).contains("dropout"));
        assert!(
            message(|json| {
                json["model"] = json!({"type": "BPE", "vocab": {}, "merges": []});
                json["added_tokens"] = json!([]);
            })
            .contains("the vocabulary is empty")
        );
        assert!(message(|json| json["model"]["vocab"]["Ġ"] = json!(u32::MAX)).contains("has id"));
        let absent = Tokenizer::from_json_file(Path::new("no/such/tokenizer.json")).unwrap_err();
        assert!(absent.to_string().contains("no/such/tokenizer.json: cannot be read"));
    }

    #[test]
    fn a_vocabulary_that_makes_the_library_panic_is_an_error() {
        // The library keeps room for the longest token only, and this merge makes a longer one.
        let error = from_json(|json| json["model"]["merges"] = json!([["<s>", "ab"]])).unwrap_err();
        assert!(error.to_string().contains("panicked"), "{error}");
    }

    #[test]
    fn patterns_and_vocabularies_made_to_take_for_ever_are_given_up() {
        let pattern = from_json(|json| {
            let split = json!({"type": "Split", "pattern": {"Regex": "(?<=(a|aa)+)b"},
                "behavior": "Isolated", "invert": false});
            json["pre_tokenizer"] = split;
        });
        let letters = (1..=2000).map(|length| json!(["a".repeat(length), -1.0]));
        let vocab: Vec<_> = letters.chain([json!(["b", -2.0])]).collect();
        let unigram = from_json(|json| {
            json["model"] = json!({"type": "Unigram", "unk_id": 0, "vocab": vocab});
            json["pre_tokenizer"] = Value::Null;
            json["decoder"] = Value::Null;
            json["added_tokens"] = json!([]);
        });
        for tokenizer in [pattern.unwrap(), unigram.unwrap()] {
            assert!(tokenizer.is_watched);
            assert!(!tokenizer.encode("ab aab").unwrap().ids.is_empty());
            let text = "a".repeat(1 << 14);
            let error = tokenizer.encode_within(&text, 1).unwrap_err().to_string();
            assert!(error.contains("16384 bytes of text cannot be tokenised: it takes"), "{error}");
        }
        assert!(tokenizers().iter().all(|tokenizer| !tokenizer.is_watched));
    }

    #[test]
    fn files_that_take_all_memory_are_refused_before_they_do() {
        let charsmap = json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="});
        let error = from_json(|json| json["normalizer"] = charsmap).unwrap_err().to_string();
        assert!(error.contains("its trie has 4294967295 bytes"), "{error}");
        let step = json!({"type": "Replace", "pattern": {"String": "a"},
            "content": "a".repeat(100)});
        let bomb = |count| json!({"type": "Sequence", "normalizers": vec![step.clone(); count]});
        let error = from_json(|json| json["normalizer"] = bomb(6)).unwrap_err().to_string();
        assert!(error.contains("of its added tokens"), "{error}");
        let tokenizer = from_json(|json| json["normalizer"] = bomb(3)).unwrap();
        let error = tokenizer.encode(&"a".repeat(1000)).unwrap_err().to_string();
        assert!(error.contains("split the text into several documents"), "{error}");
    }

    #[test]
    fn ids_that_the_vocabulary_lacks_are_left_out() {
        let tokenizer = from_json(|_| ()).unwrap();
        assert_eq!(tokenizer.decode(&[0, 77, 1]).unwrap(), "ab");
    }
}
