//! The specification of a model: enough to name and shape every tensor and to run it.

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    Branch, Depth, Family, LayerIndex, ModelTensor, NormScheme, Role, RopeScaling, RopeSpec, Site,
    Sites, SpecError,
};

/// The gate's activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// x·σ(x), which makes the gated MLP a SwiGLU.
    Silu,
}

/// Parameters by part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ParameterCount {
    /// The token embedding.
    pub embedding: u64,
    /// Every tensor of every layer.
    pub layers: u64,
    /// The final norm and norms outside layers.
    pub norms: u64,
    /// The output head; 0 when it is tied to the embedding.
    pub head: u64,
}

impl ParameterCount {
    /// The number of all parameters, each counted once.
    pub const fn total(&self) -> u64 {
        self.embedding + self.layers + self.norms + self.head
    }
}

/// What one layer has of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LayerSpec {
    /// The depth it was trained at; ℓ = i + 1 unless the model was pruned.
    pub depth: Depth,
    /// Which of its two branches it has: both unless one was pruned.
    pub branches: Sites,
    /// How many tokens back its attention sees; `None` is all.
    pub attention_window: Option<usize>,
}

impl LayerSpec {
    /// The layers of a model that was not pruned: depths 1..=layers, both branches, no window.
    pub fn unpruned(layers: usize) -> Vec<Self> {
        (0..layers)
            .map(|layer| Self {
                depth: LayerIndex::new(layer).depth(),
                branches: Sites::BOTH,
                attention_window: None,
            })
            .collect()
    }
}

/// What a decoder-only language model is.
///
/// Fields carry the names of `config.json`. Read one with [`ModelSpec::from_config`], make one from
/// a [`Preset`](crate::Preset) or a literal, and check it with [`ModelSpec::validate`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelSpec {
    /// The family, which decides defaults and the names of tensors.
    pub family: Family,
    /// Rows of the embedding and of the head.
    pub vocab_size: usize,
    /// Features of the stream.
    pub hidden_size: usize,
    /// Features inside the MLP.
    pub intermediate_size: usize,
    /// Layers of this checkpoint.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key/value heads; divides the query heads.
    pub num_key_value_heads: usize,
    /// Features of a head; even.
    pub head_dim: usize,
    /// Context the model was trained for, in tokens.
    pub max_position_embeddings: usize,
    /// Epsilon inside every norm's square root.
    pub rms_norm_eps: f64,
    /// Rotary embedding.
    pub rope: RopeSpec,
    /// Bias on q, k, v.
    pub qkv_bias: bool,
    /// Bias on the attention's output projection.
    pub attention_output_bias: bool,
    /// Bias on the MLP's three projections.
    pub mlp_bias: bool,
    /// RMS norm on each head of q and k before the rotation.
    pub qk_norm: bool,
    /// The activation of the gate in every MLP.
    pub hidden_act: Activation,
    /// Whether the head is the embedding, transposed.
    pub tie_word_embeddings: bool,
    /// RMS norm with a gain between the embedding and layer 0, whatever the scheme; `peri` has one
    /// of its own accord.
    pub embedding_norm: bool,
    /// The norm scheme of the whole model.
    pub norm_scheme: NormScheme,
    /// What each layer has of its own, first to last.
    pub per_layer: Vec<LayerSpec>,
    /// Layers the model was trained with: the L of the schemes.
    pub trained_layers: usize,
    /// Keys of `config.json` that mean nothing here, kept to be written back.
    #[serde(skip)]
    pub other_keys: Map<String, Value>,
}

impl ModelSpec {
    /// All layers, first to last.
    pub fn layers(&self) -> impl ExactSizeIterator<Item = LayerIndex> + use<> {
        (0..self.num_hidden_layers).map(LayerIndex::new)
    }

    /// What the branch at `site` of `layer` does with the stream.
    pub fn branch(&self, layer: LayerIndex, site: Site) -> Branch {
        let own = self.per_layer.get(layer.get());
        let depth = own.map_or_else(|| layer.depth(), |layer| layer.depth);
        self.norm_scheme.branch(depth, self.trained_layers, site)
    }

    /// Whether `layer` has the branch of `site`.
    pub fn has_branch(&self, layer: LayerIndex, site: Site) -> bool {
        self.per_layer.get(layer.get()).is_none_or(|layer| layer.branches.contains(site))
    }

    /// Whether no layer lacks a branch.
    pub fn has_all_branches(&self) -> bool {
        self.per_layer.iter().all(|layer| layer.branches == Sites::BOTH)
    }

    /// Whether the model has all the layers it was trained with.
    pub fn is_unpruned(&self) -> bool {
        self.trained_layers == self.num_hidden_layers
            && self.layers().zip(&self.per_layer).all(|(index, layer)| layer.depth == index.depth())
    }

    /// For each layer, how many tokens back its attention sees.
    pub fn windows(&self) -> impl ExactSizeIterator<Item = Option<usize>> {
        self.per_layer.iter().map(|layer| layer.attention_window)
    }

    /// Gives each layer its window.
    pub(crate) fn set_windows(&mut self, windows: Vec<Option<usize>>) {
        for (layer, window) in self.per_layer.iter_mut().zip(windows) {
            layer.attention_window = window;
        }
    }

    /// Whether the embedding has a norm of its own (`model.embed_norm.weight`).
    pub fn norms_embedding(&self) -> bool {
        self.embedding_norm || self.norm_scheme.norms_embedding()
    }

    /// Whether every branch is the family's own and no layer lacks one, so that a runtime that knows
    /// nothing of schemes computes the right function.
    pub fn is_stock(&self) -> bool {
        self.norm_scheme == self.family.own_scheme()
            && !self.embedding_norm
            && self.has_all_branches()
    }

    /// Features of all query heads together.
    pub const fn query_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Features of all key (or value) heads together.
    pub const fn key_value_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Checks every relation between the fields.
    ///
    /// # Errors
    /// [`SpecError::Invalid`] or [`SpecError::Inconsistent`], naming the key.
    pub fn validate(&self) -> Result<(), SpecError> {
        let sizes = [
            ("vocab_size", self.vocab_size, 1 << 24),
            ("hidden_size", self.hidden_size, 1 << 20),
            ("intermediate_size", self.intermediate_size, 1 << 22),
            ("num_hidden_layers", self.num_hidden_layers, 1 << 12),
            ("num_attention_heads", self.num_attention_heads, 1 << 12),
            ("num_key_value_heads", self.num_key_value_heads, 1 << 12),
            ("head_dim", self.head_dim, 1 << 12),
            ("max_position_embeddings", self.max_position_embeddings, 1 << 30),
        ];
        for (key, value, limit) in sizes {
            if value == 0 || value > limit {
                return Err(SpecError::Invalid {
                    key: key.to_owned(),
                    value: value.to_string(),
                    expected: format!("a number from 1 to {limit}"),
                });
            }
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return Err(SpecError::Inconsistent {
                what: format!(
                    "`num_attention_heads` ({}) is not a multiple of `num_key_value_heads` ({})",
                    self.num_attention_heads, self.num_key_value_heads
                ),
            });
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(SpecError::Invalid {
                key: "head_dim".to_owned(),
                value: self.head_dim.to_string(),
                expected: "an even number, because the rotary embedding turns pairs".to_owned(),
            });
        }
        if !(self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0) {
            return Err(SpecError::Invalid {
                key: "rms_norm_eps".to_owned(),
                value: self.rms_norm_eps.to_string(),
                expected: "a number between 0 and 1".to_owned(),
            });
        }
        if let RopeScaling::LongRope { short_factor, long_factor, .. } = &self.rope.scaling {
            for (key, list) in [("short_factor", short_factor), ("long_factor", long_factor)] {
                if list.len() != self.head_dim / 2 {
                    return Err(SpecError::Inconsistent {
                        what: format!(
                            "`{key}` of `rope_scaling` has {} numbers for heads of {} features; it \
                             needs {}",
                            list.len(),
                            self.head_dim,
                            self.head_dim / 2
                        ),
                    });
                }
            }
        }
        if !(self.rope.theta > 1.0 && self.rope.theta.is_finite()) {
            return Err(SpecError::Invalid {
                key: "rope_theta".to_owned(),
                value: self.rope.theta.to_string(),
                expected: "a finite number above 1".to_owned(),
            });
        }
        if self.per_layer.len() != self.num_hidden_layers {
            return Err(SpecError::Inconsistent {
                what: format!(
                    "there are {} descriptions of layers for {} layers",
                    self.per_layer.len(),
                    self.num_hidden_layers
                ),
            });
        }
        let mut depths = self.per_layer.iter().map(|layer| layer.depth);
        if let Some(depth) = depths.find(|depth| depth.get() as usize > self.trained_layers) {
            return Err(SpecError::Inconsistent {
                what: format!(
                    "`layer_depths` names depth {depth}, beyond the {} trained layers",
                    self.trained_layers
                ),
            });
        }
        if !self.per_layer.windows(2).all(|pair| pair[0].depth < pair[1].depth) {
            return Err(SpecError::Inconsistent {
                what: "`layer_depths` does not increase from layer to layer".to_owned(),
            });
        }
        for layer in self.layers() {
            for site in [Site::Attention, Site::Mlp] {
                if !self.has_branch(layer, site) && !self.branch(layer, site).only_adds() {
                    return Err(SpecError::Inconsistent {
                        what: format!(
                            "`layer_branches` leaves out a branch of layer {layer} that does more to \
                             the stream than be added to it (scheme {})",
                            self.norm_scheme
                        ),
                    });
                }
            }
        }
        Ok(())
    }

    /// Parameters by part, computed from the shapes.
    pub fn parameter_count(&self) -> ParameterCount {
        let mut count = ParameterCount { embedding: 0, layers: 0, norms: 0, head: 0 };
        for tensor in self.outer_tensors() {
            let part = match tensor.id.role {
                Role::Embedding => &mut count.embedding,
                Role::Head => &mut count.head,
                _ => &mut count.norms,
            };
            *part += tensor.elements();
        }
        for layer in self.layers() {
            count.layers +=
                self.layer_tensors(layer).iter().map(ModelTensor::elements).sum::<u64>();
        }
        count
    }
}

impl fmt::Display for ModelSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {} layers × {}, MLP {}, {} heads ({} key/value) of {}, vocabulary {}, scheme {}",
            self.family.model_type(),
            self.num_hidden_layers,
            self.hidden_size,
            self.intermediate_size,
            self.num_attention_heads,
            self.num_key_value_heads,
            self.head_dim,
            self.vocab_size,
            self.norm_scheme
        )
    }
}
