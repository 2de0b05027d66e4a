//! What a stranger's `tokenizer.json` may cost.
//!
//! Tokenising is done by a library that trusts its file, in threads of this process and in a hurry:
//! a process of its own, as a chat template has, would copy the vocabulary and pass every token
//! through a pipe. So the file's steps are bounded before the library sees them:
//! - a `Precompiled` map says how large it is, and the library takes so much memory at once; it must
//!   be as large as it says;
//! - steps that make text longer are multiplied up: what they could make of a text has at most
//!   [`MAX_NORMALIZED`] bytes. Where the product alone does not say so, the steps are taken one by
//!   one, and none is taken that could pass the limit;
//! - the work of a pattern (`(?<=(a|aa)+)b`) or of a vocabulary (Unigram with tokens of thousands of
//!   letters) cannot be told beforehand, so a text is given a time that is hundreds of times what it
//!   takes. The thread that is still at work then is left to itself: it can be neither stopped nor
//!   waited for. Only tokenizers whose steps are not all known to take time in proportion to their
//!   text ([`Cut`](crate::cut::Cut)) are watched.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::{NormalizedString, Normalizer};

/// The library keeps 17 bytes for each byte of normalized text. A text has at most 8 MiB, and
/// SentencePiece's steps make up to three bytes of one.
const MAX_NORMALIZED: usize = 128 << 20;
/// The tokenizers that are in use have five steps at most.
const MAX_STEPS: usize = 64;
/// A space becomes a mark of three bytes, and a byte a letter of two.
const MAX_PRE_TOKENIZER_GROWTH: f64 = 64.0;
/// Decoders put a space where a mark was.
const MAX_DECODER_GROWTH: f64 = 64.0;

/// A text is given ten seconds, and one more for each 50 kB; a slow tokenizer takes a tenth of a
/// second for these.
const TICKS: u64 = 100;
const BYTES_PER_TICK: u64 = 5000;
const TICK: Duration = Duration::from_millis(100);

/// How long a text may become: `bytes * factor + more`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Growth {
    factor: f64,
    more: f64,
}

impl Growth {
    const NONE: Self = Self { factor: 1.0, more: 0.0 };

    fn by(factor: usize) -> Self {
        Self { factor: (factor as f64).max(1.0), more: 0.0 }
    }

    fn then(self, next: Self) -> Self {
        Self { factor: self.factor * next.factor, more: self.more * next.factor + next.more }
    }

    fn fits(self, bytes: usize) -> bool {
        bytes as f64 * self.factor + self.more <= MAX_NORMALIZED as f64
    }
}

/// The steps of a file that may make text longer.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    added_tokens: Vec<Added>,
}

#[derive(Deserialize)]
struct Added {
    #[serde(default)]
    content: String,
}

/// Refuses a `tokenizer.json` that would take memory without bounds to read or to use.
pub(crate) fn check(json: &[u8]) -> Result<(), String> {
    // What cannot be read is refused too: the library may take it another way.
    let file: File = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    for (key, steps) in [
        ("normalizer", &file.normalizer),
        ("pre_tokenizer", &file.pre_tokenizer),
        ("decoder", &file.decoder),
    ] {
        let count = flat(steps).len();
        if count > MAX_STEPS {
            return Err(format!("{key} has {count} steps; at most {MAX_STEPS} are read"));
        }
    }
    let normalizer =
        flat(&file.normalizer).into_iter().try_fold(Growth::NONE, |so_far, step| {
            check_charsmap(step)?;
            Ok::<_, String>(so_far.then(of_normalizer(step)))
        })?;
    let growing = |key: &str, steps: &Value, of: fn(&Value) -> Growth, most: f64| {
        let factor = flat(steps).into_iter().map(of).fold(1.0, |so_far, step| so_far * step.factor);
        if factor <= most {
            return Ok(());
        }
        Err(format!("{key} may make a text {factor:.0} times as long; at most {most} is allowed"))
    };
    growing("pre_tokenizer", &file.pre_tokenizer, of_pre_tokenizer, MAX_PRE_TOKENIZER_GROWTH)?;
    growing("decoder", &file.decoder, of_normalizer, MAX_DECODER_GROWTH)?;
    // The library normalizes added tokens when it reads the file.
    let added: usize = file.added_tokens.iter().map(|token| token.content.len()).sum();
    let all = Growth { more: normalizer.more * file.added_tokens.len() as f64, ..normalizer };
    if !all.fits(added) {
        let bytes = added as f64 * all.factor + all.more;
        return Err(format!(
            "its normalizer may make {bytes:.0} bytes of its added tokens; at most {MAX_NORMALIZED} \
             are allowed"
        ));
    }
    Ok(())
}

/// Refuses a text of which the normalizer would make too much.
pub(crate) fn check_text(steps: &Steps, text: &str) -> Result<(), String> {
    if steps.growth.fits(text.len()) {
        return Ok(());
    }
    let mut text = text.to_owned();
    for (growth, step) in &steps.each {
        if !growth.fits(text.len()) {
            return Err(format!(
                "its normalizer may make {:.0} bytes of this text; at most {MAX_NORMALIZED} are \
                 allowed: split the text into several documents",
                text.len() as f64 * growth.factor + growth.more
            ));
        }
        let mut normalized = NormalizedString::from(text);
        step.normalize(&mut normalized).map_err(|error| error.to_string())?;
        text = normalized.get().to_owned();
    }
    Ok(())
}

/// A normalizer's steps and what each may do to a text's length.
#[derive(Debug, Clone)]
pub(crate) struct Steps {
    growth: Growth,
    each: Vec<(Growth, NormalizerWrapper)>,
}

impl Steps {
    /// The steps of a normalizer that [`check`] let through.
    pub(crate) fn of(normalizer: Option<&NormalizerWrapper>) -> Self {
        let mut each = Vec::new();
        add_steps(normalizer, &mut each);
        let growth = each.iter().fold(Growth::NONE, |so_far, (growth, _)| so_far.then(*growth));
        Self { growth, each }
    }
}

fn add_steps(normalizer: Option<&NormalizerWrapper>, each: &mut Vec<(Growth, NormalizerWrapper)>) {
    match normalizer {
        None => {}
        Some(NormalizerWrapper::Sequence(steps)) => {
            steps.as_ref().iter().for_each(|step| add_steps(Some(step), each));
        }
        Some(step) => {
            let json = serde_json::to_value(step).unwrap_or_default();
            each.push((of_normalizer(&json), step.clone()));
        }
    }
}

/// The steps of a sequence of sequences, one after the other; none for `null`.
fn flat(step: &Value) -> Vec<&Value> {
    let inner = ["normalizers", "pretokenizers", "decoders"].into_iter();
    match inner.filter_map(|key| step.get(key)?.as_array()).next() {
        Some(steps) => steps.iter().flat_map(flat).collect(),
        None if step.is_null() => Vec::new(),
        None => vec![step],
    }
}

/// Of a step of normalization or of decoding. Its kind may be left out of the file, so it is known by
/// its keys.
fn of_normalizer(step: &Value) -> Growth {
    if let Some(content) = step.get("content").and_then(Value::as_str)
        && let Some(pattern) = step.get("pattern")
    {
        return match pattern.get("String").and_then(Value::as_str) {
            Some(pattern) => Growth::by(content.len().div_ceil(pattern.len().max(1))),
            // It may be put between all characters.
            None => Growth { factor: 1.0 + content.len() as f64, more: content.len() as f64 },
        };
    }
    if let Some(first) = step.get("prepend").and_then(Value::as_str) {
        return Growth { factor: 1.0, more: first.len() as f64 };
    }
    if let Some(charsmap) = step.get("precompiled_charsmap").and_then(Value::as_str) {
        return Growth::by(longest_replacement(charsmap));
    }
    match step.get("type").and_then(Value::as_str) {
        // unicode.org/faq/normalization.html#12
        Some("NFC" | "NFD") => Growth::by(3),
        Some("NFKC" | "NFKD") => Growth::by(11),
        Some("Lowercase" | "ByteLevel" | "ByteFallback") => Growth::by(2),
        // Spaces around a character of three bytes, decomposition, lower case.
        _ if step.get("handle_chinese_chars").is_some() => Growth::by(12),
        _ => Growth::NONE,
    }
}

fn of_pre_tokenizer(step: &Value) -> Growth {
    match step.get("type").and_then(Value::as_str) {
        Some("Metaspace") => Growth::by(5),
        Some("ByteLevel") => Growth::by(3),
        _ => Growth::NONE,
    }
}

/// A precompiled map begins with the length of its first part in bytes, for which the library makes
/// room twice over.
fn check_charsmap(step: &Value) -> Result<(), String> {
    let Some(charsmap) = step.get("precompiled_charsmap").and_then(Value::as_str) else {
        return Ok(());
    };
    let bytes = decoded(charsmap);
    let says = match bytes.first_chunk::<4>() {
        Some(length) => u32::from_le_bytes(*length) as usize,
        None => return Err("normalizer: precompiled_charsmap has no length".to_owned()),
    };
    let has = bytes.len() - 4;
    if says > has {
        return Err(format!(
            "normalizer: precompiled_charsmap says that its trie has {says} bytes, and {has} follow"
        ));
    }
    Ok(())
}

/// The most bytes that a precompiled map puts in the place of one.
fn longest_replacement(charsmap: &str) -> usize {
    let bytes = decoded(charsmap);
    let trie = bytes.first_chunk().map_or(0, |length| u32::from_le_bytes(*length) as usize);
    let replacements = bytes.get(4 + trie..).unwrap_or_default();
    replacements.split(|byte| *byte == 0).map(<[u8]>::len).max().unwrap_or(0)
}

/// The bytes of base64 (RFC 4648) up to what is none.
fn decoded(text: &str) -> Vec<u8> {
    let value = |letter: u8| match letter {
        b'A'..=b'Z' => Some(letter - b'A'),
        b'a'..=b'z' => Some(letter - b'a' + 26),
        b'0'..=b'9' => Some(letter - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let values: Vec<u8> = text.bytes().map_while(value).collect();
    let mut bytes = Vec::with_capacity(values.len() / 4 * 3);
    for four in values.chunks(4) {
        let bits = four.iter().fold(0, |bits, six| bits << 6 | u32::from(*six));
        let bits = bits << (6 * (4 - four.len()));
        bytes.extend(&bits.to_be_bytes()[1..four.len()]);
    }
    bytes
}

/// How many ticks a text of so many bytes may take.
pub(crate) fn ticks(bytes: usize) -> u64 {
    TICKS + bytes as u64 / BYTES_PER_TICK
}

/// What `work` gives, if it takes no longer than so many ticks. A tick passes only while this
/// program runs: one that was stopped in between has not lost its time.
///
/// # Errors
/// That it takes longer; or that no thread can be started.
pub(crate) fn within<T: Send + 'static>(
    ticks: u64,
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let (sender, receiver) = channel();
    thread::Builder::new()
        // Where nobody waits any more, nobody hears it.
        .spawn(move || drop(sender.send(work())))
        .map_err(|error| format!("no thread can be started: {error}"))?;
    for _ in 0..ticks {
        match receiver.recv_timeout(TICK) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err("the library that does it panicked".to_owned());
            }
        }
    }
    Err(format!(
        "it takes more than {} s, hundreds of times what other tokenizers take: its patterns or its \
         vocabulary are made so",
        TICK.as_millis() as u64 * ticks / 1000
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::guard::guarded;

    fn file(normalizer: &Value) -> Vec<u8> {
        let added = json!([{"id": 0, "content": "aaaa"}]);
        json!({"normalizer": normalizer, "added_tokens": added}).to_string().into_bytes()
    }

    fn replace(pattern: Value, content: &str) -> Value {
        json!({"type": "Replace", "pattern": pattern, "content": content})
    }

    fn sequence(steps: &[Value]) -> Value {
        json!({"type": "Sequence", "normalizers": steps})
    }

    fn encoded(bytes: &[u8]) -> String {
        const LETTERS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for three in bytes.chunks(3) {
            let bits = three.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte));
            let bits = bits << (8 * (3 - three.len()));
            for index in 0..=three.len() {
                text.push(LETTERS[(bits >> (18 - 6 * index) & 63) as usize] as char);
            }
        }
        text
    }

    proptest! {
        #[test]
        fn base64_comes_back(bytes in prop::collection::vec(any::<u8>(), 0..50)) {
            prop_assert_eq!(decoded(&encoded(&bytes)), bytes);
        }

        /// 256 normalizers of one to four steps, most of which make text longer.
        #[test]
        fn no_normalizer_makes_more_of_a_text_than_its_bound(
            steps in prop::collection::vec(any_step(), 1..5),
            text in "[aAb ﷺİΐ\u{1f82}中]{0,40}",
        ) {
            let normalizer: NormalizerWrapper = serde_json::from_value(sequence(&steps)).unwrap();
            let bound = Steps::of(Some(&normalizer)).growth;
            let mut normalized = NormalizedString::from(&*text);
            // The library panics where a pattern finds nothing behind the end.
            if guarded(|| normalizer.normalize(&mut normalized)).is_ok() {
                let most = text.len() as f64 * bound.factor + bound.more;
                prop_assert!(normalized.get().len() as f64 <= most, "{bound:?} {normalized:?}");
            }
        }
    }

    fn any_step() -> impl Strategy<Value = Value> {
        const NAMED: &[&str] =
            &["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "ByteLevel"];
        const REGEX: &[&str] = &["a", "a*", "", "b|$", " {2,}"];
        let bert = json!({"type": "Bert", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": true, "lowercase": true});
        prop_oneof![
            prop::sample::select(NAMED).prop_map(|name| json!({ "type": name })),
            ("[a ]{1,3}", "[ab]{0,9}").prop_map(|(p, c)| replace(json!({"String": p}), &c)),
            (prop::sample::select(REGEX), "[ab▁]{0,9}")
                .prop_map(|(p, c)| replace(json!({"Regex": p}), &c)),
            "[ab▁]{1,4}".prop_map(|first| json!({"type": "Prepend", "prepend": first})),
            Just(bert),
        ]
    }

    #[test]
    fn a_precompiled_map_is_as_large_as_it_says() {
        let map = |text: &str| json!({"type": "Precompiled", "precompiled_charsmap": text});
        for hostile in ["/////w==", "AAAAgA==", "BQAAAAAAAAA=", "", "AA==", "????"] {
            let refusal = check(&file(&map(hostile))).unwrap_err();
            assert!(refusal.contains("precompiled_charsmap"), "{refusal}");
            let nested = sequence(&[json!({"type": "NFC"}), sequence(&[map(hostile)])]);
            check(&file(&nested)).unwrap_err();
            // The library guesses the kind of a step that names none.
            check(&file(&json!({ "precompiled_charsmap": hostile }))).unwrap_err();
        }
        // A trie of one number, and two replacements.
        let bytes = [&4_u32.to_le_bytes()[..], &[0; 4], b"abc\0de"].concat();
        let text = encoded(&bytes);
        assert_eq!(longest_replacement(&text), 3);
        check(&file(&map(&text))).unwrap();
    }

    #[test]
    fn a_step_that_is_given_twice_is_not_passed_over() {
        let twice = br#"{"normalizer": null, "normalizer": {"precompiled_charsmap": "/////w=="}}"#;
        assert!(check(twice).unwrap_err().contains("duplicate field"));
        check(b"1").unwrap_err();
    }

    #[test]
    fn replacements_that_multiply_are_refused_in_the_file_or_for_a_text() {
        let bomb = |steps: usize| {
            let step = replace(json!({"String": "a"}), &"a".repeat(100));
            sequence(&vec![step; steps])
        };
        let refusal = check(&file(&bomb(6))).unwrap_err();
        assert!(refusal.contains("may make 4000000000000 bytes of its added tokens"), "{refusal}");
        let many = check(&file(&sequence(&vec![json!({"type": "NFC"}); 65]))).unwrap_err();
        assert!(many.contains("65 steps"), "{many}");
        // Three steps make a million bytes of one, which an added token of four may.
        check(&file(&bomb(3))).unwrap();
        let normalizer: NormalizerWrapper = serde_json::from_value(bomb(3)).unwrap();
        let steps = Steps::of(Some(&normalizer));
        check_text(&steps, "aaaa").unwrap();
        let refusal = check_text(&steps, &"a".repeat(200)).unwrap_err();
        assert!(refusal.contains("may make 200000000 bytes of this text"), "{refusal}");
        // The product could, this text does not.
        check_text(&steps, &"b".repeat(10_000)).unwrap();
    }

    #[test]
    fn steps_that_every_tokenizer_has_are_no_bombs() {
        let marks = replace(json!({"String": " "}), "▁");
        let first = json!({"type": "Prepend", "prepend": "▁"});
        let runs = replace(json!({"Regex": " {2,}"}), " ");
        for honest in [
            Value::Null,
            sequence(&[first, marks.clone()]),
            sequence(&[json!({"type": "NFKC"}), runs, marks]),
        ] {
            check(&file(&honest)).unwrap();
            let normalizer = serde_json::from_value(honest).ok();
            let steps = Steps::of(normalizer.as_ref());
            check_text(&steps, &"a ".repeat(1 << 19)).unwrap();
        }
        let pre = |steps: Value| check(json!({ "pre_tokenizer": steps }).to_string().as_bytes());
        let bytes = json!({"type": "ByteLevel"});
        pre(json!({"type": "Sequence", "pretokenizers": [{"type": "Metaspace"}, bytes]})).unwrap();
        pre(json!({"type": "Sequence", "pretokenizers": vec![bytes; 9]})).unwrap_err();
        let step = replace(json!({"String": "▁"}), " ");
        let bomb = replace(json!({"String": "a"}), &"a".repeat(100));
        let decoder = |steps: &[Value]| {
            let steps = json!({"type": "Sequence", "decoders": steps});
            check(json!({ "decoder": steps }).to_string().as_bytes())
        };
        decoder(&[step.clone(), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})]).unwrap();
        assert!(decoder(&[step, bomb]).unwrap_err().contains("decoder may make a text 100 times"));
    }

    #[test]
    fn work_that_takes_too_long_is_left_to_itself() {
        assert_eq!(within(ticks(0), || Ok(3)), Ok(3));
        assert_eq!(within::<()>(ticks(0), || Err("no".to_owned())), Err("no".to_owned()));
        let (hold, held) = channel::<()>();
        // It ends when the other end goes, which is after the answer.
        let late = within(1, move || Ok(held.recv().is_ok())).unwrap_err();
        assert!(late.contains("more than 0 s"), "{late}");
        drop(hold);
    }
}
