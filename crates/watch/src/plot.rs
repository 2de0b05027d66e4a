//! Curves on a terminal: readable axes, linear or logarithmic, around ratatui's chart.

use ratatui::{
    Frame,
    layout::{HorizontalAlignment, Rect},
    style::{Color, Style},
    symbols::Marker,
    text::{Line, Span},
    widgets::{Axis, Block, BorderType, Borders, Chart, Dataset, GraphType, Paragraph},
};

use crate::format::{grouped, significant};

/// Okabe and Ito's colours, which colour-blind people tell apart, as the nearest ones of the 256 that
/// terminals have; readable on light and dark.
pub(crate) const SKY: Color = Color::Indexed(74);
pub(crate) const ORANGE: Color = Color::Indexed(172);
pub(crate) const GREEN: Color = Color::Indexed(36);
pub(crate) const PURPLE: Color = Color::Indexed(175);
pub(crate) const VERMILLION: Color = Color::Indexed(166);
pub(crate) const BLUE: Color = Color::Indexed(32);
/// The colour of what matters less.
pub(crate) const GREY: Color = Color::Indexed(245);

/// Larger numbers than this are a diverged run's and would flatten everything else.
const LARGEST: f64 = 1e30;

/// On [`Scale::Auto`], an axis is logarithmic when its ends are further apart than this.
const AUTO_RATIO: f64 = 30.0;

/// How the vertical axis is divided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Scale {
    #[default]
    Auto,
    Log,
    Linear,
}

/// A curve, in the units of its axes.
#[derive(Debug)]
pub(crate) struct Curve {
    /// The curve's name in the legend; without a name it is not listed.
    pub(crate) name: Option<String>,
    pub(crate) points: Vec<(f64, f64)>,
    pub(crate) colour: Color,
    /// Whether the points are joined by a line; otherwise each is a dot.
    pub(crate) joined: bool,
    /// Whether the vertical axis must hold all of it.
    pub(crate) framed: bool,
}

/// A framed chart.
#[derive(Debug)]
pub(crate) struct Plot<'a> {
    pub(crate) title: &'a str,
    /// What the horizontal axis counts.
    pub(crate) across: &'a str,
    pub(crate) curves: Vec<Curve>,
    pub(crate) scale: Scale,
    /// What to say while there are no points.
    pub(crate) empty: &'a str,
}

impl Plot<'_> {
    /// Draws it inside a [`panel`], which gets the title and, in its lower edge, the legend, where it
    /// hides no curve.
    pub(crate) fn draw(mut self, frame: &mut Frame, area: Rect, borders: Borders) {
        for curve in &mut self.curves {
            curve.points.retain(|(_, y)| y.abs() < LARGEST);
        }
        let framed = || self.curves.iter().filter(|curve| curve.framed).flat_map(|c| &c.points);
        let x_ends = ends(framed().map(|point| point.0));
        let y_ends = ends(framed().map(|point| point.1));
        let (Some([left, right]), Some([low, high])) = (x_ends, y_ends) else {
            let block = panel(borders).title(format!(" {} ", self.title));
            let empty = Paragraph::new(self.empty).style(GREY).centered();
            return frame.render_widget(empty.block(block), area);
        };
        let log = self.scale.is_log(low, high);
        let scale = if log { ", log scale" } else { "" };
        let mut block = panel(borders).title(format!(" {}{scale} ", self.title));
        if borders.contains(Borders::BOTTOM) {
            block = block.title_bottom(self.legend());
        }
        let inside = block.inner(area);
        for curve in &mut self.curves {
            if log {
                curve.points.retain(|point| point.1 > 0.0);
                curve.points.iter_mut().for_each(|point| point.1 = point.1.log10());
            }
            curve.points = thinned(&curve.points, 2 * usize::from(area.width));
        }
        let most_labels = usize::from(inside.height + 1) / 3;
        let (bounds, labels) = match log {
            true => log_axis(low, high, most_labels.clamp(2, 4)),
            false => linear_axis(low, high, most_labels.clamp(2, 7)),
        };
        let across = [left, (left + right) / 2.0, right];
        let across: Vec<_> = across.iter().map(|x| grouped(x.round() as u64)).collect();
        let across = axis([left, right.max(left + 1.0)], across).title(Line::from(self.across));
        let upward = axis(bounds, labels).labels_alignment(HorizontalAlignment::Right);
        let chart = Chart::new(self.curves.iter().map(Curve::dataset).collect());
        let chart = chart.legend_position(None).x_axis(across).y_axis(upward);
        frame.render_widget(chart.block(block), area);
    }

    fn legend(&self) -> Line<'static> {
        let entry = |curve: &Curve| {
            let sign = if curve.joined { "─" } else { "•" };
            let name = curve.name.as_ref()?;
            Some(Span::styled(format!(" {sign} {name} "), curve.colour))
        };
        self.curves.iter().filter_map(entry).collect()
    }
}

/// A frame around a part of the screen.
pub(crate) fn panel(borders: Borders) -> Block<'static> {
    Block::new().borders(borders).border_type(BorderType::Rounded).border_style(GREY)
}

impl Scale {
    fn is_log(self, low: f64, high: f64) -> bool {
        match self {
            _ if low <= 0.0 => false,
            Self::Auto => high / low > AUTO_RATIO,
            Self::Log => true,
            Self::Linear => false,
        }
    }
}

impl Curve {
    fn dataset(&self) -> Dataset<'_> {
        let (kind, marker) = match self.joined {
            true => (GraphType::Line, Marker::Braille),
            false => (GraphType::Scatter, Marker::Dot),
        };
        Dataset::default()
            .data(&self.points)
            .graph_type(kind)
            .marker(marker)
            .style(Style::new().fg(self.colour))
    }
}

fn axis<'a>(bounds: [f64; 2], labels: Vec<String>) -> Axis<'a> {
    Axis::default().style(GREY).bounds(bounds).labels(labels)
}

fn ends(values: impl Iterator<Item = f64>) -> Option<[f64; 2]> {
    values.fold(None, |ends, value| match ends {
        None => Some([value, value]),
        Some([low, high]) => Some([value.min(low), value.max(high)]),
    })
}

/// The ends of a linear axis and evenly spaced labels with round numbers: of the round steps that
/// need no more than `most` labels, the one that leaves least room unused. With two labels round
/// numbers would leave too much of it, so these are the ends themselves.
fn linear_axis(low: f64, high: f64, most: usize) -> ([f64; 2], Vec<String>) {
    let span = (high - low).max(high.abs().max(low.abs()) * 1e-3).max(1e-9);
    let power = 10_f64.powf((span / most as f64).log10().floor());
    let rounded = |factor: f64| {
        let step = factor * power;
        let (first, last) = ((low / step).floor(), (high / step).ceil());
        let last = last.max(first + 1.0);
        let labels = (last - first) as usize + 1;
        (labels <= most && most > 2).then_some((step, first, labels))
    };
    let unused = |&(step, _, labels): &(f64, f64, usize)| step * labels as f64 - step;
    let best = [1.0, 2.0, 2.5, 5.0, 10.0, 20.0, 25.0, 50.0]
        .into_iter()
        .filter_map(rounded)
        .min_by(|a, b| unused(a).total_cmp(&unused(b)));
    let Some((step, first, labels)) = best else {
        return ([low, low + span], [low, low + span].map(significant).to_vec());
    };
    let decimals = (0..6).find(|d| is_whole(step * 10_f64.powi(*d))).unwrap_or(6) as usize;
    let label = |i| match step * (first + f64::from(i)) {
        value if value.abs() < 1e5 => format!("{value:.decimals$}"),
        value => significant(value),
    };
    let last = first + (labels - 1) as f64;
    ([step * first, step * last], (0..labels as u32).map(label).collect())
}

fn is_whole(number: f64) -> bool {
    (number - number.round()).abs() < 1e-6 * number.abs().max(1e-3)
}

/// The ends of a logarithmic axis, as logarithms to the base 10, and evenly spaced labels.
fn log_axis(low: f64, high: f64, labels: usize) -> ([f64; 2], Vec<String>) {
    let low = low.log10();
    let span = (high.log10() - low).max(0.01);
    let value = |i| 10_f64.powf(low + span * i as f64 / (labels - 1) as f64);
    ([low, low + span], (0..labels).map(|i| significant(value(i))).collect())
}

/// About `most` of the points: of each stretch of the curve its lowest and its highest, so that no
/// spike is lost.
fn thinned(points: &[(f64, f64)], most: usize) -> Vec<(f64, f64)> {
    let length = (2 * points.len()).div_ceil(most.max(2));
    if length <= 2 {
        return points.to_vec();
    }
    let extremes = |stretch: &[(f64, f64)]| {
        let order = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let low = stretch.iter().min_by(order).copied();
        let high = stretch.iter().max_by(order).copied();
        match (low, high) {
            (Some(low), Some(high)) if low.0 <= high.0 => vec![low, high],
            (low, high) => high.into_iter().chain(low).collect(),
        }
    };
    points.chunks(length).flat_map(extremes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_round_and_the_axis_holds_the_curve() {
        let (bounds, labels) = linear_axis(3.98, 7.73, 6);
        assert!(bounds[0] <= 3.98 && bounds[1] >= 7.73);
        assert_eq!(labels, ["3", "4", "5", "6", "7", "8"]);
        let (bounds, labels) = linear_axis(4.021, 4.034, 5);
        assert!(bounds[0] <= 4.021 && bounds[1] >= 4.034, "{bounds:?}");
        assert!(labels.iter().all(|label| label.len() == labels[0].len()), "{labels:?}");
        assert!(labels.is_sorted() && labels.windows(2).all(|pair| pair[0] != pair[1]));
        assert_eq!(linear_axis(4.0, 7.7, 2), ([4.0, 7.7], vec!["4.00".into(), "7.70".into()]));
    }

    #[test]
    fn an_axis_has_two_different_ends_whatever_it_holds() {
        for (low, high) in [(0.0, 0.0), (4.0, 4.0), (-1e29, 1e29), (1e-300, 2e-300), (-3.0, -3.0)] {
            for most in 2..8 {
                let (bounds, labels) = linear_axis(low, high, most);
                assert!(bounds[0] < bounds[1] && bounds.iter().all(|b| b.is_finite()), "{low}");
                assert!((2..=most).contains(&labels.len()), "{labels:?}");
            }
        }
        for (low, high) in [(4.0, 4.0), (1e-300, 1e29)] {
            let (bounds, _) = log_axis(low, high, 3);
            assert!(bounds[0] < bounds[1] && bounds.iter().all(|b| b.is_finite()));
        }
    }

    #[test]
    fn thinning_keeps_every_peak_and_the_order() {
        let mut points: Vec<_> = (0..100_000).map(|x| (f64::from(x), 1.0)).collect();
        points[71_234].1 = 9.0;
        points[71_300].1 = -9.0;
        let thin = thinned(&points, 200);
        assert!(thin.len() <= 200);
        assert!(thin.contains(&(71_234.0, 9.0)) && thin.contains(&(71_300.0, -9.0)));
        assert!(thin.is_sorted_by(|a, b| a.0 <= b.0));
        assert_eq!(thinned(&points[..100], 200), points[..100]);
    }
}
