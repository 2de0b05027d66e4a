//! The pointwise part of gated MLPs: gate · σ(a · gate) · up.
//!
//! With a constant slope a = 1 this is SwiGLU (Shazeer, arXiv 2002.05202). GeGLU's tanh form is the
//! same with a slope that depends on the gate, because ½(1 + tanh z) = σ(2z).

use std::mem::MaybeUninit;

use super::{dispatch, exp::exp};
use crate::Gate;

/// √(2/π) of GELU's tanh form.
const ROOT: f32 = 0.797_884_6;
const CUBE: f32 = 0.044_715;

/// The activation of `g` and its derivative.
#[inline(always)]
fn silu(g: f32) -> (f32, f32) {
    let s = 1.0 / (1.0 + exp(-g));
    (g * s, s * (1.0 + g * (1.0 - s)))
}

/// GELU of `g` in its tanh form and its derivative: g · σ(2z) with z = √(2/π)(g + 0.044715 g³).
#[inline(always)]
fn gelu(g: f32) -> (f32, f32) {
    let z = 2.0 * ROOT * g * (1.0 + CUBE * g * g);
    let slope = 2.0 * ROOT * (1.0 + 3.0 * CUBE * g * g);
    let s = 1.0 / (1.0 + exp(-z));
    (g * s, s + g * s * (1.0 - s) * slope)
}

pub(crate) fn gated(kind: Gate, y: &mut [MaybeUninit<f32>], gate: &[f32], up: &[f32]) {
    match kind {
        Gate::Silu => silu_gated(y, gate, up),
        Gate::Gelu => gelu_gated(y, gate, up),
    }
}

/// Backward of the gated product: `dgate` is written, and `dup`, which holds the gradient of the
/// output, becomes the gradient of `up`.
pub(crate) fn gated_backward(
    kind: Gate,
    dgate: &mut [MaybeUninit<f32>],
    dup: &mut [f32],
    gate: &[f32],
    up: &[f32],
) {
    match kind {
        Gate::Silu => silu_gated_backward(dgate, dup, gate, up),
        Gate::Gelu => gelu_gated_backward(dgate, dup, gate, up),
    }
}

dispatch! {
    fn silu_gated(y: &mut [MaybeUninit<f32>], gate: &[f32], up: &[f32]) {
        for ((y, g), u) in y.iter_mut().zip(gate).zip(up) {
            y.write(silu(*g).0 * u);
        }
    }

    fn gelu_gated(y: &mut [MaybeUninit<f32>], gate: &[f32], up: &[f32]) {
        for ((y, g), u) in y.iter_mut().zip(gate).zip(up) {
            y.write(gelu(*g).0 * u);
        }
    }

    fn silu_gated_backward(
        dgate: &mut [MaybeUninit<f32>], dup: &mut [f32], gate: &[f32], up: &[f32],
    ) {
        for ((dgate, dup), (g, u)) in dgate.iter_mut().zip(dup).zip(gate.iter().zip(up)) {
            let (value, derivative) = silu(*g);
            dgate.write(*dup * u * derivative);
            *dup *= value;
        }
    }

    fn gelu_gated_backward(
        dgate: &mut [MaybeUninit<f32>], dup: &mut [f32], gate: &[f32], up: &[f32],
    ) {
        for ((dgate, dup), (g, u)) in dgate.iter_mut().zip(dup).zip(gate.iter().zip(up)) {
            let (value, derivative) = gelu(*g);
            dgate.write(*dup * u * derivative);
            *dup *= value;
        }
    }
}
