//! Norms over the last dimension with the depth scale fused into the last multiplication.

use super::{
    dispatch,
    simd::{dot, sum},
};

dispatch! {
    /// y = x / √(mean(x²) + eps) · γ · scale, row by row. `y`, `x`: rows × γ.len().
    pub(crate) fn rms_norm(y: &mut [f32], x: &[f32], gamma: &[f32], eps: f32, scale: f32) {
        let width = gamma.len();
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let factor = scale / (dot(x, x) / width as f32 + eps).sqrt();
            for ((y, x), g) in y.iter_mut().zip(x).zip(gamma) {
                *y = x * factor * g;
            }
        }
    }

    /// y = ((x − mean) / √(variance + eps) · γ + β) · scale, row by row.
    pub(crate) fn layer_norm(
        y: &mut [f32], x: &[f32], gamma: &[f32], beta: &[f32], eps: f32, scale: f32,
    ) {
        let width = gamma.len();
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let mean = sum(x) / width as f32;
            for (y, x) in y.iter_mut().zip(x) {
                *y = x - mean;
            }
            let factor = 1.0 / (dot(y, y) / width as f32 + eps).sqrt();
            for (y, g) in y.iter_mut().zip(gamma) {
                *y *= factor * g;
            }
            for (y, b) in y.iter_mut().zip(beta) {
                *y += b;
            }
            for y in y.iter_mut() {
                *y *= scale;
            }
        }
    }
}
