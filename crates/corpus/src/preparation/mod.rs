//! Documents to a prepared text ([`Corpus`]): tokenised in parallel, written in their order.

mod examples;
mod few;
mod instructions;
mod part_writer;
#[cfg(test)]
pub(crate) mod tests;
mod work;

use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use lns_tokenizer::Tokenizer;

pub(crate) use self::examples::{Kept, Responses};
use self::few::Few;
pub use self::instructions::{InstructionOptions, prepare_instructions};
use self::work::{Added, Preparation};
use crate::corpus::Part;
use crate::documents::{DocumentId, Piece, Pieces, Whole, text_files};
use crate::{Corpus, CorpusError};

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

/// At most how many tokens there are of documents that are made, as in [`PrepareOptions`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// At most how many tokens to train on.
    pub train: Option<u64>,
    /// At most how many tokens to hold out.
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
    /// How examples are learned, if that is what the files hold: then only responses are.
    pub(crate) responses: Option<Responses>,
}

/// Opens a file; the first piece of each document has an id.
pub(crate) type Open<'a> = dyn Fn(&Path) -> Result<Box<dyn Iterator<Item = Result<Piece, CorpusError>> + 'a>, CorpusError>
    + 'a;

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

/// Does what [`prepare`] does with documents that are made, not read. A document that was in one part is left out of
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
        if first == part {
            preparation.begin(part)
        } else {
            preparation.leave_out()
        }
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

/// Does what [`prepare_documents`] does with examples: prompts, each with the response that follows it as it is, of
/// which the response and the end-of-text token are learned. Of an example that is longer than a sequence the
/// end is kept, as of a question that is scored, so every example is there, whatever the tokenizer, and a
/// seeded order is the same for all.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_examples(
    examples: &mut dyn Iterator<Item = (Part, String, String)>,
    source: &str,
    tokenizer: &Tokenizer,
    sequence_length: usize,
    folder: &Path,
    progress: &dyn Fn(u64) -> ControlFlow<()>,
) -> Result<Corpus, CorpusError> {
    if sequence_length < 2 {
        return Err(CorpusError::WindowTooShort { window: sequence_length });
    }
    let responses = Responses { sequence_length, learn_end_of_text: true, kept: Kept::End };
    let mut preparation =
        Preparation::new(tokenizer, Limits::default(), Some(responses), folder, progress)?;
    for (part, prompt, response) in examples {
        preparation.begin(part);
        let text = prompt + &response;
        let response = text.len() - response.len()..text.len();
        preparation.add(Piece {
            text,
            continues: false,
            id: None,
            learned: Some([response].into()),
        })?;
    }
    preparation.finish(source.to_owned())
}

/// The names of files, in few words.
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
