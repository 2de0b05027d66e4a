//! SwiGLU's pointwise part.

use super::{dispatch, exp::exp};

dispatch! {
    /// gate ← gate · σ(gate) · up
    pub(crate) fn swiglu(gate: &mut [f32], up: &[f32]) {
        for (g, u) in gate.iter_mut().zip(up) {
            *g = *g * u / (1.0 + exp(-*g));
        }
    }
}
