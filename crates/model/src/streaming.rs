//! A checkpoint read one layer at a time: memory is one layer, whatever the model's size.

use burn::tensor::{Device, Tensor, TensorData};
use layernorm_scaling::{Builder, TransformerLayerWithScaling};
use lns_checkpoint::Checkpoint;
use lns_kernels::Precision;
use lns_spec::{LayerIndex, ModelSpec, Role};

use crate::{
    Head, LayerSource, LoadError,
    decoder::{final_norm, finish_embedding},
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

    fn embed_ids_at(&self, ids: &[u32], positions: &[u32]) -> Result<Tensor<3>, LoadError> {
        let spec = self.spec();
        let outer = spec.outer_tensors();
        let rows = |role: Role, rows: &[u32]| -> Result<Option<Tensor<3>>, LoadError> {
            let Some(table) = outer.iter().find(|tensor| tensor.id.role == role) else {
                return Ok(None);
            };
            let values = self.checkpoint.read_rows_f32(&table.name, &table.shape, rows)?;
            let shape = [1, rows.len(), spec.hidden_size];
            Ok(Some(Tensor::from_data(TensorData::new(values, shape), &self.device)))
        };
        let Some(stream) = rows(Role::Embedding, ids)? else {
            unreachable!("every model has an embedding")
        };
        let positions = rows(Role::PositionEmbedding, positions)?;
        let mut weights = Stored(&self.checkpoint);
        let outer = &mut Builder::outer(spec, &mut weights, &self.device);
        let norm = outer.norm(Role::EmbeddingNorm, spec.rms_norm_eps, 1.0)?;
        Ok(finish_embedding(spec, stream, positions, norm.as_ref()))
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
            softcap: spec.logits_softcap,
        })
    }
}
