//! Where a text may be cut so that its pieces, tokenised one by one, give the tokens of the whole.
//!
//! The split before byte-level BPE looks only at its neighbourhood. Of the patterns known here none
//! reaches from a character that is not white space over the space that follows it, none reaches
//! from a line's end into the next line's text, and none looks back; so at these places a split
//! begins in any case, and what stands left of it does not depend on what stands right.
//!
//! SentencePiece's BPE runs over the whole text, but no token of such a vocabulary holds a space
//! behind another character, so no merge reaches over one.
//!
//! A tokenizer for which neither is known is never cut.

use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::{NormalizerWrapper, Replace};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::split::SplitPattern;
use tokenizers::{AddedToken, ModelWrapper, SplitDelimiterBehavior, Tokenizer};

use crate::formats::gguf::is_run_of_spaces;
use crate::formats::pre_tokenizer::{SPACE, TILING};

/// What makes a place safe to cut.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cut {
    /// In front of a space that follows a character that is not white space, or behind a single
    /// line feed between two such characters.
    Split,
    /// In front of a space that follows a character that is not white space.
    Marked,
    /// At the space between two letters or digits. The tokenizer puts a space in front of every
    /// text, so the piece that follows is to be tokenised without its own.
    Prefixed,
}

impl Cut {
    /// The cut that is safe for this tokenizer.
    pub(crate) fn of(tokenizer: &Tokenizer) -> Option<Self> {
        let added = tokenizer.get_added_vocabulary().get_added_tokens_decoder();
        let cut = Self::of_splits(tokenizer).or_else(|| Self::of_whole_text(tokenizer))?;
        added.values().all(|token| cut.spares(token)).then_some(cut)
    }

    fn of_splits(tokenizer: &Tokenizer) -> Option<Self> {
        let composes = tokenizer.get_normalizer().is_none_or(is_composition);
        let splits = tokenizer.get_pre_tokenizer().map(reach) == Some(Reach::Splits);
        (composes && splits).then_some(Self::Split)
    }

    fn of_whole_text(tokenizer: &Tokenizer) -> Option<Self> {
        let ModelWrapper::BPE(bpe) = tokenizer.get_model() else { return None };
        let cut = match (tokenizer.get_normalizer(), tokenizer.get_pre_tokenizer()) {
            (None, Some(PreTokenizerWrapper::Metaspace(step)))
                if step.get_replacement() == SPACE =>
            {
                Self::Marked
            }
            (Some(NormalizerWrapper::Sequence(steps)), None) => match steps.as_ref() {
                [step] if marks_spaces(step) => Self::Marked,
                [NormalizerWrapper::Prepend(first), step]
                    if marks_spaces(step) && first.prepend.chars().eq([SPACE]) =>
                {
                    Self::Prefixed
                }
                _ => return None,
            },
            _ => return None,
        };
        no_merge_crosses_a_space(bpe).then_some(cut)
    }

    /// Whether an added token neither spans a cut nor looks beyond its own text.
    fn spares(self, token: &AddedToken) -> bool {
        let content = token.content.as_str();
        let stays = !token.lstrip && !token.rstrip && !token.single_word;
        let touches = match self {
            Self::Split => content.contains('\n'),
            // A run of spaces begins behind the cut or ends before it.
            Self::Marked => token.normalized && !is_run_of_spaces(token),
            Self::Prefixed => {
                let ends = [content.chars().next(), content.chars().next_back()];
                token.normalized || ends.into_iter().flatten().any(char::is_alphanumeric)
            }
        };
        stays && !touches && self.last_in(content).is_none()
    }

    /// The last safe place in a text, as a byte index.
    pub fn last_in(self, text: &str) -> Option<usize> {
        (1..text.len())
            .rev()
            .filter(|&index| text.is_char_boundary(index))
            .find(|&index| self.is_safe(text.split_at(index)))
    }

    fn is_safe(self, (left, right): (&str, &str)) -> bool {
        let visible = |character: char| !character.is_whitespace() && character != SPACE;
        match self {
            Self::Split if left.ends_with('\n') => {
                right.starts_with(visible) && left[..left.len() - 1].ends_with(visible)
            }
            Self::Split | Self::Marked => right.starts_with(' ') && left.ends_with(visible),
            Self::Prefixed => {
                left.ends_with(char::is_alphanumeric)
                    && right
                        .strip_prefix(' ')
                        .is_some_and(|next| next.starts_with(char::is_alphanumeric))
            }
        }
    }
}

/// What a step of pre-tokenization does at [`Cut::Split`].
#[derive(PartialEq)]
enum Reach {
    /// It splits there.
    Splits,
    /// It may or may not split there, but treats both sides as if the other were absent.
    Local,
    /// What it does there is not known.
    Unknown,
}

fn reach(step: &PreTokenizerWrapper) -> Reach {
    match step {
        PreTokenizerWrapper::ByteLevel(step) if step.add_prefix_space => Reach::Unknown,
        PreTokenizerWrapper::ByteLevel(step) if step.use_regex => Reach::Splits,
        PreTokenizerWrapper::ByteLevel(_) | PreTokenizerWrapper::Digits(_) => Reach::Local,
        PreTokenizerWrapper::Split(split) => match &split.pattern {
            SplitPattern::Regex(regex)
                if TILING.contains(&regex.as_str())
                    && split.behavior == SplitDelimiterBehavior::Isolated
                    && !split.invert =>
            {
                Reach::Splits
            }
            _ => Reach::Unknown,
        },
        PreTokenizerWrapper::Sequence(steps) => {
            steps.as_ref().iter().map(reach).fold(Reach::Local, |sequence, step| {
                match (sequence, step) {
                    (Reach::Unknown, _) | (_, Reach::Unknown) => Reach::Unknown,
                    (Reach::Splits, _) | (_, Reach::Splits) => Reach::Splits,
                    (Reach::Local, Reach::Local) => Reach::Local,
                }
            })
        }
        _ => Reach::Unknown,
    }
}

/// Canonical composition joins neither a space nor a line feed to what stands beside it.
fn is_composition(normalizer: &NormalizerWrapper) -> bool {
    match normalizer {
        NormalizerWrapper::NFC(_) => true,
        NormalizerWrapper::Sequence(steps) => steps.as_ref().iter().all(is_composition),
        _ => false,
    }
}

fn marks_spaces(normalizer: &NormalizerWrapper) -> bool {
    match normalizer {
        NormalizerWrapper::Replace(replace) => {
            Replace::new(" ", SPACE).is_ok_and(|marks| *replace == marks)
        }
        _ => false,
    }
}

fn no_merge_crosses_a_space(bpe: &BPE) -> bool {
    let holds_a_space_behind = |token: &String| {
        let mut characters = token.chars().skip_while(|&character| character == SPACE);
        characters.any(|character| character == SPACE)
    };
    let vocab = bpe.get_vocab();
    let whole_words = bpe.ignore_merges
        || bpe.continuing_subword_prefix.as_ref().is_some_and(|prefix| !prefix.is_empty())
        || bpe.end_of_word_suffix.as_ref().is_some_and(|suffix| !suffix.is_empty());
    // The mark itself must be a token, or it could be fused with unknown characters.
    vocab.contains_key(SPACE.encode_utf8(&mut [0; 4]) as &str)
        && !vocab.keys().any(holds_a_space_behind)
        && !whole_words
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use lns_checkpoint::GgufTokenizer;
    use lns_testing::vocabularies::{sentencepiece, text};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::{Cut, TILING};
    use crate::Tokenizer;
    use crate::tiny::{build, tokenizers};

    /// Every safe place in a text.
    fn cuts(cut: Cut, text: &str) -> Vec<usize> {
        std::iter::successors(cut.last_in(text), |&index| cut.last_in(&text[..index])).collect()
    }

    /// [`tokenizers`], and two more ways of SentencePiece.
    fn cuttable() -> Vec<(&'static Tokenizer, Cut)> {
        static MORE: LazyLock<Vec<Tokenizer>> = LazyLock::new(|| {
            let unprefixed = GgufTokenizer { add_space_prefix: Some(false), ..sentencepiece() };
            vec![build(&unprefixed), metaspace("first", false), metaspace("always", true)]
        });
        let all = tokenizers().iter().chain(&*MORE);
        all.map(|tokenizer| (tokenizer, tokenizer.cut().unwrap())).collect()
    }

    /// The SentencePiece vocabulary as newer files have it: a pre-tokenizer marks the spaces.
    fn metaspace(prepend_scheme: &str, split: bool) -> Tokenizer {
        let mut json: Value = serde_json::from_str(&build(&sentencepiece()).to_json()).unwrap();
        json["normalizer"] = Value::Null;
        json["pre_tokenizer"] = json!({"type": "Metaspace", "replacement": "▁",
            "prepend_scheme": prepend_scheme, "split": split});
        from_json(&json)
    }

    fn from_json(json: &Value) -> Tokenizer {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        std::fs::write(&path, json.to_string()).unwrap();
        Tokenizer::from_json_file(&path).unwrap()
    }

    proptest! {
        #[test]
        fn pieces_have_the_tokens_of_the_whole(text in text()) {
            for (tokenizer, cut) in cuttable() {
                let whole = tokenizer.encode(&text).unwrap();
                for index in cuts(cut, &text) {
                    let (left, right) = text.split_at(index);
                    let left = tokenizer.encode(left).unwrap();
                    let right = tokenizer.encode_continuation(right).unwrap();
                    let ids = [left.ids, right.ids].concat();
                    prop_assert_eq!(&ids, &whole.ids, "{:?} at {} with {:?}", cut, index, tokenizer);
                    let bytes = [left.bytes, right.bytes].concat();
                    prop_assert_eq!(bytes.iter().sum::<u32>() as usize, text.len());
                }
            }
        }
    }

    #[test]
    fn each_kind_of_tokenizer_has_its_cut() {
        let kinds: Vec<_> = cuttable().into_iter().map(|(_, cut)| cut).collect();
        let (split, marked, prefixed) = (Cut::Split, Cut::Marked, Cut::Prefixed);
        assert_eq!(kinds, [split, split, split, split, split, prefixed, marked, marked, marked]);
    }

    #[test]
    fn cuts_are_where_their_descriptions_say() {
        assert_eq!(cuts(Cut::Split, "a! b\n c\nd\n\n e\r\nf  g"), [16, 8, 2]);
        assert_eq!(cuts(Cut::Marked, "a! b\n c\nd  e▁ f"), [9, 2]);
        assert_eq!(cuts(Cut::Prefixed, "a! b c  d 一 é\n f"), [13, 9, 4]);
        assert!(cuts(Cut::Split, " \na").is_empty());
        assert_eq!(cuts(Cut::Split, "。\n一\u{3000} a"), [4]);
    }

    /// A small `tokenizer.json`, changed; whether it may be cut.
    fn is_cut(change: impl FnOnce(&mut Value)) -> bool {
        let mut json = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": null, "post_processor": null, "decoder": null,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
            "model": {"type": "BPE", "vocab": {"a": 0, "▁": 1, "b": 2}, "merges": []},
        });
        change(&mut json);
        from_json(&json).cut().is_some()
    }

    fn added(content: &str, lstrip: bool, normalized: bool) -> Value {
        json!([{"id": 3, "content": content, "single_word": false, "lstrip": lstrip,
                "rstrip": false, "normalized": normalized, "special": true}])
    }

    #[test]
    fn byte_level_text_is_cut_only_where_all_steps_are_known() {
        assert!(is_cut(|_| ()));
        assert!(is_cut(|json| json["normalizer"] = json!({"type": "NFC"})));
        assert!(!is_cut(|json| json["normalizer"] = json!({"type": "Lowercase"})));
        assert!(!is_cut(|json| json["pre_tokenizer"]["add_prefix_space"] = json!(true)));
        assert!(!is_cut(|json| json["pre_tokenizer"]["use_regex"] = json!(false)));
        assert!(!is_cut(|json| json["pre_tokenizer"] = Value::Null));
        assert!(is_cut(|json| json["added_tokens"] = added("<|x|>", false, true)));
        assert!(!is_cut(|json| json["added_tokens"] = added("<|x|>", true, false)));
        assert!(!is_cut(|json| json["added_tokens"] = added("<x y>", false, false)));
        assert!(!is_cut(|json| json["added_tokens"] = added("\n\n", false, false)));
    }

    #[test]
    fn an_unknown_pattern_is_never_cut() {
        let split = |regex: &str| {
            let split = json!({"type": "Split", "pattern": {"Regex": regex},
                "behavior": "Isolated", "invert": false});
            let bytes = json!({"type": "ByteLevel", "add_prefix_space": false,
                "trim_offsets": true, "use_regex": false});
            is_cut(|json| {
                json["pre_tokenizer"] =
                    json!({"type": "Sequence", "pretokenizers": [split, bytes]});
            })
        };
        assert!(TILING.into_iter().all(split));
        assert!(!split("[a-z ]+"));
    }

    #[test]
    fn whole_text_is_cut_only_where_no_merge_crosses_a_space() {
        let metaspace = |json: &mut Value| {
            json["pre_tokenizer"] = json!({"type": "Metaspace", "replacement": "▁",
                "prepend_scheme": "first", "split": false});
        };
        let with = |change: fn(&mut Value)| {
            is_cut(|json| {
                metaspace(json);
                change(json);
            })
        };
        assert!(with(|_| ()));
        assert!(with(|json| json["model"]["vocab"] = json!({"▁": 0, "▁▁a": 1})));
        assert!(!with(|json| json["model"]["vocab"] = json!({"▁": 0, "a▁": 1})));
        assert!(!with(|json| json["model"]["vocab"] = json!({"a": 0})));
        assert!(!with(|json| json["model"]["ignore_merges"] = json!(true)));
        assert!(!with(|json| json["model"]["end_of_word_suffix"] = json!("</w>")));
        assert!(!with(|json| json["normalizer"] = json!({"type": "NFC"})));
        assert!(!with(|json| json["added_tokens"] = added("<x>", false, true)));
        let prefixed = |token: &'static str| {
            is_cut(|json| {
                let marks = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
                let first = json!({"type": "Prepend", "prepend": "▁"});
                json["normalizer"] = json!({"type": "Sequence", "normalizers": [first, marks]});
                json["pre_tokenizer"] = Value::Null;
                json["added_tokens"] = added(token, false, false);
            })
        };
        assert!(prefixed("<x>"));
        assert!(!prefixed("x>"));
        assert!(!prefixed("<x"));
    }
}
