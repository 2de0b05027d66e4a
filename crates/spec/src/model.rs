//! The specification of a model: enough to name and shape every tensor and to run it.

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::{Depth, LayerIndex, NormScheme, Residual, RopeSpec, Site, Sites, SpecError};

/// A model family: it fixes defaults, biases and q/k norms. DeepSeek's dense models are `llama`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Llama 1 to 3, SmolLM, DeepSeek (dense), Yi, TinyLlama
    Llama,
    /// Mistral 7B
    Mistral,
    /// Qwen 2 and 2.5: bias on q, k and v
    Qwen2,
    /// Qwen 3 (dense): norms on the heads of q and k
    Qwen3,
}

impl Family {
    /// Every family, in the order they are listed to people.
    pub const ALL: [Self; 4] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3];

    /// `model_type` of a plain Pre-LN model of this family.
    pub const fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// The class name that goes into `architectures`.
    pub const fn architecture(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }
}

/// The gate's activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// x·σ(x): SwiGLU
    Silu,
}

/// Name and shape of one tensor, as Hugging Face writes it (`[out, in]`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TensorShape {
    /// Full name, e.g. `model.layers.3.mlp.up_proj.weight`.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
}

/// Parameters by part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ParameterCount {
    /// The token embedding.
    pub embedding: u64,
    /// All layers.
    pub layers: u64,
    /// The final norm and norms outside layers.
    pub norms: u64,
    /// The output head; 0 when it is tied to the embedding.
    pub head: u64,
}

impl ParameterCount {
    /// Every parameter once.
    pub const fn total(&self) -> u64 {
        self.embedding + self.layers + self.norms + self.head
    }
}

/// What a decoder-only language model is.
///
/// Fields carry the names of `config.json`. Read one with [`ModelSpec::from_config`], make one from
/// a [`Preset`](crate::Preset) or a literal, and check it with [`ModelSpec::validate`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelSpec {
    /// Family; decides defaults, biases and q/k norms.
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
    /// Gate activation.
    pub hidden_act: Activation,
    /// Head shares the embedding's weight.
    pub tie_word_embeddings: bool,
    /// RMS norm with a gain between the embedding and layer 0, whatever the scheme; `peri` has one
    /// of its own accord.
    pub embedding_norm: bool,
    /// For each layer, how many tokens back attention sees; `None` is all.
    pub sliding_windows: Vec<Option<usize>>,
    /// Norm scheme.
    pub norm_scheme: NormScheme,
    /// For each layer, the depth it was trained at; ℓ = i + 1 unless the model was pruned.
    pub depths: Vec<Depth>,
    /// Layers the model was trained with: the L of the schemes.
    pub trained_layers: usize,
    /// For each layer, which of its two branches it has: both unless one was pruned.
    pub branches: Vec<Sites>,
    /// Keys of `config.json` that mean nothing here, kept to be written back.
    #[serde(skip)]
    pub other_keys: Map<String, Value>,
}

impl ModelSpec {
    /// Depths 1..=layers: those of a model that was not pruned.
    pub fn unpruned_depths(layers: usize) -> Vec<Depth> {
        (0..layers).map(|layer| LayerIndex::new(layer).depth()).collect()
    }

    /// All layers, first to last.
    pub fn layers(&self) -> impl ExactSizeIterator<Item = LayerIndex> + use<> {
        (0..self.num_hidden_layers).map(LayerIndex::new)
    }

    /// What the branch at `site` of `layer` does with the stream.
    pub fn residual(&self, layer: LayerIndex, site: Site) -> Residual {
        let depth = self.depths.get(layer.get()).copied().unwrap_or_else(|| layer.depth());
        self.norm_scheme.residual(depth, self.trained_layers, site)
    }

    /// Whether `layer` has the branch of `site`.
    pub fn has_branch(&self, layer: LayerIndex, site: Site) -> bool {
        self.branches.get(layer.get()).is_none_or(|branches| branches.contains(site))
    }

    /// Whether the embedding has a norm of its own (`model.embed_norm.weight`).
    pub fn norms_embedding(&self) -> bool {
        self.embedding_norm || self.norm_scheme.norms_embedding()
    }

    /// Whether a runtime that knows only Pre-LN and whole layers computes the right function.
    pub fn runs_on_stock_runtimes(&self) -> bool {
        self.norm_scheme.runs_on_stock_runtimes()
            && !self.embedding_norm
            && self.branches.iter().all(|branches| *branches == Sites::BOTH)
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
        if !(self.rope.theta > 1.0 && self.rope.theta.is_finite()) {
            return Err(SpecError::Invalid {
                key: "rope_theta".to_owned(),
                value: self.rope.theta.to_string(),
                expected: "a finite number above 1".to_owned(),
            });
        }
        let per_layer = [
            ("layer_types", self.sliding_windows.len()),
            ("layer_depths", self.depths.len()),
            ("layer_branches", self.branches.len()),
        ];
        for (key, length) in per_layer {
            if length != self.num_hidden_layers {
                return Err(SpecError::Inconsistent {
                    what: format!(
                        "`{key}` has {length} entries for {} layers",
                        self.num_hidden_layers
                    ),
                });
            }
        }
        if let Some(depth) = self.depths.iter().find(|d| d.get() as usize > self.trained_layers) {
            return Err(SpecError::Inconsistent {
                what: format!(
                    "`layer_depths` names depth {depth}, beyond the {} trained layers",
                    self.trained_layers
                ),
            });
        }
        if !self.depths.windows(2).all(|pair| pair[0] < pair[1]) {
            return Err(SpecError::Inconsistent {
                what: "`layer_depths` does not increase from layer to layer".to_owned(),
            });
        }
        self.validate_family()?;
        for layer in self.layers() {
            for site in [Site::Attention, Site::Mlp] {
                if !self.has_branch(layer, site)
                    && matches!(self.residual(layer, site), Residual::Post { .. })
                {
                    return Err(SpecError::Inconsistent {
                        what: format!(
                            "`layer_branches` leaves out a branch of layer {layer}, whose norm stands \
                             on the stream itself (scheme {})",
                            self.norm_scheme
                        ),
                    });
                }
            }
        }
        Ok(())
    }

    /// Checks that the biases, q/k norms and windows are those that `config.json` can say of the
    /// family: with others a model could be trained and written, but not read again.
    fn validate_family(&self) -> Result<(), SpecError> {
        let family = self.family;
        let both_or_none = self.qkv_bias == self.attention_output_bias;
        let (attention_biases, mlp_bias, qk_norm) = match family {
            Family::Llama => (both_or_none, true, false),
            Family::Mistral => (!self.qkv_bias && !self.attention_output_bias, false, false),
            Family::Qwen2 => (self.qkv_bias && !self.attention_output_bias, false, false),
            Family::Qwen3 => (both_or_none, false, true),
        };
        let mut windows = self.sliding_windows.clone();
        match family {
            Family::Llama => windows.retain(Option::is_some),
            Family::Mistral => windows.dedup(),
            Family::Qwen2 | Family::Qwen3 => {
                windows.retain(Option::is_some);
                windows.dedup();
            }
        }
        let window_limit = usize::from(family != Family::Llama);
        for (fits, what) in [
            (attention_biases, "the attention's biases"),
            (mlp_bias || !self.mlp_bias, "the MLP's biases"),
            (qk_norm == self.qk_norm, "norms on the heads of q and k, or none"),
            (windows.len() <= window_limit, "these sliding windows"),
        ] {
            if !fits {
                return Err(SpecError::Inconsistent {
                    what: format!(
                        "a config.json of the family {} cannot say {what}: choose another family",
                        family.model_type()
                    ),
                });
            }
        }
        Ok(())
    }

    /// Tensors of one layer, with full names.
    pub fn layer_tensors(&self, layer: LayerIndex) -> Vec<TensorShape> {
        let prefix = format!("model.layers.{layer}");
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let (queries, keys) = (self.query_size(), self.key_value_size());
        let mut tensors = Vec::with_capacity(16);
        let mut push = |name: &str, shape: &[usize]| {
            tensors.push(TensorShape { name: format!("{prefix}.{name}"), shape: shape.to_vec() });
        };
        if self.has_branch(layer, Site::Attention) {
            push("input_layernorm.weight", &[hidden]);
            for (name, out) in [("q_proj", queries), ("k_proj", keys), ("v_proj", keys)] {
                push(&format!("self_attn.{name}.weight"), &[out, hidden]);
                if self.qkv_bias {
                    push(&format!("self_attn.{name}.bias"), &[out]);
                }
            }
            if self.qk_norm {
                push("self_attn.q_norm.weight", &[self.head_dim]);
                push("self_attn.k_norm.weight", &[self.head_dim]);
            }
            push("self_attn.o_proj.weight", &[hidden, queries]);
            if self.attention_output_bias {
                push("self_attn.o_proj.bias", &[hidden]);
            }
        }
        if self.has_branch(layer, Site::Mlp) {
            push("post_attention_layernorm.weight", &[hidden]);
            for (name, out, input) in [
                ("gate_proj", inner, hidden),
                ("up_proj", inner, hidden),
                ("down_proj", hidden, inner),
            ] {
                push(&format!("mlp.{name}.weight"), &[out, input]);
                if self.mlp_bias {
                    push(&format!("mlp.{name}.bias"), &[out]);
                }
            }
        }
        let sites = [(Site::Attention, "attention"), (Site::Mlp, "mlp")];
        for (site, name) in sites.into_iter().filter(|(site, _)| self.has_branch(layer, *site)) {
            match self.residual(layer, site) {
                Residual::Sandwich => push(&format!("{name}_output_layernorm.weight"), &[hidden]),
                Residual::Learned { scalar, .. } => {
                    push(&format!("{name}_branch_scale"), &[if scalar { 1 } else { hidden }]);
                }
                Residual::Pre { .. } | Residual::Post { .. } => {}
            }
        }
        tensors
    }

    /// Tensors outside the layers.
    pub fn outer_tensors(&self) -> Vec<TensorShape> {
        let tensor = |name: &str, shape: &[usize]| TensorShape {
            name: name.to_owned(),
            shape: shape.to_vec(),
        };
        let mut tensors =
            vec![tensor("model.embed_tokens.weight", &[self.vocab_size, self.hidden_size])];
        if self.norms_embedding() {
            tensors.push(tensor("model.embed_norm.weight", &[self.hidden_size]));
        }
        tensors.push(tensor("model.norm.weight", &[self.hidden_size]));
        if !self.tie_word_embeddings {
            tensors.push(tensor("lm_head.weight", &[self.vocab_size, self.hidden_size]));
        }
        tensors
    }

    /// Every tensor a checkpoint of this model holds.
    pub fn tensors(&self) -> Vec<TensorShape> {
        let mut tensors = self.outer_tensors();
        for layer in self.layers() {
            tensors.extend(self.layer_tensors(layer));
        }
        tensors
    }

    /// Parameters by part, computed from the shapes.
    pub fn parameter_count(&self) -> ParameterCount {
        let elements = |t: &TensorShape| t.shape.iter().map(|n| *n as u64).product::<u64>();
        let mut count = ParameterCount { embedding: 0, layers: 0, norms: 0, head: 0 };
        for tensor in self.outer_tensors() {
            let part = match tensor.name.as_str() {
                "model.embed_tokens.weight" => &mut count.embedding,
                "lm_head.weight" => &mut count.head,
                _ => &mut count.norms,
            };
            *part += elements(&tensor);
        }
        for layer in self.layers() {
            count.layers += self.layer_tensors(layer).iter().map(elements).sum::<u64>();
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
