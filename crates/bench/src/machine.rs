//! What the machine can do at most, measured here and now.

use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use lns_kernels::{Precision, Workers, linear_in};

/// Seconds over which a peak is looked for.
const SECONDS: f64 = 1.0;

/// GFLOP/s of matrix products in the given precision, each the best of a few square sizes, each the
/// median of its repeats: on the CPU over all workers at once, on another device one after another.
pub fn peak_gflops(workers: &Workers, device: &Device, precision: Precision) -> f64 {
    let on_cpu = *device == Device::flex();
    let sizes = if on_cpu { [256, 512, 768] } else { [1024, 2048, 4096] };
    let seconds = SECONDS / sizes.len() as f64;
    let rate = |size: usize| -> f64 {
        // Together, because cores share their power and clock.
        let jobs = if on_cpu { workers.count() } else { 1 };
        workers.map(jobs, |_| product_gflops(device, precision, size, seconds)).into_iter().sum()
    };
    sizes.into_iter().map(rate).fold(0.0, f64::max)
}

fn product_gflops(device: &Device, precision: Precision, size: usize, seconds: f64) -> f64 {
    let random = || Tensor::<2>::random([size, size], Distribution::Normal(0.0, 1.0), device);
    let (x, weight) = (random(), random());
    let flops = 2.0 * (size as f64).powi(3);
    let mut rates = Vec::new();
    let start = Instant::now();
    while start.elapsed().as_secs_f64() < seconds || rates.len() < 3 {
        let before = Instant::now();
        std::hint::black_box(linear_in(precision, x.clone(), weight.clone(), None));
        if device.sync().is_err() {
            return 0.0;
        }
        rates.push(flops / before.elapsed().as_secs_f64() / 1e9);
    }
    median(&mut rates)
}

/// GB/s of copying memory larger than the cache, bytes read and written, over all workers at once.
pub fn copy_gigabytes(workers: &Workers, bytes: usize) -> f64 {
    let count = bytes / size_of::<f32>();
    let rates = workers.map(workers.count(), |_| {
        let from = vec![1f32; count];
        let mut to = vec![0f32; count];
        let mut rates = Vec::new();
        for _ in 0..9 {
            let before = Instant::now();
            to.copy_from_slice(std::hint::black_box(&from));
            std::hint::black_box(&mut to);
            rates.push(2.0 * bytes as f64 / before.elapsed().as_secs_f64() / 1e9);
        }
        median(&mut rates)
    });
    rates.into_iter().sum()
}

/// Middle value; 0 of nothing.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Peak resident memory of this process in bytes since it was last reset, where the system says.
pub(crate) fn peak_resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// Starts the peak again from what is resident now; where the system does not allow it, peaks are of
/// the whole process so far.
pub(crate) fn reset_peak_resident() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}
