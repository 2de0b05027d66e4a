//! The tokenizer inside a GGUF file, built as the model's original `tokenizer.json` would be.
//!
//! llama.cpp's `gguf-py/gguf/constants.py` lists the metadata. A `gpt2` vocabulary is byte-level BPE
//! with its merges. A `llama` vocabulary is SentencePiece BPE, as a rule without merges: they follow from
//! the vocabulary, every way to join two tokens into a third, best score first, as in transformers'
//! `generate_merges`.

use std::cmp::Ordering;
use std::path::Path;

use lns_checkpoint::GgufTokenizer;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{Prepend, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::metaspace::PrependScheme;
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, Tokenizer};

use super::pre_tokenizer::{self, SPACE};
use crate::TokenizerError;
use crate::guard::guarded;

/// Token types of `tokenizer.ggml.token_type`.
pub(crate) const NORMAL: i32 = 1;
pub(crate) const UNKNOWN: i32 = 2;
pub(crate) const CONTROL: i32 = 3;
pub(crate) const USER_DEFINED: i32 = 4;
pub(crate) const UNUSED: i32 = 5;
pub(crate) const BYTE: i32 = 6;

/// The longest SentencePiece token that merges are looked for in; the work grows with its square.
const MAX_PIECE_BYTES: usize = 1024;

impl crate::Tokenizer {
    /// Builds the tokenizer inside a GGUF file; `source` names the file in messages.
    ///
    /// Text is split as in the model's original `tokenizer.json`. The end-of-text token is
    /// `<|endoftext|>` where the vocabulary has it, and else the file's end-of-sequence token.
    pub fn from_gguf(gguf: &GgufTokenizer, source: &Path) -> Result<Self, TokenizerError> {
        let inner = tokenizer(gguf, source)?;
        let end_of_text = inner.token_to_id("<|endoftext|>").or(gguf.eos_token_id);
        Self::new(inner, gguf.tokens.len(), gguf.bos_token_id, end_of_text)
            .map_err(|what| TokenizerError::GgufVocabulary { path: source.to_owned(), what })
    }
}

/// Builds the tokenizer; `source` names the file in messages.
pub(super) fn tokenizer(gguf: &GgufTokenizer, source: &Path) -> Result<Tokenizer, TokenizerError> {
    let contradiction = |what| TokenizerError::GgufVocabulary { path: source.to_owned(), what };
    match gguf.model.as_str() {
        "gpt2" => {
            let given = gguf.pre.as_deref();
            let pipeline = given.and_then(pre_tokenizer::byte_level).ok_or_else(|| {
                TokenizerError::GgufPreTokenizer {
                    path: source.to_owned(),
                    given: given.map_or("not named".to_owned(), |name| format!("\"{name}\"")),
                    known: pre_tokenizer::KNOWN.to_owned(),
                }
            })?;
            let pipeline = pipeline.map_err(|error| contradiction(error.to_string()))?;
            byte_level(gguf, pipeline).map_err(contradiction)
        }
        "llama" => sentencepiece(gguf).map_err(contradiction),
        model => {
            Err(TokenizerError::GgufModel { path: source.to_owned(), model: model.to_owned() })
        }
    }
}

fn byte_level(
    gguf: &GgufTokenizer,
    pipeline: pre_tokenizer::Pipeline,
) -> Result<Tokenizer, String> {
    let vocab = vocabulary(gguf)?;
    let merges = listed_merges(gguf, &vocab)?;
    guarded(|| -> tokenizers::Result<_> {
        let bpe = BPE::builder()
            .vocab_and_merges(vocab, merges)
            .ignore_merges(pipeline.ignore_merges)
            .build()?;
        let mut tokenizer = Tokenizer::new(bpe);
        tokenizer.with_normalizer(pipeline.normalizer)?;
        tokenizer.with_pre_tokenizer(Some(pipeline.pre_tokenizer));
        tokenizer.with_decoder(Some(ByteLevel::default()));
        tokenizer.add_tokens(added_tokens(gguf))?;
        Ok(tokenizer)
    })
}

fn sentencepiece(gguf: &GgufTokenizer) -> Result<Tokenizer, String> {
    let vocab = vocabulary(gguf)?;
    // Gemma's runs of spaces are found in the text before it is prepared; a piece that merges are to make
    // would never be met.
    let kind = |id: usize| gguf.token_types.get(id).copied().unwrap_or(NORMAL);
    let bare = |(id, token): &(usize, &String)| {
        kind(*id) == NORMAL && token.trim_matches(' ').is_empty() && !token.is_empty()
    };
    if let Some((id, token)) = gguf.tokens.iter().enumerate().find(bare) {
        return Err(format!(
            "token {id} is \"{token}\", spaces that SentencePiece would spell {SPACE}; put the model's \
             tokenizer.json beside the file"
        ));
    }
    // Files that this project writes list them where the scores leave a choice.
    let merges = if gguf.merges.is_empty() {
        implied_merges(gguf, &vocab)?
    } else {
        listed_merges(gguf, &vocab)?
    };
    let unknown = gguf.unknown_token_id.map(|id| gguf.tokens[id as usize].clone());
    let prefixed = gguf.add_space_prefix.unwrap_or(true);
    guarded(|| -> tokenizers::Result<_> {
        let mut bpe =
            BPE::builder().vocab_and_merges(vocab, merges).fuse_unk(true).byte_fallback(true);
        if let Some(unknown) = unknown {
            bpe = bpe.unk_token(unknown);
        }
        let mut tokenizer = Tokenizer::new(bpe.build()?);
        let mut decoders: Vec<DecoderWrapper> = vec![
            Replace::new(SPACE.to_string(), " ")?.into(),
            ByteFallback::new().into(),
            Fuse::new().into(),
        ];
        if prefixed {
            decoders.push(Strip::new(' ', 1, 0).into());
        }
        tokenizer.with_normalizer(Some(spelling(prefixed)?))?;
        tokenizer.with_decoder(Some(Decoders::new(decoders)));
        let added = added_tokens(gguf).into_iter().map(|token| {
            let spelt = !prefixed && is_run_of_spaces(&token);
            token.normalized(spelt)
        });
        tokenizer.add_tokens(added.collect::<Vec<_>>())?;
        Ok(tokenizer)
    })
}

/// Whether an added token is nothing but spaces. SentencePiece looks for such a token when spaces are spelt out,
/// and so finds it where a text has them spelt out itself, as [`SPACE`].
pub(crate) fn is_run_of_spaces(token: &AddedToken) -> bool {
    !token.special && token.content.bytes().all(|byte| byte == b' ')
}

/// How SentencePiece prepares text: a space in front, and spaces spelt out.
fn spelling(prefixed: bool) -> tokenizers::Result<NormalizerWrapper> {
    let mut steps: Vec<NormalizerWrapper> = Vec::new();
    if prefixed {
        steps.push(Prepend::new(SPACE.to_string()).into());
    }
    steps.push(Replace::new(" ", SPACE)?.into());
    Ok(Normalizers::new(steps).into())
}

/// Whether a space is put in front of text, if it is prepared as SentencePiece does it: by this
/// module's normalizer, or by `Metaspace`. Gemma's own `tokenizer.json` splits at spaces when they are all
/// spelt out, which does nothing.
pub(crate) fn is_prefixed(
    normalizer: Option<&NormalizerWrapper>,
    pre_tokenizer: Option<&PreTokenizerWrapper>,
) -> Option<bool> {
    match (normalizer, pre_tokenizer) {
        (Some(normalizer), split) if split.is_none_or(finds_only_spaces) => {
            let bare = || Replace::new(" ", SPACE).map(NormalizerWrapper::from);
            [(true, spelling(true)), (false, spelling(false)), (false, bare())]
                .into_iter()
                .find(|(_, known)| known.as_ref().is_ok_and(|known| is_same(known, normalizer)))
                .map(|(prefixed, _)| prefixed)
        }
        (None, Some(PreTokenizerWrapper::Metaspace(metaspace)))
            if metaspace.get_replacement() == SPACE && !metaspace.split =>
        {
            Some(metaspace.prepend_scheme != PrependScheme::Never)
        }
        _ => None,
    }
}

fn finds_only_spaces(pre_tokenizer: &PreTokenizerWrapper) -> bool {
    let PreTokenizerWrapper::Split(split) = pre_tokenizer else { return false };
    // What it looks for is known only to what is written of it.
    let finds_a_space =
        |written: serde_json::Value| written["pattern"] == serde_json::json!({"String": " "});
    !split.invert && serde_json::to_value(split).is_ok_and(finds_a_space)
}

fn is_same(one: &NormalizerWrapper, other: &NormalizerWrapper) -> bool {
    // They can be compared only so.
    match (serde_json::to_value(one), serde_json::to_value(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

/// Checks the arrays and ids against each other; gives id by token.
fn vocabulary(gguf: &GgufTokenizer) -> Result<Vocab, String> {
    let count = gguf.tokens.len();
    if count == 0 {
        return Err("it has no tokens".to_owned());
    }
    for (name, length) in [("token types", gguf.token_types.len()), ("scores", gguf.scores.len())] {
        if length != 0 && length != count {
            return Err(format!("{count} tokens but {length} {name}"));
        }
    }
    for (name, id) in
        [("bos", gguf.bos_token_id), ("eos", gguf.eos_token_id), ("unknown", gguf.unknown_token_id)]
    {
        if let Some(id) = id.filter(|&id| id as usize >= count) {
            return Err(format!("{name}_token_id is {id}, but there are {count} tokens"));
        }
    }
    let mut vocab = Vocab::with_capacity(count);
    for (id, token) in gguf.tokens.iter().enumerate().filter(|(_, token)| !token.is_empty()) {
        let id = u32::try_from(id).map_err(|_| format!("{count} tokens are too many"))?;
        if let Some(first) = vocab.insert(token.clone(), id) {
            return Err(format!("tokens {first} and {id} are both \"{token}\""));
        }
    }
    Ok(vocab)
}

/// The merges that the file lists, as pairs whose parts and whole are tokens.
fn listed_merges(gguf: &GgufTokenizer, vocab: &Vocab) -> Result<Merges, String> {
    if gguf.merges.is_empty() {
        return Err("it lists no merges".to_owned());
    }
    let pair = |(index, merge): (usize, &String)| {
        let (left, right) = merge
            .split_once(' ')
            .ok_or_else(|| format!("merge {index}, \"{merge}\", is not two pieces"))?;
        for piece in [left, right, &format!("{left}{right}")] {
            if !vocab.contains_key(piece) {
                return Err(format!("merge {index}, \"{merge}\": \"{piece}\" is not a token"));
            }
        }
        Ok((left.to_owned(), right.to_owned()))
    };
    gguf.merges.iter().enumerate().map(pair).collect()
}

/// A way to join two tokens into a third.
struct Join {
    score: f32,
    left: (u32, usize),
    right: (u32, usize),
}

/// Every way to join two tokens into a third: best score first, then longest parts, then in the
/// order of the vocabulary.
fn implied_merges(gguf: &GgufTokenizer, vocab: &Vocab) -> Result<Merges, String> {
    if gguf.scores.is_empty() {
        return Err("it has no scores, from which the merges follow".to_owned());
    }
    let mut joins = Vec::new();
    for (id, (token, &score)) in gguf.tokens.iter().zip(&gguf.scores).enumerate() {
        if token.len() > MAX_PIECE_BYTES {
            let length = token.len();
            return Err(format!("token {id} has {length} bytes, more than {MAX_PIECE_BYTES}"));
        }
        let characters = token.chars().count();
        let first = joins.len();
        for (left_length, (index, _)) in token.char_indices().enumerate().skip(1) {
            let (left, right) = token.split_at(index);
            if let (Some(&left), Some(&right)) = (vocab.get(left), vocab.get(right)) {
                let right_length = characters - left_length;
                joins.push(Join { score, left: (left, left_length), right: (right, right_length) });
            }
        }
        joins[first..].sort_by_key(|join| (join.left.0, join.right.0));
    }
    joins.sort_by(best_first);
    let text = |id: u32| gguf.tokens[id as usize].clone();
    Ok(joins.iter().map(|join| (text(join.left.0), text(join.right.0))).collect())
}

fn best_first(a: &Join, b: &Join) -> Ordering {
    b.score.total_cmp(&a.score).then(b.left.1.cmp(&a.left.1)).then(b.right.1.cmp(&a.right.1))
}

/// Tokens that are found in the text before it is split: the control tokens, which are special,
/// and those that the model's makers added.
fn added_tokens(gguf: &GgufTokenizer) -> Vec<AddedToken> {
    gguf.tokens
        .iter()
        .zip(&gguf.token_types)
        .filter(|(_, kind)| matches!(**kind, CONTROL | USER_DEFINED))
        .map(|(token, &kind)| AddedToken::from(token.as_str(), kind == CONTROL).normalized(false))
        .collect()
}

#[cfg(test)]
mod tests {
    use lns_testing::vocabularies::{PRE, byte_level, golden, sentencepiece};
    use proptest::prelude::*;

    use super::*;
    use crate::tiny::build;

    fn refusal(gguf: &GgufTokenizer) -> String {
        tokenizer(gguf, Path::new("tiny.gguf")).unwrap_err().to_string()
    }

    #[test]
    fn byte_level_ids_are_those_of_the_original_pipelines() {
        let golden = golden();
        for pre in PRE {
            let tokenizer = build(&byte_level(pre));
            for (string, expected) in golden.strings.iter().zip(&golden.byte_level.expected[pre]) {
                assert_eq!(&tokenizer.encode(string).unwrap().ids, expected, "{pre}: {string:?}");
            }
        }
    }

    #[test]
    fn the_golden_strings_tell_the_pre_tokenizers_apart() {
        let expected = golden().byte_level.expected;
        for (index, one) in PRE.iter().enumerate() {
            for other in &PRE[index + 1..] {
                assert_ne!(expected[*one], expected[*other], "{one} and {other}");
            }
        }
    }

    #[test]
    fn a_name_for_a_known_pre_tokenizer_is_as_good_as_another() {
        let golden = golden();
        for (name, pre) in [
            ("default", "gpt-2"),
            ("phi-2", "gpt-2"),
            ("starcoder", "smollm"),
            ("llama3", "llama-bpe"),
            ("llama-v3", "llama-bpe"),
            ("deepseek-r1-qwen", "qwen2"),
        ] {
            let tokenizer = build(&byte_level(name));
            for (string, expected) in golden.strings.iter().zip(&golden.byte_level.expected[pre]) {
                assert_eq!(&tokenizer.encode(string).unwrap().ids, expected, "{name}: {string:?}");
            }
        }
    }

    #[test]
    fn smollm_splits_digits_from_the_white_space_before_them() {
        let tokenizer = build(&byte_level("smollm"));
        let spelling = |text: &str| -> Vec<String> {
            let ids = tokenizer.encode(text).unwrap().ids;
            ids.iter().map(|&id| tokenizer.token(id).unwrap()).collect()
        };
        assert_eq!(spelling("  12"), ["ĠĠ", "1", "2"]);
        assert_eq!(spelling("x1928"), ["x", "1", "9", "2", "8"]);
        let gpt2 = build(&byte_level("gpt-2")).encode("340").unwrap();
        assert_eq!(gpt2.ids.len(), 1, "the vocabulary has 340, or this test shows nothing");
    }

    #[test]
    fn sentencepiece_ids_are_those_of_transformers() {
        let golden = golden().sentencepiece;
        let tokenizer = build(&sentencepiece());
        assert!(golden.strings.len() > 20);
        for (string, expected) in golden.strings.iter().zip(&golden.expected) {
            assert_eq!(&tokenizer.encode(string).unwrap().ids, expected, "{string:?}");
        }
    }

    #[test]
    fn sentencepiece_puts_a_space_in_front_unless_told_not_to() {
        let mut gguf = sentencepiece();
        let with = build(&gguf);
        gguf.add_space_prefix = Some(false);
        let without = build(&gguf);
        assert_eq!(with.encode("the").unwrap().ids, without.encode(" the").unwrap().ids);
        assert_ne!(with.encode("the").unwrap().ids, without.encode("the").unwrap().ids);
        assert_eq!(with.decode(&with.encode("the river").unwrap().ids).unwrap(), "the river");
        assert_eq!(without.decode(&without.encode("the river").unwrap().ids).unwrap(), "the river");
    }

    #[test]
    fn runs_of_spaces_that_the_makers_defined_are_found_longest_first_as_gemmas_are() {
        let mut gguf = sentencepiece();
        gguf.add_space_prefix = Some(false);
        let first = gguf.tokens.len() as u32;
        for run in ["  ", "   ", "<br>"] {
            gguf.tokens.push(run.to_owned());
            gguf.token_types.push(USER_DEFINED);
            gguf.scores.push(-1000.0);
        }
        let tokenizer = build(&gguf);
        let ids = |text: &str| tokenizer.encode(text).unwrap().ids;
        let [two, three, line] = [first, first + 1, first + 2];
        // Five spaces are three and two; what follows a run has no space in front.
        let the = ids("the");
        assert_eq!(ids("     the"), [&[three, two][..], &the].concat());
        assert_eq!(ids("the<br>  the"), [&the[..], &[line, two], &the].concat());
        assert_eq!(tokenizer.decode(&ids("the   the<br>the")).unwrap(), "the   the<br>the");
        // SentencePiece knows no difference between a space and its spelling.
        assert_eq!(ids("the▁▁ the▁the"), ids("the   the the"));
        let encoding = tokenizer.encode("▁▁ the").unwrap();
        assert_eq!((encoding.ids[0], encoding.bytes[0]), (three, 7));
        // A piece of spaces that merges would have to make is one that no text has.
        gguf.token_types[two as usize] = NORMAL;
        assert!(refusal(&gguf).contains("spaces that SentencePiece would spell"));
    }

    #[test]
    fn sentencepiece_falls_back_to_bytes() {
        let tokenizer = build(&sentencepiece());
        let encoding = tokenizer.encode("a😀").unwrap();
        let spelling: Vec<_> =
            encoding.ids.iter().map(|&id| tokenizer.token(id).unwrap()).collect();
        assert_eq!(spelling, ["▁a", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>"]);
        assert_eq!(encoding.bytes, [1, 4, 0, 0, 0]);
        assert_eq!(tokenizer.decode(&encoding.ids).unwrap(), "a😀");
    }

    #[test]
    fn control_and_user_defined_tokens_are_found_in_the_text() {
        let tokenizer = build(&byte_level("smollm"));
        let encoding = tokenizer.encode("<|im_start|>a<tool>").unwrap();
        let spelling: Vec<_> =
            encoding.ids.iter().map(|&id| tokenizer.token(id).unwrap()).collect();
        assert_eq!(spelling, ["<|im_start|>", "a", "<tool>"]);
        assert_eq!(encoding.bytes, [12, 1, 6]);
        assert_eq!(tokenizer.decode(&encoding.ids).unwrap(), "<|im_start|>a<tool>");
    }

    #[test]
    fn documents_are_joined_by_endoftext_or_else_by_eos() {
        let mut gguf = byte_level("smollm");
        assert_eq!(build(&gguf).end_of_text_id(), Some(0));
        assert_eq!(build(&gguf).bos_id(), Some(1));
        assert_eq!(build(&gguf).with_end_of_text(7).end_of_text_id(), Some(7));
        assert_eq!(build(&gguf).with_bos(8).bos_id(), Some(8));
        gguf.tokens[0] = "<|other|>".to_owned();
        assert_eq!(build(&gguf).end_of_text_id(), Some(2));
        gguf.eos_token_id = None;
        assert_eq!(build(&gguf).end_of_text_id(), None);
    }

    #[test]
    fn an_empty_token_keeps_its_id_free() {
        let mut gguf = byte_level("smollm");
        gguf.tokens.extend([String::new(), String::new(), "<|last|>".to_owned()]);
        gguf.token_types.extend([1, 3, 3]);
        let tokenizer = build(&gguf);
        assert_eq!(tokenizer.vocab_size(), gguf.tokens.len());
        let last = u32::try_from(gguf.tokens.len()).unwrap() - 1;
        assert_eq!(tokenizer.encode("<|last|>").unwrap().ids, [last]);
    }

    #[test]
    fn an_unknown_pre_tokenizer_is_refused_with_the_remedy() {
        let message = refusal(&byte_level("klingon"));
        assert!(message.contains("\"klingon\"") && message.contains("llama-bpe"), "{message}");
        assert!(message.contains("tokenizer.json beside"), "{message}");
        let unnamed = refusal(&GgufTokenizer { pre: None, ..byte_level("gpt-2") });
        assert!(unnamed.contains("not named"), "{unnamed}");
        for name in pre_tokenizer::KNOWN.split(", ") {
            build(&byte_level(name));
        }
    }

    #[test]
    fn other_kinds_of_vocabulary_are_refused_by_name() {
        let message = refusal(&GgufTokenizer { model: "bert".to_owned(), ..byte_level("gpt-2") });
        assert!(message.contains("\"bert\"") && message.contains("tokenizer.json"), "{message}");
    }

    #[test]
    fn a_vocabulary_that_contradicts_itself_is_refused() {
        let bytes = |change: fn(&mut GgufTokenizer)| {
            let mut gguf = byte_level("smollm");
            change(&mut gguf);
            refusal(&gguf)
        };
        let pieces = |change: fn(&mut GgufTokenizer)| {
            let mut gguf = sentencepiece();
            change(&mut gguf);
            refusal(&gguf)
        };
        for (message, expected) in [
            (bytes(|gguf| gguf.tokens.clear()), "it has no tokens"),
            (bytes(|gguf| gguf.token_types.truncate(3)), "but 3 token types"),
            (bytes(|gguf| gguf.scores.push(0.0)), "but 1 scores"),
            (bytes(|gguf| gguf.eos_token_id = Some(9999)), "eos_token_id is 9999"),
            (bytes(|gguf| gguf.bos_token_id = Some(u32::MAX)), "bos_token_id is 4294967295"),
            (bytes(|gguf| gguf.tokens[5] = "a".to_owned()), "are both \"a\""),
            (bytes(|gguf| gguf.merges.clear()), "it lists no merges"),
            (bytes(|gguf| gguf.merges[1] = "ab".to_owned()), "merge 1, \"ab\", is not two pieces"),
            (bytes(|gguf| gguf.merges[1] = "a ŧŧ".to_owned()), "\"ŧŧ\" is not a token"),
            (bytes(|gguf| gguf.merges[1] = "z z".to_owned()), "\"zz\" is not a token"),
            (bytes(|gguf| gguf.merges[1] = "a b c".to_owned()), "\"b c\" is not a token"),
            (pieces(|gguf| gguf.scores.clear()), "it has no scores"),
            (pieces(|gguf| gguf.unknown_token_id = Some(9999)), "unknown_token_id is 9999"),
            (pieces(|gguf| gguf.tokens[300] = "x".repeat(2000)), "token 300 has 2000 bytes"),
            (pieces(|gguf| gguf.tokens[300] = "  ".to_owned()), "token 300 is \"  \""),
        ] {
            assert!(message.starts_with("tiny.gguf: the GGUF's tokenizer: "), "{message}");
            assert!(message.contains(expected), "{message} lacks {expected}");
        }
    }

    #[test]
    fn of_two_ways_to_a_token_the_longer_left_part_merges_first() {
        let tokens = ["<unk>", "a", "b", "c", "ab", "bc", "abc"].map(str::to_owned).to_vec();
        let scores = vec![0.0, 0.0, 0.0, 0.0, -2.0, -1.0, -3.0];
        let gguf = GgufTokenizer { tokens, scores, ..sentencepiece() };
        let vocab = vocabulary(&GgufTokenizer { token_types: Vec::new(), ..gguf.clone() }).unwrap();
        let merges = implied_merges(&gguf, &vocab).unwrap();
        let spelt: Vec<_> = merges.iter().map(|(left, right)| format!("{left}+{right}")).collect();
        assert_eq!(spelt, ["b+c", "a+b", "ab+c", "a+bc"]);
    }

    proptest! {
        #[test]
        fn no_vocabulary_makes_it_panic(
            model in prop::sample::select(vec!["gpt2", "llama"]),
            tokens in prop::collection::vec("[ab▁ Ġ<>0x]{0,4}", 0..30),
            token_types in prop::collection::vec(0..7, 0..30),
            scores in prop::collection::vec(any::<f32>(), 0..30),
            merges in prop::collection::vec("[abĠ ]{0,5}", 0..10),
            special in prop::option::of(0..40u32),
            text in "[ab ▁😀<>]{0,12}",
        ) {
            let mut gguf = GgufTokenizer {
                model: model.to_owned(),
                pre: Some("llama-bpe".to_owned()),
                token_types: token_types.into_iter().cycle().take(tokens.len()).collect(),
                scores: scores.into_iter().cycle().take(tokens.len()).collect(),
                tokens,
                merges,
                bos_token_id: special,
                unknown_token_id: special,
                ..GgufTokenizer::default()
            };
            gguf.tokens.sort();
            gguf.tokens.dedup();
            gguf.token_types.truncate(gguf.tokens.len());
            gguf.scores.truncate(gguf.tokens.len());
            if let Ok(tokenizer) = crate::Tokenizer::from_gguf(&gguf, Path::new("tiny.gguf")) {
                let encoding = tokenizer.encode(&text).unwrap();
                prop_assert_eq!(encoding.ids.len(), encoding.bytes.len());
                tokenizer.decode(&encoding.ids).unwrap();
            }
        }
    }
}
