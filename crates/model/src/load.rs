//! A checkpoint's tensors as the weights of a model.

use layernorm_scaling::Weights;
use lns_checkpoint::{Checkpoint, CheckpointError, TensorAudit};
use lns_spec::ModelTensor;

/// Why a model could not be made from a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message names its fields")]
pub enum LoadError {
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("the model has no head: it gives hidden states and predicts no token")]
    NoHead,
    #[error("{path}: the tensors are not those of its config.json\n{audit}")]
    Audit { path: String, audit: Box<TensorAudit> },
}

/// The weights that a checkpoint's files hold.
pub(crate) struct Stored<'a>(pub(crate) &'a Checkpoint);

impl Weights for Stored<'_> {
    type Error = LoadError;

    fn fetch(&mut self, tensor: &ModelTensor) -> Result<Vec<f32>, LoadError> {
        Ok(self.0.read(tensor)?)
    }
}

/// Refuses a checkpoint whose tensors are not exactly those its config asks for.
pub(crate) fn audit(checkpoint: &Checkpoint) -> Result<(), LoadError> {
    let audit = checkpoint.audit();
    if audit.is_clean() {
        Ok(())
    } else {
        let path = checkpoint.path().display().to_string();
        Err(LoadError::Audit { path, audit: Box::new(audit) })
    }
}
