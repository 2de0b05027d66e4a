//! Angular distance of two points of the stream, arccos(cosine)/π per token (arXiv 2403.17887;
//! eq. 1 of arXiv 2502.05795), averaged over content tokens.
//!
//! Computed from the unit vectors u, v as 2·atan2(‖u − v‖, ‖u + v‖)/π: equal to the arccosine, but
//! accurate for small angles, exactly 0 for equal vectors and exactly 1 for opposite ones.

use std::f64::consts::PI;

/// Reciprocal norm of each row; 0 for a row of zeros.
pub(crate) fn reciprocal_norms(stream: &[f32], width: usize) -> Vec<f64> {
    let norm = |row: &[f32]| row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    stream
        .chunks_exact(width)
        .map(|row| match norm(row) {
            norm if norm > 0.0 => 1.0 / norm,
            _ => 0.0,
        })
        .collect()
}

/// Σ over the tokens that count of the angular distance between two streams.
pub(crate) fn distance_sum(
    (a, a_norms): (&[f32], &[f64]),
    (b, b_norms): (&[f32], &[f64]),
    width: usize,
    counts: &[bool],
) -> f64 {
    let rows = a.chunks_exact(width).zip(b.chunks_exact(width)).zip(a_norms.iter().zip(b_norms));
    rows.zip(counts)
        .filter(|(_, counts)| **counts)
        .map(|(((a, b), (a_norm, b_norm)), _)| distance(a, b, *a_norm, *b_norm))
        .sum()
}

fn distance(a: &[f32], b: &[f32], a_norm: f64, b_norm: f64) -> f64 {
    if a_norm == 0.0 || b_norm == 0.0 {
        // Two zero vectors are equal; one is orthogonal to anything.
        return if a_norm == b_norm { 0.0 } else { 0.5 };
    }
    const LANES: usize = 8;
    let (mut difference, mut sum) = ([0f64; LANES], [0f64; LANES]);
    let (a_blocks, b_blocks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail = a_blocks.remainder().iter().zip(b_blocks.remainder());
    for (a, b) in a_blocks.zip(b_blocks) {
        for lane in 0..LANES {
            let (u, v) = (f64::from(a[lane]) * a_norm, f64::from(b[lane]) * b_norm);
            difference[lane] += (u - v) * (u - v);
            sum[lane] += (u + v) * (u + v);
        }
    }
    for (a, b) in tail {
        let (u, v) = (f64::from(*a) * a_norm, f64::from(*b) * b_norm);
        difference[0] += (u - v) * (u - v);
        sum[0] += (u + v) * (u + v);
    }
    let total = |lanes: [f64; LANES]| lanes.iter().sum::<f64>().sqrt();
    2.0 * total(difference).atan2(total(sum)) / PI
}

#[cfg(test)]
mod tests {
    use super::*;

    fn between(a: &[f32], b: &[f32]) -> f64 {
        let norms = |x: &[f32]| reciprocal_norms(x, x.len());
        distance_sum((a, &norms(a)), (b, &norms(b)), a.len(), &[true])
    }

    #[test]
    fn a_vector_is_at_distance_zero_from_itself_and_one_from_its_opposite() {
        for scale in [1e-20f32, 1e-3, 1.0, 3e4, 1e18] {
            // 600 values, each representable in bf16.
            let a: Vec<f32> = (0..600).map(|i| ((i * 37 % 101) as f32 - 50.0) * scale).collect();
            let opposite: Vec<f32> = a.iter().map(|x| -x).collect();
            let longer: Vec<f32> = a.iter().map(|x| x * 2.0).collect();
            assert_eq!(between(&a, &a), 0.0);
            assert_eq!(between(&a, &longer), 0.0);
            assert_eq!(between(&a, &opposite), 1.0);
        }
    }

    #[test]
    fn known_angles_have_their_distance() {
        assert!((between(&[1.0, 0.0], &[0.0, 5.0]) - 0.5).abs() < 1e-15);
        assert!((between(&[1.0, 0.0], &[1.0, 1.0]) - 0.25).abs() < 1e-15);
        let tiny = between(&[1.0, 0.0], &[1.0, 1e-7]);
        assert!((tiny * PI / 1e-7 - 1.0).abs() < 1e-6, "arccos of a rounded cosine would give 0");
    }

    #[test]
    fn zero_vectors_give_a_number() {
        assert_eq!(between(&[0.0; 9], &[0.0; 9]), 0.0);
        assert_eq!(between(&[0.0; 9], &[1.0; 9]), 0.5);
    }
}
