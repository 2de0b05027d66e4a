//! What the differences come to, in words. A difference counts only when its interval leaves out zero and
//! it is larger than what chance alone has done; one seed has no interval. No difference is ever proven
//! absent: what does not count is undecided.

use lns_record::{Interval, PairRecord};

use super::means::Outcomes;
use super::{LNS, Study, label, nats};
use crate::number::counted;

/// What a group's difference to the baseline allows to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Lower,
    Higher,
    /// The interval holds zero, or chance alone has moved as far.
    Undecided,
    /// There is one seed, which gives no interval.
    Open,
    /// There is no seed in common.
    Nothing,
}

impl Told {
    /// `noise`: how far chance alone has moved a loss.
    pub(super) fn of(difference: &Interval, noise: Option<f64>) -> Self {
        let drowned = noise.is_some_and(|noise| noise >= difference.mean.abs());
        match (difference.mean.is_finite() && difference.count > 0, ends(difference)) {
            (false, _) => Self::Nothing,
            (true, None) => Self::Open,
            (true, Some(_)) if drowned => Self::Undecided,
            (true, Some((_, high))) if high < 0.0 => Self::Lower,
            (true, Some((low, _))) if low > 0.0 => Self::Higher,
            (true, Some(_)) => Self::Undecided,
        }
    }

    /// The outcome in a word or two, for a cell of a table.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Lower => "lower",
            Self::Higher => "higher",
            Self::Undecided => "undecided",
            Self::Open => "no interval",
            Self::Nothing => "",
        }
    }
}

/// Both ends of an interval, if it has them.
pub(super) fn ends(interval: &Interval) -> Option<(f64, f64)> {
    let ends = (interval.low?, interval.high?);
    (ends.0.is_finite() && ends.1.is_finite()).then_some(ends)
}

/// `−0.104 to −0.050`
pub(super) fn range(interval: &Interval, write: fn(f64) -> String) -> Option<String> {
    ends(interval).map(|(low, high)| format!("{} to {}", write(low), write(high)))
}

fn seeds(number: u64) -> String {
    counted(number, "seed")
}

impl Study<'_> {
    /// The pair that the first sentence is about: LNS, or else the group that ends lowest.
    pub(super) fn subject(&self) -> Option<&PairRecord> {
        let real = || self.record.pairs.iter().filter(|pair| !pair.noise_probe);
        let lowest = || {
            let known = real().filter(|pair| self.told(&pair.difference) != Told::Nothing);
            known.min_by(|a, b| a.difference.mean.total_cmp(&b.difference.mean))
        };
        real().find(|pair| pair.name == LNS).or_else(lowest).or_else(|| real().next())
    }

    /// The main finding in a sentence or two.
    pub(super) fn headline(&self) -> String {
        if self.record.groups.is_empty() {
            return "This study has no runs yet.".to_owned();
        }
        let Some(pair) = self.subject() else { return self.alone() };
        let difference = &pair.difference;
        let (name, baseline) = (label(&pair.name), &self.baseline);
        let by = nats(difference.mean.abs());
        let way = if difference.mean < 0.0 { "below" } else { "above" };
        let (seeds, noise) = (seeds(difference.count), self.noise_clause());
        let interval = range(difference, nats).unwrap_or_default();
        match self.told(difference) {
            Told::Lower | Told::Higher => format!(
                "{name} ends {by} nats per token {way} {baseline} (95 % interval {interval}, \
                 {seeds}{noise})."
            ),
            Told::Undecided => format!(
                "Undecided: {name} ends {by} nats per token {way} {baseline} (95 % interval {interval}, \
                 {seeds}{noise}).{}",
                match self.doubt(difference.mean) {
                    "" => " The interval holds 0: more seeds would narrow it.",
                    doubt => doubt,
                }
            ),
            Told::Open => format!(
                "{name} ends {by} nats per token {way} {baseline} with one seed, which gives no interval: \
                 this may be chance{noise}.{}",
                self.doubt(difference.mean)
            ),
            Told::Nothing => {
                format!("{name} and {baseline} have no finished seed in common yet: no comparison.")
            }
        }
    }

    /// The finding where there is nothing to compare.
    fn alone(&self) -> String {
        let baseline = self.record.groups.iter().find(|group| self.is_baseline(group));
        let group = baseline.unwrap_or(&self.record.groups[0]);
        let name = label(&group.name);
        match group.loss.filter(|loss| loss.mean.is_finite()) {
            Some(loss) => {
                let interval = range(&loss, nats).map(|range| format!("95 % interval {range}, "));
                format!(
                    "{name} ends at {} nats per token ({}{}{}); there is nothing to compare it with.",
                    nats(loss.mean),
                    interval.unwrap_or_default(),
                    seeds(loss.count),
                    self.noise_clause()
                )
            }
            None => format!("No run of {name} has finished yet."),
        }
    }

    fn noise_clause(&self) -> String {
        let noise = self.noise();
        noise.map(|by| format!("; the noise probe moves by up to {}", nats(by))).unwrap_or_default()
    }

    /// An interval over few seeds can leave out zero where chance alone has moved as far.
    fn doubt(&self, mean: f64) -> &'static str {
        match self.noise() {
            Some(noise) if noise >= mean.abs() => {
                " The noise probe, which changes nothing but rounding, moves as far: do not count on \
                 this difference."
            }
            _ => "",
        }
    }

    /// One sentence for each kind of outcome among the other groups.
    pub(super) fn others(&self) -> Vec<String> {
        let subject = self.subject().map(|pair| pair.name.as_str());
        let named = |told: Told| -> Vec<String> {
            let others =
                self.record.pairs.iter().filter(|pair| Some(pair.name.as_str()) != subject);
            let others =
                others.filter(|pair| !pair.noise_probe && self.told(&pair.difference) == told);
            let name = |pair: &PairRecord| match told {
                Told::Nothing => label(&pair.name),
                _ => format!("{} ({})", label(&pair.name), nats(pair.difference.mean)),
            };
            others.map(name).collect()
        };
        let baseline = &self.baseline;
        let kinds = [
            (Told::Lower, format!("Below {baseline} beyond their intervals")),
            (Told::Higher, format!("Above {baseline} beyond their intervals")),
            (Told::Undecided, format!("Undecided against {baseline}")),
            (Told::Open, "One seed, so no interval and no conclusion".to_owned()),
            (Told::Nothing, format!("No finished seed in common with {baseline}")),
        ];
        let sentence = |(told, what): (Told, String)| {
            let names = named(told);
            (!names.is_empty()).then(|| format!("{what}: {}.", names.join(", ")))
        };
        kinds.into_iter().filter_map(sentence).collect()
    }

    /// What is not whole: diverged runs, runs that are still to come.
    pub(super) fn gaps(&self) -> Vec<String> {
        let diverged = self.record.groups.iter().filter_map(|group| {
            let outcomes = Outcomes::of(group);
            (outcomes.diverged > 0).then(|| {
                format!("{} ({} of {})", label(&group.name), outcomes.diverged, group.runs.len())
            })
        });
        let diverged: Vec<String> = diverged.collect();
        let mut gaps = Vec::new();
        if !diverged.is_empty() {
            gaps.push(format!(
                "Diverged, and not part of the table's means: {}.",
                diverged.join(", ")
            ));
        }
        match self.record.missing_runs {
            0 => {}
            missing => gaps.push(format!(
                "{} {} not finished: what is said here may still change.",
                counted(missing, "run"),
                if missing == 1 { "is" } else { "are" }
            )),
        }
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(mean: f64, low: Option<f64>, high: Option<f64>, count: u64) -> Interval {
        Interval { mean, low, high, count }
    }

    #[test]
    fn a_difference_counts_only_when_its_interval_leaves_out_zero() {
        let told = |low: f64, high: f64| {
            Told::of(&interval((low + high) / 2.0, Some(low), Some(high), 3), None)
        };
        assert_eq!(told(-0.1, -0.05), Told::Lower);
        assert_eq!(told(0.05, 0.1), Told::Higher);
        assert_eq!(told(-0.1, 0.05), Told::Undecided);
        assert_eq!(told(-0.1, 0.0), Told::Undecided);
        let open = |difference| Told::of(&difference, None);
        assert_eq!(open(interval(-0.1, None, None, 1)), Told::Open);
        assert_eq!(open(interval(-0.1, Some(f64::NAN), Some(-0.05), 3)), Told::Open);
        assert_eq!(open(interval(f64::NAN, None, None, 1)), Told::Nothing);
        assert_eq!(open(interval(0.0, None, None, 0)), Told::Nothing);
    }

    #[test]
    fn a_difference_no_larger_than_the_noise_probe_is_undecided_whatever_its_interval() {
        let difference = interval(-0.001, Some(-0.0012), Some(-0.0008), 2);
        assert_eq!(Told::of(&difference, Some(0.0009)), Told::Lower);
        assert_eq!(Told::of(&difference, Some(0.001)), Told::Undecided);
    }
}
