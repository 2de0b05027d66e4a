//! Rotary position embedding: feature j turns with feature j + pairs, or 2j with 2j + 1; the features
//! before and after the pairs stay.

use super::dispatch;

dispatch! {
    /// Rotates every head of `x` in place by `direction` (1, or −1 for the way back) times the
    /// position's angle. `x`: tokens × (heads · head_dim), token t of each sequence of `length` tokens
    /// at row t of `cos` and `sin` (rows × `half`, the pairs that turn). `heads`: the features of a head,
    /// and which is the first that turns.
    ///
    /// The backward pass of a rotation is the rotation back, times the table's own factor: the
    /// transpose of c·R(θ) is c·R(−θ).
    pub(crate) fn rotate(
        x: &mut [f32], cos: &[f32], sin: &[f32], direction: f32, width: usize, heads: (usize, usize), half: usize, length: usize,
    ) {
        for (token, row) in x.chunks_exact_mut(width).enumerate() {
            let at = (token % length) * half;
            let (cos, sin) = (&cos[at..at + half], &sin[at..at + half]);
            for head in row.chunks_exact_mut(heads.0) {
                let (first, second) = head[heads.1..][..2 * half].split_at_mut(half);
                for j in 0..half {
                    let (a, b, s) = (first[j], second[j], direction * sin[j]);
                    first[j] = a * cos[j] - b * s;
                    second[j] = b * cos[j] + a * s;
                }
            }
        }
    }

    /// As [`rotate`], features 2j and 2j + 1 turning together.
    pub(crate) fn rotate_neighbours(
        x: &mut [f32], cos: &[f32], sin: &[f32], direction: f32, width: usize, heads: (usize, usize), half: usize, length: usize,
    ) {
        for (token, row) in x.chunks_exact_mut(width).enumerate() {
            let at = (token % length) * half;
            let (cos, sin) = (&cos[at..at + half], &sin[at..at + half]);
            for head in row.chunks_exact_mut(heads.0) {
                for ((pair, c), s) in head[heads.1..][..2 * half].chunks_exact_mut(2).zip(cos).zip(sin) {
                    let (a, b, s) = (pair[0], pair[1], direction * s);
                    pair[0] = a * c - b * s;
                    pair[1] = b * c + a * s;
                }
            }
        }
    }
}
