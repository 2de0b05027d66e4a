//! Rotary position embedding: the inverse frequencies and their scaling variants, in f64.
//!
//! Rotation is in the rotate-half order of Hugging Face checkpoints: feature j turns with feature
//! j + head_dim/2.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// Rotary embedding of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RopeSpec {
    /// Base of the geometric series of wavelengths.
    pub theta: f64,
    /// How the series is stretched beyond the length the model was trained at.
    pub scaling: RopeScaling,
}

/// The context-extension variants that `rope_scaling` / `rope_parameters` name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
pub enum RopeScaling {
    /// No scaling.
    Default,
    /// All frequencies divided by `factor`.
    Linear {
        /// Stretch of the context.
        factor: f64,
    },
    /// NTK-aware: the base grows with the sequence once it is longer than the trained context.
    Dynamic {
        /// Stretch of the context.
        factor: f64,
    },
    /// Llama 3: low frequencies divided by `factor`, high ones kept, a smooth blend between.
    Llama3 {
        /// Stretch of the low frequencies.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are stretched.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context before extension.
        original_max_position_embeddings: f64,
    },
    /// YaRN (arXiv 2309.00071): interpolate low frequencies, keep high ones, soften attention.
    Yarn {
        /// Stretch of the context.
        factor: f64,
        /// Context before extension.
        original_max_position_embeddings: f64,
        /// Rotations above which a frequency is kept.
        beta_fast: f64,
        /// Rotations below which a frequency is interpolated.
        beta_slow: f64,
        /// Multiplies cos and sin.
        attention_factor: f64,
        /// Whether the correction range is rounded to whole features.
        truncate: bool,
    },
    /// LongRoPE (arXiv 2402.13753): each frequency divided by a factor of its own, found by search; one
    /// list for sequences within the context before extension, one for longer ones.
    LongRope {
        /// Divisors within the context before extension, one for each frequency.
        short_factor: Vec<f64>,
        /// Divisors beyond it.
        long_factor: Vec<f64>,
        /// Context before extension.
        original_max_position_embeddings: f64,
        /// Multiplies cos and sin.
        attention_factor: f64,
    },
}

/// The numbers a rotation needs.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeFrequencies {
    /// `head_dim / 2` angles per position, in radians.
    pub inverse: Vec<f64>,
    /// Multiplies cos and sin.
    pub attention_factor: f64,
}

impl RopeSpec {
    /// Inverse frequencies for heads of `head_dim` features and sequences of at most
    /// `sequence_length` tokens, in a model trained for `max_position_embeddings`.
    pub fn frequencies(
        &self,
        head_dim: usize,
        sequence_length: usize,
        max_position_embeddings: usize,
    ) -> RopeFrequencies {
        let dim = head_dim as f64;
        let pairs = head_dim / 2;
        let series = |base: f64| -> Vec<f64> {
            (0..pairs).map(|j| base.powf(-2.0 * j as f64 / dim)).collect()
        };
        let plain = |inverse| RopeFrequencies { inverse, attention_factor: 1.0 };
        match &self.scaling {
            RopeScaling::Default => plain(series(self.theta)),
            RopeScaling::Linear { factor } => {
                plain(series(self.theta).into_iter().map(|f| f / factor).collect())
            }
            &RopeScaling::Dynamic { factor } => {
                let trained = max_position_embeddings as f64;
                let length = (sequence_length as f64).max(trained);
                let stretch = factor * length / trained - (factor - 1.0);
                plain(series(self.theta * stretch.powf(dim / (dim - 2.0).max(1.0))))
            }
            &RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings: original,
            } => {
                let blend = |frequency: f64| {
                    let wavelength = 2.0 * PI / frequency;
                    if wavelength < original / high_freq_factor {
                        frequency
                    } else if wavelength > original / low_freq_factor {
                        frequency / factor
                    } else {
                        let smooth = (original / wavelength - low_freq_factor)
                            / (high_freq_factor - low_freq_factor);
                        (1.0 - smooth) * frequency / factor + smooth * frequency
                    }
                };
                plain(series(self.theta).into_iter().map(blend).collect())
            }
            &RopeScaling::Yarn {
                factor,
                original_max_position_embeddings: original,
                beta_fast,
                beta_slow,
                attention_factor,
                truncate,
            } => {
                let feature = |rotations: f64| {
                    dim * (original / (rotations * 2.0 * PI)).ln() / (2.0 * self.theta.ln())
                };
                let (mut low, mut high) = (feature(beta_fast), feature(beta_slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                let (low, mut high) = (low.max(0.0), high.min(dim - 1.0));
                if low == high {
                    high += 0.001;
                }
                let inverse = series(self.theta)
                    .into_iter()
                    .enumerate()
                    .map(|(j, kept)| {
                        let interpolated = ((j as f64 - low) / (high - low)).clamp(0.0, 1.0);
                        kept / factor * interpolated + kept * (1.0 - interpolated)
                    })
                    .collect();
                RopeFrequencies { inverse, attention_factor }
            }
            RopeScaling::LongRope {
                short_factor,
                long_factor,
                original_max_position_embeddings: original,
                attention_factor,
            } => {
                let long = sequence_length as f64 > *original;
                let divisors = if long { long_factor } else { short_factor };
                let inverse = series(self.theta).into_iter().zip(divisors).map(|(f, by)| f / by);
                RopeFrequencies { inverse: inverse.collect(), attention_factor: *attention_factor }
            }
        }
    }
}

/// LongRoPE's default attention factor, √(1 + ln(factor) / ln(original context)).
pub(crate) fn longrope_mscale(factor: f64, original: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() }
}

/// YaRN's default attention factor, 0.1·m·ln(factor) + 1.
pub(crate) fn yarn_mscale(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_frequencies_are_the_geometric_series() {
        let rope = RopeSpec { theta: 10_000.0, scaling: RopeScaling::Default };
        let got = rope.frequencies(8, 16, 16).inverse;
        for (got, expected) in got.iter().zip([1.0, 0.1, 0.01, 0.001]) {
            assert!((got - expected).abs() < 1e-15, "{got} {expected}");
        }
    }

    #[test]
    fn dynamic_scaling_does_nothing_within_the_trained_context() {
        let dynamic = RopeSpec { theta: 1e4, scaling: RopeScaling::Dynamic { factor: 4.0 } };
        let plain = RopeSpec { theta: 1e4, scaling: RopeScaling::Default };
        assert_eq!(dynamic.frequencies(64, 512, 2048), plain.frequencies(64, 512, 2048));
        assert_ne!(dynamic.frequencies(64, 4096, 2048), plain.frequencies(64, 4096, 2048));
    }

    #[test]
    fn longrope_divides_by_the_list_of_the_sequences_length() {
        let scaling = RopeScaling::LongRope {
            short_factor: vec![1.0, 2.0],
            long_factor: vec![4.0, 8.0],
            original_max_position_embeddings: 16.0,
            attention_factor: 1.5,
        };
        let rope = RopeSpec { theta: 1e4, scaling };
        let found = |length| rope.frequencies(4, length, 64);
        assert_eq!(found(16).inverse, [1.0, 0.01 / 2.0]);
        assert_eq!(found(17).inverse, [1.0 / 4.0, 0.01 / 8.0]);
        assert_eq!(found(17).attention_factor, 1.5);
        assert!(
            (longrope_mscale(32.0, 4096.0) - 1.190_238).abs() < 1e-6,
            "that of Phi-3 mini 128k"
        );
    }

    #[test]
    fn llama3_keeps_high_frequencies_and_divides_low_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192.0,
        };
        let scaled = RopeSpec { theta: 5e5, scaling }.frequencies(128, 1, 131_072).inverse;
        let plain =
            RopeSpec { theta: 5e5, scaling: RopeScaling::Default }.frequencies(128, 1, 1).inverse;
        assert_eq!(scaled[0], plain[0]);
        assert!((scaled[63] - plain[63] / 8.0).abs() < 1e-18);
        assert!(scaled.windows(2).all(|pair| pair[0] > pair[1]), "frequencies fall monotonically");
    }
}
