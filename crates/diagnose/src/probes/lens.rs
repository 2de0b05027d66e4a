//! `lens`: how far the final prediction is already there after each layer. The logit lens applies the
//! final norm and head to an earlier point of the stream.

use burn::tensor::Tensor;
use lns_kernels::divergence_to;
use lns_model::Head;
use lns_record::{
    Axis, ChartDescription, ChartScale, DiagnoseRecord, Format, Group, LensRecord, Quantity,
    SeriesDescription,
};

use lns_spec::ModelSpec;

use super::{Course, Probe};
use crate::observer::{AtEnd, Notes, Observer, Passed};

pub(crate) struct Lens;

fn divergence() -> Quantity {
    Quantity {
        field: "lens[].kl".to_owned(),
        axis: Axis::Stream,
        label: "lens KL".to_owned(),
        unit: "nats per token".to_owned(),
        ..Quantity::default()
    }
    .in_column("lens KL", 70, 100)
}

fn agreement() -> Quantity {
    Quantity {
        field: "lens[].agreement".to_owned(),
        axis: Axis::Stream,
        label: "lens agreement".to_owned(),
        unit: "%".to_owned(),
        format: Format::Percent,
        ..Quantity::default()
    }
    .in_column("agree", 70, 100)
}

impl Probe for Lens {
    fn name(&self) -> &'static str {
        "lens"
    }

    fn measures(&self) -> &'static str {
        "how far the final prediction is already there after each layer"
    }

    fn lacks(&self, model: &ModelSpec) -> Option<&'static str> {
        super::lacks_head(model)
    }

    fn price(&self, layers: f64) -> f64 {
        layers * 0.5
    }

    fn group(&self) -> Group {
        Group::Effect
    }

    fn quantities(&self) -> Vec<Quantity> {
        vec![divergence(), agreement()]
    }

    fn charts(&self) -> Vec<ChartDescription> {
        vec![
            ChartDescription {
                name: "lens-kl".to_owned(),
                title: "Logit lens: how far from the final prediction".to_owned(),
                caption: "KL(final prediction ‖ prediction read off stream[i] with the final norm and \
                          head). The stream that leaves the last layer gives the final prediction itself \
                          and is left out."
                    .to_owned(),
                y: "KL".to_owned(),
                scale: ChartScale::Logarithmic,
                without_end: true,
                line: None,
                series: vec![SeriesDescription::of(&divergence(), "divergence", 0)],
            },
            ChartDescription {
                name: "lens-agreement".to_owned(),
                title: "Logit lens: when the answer is settled".to_owned(),
                caption: "Share of tokens whose most likely next token at stream[i] is already the final \
                          one."
                    .to_owned(),
                y: "tokens in agreement".to_owned(),
                scale: ChartScale::Positive,
                without_end: false,
                line: None,
                series: vec![SeriesDescription::of(&agreement(), "agreement", 0)],
            },
        ]
    }

    fn course(&self) -> Course {
        Course::Shared(Box::new(Watch::default()))
    }
}

/// Notes Σ over tokens of each stream of each window.
#[derive(Default)]
struct Watch(Notes<Vec<(f64, usize)>>);

impl Observer for Watch {
    fn keeps_streams(&self) -> bool {
        true
    }

    /// Of the final prediction and of the stream's, for each point of the stream.
    fn heads(&self, layers: u64) -> u64 {
        2 * (layers + 1)
    }

    fn at_end(&self, at: &AtEnd<'_>) -> Result<(), String> {
        let Some(head) = at.head else { return Ok(()) };
        let found = at.workers.map(at.streams.len(), |i| {
            let sums = sums(head, &at.streams[i], at.last());
            (at.progress)(2);
            sums
        });
        if let Some(i) = found.iter().position(|(kl, _)| !kl.is_finite()) {
            return Err(format!("the prediction read off stream {i}"));
        }
        self.0.add(at.window, 0, found);
        Ok(())
    }

    fn conclude(&self, passed: &Passed<'_>, record: &mut DiagnoseRecord) {
        let (notes, tokens) = (self.0.read(), passed.tokens() as f64);
        for index in 0..=record.layers.len() {
            let whole = notes.range(..(passed.windows.len(), 0)).map(|(_, window)| window[index]);
            let (kl, agreed) = whole.fold((0.0, 0), |sum, next| (sum.0 + next.0, sum.1 + next.1));
            let (kl, agreement) = (kl / tokens, agreed as f64 / tokens);
            record.lens.push(LensRecord { index, kl, agreement });
        }
    }
}

/// Σ over tokens of KL(final prediction ‖ prediction from `stream`), and how many tokens agree on the
/// most likely next one. Streams \[1, T, H\].
fn sums(head: &Head, stream: &Tensor<3>, last: &Tensor<3>) -> (f64, usize) {
    let predicting = |stream: &Tensor<3>| {
        let [_, length, hidden] = stream.dims();
        head.projection(stream.clone().reshape([length, hidden]))
    };
    let rows = divergence_to(&predicting(last), &predicting(stream), 1.0);
    (rows.iter().map(|row| row.0).sum(), rows.iter().filter(|row| row.1).count())
}
