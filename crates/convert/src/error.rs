use std::path::PathBuf;

use lns_checkpoint::CheckpointError;
use lns_model::LoadError;
use lns_record::RecordError;
use lns_score::ScoreError;
use lns_spec::{ConversionError, SpecError};
use lns_tokenizer::TokenizerError;

use crate::{BeyondTolerance, PlaceError};

/// Why a model was not made from another. Whatever it was, nothing is in place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message names its fields")]
pub enum ConvertError {
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Conversion(#[from] ConversionError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Score(#[from] ScoreError),
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    BeyondTolerance(#[from] BeyondTolerance),
    #[error("{path} {what}: {source}")]
    Io { path: PathBuf, what: &'static str, source: std::io::Error },
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("{plan} was made for another model ({made_for}), not for {path} ({model})")]
    OtherPlan { plan: PathBuf, made_for: String, path: PathBuf, model: String },
    #[error(
        "the tokenizer has {tokens} tokens and the embedding {rows} rows; a GGUF file needs as many of \
         one as of the other"
    )]
    TokenizerSize { tokens: usize, rows: usize },
}

impl ConvertError {
    /// Whether what was given is at fault, and not the machine or the conversion.
    pub fn is_input(&self) -> bool {
        match self {
            Self::Checkpoint(error) => error.is_input(),
            Self::Tokenizer(error) => !matches!(error, TokenizerError::Write { .. }),
            Self::Place(error) => error.is_input(),
            Self::Io { .. } | Self::BeyondTolerance(_) => false,
            Self::Spec(_)
            | Self::Conversion(_)
            | Self::Load(_)
            | Self::Score(_)
            | Self::Record(_)
            | Self::OtherPlan { .. }
            | Self::TokenizerSize { .. } => true,
        }
    }
}
