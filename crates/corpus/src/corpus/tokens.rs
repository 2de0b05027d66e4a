//! The tokens of one part of a prepared text.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::Part;
use super::manifest::{MANIFEST, Manifest, ShardEntry, unhex};
use super::shard::{Header, Shard, UNLEARNED, width};
use crate::CorpusError;

/// The tokens of documents laid end to end, each with the end-of-text token behind it. They are
/// read from memory-mapped files; a clone is another handle on the same.
#[derive(Debug, Clone)]
pub struct Tokens(Arc<Shards>);

#[derive(Debug)]
struct Shards {
    shards: Vec<Shard>,
    /// How many tokens stand before each shard and, at the end, how many there are.
    tokens: Vec<u64>,
    /// How many documents stand before each shard and, at the end, how many there are.
    documents: Vec<usize>,
    text_bytes: u64,
}

impl Tokens {
    pub(super) fn open(
        folder: &Path,
        manifest: &Manifest,
        part: Part,
    ) -> Result<Self, CorpusError> {
        let mut all = Shards { shards: vec![], tokens: vec![0], documents: vec![0], text_bytes: 0 };
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
            all.text_bytes = all.text_bytes.saturating_add(entry.text_bytes);
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

    /// Whether there are none, which is never so: a prepared text has tokens in both parts.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many documents.
    pub fn documents(&self) -> usize {
        self.0.documents[self.0.shards.len()]
    }

    /// Bytes of text that the tokens stand for.
    pub fn text_bytes(&self) -> u64 {
        self.0.text_bytes
    }

    /// Appends the ids of a range of tokens to `out`; what is beyond the last token is left out.
    pub fn read(&self, range: Range<u64>, out: &mut Vec<u32>) {
        let first = out.len();
        self.read_marked(range, out);
        out[first..].iter_mut().for_each(|id| *id &= !UNLEARNED);
    }

    /// Does what [`read`](Self::read) does, and leaves [`UNLEARNED`] set in ids that are not to be predicted.
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

    /// The lengths of the documents, or of their parts, that a range of tokens is made of.
    ///
    /// # Panics
    /// If there are not so many tokens.
    pub(crate) fn document_lengths(&self, range: Range<u64>) -> Vec<usize> {
        let (mut first, mut behind) = (0, self.documents());
        while first < behind {
            let middle = first + (behind - first) / 2;
            if self.document(middle).end <= range.start {
                first = middle + 1;
            } else {
                behind = middle;
            }
        }
        let (mut lengths, mut start) = (Vec::new(), range.start);
        for index in first.. {
            let end = self.document(index).end.min(range.end);
            lengths.push((end - start) as usize);
            start = end;
            if end == range.end {
                break;
            }
        }
        lengths
    }
}

fn header(manifest: &Manifest, entry: &ShardEntry) -> Option<Header> {
    Some(Header {
        width: width(manifest.vocab_size, manifest.responses_only),
        tokens: entry.tokens,
        documents: entry.documents,
        text_bytes: entry.text_bytes,
        tokenizer: unhex(&manifest.tokenizer)?,
        sha256: unhex(&entry.sha256)?,
    })
}
