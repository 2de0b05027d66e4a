//! Documents to a prepared text ([`Corpus`]): tokenised in parallel, written in their order.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs;
use std::io;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};

use lns_record::NewFolder;
use lns_tokenizer::{Cut, Encoding, Tokenizer, TokenizerError};
use rayon::prelude::*;

use crate::corpus::{FORMAT, MANIFEST, Manifest, Part, ShardEntry, unhex};
use crate::documents::{DocumentId, Piece, Pieces, Whole, text_files};
use crate::shard::{Sha, ShardWriter, UNLEARNED, width};
use crate::{Corpus, CorpusError};

/// A shard ends with the document that brings its ids to so many bytes.
const SHARD_BYTES: u64 = 256 << 20;
/// Text that is tokenised at a time: some pieces for each of many threads.
const BATCH_BYTES: u64 = 4 << 20;
/// No token is expected to stand for more text: when tokens are limited, no more text than this for
/// each token that is missing is read ahead.
const BYTES_PER_TOKEN: u64 = 8;
/// Of few documents at least so many bytes are held out, some 2,000 tokens where a sequence has some
/// hundreds …
const LEAST_HELD_OUT: f64 = 8192.0;
/// … but at most this part of them.
const MOST_HELD_OUT: f64 = 0.25;
/// So many documents are never few.
const MOST_FEW: usize = 100;

/// Which documents are held out.
#[derive(Debug, Clone, PartialEq)]
pub enum Validation {
    /// Those of these files. A document to train on that is the same as one of them is left out.
    Files(Vec<PathBuf>),
    /// About this share of all documents, above 0 and below 1, and at least one, chosen by a hash of
    /// a document's text: whichever files it is in and however often, it is in one part only.
    ///
    /// Of fewer documents than a share of them is one (20 at 0.05), the end of each is held out
    /// instead: this share of its bytes, or more where all of them together would have less than
    /// 8 KiB held out, but a quarter at most. [`Corpus::description`] says so. Examples are not cut.
    Share(f64),
}

/// What becomes of the documents of files.
#[derive(Debug, Clone, PartialEq)]
pub struct PrepareOptions {
    /// Which of them are held out.
    pub validation: Validation,
    /// At most how many tokens to train on; `None` for all there are. The document that reaches the
    /// limit is cut short.
    pub max_train_tokens: Option<u64>,
    /// At most how many tokens to hold out.
    pub max_validation_tokens: Option<u64>,
}

/// At most how many tokens of made documents, as in [`PrepareOptions`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// To train on.
    pub train: Option<u64>,
    /// Held out.
    pub validation: Option<u64>,
}

/// Tokenises the documents of files (a folder stands for the texts in it) and writes the tokens into
/// a new folder, which appears when all is done. `progress` is told how many tokens there are,
/// and may end the work.
///
/// # Errors
/// Text that cannot be read, a folder that is there already, a part without documents, a share that
/// is none, a tokenizer without an end-of-text token, or what the operating system says.
pub fn prepare(
    text: &[PathBuf],
    tokenizer: &Tokenizer,
    options: &PrepareOptions,
    folder: &Path,
    progress: &dyn Fn(u64) -> ControlFlow<()>,
) -> Result<Corpus, CorpusError> {
    let reading = Reading {
        expand: text_files,
        open: &|file| Ok(Box::new(Pieces::open(file, tokenizer.cut())?.with_ids()?)),
        responses: None,
    };
    prepare_files(text, &reading, tokenizer, options, folder, progress)
}

/// How files become the pieces of documents.
pub(crate) struct Reading<'a> {
    /// The files that paths stand for.
    pub(crate) expand: fn(&[PathBuf]) -> Result<Vec<PathBuf>, CorpusError>,
    pub(crate) open: &'a Open<'a>,
    /// Of examples of which only responses are learned.
    pub(crate) responses: Option<Responses>,
}

/// Opens a file; the first piece of each document has an id.
pub(crate) type Open<'a> = dyn Fn(&Path) -> Result<Box<dyn Iterator<Item = Result<Piece, CorpusError>> + 'a>, CorpusError>
    + 'a;

/// What is learned of examples besides their learned spans, and how much of one is seen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Responses {
    /// An example with nothing to learn in its first so many tokens is left out.
    pub(crate) sequence_length: usize,
    /// Whether the end-of-text token behind an example is learned.
    pub(crate) learn_end_of_text: bool,
}

/// Tokenises what is read from files, as [`prepare`] does.
pub(crate) fn prepare_files(
    paths: &[PathBuf],
    reading: &Reading<'_>,
    tokenizer: &Tokenizer,
    options: &PrepareOptions,
    folder: &Path,
    progress: &dyn Fn(u64) -> ControlFlow<()>,
) -> Result<Corpus, CorpusError> {
    let files = (reading.expand)(paths)?;
    let limits =
        Limits { train: options.max_train_tokens, validation: options.max_validation_tokens };
    let new = || Preparation::new(tokenizer, limits, reading.responses, folder, progress);
    let mut preparation = new()?;
    let source = match &options.validation {
        Validation::Files(held_out) => {
            let held_out = (reading.expand)(held_out)?;
            let part = Part::Validation;
            if preparation.add_files(&held_out, reading.open, &[part], |_| part)? == Added::Nothing
            {
                return Err(CorpusError::NoText { files: held_out });
            }
            match preparation.add_files(&files, reading.open, &[Part::Train], |_| Part::Train)? {
                Added::Some => {}
                Added::Nothing => return Err(CorpusError::NoText { files }),
                Added::OnlyHeldOut => return Err(CorpusError::AllHeldOut { files }),
            }
            format!("{} and, held out, {}", Names(&files), Names(&held_out))
        }
        &Validation::Share(share) => {
            if !(share > 0.0 && share < 1.0) {
                return Err(CorpusError::ValidationShare { share });
            }
            if let Some(few) = Few::of(&files, reading, share)? {
                if few.bytes.is_empty() {
                    return Err(CorpusError::NoText { files });
                }
                let end = few.end(share);
                preparation.add_split(&files, reading.open, &few, end)?;
                let corpus = preparation.finish(few.describe(&files, end));
                return corpus.map_err(|error| few.explained(error, limits));
            }
            let parts = [Part::Train, Part::Validation];
            let mut lowest = f64::INFINITY;
            preparation.add_files(&files, reading.open, &parts, |id| {
                lowest = lowest.min(id.place());
                if id.place() < share { Part::Validation } else { Part::Train }
            })?;
            if lowest >= share {
                // Of few documents the lot may have held out none: then it is the first in line.
                preparation = new()?;
                preparation.add_files(&files, reading.open, &parts, |id| {
                    if id.place() <= lowest { Part::Validation } else { Part::Train }
                })?;
            }
            Names(&files).to_string()
        }
    };
    preparation.finish(source)
}

/// The same for documents that are made, not read. A document that was in one part is left out of
/// the other. No more documents are asked for than the limits need.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_documents(
    documents: &mut dyn Iterator<Item = (Part, String)>,
    source: &str,
    tokenizer: &Tokenizer,
    limits: Limits,
    folder: &Path,
    progress: &dyn Fn(u64) -> ControlFlow<()>,
) -> Result<Corpus, CorpusError> {
    let mut preparation = Preparation::new(tokenizer, limits, None, folder, progress)?;
    for (part, text) in documents {
        let id = DocumentId::of(text.as_bytes());
        let first = *preparation.seen.entry(id).or_insert(part);
        preparation.begin(part, first == part);
        let mut document = Whole::new(text);
        while let Some(piece) = document.next_piece(Path::new(source), tokenizer.cut())? {
            preparation.add(piece)?;
        }
        if preparation.is_full(&[Part::Train, Part::Validation]) {
            break;
        }
    }
    preparation.finish(source.to_owned())
}

/// Files, in few words.
struct Names<'a>(&'a [PathBuf]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((first, rest)) = self.0.split_first() else {
            return formatter.write_str("nothing");
        };
        write!(formatter, "{}", first.file_name().unwrap_or_default().display())?;
        match rest.len() {
            0 => Ok(()),
            1 => formatter.write_str(" and 1 more file"),
            more => write!(formatter, " and {more} more files"),
        }
    }
}

/// Documents of which too few are there to hold some out as a whole.
struct Few {
    /// Bytes of each, in their order, equal ones included.
    bytes: Vec<u64>,
}

impl Few {
    /// The documents of files, if there are fewer than a share of them is one.
    fn of(
        files: &[PathBuf],
        reading: &Reading<'_>,
        share: f64,
    ) -> Result<Option<Self>, CorpusError> {
        if reading.responses.is_some() {
            return Ok(None);
        }
        let enough = ((1.0 / share).ceil() as usize).min(MOST_FEW);
        let mut different = HashSet::new();
        let mut bytes = Vec::new();
        for file in files {
            for piece in (reading.open)(file)? {
                let piece = piece?;
                if let Some(id) = piece.id {
                    different.insert(id);
                    bytes.push(0);
                }
                if different.len() >= enough {
                    return Ok(None);
                }
                if let Some(document) = bytes.last_mut() {
                    *document += piece.text.len() as u64;
                }
            }
        }
        Ok(Some(Self { bytes }))
    }

    /// The part of each document's bytes that is held out.
    fn end(&self, share: f64) -> f64 {
        let all = self.bytes.iter().sum::<u64>() as f64;
        share.max((LEAST_HELD_OUT / all).min(MOST_HELD_OUT))
    }

    /// Why a part is empty, unless its limit makes it so.
    fn explained(&self, error: CorpusError, limits: Limits) -> CorpusError {
        let limited = [limits.train, limits.validation].iter().flatten().any(|&most| most < 2);
        match error {
            CorpusError::NoDocuments { .. } if !limited => CorpusError::TooShortToHoldOut {
                bytes: self.bytes.iter().sum(),
                enough: (LEAST_HELD_OUT / MOST_HELD_OUT) as u64,
            },
            other => other,
        }
    }

    fn describe(&self, files: &[PathBuf], end: f64) -> String {
        let each = match self.bytes.len() {
            1 => "1 document".to_owned(),
            more => format!("each of {more} documents"),
        };
        let percent = (100.0 * end).round();
        format!("{}, the last {percent} % of {each} held out", Names(files))
    }
}

/// Where a text is cut in two, near `wanted` and not behind it: where the tokenizer would, else at white
/// space, else between any two characters.
fn place_to_split(text: &str, wanted: usize, cut: Option<Cut>) -> usize {
    let before = &text[..text.floor_char_boundary(wanted)];
    let place = cut.and_then(|cut| cut.last_in(before));
    place.or_else(|| before.rfind(char::is_whitespace)).unwrap_or(before.len())
}

/// What files had.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Added {
    /// No document.
    Nothing,
    /// Only documents that another part has.
    OnlyHeldOut,
    /// Documents.
    Some,
}

/// A prepared text in the making.
struct Preparation<'a> {
    tokenizer: &'a Tokenizer,
    progress: &'a dyn Fn(u64) -> ControlFlow<()>,
    place: &'a Path,
    folder: NewFolder,
    responses: Option<Responses>,
    train: PartWriter,
    validation: PartWriter,
    /// Documents that the other part must not have.
    seen: HashMap<DocumentId, Part>,
    /// The part of the document whose pieces are coming, unless it is left out.
    current: Option<Part>,
    /// Pieces to be tokenised.
    batch: Vec<(Part, Piece)>,
    batch_bytes: u64,
    /// The part of the document whose tokens are being written.
    written: Option<Part>,
}

impl<'a> Preparation<'a> {
    fn new(
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
    fn add_files(
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
                    self.begin(part, wanted);
                }
                self.add(piece)?;
            }
        }
        Ok(added)
    }

    /// Adds the documents of files, of each the beginning to train on and the end, as a document of its
    /// own, to hold out.
    fn add_split(
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
                    self.begin(Part::Train, true);
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
                self.begin(Part::Validation, true);
                self.add(Piece { text, continues: false, id: None, learned: None })?;
            }
        }
        Ok(())
    }

    /// The pieces that come are a document for this part.
    fn begin(&mut self, part: Part, wanted: bool) {
        self.current = (wanted && !self.is_full(&[part])).then_some(part);
    }

    fn add(&mut self, piece: Piece) -> Result<(), CorpusError> {
        let Some(part) = self.current else { return Ok(()) };
        self.batch_bytes += piece.text.len() as u64;
        self.batch.push((part, piece));
        let missing = self.train.room().max(self.validation.room());
        if self.batch_bytes >= BATCH_BYTES.min(missing.saturating_mul(BYTES_PER_TOKEN)) {
            self.write_batch()?;
        }
        Ok(())
    }

    fn is_full(&self, parts: &[Part]) -> bool {
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
            if let Some(Responses { sequence_length, .. }) = self.responses {
                self.part(part).push_example(&encoding?, sequence_length)?;
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

    fn finish(mut self, mut source: String) -> Result<Corpus, CorpusError> {
        self.write_batch()?;
        self.end_document()?;
        self.tell()?;
        if let Some(Responses { sequence_length, .. }) = self.responses {
            source += &format!(", {}", self.examples().describe(sequence_length));
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

/// The same tokens, marked where they do not lie within one of the spans of the text, which are in
/// their order.
pub(crate) fn marked(mut encoding: Encoding, learned: &[Range<usize>]) -> Encoding {
    let (mut end, mut within) = (0, false);
    for (id, &bytes) in encoding.ids.iter_mut().zip(&encoding.bytes) {
        let start = end;
        end += bytes as usize;
        // A token without bytes ends a character that the token before it began.
        if bytes > 0 {
            let span = learned.partition_point(|span| span.end < end);
            within = learned.get(span).is_some_and(|span| span.start <= start);
        }
        if !within {
            *id |= UNLEARNED;
        }
    }
    encoding
}

/// How many examples there are, and what is learned of them.
#[derive(Debug, Clone, Copy, Default)]
struct Examples {
    kept: u64,
    /// Tokens, of those that fit in a sequence.
    learned: u64,
    /// Longer than a sequence.
    cut: u64,
    /// Without a token to learn in a sequence.
    left_out: u64,
}

impl Examples {
    fn with(self, other: Self) -> Self {
        Self {
            kept: self.kept + other.kept,
            learned: self.learned + other.learned,
            cut: self.cut + other.cut,
            left_out: self.left_out + other.left_out,
        }
    }

    fn describe(self, sequence_length: usize) -> String {
        let Self { kept, learned, cut, left_out } = self;
        format!(
            "{learned} tokens of responses to learn in {kept} examples ({cut} longer than \
             {sequence_length} tokens and cut there, {left_out} left out with nothing to learn \
             before it)"
        )
    }
}

/// Writes the shards of one part.
struct PartWriter {
    part: Part,
    folder: PathBuf,
    width: u32,
    /// Of the tokenizer.
    fingerprint: Sha,
    end_of_text: u32,
    limit: u64,
    shard_bytes: u64,
    tokens: u64,
    /// Tokens of the document that has not ended.
    document_tokens: u64,
    examples: Examples,
    shard: Option<ShardWriter>,
    finished: Vec<ShardEntry>,
}

impl PartWriter {
    /// How many more tokens may come before an end-of-text token.
    fn room(&self) -> u64 {
        self.limit.saturating_sub(self.tokens).saturating_sub(1)
    }

    /// Adds to the document as much as there is room for.
    fn push(&mut self, Encoding { ids, bytes }: &Encoding) -> Result<(), CorpusError> {
        let count = ids.len().min(usize::try_from(self.room()).unwrap_or(usize::MAX));
        let bytes = bytes[..count].iter().map(|&bytes| u64::from(bytes)).sum();
        self.document_tokens += count as u64;
        self.write(&ids[..count], bytes)
    }

    /// Adds an example of which something is learned, whole: the first for which there is no room
    /// fills the part.
    fn push_example(
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
    fn end_document(&mut self) -> Result<(), CorpusError> {
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

    /// Of the shard that is being written.
    fn path(&self) -> PathBuf {
        self.part.shard(self.finished.len(), &self.folder)
    }

    fn finish(mut self) -> Result<Vec<ShardEntry>, CorpusError> {
        self.finish_shard()?;
        match self.examples.left_out {
            _ if !self.finished.is_empty() => Ok(self.finished),
            0 => Err(CorpusError::NoDocuments { part: self.part }),
            left_out => Err(CorpusError::NothingToLearn { part: self.part, left_out }),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;
    use std::collections::HashSet;

    use lns_testing::vocabularies::byte_level;
    use proptest::prelude::*;
    use tempfile::{TempDir, tempdir};

    use super::*;
    use crate::Tokens;
    use crate::corpus::tests::words;
    use crate::tiny::build;

    /// [`prepare_documents`] with small shards.
    pub(crate) fn prepare_small(
        documents: &[(Part, &str)],
        tokenizer: &Tokenizer,
        limits: Limits,
        shard_bytes: u64,
        place: &Path,
    ) -> Result<Corpus, CorpusError> {
        let mut preparation =
            Preparation::new(tokenizer, limits, None, place, &|_| ControlFlow::Continue(()))?;
        preparation.train.shard_bytes = shard_bytes;
        preparation.validation.shard_bytes = shard_bytes;
        for (part, text) in documents {
            preparation.begin(*part, true);
            let mut document = Whole::new((*text).to_owned());
            while let Some(piece) = document.next_piece(place, tokenizer.cut())? {
                preparation.add(piece)?;
            }
        }
        preparation.finish("a test".to_owned())
    }

    /// An example: its text and the bytes that are learned.
    pub(crate) type Marked = (Part, String, Vec<Range<usize>>);

    /// Examples of which only some of the text is learned, in small shards.
    pub(crate) fn prepare_marked(
        examples: &[Marked],
        tokenizer: &Tokenizer,
        responses: Responses,
        limits: Limits,
        place: &Path,
    ) -> Result<Corpus, CorpusError> {
        let mut preparation = Preparation::new(tokenizer, limits, Some(responses), place, &|_| {
            ControlFlow::Continue(())
        })?;
        preparation.train.shard_bytes = 40;
        for (part, text, learned) in examples {
            preparation.begin(*part, true);
            let learned = Some(learned.clone());
            preparation.add(Piece { text: text.clone(), continues: false, id: None, learned })?;
        }
        preparation.finish("a test".to_owned())
    }

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "one span is learned")]
    fn a_token_is_learned_if_all_of_it_lies_in_a_span() {
        let encoding = |bytes: &[u32]| Encoding { ids: vec![7; bytes.len()], bytes: bytes.into() };
        let learned = |bytes: &[u32], spans: &[Range<usize>]| {
            let ids = marked(encoding(bytes), spans).ids;
            assert!(ids.iter().all(|id| id & !UNLEARNED == 7));
            ids.iter().map(|id| id & UNLEARNED == 0).collect::<Vec<_>>()
        };
        let (no, yes) = (false, true);
        assert_eq!(learned(&[2, 2, 2, 2], &[2..4, 6..8]), [no, yes, no, yes]);
        assert_eq!(learned(&[3, 1, 2, 2], &[2..6]), [no, yes, yes, no], "one straddles the start");
        assert_eq!(learned(&[2, 3, 1], &[1..4]), [no, no, no], "and one the end");
        // A character in three tokens: only the first has bytes.
        assert_eq!(learned(&[4, 0, 0, 1], &[4..5]), [no, no, no, yes]);
        assert_eq!(learned(&[1, 4, 0, 0, 1], &[1..5]), [no, yes, yes, yes, no]);
        assert_eq!(learned(&[1, 1], &[]), [no, no]);
        assert_eq!(learned(&[0, 1, 1], &[0..2]), [no, yes, yes], "nothing predicts the first");
    }

    #[test]
    fn examples_are_counted_and_what_teaches_nothing_is_left_out() {
        let folder = tempdir().unwrap();
        let tokenizer = words(&["a", "b", "c"], 3);
        let example =
            |part, text: &str, learned: Range<usize>| (part, text.to_owned(), vec![learned]);
        let (train, held_out) = (Part::Train, Part::Validation);
        let examples = [
            example(train, "a b c", 1..5),
            example(train, "a", 0..1),
            example(train, "a b c a b c", 8..11),
            example(held_out, "a b c a b c", 4..11),
            example(train, "c c", 1..3),
        ];
        let prepare = |name: &str, examples: &[Marked], learn_end_of_text, train| {
            let responses = Responses { sequence_length: 4, learn_end_of_text };
            let limits = Limits { train, validation: None };
            let place = folder.path().join(name);
            prepare_marked(examples, &tokenizer, responses, limits, &place)
        };
        let corpus = prepare("1", &examples, true, None).unwrap();
        assert!(corpus.learns_responses_only());
        assert_eq!(
            corpus.description(),
            "a test, 6 tokens of responses to learn in 3 examples (1 longer than 4 tokens and cut \
             there, 2 left out with nothing to learn before it): 7 tokens of 2 documents to train \
             on, 7 tokens of 1 document held out"
        );
        assert_eq!(documents(corpus.tokens(train)), [vec![0, 1, 2, 3], vec![2, 2, 3]]);
        let unlearned_end = prepare("2", &examples, false, None).unwrap();
        assert!(unlearned_end.description().contains("4 tokens of responses"));
        assert_eq!(documents(unlearned_end.tokens(train)), documents(corpus.tokens(train)));
        assert_ne!(unlearned_end.fingerprint(), corpus.fingerprint());

        // An example is whole or not there.
        for (limit, kept) in [(4, 1), (6, 1), (7, 2)] {
            let corpus = prepare(&format!("limit {limit}"), &examples, true, Some(limit)).unwrap();
            assert_eq!(documents(corpus.tokens(train)).len(), kept, "{limit}");
        }
        let message = prepare("3", &examples, true, Some(3)).unwrap_err().to_string();
        assert!(message.contains("first example for train has 4 tokens and 3 are allowed"));
        let message = prepare("4", &examples[1..4], true, None).unwrap_err().to_string();
        assert!(message.contains("all 2 examples for train are left out"), "{message}");
    }

    /// The texts of a part's documents, as token ids.
    fn documents(tokens: &Tokens) -> Vec<Vec<u32>> {
        let read = |index| {
            let mut ids = Vec::new();
            tokens.read(tokens.document(index), &mut ids);
            ids
        };
        (0..tokens.documents()).map(read).collect()
    }

    /// Files of jsonl in a folder, one for each list of texts.
    fn files(contents: &[&[String]]) -> (TempDir, Vec<PathBuf>) {
        let folder = tempdir().unwrap();
        let write = |(index, texts): (usize, &&[String])| {
            let path = folder.path().join(format!("{index}.jsonl"));
            let line = |text: &String| serde_json::json!({ "text": text }).to_string() + "\n";
            fs::write(&path, texts.iter().map(line).collect::<String>()).unwrap();
            path
        };
        let paths = contents.iter().enumerate().map(write).collect();
        (folder, paths)
    }

    fn options(validation: Validation) -> PrepareOptions {
        PrepareOptions { validation, max_train_tokens: None, max_validation_tokens: None }
    }

    fn encoded(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
        let mut ids = tokenizer.encode(text).unwrap().ids;
        ids.push(tokenizer.end_of_text_id().unwrap());
        ids
    }

    /// A text of so many sentences, each different.
    fn sentences(first: usize, count: usize) -> String {
        (first..first + count).map(|number| format!("The river rose {number} times. ")).collect()
    }

    #[test]
    fn of_few_documents_the_end_of_each_is_held_out_and_nothing_is_in_both_parts() {
        let tokenizer = build(&byte_level("smollm"));
        // The second document has several pieces, and the third is the first again.
        let texts = [sentences(0, 8000), sentences(8000, 9000), sentences(0, 8000)];
        for (count, said) in [(1, "1 document"), (3, "each of 3 documents")] {
            let (folder, paths) = files(&[&texts[..1], &texts[1..count]]);
            let share = options(Validation::Share(0.05));
            let place = folder.path().join("few");
            let corpus =
                prepare(&paths, &tokenizer, &share, &place, &|_| ControlFlow::Continue(()))
                    .unwrap();
            let said = format!("the last 5 % of {said} held out");
            assert!(corpus.description().contains(&said), "{}", corpus.description());
            let decode = |ids: Vec<u32>| tokenizer.decode(&ids[..ids.len() - 1]).unwrap();
            let [train, held_out] = [Part::Train, Part::Validation]
                .map(|part| documents(corpus.tokens(part)).into_iter().map(decode));
            let together: Vec<_> = train.zip(held_out).collect();
            assert_eq!(together.len(), count);
            for (text, (train, held_out)) in texts.iter().zip(together) {
                assert_eq!(format!("{train} {held_out}"), *text);
                let part = held_out.len() as f64 / text.len() as f64;
                assert!((0.05..0.051).contains(&part), "{part}");
            }
        }
    }

    #[test]
    fn of_a_short_text_enough_is_held_out_to_measure_on_and_a_quarter_of_a_very_short_one() {
        let tokenizer = build(&byte_level("smollm"));
        for (count, percent) in [(2000, "15"), (20, "25")] {
            let (folder, paths) = files(&[&[sentences(0, count)]]);
            let share = options(Validation::Share(0.05));
            let place = folder.path().join("short");
            let corpus =
                prepare(&paths, &tokenizer, &share, &place, &|_| ControlFlow::Continue(()))
                    .unwrap();
            let said = format!("0.jsonl, the last {percent} % of 1 document held out: ");
            assert!(corpus.description().starts_with(&said), "{}", corpus.description());
            for part in [Part::Train, Part::Validation] {
                assert_eq!(corpus.tokens(part).documents(), 1, "{part}");
            }
        }
    }

    #[test]
    fn a_text_too_short_for_two_parts_is_refused_with_what_it_lacks() {
        let tokenizer = build(&byte_level("smollm"));
        let folder = tempdir().unwrap();
        let refused = |text: &str, limit: Option<u64>| {
            let path = folder.path().join("short.txt");
            fs::write(&path, text).unwrap();
            let share = options(Validation::Share(0.05));
            let share = PrepareOptions { max_train_tokens: limit, ..share };
            let place = folder.path().join("corpus");
            prepare(&[path], &tokenizer, &share, &place, &|_| ControlFlow::Continue(()))
                .unwrap_err()
                .to_string()
        };
        let short = refused("a\n", None);
        assert!(short.starts_with("the text has 2 bytes, too few"), "{short}");
        assert!(short.contains("give 32 KiB or more"), "{short}");
        assert!(refused("a", None).starts_with("the text has 1 byte,"));
        assert!(
            refused("", None).contains("no text in ") && refused("", None).ends_with("short.txt")
        );
        let limited = refused(&sentences(0, 50), Some(1));
        assert!(limited.contains("allow 2 tokens or more"), "{limited}");
    }

    #[test]
    fn text_that_cannot_be_cut_is_split_at_white_space_or_between_two_characters() {
        let cut = Some(Cut::Split);
        assert_eq!(place_to_split("one two three", 9, cut), 7);
        assert_eq!(place_to_split("one two three", 7, None), 3);
        assert_eq!(place_to_split("ééé", 3, None), 2);
        assert_eq!(place_to_split("one", 0, cut), 0);
    }

    #[test]
    fn from_as_many_documents_on_as_a_share_of_them_is_one_whole_documents_are_held_out() {
        let tokenizer = build(&byte_level("smollm"));
        let texts: Vec<String> = (0..20).map(|number| sentences(50 * number, 50)).collect();
        for count in [19, 20] {
            let (folder, paths) = files(&[&texts[..count]]);
            let share = options(Validation::Share(0.05));
            let place = folder.path().join("corpus");
            let corpus =
                prepare(&paths, &tokenizer, &share, &place, &|_| ControlFlow::Continue(()))
                    .unwrap();
            let [train, held_out] =
                [Part::Train, Part::Validation].map(|part| corpus.tokens(part).documents());
            if count == 19 {
                assert_eq!((train, held_out), (19, 19));
            } else {
                assert_eq!(train + held_out, 20);
                assert!(!corpus.description().contains("the last"), "{}", corpus.description());
            }
        }
    }

    #[test]
    fn a_single_example_is_not_cut_in_two() {
        let tokenizer = build(&byte_level("smollm"));
        let (folder, paths) = files(&[]);
        assert!(paths.is_empty());
        let file = folder.path().join("one.jsonl");
        fs::write(&file, "{\"prompt\": \"a\", \"response\": \" b\"}\n").unwrap();
        let corpus = options(Validation::Share(0.05));
        let options = crate::InstructionOptions { corpus, sequence_length: 16 };
        let place = folder.path().join("corpus");
        let error =
            crate::prepare_instructions(&[file], &tokenizer, None, &options, &place, &|_| {
                ControlFlow::Continue(())
            });
        assert!(error.unwrap_err().to_string().contains("name files to hold out"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn no_document_is_in_both_parts_and_none_is_lost(
            texts in prop::collection::vec("[a-z]{1,2}", 40..80), share in 0.2..0.8,
        ) {
            let (folder, files) = files(&[&texts[..20], &texts[20..]]);
            let tokenizer = build(&byte_level("smollm"));
            let options = options(Validation::Share(share));
            let place = folder.path().join("corpus");
            let corpus = prepare(&files, &tokenizer, &options, &place, &|_| ControlFlow::Continue(())).unwrap();
            let [train, held_out] = [Part::Train, Part::Validation].map(|part| documents(corpus.tokens(part)));
            let held_out_set: HashSet<_> = held_out.iter().collect();
            prop_assert!(!train.iter().any(|document| held_out_set.contains(document)));
            let mut all = [train, held_out].concat();
            let mut expected: Vec<_> = texts.iter().map(|text| encoded(&tokenizer, text)).collect();
            all.sort();
            expected.sort();
            prop_assert_eq!(all, expected);
        }
    }

    #[test]
    fn about_the_share_is_held_out_whatever_the_files_and_the_tokenizer() {
        let texts: Vec<String> = (0..2000).map(|number| format!("a {number}")).collect();
        let (folder, paths) = files(&[&texts]);
        let reversed: Vec<String> = texts.iter().rev().cloned().collect();
        let (_other, other_paths) = files(&[&reversed[..700], &reversed[700..]]);
        let held_out = |name: &str, paths: &[PathBuf], pre: &str| {
            let tokenizer = build(&byte_level(pre));
            let options = options(Validation::Share(0.1));
            let place = folder.path().join(name);
            let corpus =
                prepare(paths, &tokenizer, &options, &place, &|_| ControlFlow::Continue(()))
                    .unwrap();
            let decode = |ids: Vec<u32>| tokenizer.decode(&ids[..ids.len() - 1]).unwrap();
            documents(corpus.tokens(Part::Validation)).into_iter().map(decode).collect::<Vec<_>>()
        };
        let first = held_out("1", &paths, "smollm");
        // 2000 draws at 0.1: five standard deviations are 67.
        assert!(first.len().abs_diff(200) < 67, "{}", first.len());
        let mut second = held_out("2", &other_paths, "qwen2");
        second.reverse();
        assert_eq!(first, second);
    }

    #[test]
    fn documents_that_are_held_out_are_left_out_of_training() {
        let texts = ["a", "b", "c", "b", "a b", "held out"].map(str::to_owned);
        let (folder, paths) = files(&[&texts, &["b".to_owned(), "held out".to_owned()]]);
        let book = folder.path().join("book.txt");
        fs::write(&book, "c").unwrap();
        let tokenizer = build(&byte_level("smollm"));
        let options = options(Validation::Files(vec![paths[1].clone(), book.clone()]));
        let place = folder.path().join("corpus");
        let train = [paths[0].clone(), book, paths[1].clone()];
        let corpus =
            prepare(&train, &tokenizer, &options, &place, &|_| ControlFlow::Continue(())).unwrap();
        let expected =
            |texts: &[&str]| texts.iter().map(|text| encoded(&tokenizer, text)).collect::<Vec<_>>();
        assert_eq!(documents(corpus.tokens(Part::Train)), expected(&["a", "a b"]));
        assert_eq!(documents(corpus.tokens(Part::Validation)), expected(&["b", "held out", "c"]));
        assert!(
            corpus.description().starts_with("0.jsonl and 2 more files and, held out, 1.jsonl")
        );
    }

    #[test]
    fn made_documents_are_in_the_part_they_were_first_in() {
        let folder = tempdir().unwrap();
        let tokenizer = words(&["a", "b", "c"], 3);
        let (train, held_out) = (Part::Train, Part::Validation);
        let made = [(train, "a"), (held_out, "a"), (held_out, "b"), (train, "b"), (train, "a")];
        let made = made.map(|(part, text)| (part, text.to_owned()));
        let place = folder.path().join("deep/corpus");
        let limits = Limits::default();
        let corpus =
            prepare_documents(&mut made.into_iter(), "made", &tokenizer, limits, &place, &|_| {
                ControlFlow::Continue(())
            });
        let corpus = corpus.unwrap();
        assert_eq!(documents(corpus.tokens(train)), [[0, 3], [0, 3]]);
        assert_eq!(documents(corpus.tokens(held_out)), [[1, 3]]);
    }

    #[test]
    fn a_preparation_that_is_asked_to_stop_leaves_nothing() {
        let folder = tempdir().unwrap();
        let tokenizer = words(&["a", "b", "c"], 3);
        let place = folder.path().join("corpus");
        let mut made = (0..10).map(|_| (Part::Train, "a b c".to_owned()));
        let stop = |_: u64| ControlFlow::Break(());
        let limits = Limits::default();
        let stopped = prepare_documents(&mut made, "made", &tokenizer, limits, &place, &stop);
        assert!(matches!(stopped, Err(CorpusError::Stopped)));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn limits_cut_the_last_document_and_end_the_reading() {
        let folder = tempdir().unwrap();
        let tokenizer = words(&["a", "b", "c"], 3);
        let made = Cell::new(0);
        let mut endless = (0..).map(|number| {
            made.set(made.get() + 1);
            let part = if number % 2 == 0 { Part::Train } else { Part::Validation };
            (part, format!("a b c {}", "b ".repeat(number)))
        });
        let limits = Limits { train: Some(9), validation: Some(6) };
        let told = Cell::new(0);
        let progress = |tokens| {
            told.set(tokens);
            ControlFlow::Continue(())
        };
        let place = folder.path().join("corpus");
        let corpus =
            prepare_documents(&mut endless, "made", &tokenizer, limits, &place, &progress).unwrap();
        let train = documents(corpus.tokens(Part::Train));
        assert_eq!(train, [vec![0, 1, 2, 3], vec![0, 1, 2, 1, 3]]);
        assert_eq!(corpus.tokens(Part::Train).bytes(), 6 + 7);
        assert_eq!(documents(corpus.tokens(Part::Validation)), [[0, 1, 2, 1, 3]]);
        assert_eq!(told.get(), 9 + 5);
        assert!(made.get() < 20, "{}", made.get());
    }

    #[test]
    fn a_document_of_many_pieces_is_one_document() {
        let text = "The river rose in the night. ".repeat(20_000);
        let (folder, paths) = files(&[&["b".to_owned(), text.clone()], &["a".to_owned()]]);
        let tokenizer = build(&byte_level("smollm"));
        let options = options(Validation::Files(vec![paths[1].clone()]));
        let place = folder.path().join("corpus");
        let corpus =
            prepare(&paths[..1], &tokenizer, &options, &place, &|_| ControlFlow::Continue(()))
                .unwrap();
        let train = documents(corpus.tokens(Part::Train));
        assert_eq!(train, [encoded(&tokenizer, "b"), encoded(&tokenizer, &text)]);
        assert_eq!(corpus.tokens(Part::Train).bytes(), text.len() as u64 + 1);
    }

    #[test]
    fn nothing_is_left_of_a_preparation_that_failed() {
        let (folder, paths) = files(&[&["a".to_owned()], &["b".to_owned()]]);
        let tokenizer = build(&byte_level("smollm"));
        let place = folder.path().join("corpus");
        let fails = |text: &[PathBuf], validation: Validation, tokenizer: &Tokenizer| {
            let error = prepare(text, tokenizer, &options(validation), &place, &|_| {
                ControlFlow::Continue(())
            })
            .unwrap_err();
            assert_eq!(folder.path().read_dir().unwrap().count(), 3, "{error}");
            error.to_string()
        };
        let bad = folder.path().join("bad.jsonl");
        fs::write(&bad, "{\"text\": \"c\"}\nbad").unwrap();
        let held_out = || Validation::Files(vec![paths[1].clone()]);
        let message = fails(&[paths[0].clone(), bad.clone()], held_out(), &tokenizer);
        assert!(message.contains("bad.jsonl, line 2"), "{message}");
        let message = fails(&paths[1..], held_out(), &tokenizer);
        assert!(message.contains("nothing is left to train on: every document of "), "{message}");
        assert!(message.contains("1.jsonl is also held out"), "{message}");
        for share in [0.0, 1.0, -1.0, f64::NAN] {
            let message = fails(&paths, Validation::Share(share), &tokenizer);
            assert!(message.contains("above 0 and below 1"), "{message}");
        }
        let mut gguf = byte_level("smollm");
        gguf.tokens[0] = "<|other|>".to_owned();
        gguf.eos_token_id = None;
        let message = fails(&paths[..1], held_out(), &build(&gguf));
        assert!(message.contains("no end-of-text token"), "{message}");

        fs::remove_file(bad).unwrap();
        prepare(&paths[..1], &tokenizer, &options(held_out()), &place, &|_| {
            ControlFlow::Continue(())
        })
        .unwrap();
        let message = fails(&paths[..1], held_out(), &tokenizer);
        assert!(message.contains("corpus: already there"), "{message}");
    }
}
