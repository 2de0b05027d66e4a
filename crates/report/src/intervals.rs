//! Differences with their intervals: a row for each group, a small dot for each seed, and the range
//! that chance alone has covered behind them.

use maud::{Markup, html};
use unicode_width::UnicodeWidthStr;

use crate::curves::Look;
use crate::drawing::{Drawing, NARROW, Room, Sketch, px};
use crate::scale::Scale;

const TOP: f64 = 14.0;
const ROW: f64 = 34.0;
/// A row with its words in two lines above its marks.
const ROW_BELOW_WORDS: f64 = 68.0;
const BELOW: f64 = 46.0;
const CHARACTER: f64 = 7.2;

/// One group against what all are compared to.
pub(crate) struct Row {
    pub(crate) label: String,
    pub(crate) look: Look,
    pub(crate) mean: f64,
    pub(crate) interval: Option<(f64, f64)>,
    pub(crate) seeds: Vec<(u64, f64)>,
    /// The difference in words, beside the row.
    pub(crate) told: String,
}

/// A chart in words and numbers, not yet in places.
pub(crate) struct Intervals {
    pub(crate) name: &'static str,
    pub(crate) title: String,
    pub(crate) caption: String,
    pub(crate) x_caption: String,
    pub(crate) x: Scale,
    pub(crate) rows: Vec<Row>,
    /// What chance alone does, to either side of zero.
    pub(crate) noise: Option<f64>,
    pub(crate) write: fn(f64) -> String,
}

/// The rectangle that values are drawn in.
struct Area {
    left: f64,
    width: f64,
    bottom: f64,
    /// Whether a row's words stand above its marks.
    above: bool,
}

impl Area {
    /// The place of a value; what lies outside the area is drawn on its edge.
    fn x(&self, place: f64) -> f64 {
        self.left + place.clamp(0.0, 1.0) * self.width
    }
}

impl Intervals {
    pub(crate) fn draw(self) -> Drawing {
        let (title, caption) = (self.title.clone(), self.caption.clone());
        Drawing::new(self.name, title, caption, Room::Row, |width| self.sketch(width))
    }

    fn sketch(&self, width: f64) -> Sketch {
        let widest = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or(0) as f64;
        let left = widest(&mut self.rows.iter().map(|row| row.label.width())) * CHARACTER + 18.0;
        let right = widest(&mut self.rows.iter().map(|row| row.told.width())) * CHARACTER + 14.0;
        // In a narrow drawing the words of a row stand above its marks.
        let above = width <= NARROW;
        let (left, chart, row) = match above {
            true => (10.0, width - 20.0, ROW_BELOW_WORDS),
            false => (left, (width - left - right).max(200.0), ROW),
        };
        let bottom = TOP + row * self.rows.len() as f64;
        let area = Area { left, width: chart, bottom, above };
        let body = html! {
            (self.noise(&area))
            (self.grid(&area))
            @for (at, drawn) in self.rows.iter().enumerate() {
                (self.row(drawn, TOP + row * (at as f64 + 1.0) - ROW / 2.0, &area))
            }
        };
        Sketch { height: area.bottom + BELOW, body }
    }

    fn noise(&self, area: &Area) -> Markup {
        let ends = self.noise.and_then(|reach| Some((self.x.place(-reach)?, self.x.place(reach)?)));
        html! {
            @if let Some((low, high)) = ends {
                @let (low, high) = (area.x(low), area.x(high));
                rect.noise x=(px(low)) y=(TOP - 8.0) width=(px((high - low).max(1.0)))
                    height=(px(area.bottom - TOP + 8.0)) {}
            }
        }
    }

    fn grid(&self, area: &Area) -> Markup {
        html! {
            @for tick in self.x.ticks() {
                @let x = px(area.x(tick.at));
                line.grid.faint[tick.label.is_none()] x1=(x) x2=(x) y1=(TOP - 8.0) y2=(area.bottom) {}
                @if let Some(label) = tick.label {
                    text.tick.middle x=(x) y=(px(area.bottom + 18.0)) { (label) }
                }
            }
            @if let Some(zero) = self.x.place(0.0) {
                @let x = px(area.x(zero));
                line.threshold x1=(x) x2=(x) y1=(TOP - 8.0) y2=(area.bottom) {}
            }
            text.quiet.middle x=(px(area.left + area.width / 2.0)) y=(px(area.bottom + 38.0)) { (self.x_caption) }
        }
    }

    fn row(&self, row: &Row, y: f64, area: &Area) -> Markup {
        let y = px(y);
        let ends =
            row.interval.and_then(|(low, high)| Some((self.x.place(low)?, self.x.place(high)?)));
        html! {
            @if area.above {
                text.haloed x="0" y=(px(y - 30.0)) { (row.label) }
                text.quiet.haloed x="0" y=(px(y - 14.0)) { (row.told) }
            } @else {
                text.end x=(px(area.left - 14.0)) y=(px(y + 4.2)) { (row.label) }
                text.quiet x=(px(area.left + area.width + 14.0)) y=(px(y + 4.2)) { (row.told) }
            }
            @if let Some((low, high)) = ends.filter(|(low, high)| *high >= 0.0 && *low <= 1.0) {
                line.interval x1=(px(area.x(low))) x2=(px(area.x(high))) y1=(y) y2=(y) {}
                (end(low, y, area))
                (end(high, y, area))
            }
            @for (_, value) in &row.seeds {
                @if let Some(place) = self.x.place(*value).filter(|place| (0.0..=1.0).contains(place)) {
                    circle class=(row.look.filled("dot seed")) cx=(px(area.x(place))) cy=(px(y + 9.0)) r="2.6" {}
                }
            }
            @match self.x.place(row.mean) {
                Some(place) if (0.0..=1.0).contains(&place) => {
                    circle class=(row.look.filled("dot")) cx=(px(area.x(place))) cy=(y) r="5" {}
                }
                Some(place) => (arrow(place, y, area)),
                None => {},
            }
            @if !area.above {
                rect.column x="0" y=(px(y - ROW / 2.0)) width=(Room::Row.width()) height=(ROW) {
                    title { (self.told(row)) }
                }
            }
        }
    }

    fn told(&self, row: &Row) -> String {
        let seeds = row
            .seeds
            .iter()
            .map(|(seed, value)| format!("\nseed {seed}: {}", (self.write)(*value)));
        format!("{}: {}{}", row.label, row.told, seeds.collect::<String>())
    }
}

/// A bar across the end of an interval, or an arrow where it goes on outside.
fn end(place: f64, y: f64, area: &Area) -> Markup {
    html! {
        @if (0.0..=1.0).contains(&place) {
            @let x = px(area.x(place));
            line.interval x1=(x) x2=(x) y1=(y - 4.0) y2=(y + 4.0) {}
        } @else { (arrow(place, y, area)) }
    }
}

fn arrow(place: f64, y: f64, area: &Area) -> Markup {
    let way = if place > 1.0 { -7.0 } else { 7.0 };
    let x = px(area.x(place));
    html! { path.interval-end d=(format!("M{x} {y}l{way} -4.5v9z")) {} }
}
