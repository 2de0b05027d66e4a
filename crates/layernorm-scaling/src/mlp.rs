//! The MLP, with a gate or without.

use burn::{module::Module, tensor::Tensor};
use lns_kernels::{Gate, activate, gated};
use lns_spec::{Activation, ModelSpec, Role};

use crate::{
    Projection,
    weights::{Builder, Weights},
};

/// down(act(gate(x)) · up(x)), or without a gate down(act(up(x)))
#[derive(Module, Debug)]
pub struct Mlp {
    /// H → intermediate, in a gated MLP
    pub gate_proj: Option<Projection>,
    /// H → intermediate
    pub up_proj: Projection,
    /// intermediate → H
    pub down_proj: Projection,
    #[module(skip)]
    activation: Gate,
}

impl Mlp {
    pub(crate) fn build<W: Weights>(
        spec: &ModelSpec,
        builder: &mut Builder<'_, W>,
    ) -> Result<Self, W::Error> {
        let gate = |builder: &mut Builder<'_, W>| Projection::build(builder, Role::MlpGate);
        Ok(Self {
            gate_proj: spec.gated_mlp.then(|| gate(builder)).transpose()?,
            up_proj: Projection::build(builder, Role::MlpUp)?,
            down_proj: Projection::build(builder, Role::MlpDown)?,
            activation: match spec.hidden_act {
                Activation::Silu => Gate::Silu,
                Activation::GeluTanh => Gate::Gelu,
                Activation::Gelu => Gate::GeluErf,
            },
        })
    }

    /// \[…, H\] → \[…, H\]
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let inner = match &self.gate_proj {
            Some(gate_proj) => {
                let gate = gate_proj.forward(x.clone());
                gated(gate, self.up_proj.forward(x), self.activation)
            }
            None => activate(self.up_proj.forward(x), self.activation),
        };
        self.down_proj.forward(inner)
    }
}
