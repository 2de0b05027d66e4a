//! The fused operations as Burn backend extensions: tensors in, slices to [`crate::cpu`], tensors
//! out. `forward` computes, `backward` records what the derivative needs.

mod backward;
mod distillation;
mod forward;
mod memory;
mod mixture;

use std::sync::Arc;

use burn::{
    backend::{Backend, Dispatch, Flex, backend_extension, flex::FlexTensor, tensor::FloatTensor},
    tensor::{DType, Tensor},
};
pub(crate) use distillation::distillation_loss;
use memory::tensor;
pub(crate) use mixture::mixture;

use crate::{AttentionShape, DocumentStarts, Gate, GateClamp, LossTerms, RotaryTable};

/// What an attention call needs beside its tensors.
#[derive(Debug, Clone)]
pub(crate) struct Attention {
    pub(crate) shape: AttentionShape,
    pub(crate) documents: Option<DocumentStarts>,
}

/// Operations on the CPU's buffers, differentiable. The crate's functions check shapes first.
#[backend_extension(Autodiff, Flex)]
pub(crate) trait FusedOps: Backend {
    /// See [`crate::rms_norm`].
    fn rms_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        eps: f64,
        scale: f64,
    ) -> FloatTensor<Self>;
    /// See [`crate::add_rms_norm`].
    fn add_rms_norm(
        x: FloatTensor<Self>,
        branch: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        eps: f64,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    /// See [`crate::layer_norm`].
    fn layer_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        eps: f64,
        scale: f64,
    ) -> FloatTensor<Self>;
    /// See [`crate::linear`], without the bias.
    fn linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;
    /// Adds `bias` along the last dimension of `y`.
    fn add_bias(y: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self>;
    /// See [`crate::rotate`].
    fn rotate(x: FloatTensor<Self>, table: RotaryTable, start: usize) -> FloatTensor<Self>;
    /// See [`crate::attention`].
    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        sinks: FloatTensor<Self>,
        attention: Attention,
    ) -> FloatTensor<Self>;
    /// See [`crate::gated`].
    fn gated(gate: FloatTensor<Self>, up: FloatTensor<Self>, kind: Gate) -> FloatTensor<Self>;
    /// See [`crate::clamped_swiglu`].
    fn clamped_swiglu(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        clamp: GateClamp,
    ) -> FloatTensor<Self>;
    /// See [`crate::activate`].
    fn activate(x: FloatTensor<Self>, kind: Gate) -> FloatTensor<Self>;
    /// See [`crate::embedding`]; `shape` is that of the ids.
    fn embedding(table: FloatTensor<Self>, ids: Arc<[u32]>, shape: [usize; 2])
    -> FloatTensor<Self>;
    /// A 0 whose gradient with respect to `y` is `upstream`; see [`crate::backward_from`].
    fn start_of_backward(y: FloatTensor<Self>, upstream: FloatTensor<Self>) -> FloatTensor<Self>;
    /// See [`crate::next_token_loss`].
    fn next_token_loss(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: Arc<[u32]>,
        terms: LossTerms,
        softcap: Option<f64>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

/// Operations without a derivative.
#[backend_extension(Flex)]
pub(crate) trait PlainOps: Backend {
    /// See [`crate::next_token_nll`].
    fn next_token_nll(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: Arc<[u32]>,
        softcap: Option<f64>,
    ) -> FloatTensor<Self>;
}

/// The elements of a contiguous tensor.
fn elements(tensor: &FlexTensor) -> &[f32] {
    let start = tensor.layout().start_offset();
    &tensor.storage::<f32>()[start..start + tensor.layout().num_elements()]
}

fn dims(tensor: &FlexTensor) -> Vec<usize> {
    let shape = tensor.layout().shape();
    (0..shape.num_dims()).map(|dim| shape[dim]).collect()
}

/// `x` changed in place by `f`, or a copy of it when something else holds its memory.
fn changed(x: FlexTensor, f: impl FnOnce(&mut [f32])) -> FlexTensor {
    let mut x = x.to_contiguous();
    let (start, length) = (x.layout().start_offset(), x.layout().num_elements());
    f(&mut x.storage_mut::<f32>()[start..start + length]);
    x
}

pub(crate) fn rms_norm<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    eps: f64,
    scale: f64,
) -> Tensor<D> {
    let (x, gamma) = (x.into_dispatch(), gamma.into_dispatch());
    Tensor::from_dispatch(<Dispatch as FusedOps>::rms_norm(x, gamma, eps, scale))
}

pub(crate) fn add_rms_norm<const D: usize>(
    x: Tensor<D>,
    branch: Tensor<D>,
    gamma: Tensor<1>,
    eps: f64,
    scale: f64,
) -> (Tensor<D>, Tensor<D>) {
    let (x, branch, gamma) = (x.into_dispatch(), branch.into_dispatch(), gamma.into_dispatch());
    let (sum, normed) = <Dispatch as FusedOps>::add_rms_norm(x, branch, gamma, eps, scale);
    (Tensor::from_dispatch(sum), Tensor::from_dispatch(normed))
}

pub(crate) fn layer_norm<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Option<Tensor<1>>,
    eps: f64,
    scale: f64,
) -> Tensor<D> {
    let beta = beta.unwrap_or_else(|| gamma.zeros_like()).into_dispatch();
    let (x, gamma) = (x.into_dispatch(), gamma.into_dispatch());
    Tensor::from_dispatch(<Dispatch as FusedOps>::layer_norm(x, gamma, beta, eps, scale))
}

pub(crate) fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    let y = <Dispatch as FusedOps>::linear(x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(match bias {
        Some(bias) => <Dispatch as FusedOps>::add_bias(y, bias.into_dispatch()),
        None => y,
    })
}

pub(crate) fn rotate(x: Tensor<3>, table: &RotaryTable, start: usize) -> Tensor<3> {
    Tensor::from_dispatch(<Dispatch as FusedOps>::rotate(x.into_dispatch(), table.clone(), start))
}

pub(crate) fn attention(
    q: Tensor<3>,
    k: Tensor<3>,
    v: Tensor<3>,
    shape: &AttentionShape,
    sinks: Option<Tensor<1>>,
    documents: Option<&DocumentStarts>,
) -> Tensor<3> {
    let none = || Tensor::full([shape.heads], f32::NEG_INFINITY, &q.device());
    let sinks = sinks.unwrap_or_else(none).into_dispatch();
    let (q, k, v) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    let attention = Attention { shape: *shape, documents: documents.cloned() };
    Tensor::from_dispatch(<Dispatch as FusedOps>::attention(q, k, v, sinks, attention))
}

pub(crate) fn gated<const D: usize>(gate: Tensor<D>, up: Tensor<D>, kind: Gate) -> Tensor<D> {
    let (gate, up) = (gate.into_dispatch(), up.into_dispatch());
    Tensor::from_dispatch(<Dispatch as FusedOps>::gated(gate, up, kind))
}

pub(crate) fn clamped_swiglu<const D: usize>(
    gate: Tensor<D>,
    up: Tensor<D>,
    clamp: GateClamp,
) -> Tensor<D> {
    let (gate, up) = (gate.into_dispatch(), up.into_dispatch());
    Tensor::from_dispatch(<Dispatch as FusedOps>::clamped_swiglu(gate, up, clamp))
}

pub(crate) fn activate<const D: usize>(x: Tensor<D>, kind: Gate) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as FusedOps>::activate(x.into_dispatch(), kind))
}

pub(crate) fn embedding(table: Tensor<2>, ids: Arc<[u32]>, shape: [usize; 2]) -> Tensor<3> {
    Tensor::from_dispatch(<Dispatch as FusedOps>::embedding(table.into_dispatch(), ids, shape))
}

pub(crate) fn start_of_backward<const D: usize>(y: Tensor<D>, upstream: Tensor<D>) -> Tensor<1> {
    let (y, upstream) = (y.into_dispatch(), upstream.into_dispatch());
    Tensor::from_dispatch(<Dispatch as FusedOps>::start_of_backward(y, upstream))
}

pub(crate) fn next_token_loss(
    hidden: Tensor<2>,
    head: Tensor<2>,
    targets: &[u32],
    terms: LossTerms,
    softcap: Option<f64>,
) -> (Tensor<1>, Tensor<1>) {
    let (hidden, head) = (hidden.into_dispatch(), head.into_dispatch());
    let (total, nll) =
        <Dispatch as FusedOps>::next_token_loss(hidden, head, Arc::from(targets), terms, softcap);
    (Tensor::from_dispatch(total), Tensor::from_dispatch(nll))
}

pub(crate) fn next_token_nll(
    hidden: Tensor<2>,
    head: Tensor<2>,
    targets: &[u32],
    softcap: Option<f64>,
) -> Tensor<1> {
    let (hidden, head) = (hidden.into_dispatch(), head.into_dispatch());
    let targets = Arc::from(targets);
    Tensor::from_dispatch(<Dispatch as PlainOps>::next_token_nll(hidden, head, targets, softcap))
}

pub(crate) fn with_slices<const D: usize, const N: usize, R>(
    tensors: [&Tensor<D>; N],
    f: impl FnOnce([&[f32]; N]) -> R,
) -> R {
    let held = tensors.map(|tensor| {
        let tensor = tensor.clone().cast(DType::F32);
        match tensor.clone().try_into_primitive::<Flex>() {
            Ok(primitive) => primitive.to_contiguous(),
            Err(_) => FlexTensor::from_data(tensor.into_data()),
        }
    });
    f(std::array::from_fn(|i| elements(&held[i])))
}
