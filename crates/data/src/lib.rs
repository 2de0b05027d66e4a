//! Documents to tokens to windows.
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

mod cut;
mod documents;
mod error;
mod gguf;
#[cfg(test)]
mod golden;
mod pre_tokenizer;
mod stream;
mod tokenizer;
mod windows;

pub use error::DataError;
pub use stream::StreamDecoder;
pub use tokenizer::{Encoding, Tokenizer};
pub use windows::{TextOptions, Window, Windows, read_windows};
