//! The norm's forward and backward against the speed of memory.

use std::time::Instant;

use burn::tensor::{Distribution, Tensor};
use lns_kernels::{Workers, backward_from, cpu_device, rms_norm};

use crate::machine::{busy, copy_gigabytes, median};

/// Features of a row.
const WIDTH: usize = 4096;

/// Rows per worker: 64 MiB, larger than the cache.
const ROWS: usize = 4096;

/// What the norm moves, beside a copy of the same memory in the same run.
#[derive(Debug, Clone, Copy)]
pub struct NormTraffic {
    /// GB/s of a copy, bytes read and written.
    pub copy: f64,
    /// GB/s of forward and backward: x read and y written, then x and dy read and dx written.
    pub norm: f64,
    /// Time with the scale 1/√ℓ over time with the scale 1: LNS over plain RMSNorm, the median of the
    /// rounds.
    pub lns_over_plain: f64,
    /// The least and the greatest ratio of a round.
    pub lns_over_plain_range: (f64, f64),
}

/// RMS norm over rows of 4096, forward and backward, alternating with copies.
pub fn norm_traffic(workers: &Workers, rounds: usize) -> NormTraffic {
    let bytes = ROWS * WIDTH * size_of::<f32>();
    let (mut copies, mut norms, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds.max(1) {
        copies.push(copy_gigabytes(workers, bytes));
        // The two take turns, so that neither has the advantage of coming first.
        let (plain, scaled) = match round % 2 {
            0 => (seconds(workers, 1.0), seconds(workers, 0.5)),
            _ => {
                let scaled = seconds(workers, 0.5);
                (seconds(workers, 1.0), scaled)
            }
        };
        let moved = 5.0 * (bytes * busy(workers)) as f64;
        norms.push(moved / plain / 1e9);
        ratios.push(scaled / plain);
    }
    NormTraffic {
        copy: median(&mut copies),
        norm: median(&mut norms),
        lns_over_plain: median(&mut ratios),
        // Taking the median has sorted the ratios.
        lns_over_plain_range: (ratios[0], ratios[ratios.len() - 1]),
    }
}

/// Seconds of one forward and backward, the median of a few, all workers that have a core at once.
fn seconds(workers: &Workers, scale: f64) -> f64 {
    let times = workers.map(busy(workers), |_| {
        let plain = cpu_device();
        let random = |shape| Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), &plain);
        let (x, upstream) = (random([ROWS, WIDTH]), random([ROWS, WIDTH]));
        let mut times = Vec::new();
        for _ in 0..5 {
            let leaf = Tensor::from_inner(x.clone()).require_grad();
            let gamma = Tensor::from_inner(Tensor::<1>::ones([WIDTH], &plain)).require_grad();
            let before = Instant::now();
            let y = rms_norm(leaf, gamma, 1e-5, scale);
            std::hint::black_box(backward_from(y, upstream.clone()));
            times.push(before.elapsed().as_secs_f64());
        }
        median(&mut times)
    });
    times.into_iter().fold(0.0, f64::max)
}
