//! Means and paired differences over seeds.

use lns_record::{GroupRecord, Interval, PairRecord, RunRecord};
use statrs::distribution::{ContinuousCDF, StudentsT};

/// Mean and 95 % confidence interval of a sample: mean ± t(0.975, n − 1)·s/√n. `None` for none.
pub fn interval(sample: &[f64]) -> Option<Interval> {
    let n = sample.len() as f64;
    if sample.is_empty() {
        return None;
    }
    let mean = sample.iter().sum::<f64>() / n;
    let variance = sample.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let half = match StudentsT::new(0.0, 1.0, n - 1.0) {
        Ok(t) if sample.len() > 1 => Some(t.inverse_cdf(0.975) * (variance / n).sqrt()),
        _ => None,
    };
    Some(Interval {
        mean,
        low: half.map(|half| mean - half),
        high: half.map(|half| mean + half),
        count: sample.len() as u64,
    })
}

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

    #[test]
    fn the_interval_is_students() {
        // t(0.975, 2) = 4.302653; s = 1 for 1, 2, 3.
        let found = interval(&[1.0, 2.0, 3.0]).expect("a sample");
        let half = 4.302_652_729_911_275 / 3f64.sqrt();
        assert!((found.mean - 2.0).abs() < 1e-12);
        assert!((found.low.expect("3 seeds") - (2.0 - half)).abs() < 1e-6, "{found:?}");
        assert!((found.high.expect("3 seeds") - (2.0 + half)).abs() < 1e-6, "{found:?}");
        assert_eq!(interval(&[]), None);
        assert_eq!(interval(&[5.0]).map(|one| (one.mean, one.low)), Some((5.0, None)));
    }

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
