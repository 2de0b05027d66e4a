//! e^x for loops that vectorise.

/// e^x with a relative error below 2e-7 for x in [-87, 88]; clamped outside, so that e^-∞ is
/// 1.6e-38 rather than 0 and nothing overflows. NaN stays NaN.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2; ln 2 is split in two so that r is exact; e^r by a polynomial
/// of degree 6 (coefficients of the Cephes library's `expf`).
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5·2²³: adding it rounds to a whole number
    let x = if x > 88.0 { 88.0 } else { x };
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4;
    let r = r + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let y = p * r * r + r + 1.0;
    y * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000))
}

/// cap·tanh(x/cap) and its derivative.
#[inline(always)]
pub(super) fn soft_capped(x: f32, cap: f32) -> (f32, f32) {
    // tanh z = (1 − e)/(1 + e) with e = e^(−2|z|), which cancels near 0: there its series.
    let z = x / cap;
    let e = exp(-2.0 * z.abs());
    let far = (1.0 - e) / (1.0 + e);
    let squared = z * z;
    let near = 62.0 / 2835.0;
    let near = near * squared - 17.0 / 315.0;
    let near = near * squared + 2.0 / 15.0;
    let near = near * squared - 1.0 / 3.0;
    let near = z.abs() * (near * squared + 1.0);
    let size = if squared < 0.06 { near } else { far };
    let tanh = if z < 0.0 { -size } else { size };
    (cap * tanh, 1.0 - tanh * tanh)
}

/// Replaces each element by e^(x − shift) and returns their sum.
#[inline(always)]
pub(super) fn exp_in_place(values: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0f32; 16];
    let mut blocks = values.chunks_exact_mut(16);
    for x in &mut blocks {
        for lane in 0..16 {
            x[lane] = exp(x[lane] - shift);
            lanes[lane] += x[lane];
        }
    }
    let mut tail = 0.0;
    for x in blocks.into_remainder() {
        *x = exp(*x - shift);
        tail += *x;
    }
    tail + lanes.iter().sum::<f32>()
}

/// Σ e^(x − shift), leaving the elements alone.
#[inline(always)]
pub(super) fn exp_sum(values: &[f32], shift: f32) -> f32 {
    let mut lanes = [0f32; 16];
    let blocks = values.chunks_exact(16);
    let tail: f32 = blocks.remainder().iter().map(|x| exp(x - shift)).sum();
    for x in blocks {
        for lane in 0..16 {
            lanes[lane] += exp(x[lane] - shift);
        }
    }
    tail + lanes.iter().sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::{exp, soft_capped};

    #[test]
    fn a_soft_cap_is_within_a_millionth_and_its_slope_too() {
        for step in -40_000..40_000 {
            let x = step as f32 * 1e-3;
            let exact = 3.0 * (f64::from(x) / 3.0).tanh();
            let (found, slope) = soft_capped(x, 3.0);
            assert!((f64::from(found) - exact).abs() <= 1e-6 * exact.abs(), "{x}: {found} {exact}");
            let exact = 1.0 - (exact / 3.0).powi(2);
            assert!((f64::from(slope) - exact).abs() < 1e-6, "{x}: {slope} {exact}");
        }
    }

    #[test]
    fn exp_is_within_its_stated_error() {
        let mut worst = 0f64;
        for step in -870_000..880_000 {
            let x = step as f32 * 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max(((f64::from(exp(x)) - exact) / exact).abs());
        }
        assert!(worst < 2e-7, "worst relative error {worst:e}");
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::NEG_INFINITY) < 2e-38);
        assert!(exp(f32::INFINITY).is_finite());
    }
}
