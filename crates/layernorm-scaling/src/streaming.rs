//! A checkpoint read one layer at a time: memory is one layer, whatever the model's size.

use burn::tensor::{Device, Tensor, TensorData};
use lns_checkpoint::Checkpoint;
use lns_kernels::Precision;
use lns_spec::{LayerIndex, ModelSpec};

use crate::{
    Head, LayerSource, TransformerLayerWithScaling,
    decoder::{audit, embed_norm, final_norm},
    weights::{Builder, LoadError},
};

/// Layers straight from a checkpoint's files.
#[derive(Debug)]
pub struct StreamingDecoder {
    checkpoint: Checkpoint,
    device: Device,
    precision: Precision,
}

impl StreamingDecoder {
    /// Checks that every tensor is there; reads none.
    ///
    /// # Errors
    /// [`LoadError::Audit`] when a tensor is missing, unexpected or misshapen.
    pub fn new(checkpoint: Checkpoint, device: Device) -> Result<Self, LoadError> {
        audit(&checkpoint)?;
        Ok(Self { checkpoint, device, precision: Precision::F32 })
    }

    /// With matrix products in another precision; see [`Decoder::with_precision`].
    ///
    /// [`Decoder::with_precision`]: crate::Decoder::with_precision
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }
}

impl LayerSource for StreamingDecoder {
    fn spec(&self) -> &ModelSpec {
        self.checkpoint.spec()
    }

    fn device(&self) -> Device {
        self.device.clone()
    }

    fn layers_at_once(&self) -> usize {
        1
    }

    fn embed_ids(&self, ids: &[u32]) -> Result<Tensor<3>, LoadError> {
        let spec = self.spec();
        let table = [spec.vocab_size, spec.hidden_size];
        let rows = self.checkpoint.read_rows_f32("model.embed_tokens.weight", &table, ids)?;
        let shape = [1, ids.len(), spec.hidden_size];
        let stream = Tensor::from_data(TensorData::new(rows, shape), &self.device);
        let mut weights = &self.checkpoint;
        let norm = embed_norm(spec, &mut Builder::outer(&mut weights, &self.device))?;
        Ok(match norm {
            Some(norm) => norm.forward(stream),
            None => stream,
        })
    }

    fn layer(&self, layer: LayerIndex) -> Result<TransformerLayerWithScaling, LoadError> {
        let weights = &mut &self.checkpoint;
        let layer = TransformerLayerWithScaling::build(self.spec(), layer, weights, &self.device)?;
        Ok(layer.with_precision(self.precision))
    }

    fn head(&self) -> Result<Head, LoadError> {
        let spec = self.spec();
        let mut weights = &self.checkpoint;
        let outer = &mut Builder::outer(&mut weights, &self.device);
        let name =
            if spec.tie_word_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" };
        Ok(Head {
            norm: final_norm(spec, outer)?,
            weight: outer.tensor(name, [spec.vocab_size, spec.hidden_size])?,
            precision: self.precision,
        })
    }
}
