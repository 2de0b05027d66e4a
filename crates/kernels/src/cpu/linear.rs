//! Matrix products straight on the buffers, through the `gemm` crate.

use std::mem::MaybeUninit;

use gemm::Parallelism;
use rayon::prelude::*;

use super::{
    buffer::Unwritten,
    dispatch,
    simd::{add_to, dot},
};

/// A strided view of a matrix: element (i, j) is at `i * rows + j * columns`.
#[derive(Clone, Copy)]
pub(super) struct Strides {
    /// Distance from one row to the next.
    pub(super) rows: usize,
    /// Distance from one column to the next.
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

/// What becomes of a product.
pub(super) enum Target<'a> {
    /// It is written, over whatever is there.
    New(&'a mut Unwritten),
    /// It is added to what is there.
    Added(&'a mut [f32]),
}

/// c\[m, n\] = alpha · a\[m, k\] · b\[k, n\], or c plus that. Runs on rayon's current pool: inside a
/// worker that pool has one thread, and so has the product.
pub(super) fn product(
    [m, n, k]: [usize; 3],
    (c, c_strides): (Target<'_>, Strides),
    (a, a_strides): (&[f32], Strides),
    (b, b_strides): (&[f32], Strides),
    alpha: f32,
) {
    let (c, length, add) = match c {
        Target::New(c) => (c.as_mut_ptr().cast(), c.len(), false),
        Target::Added(c) => (c.as_mut_ptr(), c.len(), true),
    };
    assert!(c_strides.length(m, n) <= length, "product: the result does not fit");
    assert!(a_strides.length(m, k) <= a.len(), "product: the left factor is too short");
    assert!(b_strides.length(k, n) <= b.len(), "product: the right factor is too short");
    let parallelism = match rayon::current_num_threads() {
        1 => Parallelism::None,
        threads => Parallelism::Rayon(threads),
    };
    // SAFETY: the asserts above prove that every index the strides can produce lies inside its
    // slice; `c` is borrowed mutably, so it overlaps neither `a` nor `b`; it is read only where
    // `add` says that it holds numbers.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c,
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
pub(crate) fn linear(y: &mut Unwritten, x: &[f32], weight: &[f32], input: usize) {
    let (rows, output) = (x.len() / input, weight.len() / input);
    if rows == 1 {
        vector_product(y, x, weight);
    } else {
        product(
            [rows, output, input],
            (Target::New(y), Strides::row_major(output)),
            (x, Strides::row_major(input)),
            (weight, Strides::row_major(input).transposed()),
            1.0,
        );
    }
}

/// dx\[rows, in\] = dy\[rows, out\] · weight.
pub(crate) fn linear_input_gradient(dx: &mut Unwritten, dy: &[f32], weight: &[f32], input: usize) {
    let output = weight.len() / input;
    product(
        [dy.len() / output, input, output],
        (Target::New(dx), Strides::row_major(input)),
        (dy, Strides::row_major(output)),
        (weight, Strides::row_major(input)),
        1.0,
    );
}

/// dweight\[out, in\] = dyᵀ · x.
pub(super) fn linear_weight_gradient(target: Target<'_>, dy: &[f32], x: &[f32], input: usize) {
    let rows = x.len() / input;
    let output = dy.len() / rows;
    product(
        [output, input, rows],
        (target, Strides::row_major(input)),
        (dy, Strides::row_major(output).transposed()),
        (x, Strides::row_major(input)),
        1.0,
    );
}

/// The weight's gradient of [`linear`], dyᵀ · x, written over what is there.
pub(crate) fn new_weight_gradient(dw: &mut Unwritten, dy: &[f32], x: &[f32], input: usize) {
    linear_weight_gradient(Target::New(dw), dy, x, input);
}

/// y\[out\] = weight · x: one token, limited by how fast the weight can be read.
fn vector_product(y: &mut Unwritten, x: &[f32], weight: &[f32]) {
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
            add_to(row, bias);
        }
    }

    /// Adds every row of `dy` to `dbias`.
    pub(crate) fn add_rows(dbias: &mut [f32], dy: &[f32]) {
        for row in dy.chunks_exact(dbias.len()) {
            add_to(dbias, row);
        }
    }

    fn dot_rows(y: &mut [MaybeUninit<f32>], x: &[f32], weight: &[f32]) {
        for (y, row) in y.iter_mut().zip(weight.chunks_exact(x.len())) {
            y.write(dot(x, row));
        }
    }
}
