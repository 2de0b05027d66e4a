//! Documents to tokens to windows and batches.
//!
//! Text files are read as documents, documents become tokens with the model's own tokenizer (its
//! `tokenizer.json`, or the one inside a GGUF file), and the tokens, with the end-of-text token
//! between documents, are cut into windows of equal length.
//!
//! ```no_run
//! use std::path::Path;
//! use lns_data::{TextOptions, Tokenizer, read_windows};
//!
//! let tokenizer = Tokenizer::from_json_file(Path::new("model/tokenizer.json"))?;
//! let options = TextOptions {
//!     files: vec!["book.txt".into()],
//!     window: 512,
//!     max_tokens: Some(2048),
//!     bos: false,
//! };
//! let text = read_windows(&tokenizer, &options, tokenizer.vocab_size())?;
//! assert_eq!(text.windows.len(), 4);
//! # Ok::<(), lns_data::DataError>(())
//! ```
//!
//! To train, a text is prepared once ([`prepare`], or [`prepare_documents`] for documents that are
//! made, such as those of the built-in [`Language`]): its documents are divided into those to learn
//! from and those held out, tokenised, and written as a [`Corpus`] that is memory-mapped from then
//! on. A [`Sampler`] says which sequences make the next batch.
//!
//! ```no_run
//! use std::path::Path;
//! use lns_data::{Layout, Part, PrepareOptions, Sampler, Tokenizer, Validation, prepare};
//!
//! let files = ["books".into()];
//! let tokenizer = Tokenizer::train_bpe(&files, 2048, 10 << 20)?;
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
//! # Ok::<(), lns_data::DataError>(())
//! ```
//!
//! Of instruction data ([`prepare_instructions`]), laid out by a model's own [`ChatTemplate`], only
//! the responses are learned: the sampler's targets are [`IGNORED`] elsewhere.

mod chat;
mod chat_process;
mod corpus;
mod cut;
mod documents;
mod ending;
mod error;
mod gguf;
#[cfg(test)]
mod golden;
mod instructions;
mod map;
mod model_tokenizer;
mod parquet_rows;
mod permutation;
mod piped;
mod pre_tokenizer;
mod prepare;
mod sampler;
mod shard;
mod stream;
mod synthetic;
mod to_gguf;
mod tokenizer;
mod tokenizer_files;
mod tokenizer_limits;
mod train_bpe;
mod windows;

pub use chat::{ChatTemplate, Message};
pub use chat_process::{Rendering, RenderingLimits, serve_chat_template};
pub use corpus::{Corpus, Part, Tokens};
pub use documents::text_files;
pub use ending::StopStrings;
pub use error::DataError;
pub use instructions::{InstructionOptions, prepare_instructions};
pub use model_tokenizer::model_tokenizer;
pub use piped::keep_piped_text;
pub use prepare::{Limits, PrepareOptions, Validation, prepare, prepare_documents};
pub use sampler::{IGNORED, Layout, Position, Sampler, Sequences, evaluation_sequences};
pub use stream::StreamDecoder;
pub use synthetic::{Answer, Document, Language};
pub use tokenizer::{Encoding, Tokenizer};
pub use tokenizer_files::{gguf_tokenizer, write_tokenizer};
pub use windows::{TextOptions, Window, Windows, read_windows};
