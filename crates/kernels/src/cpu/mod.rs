//! The fused operations on plain `f32` slices, row-major, single-threaded unless said otherwise.
//!
//! Accumulation: dot products and sums run in f32 over 16 or 32 independent lanes that are added at
//! the end in a fixed order; matrix products accumulate in f32 inside `gemm`; losses are summed in
//! f64. The result depends on the instruction set in the last bits, never on the thread count.
//!
//! Loops are written so that the compiler vectorises them; [`dispatch`] compiles each for several
//! instruction sets and picks one when the program runs.

mod attention;
mod exp;
mod linear;
mod loss;
mod norm;
mod rotary;
mod simd;
mod swiglu;

pub(crate) use attention::causal_attention;
pub(crate) use linear::{add_bias, linear};
pub(crate) use loss::{divergence_to, next_token_nll};
pub(crate) use norm::{layer_norm, rms_norm};
pub(crate) use rotary::rotate;
pub(crate) use simd::dispatch;
pub(crate) use swiglu::swiglu;

#[cfg(test)]
mod tests;
