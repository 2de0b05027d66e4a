//! Watches the loss and the gradient of every step; `[guard]` says what it does about them.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::ranges::{Real, RealSetting};

/// What a step is answered with whose loss or gradient is not a finite number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NotFinite {
    /// The run stops.
    #[default]
    Stop,
    /// The update is left out; ten in a row stop the run.
    Skip,
}

/// What to do when the loss goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GuardConfig {
    /// Numbers that are not finite.
    pub not_finite: NotFinite,
    /// An update whose ‖gradient‖₂ is more than so many times the median of the last 100 is left
    /// out; ten in a row stop the run; 0 is never.
    pub spike: f64,
}

/// What its numbers may be.
pub(crate) const REAL: &[RealSetting] =
    &[("guard.spike", |run| run.guard.spike, Real::NotNegative)];

/// Norms that the median is taken of.
const MEMORY: usize = 100;
/// Steps before there is a median to speak of.
const ENOUGH: usize = 20;
/// Updates left out in a row that stop a run.
const PATIENCE: u64 = 10;

/// What the guard has seen.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Guard {
    norms: VecDeque<f64>,
    skipped_in_row: u64,
}

/// What to do with an update.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Ruling {
    Apply,
    /// Leave it out, and say why.
    Skip(String),
    /// End the run, and say why.
    Stop(String),
}

impl Guard {
    pub(crate) fn judge(&mut self, config: &GuardConfig, loss: f64, norm: f64) -> Ruling {
        let problem = if !(loss.is_finite() && norm.is_finite()) {
            let what = format!("the loss is {loss} and the gradient's norm {norm}");
            if config.not_finite == NotFinite::Stop {
                return Ruling::Stop(format!(
                    "{what}; the update was not applied. Lower schedule.learning_rate, raise \
                     schedule.warmup, set optimiser.clip or guard.not_finite = \"skip\", in another folder"
                ));
            }
            Some(what)
        } else {
            let median = self.median().filter(|_| config.spike > 0.0);
            median.filter(|median| norm > config.spike * median).map(|median| {
                format!("the gradient's norm is {norm:.3}, {:.1} times the median", norm / median)
            })
        };
        let Some(problem) = problem else {
            self.skipped_in_row = 0;
            self.norms.push_back(norm);
            if self.norms.len() > MEMORY {
                self.norms.pop_front();
            }
            return Ruling::Apply;
        };
        self.skipped_in_row += 1;
        if self.skipped_in_row < PATIENCE {
            Ruling::Skip(format!("{problem}; the update is left out"))
        } else {
            Ruling::Stop(format!("{problem}, the {PATIENCE}th time in a row"))
        }
    }

    fn median(&self) -> Option<f64> {
        let mut norms: Vec<f64> = self.norms.iter().copied().collect();
        norms.sort_by(f64::total_cmp);
        (norms.len() >= ENOUGH).then(|| norms[norms.len() / 2])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spike_is_left_out_and_ten_in_a_row_stop_the_run() {
        let config = GuardConfig { spike: 5.0, not_finite: NotFinite::Stop };
        let mut guard = Guard::default();
        assert_eq!(guard.judge(&config, 3.0, 1e9), Ruling::Apply, "there is no median yet");
        for _ in 0..30 {
            assert_eq!(guard.judge(&config, 3.0, 1.0), Ruling::Apply);
        }
        for _ in 0..9 {
            assert!(matches!(guard.judge(&config, 3.0, 6.0), Ruling::Skip(_)));
        }
        assert!(matches!(guard.clone().judge(&config, 3.0, 6.0), Ruling::Stop(_)));
        assert_eq!(guard.judge(&config, 3.0, 4.9), Ruling::Apply);
        assert!(matches!(guard.judge(&config, 3.0, 6.0), Ruling::Skip(_)), "counted anew");
    }

    #[test]
    fn numbers_that_are_not_finite_stop_or_skip_as_asked() {
        let stop = GuardConfig::default();
        let skip = GuardConfig { not_finite: NotFinite::Skip, ..stop };
        for (loss, norm) in [(f64::NAN, 1.0), (1.0, f64::INFINITY)] {
            assert!(matches!(Guard::default().judge(&stop, loss, norm), Ruling::Stop(_)));
            assert!(matches!(Guard::default().judge(&skip, loss, norm), Ruling::Skip(_)));
        }
    }
}
