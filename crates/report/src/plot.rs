//! Lines and bars over layers: a chart with one column for each layer or stream index.

use std::fmt::Write;

use maud::{Markup, html};
use unicode_width::UnicodeWidthStr;

use crate::drawing::{Drawing, NARROW, Room, Sketch, axis_caption, beside, px};
use crate::number::measured;
use crate::palette::HUES;
use crate::scale::Scale;

/// Room beside the axis, or more where its numbers need it.
const LEFT: f64 = 52.0;
const RIGHT: f64 = 10.0;
const BELOW: f64 = 46.0;
/// Distance from one row of words to the next.
pub(crate) const ROW: f64 = 20.0;
/// A character's mean width, in the font of [`crate::drawing`].
const CHARACTER: f64 = 7.4;
/// Bars narrower than this lose their outline.
const THIN: f64 = 3.0;
/// Bars are no wider than this, so that a few of them still look like bars.
const WIDEST: f64 = 56.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    Line,
    Bars,
}

/// A value for each column, some absent.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    /// The model whose numbers they are; `None` when the chart has one model only.
    pub(crate) model: Option<String>,
    pub(crate) quantity: String,
    /// Number of the colour.
    pub(crate) hue: usize,
    /// Which kind of stroke or fill, so that colour is never alone in telling series apart.
    pub(crate) variant: usize,
    pub(crate) values: Vec<Option<f64>>,
    /// Standard errors. Empty when there are none.
    pub(crate) stderrs: Vec<Option<f64>>,
    /// How far whiskers reach to either side. Empty when there are none.
    pub(crate) reaches: Vec<Option<f64>>,
    /// Columns to set apart as idle. Empty when that was not asked.
    pub(crate) idle: Vec<usize>,
}

impl Series {
    pub(crate) fn value(&self, column: usize) -> Option<f64> {
        self.values.get(column).copied().flatten()
    }

    fn look(&self) -> String {
        format!("h{} v{}", self.hue % HUES, self.variant)
    }

    fn stderr(&self, column: usize) -> Option<f64> {
        self.stderrs.get(column).copied().flatten().filter(|s| s.is_finite())
    }

    fn reach(&self, column: usize) -> Option<f64> {
        self.reaches.get(column).copied().flatten().filter(|reach| reach.is_finite())
    }

    /// Every value that the axis must hold, whiskers included.
    pub(crate) fn extent(&self) -> impl Iterator<Item = f64> {
        (0..self.values.len()).filter_map(|c| Some((self.value(c)?, self.reach(c)))).flat_map(
            |(value, reach)| {
                let reach = reach.unwrap_or(0.0);
                [value, value - reach, value + reach]
            },
        )
    }
}

/// A chart in words and numbers, not yet in places.
pub(crate) struct Plot {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) caption: String,
    pub(crate) room: Room,
    pub(crate) mark: Mark,
    pub(crate) columns: usize,
    /// What a column is: "layer".
    pub(crate) column: &'static str,
    /// What the columns are, under the axis.
    pub(crate) x_caption: &'static str,
    /// The quantity and its unit.
    pub(crate) y_caption: String,
    pub(crate) y: Scale,
    pub(crate) series: Vec<Series>,
    /// A line across the chart, with its meaning.
    pub(crate) threshold: Option<(f64, String)>,
}

/// The rectangle that values are drawn in.
struct Area {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
    columns: usize,
}

impl Area {
    fn column_width(&self) -> f64 {
        self.width / self.columns.max(1) as f64
    }

    fn x(&self, column: usize) -> f64 {
        self.left + (column as f64 + 0.5) * self.column_width()
    }

    fn y(&self, place: f64) -> f64 {
        self.top + (1.0 - place) * self.height
    }

    fn bottom(&self) -> f64 {
        self.top + self.height
    }
}

impl Plot {
    pub(crate) fn draw(self) -> Drawing {
        let (title, caption) = (self.title.clone(), self.caption.clone());
        Drawing::new(self.name.clone(), title, caption, self.room, |width| self.sketch(width))
    }

    fn sketch(&self, width: f64) -> Sketch {
        let (y_caption, below) = axis_caption(&self.y_caption, self.y.note(), width);
        let (legend, rows) = self.legend(width, below + ROW + 2.0);
        let left = LEFT.max(beside(self.y.digits()));
        let area = Area {
            top: below + ROW * rows as f64 + 18.0,
            left,
            width: width - left - RIGHT,
            height: if self.room == Room::Row { 270.0 } else { 200.0 },
            columns: self.columns,
        };
        let body = html! {
            (y_caption)
            (legend)
            (self.grid(&area))
            @match self.mark {
                Mark::Bars => (self.bars(&area)),
                Mark::Line => (self.lines(&area)),
            }
            (self.threshold(&area))
            line.axis x1=(area.left) x2=(area.left + area.width) y1=(self.ground(&area)) y2=(self.ground(&area)) {}
            (column_ticks(self.columns, self.x_caption, area.left, area.width, area.bottom()))
            (self.idle_marks(&area))
            @if width > NARROW { (self.hover(&area)) }
        };
        Sketch { height: area.bottom() + BELOW, body }
    }

    /// Where the horizontal axis is drawn: at zero if the chart shows it.
    fn ground(&self, area: &Area) -> f64 {
        px(area.y(self.y.baseline()))
    }

    fn grid(&self, area: &Area) -> Markup {
        html! {
            @for tick in self.y.ticks() {
                @let y = px(area.y(tick.at));
                line.grid.faint[tick.label.is_none()] x1=(area.left) x2=(area.left + area.width) y1=(y) y2=(y) {}
                @if let Some(label) = tick.label {
                    text.tick.end x=(area.left - 8.0) y=(px(y + 4.2)) { (label) }
                }
            }
        }
    }

    fn lines(&self, area: &Area) -> Markup {
        let radius = px((area.column_width() * 0.16).clamp(0.0, 3.0));
        html! {
            @for series in &self.series {
                @let look = series.look();
                path class=(format!("line {look}")) d=(self.path(series, area)) {}
                @for (x, y) in self.points(series, area).into_iter().flatten() {
                    @if radius >= 1.2 || self.columns < 3 {
                        circle class=(format!("dot {look}")) cx=(px(x)) cy=(px(y)) r=(radius.max(1.2)) {}
                    }
                }
                (self.whiskers(series, area, 0.0))
            }
        }
    }

    fn points(&self, series: &Series, area: &Area) -> Vec<Option<(f64, f64)>> {
        let point = |c| Some((area.x(c), area.y(self.y.place(series.value(c)?)?)));
        (0..self.columns).map(point).collect()
    }

    /// One stroke for each run of values that are there.
    fn path(&self, series: &Series, area: &Area) -> String {
        let mut path = String::new();
        let mut pen_down = false;
        for point in self.points(series, area) {
            if let Some((x, y)) = point {
                let step = if pen_down { 'L' } else { 'M' };
                let _ = write!(path, "{step}{} {}", px(x), px(y));
            }
            pen_down = point.is_some();
        }
        path
    }

    fn bars(&self, area: &Area) -> Markup {
        let width = self.bar_width(area);
        let ground = area.y(self.y.baseline());
        html! {
            @for (at, series) in self.series.iter().enumerate() {
                @let shift = self.shift(at, area);
                @for (column, point) in self.points(series, area).into_iter().enumerate() {
                    @if let Some((x, y)) = point {
                        rect class=(self.bar_look(series, column, width))
                            x=(px(x + shift - width / 2.0)) y=(px(y.min(ground)))
                            width=(px(width)) height=(px((y - ground).abs()).max(0.75)) {}
                    }
                }
                (self.whiskers(series, area, shift))
            }
        }
    }

    fn bar_width(&self, area: &Area) -> f64 {
        let count = self.series.len().max(1) as f64;
        let share = if count > 1.0 { 0.8 } else { 0.72 };
        (area.column_width() * share / count).min(WIDEST)
    }

    /// How far the bars of a series stand from the middle of their columns.
    fn shift(&self, series: usize, area: &Area) -> f64 {
        (series as f64 - (self.series.len() as f64 - 1.0) / 2.0) * self.bar_width(area)
    }

    fn bar_look(&self, series: &Series, column: usize, width: f64) -> String {
        let idle = match (series.idle.contains(&column), self.series.len()) {
            (false, _) => "",
            (true, 1) => " idle",
            (true, _) => " hollow",
        };
        let thin = if width < THIN { " thin" } else { "" };
        format!("bar {}{idle}{thin}", series.look())
    }

    /// Two standard errors to either side.
    fn whiskers(&self, series: &Series, area: &Area, shift: f64) -> Markup {
        let ends = |column: usize| -> Option<(f64, f64, f64)> {
            let (value, reach) = (series.value(column)?, series.reach(column)?);
            let low = self.y.place(value - reach).unwrap_or(0.0);
            Some((area.x(column) + shift, area.y(self.y.place(value + reach)?), area.y(low)))
        };
        html! {
            @for (x, high, low) in (0..self.columns).filter_map(ends) {
                line.whisker.thin[area.column_width() < 2.0 * THIN] x1=(px(x)) x2=(px(x)) y1=(px(high)) y2=(px(low)) {}
            }
        }
    }

    fn threshold(&self, area: &Area) -> Markup {
        let place = self.threshold.as_ref().and_then(|(value, _)| self.y.place(*value));
        html! {
            @if let Some(y) = place.map(|place| px(area.y(place))) {
                line.threshold x1=(area.left) x2=(area.left + area.width) y1=(y) y2=(y) {}
            }
        }
    }

    /// A dot under each idle bar: bars near zero are hard to see, and colour alone should not tell.
    fn idle_marks(&self, area: &Area) -> Markup {
        let radius = px((self.bar_width(area) * 0.45).clamp(0.7, 3.0));
        html! {
            @for (at, series) in self.series.iter().enumerate() {
                @let hue = if self.series.len() == 1 { 1 } else { series.hue % HUES };
                @for column in series.idle.iter().filter(|column| **column < self.columns) {
                    circle class=(format!("idle-mark h{hue}")) r=(radius) cy=(px(area.bottom() + 6.0))
                        cx=(px(area.x(*column) + self.shift(at, area))) {}
                }
            }
        }
    }

    /// The whole column answers to the pointer, with every value in it.
    fn hover(&self, area: &Area) -> Markup {
        let width = area.column_width();
        html! {
            @for column in 0..self.columns {
                rect.column x=(px(area.x(column) - width / 2.0)) y=(area.top)
                    width=(px(width)) height=(px(area.height)) {
                    title { (self.told(column)) }
                }
            }
        }
    }

    fn told(&self, column: usize) -> String {
        let mut text = format!("{} {column}", self.column);
        for series in &self.series {
            if let Some(value) = series.value(column) {
                let idle = if series.idle.contains(&column) { " (idle)" } else { "" };
                let value = measured(value, series.stderr(column));
                let model =
                    series.model.iter().map(|model| format!("{model}, ")).collect::<String>();
                let _ = write!(text, "\n{model}{}: {value}{idle}", series.quantity);
            }
        }
        text
    }

    /// The legend and how many rows it takes: colours for models, if there are several, and strokes
    /// for quantities, if there are several.
    fn legend(&self, width: f64, top: f64) -> (Markup, usize) {
        let mut entries: Vec<(String, Markup)> = Vec::new();
        for (at, series) in self.series.iter().enumerate() {
            let known = self.series[..at].iter().any(|earlier| earlier.hue == series.hue);
            if let Some(model) = series.model.as_ref().filter(|_| !known) {
                entries.push((model.clone(), self.swatch(&format!("h{} v0", series.hue % HUES))));
            }
        }
        let several = self.series.iter().any(|series| series.variant != self.series[0].variant);
        for (at, series) in self.series.iter().enumerate() {
            let known = self.series[..at].iter().any(|other| other.variant == series.variant);
            let look = match series.model {
                Some(_) => format!("any v{}", series.variant),
                None => series.look(),
            };
            if !known && (several || series.model.is_none()) {
                entries.push((series.quantity.clone(), self.swatch(&look)));
            }
        }
        if self.series.iter().any(|series| !series.idle.is_empty()) {
            let look = if self.series.len() == 1 { "idle" } else { "hollow any" };
            entries.push((IDLE_BARS.to_owned(), bar_swatch(look)));
        }
        entries.extend(self.threshold.iter().map(|(_, meaning)| threshold_entry(meaning)));
        if entries.len() < 2 && self.series.iter().all(|series| series.model.is_none()) {
            return (html! {}, 0);
        }
        flow(entries, width, top)
    }

    fn swatch(&self, look: &str) -> Markup {
        html! {
            @match self.mark {
                Mark::Line => { path class=(format!("line {look}")) d="M1 -4H23" {} }
                Mark::Bars => (bar_swatch(look)),
            }
        }
    }
}

/// What the colour of an idle layer's bar means.
pub(crate) const IDLE_BARS: &str = "idle, also dotted under the axis";

pub(crate) fn bar_swatch(look: &str) -> Markup {
    html! { rect class=(format!("bar {look}")) x="1" y="-10" width="22" height="11" {} }
}

/// The line across the chart and its meaning, for a legend.
pub(crate) fn threshold_entry(meaning: &str) -> (String, Markup) {
    (meaning.to_owned(), html! { path.threshold d="M1 -4H23" {} })
}

/// Sets swatches with their words in rows of `width`, the first around `top`; also says how many rows.
pub(crate) fn flow(entries: Vec<(String, Markup)>, width: f64, top: f64) -> (Markup, usize) {
    let (mut x, mut row) = (0.0, 0);
    let mut places = Vec::new();
    for (label, _) in &entries {
        let wide = 30.0 + label.width() as f64 * CHARACTER + 22.0;
        if x > 0.0 && x + wide - 22.0 > width {
            (x, row) = (0.0, row + 1);
        }
        places.push((x, top + ROW * row as f64));
        x += wide;
    }
    let rows = if entries.is_empty() { 0 } else { row + 1 };
    let markup = html! {
        @for ((label, swatch), (x, y)) in entries.iter().zip(places) {
            g.legend transform=(format!("translate({} {})", px(x), px(y))) {
                (swatch)
                text x="30" y="0" { (label) }
            }
        }
    };
    (markup, rows)
}

/// Numbers under the columns, as many as have room, and what they count.
pub(crate) fn column_ticks(columns: usize, caption: &str, left: f64, width: f64, y: f64) -> Markup {
    let each = width / columns.max(1) as f64;
    html! {
        @for column in (0..columns).step_by(tick_step(columns, each, 24.0)) {
            text.tick.middle x=(px(left + (column as f64 + 0.5) * each)) y=(px(y + 24.0)) { (column) }
        }
        text.quiet.middle x=(px(left + width / 2.0)) y=(px(y + 43.0)) { (caption) }
    }
}

/// The least of 1, 2, 5, 10 … columns that leaves `room` for a number.
pub(crate) fn tick_step(columns: usize, each: f64, room: f64) -> usize {
    let steps = (0..).flat_map(|k| [1, 2, 5].map(|step| step * 10usize.pow(k)));
    let mut steps = steps.take_while(|step| *step < columns);
    steps.find(|step| *step as f64 * each >= room).unwrap_or(columns.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_thinned_to_what_has_room() {
        assert_eq!(tick_step(30, 29.0, 24.0), 1);
        assert_eq!(tick_step(30, 13.0, 24.0), 2);
        assert_eq!(tick_step(200, 4.4, 24.0), 10);
        assert_eq!(tick_step(1, 880.0, 24.0), 1);
        assert_eq!(tick_step(0, 880.0, 24.0), 1);
        assert_eq!(tick_step(100_000, 0.01, 24.0), 5000);
    }
}
