//! Training a decoder on the CPU, one step at a time.
//!
//! Each worker takes its own sequences of the batch through the whole forward and backward pass with
//! single-threaded operations, on parameters of its own tape that share the model's memory. Then the
//! workers' gradients are added in the workers' order, fused with the update of the parameters. The
//! result is the same to the bit for a given model, batch and number of workers.

mod batch;
mod estimate;
mod gradients;
mod optimiser;
mod trainer;

pub use batch::{Batch, BatchError};
pub use estimate::{Estimate, flops_per_token};
pub use optimiser::{Decay, Optimiser};
pub use trainer::{Step, Trainer, TrainingOptions};
