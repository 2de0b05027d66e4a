//! Documents to tokens to windows and batches.
//!
//! Text files are read as documents, documents become tokens with the model's own
//! [`Tokenizer`](lns_tokenizer::Tokenizer), and the tokens, with the end-of-text token between
//! documents, are cut into windows of equal length.
//!
//! ```no_run
//! use std::path::Path;
//! use lns_corpus::{TextOptions, read_windows};
//! use lns_tokenizer::Tokenizer;
//!
//! let tokenizer = Tokenizer::from_json_file(Path::new("model/tokenizer.json"))?;
//! let options = TextOptions {
//!     files: vec!["book.txt".into()],
//!     window: 512,
//!     max_tokens: Some(2048),
//!     bos: false,
//!     closed: false,
//! };
//! let text = read_windows(&tokenizer, &options, tokenizer.vocab_size())?;
//! assert_eq!(text.windows.len(), 4);
//! # Ok::<(), lns_corpus::CorpusError>(())
//! ```
//!
//! To train, a text is prepared once ([`prepare`], or [`prepare_documents`] for documents that are
//! made, such as those of the built-in [`Language`]): its documents are divided into those to learn
//! from and those held out, tokenised, and written as a [`Corpus`] that is memory-mapped from then
//! on. A [`Sampler`] says which sequences make the next batch.
//!
//! ```no_run
//! use std::path::Path;
//! use lns_corpus::{Layout, Part, PrepareOptions, Sampler, Validation, prepare, train_tokenizer};
//!
//! let files = ["books".into()];
//! let tokenizer = train_tokenizer(&files, 2048, 10 << 20)?;
//! let options = PrepareOptions {
//!     validation: Validation::Share(0.01),
//!     max_train_tokens: Some(3_000_000),
//!     max_validation_tokens: Some(100_000),
//! };
//! let go_on = |_: u64| std::ops::ControlFlow::Continue(());
//! let corpus = prepare(&files, &tokenizer, &options, Path::new("prepared"), &go_on)?;
//! let tokens = corpus.tokens(Part::Train).clone();
//! let sampler = Sampler::new(vec![(tokens, 1.0)], Layout::Packed, 256, 0, 0)?;
//! let mut position = sampler.start();
//! let batch = sampler.next(&mut position, 8);
//! assert_eq!(batch.inputs.len(), 8 * 256);
//! # Ok::<(), lns_corpus::CorpusError>(())
//! ```
//!
//! Of instruction data ([`prepare_instructions`]), laid out by a model's own
//! [`ChatTemplate`](lns_tokenizer::ChatTemplate), only
//! the responses are learned: the sampler's targets are [`IGNORED`](lns_spec::IGNORED) elsewhere.

mod corpus;
mod documents;
mod error;
mod language;
mod preparation;
mod rows;
mod sampling;
#[cfg(test)]
mod tiny;
mod train_tokenizer;
mod windows;

pub use corpus::{Corpus, Part, Tokens};
pub use documents::{keep_piped_text, text_files};
pub use error::CorpusError;
pub use language::{Answer, Document, Language};
pub use preparation::{
    InstructionOptions, Limits, PrepareOptions, Validation, prepare, prepare_documents,
    prepare_examples, prepare_instructions,
};
pub use rows::{Fields, Row, RowFormat, Rows};
pub use sampling::{Layout, Position, Sampler, Sequences, evaluation_sequences};
pub use train_tokenizer::train_tokenizer;
pub use windows::{TextOptions, Window, Windows, cut_windows, read_windows};
