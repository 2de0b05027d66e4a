//! The specification of a model: enough to name and shape every tensor and to run it.

use std::fmt;

use lns_show::counted;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    Block, Branch, BranchGate, Depth, ExpertsSpec, Family, LayerIndex, ModelTensor, NormScheme,
    Placement, Role, RopeScaling, RopeSpec, Site, Sites, SpecError, rope::yarn_mscale,
};

/// The MLP's activation: of the gate where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Activation {
    /// x·σ(x), which makes the gated MLP a SwiGLU.
    #[serde(rename = "silu")]
    Silu,
    /// GELU in its tanh form, ½x(1 + tanh(√(2/π)(x + 0.044715x³))): GeGLU with a gate
    #[serde(rename = "gelu_pytorch_tanh")]
    GeluTanh,
    /// GELU, x·Φ(x)
    #[serde(rename = "gelu")]
    Gelu,
}

impl Activation {
    /// What `config.json` calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Silu => "silu",
            Self::GeluTanh => "gelu_pytorch_tanh",
            Self::Gelu => "gelu",
        }
    }

    /// The activation that `config.json` calls so.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "silu" | "swish" => Self::Silu,
            "gelu_pytorch_tanh" | "gelu_new" => Self::GeluTanh,
            "gelu" => Self::Gelu,
            _ => return None,
        })
    }
}

/// What every norm of a model computes, with its gain γ and bias β.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NormKind {
    /// x/√(mean(x²) + eps)·γ
    Rms,
    /// RMS norm whose gain is stored as γ − 1, as Gemma has it.
    RmsPlusOne,
    /// (x − mean)/√(variance + eps)·γ + β
    LayerNorm,
}

/// The RMS norm on queries and keys before their rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// There is none.
    None,
    /// On each head, with one gain for all heads.
    PerHead,
    /// On all heads together, before they are split.
    FullWidth,
}

impl Serialize for QkNorm {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_bool(false),
            Self::PerHead => serializer.serialize_bool(true),
            Self::FullWidth => serializer.serialize_str("full-width"),
        }
    }
}

/// What the scores q·k are multiplied by.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttentionScale {
    /// 1/√head_dim
    HeadSize,
    /// 1/(√head_dim·ℓ), ℓ being the layer's depth
    HeadSizeAndDepth,
    /// 1/√ of this number
    InverseRoot(f64),
    /// This number
    Constant(f64),
    /// (0.1·m·ln(factor) + 1)²/√head_dim, the factor being that of YaRN (DeepSeek-V2's `mscale_all_dim`)
    Stretched {
        /// m
        mscale_all_dim: f64,
    },
}

/// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, §2.1): keys and values of all heads are made of
/// a few features of each token, perhaps queries too, and each such latent has an RMS norm of its own. A head
/// of a query or key has `head_dim` features, of which the last `rotary_dim` are turned; those of the keys are
/// made of the stream itself, once for all heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LatentSpec {
    /// Features that queries are made of; `None` is the stream's.
    pub q_lora_rank: Option<usize>,
    /// Features that keys and values are made of.
    pub kv_lora_rank: usize,
    /// Features of a head's value.
    pub v_head_dim: usize,
}

impl LatentSpec {
    /// Epsilon of the norms on latents, a constant of the reference classes whatever `rms_norm_eps` is.
    pub const NORM_EPS: f64 = 1e-6;
}

/// What a model predicts, and with that what its attention sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Prediction {
    /// The token that follows: attention sees no later token.
    NextToken,
    /// Masked tokens, from all that stands around them: an encoder with its head.
    MaskedToken,
    /// None: an encoder that gives its last hidden state, which is the stream itself.
    Nothing,
}

impl Prediction {
    /// Whether attention sees what comes after a token as well as what comes before it.
    pub const fn sees_both_ways(self) -> bool {
        match self {
            Self::NextToken => false,
            Self::MaskedToken | Self::Nothing => true,
        }
    }
}

/// By which frequencies a layer turns its queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rotary {
    /// By the model's ([`ModelSpec::rope`]).
    Main,
    /// By those of layers with a window ([`ModelSpec::local_rope`]).
    Local,
    /// By none: it sees no positions.
    None,
}

/// Parameters by part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ParameterCount {
    /// The token embedding, and those of positions and token types.
    pub embedding: u64,
    /// Every tensor of every layer.
    pub layers: u64,
    /// The final norm and norms outside layers.
    pub norms: u64,
    /// The output head; without its matrix where that is tied to the embedding.
    pub head: u64,
}

impl ParameterCount {
    /// The number of all parameters, each counted once.
    pub const fn total(&self) -> u64 {
        self.embedding + self.layers + self.norms + self.head
    }
}

/// What stands between the matrices of an MLP in the place of act(gate)·up: (u + 1)·g·σ(alpha·g), with g the
/// gate and at most the limit, u within ±limit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ClampedGate {
    /// No gate is above it, and no number that it multiplies further from 0.
    pub limit: f64,
    /// Multiplies the gate inside the sigmoid.
    pub alpha: f64,
}

/// What one layer has of its own.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LayerSpec {
    /// The depth it was trained at; ℓ = i + 1 unless the model was pruned.
    pub depth: Depth,
    /// Which of its two branches it has: both unless one was pruned.
    pub branches: Sites,
    /// How many tokens back its attention sees; `None` is all.
    pub attention_window: Option<usize>,
    /// How its queries and keys are turned.
    pub rotary: Rotary,
    /// The experts in its MLP's place; `None` is an MLP that computes every token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experts: Option<ExpertsSpec>,
}

impl LayerSpec {
    /// The layers of a model that was not pruned: depths 1..=layers, both branches, no window, the model's rotary
    /// embedding, no experts.
    pub fn unpruned(layers: usize) -> Vec<Self> {
        (0..layers)
            .map(|layer| Self {
                depth: LayerIndex::new(layer).depth(),
                branches: Sites::BOTH,
                attention_window: None,
                rotary: Rotary::Main,
                experts: None,
            })
            .collect()
    }
}

/// What a language model of one stream is: a decoder, or an encoder.
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
    /// Features of a head, in latent attention of its queries and keys; even.
    pub head_dim: usize,
    /// Context the model was trained for, in tokens.
    pub max_position_embeddings: usize,
    /// What it predicts, which decides what its attention sees and what head it has.
    pub prediction: Prediction,
    /// What every norm computes.
    pub norm: NormKind,
    /// Epsilon inside every norm's square root.
    pub rms_norm_eps: f64,
    /// A learned vector for each position is added to the token's.
    pub learned_positions: bool,
    /// Rows of the table of token types, whose first is added to every token's vector; 0 where there is none.
    pub token_types: usize,
    /// Rotary embedding.
    pub rope: RopeSpec,
    /// Rotary embedding of the layers that have [`Rotary::Local`].
    pub local_rope: Option<RopeSpec>,
    /// Features of a head that are turned, its first, in latent attention its last; even.
    pub rotary_dim: usize,
    /// Neighbouring features turn together, instead of feature j with feature j + rotary_dim/2.
    pub rotary_interleaved: bool,
    /// What queries, keys and values are made of where it is not the stream itself.
    pub latent: Option<LatentSpec>,
    /// Bias on q, k, v; in latent attention on what makes the latents.
    pub qkv_bias: bool,
    /// Bias on the attention's output projection.
    pub attention_output_bias: bool,
    /// Every softmax has the score of one thing more than its keys, learned for each head, that has no value.
    pub attention_sinks: bool,
    /// Bias on the MLP's projections, and on the routers of experts.
    pub mlp_bias: bool,
    /// RMS norm on q and k before the rotation.
    pub qk_norm: QkNorm,
    /// What multiplies the scores.
    pub attention_scale: AttentionScale,
    /// Scores s become c·tanh(s/c) before the softmax.
    pub attention_softcap: Option<f64>,
    /// The MLP is down(act(gate(x))·up(x)); without a gate, down(act(up(x))).
    pub gated_mlp: bool,
    /// The MLP's activation.
    pub hidden_act: Activation,
    /// What a gated MLP has instead.
    pub clamped_gate: Option<ClampedGate>,
    /// Both branches of a layer read the stream that enters it.
    pub parallel_branches: bool,
    /// Multiplies what the embedding gives.
    pub embedding_multiplier: f64,
    /// Multiplies each branch before it is added.
    pub residual_multiplier: f64,
    /// Divides the logits.
    pub logits_divisor: f64,
    /// Logits z become c·tanh(z/c).
    pub logits_softcap: Option<f64>,
    /// Whether the head is the embedding, transposed.
    pub tie_word_embeddings: bool,
    /// A norm with a gain between the embedding and layer 0, whatever the scheme; `peri` has one
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
        let mut branch = self.norm_scheme.branch(depth, self.trained_layers, site);
        if let BranchGate::Constant(gate) = &mut branch.gate {
            *gate *= self.residual_multiplier;
        }
        branch
    }

    /// What `layer` multiplies its scores by; `None` is the usual 1/√head_dim.
    pub fn score_scale(&self, layer: LayerIndex) -> Option<f64> {
        let own = self.per_layer.get(layer.get());
        let depth = own.map_or_else(|| layer.depth(), |layer| layer.depth);
        match self.attention_scale {
            AttentionScale::HeadSize => None,
            AttentionScale::HeadSizeAndDepth => {
                Some(1.0 / (self.head_dim as f64).sqrt() / depth.value())
            }
            AttentionScale::InverseRoot(of) => Some(1.0 / of.sqrt()),
            AttentionScale::Constant(scale) => Some(scale),
            AttentionScale::Stretched { mscale_all_dim } => {
                let factor = match self.rope.scaling {
                    RopeScaling::Yarn { factor, .. } => factor,
                    _ => 1.0,
                };
                Some(yarn_mscale(factor, mscale_all_dim).powi(2) / (self.head_dim as f64).sqrt())
            }
        }
    }

    /// How `layer` turns its queries and keys.
    pub fn rotary(&self, layer: LayerIndex) -> Rotary {
        self.per_layer.get(layer.get()).map_or(Rotary::Main, |own| own.rotary)
    }

    /// The experts of `layer`, where it has some in its MLP's place.
    pub fn experts(&self, layer: LayerIndex) -> Option<ExpertsSpec> {
        self.per_layer.get(layer.get()).and_then(|own| own.experts)
    }

    /// Whether some layer has experts.
    pub fn is_mixture(&self) -> bool {
        self.per_layer.iter().any(|layer| layer.experts.is_some())
    }

    /// What its layers have for an MLP, in a few words.
    pub fn mlp_in_words(&self) -> String {
        let dense = format!("MLP {}", self.intermediate_size);
        let mut experts = self.per_layer.iter().filter_map(|layer| layer.experts);
        let Some(first) = experts.next() else { return dense };
        let (sparse, layers) = (1 + experts.count(), self.num_hidden_layers);
        let mixture = format!(
            "{} of {}, {} for each token",
            counted(first.count, "expert"),
            first.intermediate_size,
            first.per_token
        );
        let mixture = match first.shared_intermediate_size {
            None => mixture,
            Some(inner) => format!("{mixture}, MLP {inner} beside them for all"),
        };
        if sparse == layers {
            mixture
        } else {
            format!("{mixture}, in {}, {dense} in {}", counted(sparse, "layer"), layers - sparse)
        }
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

    /// Whether it has a head and so a loss: all but an encoder that was published without one.
    pub fn has_head(&self) -> bool {
        self.prediction != Prediction::Nothing
    }

    /// Whether the embedding has a norm of its own (`model.embed_norm.weight`).
    pub fn norms_embedding(&self) -> bool {
        self.embedding_norm || self.norm_scheme.norms_embedding()
    }

    /// Whether every branch is the family's own and no layer lacks one, so that a runtime that knows
    /// nothing of schemes computes the right function.
    pub fn is_stock(&self) -> bool {
        self.norm_scheme == self.family.own_scheme()
            && self.embedding_norm == self.family.norms_embedding()
            && self.has_all_branches()
            // Elsewhere the depth is the index.
            && (self.attention_scale != AttentionScale::HeadSizeAndDepth || self.is_unpruned())
    }

    /// Features of all query heads together.
    pub const fn query_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Features of all key heads together, and in all but latent attention of all value heads.
    pub const fn key_value_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Features of what all query heads together take from the values.
    pub const fn value_size(&self) -> usize {
        match self.latent {
            None => self.query_size(),
            Some(latent) => self.num_attention_heads * latent.v_head_dim,
        }
    }

    /// Features of a head that are not turned.
    pub const fn unturned_dim(&self) -> usize {
        self.head_dim.saturating_sub(self.rotary_dim)
    }

    /// Rows that a projection has for each head.
    pub(crate) const fn rows_of_a_head(&self, role: Role) -> usize {
        match (self.latent, role) {
            (Some(_), Role::Key) => self.unturned_dim(),
            (Some(latent), Role::Value) => latent.v_head_dim,
            _ => self.head_dim,
        }
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
        let turns = self.per_layer.iter().any(|layer| layer.rotary != Rotary::None);
        if turns && self.rotary_dim == self.head_dim && !self.head_dim.is_multiple_of(2) {
            return Err(SpecError::Invalid {
                key: "head_dim".to_owned(),
                value: self.head_dim.to_string(),
                expected: "an even number, because the rotary embedding turns pairs".to_owned(),
            });
        }
        if turns
            && !(self.rotary_dim.is_multiple_of(2)
                && (2..=self.head_dim).contains(&self.rotary_dim))
        {
            return Err(SpecError::Inconsistent {
                what: format!(
                    "the rotary embedding would turn {} of a head's {} features; it turns pairs",
                    self.rotary_dim, self.head_dim
                ),
            });
        }
        self.validate_multipliers()?;
        self.validate_experts()?;
        self.latent.map_or(Ok(()), |latent| self.validate_latent(latent))?;
        if !(self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0) {
            return Err(SpecError::Invalid {
                key: "rms_norm_eps".to_owned(),
                value: self.rms_norm_eps.to_string(),
                expected: "a number between 0 and 1".to_owned(),
            });
        }
        for (key, rope) in
            [("rope_theta", Some(&self.rope)), ("rope_local_base_freq", self.local_rope.as_ref())]
        {
            rope.map_or(Ok(()), |rope| self.validate_rope(key, rope))?;
        }
        if self.local_rope.is_none()
            && self.per_layer.iter().any(|layer| layer.rotary == Rotary::Local)
        {
            let what = "a layer turns by a local rotary embedding that the model lacks".to_owned();
            return Err(SpecError::Inconsistent { what });
        }
        if self.per_layer.len() != self.num_hidden_layers {
            return Err(SpecError::Inconsistent {
                what: format!(
                    "there are descriptions of {} for {}",
                    counted(self.per_layer.len(), "layer"),
                    counted(self.num_hidden_layers, "layer")
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
        self.validate_encoder()
    }

    /// What an encoder cannot have, and only an encoder can.
    fn validate_encoder(&self) -> Result<(), SpecError> {
        let refuse = |what: &str| Err(SpecError::Inconsistent { what: what.to_owned() });
        if self.token_types > 1 << 10 {
            return Err(SpecError::Invalid {
                key: "type_vocab_size".to_owned(),
                value: self.token_types.to_string(),
                expected: "a number from 0 to 1024".to_owned(),
            });
        }
        let family = self.family.model_type();
        match (self.family.is_encoder(), self.prediction.sees_both_ways()) {
            (false, false) => return Ok(()),
            (true, true) => {}
            (true, false) => {
                let what = format!(
                    "model_type \"{family}\" is an encoder, which predicts no next token: it can be measured \
                     and pruned, but not trained, continued or asked as a decoder"
                );
                return Err(SpecError::Inconsistent { what });
            }
            (false, true) => {
                let what =
                    format!("model_type \"{family}\" is a decoder, which predicts the next token");
                return Err(SpecError::Inconsistent { what });
            }
        }
        if self.windows().any(|window| window.is_some()) {
            return refuse("attention in both directions has no window here");
        }
        if self.prediction == Prediction::MaskedToken && !self.tie_word_embeddings {
            return refuse("the head of an encoder is its embedding, transposed");
        }
        Ok(())
    }

    fn validate_rope(&self, key: &str, rope: &RopeSpec) -> Result<(), SpecError> {
        let pairs = self.rotary_dim / 2;
        if let RopeScaling::LongRope { short_factor, long_factor, .. } = &rope.scaling {
            for (key, list) in [("short_factor", short_factor), ("long_factor", long_factor)] {
                if list.len() != pairs {
                    return Err(SpecError::Inconsistent {
                        what: format!(
                            "`{key}` of `rope_scaling` has {} numbers for heads of {} features; it \
                             needs {pairs}",
                            list.len(),
                            self.rotary_dim,
                        ),
                    });
                }
            }
        }
        if rope.theta > 1.0 && rope.theta.is_finite() {
            return Ok(());
        }
        Err(SpecError::Invalid {
            key: key.to_owned(),
            value: rope.theta.to_string(),
            expected: "a finite number above 1".to_owned(),
        })
    }

    fn validate_latent(&self, latent: LatentSpec) -> Result<(), SpecError> {
        let sizes = [
            ("q_lora_rank", latent.q_lora_rank.unwrap_or(1), 1 << 20),
            ("kv_lora_rank", latent.kv_lora_rank, 1 << 20),
            ("v_head_dim", latent.v_head_dim, 1 << 12),
        ];
        for (key, value, limit) in sizes {
            if !(1..=limit).contains(&value) {
                let expected = format!("a number from 1 to {limit}");
                return Err(SpecError::Invalid {
                    key: key.to_owned(),
                    value: value.to_string(),
                    expected,
                });
            }
        }
        let fault = if self.num_key_value_heads != self.num_attention_heads {
            "each head has keys and values of its own (`num_key_value_heads`)"
        } else if self.unturned_dim() == 0 {
            "a part of each head is not turned (`qk_nope_head_dim`)"
        } else if self.norm != NormKind::Rms || self.qk_norm != QkNorm::None {
            "its norms are RMS norms, and on the latents"
        } else if self.per_layer.iter().any(|layer| layer.rotary != Rotary::Main) {
            "all layers turn by the model's rotary embedding"
        } else {
            return Ok(());
        };
        let what = format!("in latent attention {fault}");
        Err(SpecError::Inconsistent { what })
    }

    fn validate_experts(&self) -> Result<(), SpecError> {
        let mut all = 0;
        for (layer, own) in self.per_layer.iter().enumerate() {
            let Some(experts) = own.experts else { continue };
            experts.validate(layer)?;
            all += experts.count;
        }
        if all > ExpertsSpec::MOST_OF_A_MODEL {
            let what = format!(
                "all layers together have {all} experts; they can have {}",
                ExpertsSpec::MOST_OF_A_MODEL
            );
            return Err(SpecError::Inconsistent { what });
        }
        Ok(())
    }

    fn validate_multipliers(&self) -> Result<(), SpecError> {
        let scale = match self.attention_scale {
            AttentionScale::HeadSize | AttentionScale::HeadSizeAndDepth => None,
            AttentionScale::InverseRoot(of) => Some(of),
            AttentionScale::Constant(scale) => Some(scale),
            AttentionScale::Stretched { .. } => {
                if !matches!(self.rope.scaling, RopeScaling::Yarn { .. }) {
                    let what = "`mscale_all_dim` stretches the scores of YaRN alone".to_owned();
                    return Err(SpecError::Inconsistent { what });
                }
                self.score_scale(LayerIndex::new(0))
            }
        };
        for (what, number) in [
            ("the attention's scale", scale),
            ("the attention's soft-cap", self.attention_softcap),
            ("the limit of the MLP's gate", self.clamped_gate.map(|gate| gate.limit)),
            ("the factor of the MLP's gate", self.clamped_gate.map(|gate| gate.alpha)),
            ("the multiplier of the embedding", Some(self.embedding_multiplier)),
            ("the multiplier of the branches", Some(self.residual_multiplier)),
            ("the divisor of the logits", Some(self.logits_divisor)),
            ("the logits' soft-cap", self.logits_softcap),
        ] {
            // As an f32 neither nothing nor without end.
            if number.is_some_and(|number| !(1e-30..1e30).contains(&number)) {
                let number = number.unwrap_or_default();
                let what = format!("{what} is {number}; it must be a number above 0");
                return Err(SpecError::Inconsistent { what });
            }
        }
        if let NormScheme::Lns(scale) = &self.norm_scheme
            && scale.block != Block::Pre
            && scale.placement != Placement::Output
        {
            let what = "in a sandwich, LayerNorm Scaling stands on a norm's output".to_owned();
            return Err(SpecError::Inconsistent { what });
        }
        for layer in self.layers() {
            for site in [Site::Attention, Site::Mlp] {
                let branch = self.branch(layer, site);
                if self.parallel_branches && !branch.only_adds() {
                    let what = format!(
                        "branches that read the same stream can only be added to it; scheme {} does \
                         more",
                        self.norm_scheme
                    );
                    return Err(SpecError::Inconsistent { what });
                }
                if self.residual_multiplier != 1.0
                    && matches!(branch.gate, BranchGate::Learned { .. })
                {
                    let what = format!(
                        "scheme {} learns what multiplies a branch, and this model has a constant for \
                         it already",
                        self.norm_scheme
                    );
                    return Err(SpecError::Inconsistent { what });
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
                Role::Embedding | Role::PositionEmbedding | Role::TokenTypeEmbedding => {
                    &mut count.embedding
                }
                Role::Head | Role::HeadTransform | Role::HeadBias => &mut count.head,
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

impl ModelSpec {
    /// Parameters of experts that a router chooses among, of all layers.
    pub fn expert_parameters(&self) -> u64 {
        self.experts_up_to(|experts| experts.count)
    }

    /// Parameters that have a part in what becomes of one token: all but those of experts that it is not sent to.
    pub fn active_parameters(&self) -> u64 {
        let total = self.parameter_count().total();
        total - self.expert_parameters() + self.experts_up_to(|experts| experts.per_token)
    }

    /// Parameters of the first so many experts of each layer; one is as large as another.
    fn experts_up_to(&self, count: impl Fn(ExpertsSpec) -> usize) -> u64 {
        let of_layer = |layer| {
            let first = self.experts(layer).map_or(0, &count);
            let tensors = self.layer_tensors(layer).into_iter();
            tensors
                .filter(|tensor| tensor.id.expert.is_some_and(|expert| expert < first))
                .map(|tensor| tensor.elements())
                .sum::<u64>()
        };
        self.layers().map(of_layer).sum()
    }
}

impl fmt::Display for ModelSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {} × {}, {}, {} ({} key/value) of {}, vocabulary {}, scheme {}",
            self.family.model_type(),
            counted(self.num_hidden_layers, "layer"),
            self.hidden_size,
            self.mlp_in_words(),
            counted(self.num_attention_heads, "head"),
            self.num_key_value_heads,
            self.head_dim,
            self.vocab_size,
            self.norm_scheme
        )
    }
}
