//! The MLP, with a gate or without.

use burn::{
    module::{Module, Param},
    tensor::{Device, Tensor},
};
use lns_kernels::{ExpertTensors, Gate, GateClamp, Precision, activate, clamped_swiglu, gated};
use lns_spec::{Activation, ClampedGate, LayerIndex, ModelSpec, Role};

use crate::{
    Projection,
    weights::{Builder, Weights},
};

/// What computes an activation.
pub const fn gate_of(activation: Activation) -> Gate {
    match activation {
        Activation::Silu => Gate::Silu,
        Activation::GeluTanh => Gate::Gelu,
        Activation::Gelu => Gate::GeluErf,
    }
}

/// down(act(gate(x)) · up(x)), gpt_oss's clamped form of that, or without a gate down(act(up(x)))
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
    #[module(skip)]
    clamp: Option<GateClamp>,
}

impl Mlp {
    pub(crate) fn build<W: Weights>(
        spec: &ModelSpec,
        [gate, up, down]: [Role; 3],
        builder: &mut Builder<'_, W>,
    ) -> Result<Self, W::Error> {
        let gate_proj = match spec.gated_mlp {
            true => Some(Projection::build(builder, gate)?),
            false => None,
        };
        Ok(Self {
            gate_proj,
            up_proj: Projection::build(builder, up)?,
            down_proj: Projection::build(builder, down)?,
            activation: gate_of(spec.hidden_act),
            clamp: spec.clamped_gate.map(|ClampedGate { limit, alpha }| GateClamp { limit, alpha }),
        })
    }

    /// Expert `expert` of layer `layer` of a mixture, its parameters from `weights`, asked for by role.
    ///
    /// # Errors
    /// What `weights` fails with.
    pub fn of_expert<W: Weights>(
        spec: &ModelSpec,
        layer: LayerIndex,
        expert: usize,
        weights: &mut W,
        device: &Device,
    ) -> Result<Self, W::Error> {
        let builder = &mut Builder::layer(spec, layer, weights, device);
        builder.of_expert(expert, |builder| Self::build(spec, Role::MLP, builder))
    }

    /// The MLP with its products in another precision.
    pub(crate) fn with_precision(mut self, precision: Precision) -> Self {
        let gate = self.gate_proj.iter_mut();
        gate.chain([&mut self.up_proj, &mut self.down_proj])
            .for_each(|projection| projection.precision = precision);
        self
    }

    /// What [`lns_kernels::mixture`] computes with.
    pub(crate) fn tensors(&self) -> ExpertTensors {
        let of = |projection: &Projection| {
            (projection.weight.val(), projection.bias.as_ref().map(Param::val))
        };
        ExpertTensors {
            gate: self.gate_proj.as_ref().map(of),
            up: of(&self.up_proj),
            down: of(&self.down_proj),
            activation: self.activation,
            clamp: self.clamp,
        }
    }

    /// \[…, H\] → \[…, H\]
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let inner = match &self.gate_proj {
            Some(gate_proj) => {
                let (gate, up) = (gate_proj.forward(x.clone()), self.up_proj.forward(x));
                match self.clamp {
                    Some(clamp) => clamped_swiglu(gate, up, clamp),
                    None => gated(gate, up, self.activation),
                }
            }
            None => activate(self.up_proj.forward(x), self.activation),
        };
        self.down_proj.forward(inner)
    }
}
