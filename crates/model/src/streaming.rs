//! A checkpoint read one layer at a time: memory is one layer, whatever the model's size.

use burn::tensor::{Device, Tensor, TensorData};
use layernorm_scaling::{Builder, TransformerLayerWithScaling};
use lns_checkpoint::Checkpoint;
use lns_kernels::Precision;
use lns_spec::{LayerIndex, ModelSpec, ModelTensor, Role};

use crate::{
    Head, LayerSource, LoadError,
    decoder::final_norm,
    load::{Stored, audit},
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
        let outer = spec.outer_tensors();
        let table = outer.iter().find(|tensor| tensor.id.role == Role::Embedding);
        let Some(ModelTensor { name, shape, .. }) = table else {
            unreachable!("every model has an embedding")
        };
        let rows = self.checkpoint.read_rows_f32(name, shape, ids)?;
        let shape = [1, ids.len(), spec.hidden_size];
        let stream = Tensor::from_data(TensorData::new(rows, shape), &self.device);
        let mut weights = Stored(&self.checkpoint);
        let outer = &mut Builder::outer(spec, &mut weights, &self.device);
        let norm = outer.norm(Role::EmbeddingNorm, spec.rms_norm_eps, 1.0)?;
        Ok(match norm {
            Some(norm) => norm.forward(stream),
            None => stream,
        })
    }

    fn layer(&self, layer: LayerIndex) -> Result<TransformerLayerWithScaling, LoadError> {
        let weights = &mut Stored(&self.checkpoint);
        let layer = TransformerLayerWithScaling::build(self.spec(), layer, weights, &self.device)?;
        Ok(layer.with_precision(self.precision))
    }

    fn head(&self) -> Result<Head, LoadError> {
        let spec = self.spec();
        let mut weights = Stored(&self.checkpoint);
        let outer = &mut Builder::outer(spec, &mut weights, &self.device);
        let table = if spec.tie_word_embeddings { Role::Embedding } else { Role::Head };
        Ok(Head {
            norm: final_norm(spec, outer)?,
            weight: outer.weight(table)?,
            precision: self.precision,
        })
    }
}
