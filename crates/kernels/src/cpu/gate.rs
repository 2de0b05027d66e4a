//! The pointwise part of MLPs: activation(gate) · up, or activation(x) without a gate.
//!
//! With a constant slope a = 1 this is SwiGLU (Shazeer, arXiv 2002.05202). GeGLU's tanh form is the
//! same with a slope that depends on the gate, because ½(1 + tanh z) = σ(2z).

use std::mem::MaybeUninit;

use super::{dispatch, exp::exp};
use crate::{Gate, GateClamp};

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

/// As [`silu`]: g·Φ(g), Φ from the complementary error function's rational approximation with an error
/// below 1.5e-7 (Abramowitz and Stegun, 7.1.26), whose exponential is the derivative's.
#[inline(always)]
fn gelu_erf(g: f32) -> (f32, f32) {
    const DENSITY: f32 = 0.398_942_3; // 1/√(2π)
    let z = g.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let p = 1.061_405_4;
    let p = p * t - 1.453_152;
    let p = p * t + 1.421_413_7;
    let p = p * t - 0.284_496_74;
    let p = p * t + 0.254_829_6;
    let bell = exp(-z * z);
    let tail = 0.5 * p * t * bell;
    let below = if g < 0.0 { tail } else { 1.0 - tail };
    (g * below, below + g * DENSITY * bell)
}

/// The activation of `g` and its derivative.
#[inline(always)]
fn activation(kind: Gate, g: f32) -> (f32, f32) {
    match kind {
        Gate::Silu => silu(g),
        Gate::Gelu => gelu(g),
        Gate::GeluErf => gelu_erf(g),
    }
}

/// y = activation(x), element by element.
pub(crate) fn activate(kind: Gate, y: &mut [MaybeUninit<f32>], x: &[f32]) {
    match kind {
        Gate::Silu => activate_silu(y, x),
        Gate::Gelu => activate_gelu(y, x),
        Gate::GeluErf => activate_gelu_erf(y, x),
    }
}

/// `dx` holds dy and becomes dx.
pub(crate) fn activate_backward(kind: Gate, dx: &mut [f32], x: &[f32]) {
    match kind {
        Gate::Silu => activate_silu_backward(dx, x),
        Gate::Gelu => activate_gelu_backward(dx, x),
        Gate::GeluErf => activate_gelu_erf_backward(dx, x),
    }
}

pub(crate) fn gated(kind: Gate, y: &mut [MaybeUninit<f32>], gate: &[f32], up: &[f32]) {
    match kind {
        Gate::Silu => silu_gated(y, gate, up),
        Gate::Gelu => gelu_gated(y, gate, up),
        Gate::GeluErf => gelu_erf_gated(y, gate, up),
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
        Gate::GeluErf => gelu_erf_gated_backward(dgate, dup, gate, up),
    }
}

/// See [`crate::clamped_swiglu`].
pub(crate) fn clamped_swiglu(
    GateClamp { limit, alpha }: GateClamp,
    y: &mut [MaybeUninit<f32>],
    gate: &[f32],
    up: &[f32],
) {
    clamped(y, gate, up, limit as f32, alpha as f32);
}

/// Backward of [`clamped_swiglu`], with arguments as [`gated_backward`]'s.
pub(crate) fn clamped_swiglu_backward(
    GateClamp { limit, alpha }: GateClamp,
    dgate: &mut [MaybeUninit<f32>],
    dup: &mut [f32],
    gate: &[f32],
    up: &[f32],
) {
    clamped_backward(dgate, dup, gate, up, limit as f32, alpha as f32);
}

/// g · σ(alpha · g) with g kept below the limit, and its derivative.
#[inline(always)]
fn clamped_gate(gate: f32, limit: f32, alpha: f32) -> (f32, f32) {
    let g = if gate > limit { limit } else { gate };
    let s = 1.0 / (1.0 + exp(-alpha * g));
    let slope = s * (1.0 + alpha * g * (1.0 - s));
    (g * s, if gate > limit { 0.0 } else { slope })
}

/// y = activation(x) for one activation.
#[inline(always)]
fn each(kind: Gate, y: &mut [MaybeUninit<f32>], x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        y.write(activation(kind, *x).0);
    }
}

/// dx ← dx · activation'(x) for one activation.
#[inline(always)]
fn each_backward(kind: Gate, dx: &mut [f32], x: &[f32]) {
    for (dx, x) in dx.iter_mut().zip(x) {
        *dx *= activation(kind, *x).1;
    }
}

dispatch! {
    fn clamped(y: &mut [MaybeUninit<f32>], gate: &[f32], up: &[f32], limit: f32, alpha: f32) {
        for ((y, g), u) in y.iter_mut().zip(gate).zip(up) {
            y.write((u.clamp(-limit, limit) + 1.0) * clamped_gate(*g, limit, alpha).0);
        }
    }

    fn clamped_backward(
        dgate: &mut [MaybeUninit<f32>], dup: &mut [f32], gate: &[f32], up: &[f32], limit: f32,
        alpha: f32,
    ) {
        for ((dgate, dup), (g, u)) in dgate.iter_mut().zip(dup).zip(gate.iter().zip(up)) {
            let (value, slope) = clamped_gate(*g, limit, alpha);
            dgate.write(*dup * (u.clamp(-limit, limit) + 1.0) * slope);
            *dup *= if u.abs() > limit { 0.0 } else { value };
        }
    }

    fn activate_silu(y: &mut [MaybeUninit<f32>], x: &[f32]) {
        each(Gate::Silu, y, x);
    }

    fn activate_gelu(y: &mut [MaybeUninit<f32>], x: &[f32]) {
        each(Gate::Gelu, y, x);
    }

    fn activate_gelu_erf(y: &mut [MaybeUninit<f32>], x: &[f32]) {
        each(Gate::GeluErf, y, x);
    }

    fn activate_silu_backward(dx: &mut [f32], x: &[f32]) {
        each_backward(Gate::Silu, dx, x);
    }

    fn activate_gelu_backward(dx: &mut [f32], x: &[f32]) {
        each_backward(Gate::Gelu, dx, x);
    }

    fn activate_gelu_erf_backward(dx: &mut [f32], x: &[f32]) {
        each_backward(Gate::GeluErf, dx, x);
    }

    fn gelu_erf_gated(y: &mut [MaybeUninit<f32>], gate: &[f32], up: &[f32]) {
        for ((y, g), u) in y.iter_mut().zip(gate).zip(up) {
            y.write(gelu_erf(*g).0 * u);
        }
    }

    fn gelu_erf_gated_backward(
        dgate: &mut [MaybeUninit<f32>], dup: &mut [f32], gate: &[f32], up: &[f32],
    ) {
        for ((dgate, dup), (g, u)) in dgate.iter_mut().zip(dup).zip(gate.iter().zip(up)) {
            let (value, derivative) = gelu_erf(*g);
            dgate.write(*dup * u * derivative);
            *dup *= value;
        }
    }

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
