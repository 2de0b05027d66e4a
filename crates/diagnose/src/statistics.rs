//! Moments of the stream and of what a layer adds to it, token by token, summed in f64.

/// Sums over the tokens of one window for one point of the stream.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct StreamSums {
    /// Σ variance over features.
    pub(crate) variance: f64,
    /// The same for the window's first token alone.
    pub(crate) first_variance: f64,
    /// Σ mean of squares over features.
    pub(crate) mean_square: f64,
}

impl StreamSums {
    pub(crate) fn add(&mut self, other: &Self) {
        self.variance += other.variance;
        self.first_variance += other.first_variance;
        self.mean_square += other.mean_square;
    }
}

/// Sums over the tokens of one window for one layer.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct LayerSums {
    /// Σ variance of the attention branch.
    pub(crate) attention_variance: f64,
    /// Σ variance of the MLP branch.
    pub(crate) mlp_variance: f64,
    /// Σ ‖out − in‖ / ‖in‖
    pub(crate) branch_to_stream: f64,
    /// Σ cosine of in and out.
    pub(crate) cosine: f64,
}

impl LayerSums {
    pub(crate) fn add(&mut self, other: &Self) {
        self.attention_variance += other.attention_variance;
        self.mlp_variance += other.mlp_variance;
        self.branch_to_stream += other.branch_to_stream;
        self.cosine += other.cosine;
    }
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
    for (token, row) in stream.chunks_exact(width).enumerate() {
        let (mean, variance) = moments(row);
        sums.variance += variance;
        sums.mean_square += variance + mean * mean;
        if token == 0 {
            sums.first_variance = variance;
        }
    }
    sums
}

/// Σ over tokens of the variance over features.
pub(crate) fn variance_sum(values: &[f32], width: usize) -> f64 {
    values.chunks_exact(width).map(|row| moments(row).1).sum()
}

/// Σ over tokens of the relative change ‖b − a‖ / ‖a‖, and of the cosine of a and b.
pub(crate) fn change_sums(a: &[f32], b: &[f32], width: usize) -> (f64, f64) {
    let (mut ratios, mut cosines) = (0.0, 0.0);
    for (a, b) in a.chunks_exact(width).zip(b.chunks_exact(width)) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variance_is_over_features_and_averages_over_tokens() {
        let stream = [1.0, 3.0, 0.0, 0.0, 2.0, 2.0, 2.0, 6.0]; // variances 1.5, 3
        let sums = stream_sums(&stream, 4);
        assert!((sums.variance - (1.5 + 3.0)).abs() < 1e-12);
        assert!((sums.first_variance - 1.5).abs() < 1e-12);
        assert!((sums.mean_square - (2.5 + 12.0)).abs() < 1e-12);
    }

    #[test]
    fn an_unchanged_stream_has_cosine_one_and_no_change_even_at_zero() {
        let stream: Vec<f32> = (0..20).map(|x| x as f32 - 9.5).collect();
        let (ratio, cosine) = change_sums(&stream, &stream, 10);
        assert_eq!(ratio, 0.0);
        assert!((cosine - 2.0).abs() < 1e-12);
        assert_eq!(change_sums(&[0.0; 4], &[0.0; 4], 4), (0.0, 1.0));
        let opposite: Vec<f32> = stream.iter().map(|x| -x).collect();
        let (ratio, cosine) = change_sums(&stream, &opposite, 20);
        assert!((ratio - 2.0).abs() < 1e-12 && (cosine + 1.0).abs() < 1e-12);
    }
}
