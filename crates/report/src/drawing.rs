//! One SVG drawing, inside the page or as a file of its own.

use maud::{Markup, PreEscaped, html};
use unicode_width::UnicodeWidthStr;

use crate::palette;
use crate::text::shortened;

/// What every mark looks like; `$name` is an ink of the palette.
const RULES: &str = "\
.chart text{font:12.5px system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;fill:$ink}\
.chart .heading{font-size:17px;font-weight:650}\
.chart .quiet{fill:$muted}\
.chart .end{text-anchor:end}\
.chart .haloed{paint-order:stroke;stroke:$paper;stroke-width:4px}\
.chart .middle{text-anchor:middle}\
.chart .tick{fill:$muted;font-variant-numeric:tabular-nums}\
.grid{stroke:$rule;stroke-width:1}\
.grid.faint{stroke-opacity:.45}\
.axis{stroke:$axis;stroke-width:1}\
.threshold{stroke:$ink;stroke-width:1.25;stroke-dasharray:2 3}\
.whisker{stroke:$ink;stroke-width:1.1;stroke-opacity:.75}\
.line{fill:none;stroke-width:2.1;stroke-linejoin:round;stroke-linecap:round}\
.line.v1{stroke-dasharray:6 5}\
.line.v2{stroke-dasharray:1.5 4.5}\
.line.v3{stroke-dasharray:9 4 1.5 4}\
.bar.v1,.bar.hollow{fill-opacity:.38;stroke-width:1}\
.bar.hollow{fill-opacity:.12}\
.bar.idle{fill:$hue1}\
.bar.thin{stroke-width:0}\
.whisker.thin{stroke-width:.6}\
.line.strong{stroke-width:2.8}\
.line.slim{stroke-width:1.6}\
.leader{fill:none;stroke:$axis;stroke-width:.8}\
.noise{fill:$hover}\
.interval{stroke:$ink;stroke-width:1.4}\
.interval-end{fill:$ink}\
.seed{fill-opacity:.5}\
.lost{stroke:$ink;stroke-width:1.5}\
.line.any,.bar.any{stroke:$muted}\
.bar.any{fill:$muted}\
.idle-mark{fill:$hue1}\
.column{fill:transparent}\
.column:hover{fill:$hover}\
.unknown{fill:$rule}\
.redundant{fill:$paper;stroke:$ink}\
.cells rect:hover{stroke:$ink;stroke-width:.12}";

/// The style sheet of all drawings, its colours set by [`palette::themed`] or [`palette::literal`].
pub(crate) fn rules(coloured: fn(&str) -> String) -> String {
    let hues = (0..palette::HUES).map(|hue| {
        format!(
            ".line.h{hue}{{stroke:$hue{hue}}}.dot.h{hue},.bar.h{hue},.idle-mark.h{hue}{{fill:$hue{hue}}}\
             .bar.h{hue}{{stroke:$hue{hue};stroke-width:0}}.band.h{hue}{{fill:$hue{hue};fill-opacity:.16}}"
        )
    });
    let rules = hues.collect::<String>() + RULES;
    coloured(&rules)
}

/// Room a drawing asks for on the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// A row of its own.
    Row,
    /// Half a row.
    Half,
}

impl Room {
    /// Width in the drawing's units, which are pixels where the page has the room.
    pub(crate) fn width(self) -> f64 {
        match self {
            Self::Row => 960.0,
            Self::Half => 472.0,
        }
    }
}

/// The width of a drawing on a phone, in its units: the words keep a size that can be read there.
pub(crate) const NARROW: f64 = 400.0;

/// One layout of a drawing.
pub(crate) struct Sketch {
    pub(crate) height: f64,
    pub(crate) body: Markup,
}

/// A finished drawing and the words that belong to it.
pub(crate) struct Drawing {
    /// File name without its ending; also the id on the page.
    pub(crate) name: String,
    pub(crate) title: String,
    /// What it shows and how to read it.
    pub(crate) caption: String,
    pub(crate) room: Room,
    pub(crate) wide: Sketch,
    /// [`NARROW`], for a phone.
    pub(crate) narrow: Sketch,
}

impl Drawing {
    /// Both layouts, of which the page's style sheet shows the one that can be read.
    pub(crate) fn new(
        name: impl Into<String>,
        title: String,
        caption: String,
        room: Room,
        sketch: impl Fn(f64) -> Sketch,
    ) -> Self {
        let (wide, narrow) = (sketch(room.width()), sketch(NARROW));
        Self { name: name.into(), title, caption, room, wide, narrow }
    }

    /// For the page, which has the style sheet, the heading and the caption.
    pub(crate) fn inline(&self) -> Markup {
        let narrow = format!("{}-narrow", self.name);
        html! {
            (self.svg("chart wide", &self.name, &self.wide, self.room.width(), 0.0, html! {}))
            (self.svg("chart narrow", &narrow, &self.narrow, NARROW, 0.0, html! {}))
        }
    }

    /// A file of its own: with its heading, its style sheet and its paper.
    pub(crate) fn standalone(&self) -> String {
        let paper = palette::literal(".chart>.paper{fill:$paper}");
        let extra = html! {
            style { (PreEscaped(rules(palette::literal))) (PreEscaped(paper)) }
            rect.paper x="-16" y="-52" width=(self.room.width() + 32.0) height=(self.wide.height + 64.0) rx="6" {}
            text.heading x="0" y="-20" { (self.title) }
        };
        let room = self.room.width();
        self.svg("chart", &self.name, &self.wide, room, 16.0, extra).into_string()
    }

    fn svg(
        &self,
        class: &str,
        name: &str,
        sketch: &Sketch,
        room: f64,
        margin: f64,
        extra: Markup,
    ) -> Markup {
        let (width, height) = (room + 2.0 * margin, sketch.height);
        let (above, below) = if margin > 0.0 { (52.0, 12.0) } else { (0.0, 0.0) };
        let (title, caption) = (format!("{name}-title"), format!("{name}-caption"));
        html! {
            svg class=(class) xmlns="http://www.w3.org/2000/svg" role="img"
                viewBox=(format!("{} {} {} {}", -margin, -above, width, height + above + below))
                width=(width) height=(height + above + below)
                aria-labelledby=(title) aria-describedby=(caption) {
                title id=(title) { (self.title) }
                desc id=(caption) { (self.caption) }
                (extra)
                (sketch.body)
            }
        }
    }
}

/// What an axis measures, above it: with its note on the same line, or below where that has no room. Also
/// says how far down it reaches.
pub(crate) fn axis_caption(caption: &str, note: Option<String>, width: f64) -> (Markup, f64) {
    /// A character's mean width in running text.
    const CHARACTER: f64 = 6.4;
    let room = (width / CHARACTER) as usize;
    let note = note.map(|note| format!("({note})"));
    let whole = note.iter().fold(caption.to_owned(), |text, note| format!("{text} {note}"));
    match note {
        Some(note) if whole.width() > room => (
            html! {
                text.quiet x="0" y="14" { (shortened(caption, room)) }
                text.quiet x="0" y="30" { (shortened(&note, room)) }
            },
            30.0,
        ),
        _ => (html! { text.quiet x="0" y="14" { (shortened(&whole, room)) } }, 14.0),
    }
}

/// A digit's width.
pub(crate) const DIGIT: f64 = 7.4;

/// Room for numbers of `digits` characters beside an axis.
pub(crate) fn beside(digits: usize) -> f64 {
    px(digits as f64 * DIGIT + 8.0)
}

/// A coordinate: two decimals are finer than any screen.
pub(crate) fn px(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
