//! Documents in pieces that are small enough to tokenise.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use lns_tokenizer::{Cut, Tokenizer};
use sha2::{Digest, Sha256};

use super::lines::Lines;
use super::parquet_rows::ParquetRows;
use super::{Compression, DocumentId, Format};
use crate::CorpusError;

/// Text is tokenised in pieces of about this many bytes.
pub(super) const PIECE_BYTES: usize = 64 << 10;
/// The longest text that is tokenised in one piece where it cannot be cut.
pub(crate) const MAX_PIECE_BYTES: usize = Tokenizer::MAX_PIECE_BYTES;

/// A part of a document that is tokenised by itself.
#[derive(Debug, PartialEq)]
pub(crate) struct Piece {
    pub(crate) text: String,
    /// Whether it goes on with the document of the piece before it.
    pub(crate) continues: bool,
    /// The id of the whole document, with its first piece, if ids were asked for.
    pub(crate) id: Option<DocumentId>,
    /// The bytes that are learned, if not all are: an example, which is one piece.
    pub(crate) learned: Option<Vec<Range<usize>>>,
}

/// A document that is in memory, coming in pieces.
#[derive(Debug, Default)]
pub(crate) struct Whole {
    text: String,
    /// How many bytes of it are in pieces.
    position: usize,
}

impl Whole {
    pub(crate) fn new(text: String) -> Self {
        Self { text, position: 0 }
    }

    pub(crate) fn next_piece(
        &mut self,
        path: &Path,
        cut: Option<Cut>,
    ) -> Result<Option<Piece>, CorpusError> {
        let rest = &self.text[self.position..];
        if rest.is_empty() {
            return Ok(None);
        }
        let end = piece_end(rest, cut).ok_or_else(|| CorpusError::DocumentTooLong {
            path: path.to_owned(),
            limit: MAX_PIECE_BYTES,
        })?;
        let piece = Piece {
            text: rest[..end].to_owned(),
            continues: self.position > 0,
            id: None,
            learned: None,
        };
        self.position += end;
        Ok(Some(piece))
    }
}

/// The pieces of one file's documents, in order; empty documents are left out. Ends at an error.
pub(crate) struct Pieces {
    path: PathBuf,
    cut: Option<Cut>,
    ids: bool,
    source: Source,
}

enum Source {
    Text(TextSource),
    Documents { documents: Documents, current: Whole },
    Ended,
}

/// Documents one after another.
type Documents = Box<dyn Iterator<Item = Result<String, CorpusError>> + Send>;

struct TextSource {
    reader: Box<dyn BufRead + Send>,
    compression: Compression,
    /// Bytes read that are in no piece yet.
    buffer: Vec<u8>,
    /// Where in the text the buffer begins.
    offset: u64,
    /// The document's id, until the first piece takes it along.
    id: Option<DocumentId>,
}

impl Pieces {
    pub(crate) fn open(path: &Path, cut: Option<Cut>) -> Result<Self, CorpusError> {
        let format = Format::of(path)?;
        let failed = |source| CorpusError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let documents = |documents| Source::Documents { documents, current: Whole::default() };
        let source = match format {
            Format::Text(compression) => {
                let reader = compression.reader(BufReader::new(file)).map_err(failed)?;
                Source::Text(TextSource {
                    reader,
                    compression,
                    buffer: vec![],
                    offset: 0,
                    id: None,
                })
            }
            Format::Lines(compression) => {
                documents(Box::new(Lines::open(path, file, compression).map_err(failed)?))
            }
            Format::Parquet => documents(Box::new(ParquetRows::open(path, file)?)),
        };
        Ok(Self { path: path.to_owned(), cut, ids: false, source })
    }

    /// Gives the id of each document along with its first piece. A `.txt` file is read once more for it.
    pub(crate) fn with_ids(mut self) -> Result<Self, CorpusError> {
        self.ids = true;
        if let Source::Text(text) = &mut self.source {
            let id = read_id(&self.path, text.compression);
            text.id = Some(id.map_err(|error| text.compression.read_error(&self.path, error))?);
        }
        Ok(self)
    }
}

impl Iterator for Pieces {
    type Item = Result<Piece, CorpusError>;

    fn next(&mut self) -> Option<Self::Item> {
        let piece = match &mut self.source {
            Source::Text(text) => text.next_piece(&self.path, self.cut),
            Source::Documents { documents, current } => {
                next_piece(documents, current, &self.path, self.cut, self.ids)
            }
            Source::Ended => return None,
        };
        if !matches!(piece, Ok(Some(_))) {
            self.source = Source::Ended;
        }
        piece.transpose()
    }
}

fn next_piece(
    documents: &mut Documents,
    current: &mut Whole,
    path: &Path,
    cut: Option<Cut>,
    ids: bool,
) -> Result<Option<Piece>, CorpusError> {
    loop {
        if let Some(mut piece) = current.next_piece(path, cut)? {
            if ids && !piece.continues {
                piece.id = Some(DocumentId::of(current.text.as_bytes()));
            }
            return Ok(Some(piece));
        }
        match documents.next().transpose()? {
            Some(text) => *current = Whole::new(text),
            None => return Ok(None),
        }
    }
}

/// The id of a file that is one document.
fn read_id(path: &Path, compression: Compression) -> io::Result<DocumentId> {
    let mut sha256 = Sha256::new();
    io::copy(&mut compression.reader(BufReader::new(File::open(path)?))?, &mut sha256)?;
    Ok(DocumentId::from_sha256(sha256.finalize().into()))
}

impl TextSource {
    fn next_piece(&mut self, path: &Path, cut: Option<Cut>) -> Result<Option<Piece>, CorpusError> {
        let mut wanted = PIECE_BYTES;
        loop {
            let missing = wanted.saturating_sub(self.buffer.len()) as u64;
            let read = (&mut self.reader).take(missing).read_to_end(&mut self.buffer);
            read.map_err(|error| self.compression.read_error(path, error))?;
            let ended = self.buffer.len() < wanted;
            let text = self.valid_text(path, ended)?;
            let end = if ended { Some(text.len()) } else { cut.and_then(|cut| cut.last_in(text)) };
            if let Some(end) = end {
                let piece = Piece {
                    text: text[..end].to_owned(),
                    continues: self.offset > 0,
                    id: self.id.take(),
                    learned: None,
                };
                self.buffer.drain(..end);
                self.offset += end as u64;
                return Ok((end > 0).then_some(piece));
            }
            if wanted >= MAX_PIECE_BYTES {
                return Err(CorpusError::DocumentTooLong {
                    path: path.to_owned(),
                    limit: MAX_PIECE_BYTES,
                });
            }
            wanted *= 2;
        }
    }

    /// The buffer as text, without the character that its end may have cut in two.
    fn valid_text(&self, path: &Path, ended: bool) -> Result<&str, CorpusError> {
        let invalid = |valid_up_to: usize| CorpusError::InvalidUtf8 {
            path: path.to_owned(),
            offset: self.offset + valid_up_to as u64,
        };
        match str::from_utf8(&self.buffer) {
            Ok(text) => Ok(text),
            Err(error) if error.error_len().is_some() || ended => Err(invalid(error.valid_up_to())),
            Err(error) => str::from_utf8(&self.buffer[..error.valid_up_to()])
                .map_err(|error| invalid(error.valid_up_to())),
        }
    }
}

/// Where the first piece of a text ends, if it has a place to cut or need not be cut.
fn piece_end(text: &str, cut: Option<Cut>) -> Option<usize> {
    let mut wanted = PIECE_BYTES;
    while wanted < text.len() {
        let part = &text[..text.floor_char_boundary(wanted)];
        if let Some(end) = cut.and_then(|cut| cut.last_in(part)) {
            return Some(end);
        }
        if wanted >= MAX_PIECE_BYTES {
            return None;
        }
        wanted *= 2;
    }
    Some(text.len())
}
