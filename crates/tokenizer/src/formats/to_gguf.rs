//! A tokenizer as the metadata of a GGUF file: the way back from [`gguf`](super::gguf).
//!
//! Byte-level BPE is a `gpt2` vocabulary, whose way to split text must have a name. SentencePiece BPE
//! is a `llama` vocabulary: the order in which tokens are merged follows from scores, which are made so
//! that it does. Of several ways to one token llama.cpp takes the leftmost, as SentencePiece does;
//! where a `tokenizer.json` has an order of its own, the merges are listed too, for transformers and
//! for this project. Tokens are filled up to the model's rows as llama.cpp's `convert_hf_to_gguf.py`
//! does it.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use lns_checkpoint::GgufTokenizer;
use serde::Deserialize;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, ModelWrapper, NormalizedString, Normalizer};

use super::gguf::{
    BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, is_prefixed, is_run_of_spaces,
};
use super::pre_tokenizer::{self, SPACE};
use crate::guard::guarded;
use crate::{Tokenizer, TokenizerError};

/// What BPE is, as the library writes it.
#[derive(Deserialize)]
struct Bpe {
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    byte_fallback: bool,
    ignore_merges: bool,
    merges: Vec<(String, String)>,
}

impl Tokenizer {
    /// The metadata of a GGUF file with this tokenizer, for a model of `vocab_size` embeddings; ids
    /// without a token become unused ones. The beginning of a text and its end are
    /// [`Tokenizer::bos_id`] and [`Tokenizer::end_of_text_id`]; whether the former is to be added is
    /// not known here.
    ///
    /// Text becomes the same tokens, with one exception: where a SentencePiece tokenizer splits with
    /// `Metaspace`, text that begins with a space (or follows a special token) gets one more space in
    /// front in a GGUF file, as SentencePiece itself has it.
    ///
    /// # Errors
    /// A tokenizer that a GGUF file cannot say, and one with more tokens than embeddings.
    pub fn to_gguf(
        &self,
        vocab_size: usize,
        chat_template: Option<String>,
    ) -> Result<GgufTokenizer, TokenizerError> {
        self.check_id((self.vocab_size() as u32).saturating_sub(1), vocab_size)?;
        let gguf = self.metadata(vocab_size).map_err(|what| TokenizerError::NotForGguf { what })?;
        Ok(GgufTokenizer { chat_template, ..gguf })
    }

    fn metadata(&self, vocab_size: usize) -> Result<GgufTokenizer, String> {
        let ModelWrapper::BPE(_) = self.inner.get_model() else {
            return Err("its model is not BPE".to_owned());
        };
        let mut bpe = bpe(&self.inner)?;
        let has_affix =
            |affix: &Option<String>| affix.as_ref().is_some_and(|text| !text.is_empty());
        if has_affix(&bpe.continuing_subword_prefix) || has_affix(&bpe.end_of_word_suffix) {
            return Err("it marks where words go on or end".to_owned());
        }
        self.refuse_added_tokens()?;
        let id = |token: &String| self.inner.token_to_id(token);
        let mut gguf = GgufTokenizer {
            bos_token_id: self.bos_id(),
            eos_token_id: self.end_of_text_id(),
            unknown_token_id: bpe.unk_token.as_ref().and_then(id),
            ..GgufTokenizer::default()
        };
        (gguf.tokens, gguf.token_types) = self.tokens_and_types(&bpe, vocab_size);
        if bpe.byte_fallback {
            bpe.merges.retain(|merge| self.is_ever_made(merge));
            self.describe_sentencepiece(&bpe, &mut gguf)?;
        } else {
            self.describe_byte_level(&bpe, &mut gguf)?;
        }
        // What is read from the file must be what was put into it.
        let mut read = merges_of(&gguf)?;
        read.retain(|merge| !bpe.byte_fallback || self.is_ever_made(merge));
        if read != bpe.merges {
            return Err("its merges would be others when they are read".to_owned());
        }
        Ok(gguf)
    }

    /// Whether a SentencePiece tokenizer ever makes this merge. An added token is found in the text before
    /// anything is merged, and all spaces are spelt [`SPACE`] by then; Gemma lists hundreds of merges
    /// into such tokens, in an order that follows from no score.
    fn is_ever_made(&self, (left, right): &(String, String)) -> bool {
        let whole = format!("{left}{right}");
        let is_added = || self.inner.get_added_vocabulary().get_vocab().contains_key(&whole);
        !whole.contains(' ') && (whole.contains(SPACE) || !is_added())
    }

    fn describe_byte_level(&self, bpe: &Bpe, gguf: &mut GgufTokenizer) -> Result<(), String> {
        let lacks_bytes = || {
            ByteLevel::alphabet().iter().any(|c| self.inner.token_to_id(&c.to_string()).is_none())
        };
        if bpe.unk_token.is_some() && lacks_bytes() {
            return Err("its vocabulary lacks bytes, and has a token for unknown ones".to_owned());
        }
        let (normalizer, split) = (self.inner.get_normalizer(), self.inner.get_pre_tokenizer());
        let pre = pre_tokenizer::name(normalizer, split, bpe.ignore_merges).ok_or_else(|| {
            format!(
                "the way it splits text before BPE has no name in GGUF files that is known here \
                 (known: {})",
                pre_tokenizer::KNOWN
            )
        })?;
        gguf.model = "gpt2".to_owned();
        gguf.pre = Some(pre.to_owned());
        gguf.merges = listed(&bpe.merges)?;
        Ok(())
    }

    fn describe_sentencepiece(&self, bpe: &Bpe, gguf: &mut GgufTokenizer) -> Result<(), String> {
        let byte = |byte: u8| self.inner.token_to_id(&format!("<0x{byte:02X}>"));
        if let Some(missing) = (0..=u8::MAX).find(|value| byte(*value).is_none()) {
            return Err(format!("it has no token <0x{missing:02X}> for that byte"));
        }
        if bpe.ignore_merges {
            return Err("it looks words up before it merges (ignore_merges)".to_owned());
        }
        let (normalizer, split) = (self.inner.get_normalizer(), self.inner.get_pre_tokenizer());
        let prefixed = is_prefixed(normalizer, split).ok_or(
            "it neither prepares text as SentencePiece does nor has a name for how it splits it",
        )?;
        gguf.model = "llama".to_owned();
        // What llama.cpp's converter writes; it means nothing for this model.
        gguf.pre = Some("default".to_owned());
        gguf.add_space_prefix = Some(prefixed);
        gguf.scores = scores(&gguf.tokens, &bpe.merges)?;
        let mut implied = merges_of(gguf)?;
        implied.retain(|merge| self.is_ever_made(merge));
        let known: HashSet<_> = bpe.merges.iter().collect();
        if let Some((left, right)) = implied.iter().find(|merge| !known.contains(merge)) {
            return Err(format!("it never merges \"{left}\" and \"{right}\" into their token"));
        }
        // Only the order of several ways to one token may still differ.
        if implied != bpe.merges {
            gguf.merges = listed(&bpe.merges)?;
        }
        Ok(())
    }

    fn tokens_and_types(&self, bpe: &Bpe, vocab_size: usize) -> (Vec<String>, Vec<i32>) {
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        let is_byte = |token: &str| {
            let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
            digits.is_some_and(|two| two.len() == 2 && two.bytes().all(|c| c.is_ascii_hexdigit()))
        };
        let describe = |id: u32| match (self.token(id), added.get(&id)) {
            (None, _) => (format!("[PAD{id}]"), UNUSED),
            // Of a token that is found in spelt out text the library tells the spelling.
            (Some(_), Some(added)) => {
                (added.content.clone(), if added.special { CONTROL } else { USER_DEFINED })
            }
            (Some(token), None) if bpe.byte_fallback && is_byte(&token) => (token, BYTE),
            (Some(token), None) if bpe.unk_token.as_ref() == Some(&token) => (token, UNKNOWN),
            (Some(token), None) => (token, NORMAL),
        };
        // A vocabulary has at most 2²⁴ tokens.
        (0..vocab_size as u32).map(describe).unzip()
    }

    /// In a GGUF file an added token is found wherever it stands in the text, and nothing but it.
    fn refuse_added_tokens(&self) -> Result<(), String> {
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        let normalizer = self.inner.get_normalizer();
        let spelt = is_prefixed(normalizer, self.inner.get_pre_tokenizer()) == Some(false);
        let changes = |token: &AddedToken| {
            let mut text = NormalizedString::from(token.content.as_str());
            let normalized =
                normalizer.map(|normalizer| guarded(|| normalizer.normalize(&mut text)));
            normalized.is_some_and(|result| result.is_err()) || text.get() != token.content
        };
        let mut tokens: Vec<_> = added.iter().collect();
        tokens.sort_unstable_by_key(|(id, _)| **id);
        for (id, token) in tokens {
            let fault = if token.lstrip || token.rstrip {
                "takes the white space beside it"
            } else if token.single_word {
                "is found only as a whole word"
            } else if spelt && is_run_of_spaces(token) {
                continue;
            } else if token.normalized && !token.special && changes(token) {
                "is found only after the text is normalised"
            } else {
                continue;
            };
            return Err(format!("its added token {id}, \"{}\", {fault}", token.content));
        }
        Ok(())
    }
}

fn bpe(tokenizer: &tokenizers::Tokenizer) -> Result<Bpe, String> {
    let text = serde_json::to_string(tokenizer.get_model()).map_err(|error| error.to_string())?;
    serde_json::from_str(&text).map_err(|error| error.to_string())
}

/// The merges that are read from the metadata.
fn merges_of(gguf: &GgufTokenizer) -> Result<Vec<(String, String)>, String> {
    let tokenizer = super::gguf::tokenizer(gguf, Path::new("the tokenizer"))
        .map_err(|error| error.to_string())?;
    bpe(&tokenizer).map(|bpe| bpe.merges)
}

/// The merges as metadata.
fn listed(merges: &[(String, String)]) -> Result<Vec<String>, String> {
    let join = |(left, right): &(String, String)| {
        if left.contains(' ') || right.contains(' ') {
            return Err(format!("it merges \"{left}\" and \"{right}\", with a space in them"));
        }
        Ok(format!("{left} {right}"))
    };
    merges.iter().map(join).collect()
}

/// Scores from which the order of the tokens follows: one is the lower the later it is merged.
/// SentencePiece has the same score for all runs of spaces, so their merges may stand in any order.
fn scores(tokens: &[String], merges: &[(String, String)]) -> Result<Vec<f32>, String> {
    let wholes: Vec<_> = merges.iter().map(|(left, right)| format!("{left}{right}")).collect();
    let last: HashMap<&String, usize> =
        wholes.iter().enumerate().map(|(index, whole)| (whole, index)).collect();
    let is_run = |text: &String| text.chars().all(|character| text.starts_with(character));
    let mut places = HashMap::new();
    let (mut place, mut first, mut end) = (0, 0, 0);
    for (index, whole) in wholes.iter().enumerate() {
        if index > end {
            (place, first) = (place + 1, index);
        }
        if *whole != wholes[first] && !(is_run(whole) && is_run(&wholes[first])) {
            return Err(format!("its merges do not follow from scores, from merge {index} on"));
        }
        end = end.max(last[whole]);
        places.insert(whole, place);
    }
    // Fewer than 2²⁴ places, so each is an f32.
    Ok(tokens.iter().map(|token| -(*places.get(token).unwrap_or(&(place + 1)) as f32)).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::LazyLock;

    use lns_testing::vocabularies::{PRE, byte_level, sentencepiece, text};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::tiny::{build, tokenizers};

    /// The tokenizer of a changed `tokenizer.json`.
    fn changed(tokenizer: &Tokenizer, change: impl FnOnce(&mut Value)) -> Tokenizer {
        let mut json = serde_json::from_str(&tokenizer.to_json()).unwrap();
        change(&mut json);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        fs::write(&path, json.to_string()).unwrap();
        Tokenizer::from_json_file(&path).unwrap()
    }

    fn refusal(tokenizer: &Tokenizer, change: impl FnOnce(&mut Value)) -> String {
        let size = tokenizer.vocab_size();
        changed(tokenizer, change).to_gguf(size, None).unwrap_err().to_string()
    }

    proptest! {
        #[test]
        fn text_becomes_the_same_ids(text in text()) {
            static THERE_AND_BACK: LazyLock<Vec<Tokenizer>> = LazyLock::new(|| {
                let there_and_back = |tokenizer: &Tokenizer| {
                    // As a tokenizer that was read from JSON, and with rows to spare.
                    let gguf = changed(tokenizer, |_| ()).to_gguf(tokenizer.vocab_size() + 3, None);
                    build(&gguf.unwrap())
                };
                tokenizers().iter().map(there_and_back).collect()
            });
            for (tokenizer, again) in tokenizers().iter().zip(&*THERE_AND_BACK) {
                prop_assert_eq!(again.encode(&text).unwrap(), tokenizer.encode(&text).unwrap());
            }
        }
    }

    #[test]
    fn byte_level_metadata_are_what_they_were() {
        for pre in PRE {
            let gguf = byte_level(pre);
            let again =
                build(&gguf).to_gguf(gguf.tokens.len(), Some("template".to_owned())).unwrap();
            assert_eq!(again.pre.as_deref(), Some(pre));
            let chat_template = Some("template".to_owned());
            // Of the ends only that of a text is known.
            let eos_token_id = Some(0);
            assert_eq!(again, GgufTokenizer { chat_template, eos_token_id, ..gguf });
        }
    }

    #[test]
    fn sentencepiece_metadata_say_the_same() {
        for prefixed in [true, false] {
            let gguf = GgufTokenizer { add_space_prefix: Some(prefixed), ..sentencepiece() };
            let again = build(&gguf).to_gguf(gguf.tokens.len(), None).unwrap();
            assert_eq!((&*again.model, again.add_space_prefix), ("llama", Some(prefixed)));
            assert_eq!((&again.tokens, &again.token_types), (&gguf.tokens, &gguf.token_types));
            assert_eq!(again.unknown_token_id, gguf.unknown_token_id);
            assert_eq!(build(&again).to_json(), build(&gguf).to_json());
        }
    }

    #[test]
    fn ids_without_a_token_are_unused_ones_up_to_the_models_rows() {
        let (gguf, tokenizer) = (byte_level("smollm"), build(&byte_level("smollm")));
        let count = gguf.tokens.len();
        let more = tokenizer.to_gguf(count + 2, None).unwrap();
        let pad = |id: usize| format!("[PAD{id}]");
        assert_eq!(more.tokens[count..], [pad(count), pad(count + 1)]);
        assert_eq!(more.token_types[count - 1..], [gguf.token_types[count - 1], UNUSED, UNUSED]);
        let message = tokenizer.to_gguf(count - 1, None).unwrap_err().to_string();
        assert!(message.contains(&format!("the model's vocabulary of {}", count - 1)), "{message}");
        assert!(message.contains(&format!("id {}", count - 1)), "{message}");
    }

    #[test]
    fn a_trained_tokenizer_can_be_put_into_a_gguf_file() {
        let text =
            std::iter::once(Ok::<_, TokenizerError>("the river rose in the night ".repeat(50)));
        let tokenizer = Tokenizer::train_bpe(text, 270, u64::MAX).unwrap();
        let gguf = tokenizer.to_gguf(270, None).unwrap();
        assert_eq!(gguf.pre.as_deref(), Some("gpt-2"));
        assert_eq!((gguf.token_types[0], gguf.eos_token_id), (CONTROL, Some(0)));
        let text = "the river<|endoftext|> ß";
        assert_eq!(build(&gguf).encode(text).unwrap(), tokenizer.encode(text).unwrap());
    }

    #[test]
    fn an_own_order_of_the_ways_to_a_token_is_listed() {
        let tokenizer = changed(&build(&sentencepiece()), |json| {
            let whole = |merge: &Value| format!("{}{}", merge[0], merge[1]).replace('"', "");
            let merges = json["model"]["merges"].as_array_mut().unwrap();
            merges.chunk_by_mut(|one, next| whole(one) == whole(next)).for_each(<[_]>::reverse);
        });
        assert_ne!(tokenizer.to_json(), build(&sentencepiece()).to_json());
        let gguf = tokenizer.to_gguf(tokenizer.vocab_size(), None).unwrap();
        assert!(!gguf.merges.is_empty());
        assert_eq!(build(&gguf).to_json(), tokenizer.to_json());
    }

    #[test]
    fn runs_of_spaces_have_one_score() {
        let merges = [
            ("a", "b"),
            ("▁", "▁"),
            ("▁▁", "▁▁"),
            ("▁▁", "▁"),
            ("▁▁▁", "▁"),
            ("▁", "▁▁"),
            ("c", "d"),
        ]
        .map(|(left, right)| (left.to_owned(), right.to_owned()));
        let tokens = ["ab", "▁▁", "▁▁▁▁", "▁▁▁", "cd", "x"].map(str::to_owned);
        assert_eq!(scores(&tokens, &merges).unwrap(), [-0.0, -1.0, -2.0, -2.0, -3.0, -4.0]);
        let merges = [("a", "bc"), ("d", "e"), ("ab", "c")]
            .map(|(left, right)| (left.to_owned(), right.to_owned()));
        assert!(scores(&tokens, &merges).unwrap_err().contains("from merge 1 on"));
    }

    #[test]
    fn merges_into_added_tokens_need_no_score_as_no_text_comes_to_them() {
        let mut gguf = GgufTokenizer { add_space_prefix: Some(false), ..sentencepiece() };
        // As in Gemma's files: runs that the makers defined, all with the score of some other token.
        let made = gguf.tokens.iter().rposition(|token| token == "▁the").unwrap();
        let score = gguf.scores[made];
        for run in ["~", "~~", "~~~", "~~~~", "  ", "   ", "    ", "      "] {
            gguf.tokens.push(run.to_owned());
            gguf.token_types.push(USER_DEFINED);
            gguf.scores.push(score);
        }
        let original = build(&gguf);
        let unordered = scores(&gguf.tokens, &bpe(&original.inner).unwrap().merges);
        assert!(unordered.unwrap_err().contains("do not follow from scores"));
        let again = changed(&original, |_| ()).to_gguf(gguf.tokens.len(), None).unwrap();
        assert!(again.merges.is_empty(), "scores say it all");
        assert_eq!((&again.tokens, &again.token_types), (&gguf.tokens, &gguf.token_types));
        let order = |scores: &[f32], one: usize, other: usize| {
            scores[one].partial_cmp(&scores[other]).unwrap()
        };
        for other in (0..made).filter(|id| gguf.token_types[*id] == NORMAL) {
            if gguf.scores[other] != 0.0 && again.scores[other] != again.scores[0] {
                let expected = order(&gguf.scores, made, other);
                assert_eq!(order(&again.scores, made, other), expected, "{}", gguf.tokens[other]);
            }
        }
        let again = build(&again);
        for text in ["the~~~~~river", "  the     river", "~ ~  ~~ the", "▁▁the"] {
            assert_eq!(again.encode(text).unwrap(), original.encode(text).unwrap(), "{text:?}");
        }
    }

    #[test]
    fn gemmas_own_way_to_spell_spaces_is_known() {
        let gguf = GgufTokenizer { add_space_prefix: Some(false), ..sentencepiece() };
        let own = |pattern: &'static str, invert: bool| {
            move |json: &mut Value| {
                json["normalizer"] =
                    json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
                json["pre_tokenizer"] = json!({"type": "Split", "pattern": {"String": pattern},
                                               "behavior": "MergedWithPrevious", "invert": invert});
            }
        };
        let gemma = changed(&build(&gguf), own(" ", false));
        let again = build(&gemma.to_gguf(gemma.vocab_size(), None).unwrap());
        for text in ["the  river", " a\n b 12 ", ""] {
            assert_eq!(again.encode(text).unwrap().ids, gemma.encode(text).unwrap().ids);
        }
        for (pattern, invert) in [("▁", false), (" ", true)] {
            let message = refusal(&build(&gguf), own(pattern, invert));
            assert!(message.contains("as SentencePiece does"), "{message}");
        }
    }

    #[test]
    fn metaspace_is_the_space_in_front() {
        let tokenizer = build(&sentencepiece());
        for (scheme, prefixed) in [("first", true), ("always", true), ("never", false)] {
            let other = changed(&tokenizer, |json| {
                json["normalizer"] = Value::Null;
                json["pre_tokenizer"] = json!({"type": "Metaspace", "replacement": "▁",
                                               "prepend_scheme": scheme, "split": false});
            });
            let gguf = other.to_gguf(other.vocab_size(), None).unwrap();
            assert_eq!(gguf.add_space_prefix, Some(prefixed));
            let again = build(&gguf);
            for text in ["the river", "a\n b 12", ""] {
                assert_eq!(again.encode(text).unwrap().ids, other.encode(text).unwrap().ids);
            }
        }
    }

    #[test]
    fn what_a_gguf_file_cannot_say_is_refused() {
        let (bytes, pieces) = (build(&byte_level("qwen2")), build(&sentencepiece()));
        let bytes = |change: fn(&mut Value)| refusal(&bytes, change);
        let pieces = |change: fn(&mut Value)| refusal(&pieces, change);
        for (message, expected) in [
            (bytes(|json| json["normalizer"] = Value::Null), "splits text before BPE"),
            (bytes(|json| json["model"]["ignore_merges"] = json!(true)), "splits text before BPE"),
            (
                bytes(|json| {
                    json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!("a");
                }),
                "splits text before BPE",
            ),
            (bytes(|json| json["pre_tokenizer"] = Value::Null), "splits text before BPE"),
            (bytes(|json| json["model"]["end_of_word_suffix"] = json!("w")), "where words go on"),
            (bytes(|json| json["added_tokens"][0]["lstrip"] = json!(true)), "white space beside"),
            (bytes(|json| json["added_tokens"][0]["rstrip"] = json!(true)), "white space beside"),
            (bytes(|json| json["added_tokens"][0]["single_word"] = json!(true)), "whole word"),
            (
                bytes(|json| {
                    json["model"] =
                        json!({"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"})
                }),
                "not BPE",
            ),
            (
                pieces(|json| {
                    json["added_tokens"][0]["normalized"] = json!(true);
                    json["added_tokens"][0]["special"] = json!(false);
                }),
                "after the text is normalised",
            ),
            (pieces(|json| json["normalizer"] = Value::Null), "as SentencePiece does"),
            (pieces(|json| json["model"]["ignore_merges"] = json!(true)), "ignore_merges"),
            (
                // The second of two ways to one token comes later than another token.
                pieces(|json| {
                    let merges = json["model"]["merges"].as_array_mut().unwrap();
                    let whole =
                        |merge: &Value| format!("{}{}", merge[0], merge[1]).replace('"', "");
                    let twice = merges.windows(2).position(|two| whole(&two[0]) == whole(&two[1]));
                    let second = merges.remove(twice.unwrap() + 1);
                    merges.push(second);
                }),
                "do not follow from scores, from merge ",
            ),
            (
                pieces(|json| drop(json["model"]["merges"].as_array_mut().unwrap().pop())),
                "it never merges",
            ),
        ] {
            assert!(message.contains("cannot be put into a GGUF file"), "{message}");
            assert!(message.contains(expected), "{message} lacks {expected}");
        }
    }

    #[test]
    fn a_missing_byte_is_refused() {
        let lacking = |tokenizer: &Tokenizer, token: &str, other: &str| {
            refusal(tokenizer, |json| {
                let vocab = json["model"]["vocab"].as_object_mut().unwrap();
                let id = vocab.remove(token).unwrap();
                vocab.insert(other.to_owned(), id);
                json["model"]["unk_token"] = json!(other);
                let keeps = |merge: &Value| !merge.to_string().contains(token);
                json["model"]["merges"].as_array_mut().unwrap().retain(keeps);
            })
        };
        let message = lacking(&build(&sentencepiece()), "<0x41>", "<none>");
        assert!(message.contains("no token <0x41>"), "{message}");
        let message = lacking(&build(&byte_level("gpt-2")), "ĥ", "<none>");
        assert!(message.contains("lacks bytes"), "{message}");
    }
}
