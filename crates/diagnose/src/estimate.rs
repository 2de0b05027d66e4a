//! How well a quantity that estimates another ranks the layers as that does.

use lns_record::{DiagnoseRecord, EstimateRecord, Numbers, Quantity};

/// Every estimate whose quantity was measured too.
pub(crate) fn estimates(record: &DiagnoseRecord) -> Vec<EstimateRecord> {
    let numbers = Numbers::of(record);
    let of = |quantity: &Quantity| {
        let of = quantity.estimates.clone()?;
        let (found, wanted) = (numbers.column(&quantity.field), numbers.column(&of));
        let pairs: Vec<(f64, f64)> =
            found.into_iter().zip(wanted).filter_map(|(a, b)| Some((a?, b?))).collect();
        Some(EstimateRecord {
            quantity: quantity.field.clone(),
            of,
            rank_correlation: spearman(&pairs)?,
            entries: pairs.len(),
        })
    };
    record.quantities().filter_map(of).collect()
}

/// Spearman's rank correlation: Pearson's of the ranks, equals sharing their mean rank. `None` for
/// fewer than three pairs, or where one side is all the same.
fn spearman(pairs: &[(f64, f64)]) -> Option<f64> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_correlation_sees_order_and_nothing_else() {
        let with = |b: [f64; 5]| {
            spearman(&[1.0, 2.0, 3.0, 4.0, 5.0].into_iter().zip(b).collect::<Vec<_>>())
        };
        assert_eq!(with([0.1, 0.2, 7.0, 8.0, 900.0]), Some(1.0));
        assert_eq!(with([5.0, 4.0, 3.0, 2.0, -1.0]), Some(-1.0));
        // scipy.stats.spearmanr([1, 2, 3, 4, 5], [1, 1, 3, 2, 9]).statistic
        assert!(
            (with([1.0, 1.0, 3.0, 2.0, 9.0]).unwrap_or(0.0) - 0.872_081_599_272_38).abs() < 1e-12
        );
        assert_eq!(with([2.0; 5]), None, "what is all the same has no order");
        assert_eq!(spearman(&[(1.0, 2.0), (2.0, 3.0)]), None);
    }
}
