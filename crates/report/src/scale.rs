//! Axes: from a value to a place between 0 and 1, and the ticks that let one read it back.

use lns_show::with_minus;
use unicode_width::UnicodeWidthStr;

use crate::number::{drawable, trimmed};

/// A value's way onto an axis.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Curve {
    Linear,
    Log,
    /// Linear within ±`linear`, logarithmic beyond: one unit of length for the linear part, then
    /// one for each decade.
    Symmetric {
        linear: f64,
    },
}

impl Curve {
    fn forward(self, value: f64) -> Option<f64> {
        let value = drawable(value)?;
        match self {
            Self::Linear => Some(value),
            Self::Log => (value > 0.0).then(|| value.log10()),
            Self::Symmetric { linear } if value.abs() <= linear => Some(value / linear),
            Self::Symmetric { linear } => {
                Some(value.signum() * (1.0 + value.abs().log10() - linear.log10()))
            }
        }
    }
}

/// An axis fitted to values.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scale {
    curve: Curve,
    low: f64,
    high: f64,
    ticks: Vec<(f64, Option<String>)>,
}

/// A line across the chart at `at` (0 to 1); minor ones have no label.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tick {
    pub(crate) at: f64,
    pub(crate) label: Option<String>,
}

/// Ratio of the largest to the smallest value from which the small ones are unreadable on a linear
/// axis: a twentieth of a 250 px chart is the size of a letter.
const LOG_RATIO: f64 = 20.0;

/// Decades up to which 2 and 5 are labelled between powers of ten.
const FINE_DECADES: f64 = 3.5;

impl Scale {
    /// An axis from zero, or the least value below it, to the greatest value.
    pub(crate) fn linear(values: impl IntoIterator<Item = f64>) -> Self {
        let (least, greatest) = values
            .into_iter()
            .filter_map(drawable)
            .fold((0.0, 0.0), |(low, high): (f64, f64), v| (low.min(v), high.max(v)));
        let (least, greatest) = if least == greatest { (0.0, 1.0) } else { (least, greatest) };
        let step = step_at_least((greatest / 5.0) - (least / 5.0));
        let (first, last) = ((least / step).floor() as i32, (greatest / step).ceil() as i32);
        let ticks = (first..=last).map(|k| {
            let value = f64::from(k) * step;
            (value, Some(tick_label(value, step)))
        });
        let (low, high) = (f64::from(first) * step, f64::from(last) * step);
        Self { curve: Curve::Linear, low, high, ticks: ticks.collect() }
    }

    /// An axis exactly from `low` to `high`, which need not hold zero.
    pub(crate) fn between(low: f64, high: f64) -> Self {
        Self::spanning(low, high, 0.0)
    }

    /// An axis exactly from `low` to `high` for what is counted: every tick is a whole number.
    pub(crate) fn counting(low: u64, high: u64) -> Self {
        Self::spanning(low as f64, high.max(low.saturating_add(1)) as f64, 1.0)
    }

    fn spanning(low: f64, high: f64, least_step: f64) -> Self {
        let (low, high) = (drawable(low).unwrap_or(0.0), drawable(high).unwrap_or(0.0));
        // Values that are all the same get room to both sides.
        let size = low.abs().max(high.abs());
        let room = if high - low > size * 1e-9 { 0.0 } else { (size * 0.02).max(0.5) };
        let (low, high) = (low.min(high) - room, low.max(high) + room);
        let step = step_at_least((high / 8.0) - (low / 8.0)).max(least_step);
        let first = (low / step - 1e-9).ceil();
        let ticks = (0..=8).map(|k| {
            let value = (first + f64::from(k)) * step;
            (value, Some(tick_label(value, step)))
        });
        Self { curve: Curve::Linear, low, high, ticks: ticks.collect() }
    }

    /// A logarithmic axis from 1 to `high`.
    pub(crate) fn powers(high: f64) -> Self {
        let high = drawable(high).unwrap_or(0.0).max(2.0);
        let fine = high.log10() <= FINE_DECADES;
        let ticks = multiples(1.0, high, fine).collect();
        Self { curve: Curve::Log, low: 0.0, high: high.log10(), ticks }
    }

    /// For values that are above zero by nature: logarithmic where their ratio demands it. What is
    /// not above zero has no place on a logarithmic axis.
    pub(crate) fn positive(values: impl IntoIterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.into_iter().filter_map(drawable).collect();
        let above: Vec<f64> = values.iter().copied().filter(|v| *v > 0.0).collect();
        let least = above.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = above.iter().copied().fold(0.0, f64::max);
        if above.len() * 2 < values.len() || greatest / LOG_RATIO < least {
            return Self::linear(values);
        }
        Self::logarithmic(values)
    }

    /// Logarithmic wherever values above zero differ: for what falls through decades by nature.
    pub(crate) fn logarithmic(values: impl IntoIterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.into_iter().filter_map(drawable).collect();
        let above = || values.iter().copied().filter(|v| *v > 0.0);
        let least = above().fold(f64::INFINITY, f64::min);
        let greatest = above().fold(0.0, f64::max);
        if greatest < 2.0 * least {
            return Self::linear(values);
        }
        let (low, high) = (round_down(least), round_up(greatest));
        let fine = high.log10() - low.log10() <= FINE_DECADES;
        let ticks = multiples(low, high, fine).collect();
        Self { curve: Curve::Log, low: low.log10(), high: high.log10(), ticks }
    }

    /// For differences: linear, or linear around zero and logarithmic beyond where the greatest
    /// would otherwise flatten the typical ones.
    pub(crate) fn signed(values: impl IntoIterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.into_iter().filter_map(drawable).collect();
        let mut sizes: Vec<f64> = values.iter().map(|v| v.abs()).filter(|v| *v > 0.0).collect();
        sizes.sort_by(f64::total_cmp);
        let (Some(median), Some(greatest)) = (sizes.get(sizes.len() / 2), sizes.last()) else {
            return Self::linear(values);
        };
        if greatest / LOG_RATIO < *median {
            return Self::linear(values);
        }
        let linear = 10f64.powf(median.log10().floor());
        Self::symmetric(linear, &values)
    }

    /// For what removing layers costs: linear up to the `threshold` below which a layer is idle, so that
    /// what is next to nothing looks so, and logarithmic beyond where the greatest demands it.
    pub(crate) fn removal(values: impl IntoIterator<Item = f64>, threshold: Option<f64>) -> Self {
        let Some(threshold) = threshold else { return Self::signed(values) };
        let values: Vec<f64> = values.into_iter().chain([threshold]).filter_map(drawable).collect();
        let greatest = values.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
        match greatest / LOG_RATIO < threshold {
            true => Self::linear(values),
            false => Self::symmetric(threshold, &values),
        }
    }

    fn symmetric(linear: f64, values: &[f64]) -> Self {
        let curve = Curve::Symmetric { linear };
        // Rounding up must not leave what can be drawn.
        let end = |size: f64| match size {
            // A side that stays inside the linear part takes no more of it than it needs.
            size if size > 0.0 => drawable(round_up(size)).unwrap_or(size),
            _ => 0.0,
        };
        let below = end(values.iter().fold(0.0, |most, v| most.max(-v)));
        let above = end(values.iter().fold(0.0, |most, v| most.max(*v)));
        let place = |v: f64| curve.forward(v).unwrap_or(0.0);
        let fine = place(above) + place(below) <= FINE_DECADES + 1.0;
        let mut ticks = vec![(0.0, Some("0".to_owned()))];
        for (end, sign) in [(above, 1.0), (below, -1.0)].into_iter().filter(|(end, _)| *end > 0.0) {
            ticks.push((sign * linear / 2.0, fine.then(|| power_label(sign * linear / 2.0))));
            ticks.push((sign * linear, Some(power_label(sign * linear))));
            // Where the linear part ends is a tick of its own, whatever number it is, and its room too.
            ticks.extend(
                multiples(linear * 1.5, end, fine)
                    .map(|(v, label)| (sign * v, label.map(|_| power_label(sign * v)))),
            );
        }
        Self { curve, low: -place(below), high: place(above), ticks }
    }

    /// 0 at the axis' low end, 1 at its high end; `None` for what has no place on it.
    pub(crate) fn place(&self, value: f64) -> Option<f64> {
        Some((self.curve.forward(value)? - self.low) / (self.high - self.low))
    }

    /// Where bars stand: zero, or the low end of a logarithmic axis.
    pub(crate) fn baseline(&self) -> f64 {
        self.place(0.0).unwrap_or(0.0)
    }

    pub(crate) fn ticks(&self) -> impl Iterator<Item = Tick> {
        self.ticks.iter().filter_map(|(value, label)| {
            let at = self.place(*value).filter(|at| (-1e-9..=1.0 + 1e-9).contains(at))?;
            Some(Tick { at, label: label.clone() })
        })
    }

    /// Characters of the longest number beside the axis.
    pub(crate) fn digits(&self) -> usize {
        self.ticks().filter_map(|tick| Some(tick.label?.width())).max().unwrap_or(0)
    }

    /// What a reader must know of the axis, for its caption.
    pub(crate) fn note(&self) -> Option<String> {
        match self.curve {
            Curve::Linear => None,
            Curve::Log => Some("log scale".to_owned()),
            Curve::Symmetric { linear } => {
                Some(format!("log scale, linear below {}", power_label(linear)))
            }
        }
    }
}

/// 1, 2 and 5 times the powers of ten from `low` to `high`; the powers alone are labelled, or
/// every few of them, unless `fine`.
fn multiples(low: f64, high: f64, fine: bool) -> impl Iterator<Item = (f64, Option<String>)> {
    let first = (low.log10() - 1e-9).floor() as i32;
    let last = (high.log10() + 1e-9).floor() as i32;
    let every = (last - first) / 7 + 1;
    (first..=last).filter(move |e| (e - first) % every == 0).flat_map(move |exponent| {
        let steps: &[f64] = if every == 1 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        steps.iter().filter_map(move |step| {
            let value = step * 10f64.powi(exponent);
            let inside = value >= low * (1.0 - 1e-9) && value <= high * (1.0 + 1e-9);
            inside.then(|| (value, (fine || *step == 1.0).then(|| power_label(value))))
        })
    })
}

/// The least of 1, 2, 5 × 10^k that is not below `value`.
fn round_up(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * power >= value * (1.0 - 1e-9));
    step.unwrap_or(10.0) * power
}

/// The greatest of 1, 2, 5 × 10^k that is not above `value`.
fn round_down(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let step = [5.0, 2.0, 1.0].into_iter().find(|step| step * power <= value * (1.0 + 1e-9));
    step.unwrap_or(1.0) * power
}

/// The step between ticks: 1, 2, 5 × 10^k.
fn step_at_least(size: f64) -> f64 {
    round_up(size)
}

/// A tick's label with as many decimals as `step` has.
fn tick_label(value: f64, step: f64) -> String {
    let magnitude = step.log10().floor();
    if !(-5.0..5.0).contains(&magnitude) {
        return power_label(value);
    }
    with_minus(&format!("{value:.*}", (-magnitude).max(0.0) as usize))
}

/// `0.0005`, `2000`, `10⁵`, `2·10⁻⁷`.
fn power_label(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 || (0.00009..99_999.0).contains(&size) {
        return with_minus(&trimmed(&format!("{value:.4}")));
    }
    let scientific = format!("{value:.1e}");
    let (mantissa, exponent) = scientific.split_once('e').expect("`{:e}` always writes an `e`");
    let raised: String = exponent.chars().map(superscript).collect();
    match trimmed(mantissa).as_str() {
        "1" => format!("10{raised}"),
        "-1" => format!("−10{raised}"),
        mantissa => with_minus(&format!("{mantissa}·10{raised}")),
    }
}

fn superscript(digit: char) -> char {
    match digit {
        '-' => '⁻',
        '0' => '⁰',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        '4' => '⁴',
        '5' => '⁵',
        '6' => '⁶',
        '7' => '⁷',
        '8' => '⁸',
        _ => '⁹',
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(scale: &Scale) -> Vec<String> {
        scale.ticks().filter_map(|tick| tick.label).collect()
    }

    #[test]
    fn close_values_get_a_linear_axis_from_zero() {
        let scale = Scale::positive([3.0, 4.7]);
        assert_eq!(labels(&scale), ["0", "1", "2", "3", "4", "5"]);
        assert_eq!(scale.place(0.0), Some(0.0));
        assert_eq!(scale.note(), None);
    }

    #[test]
    fn values_decades_apart_get_a_logarithmic_axis() {
        let scale = Scale::positive([4.05, 2048.0]);
        assert_eq!(
            labels(&scale),
            ["2", "5", "10", "20", "50", "100", "200", "500", "1000", "2000", "5000"]
        );
        assert_eq!(scale.place(2.0), Some(0.0));
        assert!((scale.place(5000.0).unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(scale.place(0.0), None);
        assert_eq!(scale.place(-1.0), None);
        let wide = Scale::positive([1e-9, 1e12]);
        assert!(labels(&wide).len() <= 8, "{:?}", labels(&wide));
    }

    #[test]
    fn one_great_difference_does_not_flatten_the_typical_ones() {
        let scale = Scale::signed([8.05, 0.15, 0.11, 0.29, 0.15, -0.03]);
        assert!(scale.place(0.11).unwrap() - scale.place(0.0).unwrap() > 0.2);
        assert!(scale.place(-0.03).unwrap() < scale.baseline());
        assert_eq!(scale.note().unwrap(), "log scale, linear below 0.1");
        assert_eq!(Scale::signed([0.2, 0.3, -0.1]).note(), None);
    }

    #[test]
    fn a_removal_that_costs_next_to_nothing_has_next_to_no_bar() {
        let scale = Scale::removal([0.73, 0.0002, 0.4, 2.1, -0.0005, 0.00003], Some(0.02));
        let height = |value| scale.place(value).unwrap() - scale.baseline();
        assert!(height(0.0002) < 0.02 * height(0.73), "{} {}", height(0.0002), height(0.73));
        assert!((height(0.01) / height(0.02) - 0.5).abs() < 1e-12, "linear up to the threshold");
        assert_eq!(scale.note().unwrap(), "log scale, linear below 0.02");
        assert!(labels(&scale).contains(&"0.02".to_owned()), "{:?}", labels(&scale));
        assert!(scale.baseline() < 0.02, "a trace below zero takes no room");
        assert_eq!(Scale::removal([0.3, 0.1], Some(0.02)).note(), None);
        assert_eq!(Scale::removal([0.2, -0.1], None), Scale::signed([0.2, -0.1]));
    }

    #[test]
    fn an_axis_without_values_runs_from_zero_to_one() {
        for scale in [Scale::linear([]), Scale::positive([f64::NAN]), Scale::signed([0.0, 0.0])] {
            assert_eq!((scale.place(0.0), scale.place(1.0)), (Some(0.0), Some(1.0)));
        }
    }

    #[test]
    fn an_axis_between_two_values_ends_at_them() {
        let scale = Scale::between(3.93, 4.61);
        assert_eq!(labels(&scale), ["4.0", "4.1", "4.2", "4.3", "4.4", "4.5", "4.6"]);
        assert_eq!((scale.place(3.93), scale.place(4.61)), (Some(0.0), Some(1.0)));
        assert_eq!(Scale::between(5.0, 5.0).place(5.0), Some(0.5));
        assert_eq!(labels(&Scale::counting(0, 2441)).last().unwrap(), "2000");
        assert_eq!(labels(&Scale::counting(0, 4)), ["0", "1", "2", "3", "4"]);
        assert_eq!(labels(&Scale::counting(7, 7)), ["7", "8"]);
        assert_eq!(labels(&Scale::powers(25.0)), ["1", "2", "5", "10", "20"]);
    }

    #[test]
    fn tick_labels_tell_neighbours_apart() {
        assert_eq!(labels(&Scale::linear([0.02, -0.01])), ["−0.01", "0.00", "0.01", "0.02"]);
        assert_eq!(power_label(2e-7), "2·10⁻⁷");
        assert_eq!(power_label(-1e5), "−10⁵");
    }

    proptest! {
        #[test]
        fn every_value_it_was_fitted_to_lies_on_the_axis(
            values in proptest::collection::vec(proptest::num::f64::ANY, 0..12)
        ) {
            let positive: Vec<f64> = values.iter().map(|v| v.abs()).collect();
            let ends = values.iter().copied().filter_map(drawable);
            let low = ends.clone().fold(0.0, f64::min);
            let high = ends.fold(0.0, f64::max);
            for (scale, values) in [
                (Scale::linear(values.clone()), &values),
                (Scale::signed(values.clone()), &values),
                (Scale::removal(values.clone(), Some(0.02)), &values),
                (Scale::positive(positive.clone()), &positive),
                (Scale::logarithmic(positive.clone()), &positive),
                (Scale::between(low, high), &values),
                (Scale::powers(high), &vec![1.0, high.max(1.0)]),
            ] {
                prop_assert!(scale.ticks().count() < 60);
                prop_assert!(scale.ticks().all(|tick| tick.at.is_finite()));
                for place in values.iter().filter_map(|v| scale.place(*v)) {
                    prop_assert!((-1e-6..=1.0 + 1e-6).contains(&place), "{place} {scale:?}");
                }
            }
        }
    }
}
