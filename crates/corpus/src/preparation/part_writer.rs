//! The tokens of one part, written shard by shard.

use std::path::PathBuf;

use lns_tokenizer::Encoding;

use super::examples::Examples;
use crate::CorpusError;
use crate::corpus::{Part, Sha, ShardEntry, ShardWriter, UNLEARNED};

/// Writes the shards of one part.
pub(super) struct PartWriter {
    pub(super) part: Part,
    pub(super) folder: PathBuf,
    pub(super) width: u32,
    /// The fingerprint of the tokenizer.
    pub(super) fingerprint: Sha,
    pub(super) end_of_text: u32,
    pub(super) limit: u64,
    pub(super) shard_bytes: u64,
    pub(super) tokens: u64,
    /// How many tokens the document has that is being written.
    pub(super) document_tokens: u64,
    pub(super) examples: Examples,
    pub(super) shard: Option<ShardWriter>,
    pub(super) finished: Vec<ShardEntry>,
}

impl PartWriter {
    /// How many more tokens may come before an end-of-text token.
    pub(super) fn room(&self) -> u64 {
        self.limit.saturating_sub(self.tokens).saturating_sub(1)
    }

    /// Adds to the document as much as there is room for.
    pub(super) fn push(&mut self, Encoding { ids, bytes }: &Encoding) -> Result<(), CorpusError> {
        let count = ids.len().min(usize::try_from(self.room()).unwrap_or(usize::MAX));
        let bytes = bytes[..count].iter().map(|&bytes| u64::from(bytes)).sum();
        self.document_tokens += count as u64;
        self.write(&ids[..count], bytes)
    }

    /// Adds an example of which something is learned, whole: the first for which there is no room
    /// fills the part.
    pub(super) fn push_example(
        &mut self,
        Encoding { ids, bytes }: &Encoding,
        sequence_length: usize,
    ) -> Result<(), CorpusError> {
        // Nothing predicts the first token.
        let seen = ids.iter().take(sequence_length).skip(1);
        let learned = seen.filter(|id| **id & UNLEARNED == 0).count();
        if learned == 0 {
            self.examples.left_out += 1;
            return Ok(());
        }
        if ids.len() as u64 > self.room() {
            if self.tokens == 0 {
                let (part, limit, tokens) = (self.part, self.limit, ids.len() + 1);
                return Err(CorpusError::LimitBelowExample { part, limit, tokens });
            }
            self.limit = self.tokens;
            return Ok(());
        }
        let end_is_learned = self.end_of_text & UNLEARNED == 0 && ids.len() < sequence_length;
        self.examples.kept += 1;
        self.examples.learned += learned as u64 + u64::from(end_is_learned);
        self.examples.cut += u64::from(ids.len() > sequence_length);
        self.document_tokens = ids.len() as u64;
        self.write(ids, bytes.iter().map(|&bytes| u64::from(bytes)).sum())?;
        self.end_document()
    }

    /// Puts the end-of-text token behind the document, unless it has no tokens.
    pub(super) fn end_document(&mut self) -> Result<(), CorpusError> {
        if std::mem::take(&mut self.document_tokens) == 0 {
            return Ok(());
        }
        self.write(&[self.end_of_text], 0)?;
        if let Some(shard) = self.shard.as_mut() {
            shard.end_document();
            if shard.id_bytes() >= self.shard_bytes {
                self.finish_shard()?;
            }
        }
        Ok(())
    }

    fn write(&mut self, ids: &[u32], bytes: u64) -> Result<(), CorpusError> {
        if ids.is_empty() {
            return Ok(());
        }
        let path = self.path();
        let failed = |source| CorpusError::Write { path: path.clone(), source };
        let shard = match &mut self.shard {
            Some(shard) => shard,
            none => {
                let shard = ShardWriter::create(&path, self.width, self.fingerprint);
                none.insert(shard.map_err(failed)?)
            }
        };
        self.tokens += ids.len() as u64;
        shard.push(ids, bytes).map_err(failed)
    }

    fn finish_shard(&mut self) -> Result<(), CorpusError> {
        if let Some(shard) = self.shard.take() {
            let header = shard
                .finish()
                .map_err(|source| CorpusError::Write { path: self.path(), source })?;
            self.finished.push((&header).into());
        }
        Ok(())
    }

    /// The path of the shard that is being written.
    fn path(&self) -> PathBuf {
        self.part.shard(self.finished.len(), &self.folder)
    }

    pub(super) fn finish(mut self) -> Result<Vec<ShardEntry>, CorpusError> {
        self.finish_shard()?;
        match self.examples.left_out {
            _ if !self.finished.is_empty() => Ok(self.finished),
            0 => Err(CorpusError::NoDocuments { part: self.part }),
            left_out => Err(CorpusError::NothingToLearn { part: self.part, left_out }),
        }
    }
}
