//! Columns of the tables: one quantity of a record, a cell for each stream index and layer, empty
//! where it was not measured.

use lns_record::{
    DiagnoseRecord, Format, LayerRecord, Numbers, Quantity, RemovalRecord, StreamRecord,
};

use crate::number::{figure, measured_alike, percent};

/// Rows that a record's tables need.
pub(crate) fn rows(record: &DiagnoseRecord) -> usize {
    record.layers.len().max(record.stream.len())
}

/// Cells of whatever a record describes, on the page.
pub(crate) fn on_page(
    record: &DiagnoseRecord,
    numbers: &Numbers,
    quantity: &Quantity,
) -> Vec<String> {
    written(record, numbers, quantity, numbers.column(&quantity.field), quantity.stderr.is_some())
}

/// Cells of whatever a record describes, in a terminal, where an uncertainty has room only if the
/// quantity is nothing without it.
pub(crate) fn in_terminal(
    record: &DiagnoseRecord,
    numbers: &Numbers,
    quantity: &Quantity,
) -> Vec<String> {
    let mut values = numbers.column(&quantity.field);
    if let Some(stand_in) = &quantity.stand_in {
        let stand_ins = numbers.column(stand_in);
        values.resize(values.len().max(stand_ins.len()), None);
        for (value, stand_in) in values.iter_mut().zip(stand_ins) {
            *value = value.or(stand_in);
        }
    }
    let with_errors = matches!(quantity.format, Format::Measured | Format::Points);
    written(record, numbers, quantity, values, with_errors)
}

fn written(
    record: &DiagnoseRecord,
    numbers: &Numbers,
    quantity: &Quantity,
    values: Vec<Option<f64>>,
    with_errors: bool,
) -> Vec<String> {
    let plain = |write: fn(f64) -> String| -> Vec<String> {
        values.iter().map(|value| value.map(write).unwrap_or_default()).collect()
    };
    let cells = match quantity.format {
        Format::Percent => plain(percent),
        Format::Count => plain(|value| format!("{value:.0}")),
        Format::Measured | Format::Points | Format::Figure if with_errors => {
            let scale = if quantity.format == Format::Points { 100.0 } else { 1.0 };
            let stderrs = quantity.stderr.iter().flat_map(|field| numbers.column(field));
            let stderrs = stderrs.chain(std::iter::repeat(None));
            let with_stderr = |(value, stderr): (&Option<f64>, Option<f64>)| {
                Some(((*value)? * scale, stderr.map(|stderr| stderr * scale)))
            };
            measured_alike(values.iter().zip(stderrs).map(with_stderr).collect())
        }
        Format::Points => plain(|value| figure(100.0 * value)),
        Format::Measured | Format::Figure => plain(figure),
    };
    filled(record, cells)
}

pub(crate) fn stream(record: &DiagnoseRecord, read: fn(&StreamRecord) -> f64) -> Vec<String> {
    filled(record, record.stream.iter().map(|stream| figure(read(stream))))
}

pub(crate) fn layers(
    record: &DiagnoseRecord,
    read: fn(&LayerRecord) -> Option<f64>,
) -> Vec<String> {
    filled(record, record.layers.iter().map(|layer| read(layer).map(figure).unwrap_or_default()))
}

pub(crate) fn removals(
    record: &DiagnoseRecord,
    read: fn(&LayerRecord) -> Option<RemovalRecord>,
) -> Vec<String> {
    let measurement = |layer| read(layer).map(|r| (r.delta_nll, r.stderr));
    filled(record, measured_alike(record.layers.iter().map(measurement).collect()))
}

fn filled(record: &DiagnoseRecord, cells: impl IntoIterator<Item = String>) -> Vec<String> {
    cells.into_iter().chain(std::iter::repeat(String::new())).take(rows(record)).collect()
}
