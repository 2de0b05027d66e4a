//! Angular distances of all pairs of stream points (the paper's eq. 1), as measured: neither
//! clipped nor stretched row by row.

use lns_record::BlockRecord;
use lns_show::{block_in_words, noun};
use maud::{Markup, html};

use crate::drawing::{Drawing, NARROW, Room, Sketch, px};
use crate::number::{drawable, number};
use crate::palette::ramp;
use crate::plot::{column_ticks, tick_step};

const LEFT: f64 = 52.0;
const TOP: f64 = 84.0;
const BELOW: f64 = 50.0;
const BAR: f64 = 150.0;
/// A cell is no larger than this: few layers make a small chart.
const CELL: (f64, f64) = (96.0, 48.0);

/// `[i][n - 1]` for x = i and y = n, coloured from 0 to `max`.
pub(crate) struct Heatmap<'a> {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) caption: String,
    pub(crate) room: Room,
    pub(crate) distances: &'a [Vec<f64>],
    pub(crate) blocks: &'a [BlockRecord],
    pub(crate) max: f64,
}

impl Heatmap<'_> {
    pub(crate) fn draw(self) -> Drawing {
        let (name, title, caption) = (self.name.clone(), self.title.clone(), self.caption.clone());
        Drawing::new(name, title, caption, self.room, |width| self.sketch(width))
    }

    fn sketch(&self, width: f64) -> Sketch {
        let columns = self.distances.len();
        let rows = self.distances.iter().map(Vec::len).max().unwrap_or(0);
        let room = (width - LEFT - 10.0, if width == Room::Row.width() { 400.0 } else { 330.0 });
        let cell = (
            (room.0 / columns.max(1) as f64).min(CELL.0),
            (room.1 / rows.max(1) as f64).min(CELL.1),
        );
        let told = width > NARROW;
        let width = cell.0 * columns as f64;
        let bottom = TOP + cell.1 * rows as f64;
        let triangle = Triangle { left: LEFT, bottom, cell, max: self.max, told };
        let body = html! {
            (scale_bar(self.max, !self.blocks.is_empty()))
            text.quiet x="0" y=(TOP - 12.0) { "n, layers in the block" }
            (triangle.draw(self.distances, self.blocks))
            @for n in (0..=rows).step_by(tick_step(rows, cell.1, 17.0)).filter(|n| *n > 0) {
                text.tick.end x=(LEFT - 8.0) y=(px(bottom - (n as f64 - 0.5) * cell.1 + 4.2)) { (n) }
            }
            (column_ticks(columns, "i, first layer of the block", LEFT, width, bottom - 6.0))
        };
        Sketch { height: bottom + BELOW - 8.0, body }
    }
}

/// The cells alone, at their place in a drawing.
pub(crate) struct Triangle {
    pub(crate) left: f64,
    pub(crate) bottom: f64,
    /// Width and height of a cell.
    pub(crate) cell: (f64, f64),
    /// The distance that has the ramp's last colour.
    pub(crate) max: f64,
    /// Whether a pointer is told what a cell is.
    pub(crate) told: bool,
}

impl Triangle {
    /// Cells, and a dot on the closest pair of each n.
    pub(crate) fn draw(&self, distances: &[Vec<f64>], blocks: &[BlockRecord]) -> Markup {
        let (left, bottom, cell) = (self.left, self.bottom, self.cell);
        let place = format!("translate({left} {bottom}) scale({:.4} {:.4})", cell.0, -cell.1);
        let rows = distances.iter().map(Vec::len).max().unwrap_or(0);
        let inside =
            |block: &&BlockRecord| block.start < distances.len() && (1..=rows).contains(&block.n);
        let radius = (cell.0.min(cell.1) * 0.28).clamp(0.7, 5.0);
        html! {
            // One unit is one cell, n counted upwards: places stay whole numbers.
            g.cells shape-rendering="crispEdges" transform=(place) {
                @for (i, row) in distances.iter().enumerate() {
                    @for (at, distance) in row.iter().enumerate() {
                        (self.cell(i, at + 1, *distance))
                    }
                }
            }
            @for block in blocks.iter().filter(inside) {
                circle.redundant r=(px(radius)) stroke-width=(px(radius * 0.3)) pointer-events="none"
                    cx=(px(left + (block.start as f64 + 0.5) * cell.0))
                    cy=(px(bottom - (block.n as f64 - 0.5) * cell.1)) {}
            }
        }
    }

    fn cell(&self, i: usize, n: usize, distance: f64) -> Markup {
        let told =
            format!("{} {}, n = {n}: {}", noun(n, "layer"), block_in_words(i, n), number(distance));
        let colour =
            drawable(distance).map(|d| ramp(if self.max > 0.0 { d / self.max } else { 0.0 }));
        html! {
            @if let Some(colour) = colour {
                rect x=(i) y=(n - 1) width="1" height="1" fill=(colour) { @if self.told { title { (told) } } }
            } @else {
                rect.unknown x=(i) y=(n - 1) width="1" height="1" { @if self.told { title { (told) } } }
            }
        }
    }
}

/// Colours from 0 to `max`, and what a dot is if there is any.
pub(crate) fn scale_bar(max: f64, dots: bool) -> Markup {
    const STEPS: u32 = 50;
    let step = BAR / f64::from(STEPS);
    html! {
        text.quiet x="0" y="14" { "angular distance, arccos/π" }
        g.legend {
            text.tick x="0" y="38" { "0" }
            g shape-rendering="crispEdges" {
                @for k in 0..STEPS {
                    rect x=(px(14.0 + f64::from(k) * step)) y="28" width=(px(step + 0.3)) height="12"
                        fill=(ramp((f64::from(k) + 0.5) / f64::from(STEPS))) {}
                }
            }
            text.tick x=(14.0 + BAR + 6.0) y="38" { (number(max)) }
            @if dots {
                circle.redundant cx=(14.0 + BAR + 66.0) cy="34" r="4.5" stroke-width="1.3" {}
                text x=(14.0 + BAR + 77.0) y="38" { "least distance for its n" }
            }
        }
    }
}
