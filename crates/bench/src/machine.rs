//! What the machine can do at most, measured here and now.

use std::{num::NonZeroUsize, time::Instant};

use burn::tensor::{Distribution, Tensor};
use lns_kernels::{Compute, Workers, is_cpu, linear_in};

/// Seconds over which a peak is looked for.
const SECONDS: f64 = 1.0;

/// GFLOP/s of matrix products, each the best of a few square sizes, each the
/// median of its repeats: on the CPU over all workers at once, or over as many as there are cores (each
/// job is timed by itself, and those that take turns on a core would all claim it), on another device
/// one after another.
pub fn peak_gflops(compute: &Compute) -> f64 {
    let (on_cpu, workers) = (is_cpu(&compute.device), &compute.workers);
    let sizes = if on_cpu { [256, 512, 768] } else { [1024, 2048, 4096] };
    let seconds = SECONDS / sizes.len() as f64;
    let rate = |size: usize| -> f64 {
        // All cores at once, because they share their power and clock.
        let jobs = if on_cpu { busy(workers) } else { 1 };
        workers.map(jobs, |_| product_gflops(compute, size, seconds)).into_iter().sum()
    };
    sizes.into_iter().map(rate).fold(0.0, f64::max)
}

/// The number of workers that can each have a core.
pub(crate) fn busy(workers: &Workers) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    workers.count().min(cores)
}

fn product_gflops(compute: &Compute, size: usize, seconds: f64) -> f64 {
    let (device, precision) = (&compute.device, compute.precision);
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

/// GB/s of copying memory larger than the cache, bytes read and written, over all workers at once; of
/// as many as there are cores, as in [`peak_gflops`].
pub fn copy_gigabytes(workers: &Workers, bytes: usize) -> f64 {
    let count = bytes / size_of::<f32>();
    let rates = workers.map(busy(workers), |_| {
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

/// The middle one of the values; 0 if there are none.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Half of the range that holds the middle half of `values`, as a share of their median: how far a value
/// that is repeated lies from it.
pub(crate) fn spread(values: &mut [f64]) -> f64 {
    let middle = median(values);
    let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
    if values.is_empty() || middle == 0.0 { 0.0 } else { (at(0.75) - at(0.25)) / 2.0 / middle }
}

/// How busy the machine is, from a moment on.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    since: Instant,
    start: Ticks,
}

/// Processor time so far, in the system's ticks of a hundredth of a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticks {
    /// Ticks that all programs took.
    all: u64,
    /// Ticks that this program took.
    own: u64,
    cores: u64,
}

/// Ticks in a second: what Linux reports to programs, whatever its own clock.
const TICKS: f64 = 100.0;

impl Load {
    /// Begins to watch; `None` where the system does not tell.
    pub fn now() -> Option<Self> {
        Some(Self { since: Instant::now(), start: Ticks::now()? })
    }

    /// Cores of this machine, and how many of them other programs have kept busy since.
    pub fn elsewhere(&self) -> Option<(u64, f64)> {
        let end = Ticks::now()?;
        let seconds = self.since.elapsed().as_secs_f64().max(1.0 / TICKS);
        Some((end.cores, end.elsewhere_since(self.start) / TICKS / seconds))
    }
}

impl Ticks {
    fn now() -> Option<Self> {
        let read = |path| std::fs::read_to_string(path).ok();
        Self::parse(&read("/proc/stat")?, &read("/proc/self/stat")?)
    }

    /// Reads the texts of `/proc/stat` and `/proc/self/stat` (see proc(5)).
    fn parse(machine: &str, process: &str) -> Option<Self> {
        let total = machine.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let times: Vec<u64> =
            total.split_whitespace().map(|time| time.parse().ok()).collect::<Option<_>>()?;
        // user, nice, system, then idle and waiting, then interrupts and what other guests took; guests
        // of this machine, which follow, are counted in user.
        let all = times.iter().enumerate().take(8).filter(|(i, _)| ![3, 4].contains(i));
        let is_core = |line: &&str| {
            line.strip_prefix("cpu")
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        let cores = machine.lines().filter(is_core).count() as u64;
        // The name in parentheses may hold anything; user and system time are 12 and 13 after it.
        let (_, fields) = process.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let own = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Self { all: all.map(|(_, time)| time).sum(), own: own(11)? + own(12)?, cores })
    }

    fn elsewhere_since(self, start: Self) -> f64 {
        let own = self.own.saturating_sub(start.own);
        self.all.saturating_sub(start.all).saturating_sub(own) as f64
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_is_that_of_the_middle_half() {
        assert_eq!(spread(&mut [10.0, 9.0, 11.0, 10.0, 500.0]), 0.05);
        assert_eq!(spread(&mut [3.0]), 0.0);
        assert_eq!(spread(&mut []), 0.0);
    }

    #[test]
    fn what_others_use_is_what_the_machine_did_without_this_program() {
        let stat =
            |user: u64| format!("cpu  {user} 5 20 900 30 1 2 3 7 0\ncpu0 1 2\ncpu1 1 2\nintr 9\n");
        let process = |user: u64| format!("42 (a) b) R 1 2 3 4 5 6 7 8 9 10 {user} 6 0 0\n");
        let start = Ticks::parse(&stat(100), &process(40)).expect("well-formed");
        assert_eq!(start, Ticks { all: 100 + 5 + 20 + 1 + 2 + 3, own: 46, cores: 2 });
        let end = Ticks::parse(&stat(400), &process(240)).expect("well-formed");
        assert_eq!(end.elsewhere_since(start), 100.0);
        assert_eq!(Ticks::parse("", ""), None);
        assert_eq!(Ticks::parse("cpu  a b\n", &process(1)), None);
    }
}
