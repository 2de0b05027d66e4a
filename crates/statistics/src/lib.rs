//! Means of samples, how sure they are, paired differences and their tests. Intervals are Student's: mean ±
//! t(0.975, n − 1)·s/√n, with s² the sample variance.
//!
//! ```
//! use lns_statistics::{interval, paired_difference};
//!
//! let losses = interval(&[3.2, 3.4, 3.3]).expect("a sample");
//! assert!((losses.mean - 3.3).abs() < 1e-12);
//! assert!(losses.low.expect("three values") < 3.2);
//!
//! // Both models find the second text hard; paired, that does not blur their difference.
//! let found = paired_difference(&[1.0, 5.0], &[1.1, 5.1]).expect("as many values");
//! assert!((found.nll - 0.1).abs() < 1e-12);
//! assert!(found.stderr.expect("two values") < 1e-12);
//! ```

use lns_record::{DifferenceRecord, Interval};
use statrs::distribution::{Binomial, ContinuousCDF, DiscreteCDF, Normal, StudentsT};

/// Arithmetic mean; NaN of nothing.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Standard error of the mean: sample standard deviation over √n; `None` with fewer than two values.
pub fn standard_error(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let count = values.len() as f64;
    Some((squares / (count - 1.0) / count).sqrt())
}

/// Half the 95 % confidence interval of the mean; `None` with fewer than two values.
pub fn margin(values: &[f64]) -> Option<f64> {
    margin_at(values, LEVEL)
}

/// How often an interval may miss the mean, where nothing else is said.
pub const LEVEL: f64 = 0.05;

/// Half the confidence interval of the mean that misses it with probability `level`; `None` with fewer than
/// two values.
pub fn margin_at(values: &[f64], level: f64) -> Option<f64> {
    let stderr = standard_error(values)?;
    let t = StudentsT::new(0.0, 1.0, values.len() as f64 - 1.0).ok()?;
    Some(t.inverse_cdf(1.0 - level / 2.0) * stderr)
}

/// Mean and 95 % confidence interval, which one value does not have; `None` for no values.
pub fn interval(values: &[f64]) -> Option<Interval> {
    if values.is_empty() {
        return None;
    }
    let (mean, margin) = (mean(values), margin(values));
    Some(Interval {
        mean,
        low: margin.map(|margin| mean - margin),
        high: margin.map(|margin| mean + margin),
        count: values.len() as u64,
    })
}

/// `second` minus `first`, value by value: what is common to both, a text's own ease or difficulty,
/// drops out of the difference and of its error. `None` when there are no values, or not as many of
/// each. That they belong together one by one is the caller's to know.
pub fn paired_difference(first: &[f64], second: &[f64]) -> Option<DifferenceRecord> {
    if first.len() != second.len() {
        return None;
    }
    let differences: Vec<f64> = second.iter().zip(first).map(|(b, a)| b - a).collect();
    let Interval { mean, low, high, .. } = interval(&differences)?;
    Some(DifferenceRecord { nll: mean, stderr: standard_error(&differences), low, high })
}

/// The p-value of Student's t test that the mean is 0, two-sided; `None` with fewer than two values.
pub fn two_sided_p(values: &[f64]) -> Option<f64> {
    let above = p_above(values, 0.0)?;
    Some(2.0 * above.min(1.0 - above))
}

/// The p-value of two one-sided tests that the mean lies beyond ±`margin`: below 0.05, both place it inside
/// (Schuirmann, J. Pharmacokin. Biopharm. 15, 1987). `None` with fewer than two values.
pub fn equivalence_p(values: &[f64], margin: f64) -> Option<f64> {
    let (above, below) = (p_above(values, -margin)?, 1.0 - p_above(values, margin)?);
    Some(above.max(below))
}

/// The p-value of Student's t test that the mean is `hypothesis` or less.
fn p_above(values: &[f64], hypothesis: f64) -> Option<f64> {
    let (stderr, distance) = (standard_error(values)?, mean(values) - hypothesis);
    let distribution = StudentsT::new(0.0, 1.0, values.len() as f64 - 1.0).ok()?;
    // Values that agree to the last bit leave no doubt, unless they agree on the hypothesis.
    Some(match distance / stderr {
        _ if distance == 0.0 => 0.5,
        t if t.is_infinite() => f64::from(t < 0.0),
        t => distribution.sf(t),
    })
}

/// The p-value of McNemar's exact test (Psychometrika 12, 1947), two-sided: of documents on which two
/// models differ, `only_first` and `only_second` are those that one alone has right, and under no
/// difference each falls to either with probability ½.
pub fn mcnemar_p(only_first: u64, only_second: u64) -> f64 {
    let differ = only_first + only_second;
    let Ok(distribution) = Binomial::new(0.5, differ) else { return 1.0 };
    (2.0 * distribution.cdf(only_first.min(only_second))).min(1.0)
}

/// The p-value of the exact binomial test that `right` of `count` are no more than one gets with probability
/// `share` each: the probability of so many or more.
pub fn binomial_above_p(right: u64, count: u64, share: f64) -> Option<f64> {
    let distribution = Binomial::new(share, count).ok()?;
    Some(if right == 0 { 1.0 } else { distribution.sf(right - 1) })
}

/// Holm's step-down correction (Scand. J. Statist. 6, 1979) of these p-values among `family` tests: the
/// k-th smallest is multiplied by family + 1 − k, and none is smaller than the one before it. Tests of the
/// family that are not among them are taken to be larger, which can only make these larger.
pub fn holm(p: &[f64], family: usize) -> Vec<f64> {
    let family = family.max(p.len());
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let mut adjusted = vec![0.0; p.len()];
    let mut largest = 0f64;
    for (before, at) in order.into_iter().enumerate() {
        largest = largest.max((family - before) as f64 * p[at]).min(1.0);
        adjusted[at] = largest;
    }
    adjusted
}

/// Spearman's rank correlation: Pearson's of the ranks, equals sharing their mean rank. `None` for
/// fewer than three pairs, or where one side is all the same.
pub fn rank_correlation(pairs: &[(f64, f64)]) -> Option<f64> {
    if pairs.len() < 3 {
        return None;
    }
    let a = ranks(pairs.iter().map(|pair| pair.0).collect());
    let b = ranks(pairs.iter().map(|pair| pair.1).collect());
    let mean = (pairs.len() - 1) as f64 / 2.0;
    let product = |x: &[f64], y: &[f64]| -> f64 {
        x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum()
    };
    let spread = (product(&a, &a) * product(&b, &b)).sqrt();
    (spread > 0.0).then(|| product(&a, &b) / spread)
}

/// The rank of each value from 0 on.
fn ranks(values: Vec<f64>) -> Vec<f64> {
    let rank = |value: &f64| {
        let below = values.iter().filter(|other| *other < value).count();
        let equal = values.iter().filter(|other| *other == value).count();
        below as f64 + (equal as f64 - 1.0) / 2.0
    };
    values.iter().map(rank).collect()
}

/// The 95 % confidence interval of a rank correlation over `pairs` pairs, taken as a sample: Fisher's z
/// with the variance (1 + r²/2) / (n − 3) (Bonett and Wright, Psychometrika 65, 2000). `None` for fewer
/// than four pairs, or where they agree perfectly.
pub fn rank_correlation_interval(correlation: f64, pairs: usize) -> Option<(f64, f64)> {
    let freedom = pairs.checked_sub(3).filter(|freedom| *freedom > 0)?;
    let normal = Normal::new(0.0, 1.0).ok()?;
    let deviation = ((1.0 + correlation * correlation / 2.0) / freedom as f64).sqrt();
    let (z, reach) = (correlation.atanh(), normal.inverse_cdf(0.975) * deviation);
    z.is_finite().then(|| ((z - reach).tanh(), (z + reach).tanh()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_error_is_that_of_the_mean() {
        assert_eq!(standard_error(&[3.0]), None);
        let values = [1.0, 2.0, 4.0, 5.0]; // sample variance 10/3
        let error = standard_error(&values).expect("four values");
        assert!((error - (10f64 / 3.0 / 4.0).sqrt()).abs() < 1e-15);
        assert_eq!(mean(&values), 3.0);
    }

    #[test]
    fn the_interval_is_students() {
        // t(0.975, 2) = 4.302653; s = 1 for 1, 2, 3.
        let found = interval(&[1.0, 2.0, 3.0]).expect("a sample");
        let half = 4.302_652_729_911_275 / 3f64.sqrt();
        assert!((found.mean - 2.0).abs() < 1e-12);
        assert!((found.low.expect("3 values") - (2.0 - half)).abs() < 1e-6, "{found:?}");
        assert!((found.high.expect("3 values") - (2.0 + half)).abs() < 1e-6, "{found:?}");
        assert_eq!(interval(&[]), None);
        assert_eq!(interval(&[5.0]).map(|one| (one.mean, one.low)), Some((5.0, None)));
    }

    #[test]
    fn an_interval_that_may_miss_less_often_is_wider() {
        // s/√n of 1, 2, 4, 5 times scipy.stats.t.ppf(1 - level/2, 3).
        let values = [1.0, 2.0, 4.0, 5.0];
        let stderr = standard_error(&values).expect("four values");
        for (level, t) in [(0.05, 3.182_446_305_284), (0.025, 4.176_534_846_317)] {
            let margin = margin_at(&values, level).expect("four values");
            assert!((margin / stderr - t).abs() < 1e-6, "{level}: {margin}");
        }
        assert_eq!(margin(&values), margin_at(&values, LEVEL));
        assert_eq!(margin_at(&[1.0], 0.025), None);
    }

    #[test]
    fn what_both_find_hard_does_not_blur_the_difference() {
        let (first, second) = ([1.0, 5.0, 3.0, 9.0], [1.1, 5.3, 3.1, 9.3]);
        let found = paired_difference(&first, &second).expect("as many values");
        assert!((found.nll - 0.2).abs() < 1e-12);
        // s = 0.1155 over 4 values; t(0.975, 3) = 3.182.
        let stderr = found.stderr.expect("four values");
        assert!((stderr - 0.057_735).abs() < 1e-6, "{stderr}");
        let unpaired = standard_error(&second).expect("four values");
        assert!(unpaired > 20.0 * stderr, "unpaired it is blurred");
        let (low, high) = (found.low.expect("a margin"), found.high.expect("a margin"));
        assert!((low - (0.2 - 3.182_446 * stderr)).abs() < 1e-6, "{low}");
        assert!((high + low - 0.4).abs() < 1e-12);
    }

    #[test]
    fn one_pair_has_a_difference_and_no_error_and_unequal_samples_have_none() {
        let found = paired_difference(&[1.0], &[1.5]).expect("a pair");
        assert_eq!((found.nll, found.stderr, found.low), (0.5, None, None));
        assert_eq!(paired_difference(&[1.0], &[1.0, 2.0]), None);
        assert_eq!(paired_difference(&[], &[]), None);
    }

    fn is(found: Option<f64>, expected: f64) {
        let found = found.expect("two values at least");
        assert!((found - expected).abs() < 1e-9, "{found} is not {expected}");
    }

    #[test]
    fn the_test_of_no_difference_is_students() {
        // scipy.stats.ttest_1samp(x, 0).pvalue
        is(two_sided_p(&[-0.5, -0.5, -1.5]), 0.129_611_720_221_510_82);
        is(two_sided_p(&[0.0, 0.0]), 1.0);
        is(two_sided_p(&[0.1, 0.1]), 0.0);
        assert_eq!(two_sided_p(&[0.1]), None);
    }

    #[test]
    fn two_one_sided_tests_call_none_what_is_inside_the_margin_and_only_that() {
        // The larger of scipy.stats.ttest_1samp(x, 0.03, alternative="less") and (…, -0.03, "greater").
        is(equivalence_p(&[0.01, -0.01, 0.015, -0.005], 0.03), 0.009_538_579_407_312_01);
        is(equivalence_p(&[0.1, -0.1, 0.15, -0.05], 0.03), 0.469_167_742_918_705_9);
        is(equivalence_p(&[0.05, 0.05, 0.051, 0.049], 0.03), 0.999_990_635_753_666_5);
        is(equivalence_p(&[0.0; 4], 0.03), 0.0);
        assert_eq!(equivalence_p(&[0.0], 0.03), None);
    }

    #[test]
    fn mcnemars_test_is_the_binomials() {
        // scipy.stats.binomtest(k, n, 0.5).pvalue
        for (only_first, only_second, expected) in [
            (0, 0, 1.0),
            (3, 3, 1.0),
            (1, 9, 0.021_484_375),
            (9, 1, 0.021_484_375),
            (40, 60, 0.056_887_933_640_980_87),
        ] {
            let found = mcnemar_p(only_first, only_second);
            assert!((found - expected).abs() < 1e-12, "{only_first} {only_second}: {found}");
        }
    }

    #[test]
    fn holms_correction_is_the_textbooks() {
        // p.adjust(c(0.01, 0.04, 0.03), "holm") = 0.03 0.06 0.06
        let adjusted = holm(&[0.01, 0.04, 0.03], 3);
        for (found, expected) in adjusted.iter().zip([0.03, 0.06, 0.06]) {
            assert!((found - expected).abs() < 1e-12, "{adjusted:?}");
        }
        assert_eq!(holm(&[0.8], 2), [1.0]);
        assert_eq!(holm(&[0.02], 2), [0.04], "a test of another study counts too");
        assert!(holm(&[], 2).is_empty());
    }

    #[test]
    fn a_rank_correlation_sees_order_and_nothing_else() {
        let with = |b: [f64; 5]| {
            rank_correlation(&[1.0, 2.0, 3.0, 4.0, 5.0].into_iter().zip(b).collect::<Vec<_>>())
        };
        assert_eq!(with([0.1, 0.2, 7.0, 8.0, 900.0]), Some(1.0));
        assert_eq!(with([5.0, 4.0, 3.0, 2.0, -1.0]), Some(-1.0));
        // scipy.stats.spearmanr([1, 2, 3, 4, 5], [1, 1, 3, 2, 9]).statistic
        is(with([1.0, 1.0, 3.0, 2.0, 9.0]), 0.872_081_599_272_38);
        assert_eq!(with([2.0; 5]), None, "what is all the same has no order");
        assert_eq!(rank_correlation(&[(1.0, 2.0), (2.0, 3.0)]), None);
    }

    #[test]
    fn the_interval_of_a_rank_correlation_is_bonetts_and_wrights() {
        // tanh(atanh(r) ± 1.96 √((1 + r²/2) / (n − 3))), computed by itself.
        for (r, n, low, high) in [
            (0.5, 30, 0.1481321833905542, 0.7395031949196345),
            (-0.9, 12, -0.9778786672991446, -0.6029822891746747),
        ] {
            let found = rank_correlation_interval(r, n).expect("enough pairs");
            assert!((found.0 - low).abs() < 1e-9 && (found.1 - high).abs() < 1e-9, "{found:?}");
        }
        assert_eq!(rank_correlation_interval(0.5, 3), None);
        assert_eq!(rank_correlation_interval(1.0, 30), None, "perfect agreement has no width");
    }

    #[test]
    fn more_than_guessing_gives_is_told_from_it_exactly() {
        // scipy.stats.binomtest(k, n, p, alternative="greater").pvalue
        for (right, count, share, expected) in [
            (60, 100, 0.5, 0.028443966820490395),
            (0, 10, 0.25, 1.0),
            (10, 10, 0.5, 0.0009765625),
            (300, 1000, 0.25, 0.0001935903219490789),
        ] {
            let p = binomial_above_p(right, count, share).expect("a share");
            assert!((p - expected).abs() < 1e-9, "{right} of {count}: {p}");
        }
        assert_eq!(binomial_above_p(1, 2, 1.5), None);
    }
}
