//! The fused operations on plain `f32` slices, row-major, single-threaded unless said otherwise.
//!
//! Accumulation: dot products and sums run in f32 over 16 or 32 independent lanes that are added at
//! the end in a fixed order; matrix products accumulate in f32 inside `gemm`, those of experts feature by
//! feature; losses are summed in f64. The result depends on the instruction set in the last bits, never on the thread count.
//!
//! Loops are written so that the compiler vectorises them; [`dispatch`] compiles each for several
//! instruction sets and picks one when the program runs. Only the products of experts are written with
//! intrinsics.

mod attention;
mod buffer;
mod distillation;
mod embedding;
mod exp;
mod expert;
mod gate;
mod instructions;
mod linear;
mod loss;
mod norm;
mod optimiser;
mod rotary;
mod simd;

pub(crate) use attention::{Finished, Sequence, attention, attention_backward};
pub(crate) use buffer::{Unwritten, filled, keep, zeros};
pub(crate) use distillation::{DistilledRow, Gradients, Side, distilled_rows, divergence_to};
pub(crate) use embedding::{embedding, embedding_backward};
pub(crate) use expert::{Affine, ExpertMlp, Middle, expert, has_fused_multiply_add, weighted_rows};
pub(crate) use gate::{
    activate, activate_backward, clamped_swiglu, clamped_swiglu_backward, gated, gated_backward,
};
pub use instructions::{InstructionSet, InstructionSetError};
pub(crate) use linear::{add_bias, add_rows, linear, linear_input_gradient, new_weight_gradient};
pub(crate) use loss::{RowLoss, row_losses, row_losses_with_gradients};
pub(crate) use norm::{add_rms_norm, layer_norm, layer_norm_backward, rms_norm, rms_norm_backward};
pub(crate) use optimiser::{adamw, muon, squared_norm};
pub(crate) use rotary::{rotate, rotate_neighbours};
pub(crate) use simd::dispatch;

#[cfg(test)]
mod tests;
