//! The fused operations as a Burn backend extension: tensors in, slices to [`crate::cpu`], tensors
//! out.

use burn::{
    backend::{
        Backend, Dispatch, Flex, backend_extension,
        flex::{FlexTensor, Layout},
        tensor::FloatTensor,
    },
    tensor::{Bytes, DType, Shape, Tensor},
};

use crate::{AttentionShape, RotaryTable, cpu};

/// Operations that run on the CPU's buffers. The crate's functions check shapes before calling.
#[backend_extension(Flex)]
pub(crate) trait FusedOps: Backend {
    /// See [`crate::rms_norm`].
    fn rms_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        eps: f64,
        scale: f64,
    ) -> FloatTensor<Self>;
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
    /// y + bias, along the last dimension.
    fn add_bias(y: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self>;
    /// See [`crate::rotate`].
    fn rotate(x: FloatTensor<Self>, table: RotaryTable, start: usize) -> FloatTensor<Self>;
    /// See [`crate::causal_attention`].
    fn causal_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        shape: AttentionShape,
    ) -> FloatTensor<Self>;
    /// See [`crate::swiglu`].
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
    /// See [`crate::next_token_nll`].
    fn next_token_nll(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: Vec<u32>,
    ) -> FloatTensor<Self>;
}

/// The elements of a contiguous tensor.
fn elements(tensor: &FlexTensor) -> &[f32] {
    let start = tensor.layout().start_offset();
    &tensor.storage::<f32>()[start..start + tensor.layout().num_elements()]
}

fn tensor(values: Vec<f32>, shape: Vec<usize>) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(Shape::from(shape)), DType::F32)
}

fn dims(tensor: &FlexTensor) -> Vec<usize> {
    let shape = tensor.layout().shape();
    (0..shape.num_dims()).map(|dim| shape[dim]).collect()
}

/// A new tensor shaped as `x`, filled by `f` from the contiguous elements of `x`.
fn mapped(x: &FlexTensor, f: impl FnOnce(&mut [f32], &[f32])) -> FlexTensor {
    let x = x.to_contiguous();
    let values = elements(&x);
    let mut y = vec![0f32; values.len()];
    f(&mut y, values);
    tensor(y, dims(&x))
}

/// A copy of `x` that `f` then changes in place; `x` itself when nothing else holds it.
fn changed(x: FlexTensor, f: impl FnOnce(&mut [f32])) -> FlexTensor {
    let mut x = x.to_contiguous();
    let (start, length) = (x.layout().start_offset(), x.layout().num_elements());
    f(&mut x.storage_mut::<f32>()[start..start + length]);
    x
}

impl FusedOps for Flex {
    fn rms_norm(x: FlexTensor, gamma: FlexTensor, eps: f64, scale: f64) -> FlexTensor {
        let gamma = gamma.to_contiguous();
        mapped(&x, |y, x| cpu::rms_norm(y, x, elements(&gamma), eps as f32, scale as f32))
    }

    fn layer_norm(
        x: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        eps: f64,
        scale: f64,
    ) -> FlexTensor {
        let (gamma, beta) = (gamma.to_contiguous(), beta.to_contiguous());
        mapped(&x, |y, x| {
            let (gamma, beta) = (elements(&gamma), elements(&beta));
            cpu::layer_norm(y, x, gamma, beta, eps as f32, scale as f32);
        })
    }

    fn linear(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        let (mut shape, outputs) = (dims(&x), dims(&weight));
        let input = outputs[1];
        let mut y = vec![0f32; elements(&x).len() / input * outputs[0]];
        cpu::linear(&mut y, elements(&x), elements(&weight), input);
        if let Some(last) = shape.last_mut() {
            *last = outputs[0];
        }
        tensor(y, shape)
    }

    fn add_bias(y: FlexTensor, bias: FlexTensor) -> FlexTensor {
        let bias = bias.to_contiguous();
        changed(y, |y| cpu::add_bias(y, elements(&bias)))
    }

    fn rotate(x: FlexTensor, table: RotaryTable, start: usize) -> FlexTensor {
        let shape = dims(&x);
        let (tokens, width) = (shape[1], shape[2]);
        let (cos, sin) = table.rows(start, tokens);
        changed(x, |x| cpu::rotate(x, cos, sin, width, table.head_dim(), tokens))
    }

    fn causal_attention(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        shape: AttentionShape,
    ) -> FlexTensor {
        let (k, v) = (k.to_contiguous(), v.to_contiguous());
        let (q_dims, k_dims) = (dims(&q), dims(&k));
        let (queries, keys) = (q_dims[1], k_dims[1]);
        let (q_size, k_size) = (queries * q_dims[2], keys * k_dims[2]);
        mapped(&q, |out, q| {
            let sequences = out
                .chunks_exact_mut(q_size)
                .zip(q.chunks_exact(q_size))
                .zip(elements(&k).chunks_exact(k_size).zip(elements(&v).chunks_exact(k_size)));
            for ((out, q), (k, v)) in sequences {
                cpu::causal_attention(out, q, k, v, &shape, [queries, keys]);
            }
        })
    }

    fn swiglu(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        let up = up.to_contiguous();
        changed(gate, |gate| cpu::swiglu(gate, elements(&up)))
    }

    fn next_token_nll(hidden: FlexTensor, head: FlexTensor, targets: Vec<u32>) -> FlexTensor {
        let (hidden, head) = (hidden.to_contiguous(), head.to_contiguous());
        let width = dims(&hidden)[1];
        let mut nll = vec![0f32; targets.len()];
        cpu::next_token_nll(&mut nll, elements(&hidden), elements(&head), &targets, width);
        let rows = nll.len();
        tensor(nll, vec![rows])
    }
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

pub(crate) fn causal_attention(
    q: Tensor<3>,
    k: Tensor<3>,
    v: Tensor<3>,
    shape: &AttentionShape,
) -> Tensor<3> {
    let (q, k, v) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    Tensor::from_dispatch(<Dispatch as FusedOps>::causal_attention(q, k, v, *shape))
}

pub(crate) fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    let (gate, up) = (gate.into_dispatch(), up.into_dispatch());
    Tensor::from_dispatch(<Dispatch as FusedOps>::swiglu(gate, up))
}

pub(crate) fn next_token_nll(hidden: Tensor<2>, head: Tensor<2>, targets: &[u32]) -> Tensor<1> {
    let (hidden, head) = (hidden.into_dispatch(), head.into_dispatch());
    Tensor::from_dispatch(<Dispatch as FusedOps>::next_token_nll(hidden, head, targets.to_vec()))
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
