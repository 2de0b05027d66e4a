//! A model seen without some of its layers or branches; nothing is copied.

use burn::tensor::{Device, Tensor};
use layernorm_scaling::TransformerLayerWithScaling;
use lns_spec::{LayerIndex, ModelSpec, Removal, Site, SpecError};

use crate::{Head, LayerSource, LoadError};

/// A view of another source.
pub struct Pruned<'a> {
    source: &'a dyn LayerSource,
    spec: ModelSpec,
    kept: Vec<LayerIndex>,
}

impl<'a> Pruned<'a> {
    /// `source` without what is removed, which may be nothing.
    ///
    /// # Errors
    /// As [`ModelSpec::without`].
    pub fn new(source: &'a dyn LayerSource, removals: &[Removal]) -> Result<Self, SpecError> {
        let spec = source.spec();
        let (spec, kept) = match removals {
            [] => (spec.clone(), spec.layers().collect()),
            removals => spec.without(removals)?,
        };
        Ok(Self { source, spec, kept })
    }

    /// The index that a layer of this view has in the source.
    pub fn original(&self, layer: LayerIndex) -> LayerIndex {
        self.kept[layer.get()]
    }

    /// A layer of the source as the view has it.
    fn without_branches(
        &self,
        layer: LayerIndex,
        whole: TransformerLayerWithScaling,
    ) -> TransformerLayerWithScaling {
        let gone = |site: &Site| !self.spec.has_branch(layer, *site);
        [Site::Attention, Site::Mlp]
            .into_iter()
            .filter(gone)
            .fold(whole, TransformerLayerWithScaling::without_branch)
    }
}

impl LayerSource for Pruned<'_> {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn device(&self) -> Device {
        self.source.device()
    }

    fn layers_at_once(&self) -> usize {
        self.source.layers_at_once()
    }

    fn embed_ids_at(&self, ids: &[u32], positions: &[u32]) -> Result<Tensor<3>, LoadError> {
        self.source.embed_ids_at(ids, positions)
    }

    fn layer(&self, layer: LayerIndex) -> Result<TransformerLayerWithScaling, LoadError> {
        Ok(self.without_branches(layer, self.source.layer(self.original(layer))?))
    }

    fn whole_layer(&self, layer: LayerIndex) -> Result<TransformerLayerWithScaling, LoadError> {
        Ok(self.without_branches(layer, self.source.whole_layer(self.original(layer))?))
    }

    fn head(&self) -> Result<Head, LoadError> {
        self.source.head()
    }
}
