//! Norms over the last dimension with the depth scale fused into the last multiplication.
//!
//! Statistics of a row are recomputed in the backward pass instead of being kept.

use std::mem::MaybeUninit;

use super::{
    dispatch,
    simd::{dot, sum, sums},
};

/// 1 / √(mean(x²) + eps).
#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt()
}

/// mean and 1 / √(variance + eps).
#[inline(always)]
fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let mean = sum(x) / x.len() as f32;
    let [squares] = sums([x, x, x], |x, _, _| [(x - mean) * (x - mean)]);
    let variance = squares / x.len() as f32;
    (mean, 1.0 / (variance + eps).sqrt())
}

dispatch! {
    /// y = x / √(mean(x²) + eps) · γ · scale, row by row. `y`, `x`: rows × γ.len().
    pub(crate) fn rms_norm(
        y: &mut [MaybeUninit<f32>], x: &[f32], gamma: &[f32], eps: f32, scale: f32,
    ) {
        let width = gamma.len();
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let factor = scale * inverse_rms(x, eps);
            for ((y, x), g) in y.iter_mut().zip(x).zip(gamma) {
                y.write(x * factor * g);
            }
        }
    }

    /// stream ← stream + branch, and y = [`rms_norm`] of the sum, in one pass over the rows.
    pub(crate) fn add_rms_norm(
        stream: &mut [MaybeUninit<f32>], y: &mut [MaybeUninit<f32>], x: &[f32], branch: &[f32],
        gamma: &[f32], eps: f32, scale: f32,
    ) {
        let width = gamma.len();
        let rows = stream.chunks_exact_mut(width).zip(y.chunks_exact_mut(width));
        let inputs = x.chunks_exact(width).zip(branch.chunks_exact(width));
        for ((stream, y), (x, branch)) in rows.zip(inputs) {
            let [squares] = sums([x, branch, branch], |x, b, _| [(x + b) * (x + b)]);
            let factor = scale / (squares / width as f32 + eps).sqrt();
            let out = stream.iter_mut().zip(y);
            for (((stream, y), (x, branch)), g) in out.zip(x.iter().zip(branch)).zip(gamma) {
                stream.write(x + branch);
                y.write((x + branch) * factor * g);
            }
        }
    }

    /// Backward of [`rms_norm`]: `dx` is written, `dgamma` is added to.
    ///
    /// With q = 1/√(mean(x²) + eps) and u = dy·γ: dx = scale·q·(u − x·q²·mean(u·x)).
    pub(crate) fn rms_norm_backward(
        dx: &mut [MaybeUninit<f32>], dgamma: &mut [f32], dy: &[f32], x: &[f32], gamma: &[f32],
        eps: f32, scale: f32,
    ) {
        let width = gamma.len();
        let rows = dy.chunks_exact(width).zip(x.chunks_exact(width));
        for (dx, (dy, x)) in dx.chunks_exact_mut(width).zip(rows) {
            let [squares, products] = sums([dy, x, gamma], |dy, x, g| [x * x, dy * g * x]);
            let inverse = 1.0 / (squares / width as f32 + eps).sqrt();
            let factor = scale * inverse;
            let pull = products / width as f32 * inverse * inverse;
            let out = dx.iter_mut().zip(dgamma.iter_mut());
            for (((dx, dgamma), (dy, x)), g) in out.zip(dy.iter().zip(x)).zip(gamma) {
                dx.write((dy * g - x * pull) * factor);
                *dgamma += dy * x * factor;
            }
        }
    }

    /// y = ((x − mean) / √(variance + eps) · γ + β) · scale, row by row.
    pub(crate) fn layer_norm(
        y: &mut [MaybeUninit<f32>], x: &[f32], gamma: &[f32], beta: &[f32], eps: f32, scale: f32,
    ) {
        let width = gamma.len();
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let (mean, inverse) = moments(x, eps);
            for ((y, x), (g, b)) in y.iter_mut().zip(x).zip(gamma.iter().zip(beta)) {
                y.write(((x - mean) * (inverse * g) + b) * scale);
            }
        }
    }

    /// Backward of [`layer_norm`]: `dx` is written, `dgamma` and `dbeta` are added to.
    ///
    /// With z = (x − mean)·q and u = dy·γ: dx = scale·q·(u − mean(u) − z·mean(u·z)).
    pub(crate) fn layer_norm_backward(
        dx: &mut [MaybeUninit<f32>], dgamma: &mut [f32], dbeta: &mut [f32], dy: &[f32], x: &[f32],
        gamma: &[f32], eps: f32, scale: f32,
    ) {
        let width = gamma.len();
        let rows = dy.chunks_exact(width).zip(x.chunks_exact(width));
        for (dx, (dy, x)) in dx.chunks_exact_mut(width).zip(rows) {
            let (mean, inverse) = moments(x, eps);
            let [totals, products] =
                sums([dy, x, gamma], |dy, x, g| [dy * g, dy * g * (x - mean)]);
            let shift = totals / width as f32;
            let pull = products / width as f32 * inverse * inverse;
            let gains = dgamma.iter_mut().zip(dbeta.iter_mut());
            let out = dx.iter_mut().zip(gains);
            for (((dx, (dgamma, dbeta)), (dy, x)), g) in out.zip(dy.iter().zip(x)).zip(gamma) {
                let centred = x - mean;
                dx.write((dy * g - shift - centred * pull) * (scale * inverse));
                *dgamma += dy * centred * (scale * inverse);
                *dbeta += dy * scale;
            }
        }
    }
}
