//! A setting tuned for each group on a seed of its own, before the seeds that are compared: a scheme that
//! is measured at another's best learning rate loses to the rate, not to the scheme.
//!
//! Which value is best is read from the runs' folders, so a study that was stopped goes on where it was. A
//! best value at the edge of those tried is no optimum: the edge is widened, by the ratio of its last two
//! values, as often as the study allows.

use serde::{Deserialize, Serialize};

/// How a setting is tuned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuning {
    /// The setting, as `--set` names it: `schedule.learning_rate`.
    pub setting: String,
    /// The values to try, rising, all above 0.
    pub values: Vec<f64>,
    /// The seed that they are tried on: none of those that are compared.
    pub seed: u64,
    /// How often an edge may be widened.
    #[serde(default = "twice")]
    pub widen: u32,
}

fn twice() -> u32 {
    2
}

/// What is to be done for one group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Next {
    /// Try this value.
    Try(f64),
    /// This one is the best; whether it lies at an edge that could not be widened any more.
    Best { value: f64, at_edge: bool },
    /// Every value diverged.
    Nothing,
}

impl Tuning {
    /// Why it is no tuning of a study with these seeds.
    pub(crate) fn fault(&self, seeds: &[u64]) -> Option<String> {
        if self.values.len() < 2 {
            return Some("`values` needs two at least".to_owned());
        }
        if !self.values.iter().all(|value| value.is_finite() && *value > 0.0)
            || !self.values.is_sorted_by(|a, b| a < b)
        {
            return Some(
                "`values` are numbers above 0, each larger than the one before".to_owned(),
            );
        }
        if seeds.contains(&self.seed) {
            return Some(format!(
                "seed {} is one of those that are compared; what was tuned on it would be favoured there",
                self.seed
            ));
        }
        (self.widen > 8).then(|| "`widen` is 8 at most".to_owned())
    }

    /// What is next for a group, given the outcome of a value: `None` when it was not tried to its end, and a
    /// loss, which is not finite where the run diverged.
    pub(crate) fn next(&self, outcome: &dyn Fn(f64) -> Option<f64>) -> Next {
        let mut values = self.values.clone();
        for widened in 0..=self.widen {
            let Some(losses) =
                values.iter().map(|value| outcome(*value)).collect::<Option<Vec<_>>>()
            else {
                let open = values.iter().find(|value| outcome(**value).is_none());
                return open.map_or(Next::Nothing, |value| Next::Try(*value));
            };
            let finite = losses.iter().enumerate().filter(|(_, loss)| loss.is_finite());
            let Some((best, _)) = finite.min_by(|(_, a), (_, b)| a.total_cmp(b)) else {
                return Next::Nothing;
            };
            let (value, last) = (values[best], values.len() - 1);
            let at_edge = best == 0 || best == last;
            if !at_edge || widened == self.widen {
                return Next::Best { value, at_edge };
            }
            let wider = match best {
                0 => values[0] * values[0] / values[1],
                _ => values[last] * values[last] / values[last - 1],
            };
            // Three digits, so that a folder's name and a table can have it.
            let wider = format!("{wider:.2e}").parse().unwrap_or(wider);
            if best == 0 { values.insert(0, wider) } else { values.push(wider) }
        }
        Next::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATES: [f64; 3] = [1e-3, 3e-3, 1e-2];

    fn tuning() -> Tuning {
        let setting = "schedule.learning_rate".to_owned();
        Tuning { setting, values: RATES.to_vec(), seed: 101, widen: 2 }
    }

    /// What is tried, in order, and what it ends with.
    fn course(loss: impl Fn(f64) -> f64) -> (Vec<f64>, Next) {
        let mut tried: Vec<(f64, f64)> = Vec::new();
        loop {
            let outcome = |value: f64| tried.iter().find(|(at, _)| *at == value).map(|(_, l)| *l);
            match tuning().next(&outcome) {
                Next::Try(value) => tried.push((value, loss(value))),
                end => return (tried.into_iter().map(|(value, _)| value).collect(), end),
            }
        }
    }

    #[test]
    fn a_best_value_inside_is_taken_and_one_at_the_edge_is_widened() {
        let best_at = |at: f64| move |value: f64| (value.ln() - at.ln()).abs();
        let (tried, end) = course(best_at(3e-3));
        assert_eq!((tried, end), (RATES.to_vec(), Next::Best { value: 3e-3, at_edge: false }));
        let (tried, end) = course(best_at(3.3e-4));
        assert_eq!(tried, [1e-3, 3e-3, 1e-2, 3.33e-4, 1.11e-4]);
        assert_eq!(end, Next::Best { value: 3.33e-4, at_edge: false });
        let (tried, end) = course(best_at(1.0));
        assert_eq!(tried, [1e-3, 3e-3, 1e-2, 3.33e-2, 1.11e-1]);
        assert_eq!(end, Next::Best { value: 1.11e-1, at_edge: true }, "said, not hidden");
    }

    #[test]
    fn what_diverged_is_never_the_best() {
        let (_, end) = course(|value| if value > 2e-3 { f64::NAN } else { 5.0 });
        assert!(matches!(end, Next::Best { value, .. } if value <= 1e-3), "{end:?}");
        assert_eq!(course(|_| f64::INFINITY).1, Next::Nothing);
    }

    #[test]
    fn what_is_no_tuning_is_refused() {
        let fault = |change: &dyn Fn(&mut Tuning)| {
            let mut changed = tuning();
            change(&mut changed);
            changed.fault(&[1, 2]).unwrap_or_default()
        };
        assert_eq!(fault(&|_| {}), "");
        assert!(fault(&|tuning| tuning.seed = 2).contains("seed 2 is one of those"));
        assert!(fault(&|tuning| tuning.values.reverse()).contains("larger than the one before"));
        assert!(fault(&|tuning| tuning.values.truncate(1)).contains("two at least"));
        assert!(fault(&|tuning| tuning.values[0] = 0.0).contains("above 0"));
    }
}
