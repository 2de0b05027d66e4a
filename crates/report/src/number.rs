//! Numbers in a report: an uncertainty cut where it starts to matter, zeros that tell nothing left out.
//! How a number is spelt is [`lns_show`]'s.

use lns_show::with_minus;
pub(crate) use lns_show::{counted, figure, grouped};

/// Below this a number is drawn as zero, above its inverse it is not drawn: scales take logarithms
/// and differences, which must stay finite.
const TINY: f64 = 1e-300;

/// `value` where a scale can hold it.
pub(crate) fn drawable(value: f64) -> Option<f64> {
    match value.abs() {
        size if size < TINY => Some(0.0),
        size if size <= 1.0 / TINY => Some(value),
        _ => None,
    }
}

/// `4.05`, `0.2`, `2.05e3`, `−1.2e-7`: for a sentence, without zeros that tell nothing.
pub(crate) fn number(value: f64) -> String {
    let written = figure(value);
    match written.split_once('e') {
        _ if !value.is_finite() => written,
        Some((mantissa, exponent)) => format!("{}e{exponent}", trimmed(mantissa)),
        None => trimmed(&written),
    }
}

/// `0.11 ± 0.02`: decimals up to the uncertainty's first digit, or its second after a leading 1.
pub(crate) fn measured(value: f64, stderr: Option<f64>) -> String {
    match (stderr.filter(|s| s.is_finite()), decimals(value, stderr)) {
        (None, _) => number(value),
        (Some(stderr), Some(decimals)) => fixed(value, stderr, decimals),
        (Some(stderr), None) => format!("{} ± {}", number(value), number(stderr)),
    }
}

/// Values with their uncertainties for a column: every row has the decimals that the most certain
/// row needs.
pub(crate) fn measured_alike(values: Vec<Option<(f64, Option<f64>)>>) -> Vec<String> {
    /// A row more certain than this keeps its decimals to itself.
    const MOST: usize = 4;
    let needed = values.iter().flatten().filter_map(|(value, stderr)| decimals(*value, *stderr));
    let common = needed.filter(|decimals| *decimals <= MOST).max().unwrap_or(0);
    let write = |(value, stderr): (f64, Option<f64>)| match (stderr, decimals(value, stderr)) {
        (Some(stderr), Some(own)) => fixed(value, stderr, own.max(common)),
        (Some(_), None) => measured(value, stderr),
        (None, _) => figure(value),
    };
    values.into_iter().map(|value| value.map(write).unwrap_or_default()).collect()
}

/// Decimals that `stderr` leaves meaning to; `None` where powers of ten read better.
fn decimals(value: f64, stderr: Option<f64>) -> Option<usize> {
    let stderr = stderr?.abs();
    let magnitude = stderr.log10().floor();
    if !value.is_finite() || !(-6.0..6.0).contains(&magnitude) || value.abs() >= 1e6 {
        return None;
    }
    let leads_with_one = stderr / 10f64.powf(magnitude) < 1.95;
    Some((f64::from(u8::from(leads_with_one)) - magnitude).max(0.0) as usize)
}

fn fixed(value: f64, stderr: f64, decimals: usize) -> String {
    format!("{} ± {stderr:.decimals$}", with_minus(&format!("{value:.decimals$}")))
}

/// What the line across a chart of removal costs means.
pub(crate) fn idle_below(threshold: f64) -> String {
    format!("idle below {}", number(threshold))
}

/// `12.5%`
pub(crate) fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.1}%", share * 100.0) } else { number(share) }
}

/// Drops zeros after the last telling decimal.
pub(crate) fn trimmed(text: &str) -> String {
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_significant_digits() {
        let written =
            [4.05, 2048.0, 0.1, -0.00312, 1.5e-7, 0.0, -0.0, 999.6, 100.0, 33.4, 1e300].map(number);
        let expected = [
            "4.05",
            "2.05e3",
            "0.1",
            "−0.00312",
            "1.5e-7",
            "0",
            "0",
            "1e3",
            "100",
            "33.4",
            "1e300",
        ];
        assert_eq!(written, expected);
        assert_eq!(
            [0.1, -0.2, 2048.0, 0.0, 1.5e-7, 18.0].map(figure),
            ["0.100", "−0.200", "2.05e3", "0", "1.50e-7", "18.0"]
        );
        assert_eq!([f64::NAN, f64::NEG_INFINITY].map(number), ["NaN", "infinite"]);
    }

    #[test]
    fn an_uncertainty_decides_the_decimals_of_its_value() {
        assert_eq!(measured(0.1082, Some(0.0213)), "0.11 ± 0.02");
        assert_eq!(measured(0.1082, Some(0.0142)), "0.108 ± 0.014");
        assert_eq!(measured(-0.0004, Some(0.03)), "0.00 ± 0.03");
        assert_eq!(measured(-8.05, Some(0.3)), "−8.1 ± 0.3");
        assert_eq!(measured(8.05, None), "8.05");
        assert_eq!(measured(8.05, Some(f64::NAN)), "8.05");
        assert_eq!(measured(8.05, Some(0.0)), "8.05 ± 0");
        assert_eq!(measured(1234.0, Some(56.0)), "1234 ± 56");
        assert_eq!(measured(f64::NAN, Some(0.1)), "NaN ± 0.1");
    }

    #[test]
    fn the_rows_of_a_column_have_the_same_decimals() {
        let column = measured_alike(vec![
            Some((8.05, Some(0.4))),
            None,
            Some((0.11, Some(0.011))),
            Some((0.2, None)),
            Some((0.5, Some(1e-6))),
        ]);
        let expected = ["8.050 ± 0.400", "", "0.110 ± 0.011", "0.200", "0.5000000 ± 0.0000010"];
        assert_eq!(column, expected);
    }

    #[test]
    fn what_a_scale_cannot_hold_is_not_drawn() {
        assert_eq!(drawable(1.5), Some(1.5));
        assert_eq!(drawable(-5e-324), Some(0.0));
        assert_eq!(drawable(1e301), None);
        assert_eq!(drawable(f64::NAN), None);
        assert_eq!(drawable(f64::NEG_INFINITY), None);
    }
}
