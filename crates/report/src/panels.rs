//! Small multiples: the same small chart for each group, on common scales.

use lns_record::BlockRecord;
use maud::{Markup, html};

use crate::curves::Look;
use crate::drawing::{DIGIT, NARROW, Sketch, axis_caption, beside, px};
use crate::heatmap::{Triangle, scale_bar};
use crate::number::{idle_below, number};
use crate::plot::{IDLE_BARS, ROW, bar_swatch, flow, threshold_entry, tick_step};
use crate::scale::{Scale, Tick};
use crate::text::shortened;

const GAP: f64 = 22.0;
/// Room for the name of a panel's vertical axis.
const AXIS: f64 = 18.0;
/// Room for a panel's name.
const HEADING: f64 = 26.0;
/// Room for the numbers under a panel and the name of its horizontal axis.
const BELOW: f64 = 50.0;
const NAME: usize = 28;
/// One panel alone is no wider than this.
const WIDEST: f64 = 560.0;

/// Where panels stand.
struct Grid {
    top: f64,
    across: usize,
    /// Room for the numbers beside a panel and the name of its vertical axis.
    left: f64,
    /// Width of a panel, without its heading and numbers.
    width: f64,
    height: f64,
}

/// What a panel's axes count.
struct Axes {
    x: &'static str,
    y: &'static str,
}

impl Grid {
    /// Three side by side read well; few get more room, many less. The widest number beside a panel has
    /// `digits` characters.
    fn new(count: usize, room: f64, top: f64, digits: usize, shape: f64) -> Self {
        let across = match count {
            0 | 1 => 1,
            2..=4 if room <= NARROW => 1,
            2 | 4 => 2,
            _ if room <= NARROW => 2,
            3..=9 => 3,
            _ => 4,
        };
        let each = (room - GAP * (across as f64 - 1.0)) / across as f64;
        let left = px(AXIS + beside(digits));
        let width = (each - left).min(WIDEST);
        Self { top, across, left, width, height: (width * shape).round() }
    }

    /// The left end and the bottom of a panel.
    fn corner(&self, at: usize) -> (f64, f64) {
        let (row, column) = (at / self.across, at % self.across);
        let left = self.left + column as f64 * (self.width + self.left + GAP);
        (px(left), px(self.top + (row as f64 + 1.0) * self.each() - BELOW))
    }

    /// Distance from one row of panels to the next.
    fn each(&self) -> f64 {
        HEADING + self.height + BELOW
    }

    fn bottom(&self, count: usize) -> f64 {
        self.top + self.each() * count.div_ceil(self.across) as f64
    }

    /// The panel's name, and those of its axes.
    fn heading(&self, at: usize, label: &str, look: Look, axes: &Axes) -> Markup {
        let (left, bottom) = self.corner(at);
        let y = px(bottom - self.height - 10.0);
        let (axis, middle) = (px(left - self.left + 12.0), px(bottom - self.height / 2.0));
        let room = ((self.width - 30.0) / DIGIT).max(4.0) as usize;
        html! {
            g.legend transform=(format!("translate({left} {})", px(y - 4.2))) { (look.swatch()) }
            text x=(left + 30.0) y=(y) { (shortened(label, room.min(NAME))) }
            text.quiet.middle x=(px(left + self.width / 2.0)) y=(bottom + 35.0) { (axes.x) }
            text.quiet.middle transform=(format!("rotate(-90 {axis} {middle})")) x=(axis) y=(middle) { (axes.y) }
        }
    }

    /// Numbers under a panel of `columns`, each `wide`.
    fn column_ticks(&self, at: usize, columns: usize, wide: f64) -> Markup {
        let (left, bottom) = self.corner(at);
        html! {
            @for column in (0..columns).step_by(tick_step(columns, wide, 26.0)) {
                text.tick.middle x=(px(left + (column as f64 + 0.5) * wide)) y=(bottom + 17.0) { (column) }
            }
        }
    }
}

/// Angular distances of one group.
pub(crate) struct Angles<'a> {
    pub(crate) label: String,
    pub(crate) look: Look,
    pub(crate) distances: &'a [Vec<f64>],
    pub(crate) blocks: &'a [BlockRecord],
}

/// Triangles of angular distance, coloured from 0 to `max`.
pub(crate) fn angles(panels: &[Angles<'_>], max: f64, room: f64) -> Sketch {
    let rows_of = |panel: &Angles<'_>| panel.distances.iter().map(Vec::len).max().unwrap_or(0);
    let most = panels.iter().map(rows_of).max().unwrap_or(0);
    let grid = Grid::new(panels.len(), room, 54.0, most.to_string().len(), 0.62);
    let axes = Axes { x: "i, first layer", y: "n, layers" };
    let body = html! {
        (scale_bar(max, panels.iter().any(|panel| !panel.blocks.is_empty())))
        @for (at, panel) in panels.iter().enumerate() {
            @let columns = panel.distances.len();
            @let rows = rows_of(panel);
            @let cell = (grid.width / columns.max(1) as f64, grid.height / rows.max(1) as f64);
            @let (left, bottom) = grid.corner(at);
            (grid.heading(at, &panel.label, panel.look, &axes))
            (Triangle { left, bottom, cell, max, told: room > NARROW }.draw(panel.distances, panel.blocks))
            @for n in (0..=rows).step_by(tick_step(rows, cell.1, 22.0)).filter(|n| *n > 0) {
                text.tick.end x=(left - 7.0) y=(px(bottom - (n as f64 - 0.5) * cell.1 + 4.2)) { (n) }
            }
            (grid.column_ticks(at, columns, cell.0))
        }
    };
    Sketch { height: grid.bottom(panels.len()), body }
}

/// What leaving out each layer costs one group.
pub(crate) struct Costs {
    pub(crate) label: String,
    pub(crate) look: Look,
    pub(crate) values: Vec<Option<f64>>,
    pub(crate) whiskers: Vec<Option<(f64, f64)>>,
    pub(crate) idle: Vec<usize>,
}

impl Costs {
    fn value(&self, layer: usize) -> Option<f64> {
        self.values.get(layer).copied().flatten()
    }

    fn whisker(&self, layer: usize) -> Option<(f64, f64)> {
        self.whiskers.get(layer).copied().flatten()
    }

    /// Every value that the axis must hold.
    pub(crate) fn extent(&self) -> impl Iterator<Item = f64> {
        let ends = self.whiskers.iter().flatten().flat_map(|(low, high)| [*low, *high]);
        self.values.iter().flatten().copied().chain(ends)
    }

    fn told(&self, layer: usize) -> String {
        let value = self.value(layer).map_or_else(|| "not measured".to_owned(), number);
        let whisker = self.whisker(layer);
        let whisker = whisker.map(|(low, high)| format!(" ({} to {})", number(low), number(high)));
        let idle = if self.idle.contains(&layer) { ", idle" } else { "" };
        format!("{}\nlayer {layer}: {value}{}{idle}", self.label, whisker.unwrap_or_default())
    }
}

/// The costs of all groups on one axis.
pub(crate) struct CostPanels {
    pub(crate) panels: Vec<Costs>,
    pub(crate) y: Scale,
    pub(crate) y_caption: &'static str,
    /// Below it a layer is idle, where all groups were judged by the same.
    pub(crate) threshold: Option<f64>,
}

impl CostPanels {
    /// Bars over layers.
    pub(crate) fn sketch(&self, room: f64) -> Sketch {
        let Self { panels, y, .. } = self;
        let (y_caption, below) = axis_caption(self.y_caption, y.note(), room);
        let (legend, rows) = flow(self.legend(), room, below + ROW);
        let top = below + 12.0 + ROW * rows as f64;
        let grid = Grid::new(panels.len(), room, top, y.digits(), 0.52);
        let columns = panels.iter().map(|panel| panel.values.len()).max().unwrap_or(0);
        let axes = Axes { x: "layer", y: "Δ loss" };
        let body = html! {
            (y_caption)
            (legend)
            @for (at, panel) in panels.iter().enumerate() {
                (grid.heading(at, &panel.label, panel.look, &axes))
                (grid_lines(&grid, at, y, self.threshold))
                (self.bars(&grid, at, columns, room > NARROW))
                (self.threshold_line(&grid, at))
                (grid.column_ticks(at, columns, grid.width / columns.max(1) as f64))
            }
        };
        Sketch { height: grid.bottom(panels.len()), body }
    }

    fn legend(&self) -> Vec<(String, Markup)> {
        let idle = self.panels.iter().any(|panel| !panel.idle.is_empty());
        let idle = idle.then(|| (IDLE_BARS.to_owned(), bar_swatch("idle")));
        let line = self.threshold.map(|t| threshold_entry(&idle_below(t)));
        idle.into_iter().chain(line).collect()
    }

    fn bars(&self, grid: &Grid, at: usize, columns: usize, told: bool) -> Markup {
        let (panel, y) = (&self.panels[at], &self.y);
        let wide = grid.width / columns.max(1) as f64;
        let (left, bottom) = grid.corner(at);
        let place = |share: f64| px(bottom - share.clamp(0.0, 1.0) * grid.height);
        html! {
            @for (layer, x) in (0..columns).map(|layer| (layer, left + layer as f64 * wide)) {
                @let middle = px(x + wide / 2.0);
                @if let Some(value) = panel.value(layer).and_then(|value| y.place(value)) {
                    @let (top, ground) = (place(value), place(y.baseline()));
                    rect.bar.h5.idle[panel.idle.contains(&layer)] x=(px(x + wide * 0.14)) width=(px(wide * 0.72))
                        y=(top.min(ground)) height=(px((top - ground).abs()).max(0.75)) {}
                }
                @if let Some((low, high)) = panel.whisker(layer).and_then(|(low, high)| Some((y.place(low)?, y.place(high)?))) {
                    line.whisker.thin[wide < 8.0] x1=(middle) x2=(middle) y1=(place(high)) y2=(place(low)) {}
                }
                @if panel.idle.contains(&layer) {
                    circle.idle-mark r=(px((wide * 0.3).clamp(0.7, 2.4))) cx=(middle) cy=(bottom + 4.0) {}
                }
                @if told {
                    rect.column x=(px(x)) y=(place(1.0)) width=(px(wide)) height=(grid.height) {
                        title { (panel.told(layer)) }
                    }
                }
            }
        }
    }

    fn threshold_line(&self, grid: &Grid, at: usize) -> Markup {
        let (left, bottom) = grid.corner(at);
        let place = self.threshold.and_then(|threshold| self.y.place(threshold));
        html! {
            @if let Some(y) = place.filter(|place| (0.0..=1.0).contains(place)).map(|place| px(bottom - place * grid.height)) {
                line.threshold x1=(left) x2=(px(left + grid.width)) y1=(y) y2=(y) {}
            }
        }
    }
}

/// Lines behind a panel and their numbers; where these have no room, those at zero and at the threshold stay.
fn grid_lines(grid: &Grid, at: usize, y: &Scale, threshold: Option<f64>) -> Markup {
    /// Least distance from one number to the next.
    const ROOM: f64 = 15.0;
    let (left, bottom) = grid.corner(at);
    let height = |share: f64| px(bottom - share * grid.height);
    let ground = height(y.baseline());
    let threshold = threshold.and_then(|threshold| y.place(threshold));
    let first: Vec<f64> = threshold.into_iter().chain([y.baseline()]).collect();
    html! {
        @for tick in apart(y.ticks().collect(), &first, ROOM / grid.height) {
            @let y = height(tick.at);
            line.grid x1=(left) x2=(px(left + grid.width)) y1=(y) y2=(y) {}
            text.tick.end x=(left - 7.0) y=(px(y + 4.2)) { (tick.label.as_deref().unwrap_or_default()) }
        }
        line.axis x1=(left) x2=(px(left + grid.width)) y1=(ground) y2=(ground) {}
    }
}

/// Labelled ticks no closer than `room`: those at the places `first` before the others, which are taken
/// from above.
fn apart(ticks: Vec<Tick>, first: &[f64], room: f64) -> Vec<Tick> {
    let mut kept: Vec<Tick> = Vec::new();
    let mut labelled: Vec<Tick> = ticks.into_iter().filter(|tick| tick.label.is_some()).collect();
    let is_first = |tick: &Tick| first.iter().any(|place| (place - tick.at).abs() < 1e-9);
    labelled.sort_by(|a, b| is_first(b).cmp(&is_first(a)).then(b.at.total_cmp(&a.at)));
    for tick in labelled {
        if kept.iter().all(|other| (other.at - tick.at).abs() >= room) {
            kept.push(tick);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_and_the_threshold_keep_their_numbers_where_others_lose_theirs() {
        let scale = Scale::removal([5.0, 0.3, -0.2, 0.01], Some(0.15));
        let first = [scale.place(0.15).unwrap(), scale.baseline()];
        let kept = apart(scale.ticks().collect(), &first, 0.12);
        let labels: Vec<&str> = kept.iter().filter_map(|tick| tick.label.as_deref()).collect();
        assert_eq!(labels[..2], ["0.15", "0"]);
        assert!(labels.len() > 3 && !labels.contains(&"0.2"), "{labels:?}");
    }
}
