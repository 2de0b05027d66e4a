//! Where processes that train one model together add up what each has found.

use std::fmt::Debug;

/// Sums over all processes, in the order of their ranks, so that every process gets the same bits: an
/// all-reduce, of MPI for example.
///
/// Every process calls the same methods in the same order with slices of the same length. Each holds
/// the same model and its own sequences of the batch; after the sums each takes the same step.
pub trait Exchange: Debug + Send + Sync {
    /// Replaces `values` by their sum over all processes.
    fn sum(&self, values: &mut [f32]);

    /// As [`sum`](Self::sum), for counts and losses.
    fn sum_counts(&self, values: &mut [f64]);
}
