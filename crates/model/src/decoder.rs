//! The model: embedding, layers, final norm, head. Decoders of every family and encoders in one, under
//! any norm scheme (Touvron et al., arXiv 2302.13971; reference: the modelling files of transformers).

use std::sync::Arc;

use burn::{
    module::{Module, Param},
    tensor::{DType, Device, Int, Tensor},
};
use layernorm_scaling::{
    Builder, NormScaling, Projection as Linear, RandomWeights, TransformerLayerWithScaling,
    Weights, gate_of, rotary_table,
};
use lns_checkpoint::Checkpoint;
use lns_kernels::{
    DistillationLoss, DistillationTerms, Gate, LossTerms, Precision, Projection, RotaryTable,
    TokenScore, activate, composite::soft_capped, distillation_loss, embedding, linear_in,
    next_token_loss, next_token_nll, next_token_scores,
};
use lns_spec::{Initialisation, ModelSpec, Part, Role};

use crate::{
    ExpertsOnDisk, KvCache, LoadError,
    experts_on_disk::ButExperts,
    load::{Stored, audit},
};

/// From the stream to the token that is predicted: final norm and output projection, in an encoder after a
/// transform, a matrix and the MLP's activation.
#[derive(Module, Debug)]
pub struct Head {
    /// An encoder's matrix before the norm.
    pub transform: Option<Linear>,
    /// `model.norm`; never scaled.
    pub norm: NormScaling,
    /// \[vocab_size, H\]: `lm_head`, or the embedding when they are tied. An encoder's bias is one column more.
    pub weight: Tensor<2>,
    #[module(skip)]
    pub(crate) activation: Gate,
    #[module(skip)]
    pub(crate) precision: Precision,
    #[module(skip)]
    pub(crate) softcap: Option<f64>,
}

impl Head {
    /// Stream \[…, H\] → logits \[…, vocab_size\].
    pub fn logits<const D: usize>(&self, stream: Tensor<D>) -> Tensor<D> {
        let logits = linear_in(self.precision, self.hidden(stream), self.weight.clone(), None);
        soft_capped(logits, self.softcap)
    }

    /// What the matrix multiplies: the normed stream; in an encoder after the transform, with a 1 for the
    /// column that is the bias. Stream \[…, H\] → \[…, columns of the matrix\]
    pub fn hidden<const D: usize>(&self, stream: Tensor<D>) -> Tensor<D> {
        let Some(transform) = &self.transform else { return self.norm.forward(stream) };
        let hidden = self.norm.forward(activate(transform.forward(stream), self.activation));
        let one = hidden.clone().narrow(D - 1, 0, 1).ones_like();
        Tensor::cat(vec![hidden, one], D - 1)
    }

    /// The cap c of logits z that become c·tanh(z/c), where the model has one.
    pub fn softcap(&self) -> Option<f64> {
        self.softcap
    }

    /// Stream \[T, H\] → what its logits are made of.
    pub fn projection(&self, stream: Tensor<2>) -> Projection {
        let (hidden, head) = self.factors(stream);
        Projection { hidden, head, softcap: self.softcap }
    }

    /// The normed stream and the matrix, as they are multiplied.
    fn factors(&self, stream: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let (hidden, weight) = (self.hidden(stream), self.weight.clone());
        match self.precision {
            Precision::F32 => (hidden, weight),
            Precision::Bf16 => (hidden.cast(DType::BF16), weight.cast(DType::BF16)),
        }
    }

    /// Stream \[T, H\] and the token to predict at each → loss of each, in nats; 0 where it is
    /// [`IGNORED`](lns_kernels::IGNORED).
    pub fn nll(&self, stream: Tensor<2>, targets: &[u32]) -> Tensor<1> {
        let (hidden, weight) = self.factors(stream);
        next_token_nll(hidden, weight, targets, self.softcap)
    }

    /// Stream \[T, H\] and the token to predict at each → how likely each was.
    pub fn scores(&self, stream: Tensor<2>, targets: &[u32]) -> Vec<TokenScore> {
        let (hidden, weight) = self.factors(stream);
        next_token_scores(hidden, weight, targets, self.softcap)
    }

    /// Stream \[T, H\] and the token to predict at each → the training objective, \[1\], and the loss of
    /// each token, \[T\], which carries no gradient.
    pub fn loss(
        &self,
        stream: Tensor<2>,
        targets: &[u32],
        terms: LossTerms,
    ) -> (Tensor<1>, Tensor<1>) {
        let (hidden, weight) = self.factors(stream);
        next_token_loss(hidden, weight, targets, terms, self.softcap)
    }

    /// As [`loss`](Self::loss), towards a teacher's predictions of the same tokens.
    pub fn distil(
        &self,
        stream: Tensor<2>,
        teacher: &Projection,
        targets: &[u32],
        terms: LossTerms,
        distillation: DistillationTerms,
    ) -> DistillationLoss {
        distillation_loss(self.projection(stream), teacher, targets, terms, distillation)
    }
}

/// A whole model in memory.
///
/// A new model with LNS:
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use lns_model::Decoder;
/// use lns_spec::{NormScheme, Preset};
///
/// let device = Device::default();
/// let spec = Preset::named("9m").expect("a preset").spec(NormScheme::lns());
/// let model = Decoder::new(&spec, 42, &device);
/// let tokens = Tensor::<2, Int>::from_ints([[1, 2, 3, 4]], &device);
/// let logits = model.forward(tokens);
/// assert_eq!(logits.dims(), [1, 4, 32_000]);
/// ```
#[derive(Module, Debug)]
pub struct Decoder {
    /// \[vocab_size, H\]
    pub embed_tokens: Param<Tensor<2>>,
    /// \[max_position_embeddings, H\], where positions are learned.
    pub embed_positions: Option<Param<Tensor<2>>>,
    /// \[type_vocab_size, H\], where tokens have types.
    pub embed_token_types: Option<Param<Tensor<2>>>,
    /// The norm on the embedding, where the model has one.
    pub embed_norm: Option<NormScaling>,
    /// The layers, first to last.
    pub layers: Vec<TransformerLayerWithScaling>,
    /// The matrix with which an encoder's head begins.
    pub head_transform: Option<Linear>,
    /// The norm before the head's matrix; absent without a head.
    pub norm: Option<NormScaling>,
    /// \[vocab_size, H\]; absent when tied to the embedding, and without a head.
    pub lm_head: Option<Param<Tensor<2>>>,
    /// What an encoder's head adds to its logits, \[vocab_size\].
    pub head_bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    pub(crate) spec: Arc<ModelSpec>,
    #[module(skip)]
    precision: Precision,
}

impl Decoder {
    /// A model with N(0, 0.02²) weights that depend on the seed and each tensor's name only, so that
    /// models of one shape start equal whatever their scheme.
    pub fn new(spec: &ModelSpec, seed: u64, device: &Device) -> Self {
        let Ok(decoder) = Self::build(spec, &mut RandomWeights::normal(spec, seed), device);
        decoder
    }

    /// As [`new`](Self::new), with another initialisation and embedding deviation
    /// ([`lns_spec::embedding_std`]).
    ///
    /// # Panics
    /// If `embedding_std` is not a finite number of at least 0.
    pub fn initialised(
        spec: &ModelSpec,
        initialisation: Initialisation,
        embedding_std: f64,
        seed: u64,
        device: &Device,
    ) -> Self {
        let mut weights = RandomWeights::new(spec, initialisation, embedding_std, seed);
        let Ok(decoder) = Self::build(spec, &mut weights, device);
        decoder
    }

    /// Reads a whole checkpoint.
    ///
    /// # Errors
    /// [`LoadError::Audit`] when a tensor is missing, unexpected or misshapen, all of them named;
    /// [`LoadError::Checkpoint`] when one cannot be read.
    pub fn from_checkpoint(checkpoint: &Checkpoint, device: &Device) -> Result<Self, LoadError> {
        audit(checkpoint)?;
        Self::build(checkpoint.spec(), &mut Stored(checkpoint), device)
    }

    /// Reads all of a mixture but its experts, which are read when tokens are sent to them. Whether they all
    /// could be is for the caller to ask ([`ExpertsOnDisk::failure`]).
    ///
    /// # Errors
    /// [`LoadError::Checkpoint`] when a tensor cannot be read.
    pub fn with_experts_on_disk(
        experts: &Arc<ExpertsOnDisk>,
        device: &Device,
    ) -> Result<Self, LoadError> {
        Self::build(experts.checkpoint().spec(), &mut ButExperts(experts), device)
    }

    fn build<W: Weights>(
        spec: &ModelSpec,
        weights: &mut W,
        device: &Device,
    ) -> Result<Self, W::Error> {
        let outer = &mut Builder::outer(spec, weights, device);
        let embed_tokens = Param::from_tensor(outer.weight(Role::Embedding)?);
        let positions = outer.optional(Role::PositionEmbedding, Part::Weight)?;
        let embed_positions = positions.map(Param::from_tensor);
        let types = outer.optional(Role::TokenTypeEmbedding, Part::Weight)?;
        let embed_token_types = types.map(Param::from_tensor);
        let embed_norm = outer.norm(Role::EmbeddingNorm, spec.rms_norm_eps, 1.0)?;
        let HeadParts { transform: head_transform, norm, weight: lm_head, bias: head_bias } =
            HeadParts::build(spec, outer)?;
        let layers = spec
            .layers()
            .map(|layer| TransformerLayerWithScaling::build(spec, layer, weights, device))
            .collect::<Result<_, _>>()?;
        let spec = Arc::new(spec.clone());
        let precision = Precision::F32;
        Ok(Self {
            embed_tokens,
            embed_positions,
            embed_token_types,
            embed_norm,
            layers,
            head_transform,
            norm,
            lm_head,
            head_bias,
            spec,
            precision,
        })
    }

    /// The model with its matrix products in another precision; the parameters stay f32.
    pub fn with_precision(mut self, precision: Precision) -> Self {
        let layers = self.layers.into_iter().map(|layer| layer.with_precision(precision));
        self.layers = layers.collect();
        self.precision = precision;
        self
    }

    /// What the model is.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Where the weights live.
    pub fn device(&self) -> Device {
        self.embed_tokens.val().device()
    }

    /// The stream that enters layer 0. \[B, T\] → \[B, T, H\]
    pub fn embed(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        let positions: Vec<u32> = (0..tokens.dims()[1] as u32).collect();
        self.embed_with(tokens, &positions)
    }

    /// As [`embed`](Self::embed), token t being at row `start + t` of a table that may be a packed one.
    pub fn embed_at(
        &self,
        tokens: Tensor<2, Int>,
        rotary: &RotaryTable,
        start: usize,
    ) -> Tensor<3> {
        let positions = match self.embed_positions {
            Some(_) => rotary.positions_of(start, tokens.dims()[1]),
            None => Vec::new(),
        };
        self.embed_with(tokens, &positions)
    }

    /// The stream of tokens at these positions of every sequence.
    pub(crate) fn embed_with(&self, tokens: Tensor<2, Int>, positions: &[u32]) -> Tensor<3> {
        let device = tokens.device();
        let stream = embedding(self.embed_tokens.val(), tokens);
        let positions = self
            .embed_positions
            .as_ref()
            .map(|table| embedding(table.val(), ids_tensor(positions, &device)));
        let token_type = self.embed_token_types.as_ref().map(|table| first_row(table.val()));
        finish_embedding(&self.spec, stream, positions, token_type, self.embed_norm.as_ref())
    }

    /// Final norm and head.
    ///
    /// # Panics
    /// If the model has no head ([`ModelSpec::has_head`]).
    pub fn head(&self) -> Head {
        let parts = HeadParts {
            transform: self.head_transform.clone(),
            norm: self.norm.clone(),
            weight: self.lm_head.clone(),
            bias: self.head_bias.clone(),
        };
        match parts.whole(&self.spec, self.precision, Some(self.embed_tokens.val())) {
            Some(head) => head,
            None => panic!("{} has no head", self.spec),
        }
    }

    /// Logits of every next token. \[B, T\] → \[B, T, vocab_size\]
    pub fn forward(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        self.head().logits(self.stream(tokens))
    }

    /// The stream after the last layer, before the final norm. \[B, T\] → \[B, T, H\]
    pub fn stream(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        let rotary = rotary_table(&self.spec, tokens.dims()[1]);
        self.stream_at(tokens, &rotary)
    }

    /// As [`stream`](Self::stream), the tokens at the positions of a table, which may be that of
    /// documents laid end to end ([`packed_rotary_table`](layernorm_scaling::packed_rotary_table)).
    pub fn stream_at(&self, tokens: Tensor<2, Int>, rotary: &RotaryTable) -> Tensor<3> {
        let embedded = self.embed_at(tokens, rotary, 0);
        self.layers.iter().fold(embedded, |stream, layer| layer.forward(stream, rotary))
    }

    /// The training objective of `tokens`, \[B, T\], each followed by the token of `targets` at the same
    /// place: the scalar to differentiate, \[1\], and the loss of each token, \[B·T\], which carries no
    /// gradient.
    pub fn loss(
        &self,
        tokens: Tensor<2, Int>,
        targets: &[u32],
        terms: LossTerms,
    ) -> (Tensor<1>, Tensor<1>) {
        let stream = self.stream(tokens);
        let [sequences, length, hidden] = stream.dims();
        self.head().loss(stream.reshape([sequences * length, hidden]), targets, terms)
    }

    /// The stream before each layer and after the last: L + 1 tensors \[B, T, H\], the last one before
    /// the final norm.
    pub fn streams(&self, tokens: Tensor<2, Int>) -> Vec<Tensor<3>> {
        let rotary = rotary_table(&self.spec, tokens.dims()[1]);
        self.streams_at(tokens, &rotary)
    }

    /// As [`streams`](Self::streams), the tokens at the positions of a table.
    pub fn streams_at(&self, tokens: Tensor<2, Int>, rotary: &RotaryTable) -> Vec<Tensor<3>> {
        let mut streams = vec![self.embed_at(tokens, rotary, 0)];
        for layer in &self.layers {
            let stream = streams[streams.len() - 1].clone();
            streams.push(layer.forward(stream, rotary));
        }
        streams
    }

    /// Logits of the token after the last one given, the tokens following those in `cache`.
    /// \[B, T\] → \[B, vocab_size\]
    pub fn next_logits(
        &self,
        tokens: Tensor<2, Int>,
        rotary: &RotaryTable,
        cache: &mut KvCache,
    ) -> Tensor<2> {
        let last = tokens.dims()[1] - 1;
        let mut stream = self.embed_at(tokens, rotary, cache.len());
        for (layer, cache) in self.layers.iter().zip(&mut cache.layers) {
            stream = layer.forward_cached(stream, rotary, cache);
        }
        self.head().logits(stream.narrow(1, last, 1).squeeze_dim(1))
    }
}

/// What a head is made of, as far as the model has it.
pub(crate) struct HeadParts {
    transform: Option<Linear>,
    norm: Option<NormScaling>,
    /// Absent when it is the embedding.
    weight: Option<Param<Tensor<2>>>,
    bias: Option<Param<Tensor<1>>>,
}

impl HeadParts {
    pub(crate) fn build<W: Weights>(
        spec: &ModelSpec,
        outer: &mut Builder<'_, W>,
    ) -> Result<Self, W::Error> {
        Ok(Self {
            transform: outer.projection(Role::HeadTransform)?,
            // Dividing what the head reads divides the logits.
            norm: outer.norm(Role::FinalNorm, spec.rms_norm_eps, 1.0 / spec.logits_divisor)?,
            weight: outer.optional(Role::Head, Part::Weight)?.map(Param::from_tensor),
            bias: outer.optional(Role::HeadBias, Part::Weight)?.map(Param::from_tensor),
        })
    }

    /// The head, `embedding` being its matrix where it has none of its own; `None` for a model without one.
    pub(crate) fn whole(
        self,
        spec: &ModelSpec,
        precision: Precision,
        embedding: Option<Tensor<2>>,
    ) -> Option<Head> {
        let norm = self.norm?;
        let weight = self.weight.map(|weight| weight.val()).or(embedding)?;
        let weight = match self.bias {
            Some(bias) => Tensor::cat(vec![weight, bias.val().unsqueeze_dim(1)], 1),
            None => weight,
        };
        let (activation, softcap) = (gate_of(spec.hidden_act), spec.logits_softcap);
        Some(Head { transform: self.transform, norm, weight, activation, precision, softcap })
    }
}

/// Row 0 of a table, as it is added to every token: \[rows, H\] → \[1, 1, H\]
pub(crate) fn first_row(table: Tensor<2>) -> Tensor<3> {
    table.narrow(0, 0, 1).unsqueeze()
}

/// Makes of tokens' vectors the stream that enters layer 0.
pub(crate) fn finish_embedding(
    spec: &ModelSpec,
    stream: Tensor<3>,
    positions: Option<Tensor<3>>,
    token_type: Option<Tensor<3>>,
    norm: Option<&NormScaling>,
) -> Tensor<3> {
    let stream = match spec.embedding_multiplier {
        1.0 => stream,
        multiplier => stream.mul_scalar(multiplier),
    };
    let stream = match positions {
        Some(positions) => stream + positions,
        None => stream,
    };
    let stream = match token_type {
        Some(token_type) => stream + token_type,
        None => stream,
    };
    match norm {
        Some(norm) => norm.forward(stream),
        None => stream,
    }
}

/// Ids as the \[1, T\] tensor the decoder takes.
pub fn ids_tensor(ids: &[u32], device: &Device) -> Tensor<2, Int> {
    let ids: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
    let length = ids.len();
    Tensor::from_data(burn::tensor::TensorData::new(ids, [1, length]), device)
}
