//! Text to tokens and back, with a model's own tokenizer, and conversations as text, with its chat
//! template.
//!
//! A [`Tokenizer`] is read from `tokenizer.json` or from inside a GGUF file, trained on text
//! ([`Tokenizer::train_bpe`]), and written in either form. It says for each token how many bytes of
//! the text it stands for, and where a long text may be cut ([`Cut`]) so that its pieces have the
//! tokens of the whole.
//!
//! ```no_run
//! use std::path::Path;
//! use lns_tokenizer::Tokenizer;
//!
//! let tokenizer = Tokenizer::from_json_file(Path::new("model/tokenizer.json"))?;
//! let encoding = tokenizer.encode("How deep is the sea?")?;
//! assert_eq!(encoding.bytes.iter().sum::<u32>(), 20);
//! assert_eq!(tokenizer.decode(&encoding.ids)?, "How deep is the sea?");
//! # Ok::<(), lns_tokenizer::TokenizerError>(())
//! ```
//!
//! Generation reads tokens one at a time ([`StreamDecoder`], [`StopStrings`]); what a model for chat
//! is asked is laid out by its [`ChatTemplate`], a stranger's program that is best rendered in a
//! process of its own ([`Rendering::Apart`]).

mod chat;
mod cut;
mod error;
mod formats;
mod guard;
mod limits;
mod stop_strings;
mod stream;
#[cfg(test)]
mod tiny;
mod tokenizer;
mod training;

pub use chat::{ChatTemplate, Message, Rendering, RenderingLimits, serve_chat_template};
pub use cut::Cut;
pub use error::TokenizerError;
pub use formats::folder::{begins_with_bos, gguf_tokenizer, write_tokenizer};
pub use formats::model_tokenizer;
pub use guard::guarded;
pub use stop_strings::StopStrings;
pub use stream::StreamDecoder;
pub use tokenizer::{Encoding, Tokenizer};
