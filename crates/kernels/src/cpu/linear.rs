//! Matrix products straight on the buffers, through the `gemm` crate.

use gemm::Parallelism;
use rayon::prelude::*;

use super::{dispatch, simd::dot};

/// A strided view of a matrix: element (i, j) is at `i * rows + j * columns`.
#[derive(Clone, Copy)]
pub(super) struct Strides {
    /// From one row to the next.
    pub(super) rows: usize,
    /// From one column to the next.
    pub(super) columns: usize,
}

impl Strides {
    pub(super) const fn row_major(width: usize) -> Self {
        Self { rows: width, columns: 1 }
    }

    /// The same memory read as the transposed matrix.
    pub(super) const fn transposed(self) -> Self {
        Self { rows: self.columns, columns: self.rows }
    }

    const fn length(self, rows: usize, columns: usize) -> usize {
        if rows == 0 || columns == 0 {
            0
        } else {
            (rows - 1) * self.rows + (columns - 1) * self.columns + 1
        }
    }
}

/// c\[m, n\] = alpha · a\[m, k\] · b\[k, n\] (+ c when `add`). Runs on rayon's current pool: inside a
/// worker that pool has one thread, and so has the product.
pub(super) fn product(
    [m, n, k]: [usize; 3],
    (c, c_strides): (&mut [f32], Strides),
    (a, a_strides): (&[f32], Strides),
    (b, b_strides): (&[f32], Strides),
    alpha: f32,
    add: bool,
) {
    assert!(c_strides.length(m, n) <= c.len(), "product: the result does not fit");
    assert!(a_strides.length(m, k) <= a.len(), "product: the left factor is too short");
    assert!(b_strides.length(k, n) <= b.len(), "product: the right factor is too short");
    let parallelism = match rayon::current_num_threads() {
        1 => Parallelism::None,
        threads => Parallelism::Rayon(threads),
    };
    // SAFETY: the asserts above prove that every index the strides can produce lies inside its
    // slice; `c` is borrowed mutably, so it overlaps neither `a` nor `b`.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            c_strides.columns as isize,
            c_strides.rows as isize,
            add,
            a.as_ptr(),
            a_strides.columns as isize,
            a_strides.rows as isize,
            b.as_ptr(),
            b_strides.columns as isize,
            b_strides.rows as isize,
            1.0,
            alpha,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// y\[rows, out\] = x\[rows, in\] · weightᵀ, weight \[out, in\].
pub(crate) fn linear(y: &mut [f32], x: &[f32], weight: &[f32], input: usize) {
    let (rows, output) = (x.len() / input, weight.len() / input);
    if rows == 1 {
        vector_product(y, x, weight);
    } else {
        product(
            [rows, output, input],
            (y, Strides::row_major(output)),
            (x, Strides::row_major(input)),
            (weight, Strides::row_major(input).transposed()),
            1.0,
            false,
        );
    }
}

/// y\[out\] = weight · x: one token, limited by how fast the weight can be read.
fn vector_product(y: &mut [f32], x: &[f32], weight: &[f32]) {
    let input = x.len();
    match rayon::current_num_threads() {
        1 => dot_rows(y, x, weight),
        threads => {
            let block = y.len().div_ceil(threads);
            let weights = weight.par_chunks(block * input);
            y.par_chunks_mut(block).zip(weights).for_each(|(y, weight)| dot_rows(y, x, weight));
        }
    }
}

dispatch! {
    /// Adds `bias` to every row of `y`.
    pub(crate) fn add_bias(y: &mut [f32], bias: &[f32]) {
        for row in y.chunks_exact_mut(bias.len()) {
            for (y, b) in row.iter_mut().zip(bias) {
                *y += b;
            }
        }
    }

    fn dot_rows(y: &mut [f32], x: &[f32], weight: &[f32]) {
        for (y, row) in y.iter_mut().zip(weight.chunks_exact(x.len())) {
            *y = dot(x, row);
        }
    }
}
