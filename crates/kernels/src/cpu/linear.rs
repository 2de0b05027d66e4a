//! Matrix products straight on the buffers, through the `gemm` crate.

use std::mem::MaybeUninit;

use gemm::Parallelism;
use rayon::prelude::*;

use super::{
    buffer::Unwritten,
    dispatch,
    instructions::InstructionSet,
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
        products::of(InstructionSet::in_use())(
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

/// `gemm` picks its kernels by what the machine has, once and for all. Where a narrower set is in use, they are
/// called past that choice.
mod products {
    use gemm::Parallelism;
    use gemm_common::{gemm::gemm_basic_generic, simd::MixedSimd};

    use super::InstructionSet;

    /// As `gemm::gemm`: m, n, k; the result, its columns' and rows' strides, whether it is added to; the left
    /// and the right factor with theirs; what the result and the product are multiplied by; whether the three
    /// are conjugated; threads.
    pub(super) type Product = unsafe fn(
        usize,
        usize,
        usize,
        *mut f32,
        isize,
        isize,
        bool,
        *const f32,
        isize,
        isize,
        *const f32,
        isize,
        isize,
        f32,
        f32,
        bool,
        bool,
        bool,
        Parallelism,
    );

    pub(super) fn of(set: InstructionSet) -> Product {
        match set {
            set if set == InstructionSet::widest() => gemm::gemm,
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => fma,
            _ => scalar,
        }
    }

    macro_rules! kernels {
        ($(#[$meta:meta])* $name:ident, $module:ident, $simd:ty, $lanes:literal) => {
            $(#[$meta])*
            #[allow(clippy::too_many_arguments, reason = "the signature is gemm's")]
            unsafe fn $name(
                m: usize, n: usize, k: usize,
                c: *mut f32, c_columns: isize, c_rows: isize, add: bool,
                a: *const f32, a_columns: isize, a_rows: isize,
                b: *const f32, b_columns: isize, b_rows: isize,
                alpha: f32, beta: f32,
                conjugate_c: bool, conjugate_a: bool, conjugate_b: bool,
                parallelism: Parallelism,
            ) {
                use gemm_f32::microkernel::$module::f32::{H_M, H_N, H_UKR, MR_DIV_N, NR, UKR};
                // The kernels want a result whose columns are contiguous: transposed, rows are.
                let transposed = c_columns < c_rows;
                let (m, n, c_columns, c_rows) =
                    if transposed { (n, m, c_rows, c_columns) } else { (m, n, c_columns, c_rows) };
                let (a, a_columns, a_rows, b, b_columns, b_rows) = match transposed {
                    true => (b, b_rows, b_columns, a, a_rows, a_columns),
                    false => (a, a_columns, a_rows, b, b_columns, b_rows),
                };
                let Some(simd) = <$simd as MixedSimd<f32, f32, f32, f32>>::try_new() else {
                    // A set is in use only where the machine has it.
                    unreachable!("the machine lacks {}", stringify!($module));
                };
                // SAFETY: the caller's pointers and strides, as they are promised to `gemm::gemm`.
                unsafe {
                    gemm_basic_generic::<_, f32, $lanes, { MR_DIV_N * $lanes }, NR, MR_DIV_N, H_M, H_N>(
                        simd, m, n, k, c, c_columns, c_rows, add, a, a_columns, a_rows, b, b_columns,
                        b_rows, alpha, beta, conjugate_c, conjugate_a, conjugate_b,
                        |a, b, c| a * b + c, &UKR, &H_UKR, false, parallelism,
                    );
                }
            }
        };
    }

    kernels!(
        #[cfg(target_arch = "x86_64")]
        fma,
        fma,
        gemm_common::simd::V3,
        8
    );
    kernels!(scalar, scalar, gemm_common::simd::Scalar, 1);
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
