//! A model made from another, on disk: retrofit, fold, unfold, prune and export, with what proves that
//! the result is what it should be.
//!
//! A [`Job`] is a conversion and what it was told. Written, it is a folder that is not in place yet:
//! it can be measured against its source, held to the [`Tolerance`] that rounding explains, and only
//! [`Written::commit`] puts it where it was to go. Dropped before that it is gone, and what was there
//! stays.
//!
//! ```no_run
//! use std::path::Path;
//!
//! use lns_checkpoint::Checkpoint;
//! use lns_convert::{Existing, Tolerance, retrofit};
//! use lns_corpus::{TextOptions, read_windows};
//! use lns_kernels::Compute;
//! use lns_model::{Layers, Retrofit};
//! use lns_spec::DepthScale;
//! use lns_tokenizer::model_tokenizer;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let source = Checkpoint::open(Path::new("SmolLM2-135M"))?;
//! let tokenizer = model_tokenizer(&source)?.ok_or("a tokenizer")?;
//! let options = TextOptions {
//!     files: vec!["book.txt".into()],
//!     window: 512,
//!     max_tokens: Some(8192),
//!     bos: false,
//!     closed: false,
//! };
//! let text = read_windows(&tokenizer, &options, source.spec().vocab_size)?;
//!
//! let job = retrofit(&source, Retrofit::Preserve, DepthScale::default())?;
//! let tolerance = Tolerance::of(&job.conversion.rounding()?);
//! let mut written = job.write(Path::new("SmolLM2-lns"), Existing::Kept, &|_| {})?;
//! let found = written.compare(&text, &Compute::on_cpu(2)?, Layers::WhereTheyFit, &|_| {})?;
//! tolerance.require(&found)?;
//! let record = written.commit()?;
//! assert_eq!(record.verb, "retrofit");
//! # Ok(())
//! # }
//! ```

mod error;
mod export;
mod job;
mod place;
mod prune;
mod scale;
mod verify;

pub use error::ConvertError;
pub use export::{GgufExport, export, export_gguf};
pub use job::{Job, SHARD_BYTES, Written};
pub use lns_record::Existing;
pub use place::{Made, PlaceError, check_place, holds};
pub use prune::{Effect, chosen_plan, effect, given_plan, prune, read_plan};
pub use scale::{fold, folded_from, retrofit, unfold};
pub use verify::{BeyondTolerance, Tolerance};
