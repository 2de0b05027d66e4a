//! A prepared text in the making: documents in batches, tokenised in parallel and written in their
//! order.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use lns_record::NewFolder;
use lns_tokenizer::{Encoding, Tokenizer, TokenizerError};
use rayon::prelude::*;

use super::examples::{Examples, Kept, Responses, end_of, marked};
use super::few::{Few, place_to_split};
use super::part_writer::PartWriter;
use super::{Limits, Open};
use crate::corpus::{FORMAT, MANIFEST, Manifest, Part, UNLEARNED, unhex, width};
use crate::documents::{DocumentId, Piece};
use crate::{Corpus, CorpusError};

/// A shard ends with the document that brings its ids to so many bytes.
const SHARD_BYTES: u64 = 256 << 20;
/// Text that is tokenised at a time: some pieces for each of many threads.
const BATCH_BYTES: u64 = 4 << 20;
/// No token is expected to stand for more text: when tokens are limited, no more text than this for
/// each token that is missing is read ahead.
const BYTES_PER_TOKEN: u64 = 8;

/// What there was in files.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Added {
    /// There was no document.
    Nothing,
    /// There were only documents that the other part has.
    OnlyHeldOut,
    /// There were documents.
    Some,
}

/// A prepared text in the making.
pub(super) struct Preparation<'a> {
    tokenizer: &'a Tokenizer,
    progress: &'a dyn Fn(u64) -> ControlFlow<()>,
    place: &'a Path,
    folder: NewFolder,
    responses: Option<Responses>,
    pub(super) train: PartWriter,
    pub(super) validation: PartWriter,
    /// Documents that the other part must not have.
    pub(super) seen: HashMap<DocumentId, Part>,
    /// The part of the document whose pieces are coming, unless it is left out.
    current: Option<Part>,
    /// Pieces to be tokenised.
    batch: Vec<(Part, Piece)>,
    batch_bytes: u64,
    /// The part of the document whose tokens are being written.
    written: Option<Part>,
}

impl<'a> Preparation<'a> {
    pub(super) fn new(
        tokenizer: &'a Tokenizer,
        limits: Limits,
        responses: Option<Responses>,
        place: &'a Path,
        progress: &'a dyn Fn(u64) -> ControlFlow<()>,
    ) -> Result<Self, CorpusError> {
        let end_of_text = tokenizer.end_of_text_id().filter(|&id| tokenizer.token(id).is_some());
        let end_of_text = end_of_text.ok_or(CorpusError::NoEndOfText)?;
        let unlearned = responses.is_some_and(|responses| !responses.learn_end_of_text);
        let folder = new_folder(place)?;
        let fingerprint = unhex(&tokenizer.fingerprint()).expect("a fingerprint is a sha256");
        let part = |part, limit: Option<u64>| PartWriter {
            part,
            folder: folder.path().to_owned(),
            width: width(tokenizer.vocab_size(), responses.is_some()),
            fingerprint,
            end_of_text: if unlearned { end_of_text | UNLEARNED } else { end_of_text },
            limit: limit.unwrap_or(u64::MAX),
            shard_bytes: SHARD_BYTES,
            tokens: 0,
            document_tokens: 0,
            examples: Examples::default(),
            shard: None,
            finished: Vec::new(),
        };
        Ok(Self {
            train: part(Part::Train, limits.train),
            validation: part(Part::Validation, limits.validation),
            tokenizer,
            progress,
            place,
            folder,
            responses,
            seen: HashMap::new(),
            current: None,
            batch: Vec::new(),
            batch_bytes: 0,
            written: None,
        })
    }

    /// Adds the documents of files, each to the part that is chosen for it, until all these parts
    /// are full.
    pub(super) fn add_files(
        &mut self,
        files: &[PathBuf],
        open: &Open<'_>,
        parts: &[Part],
        mut part_of: impl FnMut(DocumentId) -> Part,
    ) -> Result<Added, CorpusError> {
        let held_out = parts == [Part::Validation];
        let mut added = Added::Nothing;
        for file in files {
            for piece in open(file)? {
                if self.is_full(parts) {
                    return Ok(Added::Some);
                }
                let piece = piece?;
                if let Some(id) = piece.id {
                    let part = part_of(id);
                    if held_out {
                        self.seen.insert(id, part);
                    }
                    let wanted = self.seen.get(&id).is_none_or(|&seen| seen == part);
                    added = match added {
                        Added::Some => Added::Some,
                        _ if wanted => Added::Some,
                        _ => Added::OnlyHeldOut,
                    };
                    if wanted { self.begin(part) } else { self.leave_out() }
                }
                self.add(piece)?;
            }
        }
        Ok(added)
    }

    /// Adds the documents of files, of each the beginning to train on and the end, as a document of its
    /// own, to hold out.
    pub(super) fn add_split(
        &mut self,
        files: &[PathBuf],
        open: &Open<'_>,
        few: &Few,
        end: f64,
    ) -> Result<(), CorpusError> {
        let mut documents = few.bytes.iter();
        // Bytes of the document that are still to be trained on; none once its end has begun.
        let mut left = None;
        for file in files {
            for piece in open(file)? {
                let mut piece = piece?;
                if piece.id.take().is_some() {
                    let bytes = documents.next().copied().unwrap_or(0);
                    left = Some(bytes - ((bytes as f64 * end).ceil() as u64).min(bytes));
                    self.begin(Part::Train);
                }
                let bytes = piece.text.len() as u64;
                let Some(wanted) = left else {
                    self.add(piece)?;
                    continue;
                };
                if bytes <= wanted {
                    left = Some(wanted - bytes);
                    self.add(piece)?;
                    continue;
                }
                let place = place_to_split(&piece.text, wanted as usize, self.tokenizer.cut());
                let text = piece.text.split_off(place).trim_start().to_owned();
                if !piece.text.is_empty() {
                    self.add(piece)?;
                }
                left = None;
                self.begin(Part::Validation);
                self.add(Piece { text, continues: false, id: None, learned: None })?;
            }
        }
        Ok(())
    }

    /// Begins a document, whose pieces come next, for this part.
    pub(super) fn begin(&mut self, part: Part) {
        self.current = (!self.is_full(&[part])).then_some(part);
    }

    /// Leaves out the document whose pieces come next.
    pub(super) fn leave_out(&mut self) {
        self.current = None;
    }

    pub(super) fn add(&mut self, piece: Piece) -> Result<(), CorpusError> {
        let Some(part) = self.current else { return Ok(()) };
        self.batch_bytes += piece.text.len() as u64;
        self.batch.push((part, piece));
        let missing = self.train.room().max(self.validation.room());
        if self.batch_bytes >= BATCH_BYTES.min(missing.saturating_mul(BYTES_PER_TOKEN)) {
            self.write_batch()?;
        }
        Ok(())
    }

    pub(super) fn is_full(&self, parts: &[Part]) -> bool {
        parts.iter().all(|part| match part {
            Part::Train => self.train.room() == 0,
            Part::Validation => self.validation.room() == 0,
        })
    }

    fn write_batch(&mut self) -> Result<(), CorpusError> {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let tokenizer = self.tokenizer;
        let encode = |(_, piece): &(Part, Piece)| match (piece.continues, &piece.learned) {
            (true, _) => tokenizer.encode_continuation(&piece.text),
            (false, None) => tokenizer.encode(&piece.text),
            (false, Some(learned)) => Ok(marked(tokenizer.encode(&piece.text)?, learned)),
        };
        let encodings: Vec<Result<Encoding, TokenizerError>> =
            batch.par_iter().map(encode).collect();
        for ((part, piece), encoding) in batch.into_iter().zip(encodings) {
            if let Some(Responses { sequence_length, kept, .. }) = self.responses {
                let mut encoding = encoding?;
                if kept == Kept::End && encoding.ids.len() >= sequence_length {
                    encoding = end_of(encoding, sequence_length);
                    self.part(part).examples.cut += 1;
                }
                self.part(part).push_example(&encoding, sequence_length)?;
                continue;
            }
            if !piece.continues {
                self.end_document()?;
                self.written = Some(part);
            }
            self.part(part).push(&encoding?)?;
        }
        self.tell()
    }

    fn tell(&self) -> Result<(), CorpusError> {
        match (self.progress)(self.train.tokens + self.validation.tokens) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(CorpusError::Stopped),
        }
    }

    fn end_document(&mut self) -> Result<(), CorpusError> {
        match self.written.take() {
            Some(part) => self.part(part).end_document(),
            None => Ok(()),
        }
    }

    fn part(&mut self, part: Part) -> &mut PartWriter {
        match part {
            Part::Train => &mut self.train,
            Part::Validation => &mut self.validation,
        }
    }

    fn examples(&self) -> Examples {
        let [train, validation] = [&self.train, &self.validation].map(|part| part.examples);
        train.with(validation)
    }

    pub(super) fn finish(mut self, mut source: String) -> Result<Corpus, CorpusError> {
        self.write_batch()?;
        self.end_document()?;
        self.tell()?;
        if let Some(responses) = self.responses {
            source += &format!(", {}", self.examples().describe(responses));
        }
        let mut manifest = Manifest {
            format: FORMAT.to_owned(),
            source,
            tokenizer: self.tokenizer.fingerprint(),
            vocab_size: self.tokenizer.vocab_size(),
            end_of_text: self.train.end_of_text & !UNLEARNED,
            responses_only: self.responses.is_some(),
            train: self.train.finish()?,
            validation: self.validation.finish()?,
            sha256: String::new(),
        };
        manifest.sha256 = manifest.checksum();
        let failed = |source| CorpusError::Write { path: self.place.to_owned(), source };
        self.tokenizer.save(self.folder.path())?;
        fs::write(self.folder.path().join(MANIFEST), manifest.to_json()).map_err(failed)?;
        self.folder.commit().map_err(failed)?;
        Corpus::open(self.place)
    }
}

fn new_folder(place: &Path) -> Result<NewFolder, CorpusError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => CorpusError::AlreadyThere { path: place.to_owned() },
        _ => CorpusError::Write { path: place.to_owned(), source },
    };
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    NewFolder::create(place).map_err(failed)
}
