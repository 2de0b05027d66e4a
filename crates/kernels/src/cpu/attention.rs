//! Grouped-query attention, forward and backward.
//!
//! Queries go in blocks of rows against keys in blocks of columns: the scores of one block exist at
//! a time, never tokens × tokens. Forward keeps a running maximum and sum per row (the online
//! softmax) and leaves the weights unnormalised until the product with the values is done, so that
//! the division touches head_dim numbers per row instead of one per key. Backward makes the weights
//! again from the scores and each row's log-sum (Dao et al., arXiv 2205.14135).

use std::ops::Range;

use rayon::prelude::*;

use super::{
    buffer::{over, with_scratch},
    dispatch,
    exp::{exp_in_place, soft_capped},
    linear::{Strides, Target, product},
    simd::{dot, maximum},
};
use crate::{AttentionMask, AttentionShape};

/// Query rows whose scores exist at once. Measured on AVX-512: 64 and 128 are level, 32 is slower.
const QUERY_BLOCK: usize = 64;

/// Keys whose scores exist at once: 64 × 512 scores are 128 KiB.
const KEY_BLOCK: usize = 512;

/// One sequence's tensors: `q` is queries × (heads · head_dim), `k` is keys × (key_value_heads · head_dim)
/// and `v` keys × (key_value_heads · features of a value); the last query is at the last key's position.
#[derive(Clone, Copy)]
pub(crate) struct Sequence<'a> {
    pub(crate) q: &'a [f32],
    pub(crate) k: &'a [f32],
    pub(crate) v: &'a [f32],
    pub(crate) shape: &'a AttentionShape,
    /// For each key's position, where its document starts; `None` is one document.
    pub(crate) document_starts: Option<&'a [u32]>,
    /// For each head a score that takes a share of every softmax and no value; −∞ takes none.
    pub(crate) sinks: &'a [f32],
}

/// What the forward pass leaves for the backward pass, and the gradient that arrives.
#[derive(Clone, Copy)]
pub(crate) struct Finished<'a> {
    /// Queries × (heads · features of a value).
    pub(crate) out: &'a [f32],
    /// log Σ e^score, the sink's among them, heads × queries.
    pub(crate) log_sums: &'a [f32],
    /// Shaped as `out`.
    pub(crate) gradient: &'a [f32],
}

impl<'a> Sequence<'a> {
    fn queries(&self) -> usize {
        self.q.len() / (self.shape.heads * self.shape.head_dim)
    }

    fn keys(&self) -> usize {
        self.k.len() / (self.shape.key_value_heads * self.shape.head_dim)
    }

    /// Features of a head's value: as many as of its key in most models.
    fn value_dim(&self) -> usize {
        self.v.len() / (self.keys() * self.shape.key_value_heads).max(1)
    }

    /// Position of query row 0.
    fn offset(&self) -> usize {
        self.keys() - self.queries()
    }

    /// The end of the keys that query `row` sees; never decreases from row to row.
    fn end_of_keys(&self, row: usize) -> usize {
        match self.shape.mask {
            AttentionMask::Causal => self.offset() + row + 1,
            AttentionMask::Full => self.keys(),
        }
    }

    /// The first key that query `row` sees; never decreases from row to row.
    fn first_key(&self, row: usize) -> usize {
        let position = self.offset() + row;
        let windowed = self.shape.window.map_or(0, |window| (position + 1).saturating_sub(window));
        let document = self.document_starts.map_or(0, |starts| starts[position] as usize);
        windowed.max(document)
    }

    /// The blocks of rows of a head.
    fn row_blocks(&self) -> usize {
        self.queries().div_ceil(QUERY_BLOCK)
    }

    fn rows(&self, block: usize) -> Range<usize> {
        block * QUERY_BLOCK..((block + 1) * QUERY_BLOCK).min(self.queries())
    }

    /// The blocks of keys that any of `rows` sees.
    fn key_blocks(&self, rows: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        let seen = self.first_key(rows.start)..self.end_of_keys(rows.end - 1);
        seen.clone().step_by(KEY_BLOCK).map(move |start| start..(start + KEY_BLOCK).min(seen.end))
    }

    /// Keys of the block `keys` that query `row` sees, counted from the block's first.
    fn visible(&self, row: usize, keys: &Range<usize>) -> Range<usize> {
        let start = self.first_key(row).clamp(keys.start, keys.end);
        let end = self.end_of_keys(row).clamp(start, keys.end);
        start - keys.start..end - keys.start
    }

    /// Where a head's `features` begin in row `row` of queries, or of what the attention gives.
    fn query_at(&self, head: usize, row: usize, features: usize) -> usize {
        (row * self.shape.heads + head) * features
    }

    /// Where those of a head's key or value begin.
    fn key_at(&self, head: usize, key: usize, features: usize) -> usize {
        let group = self.shape.heads / self.shape.key_value_heads;
        (key * self.shape.key_value_heads + head / group) * features
    }

    fn query_rows(&self, features: usize) -> Strides {
        Strides::row_major(self.shape.heads * features)
    }

    fn key_rows(&self, features: usize) -> Strides {
        Strides::row_major(self.shape.key_value_heads * features)
    }

    /// alpha · a · bᵀ for one block of a head of so many features: `a` has a row for each query, `b` for
    /// each key.
    fn rows_by_keys(
        &self,
        scores: &mut [f32],
        [a, b]: [&[f32]; 2],
        head: usize,
        (rows, keys): (&Range<usize>, &Range<usize>),
        features: usize,
        alpha: f32,
    ) {
        product(
            [rows.len(), keys.len(), features],
            (Target::New(over(scores)), Strides::row_major(keys.len())),
            (&a[self.query_at(head, rows.start, features)..], self.query_rows(features)),
            (&b[self.key_at(head, keys.start, features)..], self.key_rows(features).transposed()),
            alpha,
        );
    }

    fn scale(&self) -> f32 {
        match self.shape.scores.scale {
            None => 1.0 / (self.shape.head_dim as f32).sqrt(),
            Some(scale) => scale as f32,
        }
    }

    fn softcap(&self) -> Option<f32> {
        self.shape.scores.softcap.map(|cap| cap as f32)
    }

    /// ∂loss/∂sink from some rows: its value is nothing, so that it gets −weight · mean.
    fn sink_gradient(&self, head: usize, rows: &Range<usize>, finished: &Finished<'_>) -> f32 {
        let sink = self.sinks[head];
        if sink == f32::NEG_INFINITY {
            return 0.0;
        }
        let of_row = |row: usize| {
            let place = self.query_at(head, row, self.value_dim());
            let own = place..place + self.value_dim();
            let weight = (sink - finished.log_sums[head * self.queries() + row]).exp();
            -weight * dot(&finished.out[own.clone()], &finished.gradient[own])
        };
        rows.clone().map(of_row).sum()
    }

    /// Output of one head for a block of query rows: rows × features of a value into `out`, and each row's
    /// log-sum.
    fn attend(&self, out: &mut [f32], log_sums: &mut [f32], head: usize, rows: &Range<usize>) {
        let (head_dim, value_dim) = (self.shape.head_dim, self.value_dim());
        with_scratch(QUERY_BLOCK * (KEY_BLOCK + 2), |scratch| {
            let (running, scores) = scratch.split_at_mut(2 * QUERY_BLOCK);
            let (largest, sums) = running.split_at_mut(QUERY_BLOCK);
            let sink = self.sinks[head];
            largest.fill(sink);
            sums.fill(if sink == f32::NEG_INFINITY { 0.0 } else { 1.0 });
            for (block, keys) in self.key_blocks(rows).enumerate() {
                let scores = &mut scores[..rows.len() * keys.len()];
                let (pair, block_of) = ([self.q, self.k], (rows, &keys));
                self.rows_by_keys(scores, pair, head, block_of, head_dim, self.scale());
                if let Some(cap) = self.softcap() {
                    soft_cap(scores, cap);
                }
                for (at, row) in rows.clone().enumerate() {
                    let scores = &mut scores[at * keys.len()..][..keys.len()];
                    let visible = self.visible(row, &keys);
                    let before = largest[at];
                    let sum = softmax_numerators(
                        scores,
                        visible.start,
                        visible.end,
                        before,
                        &mut largest[at],
                    );
                    // Earlier blocks were shifted by a smaller maximum, or had no key that the row sees.
                    let nothing = before == f32::NEG_INFINITY;
                    let shrink = if nothing { 0.0 } else { (before - largest[at]).exp() };
                    if block > 0 && shrink != 1.0 {
                        out[at * value_dim..][..value_dim].iter_mut().for_each(|o| *o *= shrink);
                    }
                    sums[at] = sums[at] * shrink + sum;
                }
                let target = if block == 0 { Target::New(over(out)) } else { Target::Added(out) };
                product(
                    [rows.len(), value_dim, keys.len()],
                    (target, Strides::row_major(value_dim)),
                    (scores, Strides::row_major(keys.len())),
                    (&self.v[self.key_at(head, keys.start, value_dim)..], self.key_rows(value_dim)),
                    1.0,
                );
            }
            for (at, row) in out.chunks_exact_mut(value_dim).enumerate() {
                let inverse = 1.0 / sums[at];
                row.iter_mut().for_each(|value| *value *= inverse);
                log_sums[at] = largest[at] + sums[at].ln();
            }
        });
    }
}

/// Attention of one sequence. `out` is queries × (heads · features of a value), `log_sums` is heads × queries.
pub(crate) fn attention(out: &mut [f32], log_sums: &mut [f32], sequence: &Sequence<'_>) {
    let (value_dim, queries) = (sequence.value_dim(), sequence.queries());
    let blocks = sequence.row_blocks();
    let one = |job: usize, result: &mut [f32]| {
        let (head, rows) = (job / blocks, sequence.rows(job % blocks));
        let (out, log_sums) =
            result[..rows.len() * (value_dim + 1)].split_at_mut(rows.len() * value_dim);
        sequence.attend(out, log_sums, head, &rows);
    };
    let mut place = |job: usize, result: &[f32]| {
        let (head, rows) = (job / blocks, sequence.rows(job % blocks));
        let (values, sums) =
            result[..rows.len() * (value_dim + 1)].split_at(rows.len() * value_dim);
        log_sums[head * queries..][rows.clone()].copy_from_slice(sums);
        for (row, values) in rows.zip(values.chunks_exact(value_dim)) {
            out[sequence.query_at(head, row, value_dim)..][..value_dim].copy_from_slice(values);
        }
    };
    let size = QUERY_BLOCK * (value_dim + 1);
    let jobs = sequence.shape.heads * blocks;
    if rayon::current_num_threads() == 1 {
        with_scratch(size, |result| {
            for job in 0..jobs {
                one(job, result);
                place(job, result);
            }
        });
    } else {
        let compute = |job: usize| {
            let mut result = vec![0.0; size];
            one(job, &mut result);
            result
        };
        let results: Vec<_> = (0..jobs).into_par_iter().map(compute).collect();
        results.iter().enumerate().for_each(|(job, result)| place(job, result));
    }
}

/// Backward of [`attention`]: `dq`, `dk`, `dv` and `dsinks` are shaped as q, k, v and the sinks; all are
/// added to.
pub(crate) fn attention_backward(
    [dq, dk, dv, dsinks]: [&mut [f32]; 4],
    sequence: &Sequence<'_>,
    finished: &Finished<'_>,
) {
    let queries = sequence.queries();
    let (head_dim, value_dim) = (sequence.shape.head_dim, sequence.value_dim());
    let (q_rows, k_rows) = (sequence.query_rows(head_dim), sequence.key_rows(head_dim));
    with_scratch((QUERY_BLOCK * 2 + 1) * KEY_BLOCK, |scratch| {
        let (weights, rest) = scratch.split_at_mut(QUERY_BLOCK * KEY_BLOCK);
        let (gradients, slopes) = rest.split_at_mut(QUERY_BLOCK * KEY_BLOCK);
        let blocks = sequence.row_blocks();
        for job in 0..sequence.shape.heads * blocks {
            let (head, rows) = (job / blocks, sequence.rows(job % blocks));
            let first = sequence.query_at(head, rows.start, head_dim);
            let first_out = sequence.query_at(head, rows.start, value_dim);
            dsinks[head] += sequence.sink_gradient(head, &rows, finished);
            for keys in sequence.key_blocks(&rows) {
                let count = rows.len() * keys.len();
                let (weights, gradients) = (&mut weights[..count], &mut gradients[..count]);
                let at = sequence.key_at(head, keys.start, head_dim);
                let value_at = sequence.key_at(head, keys.start, value_dim);
                let scale = sequence.scale();
                let block_of = (&rows, &keys);
                let pair = [sequence.q, sequence.k];
                sequence.rows_by_keys(weights, pair, head, block_of, head_dim, scale);
                let upstream = finished.gradient;
                let pair = [upstream, sequence.v];
                sequence.rows_by_keys(gradients, pair, head, block_of, value_dim, 1.0);
                for (index, row) in rows.clone().enumerate() {
                    let visible = sequence.visible(row, &keys);
                    let place = sequence.query_at(head, row, value_dim);
                    let along = index * keys.len()..(index + 1) * keys.len();
                    let slopes = &mut slopes[..keys.len()];
                    if let Some(cap) = sequence.softcap() {
                        soft_cap_and_slopes(&mut weights[along.clone()], slopes, cap);
                    }
                    score_gradients(
                        &mut weights[along.clone()],
                        &mut gradients[along.clone()],
                        visible.start,
                        visible.end,
                        finished.log_sums[head * queries + row],
                        &finished.out[place..place + value_dim],
                        &upstream[place..place + value_dim],
                        scale,
                    );
                    if sequence.softcap().is_some() {
                        multiply(&mut gradients[along], slopes);
                    }
                }
                let block = Strides::row_major(keys.len());
                product(
                    [keys.len(), value_dim, rows.len()],
                    (Target::Added(&mut dv[value_at..]), sequence.key_rows(value_dim)),
                    (weights, block.transposed()),
                    (&upstream[first_out..], sequence.query_rows(value_dim)),
                    1.0,
                );
                product(
                    [keys.len(), head_dim, rows.len()],
                    (Target::Added(&mut dk[at..]), k_rows),
                    (gradients, block.transposed()),
                    (&sequence.q[first..], q_rows),
                    1.0,
                );
                product(
                    [rows.len(), head_dim, keys.len()],
                    (Target::Added(&mut dq[first..]), q_rows),
                    (gradients, block),
                    (&sequence.k[at..], k_rows),
                    1.0,
                );
            }
        }
    });
}

dispatch! {
    /// x ← cap·tanh(x/cap)
    fn soft_cap(scores: &mut [f32], cap: f32) {
        for score in scores {
            *score = soft_capped(*score, cap).0;
        }
    }

    /// As [`soft_cap`], and the derivatives.
    fn soft_cap_and_slopes(scores: &mut [f32], slopes: &mut [f32], cap: f32) {
        for (score, slope) in scores.iter_mut().zip(slopes) {
            (*score, *slope) = soft_capped(*score, cap);
        }
    }

    /// x ← x · factor, element by element.
    fn multiply(x: &mut [f32], factors: &[f32]) {
        for (x, factor) in x.iter_mut().zip(factors) {
            *x *= factor;
        }
    }

    /// e^(score − max) for the visible keys and 0 for the others, `largest` the maximum of these
    /// scores and of `before`; returns the sum.
    fn softmax_numerators(
        scores: &mut [f32], start: usize, end: usize, before: f32, largest: &mut f32,
    ) -> f32 {
        scores[..start].fill(0.0);
        scores[end..].fill(0.0);
        let visible = &mut scores[start..end];
        if visible.is_empty() {
            return 0.0;
        }
        let here = maximum(visible);
        *largest = if here > before { here } else { before };
        exp_in_place(visible, *largest)
    }

    /// From a row's scores and ∂loss/∂weights to its weights and ∂loss/∂(q · k).
    fn score_gradients(
        scores: &mut [f32], gradients: &mut [f32], start: usize, end: usize, log_sum: f32,
        out: &[f32], upstream: &[f32], scale: f32,
    ) {
        for hidden in [0..start, end..scores.len()] {
            scores[hidden.clone()].fill(0.0);
            gradients[hidden].fill(0.0);
        }
        exp_in_place(&mut scores[start..end], log_sum);
        let mean = dot(out, upstream);
        for (gradient, weight) in gradients[start..end].iter_mut().zip(&scores[start..end]) {
            *gradient = weight * (*gradient - mean) * scale;
        }
    }
}
