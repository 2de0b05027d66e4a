//! A checkpoint read one layer at a time: memory is one layer, whatever the model's size, and of a mixture's
//! layer those experts that a token is sent to.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use layernorm_scaling::{Builder, TransformerLayerWithScaling, Weights};
use lns_checkpoint::Checkpoint;
use lns_kernels::Precision;
use lns_spec::{LayerIndex, ModelSpec, Role};

use crate::{
    ExpertsOnDisk, Head, LayerSource, LoadError,
    decoder::{HeadParts, finish_embedding},
    experts_on_disk::ButExperts,
    load::Stored,
    memory::room_for_experts,
};

/// Layers straight from a checkpoint's files.
#[derive(Debug)]
pub struct StreamingDecoder {
    experts: Arc<ExpertsOnDisk>,
    device: Device,
    precision: Precision,
}

impl StreamingDecoder {
    /// Checks that every tensor is there; reads none.
    ///
    /// # Errors
    /// [`LoadError::Audit`] when a tensor is missing, unexpected or misshapen.
    pub fn new(checkpoint: Checkpoint, device: Device) -> Result<Self, LoadError> {
        let experts = ExpertsOnDisk::new(Arc::new(checkpoint), device.clone(), room_for_experts())?;
        Ok(Self { experts, device, precision: Precision::F32 })
    }

    /// The experts of its layers.
    pub fn experts(&self) -> &ExpertsOnDisk {
        &self.experts
    }

    fn checkpoint(&self) -> &Checkpoint {
        self.experts.checkpoint()
    }

    fn build(
        &self,
        layer: LayerIndex,
        weights: &mut impl Weights<Error = LoadError>,
    ) -> Result<TransformerLayerWithScaling, LoadError> {
        let layer = TransformerLayerWithScaling::build(self.spec(), layer, weights, &self.device)?;
        Ok(layer.with_precision(self.precision))
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
        self.checkpoint().spec()
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
            let values = self.checkpoint().read_rows_f32(&table.name, &table.shape, rows)?;
            let shape = [1, rows.len(), spec.hidden_size];
            Ok(Some(Tensor::from_data(TensorData::new(values, shape), &self.device)))
        };
        let Some(stream) = rows(Role::Embedding, ids)? else {
            unreachable!("every model has an embedding")
        };
        let positions = rows(Role::PositionEmbedding, positions)?;
        let token_type = rows(Role::TokenTypeEmbedding, &[0])?;
        let mut weights = Stored(self.checkpoint());
        let outer = &mut Builder::outer(spec, &mut weights, &self.device);
        let norm = outer.norm(Role::EmbeddingNorm, spec.rms_norm_eps, 1.0)?;
        Ok(finish_embedding(spec, stream, positions, token_type, norm.as_ref()))
    }

    fn layer(&self, layer: LayerIndex) -> Result<TransformerLayerWithScaling, LoadError> {
        self.experts.failure()?;
        self.build(layer, &mut ButExperts(&self.experts))
    }

    fn whole_layer(&self, layer: LayerIndex) -> Result<TransformerLayerWithScaling, LoadError> {
        self.experts.failure()?;
        self.build(layer, &mut Stored(self.checkpoint()))
    }

    fn head(&self) -> Result<Head, LoadError> {
        self.experts.failure()?;
        let spec = self.spec();
        let mut weights = Stored(self.checkpoint());
        let outer = &mut Builder::outer(spec, &mut weights, &self.device);
        let parts = HeadParts::build(spec, outer)?;
        let is_tied = spec.has_head() && spec.tie_word_embeddings;
        let embedding = is_tied.then(|| outer.weight(Role::Embedding)).transpose()?;
        parts.whole(spec, self.precision, embedding).ok_or(LoadError::NoHead)
    }
}
