//! Small multiples: the same small chart for each group, on common scales.

use lns_record::BlockRecord;
use maud::{Markup, html};

use crate::curves::Look;
use crate::drawing::{Drawing, Room, px};
use crate::heatmap::{Triangle, scale_bar};
use crate::number::number;
use crate::plot::tick_step;
use crate::scale::Scale;
use crate::text::shortened;

const GAP: f64 = 26.0;
/// Room for the numbers beside a panel.
const LEFT: f64 = 40.0;
/// Room for a panel's name.
const HEADING: f64 = 26.0;
/// Room for the numbers under a panel.
const BELOW: f64 = 34.0;
const NAME: usize = 28;
/// One panel alone is no wider than this.
const WIDEST: f64 = 560.0;

/// Where panels stand.
struct Grid {
    top: f64,
    across: usize,
    /// Of a panel, without its heading and numbers.
    width: f64,
    height: f64,
}

impl Grid {
    /// Three side by side read well; few get more room, many less.
    fn new(count: usize, top: f64, shape: f64) -> Self {
        let across = match count {
            0 | 1 => 1,
            2 | 4 => 2,
            3..=9 => 3,
            _ => 4,
        };
        let each = (Room::Row.width() - GAP * (across as f64 - 1.0)) / across as f64;
        let width = (each - LEFT).min(WIDEST);
        Self { top, across, width, height: (width * shape).round() }
    }

    /// The left end and the bottom of a panel.
    fn corner(&self, at: usize) -> (f64, f64) {
        let (row, column) = (at / self.across, at % self.across);
        let left = LEFT + column as f64 * (self.width + LEFT + GAP);
        (px(left), px(self.top + (row as f64 + 1.0) * self.each() - BELOW))
    }

    /// From one row of panels to the next.
    fn each(&self) -> f64 {
        HEADING + self.height + BELOW
    }

    fn bottom(&self, count: usize) -> f64 {
        self.top + self.each() * count.div_ceil(self.across) as f64
    }

    fn heading(&self, at: usize, label: &str, look: Look) -> Markup {
        let (left, bottom) = self.corner(at);
        let y = px(bottom - self.height - 10.0);
        html! {
            g.legend transform=(format!("translate({left} {})", px(y - 4.2))) { (look.swatch()) }
            text x=(left + 30.0) y=(y) { (shortened(label, NAME)) }
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
pub(crate) fn angles(panels: &[Angles<'_>], max: f64) -> (f64, Markup) {
    let grid = Grid::new(panels.len(), 54.0, 0.62);
    let markup = html! {
        (scale_bar(max, panels.iter().any(|panel| !panel.blocks.is_empty())))
        @for (at, panel) in panels.iter().enumerate() {
            @let columns = panel.distances.len();
            @let rows = panel.distances.iter().map(Vec::len).max().unwrap_or(0);
            @let cell = (grid.width / columns.max(1) as f64, grid.height / rows.max(1) as f64);
            @let (left, bottom) = grid.corner(at);
            (grid.heading(at, &panel.label, panel.look))
            (Triangle { left, bottom, cell, max }.draw(panel.distances, panel.blocks))
            @for n in (0..=rows).step_by(tick_step(rows, cell.1, 22.0)).filter(|n| *n > 0) {
                text.tick.end x=(left - 7.0) y=(px(bottom - (n as f64 - 0.5) * cell.1 + 4.2)) { (n) }
            }
            (grid.column_ticks(at, columns, cell.0))
        }
    };
    (grid.bottom(panels.len()), markup)
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

/// Bars over layers, all on the axis `y`.
pub(crate) fn costs(panels: &[Costs], y: &Scale, y_caption: &str) -> (f64, Markup) {
    let grid = Grid::new(panels.len(), 26.0, 0.52);
    let columns = panels.iter().map(|panel| panel.values.len()).max().unwrap_or(0);
    let wide = grid.width / columns.max(1) as f64;
    let place = |at: usize, share: f64| px(grid.corner(at).1 - share.clamp(0.0, 1.0) * grid.height);
    let note = y.note().map(|note| format!(" ({note})")).unwrap_or_default();
    let markup = html! {
        text.quiet x="0" y="14" { (y_caption) (note) }
        @for (at, panel) in panels.iter().enumerate() {
            (grid.heading(at, &panel.label, panel.look))
            (grid_lines(&grid, at, y))
            @for (layer, x) in (0..columns).map(|layer| (layer, grid.corner(at).0 + layer as f64 * wide)) {
                @let middle = px(x + wide / 2.0);
                @if let Some(value) = panel.value(layer).and_then(|value| y.place(value)) {
                    @let (top, ground) = (place(at, value), place(at, y.baseline()));
                    rect.bar.h5.idle[panel.idle.contains(&layer)] x=(px(x + wide * 0.14)) width=(px(wide * 0.72))
                        y=(top.min(ground)) height=(px((top - ground).abs()).max(0.75)) {}
                }
                @if let Some((low, high)) = panel.whisker(layer).and_then(|(low, high)| Some((y.place(low)?, y.place(high)?))) {
                    line.whisker.thin[wide < 8.0] x1=(middle) x2=(middle) y1=(place(at, high)) y2=(place(at, low)) {}
                }
                @if panel.idle.contains(&layer) {
                    circle.idle-mark r=(px((wide * 0.3).clamp(0.7, 2.4))) cx=(middle) cy=(grid.corner(at).1 + 4.0) {}
                }
                rect.column x=(px(x)) y=(place(at, 1.0)) width=(px(wide)) height=(grid.height) {
                    title { (panel.told(layer)) }
                }
            }
            (grid.column_ticks(at, columns, wide))
        }
    };
    (grid.bottom(panels.len()), markup)
}

fn grid_lines(grid: &Grid, at: usize, y: &Scale) -> Markup {
    /// From one number to the next.
    const ROOM: f64 = 15.0;
    let (left, bottom) = grid.corner(at);
    let ticks: Vec<_> = y.ticks().collect();
    let labels = ticks.iter().filter(|tick| tick.label.is_some()).count().max(1);
    let every = (labels as f64 * ROOM / grid.height).ceil().max(1.0) as usize;
    let labelled = ticks.iter().filter(|tick| tick.label.is_some()).step_by(every);
    let height = |share: f64| px(bottom - share * grid.height);
    let ground = height(y.baseline());
    html! {
        @for tick in labelled {
            @let y = height(tick.at);
            line.grid x1=(left) x2=(px(left + grid.width)) y1=(y) y2=(y) {}
            text.tick.end x=(left - 7.0) y=(px(y + 4.2)) { (tick.label.as_deref().unwrap_or_default()) }
        }
        line.axis x1=(left) x2=(px(left + grid.width)) y1=(ground) y2=(ground) {}
    }
}

/// A drawing of panels.
pub(crate) fn drawing(
    name: &'static str,
    title: &str,
    caption: String,
    (height, body): (f64, Markup),
) -> Drawing {
    Drawing {
        name: name.to_owned(),
        title: title.to_owned(),
        caption,
        room: Room::Row,
        height,
        body,
    }
}
