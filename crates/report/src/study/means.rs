//! Means over the seeds of a group, point by point.

use std::collections::{BTreeMap, BTreeSet};

use lns_record::{GroupRecord, RunRecord};

use crate::curves::Point;
use crate::number::drawable;

/// How a group's runs ended.
pub(super) struct Outcomes {
    pub(super) finished: usize,
    pub(super) diverged: usize,
    pub(super) unfinished: usize,
}

impl Outcomes {
    pub(super) fn of(group: &GroupRecord) -> Self {
        let count = |outcome: &str| group.runs.iter().filter(|run| run.outcome == outcome).count();
        let (finished, diverged) = (count("finished"), count("diverged"));
        Self { finished, diverged, unfinished: group.runs.len() - finished - diverged }
    }

    /// What a reader must know beside the name, if not all is well: `2 of 3 diverged`.
    pub(super) fn note(&self) -> Option<String> {
        let all = self.finished + self.diverged + self.unfinished;
        match (self.diverged, self.unfinished) {
            (0, 0) => None,
            (0, unfinished) if all == 1 && unfinished == 1 => Some("unfinished".to_owned()),
            (0, unfinished) => Some(format!("{unfinished} of {all} unfinished")),
            (1, _) if all == 1 => Some("diverged".to_owned()),
            (diverged, _) => Some(format!("{diverged} of {all} diverged")),
        }
    }
}

/// The runs that stand for a group: those that finished, or else all. A mean over both would jump
/// where one of them ends.
pub(super) fn standing(group: &GroupRecord) -> Vec<&RunRecord> {
    let finished: Vec<&RunRecord> =
        group.runs.iter().filter(|run| run.outcome == "finished").collect();
    if finished.is_empty() { group.runs.iter().collect() } else { finished }
}

/// The seeds that every group with a finished run has finished.
pub(super) fn common_seeds(groups: &[GroupRecord]) -> BTreeSet<u64> {
    let finished = |group: &GroupRecord| -> BTreeSet<u64> {
        let runs = group.runs.iter().filter(|run| run.outcome == "finished");
        runs.map(|run| run.seed).collect()
    };
    let sets = groups.iter().map(finished).filter(|seeds| !seeds.is_empty());
    sets.reduce(|common, seeds| common.intersection(&seeds).copied().collect()).unwrap_or_default()
}

/// The runs that stand for a group beside others: of the seeds in `common` alone, because some seeds are
/// luckier than others, and a mean over other seeds would rank groups by their luck. A group without
/// any of them has all of its own.
pub(super) fn comparable<'a>(group: &'a GroupRecord, common: &BTreeSet<u64>) -> Vec<&'a RunRecord> {
    let all = standing(group);
    let shared: Vec<&RunRecord> =
        all.iter().filter(|run| common.contains(&run.seed)).copied().collect();
    if shared.is_empty() { all } else { shared }
}

/// Mean and range at every x that all runs have.
pub(super) fn over_runs(runs: impl IntoIterator<Item = BTreeMap<u64, f64>>) -> Vec<Point> {
    let runs: Vec<_> = runs.into_iter().filter(|run| !run.is_empty()).collect();
    let Some(first) = runs.first() else { return Vec::new() };
    let point = |x: &u64| {
        let values: Option<Vec<f64>> = runs.iter().map(|run| run.get(x).copied()).collect();
        let values = values?;
        let mean = values.iter().map(|value| value / values.len() as f64).sum();
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Some(Point { x: *x, mean, low, high, runs: values.len() })
    };
    first.keys().filter_map(point).collect()
}

/// Held-out loss of a run by step.
pub(super) fn losses(run: &RunRecord) -> BTreeMap<u64, f64> {
    let points = run.curve.iter();
    points.filter_map(|point| Some((point.step, drawable(point.loss)?))).collect()
}

/// Loss of a group minus loss of the baseline by step, over the seeds both have.
pub(super) fn differences(group: &GroupRecord, baseline: &GroupRecord) -> Vec<Point> {
    let baselines = standing(baseline);
    over_runs(standing(group).into_iter().filter_map(|run| {
        let other = losses(baselines.iter().find(|other| other.seed == run.seed)?);
        let difference = |(step, loss): (u64, f64)| Some((step, loss - other.get(&step)?));
        Some(losses(run).into_iter().filter_map(difference).collect())
    }))
}

/// Variance of the stream that leaves the last layer, by step.
pub(super) fn last_variances(run: &RunRecord) -> BTreeMap<u64, f64> {
    let measured = run.variance.iter();
    measured.filter_map(|(step, layers)| Some((*step, drawable(*layers.last()?)?))).collect()
}

/// Variance of the stream by index, when it was last measured.
pub(super) fn final_variances(run: &RunRecord) -> BTreeMap<u64, f64> {
    let last = run.variance.iter().max_by_key(|(step, _)| *step);
    let layers = last.map_or(&[][..], |(_, layers)| layers).iter();
    (0..).zip(layers).filter_map(|(index, value)| Some((index, drawable(*value)?))).collect()
}

/// Mean of what could be measured, with its least and greatest value.
pub(super) fn summary(values: impl IntoIterator<Item = f64>) -> Option<Point> {
    let runs = values.into_iter().filter_map(drawable).map(|value| BTreeMap::from([(0, value)]));
    over_runs(runs).pop()
}

#[cfg(test)]
mod tests {
    use lns_record::CurvePoint;

    use super::*;

    fn run(seed: u64, outcome: &str, losses: &[f64]) -> RunRecord {
        let point = |(k, loss): (u64, &f64)| CurvePoint { step: k * 10, tokens: k, loss: *loss };
        RunRecord {
            folder: String::new(),
            seed,
            outcome: outcome.to_owned(),
            steps: 0,
            tokens: 0,
            loss: None,
            curve: (0..).zip(losses).map(point).collect(),
            variance: vec![(20, vec![1.0, 9.0]), (10, vec![1.0, f64::NAN])],
            along: vec![],
            diagnosis: None,
        }
    }

    fn group(runs: Vec<RunRecord>) -> GroupRecord {
        let name = String::new();
        GroupRecord { name, runs, loss: None, perplexity: None, published_perplexity: None }
    }

    #[test]
    fn a_mean_is_taken_where_all_runs_are() {
        let runs =
            [run(0, "finished", &[6.0, 4.0, f64::NAN, 2.0]), run(1, "finished", &[7.0, 5.0])];
        let points = over_runs(runs.iter().map(losses));
        assert_eq!(
            points,
            [
                Point { x: 0, mean: 6.5, low: 6.0, high: 7.0, runs: 2 },
                Point { x: 10, mean: 4.5, low: 4.0, high: 5.0, runs: 2 }
            ]
        );
        assert_eq!(over_runs([]), []);
    }

    #[test]
    fn runs_that_did_not_finish_stand_for_a_group_only_when_no_other_does() {
        let mixed =
            group(vec![run(0, "finished", &[]), run(1, "diverged", &[]), run(2, "running", &[])]);
        assert_eq!(standing(&mixed).len(), 1);
        assert_eq!(Outcomes::of(&mixed).note().unwrap(), "1 of 3 diverged");
        let lost = group(vec![run(0, "diverged", &[])]);
        assert_eq!(standing(&lost).len(), 1);
        assert_eq!(Outcomes::of(&lost).note().unwrap(), "diverged");
        assert_eq!(Outcomes::of(&group(vec![run(0, "finished", &[])])).note(), None);
    }

    #[test]
    fn groups_with_unequal_seeds_are_compared_over_the_seeds_they_share() {
        let finished =
            |seeds: &[u64]| group(seeds.iter().map(|seed| run(*seed, "finished", &[])).collect());
        let lost = group(vec![run(7, "diverged", &[])]);
        let groups = [finished(&[0, 1, 2]), finished(&[1, 2]), lost];
        let common = common_seeds(&groups);
        assert_eq!(common, BTreeSet::from([1, 2]));
        let seeds = |group| comparable(group, &common).iter().map(|r| r.seed).collect::<Vec<_>>();
        assert_eq!(groups.each_ref().map(seeds), [vec![1, 2], vec![1, 2], vec![7]]);
        assert_eq!(common_seeds(&[finished(&[0]), finished(&[1])]), BTreeSet::new());
    }

    #[test]
    fn differences_pair_the_seeds() {
        let baseline =
            group(vec![run(1, "finished", &[5.0, 4.0]), run(2, "finished", &[6.0, 5.0])]);
        let other = group(vec![run(2, "finished", &[6.5, 5.25]), run(9, "finished", &[1.0, 1.0])]);
        let points = differences(&other, &baseline);
        assert_eq!(
            points.iter().map(|p| (p.mean, p.runs)).collect::<Vec<_>>(),
            [(0.5, 1), (0.25, 1)]
        );
    }

    #[test]
    fn the_last_measurement_is_the_one_of_the_latest_step() {
        let run = run(0, "finished", &[]);
        assert_eq!(final_variances(&run), BTreeMap::from([(0, 1.0), (1, 9.0)]));
        assert_eq!(last_variances(&run), BTreeMap::from([(20, 9.0)]));
    }
}
