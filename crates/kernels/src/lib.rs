//! The hot operations of a decoder, each in two forms with one signature:
//!
//! - **fused**: hand-written loops and `gemm` on the buffers of the CPU backend (`flex`), for `f32`
//!   tensors, with a backward pass of its own;
//! - **composite**: plain Burn operations, for every other device and dtype, and the standard that
//!   tests hold the fused form against.
//!
//! The function picks the form from the tensors; callers never choose.
//!
//! # Accumulation
//! Dot products and sums over a row run in f32 over 32 lanes that are added in a fixed order; matrix
//! products accumulate in f32; gains and biases add their rows' gradients in order in f32; losses and
//! gradient norms are summed in f64. Every repeat gives the same bits, whatever the number of
//! threads; another instruction set changes the last ones.
//!
//! # Threads
//! Operations use rayon's current pool. [`Workers`] gives each worker thread a pool of one, so that
//! inside a worker nothing starts threads; a lone sequence outside uses all of them.
//!
//! This is the only room with `unsafe` numerics: the calls into `gemm`, functions compiled for a
//! wider instruction set than the target's, and outputs that are written before they are read; each
//! with its reason.
#![allow(unsafe_code)]

pub mod composite;
mod compute;
mod cpu;
mod distillation;
mod fused;
mod rotary;
mod update;
mod workers;

use std::sync::Arc;

use burn::tensor::{DType, Gradients, Int, Tensor};

pub use burn::tensor::{Device, DeviceKind};
pub use compute::{Compute, Exchange, cpu_device, is_cpu};
pub use cpu::{InstructionSet, InstructionSetError};
pub use distillation::{
    DistillationLoss, DistillationTerms, Projection, distillation_loss, divergence_to,
};
pub use lns_spec::IGNORED;
pub use rotary::RotaryTable;
pub use update::{AdamW, Buffer, Muon, adamw, muon, squared_norm};
pub use workers::{Workers, with_threads};

/// Heads of a grouped-query attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub key_value_heads: usize,
    /// Features per head of queries and keys.
    pub head_dim: usize,
    /// Which side of itself a query sees.
    pub mask: AttentionMask,
    /// Tokens a query sees, itself included; `None` is all that the mask lets it see.
    pub window: Option<usize>,
    /// What becomes of q · k.
    pub scores: Scores,
}

/// Which side of itself a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AttentionMask {
    /// What came before it and itself: a decoder's.
    #[default]
    Causal,
    /// Every key: an encoder's.
    Full,
}

/// What becomes of q · k before the softmax: c·tanh(scale · q·k / c), or scale · q·k without a cap c.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Scores {
    /// `None` is 1/√head_dim.
    pub scale: Option<f64>,
    /// The cap c, which no score reaches (Gemma 2, arXiv 2408.00118, §2).
    pub softcap: Option<f64>,
}

impl Scores {
    /// q · k / √head_dim
    pub const USUAL: Self = Self { scale: None, softcap: None };
}

/// Documents packed into one sequence: no token sees another document's. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentStarts(Arc<[u32]>);

impl DocumentStarts {
    /// `starts`: sequences × keys, for each position the position in its sequence where its document
    /// starts.
    ///
    /// # Panics
    /// If a document starts after one of its tokens, or starts go back from one token to the next.
    pub fn new(starts: &[u32], keys: usize) -> Self {
        assert!(
            starts.len().is_multiple_of(keys.max(1)),
            "document starts are not whole sequences"
        );
        for sequence in starts.chunks(keys.max(1)) {
            let mut before = 0;
            for (position, start) in sequence.iter().enumerate() {
                assert!(
                    *start as usize <= position,
                    "a document starts after its token {position}"
                );
                assert!(*start >= before, "document starts go back at token {position}");
                before = *start;
            }
        }
        Self(Arc::from(starts))
    }

    /// Sequences × keys.
    pub fn starts(&self) -> &[u32] {
        &self.0
    }
}

/// The activation of an MLP, of its gate where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// g · σ(g): SwiGLU.
    Silu,
    /// GELU in its tanh form, ½g(1 + tanh(√(2/π)(g + 0.044715g³))): GeGLU.
    Gelu,
    /// GELU itself, g·Φ(g).
    GeluErf,
}

/// The clamped SwiGLU of gpt_oss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GateClamp {
    /// No gate is above it and no number that it multiplies further from 0.
    pub limit: f64,
    /// Multiplies the gate inside the sigmoid.
    pub alpha: f64,
}

/// What matrix products compute in. Parameters, the stream, norms and softmax stay as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Products of f32 numbers, as the tensors hold them.
    #[default]
    F32,
    /// Both factors rounded to bf16 for the product, its result widened again; gradients arrive at the
    /// parameters in f32. For devices that multiply bf16 faster; the CPU does not.
    Bf16,
}

impl Precision {
    /// Every precision, the most exact first.
    pub const ALL: [Self; 2] = [Self::F32, Self::Bf16];

    /// Its name in settings and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

/// How the losses of the rows become one number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossTerms {
    /// Multiplies the sum; 1/tokens makes a mean.
    pub weight: f64,
    /// Multiplies the square of log Σ e^logit, which keeps logits from drifting (Chowdhery et al.,
    /// arXiv 2204.02311, §5); 0 is without.
    pub z_loss: f64,
}

impl Default for LossTerms {
    /// The plain sum of the losses, without z-loss.
    fn default() -> Self {
        Self { weight: 1.0, z_loss: 0.0 }
    }
}

/// Whether the fused form serves these tensors: CPU and `f32`.
fn is_fused<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && is_cpu(&x.device())
}

/// Root-mean-square norm times a constant: x / √(mean(x²) + eps) · γ · scale.
///
/// `x`: \[…, width\], `gamma`: \[width\]. With `scale` = 1/√ℓ this is LayerNorm Scaling
/// (arXiv 2502.05795, eq. 12); it costs nothing over the plain norm.
///
/// # Panics
/// If `gamma` is not as long as the last dimension.
pub fn rms_norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, eps: f64, scale: f64) -> Tensor<D> {
    check_width("gamma", x.dims()[D - 1], gamma.dims()[0]);
    if is_fused(&x) {
        fused::rms_norm(x, gamma, eps, scale)
    } else {
        composite::rms_norm(x, gamma, eps, scale)
    }
}

/// stream + branch, and the [`rms_norm`] of that sum, reading both once.
///
/// `stream`, `branch`: \[…, width\], `gamma`: \[width\]. The join of one site and the norm of the next.
///
/// # Panics
/// If the shapes disagree.
pub fn add_rms_norm<const D: usize>(
    stream: Tensor<D>,
    branch: Tensor<D>,
    gamma: Tensor<1>,
    eps: f64,
    scale: f64,
) -> (Tensor<D>, Tensor<D>) {
    assert_eq!(stream.dims(), branch.dims(), "add_rms_norm: stream and branch differ in shape");
    check_width("gamma", stream.dims()[D - 1], gamma.dims()[0]);
    if is_fused(&stream) {
        fused::add_rms_norm(stream, branch, gamma, eps, scale)
    } else {
        composite::add_rms_norm(stream, branch, gamma, eps, scale)
    }
}

/// Layer norm times a constant: ((x − mean) / √(variance + eps) · γ + β) · scale.
///
/// `x`: \[…, width\], `gamma` and `beta`: \[width\].
///
/// # Panics
/// If `gamma` or `beta` is not as long as the last dimension.
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Option<Tensor<1>>,
    eps: f64,
    scale: f64,
) -> Tensor<D> {
    check_width("gamma", x.dims()[D - 1], gamma.dims()[0]);
    if let Some(beta) = &beta {
        check_width("beta", x.dims()[D - 1], beta.dims()[0]);
    }
    if is_fused(&x) {
        fused::layer_norm(x, gamma, beta, eps, scale)
    } else {
        composite::layer_norm(x, gamma, beta, eps, scale)
    }
}

/// x · weightᵀ + bias. `x`: \[…, in\], `weight`: \[out, in\], `bias`: \[out\]; result \[…, out\].
///
/// # Panics
/// If the widths disagree.
pub fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    check_width("weight", x.dims()[D - 1], weight.dims()[1]);
    if let Some(bias) = &bias {
        check_width("bias", weight.dims()[0], bias.dims()[0]);
    }
    if is_fused(&x) { fused::linear(x, weight, bias) } else { composite::linear(x, weight, bias) }
}

/// [`linear`] with its product in the given precision; the bias is added in the input's.
///
/// # Panics
/// If the widths disagree.
pub fn linear_in<const D: usize>(
    precision: Precision,
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    if precision == Precision::F32 {
        return linear(x, weight, bias);
    }
    let dtype = x.dtype();
    let y = linear(x.cast(DType::BF16), weight.cast(DType::BF16), None).cast(dtype);
    match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    }
}

/// Rotary position embedding, in the order of pairs and of as many features of each head as the table
/// has.
///
/// `x`: \[sequences, tokens, heads · head_dim\]; token t is at position `start + t` of `table`.
///
/// # Panics
/// If the table is too short or its heads do not divide the width.
pub fn rotate(x: Tensor<3>, table: &RotaryTable, start: usize) -> Tensor<3> {
    let [_, tokens, width] = x.dims();
    assert!(width.is_multiple_of(table.head_dim()), "rotate: {width} features are not whole heads");
    assert!(start + tokens <= table.positions(), "rotate: the table ends before the sequence");
    if is_fused(&x) { fused::rotate(x, table, start) } else { composite::rotate(x, table, start) }
}

/// Grouped-query attention without the output projection.
///
/// `q`: \[sequences, queries, heads · head_dim\]; `k`: \[sequences, keys, key_value_heads · head_dim\], `v`:
/// \[sequences, keys, key_value_heads · D\], where D may be another number than `head_dim`; `keys ≥
/// queries`: the last query is at the last key's position, as when a cache precedes it. `documents` covers
/// every key. Result \[sequences, queries, heads · D\].
///
/// # Panics
/// If the shapes disagree, or a window or documents are given under the mask that lets see everything.
pub fn attention(
    q: Tensor<3>,
    k: Tensor<3>,
    v: Tensor<3>,
    shape: &AttentionShape,
    sinks: Option<Tensor<1>>,
    documents: Option<&DocumentStarts>,
) -> Tensor<3> {
    let ([sequences, queries, q_width], [k_sequences, keys, k_width]) = (q.dims(), k.dims());
    assert!(shape.heads.is_multiple_of(shape.key_value_heads), "attention: heads are not grouped");
    check_width("queries", shape.heads * shape.head_dim, q_width);
    check_width("keys", shape.key_value_heads * shape.head_dim, k_width);
    let [v_sequences, values, v_width] = v.dims();
    assert!(v_width.is_multiple_of(shape.key_value_heads), "attention: values are not whole heads");
    assert_eq!((v_sequences, values), (k_sequences, keys), "attention: a value for each key");
    assert!(sequences == k_sequences && queries <= keys, "attention: keys do not cover queries");
    assert!(
        shape.mask == AttentionMask::Causal || shape.window.is_none() && documents.is_none(),
        "attention: windows and documents look back; under the full mask there are none"
    );
    if let Some(documents) = documents {
        let given = documents.starts().len();
        assert_eq!(given, sequences * keys, "attention: documents do not cover the keys");
    }
    if let Some(sinks) = &sinks {
        check_width("sinks", shape.heads, sinks.dims()[0]);
    }
    if is_fused(&q) {
        fused::attention(q, k, v, shape, sinks, documents)
    } else {
        composite::attention(q, k, v, shape, sinks, documents)
    }
}

/// activation(gate) · up, element by element: SwiGLU or GeGLU (Shazeer, arXiv 2002.05202).
///
/// # Panics
/// If the shapes differ.
pub fn gated<const D: usize>(gate: Tensor<D>, up: Tensor<D>, kind: Gate) -> Tensor<D> {
    assert_eq!(gate.dims(), up.dims(), "gated: gate and up differ in shape");
    if is_fused(&gate) { fused::gated(gate, up, kind) } else { composite::gated(gate, up, kind) }
}

/// (u + 1) · g · σ(alpha · g), element by element, with g = min(gate, limit) and u = `up` kept within ±limit:
/// the middle of gpt_oss's experts (transformers' `GptOssExperts`).
///
/// # Panics
/// If the shapes differ.
pub fn clamped_swiglu<const D: usize>(
    gate: Tensor<D>,
    up: Tensor<D>,
    clamp: GateClamp,
) -> Tensor<D> {
    assert_eq!(gate.dims(), up.dims(), "clamped_swiglu: gate and up differ in shape");
    if is_fused(&gate) {
        fused::clamped_swiglu(gate, up, clamp)
    } else {
        composite::clamped_swiglu(gate, up, clamp)
    }
}

/// activation(x), element by element: the middle of an MLP without a gate.
pub fn activate<const D: usize>(x: Tensor<D>, kind: Gate) -> Tensor<D> {
    if is_fused(&x) { fused::activate(x, kind) } else { composite::activate(x, kind) }
}

/// The MLP of an expert of a [`mixture`]: down(act(gate(x)) · up(x)), the clamped form of that, or without a gate
/// down(act(up(x))). Each is a matrix, \[out, in\], and its bias.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the formula names them")]
pub struct ExpertTensors {
    pub gate: Option<(Tensor<2>, Option<Tensor<1>>)>,
    pub up: (Tensor<2>, Option<Tensor<1>>),
    pub down: (Tensor<2>, Option<Tensor<1>>),
    pub activation: Gate,
    pub clamp: Option<GateClamp>,
}

/// Σ over r of `weights`\[n, r\] times what expert `chosen`\[n · k + r\] makes of token n, in that order, NaN
/// where `expert` has none. Each expert is asked for once, from several threads at once, and computes its own
/// tokens only.
///
/// `tokens`: \[N, width\], `weights`: \[N, k\]. There is the fused form only: `None` for other devices and
/// types, where gradients are taken, and on a CPU without a fused multiply-add, where experts are to be computed
/// one after another by operations that serve there.
///
/// # Panics
/// If the shapes disagree.
pub fn mixture(
    tokens: &Tensor<2>,
    weights: &Tensor<2>,
    chosen: &[usize],
    expert: &(dyn Fn(usize) -> Option<ExpertTensors> + Sync),
) -> Option<Tensor<2>> {
    let [count, ranks] = weights.dims();
    assert_eq!(tokens.dims()[0], count, "mixture: a row of weights for each token");
    assert_eq!(chosen.len(), count * ranks, "mixture: an expert for each weight");
    let served = is_fused(tokens)
        && !tokens.device().is_autodiff()
        && !weights.device().is_autodiff()
        && cpu::has_fused_multiply_add();
    served.then(|| fused::mixture(tokens, weights, chosen, expert))
}

/// Rows of `table`, \[vocabulary, width\], for `ids`, \[sequences, tokens\]; result \[sequences,
/// tokens, width\].
///
/// # Panics
/// If an id is not in the vocabulary.
pub fn embedding(table: Tensor<2>, ids: Tensor<2, Int>) -> Tensor<3> {
    if !is_fused(&table) {
        return composite::embedding(table, ids);
    }
    let (shape, vocabulary) = (ids.dims(), table.dims()[0]);
    let ids: Arc<[u32]> = ids
        .into_data()
        .iter::<i64>()
        .map(|id| match u32::try_from(id) {
            Ok(id) if (id as usize) < vocabulary => id,
            _ => panic!("embedding: id {id} is not in the vocabulary of {vocabulary}"),
        })
        .collect();
    fused::embedding(table, ids, shape)
}

/// −log softmax(hidden · headᵀ)\[target\], one number per row, in nats; 0 where the target is
/// [`IGNORED`]. With a `softcap` c, every logit z is c·tanh(z/c).
///
/// `hidden`: \[rows, width\], `head`: \[vocabulary, width\]. The fused form never holds more than
/// 512 × 1024 logits. To differentiate, use [`next_token_loss`].
///
/// # Panics
/// If there is not one target per row, or a target is not in the vocabulary.
pub fn next_token_nll(
    hidden: Tensor<2>,
    head: Tensor<2>,
    targets: &[u32],
    softcap: Option<f64>,
) -> Tensor<1> {
    check_targets(&hidden, &head, targets);
    if is_fused(&hidden) && !hidden.device().is_autodiff() {
        fused::next_token_nll(hidden, head, targets, softcap)
    } else {
        composite::next_token_nll(hidden, head, targets, softcap)
    }
}

/// What a model gives the token that follows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenScore {
    /// log softmax\[target\], in nats.
    pub log_probability: f64,
    /// Whether no other token is likelier; false where a logit is no number.
    pub likeliest: bool,
}

/// As [`next_token_nll`], without ignored targets: each row's log-probability, and whether the target
/// is the row's most likely entry.
///
/// # Panics
/// If there is not one target per row, or a target is not in the vocabulary.
pub fn next_token_scores(
    hidden: Tensor<2>,
    head: Tensor<2>,
    targets: &[u32],
    softcap: Option<f64>,
) -> Vec<TokenScore> {
    check_targets(&hidden, &head, targets);
    if !is_fused(&hidden) {
        return composite::next_token_scores(hidden, head, targets, softcap);
    }
    let width = head.dims()[1];
    with_slices([&hidden, &head], |[hidden, head]| {
        cpu::row_losses(hidden, head, targets, width, softcap)
            .into_iter()
            .map(|row| TokenScore { log_probability: -row.nll, likeliest: row.likeliest })
            .collect()
    })
}

/// The training objective: weight · Σ (nll + z_loss · (log Σ e^logit)²) over the rows whose target is
/// not [`IGNORED`], \[1\]; and the nll of each row, \[rows\], which carries no gradient. `softcap` as in
/// [`next_token_nll`].
///
/// The fused form makes the gradients while it holds the logits, 16 Mi of them at most and of at most
/// 512 rows, and in the backward pass only multiplies them by the scalar's own gradient.
///
/// # Panics
/// If there is not one target per row, or a target is not in the vocabulary.
pub fn next_token_loss(
    hidden: Tensor<2>,
    head: Tensor<2>,
    targets: &[u32],
    terms: LossTerms,
    softcap: Option<f64>,
) -> (Tensor<1>, Tensor<1>) {
    check_targets(&hidden, &head, targets);
    if is_fused(&hidden) {
        fused::next_token_loss(hidden, head, targets, terms, softcap)
    } else {
        composite::next_token_loss(hidden, head, targets, terms, softcap)
    }
}

/// The gradients of every leaf under `y`, given the gradient of `y`: the backward pass from the middle
/// of a model.
///
/// # Panics
/// If the shapes differ or `y` is not on a tape.
pub fn backward_from<const D: usize>(y: Tensor<D>, upstream: Tensor<D>) -> Gradients {
    assert_eq!(y.dims(), upstream.dims(), "backward_from: the gradient is not shaped as y");
    let upstream =
        if upstream.device().is_autodiff() { upstream } else { Tensor::from_inner(upstream) };
    let start =
        if is_fused(&y) { fused::start_of_backward(y, upstream) } else { (y * upstream).sum() };
    start.backward()
}

fn check_targets(hidden: &Tensor<2>, head: &Tensor<2>, targets: &[u32]) {
    let ([rows, width], [vocabulary, head_width]) = (hidden.dims(), head.dims());
    check_width("head", width, head_width);
    assert_eq!(rows, targets.len(), "next token: one target per row");
    assert!(
        targets.iter().all(|target| (*target as usize) < vocabulary || *target == IGNORED),
        "next token: a target is not in the vocabulary of {vocabulary}"
    );
}

/// Calls `f` with the tensors' elements, row-major; without a copy where they are `f32` on the CPU.
pub fn with_slices<const D: usize, const N: usize, R>(
    tensors: [&Tensor<D>; N],
    f: impl FnOnce([&[f32]; N]) -> R,
) -> R {
    fused::with_slices(tensors, f)
}

fn check_width(what: &str, expected: usize, got: usize) {
    assert_eq!(expected, got, "{what} has {got} features where {expected} are expected");
}
