use std::fs;

use proptest::prelude::*;
use serde_json::json;
use tempfile::{TempDir, tempdir};

use super::manifest::hex;
use super::*;
use crate::Limits;
use crate::preparation::tests::{prepare_marked, prepare_small};
use crate::preparation::{Kept, Responses};

/// A tokenizer of words: each of `words` and `<|endoftext|>`, which is token `end_of_text`.
pub(crate) fn words(words: &[&str], end_of_text: usize) -> Tokenizer {
    let mut vocab: Vec<_> = words.iter().zip(0usize..).collect();
    vocab.push((&"<|endoftext|>", end_of_text));
    let vocab: serde_json::Map<_, _> =
        vocab.into_iter().map(|(word, id)| ((*word).to_owned(), id.into())).collect();
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [{"id": end_of_text, "content": "<|endoftext|>", "single_word": false,
                          "lstrip": false, "rstrip": false, "normalized": false,
                          "special": true}],
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": words[0]},
    });
    Tokenizer::from_json(json.to_string().as_bytes(), Path::new("words")).unwrap()
}

/// Two parts, the documents to train on in two shards.
fn sample(end_of_text: usize) -> (TempDir, PathBuf) {
    let folder = tempdir().unwrap();
    let place = folder.path().join("corpus");
    let tokenizer = words(&["a", "b", "c"], end_of_text);
    let documents = [(Part::Train, "a b c"), (Part::Validation, "b"), (Part::Train, "c a")];
    prepare_small(&documents, &tokenizer, Limits::default(), 4, &place).unwrap();
    (folder, place)
}

fn ids(tokens: &Tokens) -> Vec<u32> {
    let mut ids = Vec::new();
    tokens.read(0..tokens.len(), &mut ids);
    ids
}

#[test]
fn what_was_written_is_read() {
    for end_of_text in [3, 65_535, 65_536, 70_000] {
        let (_folder, place) = sample(end_of_text);
        let corpus = Corpus::open(&place).unwrap();
        let end = end_of_text as u32;
        let (train, held_out) = (corpus.tokens(Part::Train), corpus.tokens(Part::Validation));
        assert_eq!(ids(train), [0, 1, 2, end, 2, 0, end]);
        assert_eq!([train.document(0), train.document(1)], [0..4, 4..7]);
        assert_eq!((train.len(), train.documents(), train.text_bytes()), (7, 2, 8));
        assert_eq!((ids(held_out), held_out.documents()), (vec![1, end], 1));
        assert_eq!(corpus.vocab_size(), end_of_text + 1);
        assert_eq!(corpus.tokenizer().end_of_text_id(), Some(end));
        let width = if end_of_text < 65_536 { 2 } else { 4 };
        let shard = fs::metadata(place.join("train-00001.tokens")).unwrap().len();
        assert_eq!(shard, 128 + (3 * width as u64).next_multiple_of(8) + 8);
        assert_eq!(
            corpus.description(),
            "a test: 7 tokens of 2 documents to train on, 2 tokens of 1 document held out"
        );
    }
}

#[test]
fn a_range_may_lie_across_shards_and_beyond_the_end() {
    let (_folder, place) = sample(3);
    let corpus = Corpus::open(&place).unwrap();
    let tokens = corpus.tokens(Part::Train);
    let all = ids(tokens);
    for start in 0..9 {
        for end in start..9 {
            let mut read = vec![9];
            tokens.read(start..end, &mut read);
            let [start, end] = [start, end].map(|index| (index as usize).min(all.len()));
            assert_eq!(read[1..], all[start..end], "{start}..{end}");
        }
    }
}

#[test]
fn the_fingerprint_is_of_the_tokens_and_not_of_where_they_came_from() {
    let folder = tempdir().unwrap();
    let tokenizer = words(&["a", "b", "c"], 3);
    let fingerprint = |name: &str, documents: &[(Part, &str)]| {
        let place = folder.path().join(name);
        let corpus =
            prepare_small(documents, &tokenizer, Limits::default(), u64::MAX, &place).unwrap();
        corpus.fingerprint().to_owned()
    };
    let (train, held_out) = ((Part::Train, "a b"), (Part::Validation, "c"));
    let first = fingerprint("1", &[train, held_out]);
    assert_eq!(fingerprint("2", &[held_out, train]), first);
    assert_ne!(fingerprint("3", &[train, (Part::Validation, "b")]), first);
    assert_eq!(first.len(), 64);
}

#[test]
fn any_change_of_any_file_is_an_error_that_names_it() {
    let (_folder, place) = sample(3);
    let files = ["corpus.json", "train-00000.tokens", "train-00001.tokens"];
    for name in files.into_iter().chain(["validation-00000.tokens"]) {
        let path = place.join(name);
        let whole = fs::read(&path).unwrap();
        let refused = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            let message = Corpus::open(&place).unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
        };
        for index in 0..whole.len() {
            let mut changed = whole.clone();
            changed[index] ^= [1, 0x80, 0xFF][index % 3];
            refused(&changed);
            refused(&whole[..index]);
        }
        refused(&[&whole[..], b"\n"].concat());
        fs::write(&path, &whole).unwrap();
    }
    Corpus::open(&place).unwrap();
}

#[test]
#[expect(clippy::single_range_in_vec_init, reason = "one span is learned")]
fn a_mark_that_changes_is_an_error() {
    let folder = tempdir().unwrap();
    let place = folder.path().join("corpus");
    let responses =
        Responses { sequence_length: 8, learn_end_of_text: true, kept: Kept::Beginning };
    let examples =
        [Part::Train, Part::Validation].map(|part| (part, "a b c".to_owned(), vec![2..5]));
    let tokenizer = words(&["a", "b", "c"], 3);
    let corpus =
        prepare_marked(&examples, &tokenizer, responses, Limits::default(), &place).unwrap();
    assert_eq!(ids(corpus.tokens(Part::Train)), [0, 1, 2, 3]);
    let path = place.join("train-00000.tokens");
    let whole = fs::read(&path).unwrap();
    let refused = |bytes: &[u8], why: &str| {
        fs::write(&path, bytes).unwrap();
        let message = Corpus::open(&place).unwrap_err().to_string();
        assert!(message.contains(why), "{message}");
    };
    for token in 0..4 {
        let mut changed = whole.clone();
        changed[128 + 4 * token + 3] ^= 0x80;
        refused(&changed, "its sha256 is not the one");
    }
    // Nor are marked ids ids where all are learned.
    fs::write(&path, &whole).unwrap();
    let mut manifest = Manifest::read(&place).unwrap();
    manifest.responses_only = false;
    manifest.sha256 = manifest.checksum();
    fs::write(place.join(MANIFEST), manifest.to_json()).unwrap();
    refused(&whole, "bytes instead of");
    let wide = words(&["a", "b", "c"], 70_000);
    let place = folder.path().join("wide");
    prepare_marked(&examples, &wide, responses, Limits::default(), &place).unwrap();
    let mut manifest = Manifest::read(&place).unwrap();
    manifest.responses_only = false;
    manifest.sha256 = manifest.checksum();
    fs::write(place.join(MANIFEST), manifest.to_json()).unwrap();
    let message = Corpus::open(&place).unwrap_err().to_string();
    assert!(message.contains("token id 2147483649 in a vocabulary of 70001"), "{message}");
}

#[test]
fn the_manifest_of_plain_text_says_nothing_of_responses() {
    let (_folder, place) = sample(3);
    let json = fs::read_to_string(place.join(MANIFEST)).unwrap();
    assert!(!json.contains("responses_only"), "{json}");
    assert!(!Corpus::open(&place).unwrap().learns_responses_only());
}

#[test]
fn what_is_missing_is_named() {
    let (folder, place) = sample(3);
    let message = |path: &Path| Corpus::open(path).unwrap_err().to_string();
    for path in [folder.path(), &folder.path().join("absent"), &place.join("corpus.json")] {
        assert!(message(path).contains("not a prepared text"), "{}", message(path));
    }
    for name in ["validation-00000.tokens", "train-00001.tokens", "tokenizer.json"] {
        let away = folder.path().join("away");
        fs::rename(place.join(name), &away).unwrap();
        let expected = format!("{name}: cannot be read");
        assert!(message(&place).contains(&expected), "{}", message(&place));
        fs::rename(away, place.join(name)).unwrap();
    }
}

#[test]
fn another_tokenizer_is_refused() {
    let (_folder, place) = sample(3);
    words(&["a", "c", "b"], 3).save(&place).unwrap();
    let message = Corpus::open(&place).unwrap_err().to_string();
    assert!(message.contains("tokenizer.json: not the tokenizer that made"), "{message}");
    // The same vocabulary, with another token at the end of texts.
    words(&["a", "b", "c"], 3).with_end_of_text(0).save(&place).unwrap();
    let message = Corpus::open(&place).unwrap_err().to_string();
    assert!(message.contains("it has 4 tokens, end of text 0"), "{message}");
    assert!(message.contains("that one had 4 tokens, end of text 3"), "{message}");
    words(&["a", "b", "c"], 3).save(&place).unwrap();
    Corpus::open(&place).unwrap();
}

/// A corpus whose train shard has what `write` writes and whose checksums are all right.
fn forged(write: impl Fn(&mut ShardWriter), change: impl Fn(&mut ShardEntry)) -> String {
    let (_folder, place) = sample(3);
    let mut manifest = Manifest::read(&place).unwrap();
    let path = place.join("train-00000.tokens");
    fs::remove_file(&path).unwrap();
    let tokenizer = unhex(&manifest.tokenizer).unwrap();
    let mut shard = ShardWriter::create(&path, 2, tokenizer).unwrap();
    write(&mut shard);
    manifest.train[0] = (&shard.finish().unwrap()).into();
    change(&mut manifest.train[0]);
    manifest.sha256 = manifest.checksum();
    fs::write(place.join(MANIFEST), manifest.to_json()).unwrap();
    Corpus::open(&place).map_or_else(|error| error.to_string(), |_| "opened".to_owned())
}

#[test]
fn consistent_lies_are_found_out() {
    fn good(shard: &mut ShardWriter) {
        shard.push(&[0, 3], 1).unwrap();
        shard.end_document();
    }
    assert_eq!(forged(good, |_| ()), "opened");
    let foreign = |shard: &mut ShardWriter| {
        shard.push(&[0, 4], 1).unwrap();
        shard.end_document();
    };
    assert!(forged(foreign, |_| ()).contains("token id 4 in a vocabulary of 4"));
    let open = |shard: &mut ShardWriter| {
        good(shard);
        shard.push(&[0], 1).unwrap();
    };
    let empty = |shard: &mut ShardWriter| {
        good(shard);
        shard.end_document();
    };
    let first_empty = |shard: &mut ShardWriter| {
        shard.end_document();
        good(shard);
    };
    let writes: [fn(&mut ShardWriter); 4] = [open, empty, first_empty, |_| ()];
    for write in writes {
        let message = forged(write, |_| ());
        assert!(message.contains("do not make up its tokens"), "{message}");
    }
    for tokens in [u64::MAX, u64::MAX / 2, u64::MAX - 200] {
        let message = forged(good, |entry| entry.tokens = tokens);
        assert!(message.contains("impossible sizes") || message.contains("bytes instead of"));
    }
    assert!(forged(good, |entry| entry.documents = u64::MAX).contains("impossible sizes"));
    assert!(forged(good, |entry| entry.sha256 = "é".repeat(32)).contains("a sha256 in it"));
    assert!(forged(good, |entry| entry.sha256.push('0')).contains("a sha256 in it"));
}

proptest! {
    #[test]
    fn a_sha256_is_read_as_it_was_written(sha: Sha) {
        prop_assert_eq!(unhex(&hex(&sha)), Some(sha));
    }
}
