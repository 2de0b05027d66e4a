//! Parameter updates, fused with the sum of the workers' gradients and with clipping.

use super::{
    buffer::{over, with_scratch},
    dispatch,
    linear::{Strides, Target, product},
    simd::{add_to, sums},
};
use crate::{AdamW, Muon};

/// Numbers whose gradient is summed at a time: 4 KiB stay in the first-level cache.
const BLOCK: usize = 1024;

/// The block of a gradient from `start`: its range, and the sum over `parts` taken in their order,
/// in `total`.
#[inline(always)]
fn summed<'a>(
    parts: &[&[f32]],
    start: usize,
    total: &'a mut [f32; BLOCK],
) -> (std::ops::Range<usize>, &'a [f32]) {
    let range = start..(start + BLOCK).min(parts[0].len());
    let total = &mut total[..range.len()];
    total.copy_from_slice(&parts[0][range.clone()]);
    for part in &parts[1..] {
        add_to(total, &part[range.clone()]);
    }
    (range, total)
}

dispatch! {
    /// Σ g² of the summed gradient: f32 within a block of 1024, f64 between blocks.
    pub(crate) fn squared_norm(parts: &[&[f32]]) -> f64 {
        let (mut block, mut total) = ([0f32; BLOCK], 0f64);
        for start in (0..parts[0].len()).step_by(BLOCK) {
            let (_, g) = summed(parts, start, &mut block);
            let [squares] = sums([g, g, g], |g, _, _| [g * g]);
            total += f64::from(squares);
        }
        total
    }

    /// One step of AdamW (Loshchilov & Hutter, arXiv 1711.05101); see [`AdamW`].
    pub(crate) fn adamw(
        weights: &mut [f32], first: &mut [f32], second: &mut [f32], parts: &[&[f32]], step: &AdamW,
    ) {
        let AdamW { gradient_scale, learning_rate, beta1, beta2, eps, weight_decay, steps } = *step;
        let correction = |beta: f64| 1.0 / (1.0 - beta.powi(steps.min(i32::MAX as u64) as i32));
        let (c1, c2) = (correction(beta1) as f32, correction(beta2) as f32);
        let keep = (1.0 - learning_rate * weight_decay) as f32;
        let (rate, eps, clip) = (learning_rate as f32, eps as f32, gradient_scale as f32);
        let (m_keep, m_new) = (beta1 as f32, (1.0 - beta1) as f32);
        let (v_keep, v_new) = (beta2 as f32, (1.0 - beta2) as f32);
        let mut block = [0f32; BLOCK];
        for start in (0..parts[0].len()).step_by(BLOCK) {
            let (range, g) = summed(parts, start, &mut block);
            let moments = first[range.clone()].iter_mut().zip(&mut second[range.clone()]);
            for ((w, (m, v)), g) in weights[range].iter_mut().zip(moments).zip(g) {
                let g = g * clip;
                *m = m_keep * *m + m_new * g;
                *v = v_keep * *v + v_new * g * g;
                *w = *w * keep - rate * (*m * c1) / ((*v * c2).sqrt() + eps);
            }
        }
    }

    /// momentum ← μ · momentum + g; direction = g + μ · momentum (Nesterov).
    fn muon_direction(
        direction: &mut [f32], momentum: &mut [f32], parts: &[&[f32]], clip: f32, keep: f32,
    ) {
        let mut block = [0f32; BLOCK];
        for start in (0..parts[0].len()).step_by(BLOCK) {
            let (range, g) = summed(parts, start, &mut block);
            let out = direction[range.clone()].iter_mut().zip(&mut momentum[range]);
            for ((d, m), g) in out.zip(g) {
                let g = g * clip;
                *m = keep * *m + g;
                *d = g + keep * *m;
            }
        }
    }

    fn decay_and_subtract(weights: &mut [f32], direction: &[f32], keep: f32, rate: f32) {
        for (w, d) in weights.iter_mut().zip(direction) {
            *w = *w * keep - rate * d;
        }
    }

    /// y ← a·x + y
    fn scaled_add(y: &mut [f32], x: &[f32], a: f32) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += a * x;
        }
    }

    fn scale(x: &mut [f32], factor: f32) {
        for x in x.iter_mut() {
            *x *= factor;
        }
    }
}

/// One step of Muon on a matrix `rows` × `columns`; see [`Muon`].
pub(crate) fn muon(
    weights: &mut [f32],
    momentum: &mut [f32],
    parts: &[&[f32]],
    [rows, columns]: [usize; 2],
    step: &Muon,
) {
    with_scratch(rows * columns, |direction| {
        let clip = step.gradient_scale as f32;
        muon_direction(direction, momentum, parts, clip, step.momentum as f32);
        orthogonalise(direction, [rows, columns]);
        let keep = 1.0 - step.learning_rate * step.weight_decay;
        let rate = step.learning_rate * step.shape_factor([rows, columns]);
        decay_and_subtract(weights, direction, keep as f32, rate as f32);
    });
}

/// Replaces X by an approximation of the nearest orthogonal matrix: five Newton–Schulz steps
/// X ← aX + (bA + cA²)X with A = XXᵀ of the shorter side (Jordan et al., 2024).
fn orthogonalise(x: &mut [f32], [rows, columns]: [usize; 2]) {
    const STEPS: usize = 5;
    const A: f32 = 3.4445;
    const B: f32 = -4.7750;
    const C: f32 = 2.0315;
    // The same memory seen from its shorter side.
    let (short, long, view) = if rows <= columns {
        (rows, columns, Strides::row_major(columns))
    } else {
        (columns, rows, Strides::row_major(columns).transposed())
    };
    let norm = squared_norm(&[x]).sqrt();
    scale(x, (1.0 / (norm + 1e-7)) as f32);
    let square = short * short;
    with_scratch(2 * square + x.len(), |scratch| {
        let (gram, rest) = scratch.split_at_mut(square);
        let (poly, next) = rest.split_at_mut(square);
        let flat = Strides::row_major(short);
        for _ in 0..STEPS {
            let gram_target = (Target::New(over(gram)), flat);
            product([short, short, long], gram_target, (x, view), (x, view.transposed()), 1.0);
            product([short; 3], (Target::New(over(poly)), flat), (gram, flat), (gram, flat), C);
            scaled_add(poly, gram, B);
            product(
                [short, long, short],
                (Target::New(over(next)), view),
                (poly, flat),
                (x, view),
                1.0,
            );
            scale(x, A);
            add_to(x, next);
        }
    });
}
