//! One decoder layer: grouped-query attention and an MLP or experts, joined to the residual stream by any
//! norm scheme.
//!
//! Shapes: B sequences, T tokens, H = hidden_size, D = head_dim.

use burn::{
    config::Config,
    module::{Module, Param},
    tensor::{Device, Tensor, activation::silu},
};
use lns_kernels::{Precision, RotaryTable};
use lns_spec::{
    Branch, BranchGate, InputNorm, Join, LayerIndex, ModelSpec, NormScheme, Part, Preset, Role,
    Site,
};

use crate::{
    Experts, LayerCache, Mlp, NormScaling, Segment, SelfAttention,
    attention::rotary_table,
    segments::Before,
    weights::{Builder, RandomWeights, Weights},
};

/// Builds a stand-alone [`TransformerLayerWithScaling`] for use in a model of one's own.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use layernorm_scaling::TransformerLayerWithScalingConfig;
///
/// let device = Device::default();
/// let config = TransformerLayerWithScalingConfig::new(64, 4, 176, 12, 8);
/// let (layer, rotary) = (config.init(&device), config.rotary_table(5));
/// let stream = layer.forward(Tensor::ones([2, 5, 64], &device), &rotary);
/// assert_eq!(stream.dims(), [2, 5, 64]);
/// ```
#[derive(Config, Debug)]
pub struct TransformerLayerWithScalingConfig {
    /// Features of the stream.
    pub hidden_size: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Features inside the MLP.
    pub intermediate_size: usize,
    /// Layers of the whole model.
    pub num_hidden_layers: usize,
    /// 0-based index of this layer.
    pub layer_idx: usize,
    /// Key/value heads; 0 is as many as query heads.
    #[config(default = 0)]
    pub num_key_value_heads: usize,
    /// Power of ℓ; ½ in the paper.
    #[config(default = 0.5)]
    pub exponent: f64,
    /// Seed of the initial weights.
    #[config(default = 0)]
    pub seed: u64,
}

impl TransformerLayerWithScalingConfig {
    fn spec(&self) -> ModelSpec {
        let preset = Preset {
            name: "layer",
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_attention_heads: self.num_attention_heads,
            num_hidden_layers: self.num_hidden_layers,
            vocab_size: 1,
            max_position_embeddings: 1,
        };
        let scale = lns_spec::DepthScale { exponent: self.exponent, ..Default::default() };
        let mut spec = preset.spec(NormScheme::Lns(scale));
        if self.num_key_value_heads > 0 {
            spec.num_key_value_heads = self.num_key_value_heads;
        }
        spec
    }

    /// A layer with random weights.
    ///
    /// # Panics
    /// If the sizes do not fit together, with the reason.
    pub fn init(&self, device: &Device) -> TransformerLayerWithScaling {
        let spec = self.spec();
        let valid = spec.validate();
        assert!(valid.is_ok(), "{}", valid.err().map(|e| e.to_string()).unwrap_or_default());
        assert!(self.layer_idx < self.num_hidden_layers, "layer_idx is beyond the model");
        let mut weights = RandomWeights::normal(&spec, self.seed);
        let layer = LayerIndex::new(self.layer_idx);
        let Ok(layer) = TransformerLayerWithScaling::build(&spec, layer, &mut weights, device);
        layer
    }

    /// Rotary table for this layer's heads, base 10,000.
    pub fn rotary_table(&self, positions: usize) -> RotaryTable {
        rotary_table(&self.spec(), positions)
    }
}

/// What a branch passes before it joins the stream, in the schemes that have it.
#[derive(Module, Debug)]
pub struct BranchEnd {
    /// `sandwich`, `peri`, `output-norm`: the norm on the branch's output.
    pub norm: Option<NormScaling>,
    /// `layerscale` \[H\], `skipinit` \[1\]: the learned λ.
    pub scale: Option<Param<Tensor<1>>>,
}

impl BranchEnd {
    const NONE: Self = Self { norm: None, scale: None };

    fn build<W: Weights>(
        spec: &ModelSpec,
        site: Site,
        builder: &mut Builder<'_, W>,
    ) -> Result<Self, W::Error> {
        let scale = builder.optional(Role::BranchGate(site), Part::Weight)?;
        Ok(Self {
            norm: builder.norm(Role::OutputNorm(site), spec.rms_norm_eps, 1.0)?,
            scale: scale.map(Param::from_tensor),
        })
    }
}

/// A decoder layer under any [`NormScheme`]: what each of its two sites does with the stream is a
/// [`Branch`].
///
/// Each site can be taken apart, for diagnosis and surgery: [`branch`](Self::branch) is what is
/// added to the stream, [`join`](Self::join) adds it.
#[derive(Module, Debug)]
pub struct TransformerLayerWithScaling {
    /// The attention site's norm, on what the attention reads, or on the sum where it reads the
    /// stream itself; absent when there is neither or the attention was pruned.
    pub input_layernorm: Option<NormScaling>,
    /// The attention; absent when it was pruned.
    pub self_attn: Option<SelfAttention>,
    /// The MLP site's norm, as [`input_layernorm`](Self::input_layernorm).
    pub post_attention_layernorm: Option<NormScaling>,
    /// The MLP; absent when it was pruned, and where there are experts.
    pub mlp: Option<Mlp>,
    /// The experts in its place; absent when they were pruned.
    pub experts: Option<Experts>,
    /// How the attention's output reaches the stream.
    pub attention_output: BranchEnd,
    /// How the MLP's output reaches the stream.
    pub mlp_output: BranchEnd,
    /// `keel`: the norm on the attention's sum, beside that on what the attention reads.
    pub attention_join: Option<NormScaling>,
    /// `keel`: the norm on the MLP's sum, beside that on what the MLP reads.
    pub mlp_join: Option<NormScaling>,
    /// `gpas`, \[1\]: the learned a by whose SiLU each sum is damped.
    pub stream_gate: Option<Param<Tensor<1>>>,
    #[module(skip)]
    attention_rule: Branch,
    #[module(skip)]
    mlp_rule: Branch,
    #[module(skip)]
    parallel: bool,
}

/// What computes at the MLP's site.
enum FeedForward<'a> {
    Dense(&'a Mlp),
    Experts(&'a Experts),
}

impl FeedForward<'_> {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Dense(mlp) => mlp.forward(x),
            Self::Experts(experts) => experts.forward(x),
        }
    }
}

impl TransformerLayerWithScaling {
    /// Layer `layer` of a model, its parameters from `weights`, asked for by role.
    ///
    /// # Errors
    /// What `weights` fails with.
    pub fn build<W: Weights>(
        spec: &ModelSpec,
        layer: LayerIndex,
        weights: &mut W,
        device: &Device,
    ) -> Result<Self, W::Error> {
        let builder = &mut Builder::layer(spec, layer, weights, device);
        let eps = spec.rms_norm_eps;
        let mut built = Self {
            input_layernorm: None,
            self_attn: None,
            post_attention_layernorm: None,
            mlp: None,
            experts: None,
            attention_output: BranchEnd::NONE,
            mlp_output: BranchEnd::NONE,
            attention_join: None,
            mlp_join: None,
            stream_gate: None,
            attention_rule: spec.branch(layer, Site::Attention),
            mlp_rule: spec.branch(layer, Site::Mlp),
            parallel: spec.parallel_branches,
        };
        // The norm that has the site's usual name, and one on the sum beside it.
        let mut norms = |site: Site, rule: &Branch| {
            let input = builder.norm(Role::InputNorm(site), eps, rule.output_scale())?;
            let join = builder.norm(Role::JoinNorm(site), eps, 1.0)?;
            Ok::<_, W::Error>(match input {
                Some(input) => (Some(input), join),
                None => (join, None),
            })
        };
        let attention = norms(Site::Attention, &built.attention_rule)?;
        let mlp = norms(Site::Mlp, &built.mlp_rule)?;
        (built.input_layernorm, built.attention_join) = attention;
        (built.post_attention_layernorm, built.mlp_join) = mlp;
        if spec.has_branch(layer, Site::Attention) {
            built.self_attn = Some(SelfAttention::build(spec, layer, builder)?);
            built.attention_output = BranchEnd::build(spec, Site::Attention, builder)?;
        }
        if spec.has_branch(layer, Site::Mlp) {
            match spec.experts(layer) {
                None => built.mlp = Some(Mlp::build(spec, Role::MLP, builder)?),
                Some(experts) => {
                    built.experts = Some(Experts::build(spec, experts, builder)?);
                }
            }
            built.mlp_output = BranchEnd::build(spec, Site::Mlp, builder)?;
        }
        let gate = builder.optional(Role::StreamGate, Part::Weight)?;
        built.stream_gate = gate.map(Param::from_tensor);
        Ok(built)
    }

    /// The stream after the layer. \[B, T, H\] → \[B, T, H\]
    pub fn forward(&self, stream: Tensor<3>, rotary: &RotaryTable) -> Tensor<3> {
        self.forward_after(stream, rotary, Before::Nothing)
    }

    /// As [`forward`](Self::forward), the T tokens following those in `cache`.
    pub fn forward_cached(
        &self,
        stream: Tensor<3>,
        rotary: &RotaryTable,
        cache: &mut LayerCache,
    ) -> Tensor<3> {
        self.forward_after(stream, rotary, Before::Cache(cache))
    }

    /// As [`forward`](Self::forward) of sequences that begin alike, their tokens being one row of segments:
    /// \[1, tokens of all segments, H\] → the same.
    ///
    /// # Panics
    /// If the segments have another number of tokens, or one of them follows a later one.
    pub fn forward_segments(
        &self,
        stream: Tensor<3>,
        rotary: &RotaryTable,
        segments: &[Segment],
    ) -> Tensor<3> {
        self.forward_after(stream, rotary, Before::Segments(segments))
    }

    fn forward_after(
        &self,
        stream: Tensor<3>,
        rotary: &RotaryTable,
        before: Before<'_>,
    ) -> Tensor<3> {
        let attention = self.attention_branch(&stream, rotary, before);
        if let (Some(branch), Some(norm), Some(mlp)) =
            (&attention, &self.post_attention_layernorm, self.feed_forward())
            && self.sites_meet_in_a_sum_and_norm()
        {
            let (stream, x) = norm.forward_sum(stream, branch.clone());
            return self.join(Site::Mlp, stream, self.exit(Site::Mlp, mlp.forward(x)));
        }
        let entered = stream.clone();
        let stream = self.joined(Site::Attention, stream, attention);
        let mlp = self.mlp_branch(&self.mlp_reads(entered, stream.clone()));
        self.joined(Site::Mlp, stream, mlp)
    }

    /// What the MLP's branch reads of the stream that enters the layer and the one that the attention has
    /// joined: in a layer of parallel branches the first, otherwise the second.
    pub fn mlp_reads(&self, entered: Tensor<3>, joined: Tensor<3>) -> Tensor<3> {
        if self.parallel { entered } else { joined }
    }

    /// Whether the attention's branch is only added and the MLP reads the norm of that sum.
    fn sites_meet_in_a_sum_and_norm(&self) -> bool {
        let normed = self.mlp_rule.input_norm.is_some_and(|norm| norm.input_scale == 1.0);
        self.attention_rule.only_adds() && normed && !self.parallel
    }

    /// Who of the layer's experts computes which token of what the MLP's branch reads, \[B, T, H\]: as many
    /// for each as it is sent to, that of the largest weight first. `None` without experts.
    pub fn chosen_experts(&self, stream: Tensor<3>) -> Option<Vec<usize>> {
        let experts = self.experts.as_ref()?;
        Some(experts.chosen(self.entry(Site::Mlp, stream)))
    }

    /// What the branch at `site` adds to the stream; zeros if it was pruned. \[B, T, H\] →
    /// \[B, T, H\]
    pub fn branch(&self, site: Site, stream: Tensor<3>, rotary: &RotaryTable) -> Tensor<3> {
        let branch = match site {
            Site::Attention => self.attention_branch(&stream, rotary, Before::Nothing),
            Site::Mlp => self.mlp_branch(&stream),
        };
        branch.unwrap_or_else(|| stream.zeros_like())
    }

    /// The stream after `branch` has joined it at `site`: N_join(stream_scale · x + branch), damped where
    /// the scheme damps.
    pub fn join(&self, site: Site, stream: Tensor<3>, branch: Tensor<3>) -> Tensor<3> {
        let (rule, usual, join) = self.site(site);
        let Join { stream_scale, norm, damped } = rule.join;
        let stream = if stream_scale == 1.0 { stream } else { stream.mul_scalar(stream_scale) };
        let sum = stream + branch;
        let sum = match if rule.input_norm.is_some() { join } else { usual } {
            Some(join) if norm => join.forward(sum),
            _ => sum,
        };
        match &self.stream_gate {
            // The gradient passes the sum as if it were not damped (arXiv 2506.22049, eq. 5).
            Some(gate) if damped => {
                let share = silu(gate.val()).unsqueeze::<3>();
                sum.clone() - sum.detach() * share
            }
            _ => sum,
        }
    }

    fn joined(&self, site: Site, stream: Tensor<3>, branch: Option<Tensor<3>>) -> Tensor<3> {
        match branch {
            Some(branch) => self.join(site, stream, branch),
            None => stream,
        }
    }

    fn attention_branch(
        &self,
        stream: &Tensor<3>,
        rotary: &RotaryTable,
        before: Before<'_>,
    ) -> Option<Tensor<3>> {
        let attention = self.self_attn.as_ref()?;
        let x = self.entry(Site::Attention, stream.clone());
        Some(self.exit(Site::Attention, attention.forward(x, rotary, before)))
    }

    fn mlp_branch(&self, stream: &Tensor<3>) -> Option<Tensor<3>> {
        let mlp = self.feed_forward()?;
        let x = self.entry(Site::Mlp, stream.clone());
        Some(self.exit(Site::Mlp, mlp.forward(x)))
    }

    /// The F of the MLP's site.
    fn feed_forward(&self) -> Option<FeedForward<'_>> {
        let experts = self.experts.as_ref().map(FeedForward::Experts);
        self.mlp.as_ref().map(FeedForward::Dense).or(experts)
    }

    /// What F reads: output_scale · N_in(input_scale · x), or the stream itself.
    fn entry(&self, site: Site, stream: Tensor<3>) -> Tensor<3> {
        let (rule, usual, _) = self.site(site);
        match (rule.input_norm, usual) {
            (Some(InputNorm { input_scale, .. }), Some(norm)) if input_scale != 1.0 => {
                norm.forward(stream.mul_scalar(input_scale))
            }
            (Some(_), Some(norm)) => norm.forward(stream),
            _ => stream,
        }
    }

    /// What F's output becomes before it is added: gate · N_out(F).
    fn exit(&self, site: Site, branch: Tensor<3>) -> Tensor<3> {
        let end = match site {
            Site::Attention => &self.attention_output,
            Site::Mlp => &self.mlp_output,
        };
        let branch = match &end.norm {
            Some(norm) => norm.forward(branch),
            None => branch,
        };
        match (&end.scale, self.site(site).0.gate) {
            (Some(scale), _) => branch * scale.val().unsqueeze(),
            (None, BranchGate::Constant(gate)) if gate != 1.0 => branch.mul_scalar(gate),
            (None, BranchGate::Constant(_) | BranchGate::Learned { .. }) => branch,
        }
    }

    /// The site's rule; if the branch is there, its usual norm, and the norm on the sum beside that.
    fn site(&self, site: Site) -> (&Branch, Option<&NormScaling>, Option<&NormScaling>) {
        match site {
            Site::Attention => {
                (&self.attention_rule, self.input_layernorm.as_ref(), self.attention_join.as_ref())
            }
            Site::Mlp => {
                (&self.mlp_rule, self.post_attention_layernorm.as_ref(), self.mlp_join.as_ref())
            }
        }
    }

    /// The layer with the products of its projections in another precision; those of a router stay in
    /// f32, because a small difference may choose other experts.
    pub fn with_precision(mut self, precision: Precision) -> Self {
        let attention = self.self_attn.iter_mut().flat_map(SelfAttention::projections);
        attention.for_each(|projection| projection.precision = precision);
        self.mlp = self.mlp.map(|mlp| mlp.with_precision(precision));
        self.experts = self.experts.map(|experts| experts.with_precision(precision));
        self
    }

    /// The layer without one of its branches.
    pub fn without_branch(mut self, site: Site) -> Self {
        match site {
            Site::Attention => {
                (self.input_layernorm, self.self_attn, self.attention_join) = (None, None, None);
                self.attention_output = BranchEnd::NONE;
            }
            Site::Mlp => {
                (self.post_attention_layernorm, self.mlp_join) = (None, None);
                (self.mlp, self.experts) = (None, None);
                self.mlp_output = BranchEnd::NONE;
            }
        }
        self
    }

    /// Gives the layer another rule, the gains (and biases) of the site's usual norm and of that on F's
    /// output multiplied by `gains`. Only for rules that need the same tensors.
    pub fn with_rule(mut self, site: Site, rule: Branch, gains: [f64; 2]) -> Self {
        let (usual, output) = match site {
            Site::Attention => {
                self.attention_rule = rule;
                (&mut self.input_layernorm, &mut self.attention_output.norm)
            }
            Site::Mlp => {
                self.mlp_rule = rule;
                (&mut self.post_attention_layernorm, &mut self.mlp_output.norm)
            }
        };
        if let Some(norm) = usual {
            norm.rescale(rule.output_scale(), gains[0]);
        }
        if let Some(norm) = output {
            norm.rescale(1.0, gains[1]);
        }
        self
    }
}
