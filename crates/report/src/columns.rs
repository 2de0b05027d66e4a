//! Columns of the tables: one quantity of a record, a cell for each stream index and layer, empty
//! where it was not measured.

use lns_record::{DiagnoseRecord, LayerRecord, LensRecord, RemovalRecord, StreamRecord};

use crate::number::{figure, measured_alike};

/// Rows that a record's tables need.
pub(crate) fn rows(record: &DiagnoseRecord) -> usize {
    record.layers.len().max(record.stream.len())
}

pub(crate) fn stream(record: &DiagnoseRecord, read: fn(&StreamRecord) -> f64) -> Vec<String> {
    filled(record, record.stream.iter().map(|stream| figure(read(stream))))
}

/// Of a quantity that files of earlier versions lack.
pub(crate) fn newer_stream(
    record: &DiagnoseRecord,
    read: fn(&StreamRecord) -> Option<f64>,
) -> Vec<String> {
    filled(record, record.stream.iter().map(|s| read(s).map(figure).unwrap_or_default()))
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

pub(crate) fn jacobian(record: &DiagnoseRecord) -> Vec<String> {
    let measurement =
        |layer: &LayerRecord| Some((layer.jacobian_identity_distance?, layer.jacobian_stderr));
    filled(record, measured_alike(record.layers.iter().map(measurement).collect()))
}

pub(crate) fn lens(record: &DiagnoseRecord, write: fn(&LensRecord) -> String) -> Vec<String> {
    let mut cells = vec![String::new(); rows(record)];
    for lens in &record.lens {
        if let Some(cell) = cells.get_mut(lens.index) {
            *cell = write(lens);
        }
    }
    cells
}

fn filled(record: &DiagnoseRecord, cells: impl IntoIterator<Item = String>) -> Vec<String> {
    cells.into_iter().chain(std::iter::repeat(String::new())).take(rows(record)).collect()
}
