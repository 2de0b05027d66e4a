//! Parameter updates on plain memory, fused with the sum of the workers' gradients and clipping.

use burn::{
    backend::{Flex, flex::FlexTensor},
    tensor::{DType, Tensor},
};

use crate::{cpu, is_cpu};

/// One step of AdamW (Loshchilov & Hutter, arXiv 1711.05101), as PyTorch computes it:
/// m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², w ← w(1 − η·λ) − η·m̂/(√v̂ + eps).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Multiplies the summed gradient: 1, or what clipping asks for.
    pub gradient_scale: f64,
    /// The learning rate η.
    pub learning_rate: f64,
    /// The decay β₁ of the first moment.
    pub beta1: f64,
    /// The decay β₂ of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// The decoupled weight decay λ; 0 makes it Adam.
    pub weight_decay: f64,
    /// This step's number, from 1: for the bias corrections.
    pub steps: u64,
}

/// One step of Muon (Jordan et al., 2024) on a matrix: Nesterov momentum, made nearly orthogonal by
/// five Newton–Schulz steps in f32, times 0.2·√(longer side) so that AdamW's learning rates and decay
/// apply (Liu et al., arXiv 2502.16982).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Muon {
    /// Multiplies the summed gradient: 1, or what clipping asks for.
    pub gradient_scale: f64,
    /// The learning rate η.
    pub learning_rate: f64,
    /// The momentum μ.
    pub momentum: f64,
    /// The decoupled weight decay λ.
    pub weight_decay: f64,
}

impl Muon {
    /// What multiplies the orthogonal direction of a \[rows, columns\] matrix.
    pub fn shape_factor(&self, [rows, columns]: [usize; 2]) -> f64 {
        0.2 * (rows.max(columns) as f64).sqrt()
    }
}

/// Updates `weights` and its moments `first` and `second` in place; the gradient is the sum of
/// `parts`, taken in their order. All slices are equally long. The result does not depend on how a
/// parameter is cut into slices.
///
/// # Panics
/// If there are no parts or a length differs.
pub fn adamw(
    weights: &mut [f32],
    first: &mut [f32],
    second: &mut [f32],
    parts: &[&[f32]],
    step: &AdamW,
) {
    check_lengths(weights.len(), parts);
    assert!(first.len() == weights.len() && second.len() == weights.len(), "moments differ");
    cpu::adamw(weights, first, second, parts, step);
}

/// Updates the matrix `weights`, \[rows, columns\], and its `momentum` in place; the gradient is the
/// sum of `parts`, taken in their order.
///
/// # Panics
/// If there are no parts or a length differs.
pub fn muon(
    weights: &mut [f32],
    momentum: &mut [f32],
    parts: &[&[f32]],
    shape: [usize; 2],
    step: &Muon,
) {
    check_lengths(weights.len(), parts);
    assert_eq!(shape[0] * shape[1], weights.len(), "muon: {shape:?} is not the matrix's shape");
    assert_eq!(momentum.len(), weights.len(), "muon: the momentum differs in length");
    cpu::muon(weights, momentum, parts, shape, step);
}

/// Σ g² over a slice of a gradient that is the sum of `parts`.
///
/// # Panics
/// If there are no parts or a length differs.
pub fn squared_norm(parts: &[&[f32]]) -> f64 {
    check_lengths(parts.first().map_or(0, |part| part.len()), parts);
    cpu::squared_norm(parts)
}

fn check_lengths(length: usize, parts: &[&[f32]]) {
    assert!(!parts.is_empty(), "a gradient has at least one part");
    assert!(parts.iter().all(|part| part.len() == length), "a gradient's parts differ in length");
}

/// A CPU tensor's own memory, to be changed in place between steps.
#[derive(Debug)]
pub struct Buffer(FlexTensor);

impl Buffer {
    /// Takes a tensor apart. Its memory is used as it is when it is `f32`, contiguous, on the CPU and
    /// held by nobody else; otherwise [`as_mut_slice`](Self::as_mut_slice) copies.
    pub fn new<const D: usize>(tensor: Tensor<D>) -> Self {
        let tensor = if tensor.dtype() == DType::F32 { tensor } else { tensor.cast(DType::F32) };
        if !is_cpu(&tensor.device()) || tensor.device().is_autodiff() {
            return Self(FlexTensor::from_data(tensor.into_data()));
        }
        // The tensor is taken by value, because a second handle would make the memory shared.
        match tensor.try_into_primitive::<Flex>() {
            Ok(primitive) => Self(primitive.to_contiguous()),
            Err(error) => unreachable!("a tensor on the CPU's device: {error:?}"),
        }
    }

    /// Whether it can be changed without a copy.
    pub fn is_unique(&self) -> bool {
        self.0.is_unique()
    }

    /// The elements, row-major.
    pub fn as_slice(&self) -> &[f32] {
        let (start, length) = (self.0.layout().start_offset(), self.0.layout().num_elements());
        &self.0.storage::<f32>()[start..start + length]
    }

    /// The elements, row-major.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        let (start, length) = (self.0.layout().start_offset(), self.0.layout().num_elements());
        &mut self.0.storage_mut::<f32>()[start..start + length]
    }

    /// The tensor with the changed elements.
    pub fn into_tensor<const D: usize>(self) -> Tensor<D> {
        Tensor::from_primitive::<Flex>(self.0)
    }
}
