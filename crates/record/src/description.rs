//! What the numbers of a diagnosis are, in words that travel with them: whoever reads the file can
//! tabulate and draw a quantity that it has never heard of.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::DiagnoseRecord;

/// A probe: one measurement of a diagnosis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbeDescription {
    /// Its name on the command line.
    pub name: String,
    /// What it measures, in a few words.
    pub measures: String,
    /// What its numbers are about.
    pub group: Group,
    /// What it measures, number by number; left out where it was not run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quantities: Vec<Quantity>,
    /// How they are drawn, where a chart of lines or bars tells all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub charts: Vec<ChartDescription>,
}

impl ProbeDescription {
    /// Whether there is a number of this probe.
    pub fn is_in(&self, numbers: &Numbers) -> bool {
        self.quantities.iter().any(|quantity| numbers.has(quantity))
    }
}

/// What the numbers of a probe are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// The stream, and what layers do to it.
    Stream,
    /// What that does to losses, gradients and predictions.
    #[serde(other)]
    Effect,
}

/// One quantity of a diagnosis: a number for each place on its axis.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantity {
    /// Where `diagnose.json` has it: `layers[].removal.delta_nll` is `delta_nll` in the `removal` of
    /// each of the `layers`.
    pub field: String,
    /// What its places are.
    pub axis: Axis,
    /// Its name where there is room for it.
    pub label: String,
    /// Its unit; absent for a pure number.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unit: String,
    /// How it is written.
    #[serde(default)]
    pub format: Format,
    /// Field of its standard error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<String>,
    /// Field of half its 95 % confidence interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<String>,
    /// Field that stands in for it in a terminal's table where a file of an earlier version lacks it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stand_in: Option<String>,
    /// Its column in a terminal's table; absent where it is told on the page only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<ColumnDescription>,
    /// Field of the quantity that it estimates: where both are measured, the rank correlation of the
    /// two is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimates: Option<String>,
}

impl Quantity {
    /// A quantity of each layer, called `label`, without unit or column.
    pub fn of_layers(name: &str, label: &str) -> Self {
        let (field, label) = (format!("layers[].{name}"), label.to_owned());
        Self { field, axis: Axis::Layer, label, ..Self::default() }
    }

    /// A quantity of each point of the stream.
    pub fn of_stream(name: &str, label: &str) -> Self {
        let (field, label) = (format!("stream[].{name}"), label.to_owned());
        Self { field, axis: Axis::Stream, label, ..Self::default() }
    }

    /// A difference of losses in each layer, as [`RemovalRecord`](crate::RemovalRecord) holds it, with
    /// its standard error and interval.
    pub fn loss_difference(name: &str, label: &str) -> Self {
        let part = |part: &str| format!("layers[].{name}.{part}");
        Self {
            field: part("delta_nll"),
            unit: "nats per token".to_owned(),
            format: Format::Measured,
            stderr: Some(part("stderr")),
            margin: Some(part("margin")),
            ..Self::of_layers(name, label)
        }
    }

    /// The windows that such a difference was measured on.
    pub fn windows_of(name: &str, label: &str) -> Self {
        let of_layers = Self::of_layers(&format!("{name}.windows"), label);
        Self { format: Format::Count, ..of_layers }
    }

    /// With this column in a terminal's table.
    #[must_use]
    pub fn in_column(self, heading: &str, rank: u32, place: u32) -> Self {
        let heading = heading.to_owned();
        Self { column: Some(ColumnDescription { heading, rank, place }), ..self }
    }
}

/// What the places of a quantity are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Axis {
    /// Layers, 0 to L − 1.
    #[default]
    Layer,
    /// Points of the stream, 0 to L.
    Stream,
    /// Pairs of points of the stream; no column, and a chart of its own kind.
    #[serde(other)]
    Pair,
}

/// How a quantity is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A share of one, in per cent.
    Percent,
    /// With its standard error wherever it stands.
    Measured,
    /// A whole number.
    Count,
    /// A difference of shares of one, in percentage points, with its standard error wherever it stands.
    Points,
    /// Three significant digits; on the page with its standard error if it has one.
    #[default]
    #[serde(other)]
    Figure,
}

/// A column of a terminal's table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ColumnDescription {
    /// Its few letters of heading.
    pub heading: String,
    /// Columns of lower rank get the room first: the table's own are 10 (cost of removal) and 20
    /// (variance), and what has no room stands in a table below.
    pub rank: u32,
    /// Its place from left to right: the table's own are 10 (variance) and 120 (cost of removal).
    /// Columns of one place stay together.
    pub place: u32,
}

/// A chart of one or more quantities over their common axis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChartDescription {
    /// File name without its ending.
    pub name: String,
    /// Its heading.
    pub title: String,
    /// What it shows and how to read it.
    pub caption: String,
    /// What the vertical axis measures, without the unit.
    pub y: String,
    /// What the vertical axis is like.
    pub scale: ChartScale,
    /// Whether the stream that leaves the last layer is left out: there some quantities are zero by
    /// definition, or rounding that would stretch the axis.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_end: bool,
    /// What is drawn.
    pub series: Vec<SeriesDescription>,
    /// A line across the chart of one model, at a height that means something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<LineDescription>,
}

/// A line across a chart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LineDescription {
    /// Where, in the unit of the chart's quantities.
    pub at: f64,
    /// What it means, for the legend.
    pub label: String,
}

/// One quantity in a chart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeriesDescription {
    /// Its field: see [`Quantity::field`].
    pub field: String,
    /// Its name in the legend.
    pub label: String,
    /// Its colour, a number of the palette.
    pub hue: usize,
}

impl SeriesDescription {
    /// `quantity` in the colour `hue`, called `label` in the legend.
    pub fn of(quantity: &Quantity, label: &str, hue: usize) -> Self {
        Self { field: quantity.field.clone(), label: label.to_owned(), hue }
    }
}

/// What a vertical axis is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChartScale {
    /// Differences from zero, drawn as bars in a row of their own.
    Difference,
    /// Logarithmic wherever values differ: for what falls through decades by nature.
    Logarithmic,
    /// For values above zero: logarithmic where their ratio demands it. Shares reach up to 100 %.
    #[serde(other)]
    Positive,
}

/// The numbers of a diagnosis by their fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Numbers(Value);

impl Numbers {
    /// The numbers of `record`, as its file has them: what is not finite is absent there.
    pub fn of(record: &DiagnoseRecord) -> Self {
        Self(serde_json::to_value(record).unwrap_or_default())
    }

    /// The numbers of `field` by place; empty where there is none.
    ///
    /// ```
    /// # let json = r#"{"name": "m", "model": {}, "text": {"files": [], "tokens": 8, "windows": 1,
    /// #     "window_len": 8}, "baseline": {"nll": 3.0, "perplexity": 20.1}, "stream": [], "layers":
    /// #     [{"layer": 0, "removal": {"delta_nll": 0.5}}, {"layer": 1, "news": 7}],
    /// #     "verdict": {"text": ""}, "probes": []}"#;
    /// let record: lns_record::DiagnoseRecord = serde_json::from_str(json)?;
    /// let numbers = lns_record::Numbers::of(&record);
    /// assert_eq!(numbers.column("layers[].removal.delta_nll"), [Some(0.5), None]);
    /// assert_eq!(numbers.column("layers[].news"), [None, Some(7.0)]);
    /// assert!(numbers.column("layers[].nothing").is_empty());
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    pub fn column(&self, field: &str) -> Vec<Option<f64>> {
        let Some((list, path)) = field.split_once("[].") else { return Vec::new() };
        let entries = self.0.get(list).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let mut column = vec![None; entries.len()];
        for (position, entry) in entries.iter().enumerate() {
            let index = entry.get("index").or_else(|| entry.get("layer")).and_then(Value::as_u64);
            let place = index.map_or(Some(position), |index| usize::try_from(index).ok());
            if let Some(place) = place.and_then(|place| column.get_mut(place)) {
                *place = path
                    .split('.')
                    .try_fold(entry, |at, part| at.get(part))
                    .and_then(Value::as_f64);
            }
        }
        if column.iter().all(Option::is_none) { Vec::new() } else { column }
    }

    /// Whether there is any number of `quantity`.
    pub fn has(&self, quantity: &Quantity) -> bool {
        match quantity.axis {
            Axis::Layer | Axis::Stream => !self.column(&quantity.field).is_empty(),
            Axis::Pair => {
                let list = self.0.get(quantity.field.trim_end_matches("[]"));
                list.and_then(Value::as_array).is_some_and(|list| !list.is_empty())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_later_version_says_of_its_numbers_does_not_keep_this_one_from_reading_them() {
        let json = r#"{"name": "p", "measures": "m", "group": "novel", "quantities": [{"field":
            "layers[].x", "axis": "head", "label": "x", "format": "roman", "colour": 3}],
            "charts": [{"name": "c", "title": "", "caption": "", "y": "", "scale": "curved",
            "series": []}]}"#;
        let probe: ProbeDescription = serde_json::from_str(json).expect("a description");
        assert_eq!((probe.group, probe.charts[0].scale), (Group::Effect, ChartScale::Positive));
        let quantity = &probe.quantities[0];
        assert_eq!((quantity.axis, quantity.format), (Axis::Pair, Format::Figure));
    }
}
