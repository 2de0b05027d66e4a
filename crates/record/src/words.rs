//! Layers and numbers in sentences. The command line's ranges leave their end out, as Rust's do; in
//! prose a reader takes both ends for layers.

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
