//! When a removal has been measured on enough windows.
//!
//! After 4 windows, 8, 16, … the mean paired difference of every variant that is still measured is looked at
//! (successive elimination: Even-Dar, Mannor and Mansour, JMLR 7, 2006), and the variant is done where its
//! interval is narrower than asked or clear of the threshold below which a layer is idle. Whoever looks
//! several times has several chances to be wrong, so the looks share the 5 % that a 95 % interval may miss
//! (alpha spending: Lan and DeMets, Biometrika 70, 1983; added up by Bonferroni's inequality): the first
//! look's interval misses with 2.5 %, each later one's with half of the one before, and the last, where the
//! windows end, with what is left. Whichever look a variant ends at, and for whatever reason, its interval
//! then covers with 95 % at least. How many windows there will be does not enter into it, so that a diagnosis
//! that was stopped is the diagnosis of the windows that it kept.

use std::collections::BTreeSet;

use lns_record::VerdictRecord;
use lns_statistics::{LEVEL, margin_at, mean};

use crate::{
    observer::{Lacks, Measured, differences},
    probes::removal::IDLE_THRESHOLD,
};

/// Windows at the first look: with fewer, no layer is judged.
const FIRST_LOOK: usize = VerdictRecord::WINDOWS_TO_JUDGE as usize;

/// The windows after which `windows` are looked at, or the first look if that is still to come.
pub(crate) fn next_look(windows: usize) -> usize {
    let mut look = FIRST_LOOK;
    while look <= windows {
        look *= 2;
    }
    look
}

/// How often the interval of a variant that ended after `windows` of the `of` that were measured may miss.
pub(crate) fn level(windows: usize, of: usize) -> f64 {
    let (mut left, mut look) = (LEVEL, FIRST_LOOK);
    while look < windows {
        left /= 2.0;
        look *= 2;
    }
    // Only at the end nothing has to be kept for later looks.
    if windows < of { left / 2.0 } else { left }
}

/// Whether differences of a look say enough: their interval is not wider than ±`error`, or lies on one side
/// of the idle threshold.
fn is_known(differences: &[f64], error: f64) -> bool {
    let level = level(differences.len(), differences.len() + 1);
    margin_at(differences, level).is_some_and(|margin| {
        margin <= error || (mean(differences) - IDLE_THRESHOLD).abs() > margin
    })
}

/// The variants that need no more windows.
pub(crate) struct Elimination {
    /// The half-width that is narrow enough; without it every variant is measured on every window.
    error: Option<f64>,
    done: BTreeSet<Lacks>,
}

impl Elimination {
    pub(crate) fn new(error: Option<f64>) -> Self {
        Self { error, done: BTreeSet::new() }
    }

    /// Whether a variant needs no more windows.
    pub(crate) fn is_done(&self, lacks: Lacks) -> bool {
        self.done.contains(&lacks)
    }

    /// How many variants need no more windows.
    pub(crate) fn done(&self) -> usize {
        self.done.len()
    }

    /// How many of `batch` windows may follow `measured` before the next look.
    pub(crate) fn windows_before_the_next_look(&self, measured: usize, batch: usize) -> usize {
        match self.error {
            Some(_) => batch.min(next_look(measured) - measured),
            None => batch,
        }
    }

    /// Looks at what was measured, where this is a time to look, and gives the variants that are done now.
    pub(crate) fn look(&mut self, measured: &[Measured]) -> Vec<Lacks> {
        let Some(error) = self.error else { return Vec::new() };
        let (Some(last), true) = (measured.last(), is_look(measured.len())) else {
            return Vec::new();
        };
        let known = |lacks: &Lacks| is_known(&differences(measured, *lacks), error);
        let done: Vec<Lacks> = last.losses.iter().map(|(lacks, _)| *lacks).filter(known).collect();
        self.done.extend(&done);
        done
    }
}

fn is_look(windows: usize) -> bool {
    windows > 0 && next_look(windows - 1) == windows
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_core::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn looks_double_and_share_what_may_be_missed() {
        let looks: Vec<usize> = (0..40).filter(|windows| is_look(*windows)).collect();
        assert_eq!(looks, [4, 8, 16, 32]);
        assert_eq!([0, 3, 4, 7, 8, 16].map(next_look), [4, 4, 8, 8, 16, 32]);
        // Of 20 windows: three looks, and what is left at the end.
        let spent = [4, 8, 16, 20].map(|windows| level(windows, 20));
        assert_eq!(spent, [LEVEL / 2.0, LEVEL / 4.0, LEVEL / 8.0, LEVEL / 8.0]);
        assert!((spent.iter().sum::<f64>() - LEVEL).abs() < 1e-15);
        // A look that is the end, and texts that end before the second look.
        assert_eq!(level(4, 4), LEVEL);
        assert_eq!(level(2, 2), LEVEL);
        assert_eq!((level(4, 6), level(6, 6)), (LEVEL / 2.0, LEVEL / 2.0));
        assert_eq!(level(8, 8) + level(4, 8), LEVEL);
    }

    #[test]
    fn a_variant_is_done_where_its_interval_is_narrow_or_clear_of_the_threshold() {
        // Four windows whose interval at the first look's level is ±t(0.9875, 3)·s/2 = ±4.177·s/2.
        let around = |mean: f64, spread: f64| {
            let s = spread * (4f64 / 3.0).sqrt();
            let windows = [mean - spread, mean + spread, mean - spread, mean + spread];
            (windows, 4.176_534_846 * s / 2.0)
        };
        let (idle, margin) = around(0.001, 0.005);
        assert!((0.0120..0.0121).contains(&margin), "{margin}");
        assert!(is_known(&idle, 0.001), "0.001 ± 0.012 is idle");
        let (open, _) = around(0.015, 0.005);
        assert!(!is_known(&open, 0.012), "0.015 ± 0.012 is neither");
        assert!(is_known(&open, 0.0121), "and narrow enough for who asks for no more");
        let (working, _) = around(0.0325, 0.005);
        assert!(is_known(&working, 0.001), "0.0325 ± 0.012 works");
        assert!(!is_known(&[0.0], 1.0), "one window has no interval");
    }

    /// Sums of twelve uniform numbers, as good as normal, with this deviation.
    fn normal(rng: &mut ChaCha8Rng, mean: f64, deviation: f64) -> f64 {
        let uniform = |rng: &mut ChaCha8Rng| f64::from(rng.next_u32()) / f64::from(u32::MAX);
        mean + deviation * ((0..12).map(|_| uniform(rng)).sum::<f64>() - 6.0)
    }

    /// One simulated removal: its windows until it is done, of 64 at most, and what level its interval has.
    fn simulated(
        rng: &mut ChaCha8Rng,
        mean: f64,
        deviation: f64,
        is_known: impl Fn(&[f64]) -> bool,
    ) -> Vec<f64> {
        const WINDOWS: usize = 64;
        let mut windows = Vec::new();
        while windows.len() < WINDOWS {
            windows.push(normal(rng, mean, deviation));
            if is_look(windows.len()) && is_known(&windows) {
                break;
            }
        }
        windows
    }

    #[test]
    fn intervals_cover_wherever_a_removal_ends_and_would_not_without_the_correction() {
        const REMOVALS: usize = 4000;
        let covered = |mean: f64, deviation: f64, error: f64, corrected: bool| {
            let mut rng = ChaCha8Rng::seed_from_u64(17);
            let mut inside = 0;
            let mut measured = 0;
            for _ in 0..REMOVALS {
                let uncorrected = |windows: &[f64]| {
                    let margin = margin_at(windows, LEVEL).expect("windows");
                    let found = lns_statistics::mean(windows);
                    margin <= error || (found - IDLE_THRESHOLD).abs() > margin
                };
                let windows = simulated(&mut rng, mean, deviation, |windows| match corrected {
                    true => is_known(windows, error),
                    false => uncorrected(windows),
                });
                let level = if corrected { level(windows.len(), 64) } else { LEVEL };
                let margin = margin_at(&windows, level).expect("windows");
                let found = lns_statistics::mean(&windows);
                inside += usize::from((found - mean).abs() <= margin);
                measured += windows.len();
            }
            (inside as f64 / REMOVALS as f64, measured as f64 / REMOVALS as f64)
        };
        // Costs at the threshold, near it and far from it, and errors that end a removal early or never.
        // Three standard errors of a simulated share of 95 % are 1 %.
        for (mean, error) in [(0.02, 1e-9), (0.02, 0.01), (0.01, 1e-9), (0.03, 0.005), (0.5, 0.02)]
        {
            let (share, _) = covered(mean, 0.02, error, true);
            assert!(share > 0.94, "{mean} to ±{error}: {share}");
        }
        let (share, _) = covered(0.02, 0.02, 1e-9, false);
        assert!(share < 0.91, "five looks at 5 % each miss more often than 5 %: {share}");
        let (_, windows) = covered(0.5, 0.02, 1e-9, true);
        assert!(windows < 4.01, "what is far from the threshold is done at once: {windows}");
    }
}
