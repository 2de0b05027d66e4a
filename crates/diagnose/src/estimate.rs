//! How well a quantity that estimates another ranks the layers as that does.

use lns_record::{DiagnoseRecord, EstimateRecord, Numbers, Quantity};
use lns_statistics::rank_correlation;

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
            rank_correlation: rank_correlation(&pairs)?,
            entries: pairs.len(),
        })
    };
    record.quantities().filter_map(of).collect()
}
