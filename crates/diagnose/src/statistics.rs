//! Moments of the stream and of what a layer adds to it, token by token, in f64.
//!
//! A massive activation (arXiv 2402.17762) on one token in two thousand can multiply a mean by ten,
//! so means are taken over content tokens and medians stand beside them.

use lns_corpus::Windows;
use lns_record::HeavyToken;

/// For each window, which of its tokens are content: neither the window's first nor a separator. If
/// the whole text has none such, every token counts.
pub(crate) fn content(text: &Windows) -> Vec<Vec<bool>> {
    let is_content = |(position, id): (usize, &u32)| position > 0 && !text.separators.contains(id);
    let mut content: Vec<Vec<bool>> = text
        .windows
        .iter()
        .map(|window| window.ids.iter().enumerate().map(is_content).collect())
        .collect();
    if !content.iter().flatten().any(|is_content| *is_content) {
        content.iter_mut().flatten().for_each(|is_content| *is_content = true);
    }
    content
}

/// The tokens of one window at one point of the stream.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct StreamSums {
    /// Variance over features of each token.
    pub(crate) variances: Vec<f64>,
    /// Σ mean of squares over features.
    pub(crate) mean_square: f64,
}

/// Mean and population variance of a row.
fn moments(row: &[f32]) -> (f64, f64) {
    let count = row.len() as f64;
    let mean = sum(row, f64::from) / count;
    (mean, sum(row, |x| (f64::from(x) - mean).powi(2)) / count)
}

/// Σ f(x) over eight lanes added in a fixed order.
fn sum(row: &[f32], f: impl Fn(f32) -> f64) -> f64 {
    let mut lanes = [0f64; 8];
    let blocks = row.chunks_exact(8);
    let tail: f64 = blocks.remainder().iter().map(|x| f(*x)).sum();
    for block in blocks {
        for lane in 0..8 {
            lanes[lane] += f(block[lane]);
        }
    }
    tail + lanes.iter().sum::<f64>()
}

/// Statistics of a stream, T × `width`.
pub(crate) fn stream_sums(stream: &[f32], width: usize) -> StreamSums {
    let mut sums = StreamSums::default();
    for row in stream.chunks_exact(width) {
        let (mean, variance) = moments(row);
        sums.variances.push(variance);
        sums.mean_square += variance + mean * mean;
    }
    sums
}

/// The rows, each `width` wide, of the tokens that count.
fn rows<'a>(
    values: &'a [f32],
    width: usize,
    counts: &'a [bool],
) -> impl Iterator<Item = &'a [f32]> {
    values.chunks_exact(width).zip(counts).filter(|(_, counts)| **counts).map(|(row, _)| row)
}

/// Variance over features of each token that counts.
pub(crate) fn variances(values: &[f32], width: usize, counts: &[bool]) -> Vec<f64> {
    rows(values, width, counts).map(|row| moments(row).1).collect()
}

/// The mean of the rows that count; zeros where none does.
pub(crate) fn mean_row(values: &[f32], width: usize, counts: &[bool]) -> Vec<f32> {
    let (mut sums, mut tokens) = (vec![0f64; width], 0usize);
    for row in rows(values, width, counts) {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
        tokens += 1;
    }
    sums.into_iter().map(|sum| (sum / tokens.max(1) as f64) as f32).collect()
}

/// Σ over tokens that count of the relative change ‖b − a‖ / ‖a‖, and of the cosine of a and b.
pub(crate) fn change_sums(a: &[f32], b: &[f32], width: usize, counts: &[bool]) -> (f64, f64) {
    let (mut ratios, mut cosines) = (0.0, 0.0);
    for (a, b) in rows(a, width, counts).zip(rows(b, width, counts)) {
        let (mut aa, mut ab, mut bb, mut dd) = (0f64, 0f64, 0f64, 0f64);
        for (a, b) in a.iter().zip(b) {
            let (a, b) = (f64::from(*a), f64::from(*b));
            aa += a * a;
            ab += a * b;
            bb += b * b;
            dd += (b - a) * (b - a);
        }
        if aa > 0.0 {
            ratios += (dd / aa).sqrt();
        }
        cosines += cosine(aa, ab, bb);
    }
    (ratios, cosines)
}

/// a·b / (‖a‖‖b‖) within [-1, 1]; two zero vectors are equal, one is orthogonal to anything.
fn cosine(aa: f64, ab: f64, bb: f64) -> f64 {
    match (aa > 0.0, bb > 0.0) {
        (true, true) => (ab / (aa.sqrt() * bb.sqrt())).clamp(-1.0, 1.0),
        (false, false) => 1.0,
        _ => 0.0,
    }
}

/// The middle value, or the mean of the two middle ones; NaN of nothing.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[odd / 2],
        even => (values[even / 2 - 1] + values[even / 2]) / 2.0,
    }
}

/// The tokens whose variance is more than [`HeavyToken::FACTOR`] times the median somewhere.
///
/// `at(index, window)` has the variances of a window's tokens at stream\[index\], `medians` one median
/// for each index; `spell` gives the text of a token.
pub(crate) fn heavy_tokens<'a>(
    ids: impl Iterator<Item = &'a [u32]>,
    at: impl Fn(usize, usize) -> &'a [f64],
    medians: &[f64],
    spell: &dyn Fn(u32) -> String,
) -> Vec<HeavyToken> {
    let mut heavy = Vec::new();
    for (window, ids) in ids.enumerate() {
        for (position, id) in ids.iter().enumerate() {
            let ratio = |index: usize| at(index, window)[position] / medians[index];
            let ratios = || (0..medians.len()).filter(|index| medians[*index] > 0.0);
            let Some(first) = ratios().find(|index| ratio(*index) > HeavyToken::FACTOR) else {
                continue;
            };
            heavy.push(HeavyToken {
                window,
                position,
                id: *id,
                text: spell(*id),
                // What leaves layer i is stream[i + 1].
                layer: first.checked_sub(1),
                ratio: ratios().map(ratio).fold(0.0, f64::max),
            });
        }
    }
    heavy
}

#[cfg(test)]
mod tests {
    use lns_corpus::Window;

    use super::*;

    const ALL: [bool; 4] = [true; 4];

    #[test]
    fn variance_is_over_features_of_each_token() {
        let stream = [1.0, 3.0, 0.0, 0.0, 2.0, 2.0, 2.0, 6.0];
        let sums = stream_sums(&stream, 4);
        assert_eq!(sums.variances, [1.5, 3.0]);
        assert!((sums.mean_square - (2.5 + 12.0)).abs() < 1e-12);
        assert_eq!(variances(&stream, 4, &ALL), [1.5, 3.0]);
        assert_eq!(variances(&stream, 4, &[false, true]), [3.0]);
    }

    #[test]
    fn an_unchanged_stream_has_cosine_one_and_no_change_even_at_zero() {
        let stream: Vec<f32> = (0..20).map(|x| x as f32 - 9.5).collect();
        let (ratio, cosine) = change_sums(&stream, &stream, 10, &ALL);
        assert_eq!(ratio, 0.0);
        assert!((cosine - 2.0).abs() < 1e-12);
        assert_eq!(change_sums(&[0.0; 4], &[0.0; 4], 4, &ALL), (0.0, 1.0));
        let opposite: Vec<f32> = stream.iter().map(|x| -x).collect();
        let (ratio, cosine) = change_sums(&stream, &opposite, 20, &ALL);
        assert!((ratio - 2.0).abs() < 1e-12 && (cosine + 1.0).abs() < 1e-12);
        assert_eq!(change_sums(&stream, &opposite, 20, &[false]), (0.0, 0.0));
    }

    fn text(ids: &[&[u32]]) -> Windows {
        let window = |ids: &&[u32]| Window {
            ids: ids.to_vec(),
            targets: None,
            text_bytes: Some(vec![1; ids.len()]),
        };
        Windows {
            window: ids[0].len(),
            windows: ids.iter().map(window).collect(),
            files: Vec::new(),
            separators: vec![0, 9],
            masking: None,
        }
    }

    #[test]
    fn first_tokens_and_separators_are_no_content() {
        let found = content(&text(&[&[5, 6, 0, 7], &[0, 9, 5, 5]]));
        assert_eq!(found, [[false, true, false, true], [false, false, true, true]]);
        assert_eq!(content(&text(&[&[5, 0]])), [[true, true]], "a text without any counts whole");
    }

    #[test]
    fn a_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 1000.0]), 3.0);
        assert_eq!(median(vec![4.0, 1.0, 1000.0, 2.0]), 3.0);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn a_heavy_token_is_named_with_the_layer_that_makes_it_so() {
        // stream[0], stream[1], stream[2] of two windows of two tokens.
        let variances =
            [[[1.0, 1.0], [1.0, 150.0]], [[5.0, 2.0], [2.0, 2.0]], [[900.0, 3.0], [3.0, 300.0]]];
        let ids: [&[u32]; 2] = [&[7, 8], &[7, 9]];
        let found = heavy_tokens(
            ids.into_iter(),
            |index, window| &variances[index][window],
            &[1.0, 2.0, 3.0],
            &|id| format!("t{id}"),
        );
        let heavy = |window, position, id, layer, ratio| HeavyToken {
            window,
            position,
            id,
            text: format!("t{id}"),
            layer,
            ratio,
        };
        // Exactly a hundred times the median is not more.
        assert_eq!(found, [heavy(0, 0, 7, Some(1), 300.0), heavy(1, 1, 9, None, 150.0)]);
        let none =
            heavy_tokens(ids.into_iter(), |i, w| &variances[i][w], &[0.0; 3], &|_| String::new());
        assert!(none.is_empty(), "without a median nothing is heavy");
    }
}
