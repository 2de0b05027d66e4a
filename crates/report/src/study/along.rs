//! Lines over training of what the models that were kept along the way do with their layers.

use std::collections::BTreeMap;

use lns_record::{AlongRecord, RunRecord};

use super::Study;
use super::charts::{cross, steps};
use crate::curves::Curves;
use crate::drawing::Room;
use crate::number::{drawable, number};
use crate::scale::Scale;

/// A line over training.
struct Line {
    name: &'static str,
    title: &'static str,
    says: &'static str,
    y_caption: &'static str,
    value: fn(&AlongRecord) -> Option<f64>,
}

const LINES: [Line; 3] = [
    Line {
        name: "effective-depth",
        title: "Effective depth over training",
        says: "The number of layers that the cost of removal is spread over: all of them when each matters \
               equally, 1 when one does everything.",
        y_caption: "effective depth, layers",
        value: |along| along.effective_depth,
    },
    Line {
        name: "idle-layers",
        title: "Idle layers over training",
        says: "Layers whose removal surely costs less than the diagnosis' threshold.",
        y_caption: "idle layers",
        value: |along| along.idle_layers.map(|count| count as f64),
    },
    Line {
        name: "embedding-share",
        title: "The embedding's share of the stream",
        says: "Variance of the stream before layer 0 over that after the last layer, of the median token.",
        y_caption: "variance, first ÷ last",
        value: |along| {
            let (first, last) = (along.variance.first()?, along.variance.last()?);
            (*last > 0.0).then(|| first / last)
        },
    },
];

impl Study<'_> {
    /// The lines that there are numbers for.
    pub(super) fn along(&self) -> Vec<Curves> {
        LINES.iter().filter_map(|line| self.line(line)).collect()
    }

    fn line(&self, line: &Line) -> Option<Curves> {
        let values = |run: &RunRecord| -> BTreeMap<u64, f64> {
            let measured = run.along.iter();
            measured.filter_map(|at| Some((at.step, drawable((line.value)(at)?)?))).collect()
        };
        let curves = self.by_run(values);
        let points = || curves.iter().flat_map(|curve| &curve.points);
        points().next()?;
        let y = Scale::linear(points().flat_map(|point| [point.low, point.high]));
        let caption = format!("{} {}{}", line.says, self.seeds(), cross(&curves));
        Some(Curves {
            name: line.name,
            title: line.title.to_owned(),
            caption,
            room: Room::Half,
            x_caption: self.step_caption(),
            y_caption: line.y_caption.to_owned(),
            y,
            write: number,
            ..steps(curves)
        })
    }
}
