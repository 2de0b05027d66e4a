//! The one way to score a model: the loss on windows of text and on sequences with targets, and the
//! log-likelihood of continuations.
//!
//! ```
//! use burn::tensor::Device;
//! use lns_model::Decoder;
//! use lns_kernels::Workers;
//! use lns_score::{Request, log_likelihoods};
//! use lns_spec::{NormScheme, Preset};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let spec = Preset::named("9m").ok_or("a preset")?.spec(NormScheme::lns());
//! let model = Decoder::new(&spec, 42, &Device::default());
//! // The two choices share a context, which is computed once.
//! let requests = [vec![7, 8], vec![9]]
//!     .map(|continuation| Request { context: vec![1, 2, 3], continuation });
//! let found = log_likelihoods(&model, &requests, 16, &Workers::new(1)?, &|_| {})?;
//! assert!(found.iter().all(|found| found.log_probability < 0.0));
//! # Ok(())
//! # }
//! ```

mod compare;
mod continuations;
mod layers;
mod pass;
mod sequences;
mod tasks;
mod windows;

use lns_model::LoadError;
use lns_tokenizer::TokenizerError;

pub use compare::{Comparison, compare};
pub use continuations::{
    Likelihood, Request, WithoutLayers, log_likelihoods, log_likelihoods_without_layers,
};
pub use pass::{Pass, Sequence, counted};
pub use sequences::{HeldOut, Reference, evaluate_sequences};
pub use tasks::{Reading, score_documents, score_documents_without_layers};
pub use windows::{
    Evaluation, evaluate, paired, predicted, require_finite, targets, window_length, window_loss,
    window_losses, work,
};

/// Called with the number of layer passes over one window or request that were just finished.
pub type CountPasses<'a> = &'a (dyn Fn(u64) + Sync);

/// Why a model could not be scored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message names its fields")]
pub enum ScoreError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error("{task}, document {document}: choice {choice} {what}")]
    Choice { task: String, document: u64, choice: usize, what: String },
    #[error("an encoder sees what follows a token, so a continuation has no likelihood")]
    Encoder,
    #[error("there is no window of at least two tokens to measure on")]
    NoWindows,
    #[error(
        "{what} of window {window} is not a finite number; the checkpoint's weights are damaged or its \
         values leave the range of f32"
    )]
    NotFinite { what: String, window: usize },
    #[error(
        "request {request} has no {what}: a continuation is scored after a context of at least one \
         token, be it the one that begins a sequence"
    )]
    EmptyRequest { request: usize, what: &'static str },
    #[error(
        "the continuation of request {request} has {tokens} tokens and a window {window}: what it is \
         scored after would be lost"
    )]
    LongContinuation { request: usize, tokens: usize, window: usize },
    #[error(
        "id {id} of request {request} is not in the vocabulary of {vocabulary}: text of another \
         tokenizer?"
    )]
    OutOfVocabulary { request: usize, id: u32, vocabulary: usize },
}
