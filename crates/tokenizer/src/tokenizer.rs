//! The model's tokenizer: the `tokenizers` library behind errors instead of panics, with the bytes
//! of text that each token stands for.

use std::fmt;
use std::sync::Arc;

use lns_record::sha256;
use tokenizers::ModelWrapper;

use crate::TokenizerError;
use crate::cut::Cut;
use crate::guard::guarded;
use crate::limits::{Steps, check_text, ticks, within};

/// How much of a word an error shows.
const SHOWN_CHARACTERS: usize = 40;

/// Names of the token that ends a text, in the order they are looked for. A model for chat ends its
/// turns with another token, but between documents stands the one of its pre-training.
pub(crate) const END_OF_TEXT: [&str; 7] = [
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<｜end▁of▁sentence｜>",
    "[EOS]",
    "[SEP]",
];

/// Names of the token that begins a text.
pub(crate) const BEGIN_OF_TEXT: [&str; 7] = [
    "<|begin_of_text|>",
    "<s>",
    "<bos>",
    "<|startoftext|>",
    "<｜begin▁of▁sentence｜>",
    "[BOS]",
    "[CLS]",
];

/// Names of the token that stands where an encoder is to say what was there.
const MASK: [&str; 2] = ["[MASK]", "<mask>"];

/// Text to token ids and back.
pub struct Tokenizer {
    pub(crate) inner: Arc<tokenizers::Tokenizer>,
    vocab_size: usize,
    bos: Option<u32>,
    pub(crate) end_of_text: Option<u32>,
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

    /// The token that stands where an encoder is to say what was there.
    pub fn mask_id(&self) -> Option<u32> {
        let added = self.inner.get_added_vocabulary().get_vocab();
        MASK.iter().find_map(|name| added.get(*name).copied())
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

    /// The first id that is not the same token in another tokenizer, and what it is in this one and in the
    /// other. What fills a GGUF file's vocabulary up (`[PAD49152]`) is no token.
    pub fn first_difference(&self, other: &Self) -> Option<(u32, Option<String>, Option<String>)> {
        let token =
            |of: &Self, id: u32| of.token(id).filter(|token| *token != format!("[PAD{id}]"));
        let ids = 0..self.vocab_size.max(other.vocab_size) as u32;
        let mut both = ids.map(|id| (id, token(self, id), token(other, id)));
        both.find(|(_, own, theirs)| own != theirs)
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
    use lns_testing::vocabularies::{PRE, byte_level, text};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use crate::formats::tokenizer_json::tests::from_json;
    use crate::tiny::{build, tokenizers};

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
    fn ids_that_the_vocabulary_lacks_are_left_out() {
        let tokenizer = from_json(|_| ()).unwrap();
        assert_eq!(tokenizer.decode(&[0, 77, 1]).unwrap(), "ab");
    }
}
