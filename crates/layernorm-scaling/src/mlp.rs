//! The gated MLP.

use burn::{module::Module, tensor::Tensor};
use lns_kernels::{Gate, gated};
use lns_spec::Role;

use crate::{
    Projection,
    weights::{Builder, Weights},
};

/// down(silu(gate(x)) · up(x))
#[derive(Module, Debug)]
pub struct GatedMlp {
    /// H → intermediate
    pub gate_proj: Projection,
    /// H → intermediate
    pub up_proj: Projection,
    /// intermediate → H
    pub down_proj: Projection,
}

impl GatedMlp {
    pub(crate) fn build<W: Weights>(builder: &mut Builder<'_, W>) -> Result<Self, W::Error> {
        Ok(Self {
            gate_proj: Projection::build(builder, Role::MlpGate)?,
            up_proj: Projection::build(builder, Role::MlpUp)?,
            down_proj: Projection::build(builder, Role::MlpDown)?,
        })
    }

    /// \[…, H\] → \[…, H\]
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let gate = self.gate_proj.forward(x.clone());
        self.down_proj.forward(gated(gate, self.up_proj.forward(x), Gate::Silu))
    }
}
