//! The charts of a study: losses, their differences, and what the trained models look like inside
//! (arXiv 2502.05795, figures 2 to 4 and 6), each left out when nothing was measured for it.

use std::collections::{BTreeMap, BTreeSet};

use lns_record::{DiagnoseRecord, GroupRecord, RunRecord, StudyRecord, TheoryCurve};

use super::findings::{Told, ends, range};
use super::means::{
    Outcomes, comparable, differences, final_variances, last_variances, losses, over_runs,
    standing, summary,
};
use super::{Study, label, nats};
use crate::charts::{Chart, chart, common_threshold};
use crate::curves::{Curve, Curves, Look, Point, Zero, window};
use crate::drawing::{Drawing, Room};
use crate::intervals::{Intervals, Row};
use crate::number::{drawable, grouped, number};
use crate::panels::{self, Angles, CostPanels, Costs};
use crate::scale::Scale;

/// Every chart that `record` has numbers for, as files of their own.
pub fn study_charts(record: &StudyRecord) -> Vec<Chart> {
    let study = Study::new(record);
    study.drawings().iter().chain(&study.theory_drawings()).map(chart).collect()
}

impl Study<'_> {
    /// Every chart there are numbers for, in the order of the page.
    pub(super) fn drawings(&self) -> Vec<Drawing> {
        let drawings = [
            self.loss().map(Curves::draw),
            self.difference().map(Curves::draw),
            self.pairs().map(Intervals::draw),
            self.variance().map(Curves::draw),
            self.growth().map(Curves::draw),
            self.angular(),
            self.removal(),
        ];
        let along = self.along().into_iter().map(Curves::draw);
        drawings.into_iter().flatten().chain(along).collect()
    }

    pub(super) fn theory_drawings(&self) -> Vec<Drawing> {
        let curves = self.record.theory.iter().flat_map(|theory| &theory.curves);
        let times: BTreeSet<&str> = curves.map(|curve| curve.when.as_str()).collect();
        let drawing = |(at, when): (usize, &str)| self.depth(at, when).map(Curves::draw);
        times.into_iter().enumerate().filter_map(drawing).collect()
    }

    /// One curve for each group that has points.
    fn curves(&self, points: impl Fn(&GroupRecord) -> Vec<Point>) -> Vec<Curve> {
        let curve = |(group, look): (&GroupRecord, Look)| {
            let outcomes = Outcomes::of(group);
            let note = outcomes.note().map(|note| format!(" ({note})")).unwrap_or_default();
            Curve {
                label: label(&group.name) + &note,
                look,
                points: points(group),
                lost: outcomes.finished == 0 && outcomes.diverged > 0,
            }
        };
        let mut curves: Vec<Curve> = self.groups().map(curve).collect();
        curves.retain(|curve| !curve.points.is_empty());
        // The two that a reader came for are drawn over the others.
        curves.sort_by_key(|curve| curve.look.strong);
        curves
    }

    pub(super) fn by_run(&self, read: impl Fn(&RunRecord) -> BTreeMap<u64, f64>) -> Vec<Curve> {
        self.curves(|group| over_runs(comparable(group, &self.common).into_iter().map(&read)))
    }

    /// Which seeds a line is the mean of.
    pub(super) fn seeds(&self) -> String {
        let whose = match (self.unequal_seeds(), self.common.is_empty()) {
            (false, _) => "a group's seeds".to_owned(),
            (true, true) => {
                "a group's own seeds; no seed is common to all groups, so lines may differ by their seeds \
                 alone"
                    .to_owned()
            }
            (true, false) if self.common.len() == 1 => {
                let seed: String = self.common.iter().map(u64::to_string).collect();
                return format!("A line is seed {seed}, the only one that all groups have finished.");
            }
            (true, false) => {
                let seeds: Vec<String> = self.common.iter().map(u64::to_string).collect();
                format!("the seeds that all groups have finished ({})", seeds.join(", "))
            }
        };
        format!(
            "A line is the mean over {whose}; its band reaches from the lowest to the highest seed, and \
             one seed has no band."
        )
    }

    fn loss(&self) -> Option<Curves> {
        let curves = self.by_run(losses);
        let (low, high) = window(&curves, quarter(&curves), Zero::Free)?;
        let ideal = self.record.ideal_loss.and_then(drawable);
        Some(Curves {
            name: "loss",
            title: "Held-out loss".to_owned(),
            caption: format!(
                "Loss on text that was not trained on. {}{}{}",
                self.seeds(),
                cut(&curves, low, high),
                cross(&curves)
            ),
            y_caption: "loss, nats per token".to_owned(),
            y: Scale::between(low, high),
            level: ideal.map(|loss| (loss, format!("ideal reader, {}", nats(loss)))),
            x_caption: self.step_caption(),
            ..steps(curves)
        })
    }

    fn difference(&self) -> Option<Curves> {
        let baseline = self.record.groups.iter().find(|group| self.is_baseline(group))?;
        let curves = self.curves(|group| match self.is_baseline(group) {
            true => Vec::new(),
            false => differences(group, baseline),
        });
        let (low, high) = window(&curves, quarter(&curves), Zero::Held)?;
        let name = &self.baseline;
        Some(Curves {
            name: "difference",
            title: format!("Difference to {name} over training"),
            caption: format!(
                "Held-out loss minus the loss of {name} with the same seed at the same step: below 0 \
                 the group is ahead. {OWN_SEEDS}{}{}",
                cut(&curves, low, high),
                cross(&curves)
            ),
            y_caption: format!("loss − loss of {name}, nats per token"),
            y: Scale::between(low, high),
            level: Some((0.0, name.clone())),
            x_caption: self.step_caption(),
            ..steps(curves)
        })
    }

    /// The caption of an axis of steps, with the tokens of a step where all runs agree on them.
    pub(super) fn step_caption(&self) -> String {
        let runs = self.record.groups.iter().flat_map(|group| &group.runs);
        let points = runs.flat_map(|run| &run.curve).filter(|point| point.step > 0);
        let each: BTreeSet<Option<u64>> = points
            .map(|point| (point.tokens % point.step == 0).then_some(point.tokens / point.step))
            .collect();
        match each.first() {
            Some(Some(tokens)) if each.len() == 1 && *tokens > 0 => {
                format!("training step, {} tokens each", grouped(*tokens))
            }
            _ => "training step".to_owned(),
        }
    }

    fn pairs(&self) -> Option<Intervals> {
        let row = |(group, look): (&GroupRecord, Look)| {
            let pair = self.pair(&group.name)?;
            let mean = drawable(pair.difference.mean)?;
            let told = self.told(&pair.difference);
            let interval = range(&pair.difference, nats).map(|range| format!(" ({range})"));
            let word = if pair.noise_probe { "noise probe" } else { told.word() };
            let seeds = pair.differences.iter().copied();
            (told != Told::Nothing).then(|| Row {
                label: label(&group.name),
                look,
                mean,
                interval: ends(&pair.difference),
                seeds: seeds.filter(|(_, value)| drawable(*value).is_some()).collect(),
                told: format!("{}{}, {word}", nats(mean), interval.unwrap_or_default()),
            })
        };
        let rows: Vec<Row> = self.groups().filter_map(row).collect();
        let noise = self.noise().and_then(drawable);
        let (low, high) = pair_window(&rows, noise)?;
        let outside = |row: &Row| {
            let (least, most) = row.interval.unwrap_or((row.mean, row.mean));
            least.min(row.mean) < low || most.max(row.mean) > high
        };
        let arrows = match rows.iter().any(outside) {
            true => " An arrow points to what lies outside the chart.",
            false => "",
        };
        let name = &self.baseline;
        let shade = match noise {
            Some(reach) => format!(
                " The shaded range is as far as the noise probe has moved, to either side of zero: {}.",
                nats(reach)
            ),
            None => String::new(),
        };
        Some(Intervals {
            name: "pairs",
            title: format!("Final loss against {name}"),
            caption: format!(
                "Each small dot is one seed: the group's final held-out loss minus {name}'s with the same \
                 seed. The large dot is the mean, the bar its 95 % interval (Student's t over seeds); a \
                 single seed has none.{arrows}{shade}"
            ),
            x_caption: format!("loss − loss of {name}, nats per token"),
            x: Scale::between(low, high),
            rows,
            noise,
            write: nats,
        })
    }

    fn variance(&self) -> Option<Curves> {
        let curves = self.by_run(final_variances);
        Some(Curves {
            name: "variance",
            title: "Stream variance by layer after training".to_owned(),
            caption: format!(
                "Variance over features, averaged over tokens, when it was last measured in training. \
                 stream[i] enters layer i; the last one leaves the last layer. {}",
                self.seeds()
            ),
            room: Room::Half,
            column: "stream",
            x_caption: "i, stream index".to_owned(),
            ..variances(curves)?
        })
    }

    fn growth(&self) -> Option<Curves> {
        let curves = self.by_run(last_variances);
        let x = steps(Vec::new());
        Some(Curves {
            name: "growth",
            title: "Variance after the last layer over training".to_owned(),
            caption: format!(
                "How the stream that leaves the last layer grows while the model learns (the paper's \
                 figure 4). {}{}",
                self.seeds(),
                cross(&curves)
            ),
            room: Room::Half,
            column: x.column,
            x_caption: self.step_caption(),
            ..variances(curves)?
        })
    }

    /// Diagnoses of the models that stand for a group.
    fn diagnoses<'b>(&self, group: &'b GroupRecord) -> Vec<&'b DiagnoseRecord> {
        standing(group).into_iter().filter_map(|run| run.diagnosis.as_deref()).collect()
    }

    fn angular(&self) -> Option<Drawing> {
        let panel = |(group, look)| {
            let all = self.diagnoses(group);
            let first = all.into_iter().find(|found| !found.angular_distance.is_empty())?;
            let (distances, blocks) = (&first.angular_distance, &first.blocks);
            Some(Angles { label: label(&group.name), look, distances, blocks })
        };
        let panels: Vec<Angles> = self.groups().filter_map(panel).collect();
        let all = panels.iter().flat_map(|panel| panel.distances.iter().flatten());
        let max = all.copied().filter_map(drawable).fold(0.0, f64::max);
        let caption = "Mean angle between stream[i] (across: i) and stream[i + n] (upwards: n), \
                       arccos(cosine)/π: 0 is the same direction, 0.5 a right angle. Light blocks change \
                       the stream least. One model for each group, the first seed's, all coloured on the \
                       same scale (the paper's figure 2, not rescaled row by row)."
            .to_owned();
        let title = "Angular distance across blocks".to_owned();
        (!panels.is_empty()).then(|| {
            Drawing::new("angular", title, caption, Room::Row, |room| {
                panels::angles(&panels, max, room)
            })
        })
    }

    fn removal(&self) -> Option<Drawing> {
        let panels: Vec<Costs> = self
            .groups()
            .filter_map(|(group, look)| costs(label(&group.name), look, &self.diagnoses(group)))
            .collect();
        let judged = self.record.groups.iter().flat_map(|group| self.diagnoses(group));
        let threshold = common_threshold(judged);
        let y = Scale::removal(panels.iter().flat_map(Costs::extent), threshold);
        let caption = "Rise of the loss when one layer (across) is left out and nothing else is changed. \
                       Mean over the seeds that were diagnosed; whiskers are the range over seeds, or ±2 \
                       standard errors over windows where there is one seed. A layer is marked idle, by \
                       colour and by a dot under the axis, when it is idle with every seed."
            .to_owned();
        let title = "Cost of removing each layer".to_owned();
        let y_caption = "loss without it − loss with it, nats per token";
        (!panels.is_empty()).then(|| {
            let panels = CostPanels { panels, y, y_caption, threshold };
            Drawing::new("removal", title, caption, Room::Row, |room| panels.sketch(room))
        })
    }

    /// Variance against depth at one time, on axes where the theory's curves are known by sight.
    fn depth(&self, at: usize, when: &str) -> Option<Curves> {
        let theory = self.record.theory.as_ref()?;
        let found: Vec<&TheoryCurve> =
            theory.curves.iter().filter(|curve| curve.when == when).collect();
        let curve = |(nth, curve): (usize, &&TheoryCurve)| {
            let known = self.groups().find(|(group, _)| group.name == curve.scheme);
            let other = Look { hue: 1 + nth % 4, dash: (nth + nth / 4) % 4, strong: false };
            let values = (1..).zip(&curve.variance);
            let point = |(x, value): (u64, &f64)| {
                drawable(*value).map(|v| Point { x, mean: v, low: v, high: v, runs: 1 })
            };
            Curve {
                label: label(&curve.scheme),
                look: known.map_or(other, |(_, look)| look),
                points: values.filter_map(point).collect(),
                lost: false,
            }
        };
        let mut curves: Vec<Curve> = found.iter().enumerate().map(curve).collect();
        curves.retain(|curve| !curve.points.is_empty());
        curves.sort_by_key(|curve| curve.look.strong);
        let plot = variances(curves)?;
        let powers = plot.y.note().is_some();
        let deepest = plot.curves.iter().flat_map(|c| &c.points).map(|p| p.x).max().unwrap_or(1);
        let (x, reading) = match powers {
            true => (
                Scale::powers(deepest as f64),
                "Both axes are logarithmic: a power of depth is a straight line, and linear growth has \
                 slope 1.",
            ),
            false => (
                Scale::counting(1, deepest),
                "Both axes are linear: linear growth is a straight line, logarithmic growth bends.",
            ),
        };
        let name = ["theory-1", "theory-2", "theory-3", "theory-4"].get(at)?;
        Some(Curves {
            name,
            title: format!("Variance against depth: {}", label(when)),
            caption: format!(
                "The stream that enters depth ℓ = i + 1, and last the one that leaves the model. {reading}"
            ),
            room: Room::Half,
            column: "depth",
            x_caption: if powers { "depth ℓ (log scale)" } else { "depth ℓ" }.to_owned(),
            x,
            ..plot
        })
    }
}

/// Differences are taken seed by seed, so unequal seeds do not rank them.
const OWN_SEEDS: &str = "A line is the mean over the seeds that a group has in common with the baseline; its \
                         band reaches from the lowest to the highest, and one seed has no band.";

pub(super) fn cross(curves: &[Curve]) -> &'static str {
    match curves.iter().any(|curve| curve.lost) {
        true => " A cross ends a line whose runs diverged.",
        false => "",
    }
}

/// A chart over training steps.
pub(super) fn steps(curves: Vec<Curve>) -> Curves {
    Curves {
        name: "",
        title: String::new(),
        caption: String::new(),
        room: Room::Row,
        column: "step",
        x_caption: String::new(),
        y_caption: String::new(),
        x: Scale::counting(0, last_x(&curves)),
        y: Scale::linear([]),
        curves,
        level: None,
        write: nats,
    }
}

/// A chart of variances, logarithmic where they are far apart.
fn variances(curves: Vec<Curve>) -> Option<Curves> {
    let values = || curves.iter().flat_map(|curve| &curve.points).flat_map(|p| [p.low, p.high]);
    values().next()?;
    let y = Scale::positive(values());
    Some(Curves { y, y_caption: "variance".to_owned(), write: number, ..steps(curves) })
}

fn last_x(curves: &[Curve]) -> u64 {
    curves.iter().flat_map(|curve| &curve.points).map(|point| point.x).max().unwrap_or(0)
}

/// Losses before a quarter of training are far above all that follows.
fn quarter(curves: &[Curve]) -> u64 {
    last_x(curves) / 4
}

/// What a reader must know of a chart that does not show everything.
fn cut(curves: &[Curve], low: f64, high: f64) -> String {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let above = points().any(|point| point.high > high);
    let below = points().any(|point| point.low < low);
    let side = match (above, below) {
        (true, true) => format!("above {} and below {}", nats(high), nats(low)),
        (true, false) => format!("above {}", nats(high)),
        (false, true) => format!("below {}", nats(low)),
        (false, false) => return String::new(),
    };
    format!(
        " What lies {side} is cut off, so that the ends can be told apart; an arrow beside a name says \
         that its line ends there."
    )
}

/// The range that holds every seed and interval of the groups that end near the others, zero and the noise.
/// No interval dwarfs the seeds that it is about: the widest, over two seeds, is 13 times as wide as they
/// are apart.
fn pair_window(rows: &[Row], noise: Option<f64>) -> Option<(f64, f64)> {
    let curve = |row: &Row| {
        let seeds = row.seeds.iter().map(|(_, value)| *value).chain([row.mean]);
        let (low, high) = seeds.fold((row.mean, row.mean), |(l, h), v| (l.min(v), h.max(v)));
        let points = vec![Point { x: 0, mean: row.mean, low, high, runs: 1 }];
        Curve { label: String::new(), look: row.look, points, lost: false }
    };
    let curves: Vec<Curve> = rows.iter().map(curve).collect();
    let (low, high) = window(&curves, 0, Zero::Held)?;
    let noise = noise.unwrap_or(0.0);
    let (low, high) = (low.min(-noise * 1.1), high.max(noise * 1.1));
    let shown = |row: &&Row| (low..=high).contains(&row.mean);
    // An end on the chart's edge would be half a mark.
    let room = 1.04;
    let drawn = |(low, high): (f64, f64)| drawable(low * room).zip(drawable(high * room));
    let intervals = rows.iter().filter(shown).filter_map(|row| row.interval);
    let ends = intervals.filter(|ends| drawn(*ends).is_some());
    Some(ends.fold((low, high), |(l, h), (a, b)| (l.min(a * room), h.max(b * room))))
}

/// Mean over diagnoses of what leaving out each layer costs; nothing when none measured it.
fn costs(label: String, look: Look, diagnoses: &[&DiagnoseRecord]) -> Option<Costs> {
    let measured = |found: &&&DiagnoseRecord| found.layers.iter().any(|l| l.removal.is_some());
    let diagnoses: Vec<&DiagnoseRecord> = diagnoses.iter().filter(measured).copied().collect();
    let layers = diagnoses.iter().map(|found| found.layers.len()).max()?;
    let removal = |found: &DiagnoseRecord, layer: usize| found.layers.get(layer)?.removal;
    let over_seeds = |layer| {
        summary(diagnoses.iter().filter_map(|found| Some(removal(found, layer)?.delta_nll)))
    };
    let whisker = |layer| {
        let mean = over_seeds(layer)?;
        if mean.runs > 1 {
            return Some((mean.low, mean.high));
        }
        let reach = removal(diagnoses.first()?, layer)?.reach()?;
        Some((drawable(mean.mean - reach)?, drawable(mean.mean + reach)?))
    };
    let idle = |layer: &usize| diagnoses.iter().all(|d| d.verdict.idle_layers.contains(layer));
    Some(Costs {
        label,
        look,
        values: (0..layers).map(|layer| Some(over_seeds(layer)?.mean)).collect(),
        whiskers: (0..layers).map(whisker).collect(),
        idle: (0..layers).filter(idle).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(mean: f64, interval: Option<(f64, f64)>) -> Row {
        let look = Look { hue: 0, dash: 0, strong: false };
        Row { label: String::new(), look, mean, interval, seeds: vec![], told: String::new() }
    }

    #[test]
    fn the_window_of_differences_holds_zero_the_noise_and_whole_intervals_of_all_but_strangers() {
        let rows = [row(-0.08, Some((-0.1, -0.06))), row(0.03, None), row(3.0, Some((-9.0, 9.0)))];
        let (low, high) = pair_window(&rows, Some(0.01)).unwrap();
        assert!((-0.11..-0.1).contains(&low) && (0.03..0.05).contains(&high), "{low} {high}");
        let (low, high) = pair_window(&[row(-0.08, Some((-0.31, 0.15)))], None).unwrap();
        assert!((-0.35..-0.31).contains(&low) && (0.15..0.2).contains(&high), "{low} {high}");
        assert_eq!(pair_window(&[], None), None);
    }
}
