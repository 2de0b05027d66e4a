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
mod chat_process;
mod cut;
mod ending;
mod error;
mod gguf;
mod model_tokenizer;
mod pre_tokenizer;
mod stream;
#[cfg(test)]
mod tiny;
mod to_gguf;
mod tokenizer;
mod tokenizer_files;
mod tokenizer_limits;
mod train_bpe;

pub use chat::{ChatTemplate, Message};
pub use chat_process::{Rendering, RenderingLimits, serve_chat_template};
pub use cut::Cut;
pub use ending::StopStrings;
pub use error::TokenizerError;
pub use model_tokenizer::model_tokenizer;
pub use stream::StreamDecoder;
pub use tokenizer::{Encoding, Tokenizer, guarded};
pub use tokenizer_files::{gguf_tokenizer, write_tokenizer};
