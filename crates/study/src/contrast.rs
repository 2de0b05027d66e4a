//! Contrasts: weighted sums of groups' losses, taken within a seed and averaged over seeds, so that what
//! a seed does to all groups alike falls out. A pair is a contrast of two groups, an interaction one of
//! four: (lns − pre) at one setting less (lns − pre) at another.
//!
//! A difference is tested against zero by Student's t. That there is none is a claim of its own, which takes
//! two one-sided tests.

use std::collections::BTreeMap;

use lns_record::{ContrastRecord, EquivalenceRecord, GroupRecord};
use lns_statistics::{equivalence_p, holm, interval, two_sided_p};
use serde::{Deserialize, Serialize};

/// A contrast as a study's file has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contrast {
    /// What it is called.
    pub name: String,
    /// Weight of each group, by its name; they sum to 0.
    pub weights: BTreeMap<String, f64>,
    /// Whether a claim rests on it: primary contrasts are corrected for their number (Holm).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub primary: bool,
    /// A difference smaller than this, in nats per token, is called none if both one-sided tests say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equivalence: Option<f64>,
}

impl Contrast {
    /// Why it is no contrast of these groups.
    pub(crate) fn fault(&self, groups: &[String]) -> Option<String> {
        if self.name.trim().is_empty() {
            return Some("it has no name".to_owned());
        }
        if let Some(name) = self.weights.keys().find(|name| !groups.contains(name)) {
            return Some(format!("{name} is none of the groups: {}", groups.join(", ")));
        }
        if let Some((name, weight)) =
            self.weights.iter().find(|(_, weight)| !weight.is_finite() || **weight == 0.0)
        {
            return Some(format!("the weight of {name} is {weight}; it is a number other than 0"));
        }
        let sum: f64 = self.weights.values().sum();
        if self.weights.len() < 2 || sum.abs() > 1e-9 {
            let sum = if sum == 0.0 { 0.0 } else { sum };
            return Some(format!(
                "its weights sum to {sum}; those of a contrast sum to 0, as 1 and -1 do"
            ));
        }
        self.equivalence
            .filter(|margin| !(margin.is_finite() && *margin > 0.0))
            .map(|margin| format!("equivalence is {margin}; it is a number of nats above 0"))
    }

    /// What the groups' finished runs say: over the seeds that every group of the contrast has finished.
    /// `None` without such a seed.
    fn measure(&self, groups: &[GroupRecord]) -> Option<ContrastRecord> {
        let terms: Vec<(&GroupRecord, f64)> = self
            .weights
            .iter()
            .map(|(name, weight)| Some((groups.iter().find(|group| group.name == *name)?, *weight)))
            .collect::<Option<_>>()?;
        let loss = |group: &GroupRecord, seed| group.runs.iter().find(|run| run.seed == seed)?.loss;
        let (first, _) = terms.first()?;
        let by_seed: Vec<(u64, f64)> = first
            .runs
            .iter()
            .filter_map(|run| {
                let terms =
                    terms.iter().map(|(group, weight)| Some(weight * loss(group, run.seed)?));
                Some((run.seed, terms.sum::<Option<f64>>()?))
            })
            .collect();
        let sample: Vec<f64> = by_seed.iter().map(|(_, value)| *value).collect();
        let equivalence = self
            .equivalence
            .map(|margin| EquivalenceRecord { margin, p: equivalence_p(&sample, margin) });
        Some(ContrastRecord {
            name: self.name.clone(),
            weights: self.weights.iter().map(|(name, weight)| (name.clone(), *weight)).collect(),
            primary: self.primary,
            estimate: interval(&sample)?,
            by_seed,
            p: two_sided_p(&sample),
            p_holm: None,
            equivalence,
        })
    }
}

/// Every contrast that has a seed; the primary ones corrected as `primaries` of a plan, of which some may
/// belong to other studies.
pub(crate) fn contrasts(
    contrasts: &[Contrast],
    groups: &[GroupRecord],
    primaries: usize,
) -> Vec<ContrastRecord> {
    let mut records: Vec<ContrastRecord> =
        contrasts.iter().filter_map(|contrast| contrast.measure(groups)).collect();
    let mut tested: Vec<&mut ContrastRecord> =
        records.iter_mut().filter(|record| record.primary && record.p.is_some()).collect();
    let p: Vec<f64> = tested.iter().filter_map(|record| record.p).collect();
    for (record, adjusted) in tested.iter_mut().zip(holm(&p, primaries)) {
        record.p_holm = Some(adjusted);
    }
    records
}

#[cfg(test)]
mod tests {
    use lns_record::RunRecord;

    use super::*;

    fn group(name: &str, losses: &[(u64, Option<f64>)]) -> GroupRecord {
        let run = |(seed, loss): &(u64, Option<f64>)| RunRecord {
            folder: String::new(),
            seed: *seed,
            outcome: "finished".to_owned(),
            steps: 1,
            tokens: 1,
            loss: *loss,
            curve: Vec::new(),
            variance: Vec::new(),
            along: vec![],
            diagnosis: None,
        };
        crate::compare::group(name.to_owned(), losses.iter().map(run).collect(), None)
    }

    fn contrast(weights: &[(&str, f64)], equivalence: Option<f64>) -> Contrast {
        let weights = weights.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect();
        Contrast { name: "c".to_owned(), weights, primary: true, equivalence }
    }

    #[test]
    fn an_interaction_is_taken_within_the_seeds_that_all_four_groups_have() {
        let groups = [
            group("a", &[(1, Some(4.0)), (2, Some(4.5)), (3, Some(4.0)), (4, Some(9.0))]),
            group("b", &[(1, Some(5.0)), (2, Some(5.0)), (3, Some(5.5)), (4, None)]),
            group("c", &[(3, Some(3.0)), (2, Some(3.0)), (1, Some(3.0))]),
            group("d", &[(1, Some(3.5)), (2, Some(3.0)), (3, Some(3.0)), (4, Some(1.0))]),
        ];
        let weights = [("a", 1.0), ("b", -1.0), ("c", -1.0), ("d", 1.0)];
        let found = &contrasts(&[contrast(&weights, Some(0.03))], &groups, 2)[0];
        // (a − b) − (c − d): −1 + 0.5, −0.5 − 0, −1.5 − 0.
        assert_eq!(found.by_seed, [(1, -0.5), (2, -0.5), (3, -1.5)]);
        assert!((found.estimate.mean + 5.0 / 6.0).abs() < 1e-12);
        // scipy.stats.ttest_1samp([-0.5, -0.5, -1.5], 0)
        let p = found.p.expect("three seeds");
        assert!((p - 0.129_611_720_221_510_82).abs() < 1e-9, "{p}");
        assert_eq!(found.p_holm, Some(2.0 * p), "one of two primaries");
        let equivalence = found.equivalence.expect("asked for");
        assert_eq!(equivalence.margin, 0.03);
        assert!(equivalence.p.expect("three seeds") > 0.9, "far beyond the margin");
    }

    #[test]
    fn what_is_no_contrast_is_refused_by_name() {
        let groups = ["a".to_owned(), "b".to_owned()];
        let fault = |weights: &[(&str, f64)], margin| contrast(weights, margin).fault(&groups);
        assert_eq!(fault(&[("a", 1.0), ("b", -1.0)], Some(0.03)), None);
        let said = |weights: &[(&str, f64)], margin| fault(weights, margin).unwrap_or_default();
        assert!(said(&[("a", 1.0), ("x", -1.0)], None).contains("x is none of the groups: a, b"));
        assert!(said(&[("a", 1.0), ("b", 1.0)], None).contains("sum to 2"));
        assert!(said(&[("a", 1.0), ("b", f64::NAN)], None).contains("weight of b is NaN"));
        assert!(said(&[], None).contains("sum to 0"));
        assert!(said(&[("a", 1.0), ("b", -1.0)], Some(-1.0)).contains("equivalence is -1"));
    }
}
