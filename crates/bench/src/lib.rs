//! How fast this machine trains and runs models, and what share of its own peak that is.
//!
//! The peak is measured in the same run, because these numbers mean little without it: clocks, cores
//! and neighbours differ from machine to machine and from hour to hour.

mod machine;
mod norm;
mod workload;

use std::time::Instant;

use burn::tensor::{Int, Tensor, TensorData};
use lns_kernels::{Compute, LossTerms, Workers};
use lns_model::{Decoder, Sampling};
use lns_record::BenchResult;
use lns_train::{
    AdamW, Batch, BatchError, Decay, Optimiser, Trainer, TrainingOptions, flops_per_token,
};

pub use machine::{Load, copy_gigabytes, peak_gflops};
pub use norm::{NormTraffic, norm_traffic};
pub use workload::Workload;

use machine::{median, peak_resident_bytes, reset_peak_resident, spread};

/// Learning rate of the training workloads.
const LEARNING_RATE: f64 = 1e-3;

/// Steps before the clock starts.
const WARM_UP: u64 = 2;

/// How a measurement is made, and for how long.
#[derive(Debug, Clone)]
pub struct Effort {
    /// Seconds of measured steps, at least five of them.
    pub seconds: f64,
    /// How training computes.
    pub options: TrainingOptions,
    /// Steps whose loss is recorded, from the first.
    pub losses: u64,
    /// GFLOP/s of [`peak_gflops`], of which the results are given as shares.
    pub peak_gflops: f64,
    /// Where and how the workloads are computed.
    pub compute: Compute,
}

/// The options of the training workloads: AdamW on everything, as the PyTorch side does it.
pub fn training_options() -> TrainingOptions {
    TrainingOptions {
        optimiser: Optimiser::AdamW(AdamW {
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            decay: Decay::All,
        }),
        ..TrainingOptions::default()
    }
}

/// Measures training steps of a workload: forward, backward and update.
///
/// # Errors
/// Never for the workloads of [`Workload::all`].
pub fn train(workload: &Workload, effort: &Effort) -> Result<BenchResult, BatchError> {
    reset_peak_resident();
    let model = workload.model(&effort.compute);
    let mut trainer = Trainer::new(model, effort.options, effort.compute.clone());
    let mut losses = Vec::new();
    for step in 0..WARM_UP.max(effort.losses) {
        let done = trainer.step(&workload.batch(step)?, LEARNING_RATE)?;
        if step < effort.losses {
            losses.push(done.loss);
        }
    }
    let seconds = timed(effort.seconds, || {
        let batch = workload.batch(trainer.steps())?;
        let before = Instant::now();
        trainer.step(&batch, LEARNING_RATE)?;
        Ok(before.elapsed().as_secs_f64())
    })?;
    Ok(result(
        workload.name,
        "train",
        workload.tokens(),
        workload.flops_per_token(),
        &seconds,
        effort,
        losses,
    ))
}

/// Measures the losses of a workload's batches, without gradients.
///
/// # Errors
/// Never for the workloads of [`Workload::all`].
pub fn forward(workload: &Workload, effort: &Effort) -> Result<BenchResult, BatchError> {
    reset_peak_resident();
    let model = workload.model(&effort.compute);
    let workers = &effort.compute.workers;
    let mut step = 0;
    let mut losses = Vec::new();
    for _ in 0..WARM_UP.max(effort.losses) {
        let loss = batch_loss(&model, workload, &workload.batch(step)?, workers);
        if step < effort.losses {
            losses.push(loss);
        }
        step += 1;
    }
    let seconds = timed(effort.seconds, || {
        let batch = workload.batch(step)?;
        step += 1;
        let before = Instant::now();
        batch_loss(&model, workload, &batch, workers);
        Ok(before.elapsed().as_secs_f64())
    })?;
    Ok(result(
        workload.name,
        "forward",
        workload.tokens(),
        workload.flops_per_token() / 3.0,
        &seconds,
        effort,
        losses,
    ))
}

fn batch_loss(model: &Decoder, workload: &Workload, batch: &Batch, workers: &Workers) -> f64 {
    let (sequences, shares) = (batch.sequences(), workers.count().min(batch.sequences()));
    let sums = workers.map(shares, |share| {
        let own = share * sequences / shares..(share + 1) * sequences / shares;
        let (inputs, targets) = batch.part(own.clone());
        let ids: Vec<i32> = inputs.iter().map(|id| *id as i32).collect();
        let data = TensorData::new(ids, [own.len(), workload.length]);
        let tokens = Tensor::<2, Int>::from_data(data, &model.device());
        let (loss, _) = model.loss(tokens, targets, LossTerms::default());
        loss.into_scalar::<f32>()
    });
    sums.into_iter().map(f64::from).sum::<f64>() / batch.predicted() as f64
}

/// Measures prefill, a prompt of `length` tokens up to the first new token, and decode, one new
/// token at a time. There is one sequence, and matrix products are spread over the threads of
/// rayon's current pool.
pub fn generate(
    name: &str,
    model: &Decoder,
    length: usize,
    new_tokens: usize,
    effort: &Effort,
) -> [BenchResult; 2] {
    reset_peak_resident();
    let vocabulary = model.spec().vocab_size as u64;
    let prompt: Vec<u32> =
        (0..length as u64).map(|i| ((i * 7919 + 13) % vocabulary) as u32).collect();
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    let start = Instant::now();
    while start.elapsed().as_secs_f64() < effort.seconds || prefill.len() < 3 {
        let mut tokens = model.generate(&prompt, new_tokens + 1, Sampling::default());
        let before = Instant::now();
        let _ = tokens.next();
        prefill.push(before.elapsed().as_secs_f64());
        let before = Instant::now();
        let made = tokens.count();
        decode.push(before.elapsed().as_secs_f64() / made.max(1) as f64);
    }
    let flops = |context: usize| flops_per_token(model.spec(), context) / 3.0;
    // Only the last token of a prompt goes through the head.
    let spec = model.spec();
    let head = (2 * spec.vocab_size * spec.hidden_size) as f64 * (1.0 - 1.0 / length as f64);
    [
        result(name, "prefill", length, flops(length) - head, &prefill, effort, Vec::new()),
        result(name, "decode", 1, flops(length + new_tokens / 2), &decode, effort, Vec::new()),
    ]
}

/// Runs `step`, which says how long it took, until the seconds are over and five have been taken.
fn timed(
    seconds: f64,
    mut step: impl FnMut() -> Result<f64, BatchError>,
) -> Result<Vec<f64>, BatchError> {
    let mut taken = Vec::new();
    let start = Instant::now();
    while start.elapsed().as_secs_f64() < seconds || taken.len() < 5 {
        taken.push(step()?);
    }
    Ok(taken)
}

fn result(
    name: &str,
    mode: &str,
    tokens: usize,
    flops_per_token: f64,
    seconds: &[f64],
    effort: &Effort,
    losses: Vec<f64>,
) -> BenchResult {
    let tokens_per_second = tokens as f64 / median(&mut seconds.to_vec());
    let gflops = tokens_per_second * flops_per_token / 1e9;
    BenchResult {
        name: name.to_owned(),
        mode: mode.to_owned(),
        tokens_per_second,
        spread: spread(&mut seconds.to_vec()),
        gflops,
        share_of_peak: gflops / effort.peak_gflops,
        peak_rss_bytes: peak_resident_bytes(),
        steps: seconds.len() as u64,
        losses,
    }
}
