//! Where probes and scores get a model's layers from.

use burn::tensor::{Device, Tensor};
use layernorm_scaling::TransformerLayerWithScaling;
use lns_spec::{LayerIndex, ModelSpec};

use crate::{Decoder, Head, LoadError, ids_tensor};

/// The layers of a model, one at a time: of one that is too large for memory, or of one that is not.
pub trait LayerSource: Sync {
    /// What the model is.
    fn spec(&self) -> &ModelSpec;

    /// Where computation happens.
    fn device(&self) -> Device;

    /// How many layers it can hold at once: all of them, or one when they come from disk.
    fn layers_at_once(&self) -> usize;

    /// The stream that enters layer 0, for one sequence. \[T\] → \[1, T, H\]
    ///
    /// # Errors
    /// [`LoadError`] when the embedding cannot be read.
    fn embed_ids(&self, ids: &[u32]) -> Result<Tensor<3>, LoadError> {
        let counted: Vec<u32> = (0..ids.len() as u32).collect();
        self.embed_ids_at(ids, &counted)
    }

    /// As [`embed_ids`](Self::embed_ids), each token at a position of its own, which models that learn
    /// their positions add.
    ///
    /// # Errors
    /// [`LoadError`] when the embedding cannot be read.
    fn embed_ids_at(&self, ids: &[u32], positions: &[u32]) -> Result<Tensor<3>, LoadError>;

    /// One layer. Of a mixture on disk its experts are read when tokens are sent to them.
    ///
    /// # Errors
    /// [`LoadError`] when it cannot be read, or an expert could not be that an earlier layer needed.
    fn layer(&self, layer: LayerIndex) -> Result<TransformerLayerWithScaling, LoadError>;

    /// As [`layer`](Self::layer), all its parameters in memory: for who visits them or takes their gradients.
    ///
    /// # Errors
    /// As [`layer`](Self::layer).
    fn whole_layer(&self, layer: LayerIndex) -> Result<TransformerLayerWithScaling, LoadError> {
        self.layer(layer)
    }

    /// Final norm and head.
    ///
    /// # Errors
    /// [`LoadError`] when the model has none, they cannot be read, or an expert could not be that an earlier
    /// layer needed.
    fn head(&self) -> Result<Head, LoadError>;
}

impl LayerSource for Decoder {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn device(&self) -> Device {
        Decoder::device(self)
    }

    fn layers_at_once(&self) -> usize {
        self.layers.len()
    }

    fn embed_ids_at(&self, ids: &[u32], positions: &[u32]) -> Result<Tensor<3>, LoadError> {
        Ok(self.embed_with(ids_tensor(ids, &self.device()), positions))
    }

    fn layer(&self, layer: LayerIndex) -> Result<TransformerLayerWithScaling, LoadError> {
        Ok(self.layers[layer.get()].clone())
    }

    fn head(&self) -> Result<Head, LoadError> {
        if self.spec.has_head() { Ok(Decoder::head(self)) } else { Err(LoadError::NoHead) }
    }
}
