//! A prepared text: a folder with the tokenizer, the tokens of the documents to train on and of
//! those held out, and a manifest (`corpus.json`) that says what belongs together.

use std::fmt;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lns_record::{counted, read_regular, sha256};
use lns_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};

use crate::CorpusError;
use crate::shard::{Header, Sha, Shard, UNLEARNED, width};

/// The manifest's name in the folder.
pub(crate) const MANIFEST: &str = "corpus.json";
pub(crate) const FORMAT: &str = "lns-corpus-1";
/// A manifest is a few hundred bytes for each 256 MiB of ids.
const MAX_MANIFEST: u64 = 64 << 20;

/// What documents are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// To learn from.
    Train,
    /// Held out, to measure what was learnt.
    Validation,
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Train => "train",
            Self::Validation => "validation",
        })
    }
}

impl Part {
    /// Its shard number `index`.
    pub(crate) fn shard(self, index: usize, folder: &Path) -> PathBuf {
        folder.join(format!("{self}-{index:05}.tokens"))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    pub(crate) format: String,
    /// Where the documents came from, in words.
    pub(crate) source: String,
    /// Fingerprint of the tokenizer.
    pub(crate) tokenizer: String,
    pub(crate) vocab_size: usize,
    pub(crate) end_of_text: u32,
    /// Whether ids may be marked as not to be predicted. Where there is nothing it is false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) responses_only: bool,
    pub(crate) train: Vec<ShardEntry>,
    pub(crate) validation: Vec<ShardEntry>,
    /// Of everything above: of this JSON with nothing here.
    pub(crate) sha256: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShardEntry {
    pub(crate) documents: u64,
    pub(crate) tokens: u64,
    /// Of text.
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

impl From<&Header> for ShardEntry {
    fn from(header: &Header) -> Self {
        let Header { tokens, documents, bytes, sha256, .. } = header;
        Self { documents: *documents, tokens: *tokens, bytes: *bytes, sha256: hex(sha256) }
    }
}

impl Manifest {
    /// The file's text: the one way to write this manifest.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a struct of numbers and strings is JSON") + "\n"
    }

    pub(crate) fn checksum(&self) -> String {
        sha256(Self { sha256: String::new(), ..self.clone() }.to_json().as_bytes())
    }

    fn read(folder: &Path) -> Result<Self, CorpusError> {
        let path = folder.join(MANIFEST);
        let failed = |source: std::io::Error| match source.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => {
                CorpusError::NotPrepared { path: folder.to_owned() }
            }
            _ => CorpusError::Io { path: path.clone(), source },
        };
        let bad = |what: String| CorpusError::Manifest { path: path.clone(), what };
        let json = read_regular(&path, MAX_MANIFEST).map_err(failed)?;
        let manifest: Self =
            serde_json::from_slice(&json).map_err(|error| bad(error.to_string()))?;
        if manifest.format != FORMAT {
            return Err(bad(format!("its format is {:?}, not {FORMAT:?}", manifest.format)));
        }
        if json != manifest.to_json().as_bytes() || manifest.sha256 != manifest.checksum() {
            return Err(bad("it is not as it was written".to_owned()));
        }
        Ok(manifest)
    }

    fn shards(&self, part: Part) -> &[ShardEntry] {
        match part {
            Part::Train => &self.train,
            Part::Validation => &self.validation,
        }
    }

    fn describe(&self, part: Part) -> String {
        let sum = |of: fn(&ShardEntry) -> u64| {
            self.shards(part).iter().map(of).fold(0, u64::saturating_add)
        };
        let (tokens, documents) = (sum(|shard| shard.tokens), sum(|shard| shard.documents));
        format!("{} of {}", counted(tokens, "token"), counted(documents, "document"))
    }
}

/// A text that is ready for training.
#[derive(Debug)]
pub struct Corpus {
    tokenizer: Tokenizer,
    train: Tokens,
    validation: Tokens,
    responses_only: bool,
    fingerprint: String,
    description: String,
}

impl Corpus {
    /// Opens what [`prepare`](crate::prepare) wrote and checks all of it: sizes, checksums, that no
    /// id is outside the vocabulary, and that the tokenizer is the one the ids were made with.
    ///
    /// # Errors
    /// One that names the file at fault.
    pub fn open(folder: &Path) -> Result<Self, CorpusError> {
        let manifest = Manifest::read(folder)?;
        let tokenizer = open_tokenizer(folder, &manifest)?;
        let part = |part| Tokens::open(folder, &manifest, part);
        let described = [Part::Train, Part::Validation].map(|part| manifest.describe(part));
        let [train, validation] = described;
        Ok(Self {
            tokenizer,
            train: part(Part::Train)?,
            validation: part(Part::Validation)?,
            responses_only: manifest.responses_only,
            fingerprint: fingerprint(&manifest),
            description: format!("{}: {train} to train on, {validation} held out", manifest.source),
        })
    }

    /// Whether a folder holds a prepared text, sound or not.
    pub fn is_in(folder: &Path) -> bool {
        folder.join(MANIFEST).is_file()
    }

    /// The tokenizer that made the tokens.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Whether the targets are only what a model is to answer
    /// ([`prepare_instructions`](crate::prepare_instructions)), not the whole text.
    pub fn learns_responses_only(&self) -> bool {
        self.responses_only
    }

    /// The same for the same tokens of the same tokenizer, wherever they came from, if the same of
    /// them are learned: a sha256 in hexadecimal digits.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// All token ids are below this.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.vocab_size()
    }

    /// Where the text came from and how much it is, in words.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// The tokens of one part; never none.
    pub fn tokens(&self, part: Part) -> &Tokens {
        match part {
            Part::Train => &self.train,
            Part::Validation => &self.validation,
        }
    }
}

fn open_tokenizer(folder: &Path, manifest: &Manifest) -> Result<Tokenizer, CorpusError> {
    let path = folder.join("tokenizer.json");
    let tokenizer = Tokenizer::from_json_file(&path)?;
    let describe = |fingerprint: &str, vocab_size: usize, end_of_text: Option<u32>| {
        let end_of_text = end_of_text.map_or("none".to_owned(), |id| id.to_string());
        format!("{vocab_size} tokens, end of text {end_of_text}, fingerprint {fingerprint}")
    };
    let Manifest { tokenizer: fingerprint, vocab_size, end_of_text, .. } = manifest;
    let expected = describe(fingerprint, *vocab_size, Some(*end_of_text));
    let found =
        describe(&tokenizer.fingerprint(), tokenizer.vocab_size(), tokenizer.end_of_text_id());
    if found == expected {
        Ok(tokenizer)
    } else {
        Err(CorpusError::OtherTokenizer { path, expected, found })
    }
}

fn fingerprint(manifest: &Manifest) -> String {
    let mut lines = vec![manifest.tokenizer.as_str()];
    for part in [Part::Train, Part::Validation] {
        lines.push("part");
        lines.extend(manifest.shards(part).iter().map(|shard| shard.sha256.as_str()));
    }
    sha256(lines.join("\n").as_bytes())
}

fn hex(sha: &Sha) -> String {
    sha.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads what [`hex`] writes.
pub(crate) fn unhex(digits: &str) -> Option<Sha> {
    let mut sha = Sha::default();
    let pairs = digits.as_bytes().chunks(2);
    if digits.len() != 2 * sha.len() {
        return None;
    }
    for (byte, pair) in sha.iter_mut().zip(pairs) {
        *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(sha)
}

/// The tokens of documents laid end to end, each with the end-of-text token behind it. They are
/// read from memory-mapped files; a clone is another handle on the same.
#[derive(Debug, Clone)]
pub struct Tokens(Arc<Shards>);

#[derive(Debug)]
struct Shards {
    shards: Vec<Shard>,
    /// Tokens before each shard, and in all.
    tokens: Vec<u64>,
    /// Documents before each shard, and in all.
    documents: Vec<usize>,
    bytes: u64,
}

impl Tokens {
    fn open(folder: &Path, manifest: &Manifest, part: Part) -> Result<Self, CorpusError> {
        let mut all = Shards { shards: vec![], tokens: vec![0], documents: vec![0], bytes: 0 };
        let (mut tokens, mut documents) = (0u64, 0usize);
        for (index, entry) in manifest.shards(part).iter().enumerate() {
            let path = part.shard(index, folder);
            let header = header(manifest, entry).ok_or_else(|| CorpusError::Manifest {
                path: folder.join(MANIFEST),
                what: "a sha256 in it is none".to_owned(),
            })?;
            let Manifest { vocab_size, responses_only, .. } = *manifest;
            let shard = Shard::open(&path, header, vocab_size, responses_only)?;
            // No overflow: these are below the sizes of files that are mapped.
            tokens += shard.tokens();
            documents += shard.documents();
            all.tokens.push(tokens);
            all.documents.push(documents);
            all.bytes = all.bytes.saturating_add(entry.bytes);
            all.shards.push(shard);
        }
        if tokens == 0 {
            return Err(CorpusError::Manifest {
                path: folder.join(MANIFEST),
                what: format!("there are no tokens for {part}"),
            });
        }
        Ok(Self(Arc::new(all)))
    }

    /// How many tokens, the end-of-text tokens included.
    pub fn len(&self) -> u64 {
        self.0.tokens[self.0.shards.len()]
    }

    /// Never: a prepared text has tokens in both parts.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many documents.
    pub fn documents(&self) -> usize {
        self.0.documents[self.0.shards.len()]
    }

    /// Bytes of text that the tokens stand for.
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// Appends the ids of a range of tokens to `out`; what is beyond the last token is left out.
    pub fn read(&self, range: Range<u64>, out: &mut Vec<u32>) {
        let first = out.len();
        self.read_marked(range, out);
        out[first..].iter_mut().for_each(|id| *id &= !UNLEARNED);
    }

    /// The same with [`UNLEARNED`] set in ids that are not to be predicted.
    pub(crate) fn read_marked(&self, range: Range<u64>, out: &mut Vec<u32>) {
        let Shards { shards, tokens, .. } = &*self.0;
        let first = tokens.partition_point(|&before| before <= range.start).saturating_sub(1);
        for (shard, &before) in shards.iter().zip(tokens).skip(first) {
            if range.end <= before {
                break;
            }
            let start = range.start.saturating_sub(before);
            let end = (range.end - before).min(shard.tokens());
            if start < end {
                shard.read(start..end, out);
            }
        }
    }

    /// Where a document is, its end-of-text token included.
    ///
    /// # Panics
    /// If there are not so many documents.
    pub fn document(&self, index: usize) -> Range<u64> {
        let Shards { shards, tokens, documents, .. } = &*self.0;
        assert!(index < self.documents(), "document {index} of {}", self.documents());
        let shard = documents.partition_point(|&before| before <= index) - 1;
        let Range { start, end } = shards[shard].document(index - documents[shard]);
        tokens[shard] + start..tokens[shard] + end
    }
}

fn header(manifest: &Manifest, entry: &ShardEntry) -> Option<Header> {
    Some(Header {
        width: width(manifest.vocab_size, manifest.responses_only),
        tokens: entry.tokens,
        documents: entry.documents,
        bytes: entry.bytes,
        tokenizer: unhex(&manifest.tokenizer)?,
        sha256: unhex(&entry.sha256)?,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;

    use proptest::prelude::*;
    use serde_json::json;
    use tempfile::{TempDir, tempdir};

    use super::*;
    use crate::prepare::Responses;
    use crate::prepare::tests::{prepare_marked, prepare_small};
    use crate::shard::ShardWriter;

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
        let folder = tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        fs::write(&path, json.to_string()).unwrap();
        Tokenizer::from_json_file(&path).unwrap()
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

    use crate::Limits;

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
            assert_eq!((train.len(), train.documents(), train.bytes()), (7, 2, 8));
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
        let responses = Responses { sequence_length: 8, learn_end_of_text: true };
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
}
