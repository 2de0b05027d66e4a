//! `corpus.json`: what belongs together in a prepared text.

use std::io::ErrorKind;
use std::path::Path;

use lns_record::{read_regular, sha256};
use lns_show::counted;
use serde::{Deserialize, Serialize};

use super::Part;
use super::shard::{Header, Sha};
use crate::CorpusError;

/// The manifest's name in the folder.
pub(crate) const MANIFEST: &str = "corpus.json";
pub(crate) const FORMAT: &str = "lns-corpus-1";
/// A manifest is a few hundred bytes for each 256 MiB of ids.
const MAX_MANIFEST: u64 = 64 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    pub(crate) format: String,
    /// Where the documents came from, in words.
    pub(crate) source: String,
    /// The fingerprint of the tokenizer that made the ids.
    pub(crate) tokenizer: String,
    pub(crate) vocab_size: usize,
    pub(crate) end_of_text: u32,
    /// Whether ids may be marked as not to be predicted. Where there is nothing it is false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) responses_only: bool,
    pub(crate) train: Vec<ShardEntry>,
    pub(crate) validation: Vec<ShardEntry>,
    /// The sha256 of this JSON with nothing here: of everything above.
    pub(crate) sha256: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShardEntry {
    pub(crate) documents: u64,
    pub(crate) tokens: u64,
    /// Bytes of text that the tokens stand for.
    #[serde(rename = "bytes")]
    pub(crate) text_bytes: u64,
    pub(crate) sha256: String,
}

impl From<&Header> for ShardEntry {
    fn from(header: &Header) -> Self {
        let Header { tokens, documents, text_bytes, sha256, .. } = header;
        Self {
            documents: *documents,
            tokens: *tokens,
            text_bytes: *text_bytes,
            sha256: hex(sha256),
        }
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

    pub(super) fn read(folder: &Path) -> Result<Self, CorpusError> {
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

    pub(super) fn shards(&self, part: Part) -> &[ShardEntry] {
        match part {
            Part::Train => &self.train,
            Part::Validation => &self.validation,
        }
    }

    pub(super) fn describe(&self, part: Part) -> String {
        let sum = |of: fn(&ShardEntry) -> u64| {
            self.shards(part).iter().map(of).fold(0, u64::saturating_add)
        };
        let (tokens, documents) = (sum(|shard| shard.tokens), sum(|shard| shard.documents));
        format!("{} of {}", counted(tokens, "token"), counted(documents, "document"))
    }
}

pub(super) fn hex(sha: &Sha) -> String {
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
