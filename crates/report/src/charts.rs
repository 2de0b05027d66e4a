//! Which charts a diagnosis gives: those of arXiv 2502.05795 (variance, angular distance, layer
//! removal, Jacobians) and their companions, each left out when its probe did not run.

use lns_record::{DiagnoseRecord, LayerRecord, RemovalRecord, StreamRecord};

use crate::comparable::incomparable;
use crate::drawing::{Drawing, Room};
use crate::heatmap::Heatmap;
use crate::number::{drawable, idle_below};
use crate::plot::{Mark, Plot, Series};
use crate::scale::Scale;
use crate::text::labels;

/// Reads one number of a layer.
type Field = fn(&LayerRecord) -> Option<f64>;
/// Reads one measured difference of a layer.
type Removal = fn(&LayerRecord) -> Option<RemovalRecord>;

/// A chart as a file of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chart {
    /// File name without its ending.
    pub name: String,
    /// What it shows.
    pub title: String,
    /// The SVG document: style sheet inside, light or dark as its reader prefers.
    pub svg: String,
}

/// Every chart that `records` have numbers for, as files of their own.
pub fn diagnosis_charts(records: &[DiagnoseRecord]) -> Vec<Chart> {
    drawings(records).iter().map(chart).collect()
}

pub(crate) fn chart(drawing: &Drawing) -> Chart {
    Chart { name: drawing.name.clone(), title: drawing.title.clone(), svg: drawing.standalone() }
}

/// In the order of the page.
pub(crate) fn drawings(records: &[DiagnoseRecord]) -> Vec<Drawing> {
    let subjects = Subjects { records, labels: labels(records) };
    let mut drawings: Vec<Drawing> = subjects.variance().map(Plot::draw).into_iter().collect();
    drawings.extend(subjects.angular());
    let plots = [
        subjects.removal(),
        subjects.removal_sublayers(),
        subjects.influence(),
        subjects.ratio(),
        subjects.gradients(),
        subjects.jacobian(),
        subjects.lens_kl(),
        subjects.lens_agreement(),
    ];
    drawings.extend(plots.into_iter().flatten().map(Plot::draw));
    if let Some(branches) = subjects.branches() {
        drawings.insert(drawings.len().min(1), branches.draw());
    }
    // A chart is looked at, and shown elsewhere, without the page's first lines.
    if let Some(found) = incomparable(records) {
        drawings
            .iter_mut()
            .for_each(|drawing| drawing.caption = format!("{} {}", found.mark, drawing.caption));
    }
    drawings
}

/// The models of one page. Alone, a model's colours tell quantities apart; beside others, colour is
/// the model and the stroke is the quantity.
struct Subjects<'a> {
    records: &'a [DiagnoseRecord],
    labels: Vec<String>,
}

impl Subjects<'_> {
    fn alone(&self) -> bool {
        self.records.len() == 1
    }

    fn depth(&self) -> usize {
        self.records.iter().map(|record| record.layers.len()).max().unwrap_or(0)
    }

    /// One series for each model and quantity that has any value.
    fn series<Q: Copy>(
        &self,
        quantities: &[(&'static str, usize, Q)],
        values: impl Fn(&DiagnoseRecord, Q) -> Vec<Option<f64>>,
    ) -> Vec<Series> {
        let mut all = Vec::new();
        for (model, record) in self.records.iter().enumerate() {
            for (at, (quantity, hue, read)) in quantities.iter().enumerate() {
                let values = values(record, *read).into_iter().map(|v| v.and_then(drawable));
                all.push(Series {
                    model: (!self.alone()).then(|| self.labels[model].clone()),
                    quantity,
                    hue: if self.alone() { *hue } else { model },
                    variant: at,
                    values: values.collect(),
                    stderrs: Vec::new(),
                    reaches: Vec::new(),
                    idle: Vec::new(),
                });
            }
        }
        all.retain(|series| series.values.iter().any(Option::is_some));
        all
    }

    fn by_layer(&self, quantities: &[(&'static str, usize, Field)]) -> Vec<Series> {
        self.series(quantities, |record, field| record.layers.iter().map(field).collect())
    }

    /// Series of measured differences, with their standard errors and intervals.
    fn removals(&self, quantities: &[(&'static str, usize, Removal)]) -> Vec<Series> {
        let read = |record: &DiagnoseRecord, removal: Removal| -> Vec<Option<f64>> {
            record.layers.iter().map(|layer| removal(layer).map(|r| r.delta_nll)).collect()
        };
        let stderr = |record: &DiagnoseRecord, removal: Removal| -> Vec<Option<f64>> {
            record.layers.iter().map(|layer| removal(layer).and_then(|r| r.stderr)).collect()
        };
        let reach = |record: &DiagnoseRecord, removal: Removal| -> Vec<Option<f64>> {
            record.layers.iter().map(|layer| removal(layer).and_then(|r| r.reach())).collect()
        };
        let mut series =
            with_stderrs(self.series(quantities, read), &self.series(quantities, stderr));
        let reaches = self.series(quantities, reach);
        for series in &mut series {
            if let Some(found) = reaches.iter().find(|found| found.same_place(series)) {
                series.reaches.clone_from(&found.values);
            }
        }
        series
    }

    fn variance(&self) -> Option<Plot> {
        type Read = fn(&StreamRecord) -> Option<f64>;
        let stream: [(&'static str, usize, Read); 3] = [
            ("median token", 0, |s| s.variance_median),
            ("all tokens", 4, |s| Some(s.variance)),
            // In a file of an earlier version there is no median.
            ("without first token", 0, |s| {
                s.variance_median.is_none().then_some(s.variance_without_first)
            }),
        ];
        let mut series =
            self.series(&stream, |record, read| record.stream.iter().map(read).collect());
        let mut caption = "Variance over features: the median token's, and the mean over all tokens. \
                           stream[i] enters layer i, the last one leaves the last layer before the final \
                           norm. A few tokens, mostly first tokens and separators, carry massive \
                           activations: where the two lines part, the mean is about those few."
            .to_owned();
        if self.alone() {
            let branches = self.branch_series();
            series.extend(branches.into_iter().map(|s| Series { variant: s.variant + 2, ..s }));
            caption += " What attention and the MLP of layer i add to the median token is drawn at i: where \
                        it lies far below the stream, the layer can hardly change it (the paper's \
                        figure 4).";
        }
        self.positive(Plot {
            name: "variance",
            title: "Variance of the residual stream".to_owned(),
            caption,
            room: Room::Row,
            columns: self.depth() + 1,
            column: "stream",
            x_caption: "i, stream index",
            y_caption: "variance".to_owned(),
            ..line_chart(series)?
        })
    }

    fn branch_series(&self) -> Vec<Series> {
        self.by_layer(&[
            ("attention branch", 2, LayerRecord::typical_attention),
            ("MLP branch", 3, LayerRecord::typical_mlp),
        ])
    }

    /// Beside the stream's variance for one model, a chart of its own for several.
    fn branches(&self) -> Option<Plot> {
        if self.alone() && self.records.iter().any(|record| !record.stream.is_empty()) {
            return None;
        }
        self.positive(Plot {
            name: "branches",
            title: "Variance of what each layer adds".to_owned(),
            caption:
                "Variance over features of the outputs of attention and MLP, the median token's."
                    .to_owned(),
            room: Room::Row,
            y_caption: "variance".to_owned(),
            ..self.layer_chart(self.branch_series())?
        })
    }

    /// One heatmap for each model, all coloured on the same scale.
    fn angular(&self) -> Vec<Drawing> {
        let with_distances = || {
            self.records.iter().zip(&self.labels).filter(|(r, _)| !r.angular_distance.is_empty())
        };
        let all = with_distances().flat_map(|(record, _)| record.angular_distance.iter().flatten());
        let max = all.copied().filter_map(drawable).fold(0.0, f64::max);
        let draw = |(at, (record, label)): (usize, (&DiagnoseRecord, &String))| {
            let (name, title) = match self.alone() {
                true => ("angular".to_owned(), "Angular distance across blocks".to_owned()),
                false => (format!("angular-{}", at + 1), format!("Angular distance: {label}")),
            };
            let caption = "Mean angle between stream[i] and stream[i + n], arccos(cosine)/π: 0 is the \
                           same direction, 0.5 a right angle. Light blocks change the stream least. \
                           Colours are the distances themselves, from 0 to the greatest measured here; \
                           they are not rescaled row by row, as the paper's code does. A dot marks \
                           the most redundant block of each size n.";
            Heatmap {
                name,
                title,
                caption: caption.to_owned(),
                room: if self.alone() { Room::Row } else { Room::Half },
                distances: &record.angular_distance,
                blocks: &record.blocks,
                max,
            }
            .draw()
        };
        with_distances().enumerate().map(draw).collect()
    }

    fn removal(&self) -> Option<Plot> {
        let mut series = self.removals(&[("layer removed", 0, |layer| layer.removal)]);
        for series in &mut series {
            let model = if self.alone() { 0 } else { series.hue };
            series.idle.clone_from(&self.records[model].verdict.idle_layers);
        }
        let threshold = common_threshold(self.records);
        Some(Plot {
            name: "removal",
            title: "Cost of removing each layer".to_owned(),
            caption: "Rise of the loss when the layer is left out and nothing else is changed. Whiskers \
                      are 95 % intervals over windows of the paired difference (Student's t). A layer is idle \
                      when even the upper end of its whisker stays below the threshold (the paper's performance drop, in loss instead of task accuracy)."
                .to_owned(),
            threshold: threshold.map(|t| (t, idle_below(t))),
            ..self.removal_chart(series, threshold)?
        })
    }

    fn removal_sublayers(&self) -> Option<Plot> {
        let series = self.removals(&[
            ("attention removed", 2, |layer| layer.removal_attention),
            ("MLP removed", 3, |layer| layer.removal_mlp),
        ]);
        Some(Plot {
            name: "removal-sublayers",
            title: "Cost of removing attention or MLP alone".to_owned(),
            caption:
                "As above, with only one branch of the layer left out. The two need not add up to \
                      the cost of the whole layer."
                    .to_owned(),
            ..self.removal_chart(series, common_threshold(self.records))?
        })
    }

    fn removal_chart(&self, series: Vec<Series>, threshold: Option<f64>) -> Option<Plot> {
        let y = Scale::removal(series.iter().flat_map(Series::extent), threshold);
        Some(Plot {
            room: Room::Row,
            mark: Mark::Bars,
            y_caption: "loss without it − loss with it, nats per token".to_owned(),
            y,
            ..self.layer_chart(series)?
        })
    }

    fn influence(&self) -> Option<Plot> {
        let series = self.by_layer(&[("block influence", 0, |layer| layer.block_influence)]);
        self.positive(Plot {
            name: "influence",
            title: "Block influence".to_owned(),
            caption:
                "1 − mean cosine of a layer's input and output (ShortGPT): 0 when the layer turns \
                      the stream nowhere."
                    .to_owned(),
            y_caption: "1 − cosine".to_owned(),
            ..self.layer_chart(series)?
        })
    }

    fn ratio(&self) -> Option<Plot> {
        let series = self.by_layer(&[("branch to stream", 0, |layer| layer.branch_to_stream)]);
        self.positive(Plot {
            name: "ratio",
            title: "What a layer adds, against what it gets".to_owned(),
            caption: "Mean over tokens of ‖stream[i+1] − stream[i]‖ / ‖stream[i]‖.".to_owned(),
            y_caption: "ratio of norms".to_owned(),
            ..self.layer_chart(series)?
        })
    }

    fn gradients(&self) -> Option<Plot> {
        let series = self.by_layer(&[
            ("parameters", 0, |layer| layer.gradient_norm),
            ("stream", 4, |layer| layer.stream_gradient_norm),
        ]);
        self.positive(Plot {
            name: "gradients",
            title: "Gradients by layer".to_owned(),
            caption:
                "‖∂loss/∂θ‖₂ over the layer's parameters, and ‖∂loss/∂stream[i]‖₂ at its input."
                    .to_owned(),
            y_caption: "gradient norm".to_owned(),
            ..self.layer_chart(series)?
        })
    }

    fn jacobian(&self) -> Option<Plot> {
        let distances = self.by_layer(&[("distance", 0, |l| l.jacobian_identity_distance)]);
        let stderrs = self.by_layer(&[("distance", 0, |l| l.jacobian_stderr)]);
        let series = with_stderrs(distances, &stderrs);
        self.positive(Plot {
            name: "jacobian",
            title: "Distance of each layer from the identity".to_owned(),
            caption: "‖J − I‖ / ‖I‖ (Frobenius) of the layer's Jacobian J = ∂stream[i+1]/∂stream[i]: 0 \
                      for a layer that passes its input on (the paper's eq. 5 and figure 5). Whiskers \
                      are ±2 standard errors over random vectors."
                .to_owned(),
            y_caption: "‖J − I‖ / ‖I‖".to_owned(),
            ..self.layer_chart(series)?
        })
    }

    fn lens_kl(&self) -> Option<Plot> {
        let mut series = self.lens("divergence", |lens| lens.kl);
        for series in &mut series {
            // The stream that leaves the last layer gives the final prediction itself: what is there is
            // zero, or rounding that would stretch the axis.
            let own =
                if self.alone() { self.depth() } else { self.records[series.hue].layers.len() };
            if let Some(last) = series.values.get_mut(own) {
                *last = None;
            }
        }
        let y = Scale::logarithmic(series.iter().flat_map(Series::extent));
        self.above_zero(Plot {
            name: "lens-kl",
            title: "Logit lens: how far from the final prediction".to_owned(),
            caption: "KL(final prediction ‖ prediction read off stream[i] with the final norm and \
                      head). The stream that leaves the last layer gives the final prediction itself \
                      and is left out."
                .to_owned(),
            y_caption: "KL, nats per token".to_owned(),
            y,
            ..self.lens_chart(series)?
        })
    }

    fn lens_agreement(&self) -> Option<Plot> {
        let series = self.lens("agreement", |lens| lens.agreement * 100.0);
        let y = Scale::linear(series.iter().flat_map(Series::extent).chain([100.0]));
        Some(Plot {
            name: "lens-agreement",
            title: "Logit lens: when the answer is settled".to_owned(),
            caption:
                "Share of tokens whose most likely next token at stream[i] is already the final \
                      one."
                    .to_owned(),
            y_caption: "tokens in agreement, %".to_owned(),
            y,
            ..self.lens_chart(series)?
        })
    }

    fn lens(
        &self,
        quantity: &'static str,
        read: fn(&lns_record::LensRecord) -> f64,
    ) -> Vec<Series> {
        self.series(&[(quantity, 0, read)], |record, read| {
            let mut values = vec![None; record.layers.len() + 1];
            for lens in &record.lens {
                if let Some(place) = values.get_mut(lens.index) {
                    *place = Some(read(lens));
                }
            }
            values
        })
    }

    fn lens_chart(&self, series: Vec<Series>) -> Option<Plot> {
        let columns = self.depth() + 1;
        Some(Plot {
            columns,
            column: "stream",
            x_caption: "i, stream index",
            ..line_chart(series)?
        })
    }

    fn layer_chart(&self, series: Vec<Series>) -> Option<Plot> {
        Some(Plot { columns: self.depth(), ..line_chart(series)? })
    }

    /// `plot` on an axis for values above zero; says so when others had to be left out.
    fn positive(&self, plot: Plot) -> Option<Plot> {
        let y = Scale::positive(plot.series.iter().flat_map(Series::extent));
        self.above_zero(Plot { y, ..plot })
    }

    fn above_zero(&self, mut plot: Plot) -> Option<Plot> {
        let values = || plot.series.iter().flat_map(|series| series.values.iter().flatten());
        let lost = values().filter(|value| plot.y.place(**value).is_none()).count();
        if lost > 0 {
            plot.caption +=
                &format!(" Values at or below zero have no place on this axis: {lost}.");
        }
        Some(plot)
    }
}

/// The loss below which a layer was called idle. Models judged by different ones have none in common: a
/// line across their chart would lie about some.
pub(crate) fn common_threshold<'a>(
    records: impl IntoIterator<Item = &'a DiagnoseRecord>,
) -> Option<f64> {
    let mut thresholds = records.into_iter().filter_map(|record| record.verdict.idle_threshold);
    let first = thresholds.next().and_then(drawable).filter(|first| *first > 0.0)?;
    thresholds.all(|threshold| threshold == first).then_some(first)
}

/// Gives each series the standard errors that were read at the same place.
fn with_stderrs(mut series: Vec<Series>, stderrs: &[Series]) -> Vec<Series> {
    for series in &mut series {
        if let Some(found) = stderrs.iter().find(|found| found.same_place(series)) {
            series.stderrs.clone_from(&found.values);
            series.reaches = found.values.iter().map(|stderr| Some(2.0 * (*stderr)?)).collect();
        }
    }
    series
}

/// The common part of every chart; `None` without series.
fn line_chart(series: Vec<Series>) -> Option<Plot> {
    (!series.is_empty()).then(|| Plot {
        name: "",
        title: String::new(),
        caption: String::new(),
        room: Room::Half,
        mark: Mark::Line,
        columns: 0,
        column: "layer",
        x_caption: "layer",
        y_caption: String::new(),
        y: Scale::linear([]),
        series,
        threshold: None,
    })
}
