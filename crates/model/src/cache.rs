//! The keys and values of a whole model.

use layernorm_scaling::LayerCache;

/// One cache per layer.
#[derive(Debug)]
pub struct KvCache {
    pub(crate) layers: Vec<LayerCache>,
}

impl KvCache {
    /// An empty cache for a model of `layers` layers.
    pub fn new(layers: usize) -> Self {
        Self { layers: (0..layers).map(|_| LayerCache::default()).collect() }
    }

    /// Tokens in the cache.
    pub fn len(&self) -> usize {
        // A layer whose attention was pruned caches nothing.
        self.layers.iter().map(LayerCache::len).max().unwrap_or(0)
    }

    /// Whether nothing is cached yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
