//! Layers and numbers in sentences. The command line's ranges leave their end out, as Rust's do; in
//! prose a reader takes both ends for layers.

use std::fmt::Display;

/// `3, 7–9, 11`: ascending, three and more neighbours as a range whose both ends belong to it.
///
/// ```
/// assert_eq!(lns_record::layers_in_words(&[11, 3, 7, 8, 9]), "3, 7–9, 11");
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

/// `1 window`, `4 windows`, `0 windows`.
///
/// ```
/// assert_eq!(lns_record::counted(1_u64, "window"), "1 window");
/// assert_eq!(lns_record::counted(4_usize, "window"), "4 windows");
/// ```
pub fn counted<N: Display + Copy + PartialEq + From<u8>>(count: N, what: &str) -> String {
    format!("{count} {}", noun(count, what))
}

/// `what` in the number that `count` of it takes, for a count that is written in its own way.
pub fn noun<N: Copy + PartialEq + From<u8>>(count: N, what: &str) -> String {
    let plural = if count == N::from(1) { "" } else { "s" };
    format!("{what}{plural}")
}

/// Three significant digits: `4.05`, `0.200`, `2.05e3`, `−1.20e-7`; plainly from 0.001 up to 1000.
///
/// ```
/// assert_eq!([24798.0, 0.0141, 999.4].map(lns_record::figure), ["2.48e4", "0.0141", "999"]);
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

/// Three digits before the unit that fits, by powers of a thousand; `1e15` and beyond are the greatest.
///
/// ```
/// assert_eq!(lns_record::with_prefix(12_653.359e9, "B"), "12.7 TB");
/// assert_eq!([45e3, 999.6e6, 0.0].map(|n| lns_record::with_prefix(n, "FLOP")), [
///     "45.0 kFLOP", "1.00 GFLOP", "0 FLOP"]);
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
    format!("{number} {}{unit}", PREFIXES[at])
}

/// A true minus sign where a number starts, and none before a zero; exponents keep their hyphen.
///
/// ```
/// assert_eq!(lns_record::with_minus("-1.20e-7"), "−1.20e-7");
/// assert_eq!(lns_record::with_minus("-0.00"), "0.00");
/// ```
pub fn with_minus(text: &str) -> String {
    match text.strip_prefix('-') {
        Some(rest) if rest.contains(|c: char| ('1'..='9').contains(&c)) => format!("−{rest}"),
        Some(rest) => rest.to_owned(),
        None => text.to_owned(),
    }
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
