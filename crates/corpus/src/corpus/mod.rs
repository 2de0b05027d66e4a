//! A prepared text: a folder with the tokenizer, the tokens of the documents to train on and of
//! those held out, and a manifest (`corpus.json`) that says what belongs together.

mod manifest;
mod map;
mod shard;
#[cfg(test)]
pub(crate) mod tests;
mod tokens;

use std::fmt;
use std::path::{Path, PathBuf};

use lns_record::sha256;
use lns_tokenizer::Tokenizer;

pub(crate) use self::manifest::{FORMAT, MANIFEST, Manifest, ShardEntry, unhex};
pub(crate) use self::shard::{Sha, ShardWriter, UNLEARNED, width};
pub use self::tokens::Tokens;
use crate::CorpusError;

/// What documents are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// Documents that are learned from.
    Train,
    /// Documents that are held out, to measure what was learned.
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
    /// The path of shard `index` of this part.
    pub(crate) fn shard(self, index: usize, folder: &Path) -> PathBuf {
        folder.join(format!("{self}-{index:05}.tokens"))
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

    /// What tells this text from others, a sha256 in hexadecimal digits. Two texts have the same one if
    /// they have the same tokens of the same tokenizer, and learn the same of them; where the text
    /// came from does not matter.
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
