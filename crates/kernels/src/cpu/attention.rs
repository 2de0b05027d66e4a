//! Causal grouped-query attention, forward.
//!
//! Queries go in blocks of rows: the scores of one block against the keys it may see exist at a
//! time, never tokens × tokens. The softmax is left unnormalised until the product with the values
//! is done, so that the division touches head_dim numbers per row instead of one per key.

use rayon::prelude::*;

use super::{
    dispatch,
    exp::exp_in_place,
    linear::{Strides, product},
    simd::maximum,
};
use crate::AttentionShape;

/// Query rows whose scores exist at once. Measured on AVX-512: 64 and 128 are level, 32 is slower.
const QUERY_BLOCK: usize = 64;

/// One sequence: `queries` × (heads · head_dim) against `keys` × (key_value_heads · head_dim); the
/// last query is at the last key's position. `out` is shaped as `q`.
pub(crate) fn causal_attention(
    out: &mut [f32],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    shape: &AttentionShape,
    [queries, keys]: [usize; 2],
) {
    let (head_dim, width) = (shape.head_dim, shape.heads * shape.head_dim);
    let blocks = queries.div_ceil(QUERY_BLOCK);
    let one = |job: usize| {
        let (head, block) = (job / blocks, job % blocks);
        let rows = block * QUERY_BLOCK..((block + 1) * QUERY_BLOCK).min(queries);
        (head, rows.clone(), attend(q, k, v, shape, head, rows, [queries, keys]))
    };
    let jobs = shape.heads * blocks;
    let mut place = |(head, rows, result): (usize, std::ops::Range<usize>, Vec<f32>)| {
        for (row, values) in rows.zip(result.chunks_exact(head_dim)) {
            out[row * width + head * head_dim..][..head_dim].copy_from_slice(values);
        }
    };
    if rayon::current_num_threads() == 1 {
        (0..jobs).map(one).for_each(&mut place);
    } else {
        let results: Vec<_> = (0..jobs).into_par_iter().map(one).collect();
        results.into_iter().for_each(&mut place);
    }
}

/// Output of one head for a block of query rows: rows × head_dim.
fn attend(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    shape: &AttentionShape,
    head: usize,
    rows: std::ops::Range<usize>,
    [queries, keys]: [usize; 2],
) -> Vec<f32> {
    let head_dim = shape.head_dim;
    let (q_width, kv_width) = (shape.heads * head_dim, shape.key_value_heads * head_dim);
    let kv_head = head / (shape.heads / shape.key_value_heads);
    // Position of query row r is `offset + r`; it sees keys up to and including its own.
    let offset = keys - queries;
    let first_key = |row: usize| match shape.window {
        Some(window) => (offset + row + 1).saturating_sub(window),
        None => 0,
    };
    let seen = first_key(rows.start)..offset + rows.end;
    let (count, width) = (rows.len(), seen.len());

    let mut scores = vec![0f32; count * width];
    product(
        [count, width, head_dim],
        (&mut scores, Strides::row_major(width)),
        (&q[rows.start * q_width + head * head_dim..], Strides::row_major(q_width)),
        (
            &k[seen.start * kv_width + kv_head * head_dim..],
            Strides::row_major(kv_width).transposed(),
        ),
        1.0 / (head_dim as f32).sqrt(),
        false,
    );
    let mut sums = vec![0f32; count];
    for ((row, scores), sum) in rows.clone().zip(scores.chunks_exact_mut(width)).zip(&mut sums) {
        let visible = first_key(row) - seen.start..offset + row + 1 - seen.start;
        *sum = softmax_numerators(scores, visible.start, visible.end);
    }
    let mut out = vec![0f32; count * head_dim];
    product(
        [count, head_dim, width],
        (&mut out, Strides::row_major(head_dim)),
        (&scores, Strides::row_major(width)),
        (&v[seen.start * kv_width + kv_head * head_dim..], Strides::row_major(kv_width)),
        1.0,
        false,
    );
    for (row, sum) in out.chunks_exact_mut(head_dim).zip(sums) {
        for value in row {
            *value /= sum;
        }
    }
    out
}

dispatch! {
    /// e^(score − max) for the visible keys and 0 for the others; returns the sum.
    fn softmax_numerators(scores: &mut [f32], start: usize, end: usize) -> f32 {
        scores[..start].fill(0.0);
        scores[end..].fill(0.0);
        let visible = &mut scores[start..end];
        let largest = maximum(visible);
        exp_in_place(visible, largest)
    }
}
