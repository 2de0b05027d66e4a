//! How far a model's output representation moves when a part is left out: what removal comes to where there
//! is no loss, and a quantity that decoders and encoders have in common.
//!
//! The representation is the last hidden state: the stream after the last layer, in a decoder after the final
//! norm. Of a window without the part, h′ against h:
//!
//! - `cosine_distance`: 1 − cos(h, h′), mean over content tokens
//! - `relative_l2`: ‖h′ − h‖ / ‖h‖, mean over content tokens
//! - `mean_vector_cosine_distance`: 1 − cos of the means of h and of h′ over content tokens, which is what
//!   sentence embeddings compare

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use lns_kernels::with_slices;
use lns_model::Head;
use lns_record::{ChartDescription, ChartScale, Format, LayerRecord, Quantity, SeriesDescription};
use lns_spec::Prediction;
use lns_statistics::{mean, standard_error};
use serde_json::{Map, json};

use crate::{
    observer::{AtEndWithout, Notes, Passed},
    statistics::{change_sums, mean_row},
};

/// The last hidden state of a stream that left the last layer, \[1, T, H\].
pub(crate) fn last_hidden(
    prediction: Prediction,
    head: Option<&Head>,
    stream: &Tensor<3>,
) -> Tensor<3> {
    match (prediction, head) {
        // An encoder's norm stands inside its head, behind a transform.
        (Prediction::NextToken, Some(head)) => head.norm.forward(stream.clone()),
        _ => stream.clone(),
    }
}

/// The three numbers of one window, in the order of [`NAMES`].
type Change = [f64; 3];

const NAMES: [&str; 3] = ["cosine_distance", "relative_l2", "mean_vector_cosine_distance"];

/// What the observer of a probe notes of its parts.
#[derive(Default)]
pub(crate) struct Changes(Notes<Change>);

/// Places of notes by layer and part.
const PARTS: usize = 2;

impl Changes {
    pub(crate) fn note(&self, at: &AtEndWithout<'_>) {
        let width = at.whole.dims()[2];
        let change = with_slices([at.whole, at.without], |[whole, without]| {
            let tokens = at.content.iter().filter(|is_content| **is_content).count() as f64;
            let (l2, cosine) = change_sums(whole, without, width, at.content);
            let means = [whole, without].map(|state| mean_row(state, width, at.content));
            let (_, pooled) = change_sums(&means[0], &means[1], width, &[true]);
            // A window of separators alone has no content.
            let tokens = tokens.max(1.0);
            [1.0 - cosine / tokens, l2 / tokens, 1.0 - pooled]
        });
        self.0.add(at.window, at.layer * PARTS + at.part, change);
    }

    /// Writes the numbers of `part` into the record of each layer.
    pub(crate) fn conclude(
        &self,
        name: &str,
        part: usize,
        passed: &Passed<'_>,
        layers: &mut [LayerRecord],
    ) {
        let notes = self.0.read();
        for layer in layers {
            let place = layer.layer * PARTS + part;
            let windows = 0..passed.windows.len();
            let changes: Vec<Change> =
                windows.filter_map(|window| notes.get(&(window, place)).copied()).collect();
            if changes.is_empty() {
                continue;
            }
            let measured = |which: usize| {
                let values: Vec<f64> = changes.iter().map(|change| change[which]).collect();
                let errors =
                    [("stderr", standard_error(&values)), ("margin", passed.margin(&values))];
                let errors =
                    errors.into_iter().filter_map(|(key, error)| Some((key, json!(error?))));
                let record = [("mean", json!(mean(&values)))].into_iter().chain(errors);
                record.map(|(key, value)| (key.to_owned(), value)).collect::<Map<_, _>>()
            };
            let record =
                NAMES.iter().enumerate().map(|(at, name)| ((*name).to_owned(), measured(at)));
            let record: BTreeMap<_, _> = record.collect();
            layer.note(name, &record);
        }
    }
}

/// The quantities of `name`; `of` says without what, as ", attention".
pub(crate) fn quantities(name: &str, of: &str) -> [Quantity; 3] {
    let labels = ["Δ output (cosine)", "Δ output (L2)", "Δ mean vector (cosine)"];
    let quantity = |at: usize| {
        let part = |part: &str| format!("layers[].{name}.{}.{part}", NAMES[at]);
        Quantity {
            field: part("mean"),
            format: Format::Figure,
            stderr: Some(part("stderr")),
            margin: Some(part("margin")),
            ..Quantity::of_layers(name, &format!("{}{of}", labels[at]))
        }
    };
    [quantity(0), quantity(1), quantity(2)]
}

/// The chart of the first of the quantities of each part.
pub(crate) fn chart(
    name: &str,
    title: &str,
    series: &[(&Quantity, &str, usize)],
) -> ChartDescription {
    let series =
        series.iter().map(|(quantity, label, hue)| SeriesDescription::of(quantity, label, *hue));
    ChartDescription {
        name: name.to_owned(),
        title: title.to_owned(),
        caption: "1 − cos of the last hidden state with it and without it, mean over content tokens: 0 where \
                  nothing changes, 1 where nothing of the direction is left. Unlike a loss it is the same \
                  quantity in every model, decoder or encoder."
            .to_owned(),
        y: "cosine distance of the output".to_owned(),
        scale: ChartScale::Difference,
        line: None,
        without_end: false,
        series: series.collect(),
    }
}
