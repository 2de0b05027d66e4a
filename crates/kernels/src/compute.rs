//! Where and how something is computed, as a value.

use std::{fmt::Debug, sync::Arc};

use burn::tensor::Device;
use rayon::ThreadPoolBuildError;

use crate::{Precision, Workers};

/// The CPU, where the fused operations are.
pub fn cpu_device() -> Device {
    Device::flex()
}

/// Whether a device is the CPU, its tensors with or without a tape.
pub fn is_cpu(device: &Device) -> bool {
    *device == cpu_device()
}

/// Sums over all processes that compute together, in the order of their ranks, so that every process gets
/// the same bits: an all-reduce, of MPI for example.
///
/// Every process calls the same methods in the same order with slices of the same length. Each holds
/// the same model and its own sequences of the batch; after the sums each takes the same step.
pub trait Exchange: Debug + Send + Sync {
    /// Replaces `values` by their sum over all processes.
    fn sum(&self, values: &mut [f32]);

    /// The same for counts and losses, which are summed in f64.
    fn sum_counts(&self, values: &mut [f64]);
}

/// Where and how something is computed. Cheap to clone: clones share their threads.
///
/// ```
/// use lns_kernels::{Compute, Precision};
///
/// let compute = Compute::on_cpu(2)?.with_precision(Precision::Bf16);
/// assert_eq!(compute.workers.count(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Compute {
    /// Where tensors live.
    pub device: Device,
    /// What matrix products compute in.
    pub precision: Precision,
    /// The threads, each with its own part of the work. On another device than the CPU they only hand it
    /// out.
    pub workers: Arc<Workers>,
    /// The other processes that train the same model, if there are any.
    pub exchange: Option<Arc<dyn Exchange>>,
}

impl Compute {
    /// On a device with `threads` workers, at least one, and with no other process.
    ///
    /// # Errors
    /// When the operating system does not start the threads.
    pub fn new(
        device: Device,
        precision: Precision,
        threads: usize,
    ) -> Result<Self, ThreadPoolBuildError> {
        let workers = Arc::new(Workers::new(threads)?);
        Ok(Self { device, precision, workers, exchange: None })
    }

    /// On the CPU in f32.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn on_cpu(threads: usize) -> Result<Self, ThreadPoolBuildError> {
        Self::new(cpu_device(), Precision::F32, threads)
    }

    /// The same with matrix products in another precision.
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// The same with another number of threads; those that there are stay if they are as many.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_threads(self, threads: usize) -> Result<Self, ThreadPoolBuildError> {
        if self.workers.count() == threads.max(1) {
            return Ok(self);
        }
        Ok(Self { workers: Arc::new(Workers::new(threads)?), ..self })
    }

    /// The same together with other processes, each with its own part of every batch.
    #[must_use]
    pub fn with_exchange(self, exchange: Arc<dyn Exchange>) -> Self {
        Self { exchange: Some(exchange), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_started_again_only_for_another_number_of_them() {
        let two = Compute::on_cpu(2).expect("threads start");
        let same = two.clone().with_threads(2).expect("threads start");
        assert!(Arc::ptr_eq(&two.workers, &same.workers));
        let three = two.clone().with_threads(3).expect("threads start");
        assert_eq!((two.workers.count(), three.workers.count()), (2, 3));
    }

    #[test]
    fn the_cpu_is_the_cpu_with_and_without_a_tape() {
        assert!(is_cpu(&cpu_device()) && is_cpu(&cpu_device().autodiff()));
    }
}
