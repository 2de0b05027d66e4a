//! A linear map of the last dimension.

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};
use lns_kernels::{Precision, linear_in};
use lns_spec::{Part, Role};

use crate::weights::{Builder, Weights};

/// A matrix in Hugging Face layout with an optional bias.
#[derive(Module, Debug)]
pub struct Projection {
    /// \[out, in\]
    pub weight: Param<Tensor<2>>,
    /// \[out\]
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    pub(crate) precision: Precision,
}

impl Projection {
    pub(crate) fn build<W: Weights>(
        builder: &mut Builder<'_, W>,
        role: Role,
    ) -> Result<Self, W::Error> {
        let weight = builder.weight(role)?;
        Ok(Self::new(weight, builder.optional(role, Part::Bias)?))
    }

    /// x · weightᵀ + bias. `weight`: \[out, in\], `bias`: \[out\].
    pub fn new(weight: Tensor<2>, bias: Option<Tensor<1>>) -> Self {
        let (weight, bias) = (Param::from_tensor(weight), bias.map(Param::from_tensor));
        Self { weight, bias, precision: Precision::F32 }
    }

    /// \[…, in\] → \[…, out\]
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let bias = self.bias.as_ref().map(Param::val);
        linear_in(self.precision, x, self.weight.val(), bias)
    }
}
