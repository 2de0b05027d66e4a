//! Token shards: the ids of whole documents in one file, read through a memory map.
//!
//! Little-endian throughout.
//! ```text
//!   0  "LNSTOKEN"                       40  the tokenizer's fingerprint, 32 bytes
//!   8  version, u32: 1                  72  sha256 of all that follows the header, 32 bytes
//!  12  bytes of an id, u32: 2 or 4     104  zeros
//!  16  tokens, u64                     128  ids
//!  24  documents, u64                       zeros up to a multiple of 8
//!  32  bytes of text, u64                   where each document ends, in ids, u64
//! ```
//! Where only responses are learned, ids have 4 bytes and those that are not to be predicted have
//! [`UNLEARNED`] set.

use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;
use sha2::{Digest, Sha256};

use super::map::map;
use crate::CorpusError;

const MAGIC: &[u8; 8] = b"LNSTOKEN";
const VERSION: u32 = 1;
const HEADER: usize = 128;
/// How much is checked at a time: a part of it stays in the processor's cache.
const CHECKED_BYTES: usize = 1 << 18;

/// The bit of an id that is not to be predicted: far above any vocabulary.
pub(crate) const UNLEARNED: u32 = 1 << 31;

/// The 32 bytes of a sha256.
pub(crate) type Sha = [u8; 32];

/// What a shard's first bytes say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    /// How many bytes an id takes: 2 or 4.
    pub(crate) width: u32,
    pub(crate) tokens: u64,
    pub(crate) documents: u64,
    /// Bytes of text that the tokens stand for.
    pub(crate) text_bytes: u64,
    /// The fingerprint of the tokenizer that made the ids.
    pub(crate) tokenizer: Sha,
    pub(crate) sha256: Sha,
}

/// Bytes of an id where ids are below `vocab_size`, and may be [`UNLEARNED`] if only responses are
/// learned.
pub(crate) fn width(vocab_size: usize, responses_only: bool) -> u32 {
    if vocab_size <= 1 << 16 && !responses_only { 2 } else { 4 }
}

impl Header {
    fn to_bytes(&self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        let mut place = 0;
        let mut put = |bytes: &[u8]| {
            header[place..place + bytes.len()].copy_from_slice(bytes);
            place += bytes.len();
        };
        put(MAGIC);
        put(&VERSION.to_le_bytes());
        put(&self.width.to_le_bytes());
        for number in [self.tokens, self.documents, self.text_bytes] {
            put(&number.to_le_bytes());
        }
        put(&self.tokenizer);
        put(&self.sha256);
        header
    }

    /// The length of a file with this header.
    fn file_bytes(&self) -> Option<u64> {
        let ids = self.tokens.checked_mul(u64::from(self.width))?.checked_next_multiple_of(8)?;
        let ends = self.documents.checked_mul(8)?;
        ids.checked_add(ends)?.checked_add(HEADER as u64)
    }
}

/// A shard that is being written.
pub(crate) struct ShardWriter {
    file: BufWriter<File>,
    sha256: Sha256,
    ends: Vec<u64>,
    header: Header,
}

impl ShardWriter {
    pub(crate) fn create(path: &Path, width: u32, tokenizer: Sha) -> io::Result<Self> {
        let mut file = BufWriter::with_capacity(1 << 20, File::create_new(path)?);
        file.write_all(&[0; HEADER])?;
        let header = Header {
            width,
            tokens: 0,
            documents: 0,
            text_bytes: 0,
            tokenizer,
            sha256: Sha::default(),
        };
        Ok(Self { file, sha256: Sha256::new(), ends: Vec::new(), header })
    }

    /// How many bytes the ids so far take in the file.
    pub(crate) fn id_bytes(&self) -> u64 {
        self.header.tokens * u64::from(self.header.width)
    }

    /// Adds ids that stand for this many bytes of text.
    pub(crate) fn push(&mut self, ids: &[u32], text_bytes: u64) -> io::Result<()> {
        let width = self.header.width as usize;
        let encoded: Vec<u8> =
            ids.iter().flat_map(|id| id.to_le_bytes().into_iter().take(width)).collect();
        self.header.tokens += ids.len() as u64;
        self.header.text_bytes += text_bytes;
        self.write(&encoded)
    }

    /// Ends a document: the ids since the end of the document before it.
    pub(crate) fn end_document(&mut self) {
        self.ends.push(self.header.tokens);
        self.header.documents += 1;
    }

    /// Writes where documents end, and the header.
    pub(crate) fn finish(mut self) -> io::Result<Header> {
        let padding = self.id_bytes().next_multiple_of(8) - self.id_bytes();
        self.write(&[0; 8][..padding as usize])?;
        let ends: Vec<u8> = self.ends.iter().flat_map(|end| end.to_le_bytes()).collect();
        self.write(&ends)?;
        self.header.sha256 = self.sha256.finalize().into();
        self.file.rewind()?;
        self.file.write_all(&self.header.to_bytes())?;
        self.file.flush()?;
        Ok(self.header)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sha256.update(bytes);
        self.file.write_all(bytes)
    }
}

/// A shard, mapped and checked.
#[derive(Debug)]
pub(crate) struct Shard {
    map: Mmap,
    header: Header,
}

impl Shard {
    /// Maps the shard, whose header is to be this one, and checks all of it.
    pub(crate) fn open(
        path: &Path,
        header: Header,
        vocab_size: usize,
        responses_only: bool,
    ) -> Result<Self, CorpusError> {
        let map = map(path).map_err(|source| CorpusError::Io { path: path.to_owned(), source })?;
        let shard = Self { map, header };
        let mark = if responses_only { UNLEARNED } else { 0 };
        match shard.fault(vocab_size, mark) {
            None => Ok(shard),
            Some(what) => Err(CorpusError::Shard { path: path.to_owned(), what }),
        }
    }

    /// What is wrong with it; ids may have the bit `mark`.
    fn fault(&self, vocab_size: usize, mark: u32) -> Option<String> {
        let found = self.map.len() as u64;
        if !self.map.starts_with(MAGIC) {
            return Some("it does not begin as a token shard".to_owned());
        }
        match self.header.file_bytes() {
            Some(expected) if expected == found => (),
            Some(expected) => return Some(format!("it has {found} bytes instead of {expected}")),
            None => return Some("corpus.json gives it impossible sizes".to_owned()),
        }
        if self.map[..HEADER] != self.header.to_bytes() {
            return Some("its header is not the one that corpus.json describes".to_owned());
        }
        let mut sha256 = Sha256::new();
        self.map[HEADER..].chunks(CHECKED_BYTES).for_each(|chunk| sha256.update(chunk));
        if Sha::from(sha256.finalize()) != self.header.sha256 {
            return Some("its sha256 is not the one in its header".to_owned());
        }
        let mut ends = (0..self.documents()).map(|index| self.end(index));
        let ordered = ends.clone().zip(ends.clone().skip(1)).all(|(end, next)| end < next);
        if !ordered || self.end(0) == 0 || ends.next_back() != Some(self.header.tokens) {
            return Some("its documents do not make up its tokens".to_owned());
        }
        let largest = self.largest_id(mark);
        (largest as usize >= vocab_size)
            .then(|| format!("it has token id {largest} in a vocabulary of {vocab_size}"))
    }

    fn largest_id(&self, mark: u32) -> u32 {
        let mut ids = Vec::new();
        let per_read = CHECKED_BYTES as u64 / 4;
        let mut largest = 0;
        for start in (0..self.header.tokens).step_by(per_read as usize) {
            ids.clear();
            self.read(start..(start + per_read).min(self.header.tokens), &mut ids);
            largest = ids.iter().map(|id| id & !mark).fold(largest, u32::max);
        }
        largest
    }

    pub(crate) fn tokens(&self) -> u64 {
        self.header.tokens
    }

    pub(crate) fn documents(&self) -> usize {
        // No more than there are bytes in memory.
        self.header.documents as usize
    }

    /// Appends ids as they are stored.
    pub(crate) fn read(&self, range: Range<u64>, out: &mut Vec<u32>) {
        let width = self.header.width as usize;
        let [start, end] = [range.start, range.end].map(|index| HEADER + index as usize * width);
        let ids = &self.map[start..end];
        if width == 2 {
            let (ids, _) = ids.as_chunks();
            out.extend(ids.iter().map(|&id| u32::from(u16::from_le_bytes(id))));
        } else {
            let (ids, _) = ids.as_chunks();
            out.extend(ids.iter().map(|&id| u32::from_le_bytes(id)));
        }
    }

    /// Where document `index` is.
    pub(crate) fn document(&self, index: usize) -> Range<u64> {
        let start = index.checked_sub(1).map_or(0, |before| self.end(before));
        start..self.end(index)
    }

    fn end(&self, index: usize) -> u64 {
        let from_behind = (self.documents() - index) * 8;
        let ends = &self.map[self.map.len() - from_behind..];
        ends.first_chunk().map_or(0, |&end| u64::from_le_bytes(end))
    }
}
