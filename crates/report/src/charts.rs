//! Which charts a diagnosis gives: those that a record describes, and three of their own kind (the
//! stream's variance with its branches, angular distance, layer removal, as in arXiv 2502.05795). Each
//! is left out when its probe did not run.

use lns_record::{
    Axis, ChartDescription, ChartScale, DiagnoseRecord, Format, LayerRecord, Numbers, Quantity,
    SeriesDescription, StreamRecord,
};

use crate::comparable::incomparable;
use crate::drawing::{Drawing, Room};
use crate::heatmap::Heatmap;
use crate::number::{drawable, idle_below};
use crate::plot::{Mark, Plot, Series};
use crate::scale::Scale;
use crate::text::{clean, labels};

/// The unit of what has the threshold of idle layers.
const LOSS_UNIT: &str = "nats per token";

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
    let numbers = records.iter().map(Numbers::of).collect();
    let subjects = Subjects { records, labels: labels(records), numbers };
    let mut drawings: Vec<Drawing> = subjects.variance().map(Plot::draw).into_iter().collect();
    drawings.extend(subjects.angular());
    drawings.extend(subjects.removal().map(Plot::draw));
    for plot in subjects.described() {
        // The name is a file's.
        if drawings.iter().all(|drawing| drawing.name != plot.name) {
            drawings.push(plot.draw());
        }
    }
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
    numbers: Vec<Numbers>,
}

/// Numbers along an axis, with what is known of their errors.
#[derive(Default)]
struct Values {
    values: Vec<Option<f64>>,
    stderrs: Vec<Option<f64>>,
    reaches: Vec<Option<f64>>,
}

impl From<Vec<Option<f64>>> for Values {
    fn from(values: Vec<Option<f64>>) -> Self {
        Self { values, ..Self::default() }
    }
}

impl Subjects<'_> {
    fn alone(&self) -> bool {
        self.records.len() == 1
    }

    fn depth(&self) -> usize {
        self.records.iter().map(|record| record.layers.len()).max().unwrap_or(0)
    }

    /// One series for each model and quantity that has any value. `read` is given a model's index.
    fn series<Q>(
        &self,
        quantities: &[(&str, usize, Q)],
        read: impl Fn(usize, &Q) -> Values,
    ) -> Vec<Series> {
        let drawable = |values: Vec<Option<f64>>| -> Vec<Option<f64>> {
            values.into_iter().map(|value| value.and_then(drawable)).collect()
        };
        let mut all = Vec::new();
        for model in 0..self.records.len() {
            for (at, (quantity, hue, field)) in quantities.iter().enumerate() {
                let Values { values, stderrs, reaches } = read(model, field);
                all.push(Series {
                    model: (!self.alone()).then(|| self.labels[model].clone()),
                    quantity: (*quantity).to_owned(),
                    hue: if self.alone() { *hue } else { model },
                    variant: at,
                    values: drawable(values),
                    stderrs: drawable(stderrs),
                    reaches: drawable(reaches),
                    idle: Vec::new(),
                });
            }
        }
        all.retain(|series| series.values.iter().any(Option::is_some));
        all
    }

    /// Charts that the records describe, the wide ones first; of two with one name, the first.
    fn described(&self) -> Vec<Plot> {
        let mut charts: Vec<&ChartDescription> = Vec::new();
        for chart in self.records.iter().flat_map(|r| &r.described).flat_map(|p| &p.charts) {
            if charts.iter().all(|known| known.name != chart.name) {
                charts.push(chart);
            }
        }
        charts.sort_by_key(|chart| chart.scale != ChartScale::Difference);
        charts.into_iter().filter_map(|chart| self.chart(chart)).collect()
    }

    fn chart(&self, chart: &ChartDescription) -> Option<Plot> {
        let series: Vec<(&SeriesDescription, &Quantity)> =
            chart.series.iter().filter_map(|s| Some((s, self.quantity(&s.field)?))).collect();
        let (_, first) = series.first()?;
        let labels: Vec<String> = series.iter().map(|(series, _)| clean(&series.label)).collect();
        let read: Vec<(&str, usize, &Quantity)> = series
            .iter()
            .zip(&labels)
            .map(|((series, quantity), label)| (&label[..], series.hue, *quantity))
            .collect();
        let series = self.series(&read, |model, quantity| {
            let mut found = self.values(model, quantity);
            let own = self.records[model].layers.len();
            if let Some(end) = found.values.get_mut(own).filter(|_| chart.without_end) {
                *end = None;
            }
            found
        });
        let plot = match first.axis {
            Axis::Layer => self.layer_chart(series)?,
            Axis::Stream => self.stream_chart(series)?,
            Axis::Pair => return None,
        };
        let unit = if first.unit.is_empty() { String::new() } else { format!(", {}", first.unit) };
        let plot = Plot {
            name: file_name(&chart.name),
            title: clean(&chart.title),
            caption: clean(&chart.caption),
            y_caption: clean(&format!("{}{unit}", chart.y)),
            ..plot
        };
        let extent = || plot.series.iter().flat_map(Series::extent);
        match chart.scale {
            ChartScale::Difference => {
                let line = chart.line.as_ref().filter(|_| self.alone());
                let line = line.and_then(|line| Some((drawable(line.at)?, clean(&line.label))));
                // The threshold is a loss per token, and says nothing in another unit.
                let in_loss = first.unit == LOSS_UNIT;
                let y = match (in_loss, &line) {
                    (true, _) => Scale::removal(extent(), common_threshold(self.records)),
                    (false, line) => Scale::signed(extent().chain(line.iter().map(|(at, _)| *at))),
                };
                Some(Plot { y, room: Room::Row, mark: Mark::Bars, threshold: line, ..plot })
            }
            ChartScale::Logarithmic => {
                let y = Scale::logarithmic(extent());
                self.above_zero(Plot { y, ..plot })
            }
            ChartScale::Positive if first.format == Format::Percent => {
                let y = Scale::linear(extent().chain([100.0]));
                self.above_zero(Plot { y, ..plot })
            }
            ChartScale::Positive => self.positive(plot),
        }
    }

    /// What a field is, by the first record that says so.
    fn quantity(&self, field: &str) -> Option<&Quantity> {
        let mut quantities = self.records.iter().flat_map(DiagnoseRecord::quantities);
        quantities.find(|quantity| quantity.field == field)
    }

    /// A described quantity of one model: shares in per cent, and whiskers of the 95 % interval, or of two
    /// standard errors where there is none.
    fn values(&self, model: usize, quantity: &Quantity) -> Values {
        let column = |field: &Option<String>| -> Vec<Option<f64>> {
            field.iter().flat_map(|field| self.numbers[model].column(field)).collect()
        };
        let mut values = self.numbers[model].column(&quantity.field);
        let (mut stderrs, mut reaches) = (column(&quantity.stderr), column(&quantity.margin));
        if matches!(quantity.format, Format::Percent | Format::Points) {
            for column in [&mut values, &mut stderrs, &mut reaches] {
                column.iter_mut().flatten().for_each(|share| *share *= 100.0);
            }
        }
        reaches.resize(reaches.len().max(stderrs.len()), None);
        for (reach, stderr) in reaches.iter_mut().zip(&stderrs) {
            *reach = reach.or_else(|| Some(2.0 * (*stderr)?));
        }
        Values { values, stderrs, reaches }
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
        let mut series = self.series(&stream, |model, read| {
            self.records[model].stream.iter().map(read).collect::<Vec<_>>().into()
        });
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
            name: "variance".to_owned(),
            title: "Variance of the residual stream".to_owned(),
            caption,
            room: Room::Row,
            y_caption: "variance".to_owned(),
            ..self.stream_chart(series)?
        })
    }

    fn branch_series(&self) -> Vec<Series> {
        type Read = fn(&LayerRecord) -> Option<f64>;
        let branches: [(&str, usize, Read); 2] = [
            ("attention branch", 2, LayerRecord::typical_attention),
            ("MLP branch", 3, LayerRecord::typical_mlp),
        ];
        self.series(&branches, |model, read| {
            self.records[model].layers.iter().map(read).collect::<Vec<_>>().into()
        })
    }

    /// Beside the stream's variance for one model, a chart of its own for several.
    fn branches(&self) -> Option<Plot> {
        if self.alone() && self.records.iter().any(|record| !record.stream.is_empty()) {
            return None;
        }
        self.positive(Plot {
            name: "branches".to_owned(),
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
        let mut series = self.series(&[("layer removed", 0, ())], |model, ()| {
            let removals: Vec<_> = self.records[model].layers.iter().map(|l| l.removal).collect();
            Values {
                values: removals.iter().map(|r| Some(r.as_ref()?.delta_nll)).collect(),
                stderrs: removals.iter().map(|r| r.as_ref()?.stderr).collect(),
                reaches: removals.iter().map(|r| r.as_ref()?.reach()).collect(),
            }
        });
        for series in &mut series {
            let model = if self.alone() { 0 } else { series.hue };
            series.idle.clone_from(&self.records[model].verdict.idle_layers);
        }
        let threshold = common_threshold(self.records);
        let y = Scale::removal(series.iter().flat_map(Series::extent), threshold);
        Some(Plot {
            name: "removal".to_owned(),
            title: "Cost of removing each layer".to_owned(),
            caption: "Rise of the loss when the layer is left out and nothing else is changed. Whiskers \
                      are 95 % intervals over windows of the paired difference (Student's t). A layer is idle \
                      when even the upper end of its whisker stays below the threshold (the paper's performance drop, in loss instead of task accuracy)."
                .to_owned(),
            room: Room::Row,
            mark: Mark::Bars,
            y_caption: "loss without it − loss with it, nats per token".to_owned(),
            y,
            threshold: threshold.map(|t| (t, idle_below(t))),
            ..self.layer_chart(series)?
        })
    }

    fn stream_chart(&self, series: Vec<Series>) -> Option<Plot> {
        Some(Plot {
            columns: self.depth() + 1,
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

/// What a chart's file and its place on the page may be called, whoever named it.
fn file_name(name: &str) -> String {
    let allowed = |c: &char| c.is_ascii_alphanumeric() || *c == '-';
    let name: String = name.chars().filter(allowed).take(64).collect();
    if name.is_empty() { "chart".to_owned() } else { name }
}

/// The common part of every chart; `None` without series.
fn line_chart(series: Vec<Series>) -> Option<Plot> {
    (!series.is_empty()).then(|| Plot {
        name: String::new(),
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
