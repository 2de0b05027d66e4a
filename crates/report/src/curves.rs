//! Lines over numbers: training steps or depth. Each line is the mean of several runs with a band over
//! what they span, and carries its name at its end, so that ten of them stay apart without a legend.

use std::fmt::Write;

use maud::{Markup, html};
use unicode_width::UnicodeWidthStr;

use crate::drawing::{Drawing, NARROW, Room, Sketch, axis_caption, beside, px};
use crate::number::grouped;
use crate::palette::HUES;
use crate::scale::Scale;
use crate::text::shortened;

/// Room beside the axis, or more where its numbers need it.
const LEFT: f64 = 52.0;
const RIGHT: f64 = 10.0;
const BELOW: f64 = 46.0;
/// A character's mean width, in the font of [`crate::drawing`].
const CHARACTER: f64 = 7.2;
/// Distance from one name to the next below it.
const PITCH: f64 = 16.0;
/// Distance from one name to the next where names stand below the chart.
const NAME_BELOW: f64 = 19.0;
/// Between the chart and a name: the leader, then a piece of the line.
const SWATCH: f64 = 42.0;
/// Places the pointer can be in; more than these could not be told apart.
const COLUMNS: usize = 240;

/// How a group is drawn everywhere: its colour, and its stroke, so that colour is never alone in
/// telling groups apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) hue: usize,
    pub(crate) dash: usize,
    /// Whether it is one of the two that a reader came for.
    pub(crate) strong: bool,
}

impl Look {
    fn line(self) -> String {
        let weight = if self.strong { "strong" } else { "slim" };
        format!("line h{} v{} {weight}", self.hue % HUES, self.dash)
    }

    pub(crate) fn filled(self, mark: &str) -> String {
        format!("{mark} h{}", self.hue % HUES)
    }

    /// A piece of its line, 22 long, around y = 0.
    pub(crate) fn swatch(self) -> Markup {
        html! { path class=(self.line()) d="M1 0H23" {} }
    }
}

/// A mean and what it is the mean of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Point {
    pub(crate) x: u64,
    pub(crate) mean: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) runs: usize,
}

/// A point's values on the axis, 0 to 1 inside the chart.
#[derive(Debug, Clone, Copy)]
struct Places {
    low: f64,
    mean: f64,
    high: f64,
}

/// The points of one group, in the order of x.
#[derive(Debug, Clone)]
pub(crate) struct Curve {
    pub(crate) label: String,
    pub(crate) look: Look,
    pub(crate) points: Vec<Point>,
    /// Whether the runs behind it were lost at its end.
    pub(crate) lost: bool,
}

/// A chart in words and numbers, not yet in places.
pub(crate) struct Curves {
    pub(crate) name: &'static str,
    pub(crate) title: String,
    pub(crate) caption: String,
    pub(crate) room: Room,
    /// What x counts: "step".
    pub(crate) column: &'static str,
    pub(crate) x_caption: String,
    pub(crate) y_caption: String,
    pub(crate) x: Scale,
    pub(crate) y: Scale,
    pub(crate) curves: Vec<Curve>,
    /// A line across the chart, with its meaning.
    pub(crate) level: Option<(f64, String)>,
    pub(crate) write: fn(f64) -> String,
}

/// The rectangle that values are drawn in.
struct Area {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

/// A line's name at its end.
struct Name {
    text: String,
    /// `None` for the line across the chart.
    look: Option<Look>,
    /// Where the line ends.
    end: (f64, f64),
    y: f64,
}

impl Name {
    /// A piece of the line and its name, from `x` on around `y`.
    fn draw(&self, x: f64, y: f64) -> Markup {
        html! {
            g.legend transform=(format!("translate({} {y})", px(x))) {
                @match self.look {
                    Some(look) => (look.swatch()),
                    None => { path.threshold d="M1 0H23" {} }
                }
            }
            text x=(px(x + SWATCH - 14.0)) y=(px(y + 4.2)) { (self.text) }
        }
    }
}

impl Area {
    fn right(&self) -> f64 {
        self.left + self.width
    }

    fn bottom(&self) -> f64 {
        self.top + self.height
    }

    fn x(&self, place: f64) -> f64 {
        self.left + place * self.width
    }

    /// What lies outside is drawn on the edge.
    fn y(&self, place: f64) -> f64 {
        self.top + (1.0 - place.clamp(0.0, 1.0)) * self.height
    }
}

impl Curves {
    pub(crate) fn draw(self) -> Drawing {
        let (title, caption) = (self.title.clone(), self.caption.clone());
        Drawing::new(self.name, title, caption, self.room, |width| self.sketch(width))
    }

    fn sketch(&self, width: f64) -> Sketch {
        let texts: Vec<String> = self.curves.iter().map(|curve| self.name_of(curve)).collect();
        let level = self.level.iter().map(|(_, meaning)| meaning.width());
        let widest = texts.iter().map(|text| text.width()).chain(level).max().unwrap_or(0);
        // Beside a narrow chart there is no room for names: they stand below it, in the same order.
        let wide = width > NARROW;
        let names = if wide { SWATCH + widest as f64 * CHARACTER } else { RIGHT };
        let least = if self.room == Room::Row { 320.0 } else { 250.0 };
        let (y_caption, below) = axis_caption(&self.y_caption, self.y.note(), width);
        let left = LEFT.max(beside(self.y.digits()));
        let area = Area {
            top: below + 16.0,
            left,
            width: width - left - names,
            height: if wide { (PITCH * (texts.len() + 1) as f64).max(least) } else { 250.0 },
        };
        let body = html! {
            (y_caption)
            (self.grid(&area))
            @if let Some((y, _)) = self.level(&area) {
                line.threshold x1=(area.left) x2=(px(area.right())) y1=(px(y)) y2=(px(y)) {}
            }
            @for curve in &self.curves { (self.band(curve, &area)) }
            @for curve in &self.curves { (self.line(curve, &area)) }
            line.axis x1=(area.left) x2=(px(area.right())) y1=(area.bottom()) y2=(area.bottom()) {}
            (self.x_ticks(&area))
        };
        let names = self.ends(texts, &area);
        if wide {
            let body = html! { (body) (beside_ends(names, &area)) (self.hover(&area)) };
            return Sketch { height: area.bottom() + BELOW, body };
        }
        let top = area.bottom() + BELOW + PITCH;
        let body = html! {
            (body)
            @for (at, name) in names.iter().enumerate() {
                (name.draw(area.left, px(top + NAME_BELOW * at as f64)))
            }
        };
        Sketch { height: top + NAME_BELOW * names.len() as f64, body }
    }

    fn grid(&self, area: &Area) -> Markup {
        html! {
            @for tick in self.y.ticks() {
                @let y = px(area.y(tick.at));
                line.grid.faint[tick.label.is_none()] x1=(area.left) x2=(px(area.right())) y1=(y) y2=(y) {}
                @if let Some(label) = tick.label {
                    text.tick.end x=(area.left - 8.0) y=(px(y + 4.2)) { (label) }
                }
            }
        }
    }

    /// Numbers under the axis, as many as have room.
    fn x_ticks(&self, area: &Area) -> Markup {
        let bottom = area.bottom();
        let mut free = 0.0;
        let mut label = |x: f64, label: Option<String>| {
            let half = label.as_ref()?.width() as f64 * CHARACTER / 2.0;
            (x - half >= free).then(|| free = x + half + CHARACTER)?;
            label
        };
        html! {
            @for tick in self.x.ticks() {
                @let x = px(area.x(tick.at));
                line.axis x1=(x) x2=(x) y1=(bottom) y2=(bottom + 4.0) {}
                @if let Some(label) = label(x, tick.label) {
                    text.tick.middle x=(x) y=(px(bottom + 20.0)) { (label) }
                }
            }
            text.quiet.middle x=(px(area.left + area.width / 2.0)) y=(px(bottom + 40.0)) { (self.x_caption) }
        }
    }

    /// Where the line across the chart is, if that is inside.
    fn level(&self, area: &Area) -> Option<(f64, &str)> {
        let (value, meaning) = self.level.as_ref()?;
        let place = self.y.place(*value).filter(|place| (0.0..=1.0).contains(place))?;
        Some((area.y(place), meaning))
    }

    /// Runs of neighbouring points that have a place, each as x and the places of its three values.
    fn stretches(&self, curve: &Curve, area: &Area) -> Vec<Vec<(f64, Places)>> {
        /// Farther outside the chart than this is as far.
        const FAR: f64 = 1e6;
        let place = |value: f64| self.y.place(value).map(|place| place.clamp(-FAR, FAR));
        let placed = |point: &Point| {
            let x = self.x.place(point.x as f64).filter(|x| (-1e-9..=1.0 + 1e-9).contains(x))?;
            let mean = place(point.mean)?;
            // A low end that a logarithmic axis cannot hold lies below it.
            let low = place(point.low).unwrap_or(-FAR);
            Some((area.x(x), Places { low, mean, high: place(point.high).unwrap_or(mean) }))
        };
        let mut stretches = vec![];
        let mut stretch = vec![];
        for point in &curve.points {
            match placed(point) {
                Some(placed) => stretch.push(placed),
                None => stretches.push(std::mem::take(&mut stretch)),
            }
        }
        stretches.push(stretch);
        stretches.retain(|stretch| !stretch.is_empty());
        stretches
    }

    fn line(&self, curve: &Curve, area: &Area) -> Markup {
        let stretches = self.stretches(curve, area);
        let mut path = String::new();
        for stretch in &stretches {
            let mut pen_down = false;
            for (x, place) in crossing_edges(stretch, |places| places.mean) {
                let inside = (0.0..=1.0).contains(&place);
                if inside {
                    let step = if pen_down { 'L' } else { 'M' };
                    let _ = write!(path, "{step}{} {}", px(x), px(area.y(place)));
                }
                pen_down = inside;
            }
        }
        let alone = stretches.iter().filter(|stretch| stretch.len() == 1).map(|stretch| stretch[0]);
        let seen = |(_, places): &(f64, Places)| (0.0..=1.0).contains(&places.mean);
        let end = stretches.last().and_then(|stretch| stretch.last()).copied();
        html! {
            @if !path.is_empty() { path class=(curve.look.line()) d=(path) {} }
            @for (x, places) in alone.filter(seen) {
                circle class=(curve.look.filled("dot")) cx=(px(x)) cy=(px(area.y(places.mean))) r="3" {}
            }
            @if let Some((x, places)) = end.filter(seen).filter(|_| curve.lost) {
                @let (x, y) = (px(x - 4.0), px(area.y(places.mean) - 4.0));
                path.lost d=(format!("M{x} {y}l8 8m0 -8l-8 8")) {}
            }
        }
    }

    /// Nothing where one run gives no span.
    fn band(&self, curve: &Curve, area: &Area) -> Markup {
        let several = curve.points.iter().any(|point| point.runs > 1);
        let mut path = String::new();
        for stretch in self.stretches(curve, area).iter().filter(|_| several) {
            let high = crossing_edges(stretch, |places| places.high);
            let low = crossing_edges(stretch, |places| places.low);
            for (at, (x, place)) in high.chain(low.rev()).enumerate() {
                let step = if at == 0 { 'M' } else { 'L' };
                let _ = write!(path, "{step}{} {}", px(x), px(area.y(place)));
            }
            path.push('Z');
        }
        html! {
            @if !path.is_empty() { path class=(curve.look.filled("band")) d=(path) {} }
        }
    }

    /// What stands at the end of a line: the group, its last value, and where it went if it left.
    fn name_of(&self, curve: &Curve) -> String {
        let name = shortened(&curve.label, if self.room == Room::Row { 32 } else { 20 });
        let Some(last) = curve.points.last() else { return name };
        let away = match self.y.place(last.mean) {
            Some(place) if place > 1.0 => " ↑",
            Some(place) if place < 0.0 => " ↓",
            _ => "",
        };
        format!("{name} {}{away}", (self.write)(last.mean))
    }

    /// The lines' names, in the order of their ends from above.
    fn ends(&self, texts: Vec<String>, area: &Area) -> Vec<Name> {
        let end = |curve: &Curve| {
            let stretches = self.stretches(curve, area);
            let (x, places) = stretches.last()?.last()?;
            Some((*x, area.y(places.mean)))
        };
        let named = self.curves.iter().zip(texts).filter_map(|(curve, text)| {
            let end = end(curve)?;
            Some(Name { text, look: Some(curve.look), end, y: end.1 })
        });
        let level = self.level(area).map(|(y, meaning)| Name {
            text: meaning.to_owned(),
            look: None,
            end: (area.right(), y),
            y,
        });
        let mut names: Vec<Name> = named.chain(level).collect();
        names.sort_by(|a, b| a.y.total_cmp(&b.y));
        names
    }

    /// The strip around each x answers to the pointer, with every value there.
    fn hover(&self, area: &Area) -> Markup {
        let mut all: Vec<u64> = self.curves.iter().flat_map(|c| &c.points).map(|p| p.x).collect();
        all.sort_unstable();
        all.dedup();
        let every = all.len() / COLUMNS + 1;
        let placed = all.iter().step_by(every).filter_map(|x| {
            let place = self.x.place(*x as f64).filter(|at| (0.0..=1.0 + 1e-9).contains(at))?;
            Some((*x, area.x(place)))
        });
        let columns: Vec<(u64, f64)> = placed.collect();
        let middle = |a: usize, b: usize| match (columns.get(a), columns.get(b)) {
            (Some(a), Some(b)) => (a.1 + b.1) / 2.0,
            (None, _) => area.left,
            (_, None) => area.right(),
        };
        html! {
            @for at in 0..columns.len() {
                @let (left, right) = (middle(at.wrapping_sub(1), at), middle(at, at + 1));
                rect.column x=(px(left)) y=(area.top) width=(px((right - left).max(0.0))) height=(px(area.height)) {
                    title { (self.told(columns[at].0)) }
                }
            }
        }
    }

    /// The groups in the order in which the chart shows them there, from above.
    fn told(&self, x: u64) -> String {
        let there = self.curves.iter().filter_map(|curve| {
            let at = curve.points.binary_search_by_key(&x, |point| point.x).ok()?;
            Some((curve, curve.points[at]))
        });
        let mut there: Vec<(&Curve, Point)> = there.collect();
        there.sort_by(|a, b| b.1.mean.total_cmp(&a.1.mean));
        let mut text = format!("{} {}", self.column, grouped(x));
        for (curve, point) in there {
            let _ = write!(text, "\n{}: {}", curve.label, (self.write)(point.mean));
            if point.runs > 1 {
                let (low, high) = ((self.write)(point.low), (self.write)(point.high));
                let _ = write!(text, " ({low} to {high}, {} seeds)", point.runs);
            }
        }
        text
    }
}

/// The same way with a point wherever it crosses an edge of the chart, so that what is outside can be
/// left away without bending what is inside.
fn crossing_edges(
    stretch: &[(f64, Places)],
    read: fn(&Places) -> f64,
) -> impl DoubleEndedIterator<Item = (f64, f64)> {
    let mut way: Vec<(f64, f64)> = Vec::new();
    for (x, places) in stretch {
        let (x, place) = (*x, read(places));
        if let Some((x_before, before)) = way.last().copied() {
            let edges = if before < place { [0.0, 1.0] } else { [1.0, 0.0] };
            let (low, high) = (before.min(place), before.max(place));
            for edge in edges.into_iter().filter(|edge| low < *edge && *edge < high) {
                let part = (edge - before) / (place - before);
                way.push((x_before + part * (x - x_before), edge));
            }
        }
        way.push((x, place));
    }
    way.into_iter()
}

/// Each name beside the end of its line, as near as the others let it.
fn beside_ends(mut names: Vec<Name>, area: &Area) -> Markup {
    spread_out(&mut names, area);
    let right = area.right();
    html! {
        @for name in &names {
            @let y = px(name.y);
            @if name.end.0 > right - 1.0 {
                path.leader d=(format!("M{} {}L{} {y}", px(right), px(name.end.1), px(right + 10.0))) {}
            }
            (name.draw(right + 10.0, y))
        }
    }
}

/// Moves names, sorted from above, apart until none covers another, keeping their order and the chart's height.
fn spread_out(names: &mut [Name], area: &Area) {
    let mut least = area.top + 4.0;
    for name in names.iter_mut() {
        name.y = name.y.max(least);
        least = name.y + PITCH;
    }
    let mut most = area.bottom();
    for name in names.iter_mut().rev() {
        name.y = name.y.min(most);
        most = name.y - PITCH;
    }
}

/// Whether a chart's range of y holds zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Zero {
    /// It does, because the values are differences.
    Held,
    /// It need not.
    Free,
}

/// The range of y in which the ends of most lines can be told apart: what they do from `from` on, and from
/// the last point before it, so that no line is out of sight there. Lines that end far from the others are
/// left out.
pub(crate) fn window(curves: &[Curve], from: u64, zero: Zero) -> Option<(f64, f64)> {
    /// Ends closer than this, in nats per token, are shown together in any case.
    const NEAR: f64 = 0.25;
    /// … and ends within so many times the typical distance from the middle one.
    const TYPICAL: f64 = 8.0;
    /// Nothing is cut off a chart that the whole would make only so many times as high.
    const WHOLE: f64 = 2.0;
    let ends: Vec<f64> = curves.iter().filter_map(|c| Some(c.points.last()?.mean)).collect();
    let middle = median(ends.clone())?;
    let typical = median(ends.iter().map(|end| (end - middle).abs()).collect())?;
    let limit = (typical * TYPICAL).max(NEAR);
    let near =
        |curve: &&Curve| curve.points.last().is_some_and(|p| (p.mean - middle).abs() <= limit);
    let kept: Vec<&Curve> = curves.iter().filter(near).collect();
    // A short run is measured a few times only: between two points its line would enter the chart late.
    let entry = |curve: &&Curve| {
        let before = curve.points.iter().map(|point| point.x).filter(|x| *x <= from);
        before.max().unwrap_or(0)
    };
    let from = kept.iter().map(entry).min().unwrap_or(0);
    let range = |from: u64| {
        let points = || kept.iter().flat_map(|curve| &curve.points).filter(|point| point.x >= from);
        let start = match zero {
            Zero::Held => 0.0,
            Zero::Free => f64::INFINITY,
        };
        let low = points().map(|point| point.low).fold(start, f64::min);
        let high = points().map(|point| point.high).fold(-start, f64::max);
        (low, high)
    };
    let (all, late) = (range(0), range(from));
    let (low, high) = if all.1 - all.0 <= (late.1 - late.0) * WHOLE { all } else { late };
    let room = (high - low) * 0.04;
    Some((low - room, high + room))
}

/// The upper one of an even number.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Look = Look { hue: 0, dash: 0, strong: false };

    fn curve(values: &[f64]) -> Curve {
        let point =
            |(x, v): (usize, &f64)| Point { x: x as u64, mean: *v, low: *v, high: *v, runs: 1 };
        let points = values.iter().enumerate().map(point).collect();
        Curve { label: String::new(), look: LOOK, points, lost: false }
    }

    #[test]
    fn a_line_that_leaves_the_chart_is_cut_where_it_leaves() {
        let way = |means: &[f64]| -> Vec<(f64, f64)> {
            let places =
                |(x, mean): (usize, &f64)| (x as f64, Places { low: 0.0, mean: *mean, high: 0.0 });
            let stretch: Vec<_> = means.iter().enumerate().map(places).collect();
            crossing_edges(&stretch, |places| places.mean).collect()
        };
        assert_eq!(
            way(&[0.5, 2.5, -1.5]),
            [(0.0, 0.5), (0.25, 1.0), (1.0, 2.5), (1.375, 1.0), (1.625, 0.0), (2.0, -1.5)]
        );
        assert_eq!(way(&[9.0]), [(0.0, 9.0)]);
    }

    #[test]
    fn names_move_apart_and_stay_on_the_chart() {
        let area = Area { left: LEFT, top: 30.0, width: 100.0, height: 64.0 };
        let name = |y| Name { text: String::new(), look: None, end: (0.0, y), y };
        let mut names = [30.0, 92.0, 93.0, 94.0].map(name);
        spread_out(&mut names, &area);
        assert_eq!(names.map(|name| name.y), [34.0, 62.0, 78.0, 94.0]);
    }

    #[test]
    fn the_window_holds_the_ends_and_not_the_start_nor_a_stranger() {
        let curves = [curve(&[9.0, 5.0, 4.1]), curve(&[9.0, 5.1, 4.0]), curve(&[9.0, 8.0, 7.5])];
        let (low, high) = window(&curves, 1, Zero::Free).unwrap();
        assert!((3.9..4.0).contains(&low) && (5.1..5.2).contains(&high), "{low} {high}");
        let (low, high) = window(&[curve(&[0.3, 0.2])], 0, Zero::Held).unwrap();
        assert!(low < 0.0 && (0.3..0.32).contains(&high));
        let (low, high) =
            window(&[curve(&[0.04, 0.03, 0.0]), curve(&[0.0, -0.02])], 1, Zero::Held).unwrap();
        assert!(low < -0.02 && high > 0.04, "the start is near enough: {low} {high}");
        assert_eq!(window(&[], 0, Zero::Free), None);
    }

    #[test]
    fn a_line_with_few_points_is_in_sight_from_a_quarter_of_its_run_on() {
        let at = |(x, v): (u64, f64)| Point { x, mean: v, low: v, high: v, runs: 1 };
        let points = [(0, 7.7), (48, 6.1), (60, 6.0)].map(at).to_vec();
        let short = Curve { label: String::new(), look: LOOK, points, lost: false };
        let (_, high) = window(&[short], 15, Zero::Free).unwrap();
        assert!(high > 7.7, "the whole run is shown: {high}");
    }
}
