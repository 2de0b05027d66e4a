//! One worker per core, each taking whole sequences through single-threaded operations.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

/// A fixed set of worker threads.
///
/// Jobs are independent and their results come back in job order, so what a caller sums over them
/// does not depend on which worker took which job.
#[derive(Debug)]
pub struct Workers {
    pools: Vec<ThreadPool>,
}

impl Workers {
    /// `threads` workers, at least one.
    ///
    /// # Errors
    /// When the operating system does not start the threads.
    pub fn new(threads: usize) -> Result<Self, ThreadPoolBuildError> {
        let pool = |_| ThreadPoolBuilder::new().num_threads(1).build();
        Ok(Self { pools: (0..threads.max(1)).map(pool).collect::<Result<_, _>>()? })
    }

    /// The number of workers.
    pub fn count(&self) -> usize {
        self.pools.len()
    }

    /// `job(item)` of each item, in the items' order, computed by whichever worker is free.
    pub fn each<T: Send, R: Send>(&self, items: Vec<T>, job: impl Fn(T) -> R + Sync) -> Vec<R> {
        let items: Vec<Mutex<Option<T>>> =
            items.into_iter().map(|item| Mutex::new(Some(item))).collect();
        self.map(items.len(), |index| {
            let item = items[index].lock().ok().and_then(|mut item| item.take());
            // `map` calls each index once, and a lock is held only for the take.
            item.map(&job)
        })
        .into_iter()
        .flatten()
        .collect()
    }

    /// `job(0)`, …, `job(jobs - 1)`, in that order, computed by whichever worker is free.
    pub fn map<R: Send>(&self, jobs: usize, job: impl Fn(usize) -> R + Sync) -> Vec<R> {
        let next = AtomicUsize::new(0);
        let results: Vec<Mutex<Option<R>>> = (0..jobs).map(|_| Mutex::new(None)).collect();
        let work = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(slot) = results.get(index) else { break };
                let result = job(index);
                if let Ok(mut slot) = slot.lock() {
                    *slot = Some(result);
                }
            }
        };
        std::thread::scope(|scope| {
            for pool in self.pools.iter().take(jobs) {
                scope.spawn(|| pool.install(work));
            }
        });
        let take = |slot: Mutex<Option<R>>| slot.into_inner().ok().flatten();
        // The scope re-raised the panic of any job, so every slot is filled here.
        results.into_iter().filter_map(take).collect()
    }
}

/// Runs `f` with `threads` threads for the operations inside it: for one sequence alone, where there
/// is nothing to hand to workers.
///
/// # Errors
/// When the operating system does not start the threads.
pub fn with_threads<R: Send>(
    threads: usize,
    f: impl FnOnce() -> R + Send,
) -> Result<R, ThreadPoolBuildError> {
    Ok(ThreadPoolBuilder::new().num_threads(threads.max(1)).build()?.install(f))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_back_in_job_order_from_single_threaded_pools() {
        for threads in [1, 2, 3] {
            let workers = Workers::new(threads).expect("threads start");
            let results = workers.map(17, |job| (job * job, rayon::current_num_threads()));
            assert_eq!(results, (0..17).map(|job| (job * job, 1)).collect::<Vec<_>>());
        }
    }
}
