//! `lens`: how far the final prediction is already there after each layer. The logit lens applies the
//! final norm and head to an earlier point of the stream.

use std::ops::Range;

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
        layers * 0.3
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

/// Points of the stream that are held against the final prediction together: its logits are made once for
/// them. Not all at once, so that there is something to do for many workers.
const TOGETHER: usize = 8;

/// Rows of a window that are compared at once, for the same reason; fewer would make the head's preparation
/// for a product dear.
const ROWS: usize = 128;

/// Notes Σ over tokens of each stream of each window.
#[derive(Default)]
struct Watch(Notes<Vec<(f64, usize)>>);

impl Observer for Watch {
    fn keeps_streams(&self) -> bool {
        true
    }

    /// Of each point of the stream, and of the final prediction for as many of them as are taken together.
    fn heads(&self, layers: u64) -> u64 {
        let points = layers + 1;
        points + points.div_ceil(TOGETHER as u64)
    }

    fn at_end(&self, at: &AtEnd<'_>) -> Result<(), String> {
        let Some(head) = at.head else { return Ok(()) };
        let groups: Vec<&[Tensor<3>]> = at.streams.chunks(TOGETHER).collect();
        let rows = at.last().dims()[1];
        let parts = rows.div_ceil(ROWS);
        let jobs = at.workers.map(groups.len() * parts, |job| {
            let (group, first) = (groups[job / parts], job % parts * ROWS);
            let sums = sums(head, group, at.last(), first..(first + ROWS).min(rows));
            if first == 0 {
                (at.progress)(group.len() as u64 + 1);
            }
            sums
        });
        let mut found = Vec::with_capacity(at.streams.len());
        for parts in jobs.chunks(parts) {
            let mut sums = vec![(0.0, 0); parts[0].len()];
            for part in parts {
                for (sum, part) in sums.iter_mut().zip(part) {
                    *sum = (sum.0 + part.0, sum.1 + part.1);
                }
            }
            found.extend(sums);
        }
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

/// Σ over tokens of KL(final prediction ‖ prediction from a stream), and how many tokens agree on the most
/// likely next one, for each of `streams`. Streams \[1, T, H\], of which some rows count.
fn sums(
    head: &Head,
    streams: &[Tensor<3>],
    last: &Tensor<3>,
    rows: Range<usize>,
) -> Vec<(f64, usize)> {
    let count = rows.len();
    let part = |stream: &Tensor<3>| {
        let hidden = stream.dims()[2];
        stream.clone().narrow(1, rows.start, count).reshape([count, hidden])
    };
    let stacked = Tensor::cat(streams.iter().map(part).collect(), 0);
    let found = divergence_to(&head.projection(part(last)), &head.projection(stacked), 1.0);
    let of = |rows: &[(f64, bool)]| {
        (rows.iter().map(|row| row.0).sum(), rows.iter().filter(|row| row.1).count())
    };
    found.chunks(count).map(of).collect()
}
