//! A study's report: norm schemes trained on the same tokens, compared. What the numbers come to
//! ([`findings`]), what is drawn of them, the page and the terminal's table.

mod along;
mod charts;
mod contrasts;
mod findings;
mod means;
mod page;
mod table;
mod tuning;

use std::collections::BTreeSet;

use lns_record::{GroupRecord, Interval, PairRecord, StudyRecord};
use lns_show::with_minus;

use findings::Told;
use means::{Outcomes, common_seeds};

use crate::curves::Look;
use crate::number::number;
use crate::text::{clean, shortened};

pub use charts::study_charts;
pub use page::study_page;
pub use table::study_table;

/// A study and how its groups are named and drawn.
struct Study<'a> {
    record: &'a StudyRecord,
    /// Name of the baseline, made safe to show.
    baseline: String,
    looks: Vec<Look>,
    /// Seeds that every group has finished.
    common: BTreeSet<u64>,
}

impl<'a> Study<'a> {
    fn new(record: &'a StudyRecord) -> Self {
        let common = common_seeds(&record.groups);
        Self { record, baseline: label(&record.baseline), looks: looks(record), common }
    }

    fn groups(&self) -> impl Iterator<Item = (&'a GroupRecord, Look)> {
        self.record.groups.iter().zip(self.looks.iter().copied())
    }

    fn is_baseline(&self, group: &GroupRecord) -> bool {
        group.name == self.record.baseline
    }

    fn pair(&self, name: &str) -> Option<&'a PairRecord> {
        self.record.pairs.iter().find(|pair| pair.name == name)
    }

    /// Whether some group has finished seeds that another has not: then means differ by their seeds too.
    fn unequal_seeds(&self) -> bool {
        let finished = |group: &GroupRecord| Outcomes::of(group).finished;
        self.record.groups.iter().map(finished).any(|n| n > 0 && n != self.common.len())
    }

    /// What a difference allows to say, beside what chance alone has done.
    fn told(&self, difference: &Interval) -> Told {
        Told::of(difference, self.noise())
    }

    /// How far chance alone has moved a loss, to either side: which of the two runs of a pair counts
    /// as the probe is arbitrary, so the sign is dropped.
    fn noise(&self) -> Option<f64> {
        let probes = self.record.pairs.iter().filter(|pair| pair.noise_probe);
        let moves = probes.flat_map(|pair| {
            pair.differences.iter().map(|(_, difference)| *difference).chain([pair.difference.mean])
        });
        moves.filter(|difference| difference.is_finite()).map(f64::abs).reduce(f64::max)
    }
}

/// A group's name, made safe to show.
fn label(name: &str) -> String {
    match shortened(&clean(name), 48) {
        name if name.trim().is_empty() => "unnamed".to_owned(),
        name => name,
    }
}

/// The baseline is dark, its noise probes the same and broken, LNS has the page's accent; the others
/// share four colours and four strokes so that no two of sixteen look the same.
fn looks(record: &StudyRecord) -> Vec<Look> {
    const OTHERS: [usize; 4] = [1, 2, 3, 4];
    const DASHES: [usize; 4] = [0, 1, 3, 2];
    let is_probe =
        |name: &str| record.pairs.iter().any(|pair| pair.noise_probe && pair.name == name);
    let (mut probes, mut others) = (0, 0);
    let look = |group: &GroupRecord| {
        if group.name == record.baseline {
            Look { hue: 5, dash: 0, strong: true }
        } else if is_probe(&group.name) {
            probes += 1;
            Look { hue: 5, dash: 1 + (probes - 1) % 3, strong: false }
        } else if group.name == LNS {
            Look { hue: 0, dash: 0, strong: true }
        } else {
            others += 1;
            other_look(others - 1)
        }
    };
    fn other_look(at: usize) -> Look {
        let (hue, dash) = (at % OTHERS.len(), (at + at / OTHERS.len()) % DASHES.len());
        Look { hue: OTHERS[hue], dash: DASHES[dash], strong: false }
    }
    record.groups.iter().map(look).collect()
}

/// The scheme this project is about.
const LNS: &str = "lns";

/// Losses and their differences: `4.103`, `−0.077`, `0.0004`, `2.3e5`.
fn nats(value: f64) -> String {
    match value.abs() {
        size if size == 0.0 || (0.0005..10_000.0).contains(&size) => {
            with_minus(&format!("{value:.3}"))
        }
        size if (0.00005..0.0005).contains(&size) => with_minus(&format!("{value:.4}")),
        _ => number(value),
    }
}

/// Of a group: e^loss, at the mean and at both ends. The mean of the seeds' own perplexities would lie
/// above it, and an interval around that can end below 1.
fn perplexities(group: &GroupRecord) -> Option<Interval> {
    group.loss.map(Interval::exp)
}

/// `60.53`, with the decimals of published tables.
fn perplexity(value: f64) -> String {
    if value.abs() < 10_000.0 { format!("{value:.2}") } else { number(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(names: &[&str]) -> StudyRecord {
        let group = |name: &&str| serde_json::json!({"name": name, "runs": []});
        let groups: Vec<_> = names.iter().map(group).collect();
        let record = serde_json::json!({"name": "", "settings": [], "baseline": "pre",
            "groups": groups, "pairs": [{"name": "probe", "difference": {"mean": 0.0, "count": 0},
            "differences": [[0, -0.2], [1, 0.1]], "noise_probe": true}], "missing_runs": 0});
        serde_json::from_value(record).unwrap()
    }

    #[test]
    fn no_two_of_sixteen_groups_look_the_same() {
        let names: Vec<String> = (0..13).map(|k| format!("other {k}")).collect();
        let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
        names.extend(["pre", "lns", "probe"]);
        let record = record(&names);
        let looks: Vec<(usize, usize)> =
            Study::new(&record).looks.iter().map(|look| (look.hue, look.dash)).collect();
        for (at, look) in looks.iter().enumerate() {
            assert!(!looks[..at].contains(look), "{looks:?}");
        }
        assert_eq!(looks[13..], [(5, 0), (0, 0), (5, 1)]);
    }

    #[test]
    fn noise_is_the_greatest_move_of_the_probe_in_either_direction() {
        assert_eq!(Study::new(&record(&["pre", "probe"])).noise(), Some(0.2));
    }

    #[test]
    fn losses_keep_three_decimals() {
        let told = [4.1026, -0.0771, 0.0, -0.000227, 2.3e5, f64::NAN].map(nats);
        assert_eq!(told, ["4.103", "−0.077", "0.000", "−0.0002", "2.3e5", "NaN"]);
    }
}
