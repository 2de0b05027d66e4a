//! Numbers, units and layers as a person reads them, on a terminal, a page and the dashboard alike.
//!
//! Thousands stand apart by a narrow space that does not break (as in ISO 80000), negative numbers have a
//! true minus sign, and layers are named with both ends of a range: the command line's ranges leave
//! their end out, as Rust's do, but in prose a reader takes both ends for layers.

use std::fmt::Display;

/// `3, 7–9, 11`: ascending, three and more neighbours as a range whose both ends belong to it.
///
/// ```
/// assert_eq!(lns_show::layers_in_words(&[11, 3, 7, 8, 9]), "3, 7–9, 11");
/// ```
pub fn layers_in_words(layers: &[usize]) -> String {
    let mut layers = layers.to_vec();
    layers.sort_unstable();
    layers.dedup();
    let runs = layers.chunk_by(|a, b| b - a == 1).flat_map(|run| match run {
        [first, .., last] if run.len() > 2 => vec![format!("{first}–{last}")],
        _ => run.iter().map(usize::to_string).collect(),
    });
    runs.collect::<Vec<_>>().join(", ")
}

/// `12–18` for seven layers from 12 on, `12` for one.
pub fn block_in_words(start: usize, layers: usize) -> String {
    match start.saturating_add(layers.saturating_sub(1)) {
        last if last > start => format!("{start}–{last}"),
        _ => start.to_string(),
    }
}

/// A whole number with its thousands set apart: `999`, `2 048`, `1 234 567`.
///
/// ```
/// assert_eq!(lns_show::grouped(999_u64), "999");
/// assert_eq!(lns_show::grouped(1_234_567_usize), "1\u{202f}234\u{202f}567");
/// ```
pub fn grouped<N: Display + From<u8>>(number: N) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(2 * digits.len());
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// `1 window`, `4 windows`, `0 windows`, `2 048 tokens`.
///
/// ```
/// assert_eq!(lns_show::counted(1_u64, "window"), "1 window");
/// assert_eq!(lns_show::counted(4_usize, "window"), "4 windows");
/// ```
pub fn counted<N: Display + Copy + PartialEq + From<u8>>(count: N, what: &str) -> String {
    format!("{} {}", grouped(count), noun(count, what))
}

/// `what` in the number that `count` of it takes, for a count that is written in its own way.
pub fn noun<N: Copy + PartialEq + From<u8>>(count: N, what: &str) -> String {
    let plural = if count == N::from(1) { "" } else { "s" };
    format!("{what}{plural}")
}

/// Three significant digits: `4.05`, `0.200`, `2.05e3`, `−1.20e-7`; plainly from 0.001 up to 1000.
///
/// ```
/// assert_eq!([24798.0, 0.0141, 999.4].map(lns_show::figure), ["2.48e4", "0.0141", "999"]);
/// ```
pub fn figure(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    if !value.is_finite() {
        return if value.is_nan() { "NaN" } else { "infinite" }.to_owned();
    }
    let scientific = format!("{value:.2e}");
    let power = scientific.split_once('e').and_then(|(_, exponent)| exponent.parse::<i32>().ok());
    let text = match power {
        Some(power @ -3..=2) => format!("{value:.*}", (2 - power) as usize),
        _ => scientific,
    };
    with_minus(&text)
}

/// Three digits before the unit that fits, by powers of a thousand; `P` is the greatest prefix. Without a
/// unit the prefix stands alone: `4.91 M`.
///
/// ```
/// assert_eq!(lns_show::with_prefix(12_653.359e9, "B"), "12.7 TB");
/// assert_eq!([45e3, 999.6e6, 0.0].map(|n| lns_show::with_prefix(n, "FLOP")), [
///     "45.0 kFLOP", "1.00 GFLOP", "0 FLOP"]);
/// assert_eq!([999.0, 4_912_640.0].map(|n| lns_show::with_prefix(n, "")), ["999", "4.91 M"]);
/// ```
pub fn with_prefix(value: f64, unit: &str) -> String {
    const PREFIXES: [&str; 6] = ["", "k", "M", "G", "T", "P"];
    let mut scaled = value;
    let mut at = 0;
    // 999.5 would be written 1000.
    while scaled.abs() >= 999.5 && at + 1 < PREFIXES.len() {
        (scaled, at) = (scaled / 1e3, at + 1);
    }
    let number = match scaled {
        whole if at == 0 => format!("{whole:.0}"),
        s if s.abs() < 9.995 => format!("{s:.2}"),
        s if s.abs() < 99.95 => format!("{s:.1}"),
        s => format!("{s:.0}"),
    };
    format!("{number} {}{unit}", PREFIXES[at]).trim_end().to_owned()
}

/// A true minus sign where a number starts, and none before a zero; exponents keep their hyphen.
///
/// ```
/// assert_eq!(lns_show::with_minus("-1.20e-7"), "−1.20e-7");
/// assert_eq!(lns_show::with_minus("-0.00"), "0.00");
/// ```
pub fn with_minus(text: &str) -> String {
    match text.strip_prefix('-') {
        Some(rest) if rest.contains(|c: char| ('1'..='9').contains(&c)) => format!("−{rest}"),
        Some(rest) => rest.to_owned(),
        None => text.to_owned(),
    }
}

/// A difference with its sign, to so many decimals: `+0.0123`, `−0.0168`.
///
/// ```
/// assert_eq!([0.0123, -1.5, 0.0].map(|value| lns_show::signed(value, 2)), ["+0.01", "−1.50", "+0.00"]);
/// ```
pub fn signed(value: f64, decimals: usize) -> String {
    with_minus(&format!("{value:+.decimals$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_range_in_words_names_a_layer_outside_it() {
        let all: Vec<usize> = (2..24).collect();
        assert_eq!(layers_in_words(&all), "2–23");
        assert_eq!(layers_in_words(&[4, 5]), "4, 5");
        assert_eq!(layers_in_words(&[]), "");
        assert_eq!(layers_in_words(&[usize::MAX]), usize::MAX.to_string());
        assert_eq!(block_in_words(12, 7), "12–18");
        assert_eq!(block_in_words(12, 1), "12");
        assert_eq!(block_in_words(usize::MAX, 9), usize::MAX.to_string());
    }
}
