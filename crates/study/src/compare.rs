//! Means and paired differences over seeds.

use lns_record::{GroupRecord, Interval, PairRecord, RunRecord};
use lns_statistics::interval;

/// A group's runs and their means.
pub(crate) fn group(name: String, runs: Vec<RunRecord>, published: Option<f64>) -> GroupRecord {
    let losses: Vec<f64> = runs.iter().filter_map(|run| run.loss).collect();
    let loss = interval(&losses);
    GroupRecord {
        name,
        runs,
        loss,
        perplexity: loss.map(Interval::exp),
        published_perplexity: published,
    }
}

/// A group against the baseline, over the seeds that both have finished; `None` without such a seed.
pub(crate) fn pair(
    group: &GroupRecord,
    baseline: &GroupRecord,
    noise_probe: bool,
) -> Option<PairRecord> {
    let differences: Vec<(u64, f64)> = group
        .runs
        .iter()
        .filter_map(|run| {
            let other = baseline.runs.iter().find(|other| other.seed == run.seed)?;
            Some((run.seed, run.loss? - other.loss?))
        })
        .collect();
    let sample: Vec<f64> = differences.iter().map(|(_, difference)| *difference).collect();
    let difference = interval(&sample)?;
    Some(PairRecord { name: group.name.clone(), difference, differences, noise_probe })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(seed: u64, loss: Option<f64>) -> RunRecord {
        RunRecord {
            folder: String::new(),
            seed,
            outcome: "finished".to_owned(),
            steps: 1,
            tokens: 1,
            loss,
            curve: Vec::new(),
            variance: Vec::new(),
            along: vec![],
            diagnosis: None,
        }
    }

    #[test]
    fn pairs_are_made_seed_by_seed() {
        let base = group("pre".to_owned(), vec![run(1, Some(4.0)), run(2, Some(5.0))], None);
        let runs = vec![run(2, Some(4.5)), run(1, Some(3.9)), run(3, Some(1.0)), run(4, None)];
        let other = group("lns".to_owned(), runs, None);
        let pair = pair(&other, &base, false).expect("two seeds");
        assert_eq!(pair.differences.len(), 2);
        assert!((pair.difference.mean + 0.3).abs() < 1e-12);
        assert_eq!(other.loss.map(|loss| loss.count), Some(3), "diverged runs have no loss");
    }

    #[test]
    fn a_perplexity_and_its_interval_are_the_exponentials_of_the_losses() {
        let runs = vec![run(1, Some(1.821)), run(2, Some(2.643))];
        let group = group("pre".to_owned(), runs, None);
        let (loss, perplexity) = (group.loss.expect("two"), group.perplexity.expect("two"));
        assert_eq!(perplexity.mean, loss.mean.exp());
        assert_eq!(perplexity.low, loss.low.map(f64::exp));
        assert_eq!(perplexity.high, loss.high.map(f64::exp));
    }
}
