//! The paper's statements on variance and gradients as numbers: its recursions, its bounds, and the
//! fits that a measurement is held against them with (arXiv 2502.05795 v5, Lemmas 3.2 and 4.1,
//! Theorems 3.3 and 4.2).
//!
//! The lemmas are stated up to constants, which are 1 here. Evaluated so, they do not all say what
//! the paper reads from them: eq. 31 grows like L²/4 and never exponentially, eq. 9 with σ² = ℓ is
//! e^(2√L) and not Θ(L), and eq. 15 with σ² = ℓ converges.

/// How what a branch adds is related to the stream it is added to (ρ of eq. 23).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Branches {
    /// A constant correlation, the case that the lemmas keep: each layer adds in proportion to σ.
    Correlated,
    /// ρ = 0, as for weights just drawn: variances add up.
    Independent,
}

/// σ² of the stream of a Pre-LN model, from σ²₁ = 1: eq. 31, σ²ₗ₊₁ = σ²ₗ(1 + 1/σₗ), or with
/// independent branches σ²ₗ₊₁ = σ²ₗ + 1. `layers` numbers, ℓ = 1, …, L.
pub fn pre_variance(layers: usize, branches: Branches) -> Vec<f64> {
    recursion(layers, |variance, _| match branches {
        Branches::Correlated => variance * (1.0 + 1.0 / variance.sqrt()),
        Branches::Independent => variance + 1.0,
    })
}

/// σ² of the stream of an LNS model, from σ²₁ = 1: eq. 54, σ²ₗ₊₁ = σ²ₗ(1 + 1/(√ℓ·σₗ)), or with
/// independent branches σ²ₗ₊₁ = σ²ₗ + 1/ℓ. `layers` numbers, ℓ = 1, …, L.
pub fn lns_variance(layers: usize, branches: Branches) -> Vec<f64> {
    recursion(layers, |variance, depth| match branches {
        Branches::Correlated => variance * (1.0 + 1.0 / (depth * variance).sqrt()),
        Branches::Independent => variance + 1.0 / depth,
    })
}

fn recursion(layers: usize, next: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    let mut depth = 0.0;
    let step = |variance: &f64| {
        depth += 1.0;
        Some(next(*variance, depth))
    };
    std::iter::successors(Some(1.0), step).take(layers).collect()
}

/// A and B of the bounds on ‖∂y_L/∂x₁‖₂.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoundConstants {
    /// A, which multiplies 1/σ.
    pub a: f64,
    /// B, which multiplies 1/σ².
    pub b: f64,
}

/// What the constants of eq. 36 are made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoundSizes {
    /// Features of the stream, the paper's d.
    pub hidden: usize,
    /// Features inside the MLP, the paper's d_ffn.
    pub intermediate: usize,
    /// Query heads, the paper's h.
    pub heads: usize,
    /// Features of a head, the paper's d_head.
    pub head_dim: usize,
    /// Tokens of the sequence, the paper's s.
    pub tokens: usize,
    /// Variance of the entries of the weight matrices, the paper's σ².
    pub weight_variance: f64,
}

impl BoundConstants {
    /// A = B = 1: the product up to its constants.
    pub const UNIT: Self = Self { a: 1.0, b: 1.0 };

    /// A and B of eq. 9 from eq. 36, whose layer is a product of an MLP's and an attention's factor,
    /// (1 + σ²(√d + √d_ffn)²/σ_x′) · (1 + 2dh(√s + 2 + 1/√s)(σ²d√d_head + 1 + √(d_head/d))·σ²/σ_x),
    /// multiplied out with σ_x′ = σ_x.
    ///
    /// Derived for a two-matrix ReLU MLP and full multi-head attention. σ_x′ is the deviation between
    /// a layer's two sites, where branches that do not oppose the stream have made it larger.
    pub fn explicit(sizes: &BoundSizes) -> Self {
        let [d, inner, heads, head_dim, tokens] =
            [sizes.hidden, sizes.intermediate, sizes.heads, sizes.head_dim, sizes.tokens]
                .map(|size| size as f64);
        let weight = sizes.weight_variance;
        let mlp = weight * (d.sqrt() + inner.sqrt()).powi(2);
        let attention = 2.0
            * d
            * heads
            * (tokens.sqrt() + 2.0 + 1.0 / tokens.sqrt())
            * (weight * d * head_dim.sqrt() + 1.0 + (head_dim / d).sqrt())
            * weight;
        Self { a: mlp + attention, b: mlp * attention }
    }
}

/// Logarithm of the bound of eq. 9 on ‖∂y_L/∂x₁‖₂ of a Pre-LN model, Π(1 + A/σ + B/σ²).
///
/// One factor per given deviation of the stream that enters a layer. The paper's product ends at
/// L − 1; for y_L, which has passed L layers, give all L.
pub fn log_bound_pre(deviations: &[f64], constants: BoundConstants) -> f64 {
    let BoundConstants { a, b } = constants;
    deviations.iter().map(|deviation| (a / deviation + b / (deviation * deviation)).ln_1p()).sum()
}

/// Logarithm of the bound of eq. 15 on ‖∂y_L/∂x₁‖₂ of an LNS model, Π(1 + A/(ℓσ) + B/(ℓ²σ²)), from
/// ℓ and σ of each layer; see [`log_bound_pre`].
pub fn log_bound_lns(
    layers: impl IntoIterator<Item = (f64, f64)>,
    constants: BoundConstants,
) -> f64 {
    let scaled: Vec<f64> = layers.into_iter().map(|(depth, deviation)| depth * deviation).collect();
    log_bound_pre(&scaled, constants)
}

/// A straight line through points.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fit {
    /// The line's value at x = 0.
    pub intercept: f64,
    /// The line's rise for each unit of x.
    pub slope: f64,
    /// Share of the variance of y that the line explains; 1 for points of one height.
    pub r_squared: f64,
}

/// Least squares y = a + b·x. `None` with fewer than three points, without two different x, or if a
/// number is not finite.
pub fn linear_fit(points: &[(f64, f64)]) -> Option<Fit> {
    if points.len() < 3 || !points.iter().all(|(x, y)| x.is_finite() && y.is_finite()) {
        return None;
    }
    let count = points.len() as f64;
    let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / count;
    let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / count;
    let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
        points.iter().map(|(x, y)| f(x - mean_x, y - mean_y)).sum()
    };
    let (xx, xy, yy) = (sum(&|x, _| x * x), sum(&|x, y| x * y), sum(&|_, y| y * y));
    if xx <= 0.0 {
        return None;
    }
    let slope = xy / xx;
    let residual = sum(&|x, y| (y - slope * x).powi(2));
    let r_squared = if yy > 0.0 { 1.0 - residual / yy } else { 1.0 };
    Some(Fit { intercept: mean_y - slope * mean_x, slope, r_squared })
}

/// y = a + b·ln x; see [`linear_fit`].
pub fn logarithmic_fit(points: &[(f64, f64)]) -> Option<Fit> {
    linear_fit(&points.iter().map(|(x, y)| (x.ln(), *y)).collect::<Vec<_>>())
}

/// y = e^a·x^b: the slope is the exponent, R² is that of ln y. `None` also if a y is not above 0.
pub fn power_fit(points: &[(f64, f64)]) -> Option<Fit> {
    linear_fit(&points.iter().map(|(x, y)| (x.ln(), y.ln())).collect::<Vec<_>>())
}

/// y = e^(a + b·x): the slope is the growth of the logarithm, R² is that of ln y. `None` also if a y
/// is not above 0.
pub fn exponential_fit(points: &[(f64, f64)]) -> Option<Fit> {
    linear_fit(&points.iter().map(|(x, y)| (*x, y.ln())).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(values: &[f64]) -> f64 {
        values[values.len() - 1]
    }

    /// Asserts that a value is the written one to the digits that are written.
    fn assert_reads(value: f64, written: f64) {
        let unit =
            if written >= 100.0 { 0.5 } else { 10f64.powf(written.log10().floor() - 2.0) / 2.0 };
        assert!((value - written).abs() <= unit, "{value} does not read {written}");
    }

    fn by_depth(points: &[f64]) -> Vec<(f64, f64)> {
        points.iter().enumerate().map(|(i, y)| ((i + 1) as f64, *y)).collect()
    }

    #[test]
    fn correlated_branches_give_a_quarter_of_the_square_under_pre_ln_and_the_depth_under_lns() {
        for (layers, written) in [(12, 36.6), (24, 141.0), (32, 250.0), (100, 2453.0)] {
            assert_reads(last(&pre_variance(layers, Branches::Correlated)), written);
            let lns = lns_variance(layers, Branches::Correlated);
            assert_eq!(lns.len(), layers);
            for (depth, variance) in by_depth(&lns) {
                assert!((variance / depth - 1.0).abs() < 1e-14, "{variance} at {depth}");
            }
        }
        let long = pre_variance(100_000, Branches::Correlated);
        assert_reads(last(&long) / 1e9, 2.50);
        let tail = &by_depth(&long)[10_000..];
        let exponent = power_fit(tail).expect("many points").slope;
        assert!((exponent - 2.0).abs() < 1e-3, "{exponent}");
    }

    #[test]
    fn independent_branches_give_the_depth_under_pre_ln_and_its_logarithm_under_lns() {
        for (layers, written) in [(12, 4.02), (24, 4.73), (32, 5.03), (100, 6.18), (100_000, 13.1)]
        {
            let pre = last(&pre_variance(layers, Branches::Independent));
            assert!((pre - layers as f64).abs() < 1e-9);
            assert_reads(last(&lns_variance(layers, Branches::Independent)), written);
        }
        let fit = logarithmic_fit(&by_depth(&lns_variance(100, Branches::Independent)));
        let fit = fit.expect("many points");
        assert!((fit.slope - 1.0).abs() < 0.06 && fit.r_squared > 0.99, "{fit:?}");
    }

    #[test]
    fn the_bounds_with_given_variances_are_those_of_the_table() {
        let depths = |layers: usize| (1..=layers).map(|depth| depth as f64);
        for (layers, exponential, linear, lns) in [
            (12, 1.68, 6.2, 2.21),
            (24, 1.69, 9.3, 2.38),
            (100, 1.69, 20.0, 2.58),
            (100_000, 1.69, 636.0, 2.77),
        ] {
            let growing: Vec<f64> = depths(layers).map(|depth| (depth / 2.0).exp()).collect();
            assert_reads(log_bound_pre(&growing, BoundConstants::UNIT), exponential);
            let roots: Vec<f64> = depths(layers).map(f64::sqrt).collect();
            let bound = log_bound_pre(&roots, BoundConstants::UNIT);
            let unit = if linear < 100.0 { 0.05 } else { 0.5 };
            assert!((bound - linear).abs() <= unit, "{bound} does not read {linear}");
            let points = depths(layers).map(|depth| (depth, depth.sqrt()));
            assert_reads(log_bound_lns(points, BoundConstants::UNIT), lns);
        }
    }

    #[test]
    fn with_a_variance_equal_to_the_depth_the_pre_ln_bound_grows_as_twice_its_root() {
        let bound = |layers: usize| {
            let roots: Vec<f64> = (1..=layers).map(|depth| (depth as f64).sqrt()).collect();
            log_bound_pre(&roots, BoundConstants::UNIT)
        };
        let ratio = bound(1_000_000) / (2.0 * 1e3);
        assert!((ratio - 1.0).abs() < 0.01, "{ratio}");
    }

    #[test]
    fn explicit_constants_multiply_out_to_the_two_factors() {
        let sizes = BoundSizes {
            hidden: 4,
            intermediate: 16,
            heads: 2,
            head_dim: 4,
            tokens: 9,
            weight_variance: 0.25,
        };
        // MLP: ¼·(2 + 4)² = 9. Attention: 2·4·2·(3 + 2 + ⅓)·(¼·4·2 + 1 + 1)·¼ = 16·(16/3)·4·¼.
        let (mlp, attention) = (9.0, 256.0 / 3.0);
        let constants = BoundConstants::explicit(&sizes);
        let deviation = 0.7;
        let expected = (1.0 + mlp / deviation) * (1.0 + attention / deviation);
        let bound = log_bound_pre(&[deviation], constants).exp();
        assert!((bound / expected - 1.0).abs() < 1e-12, "{bound}, {expected}");
    }

    #[test]
    fn fits_find_the_curve_that_made_the_points_and_only_that_one_fits() {
        let xs = || (1..=24).map(f64::from);
        let made = |f: &dyn Fn(f64) -> f64| xs().map(|x| (x, f(x))).collect::<Vec<_>>();
        type Maker = fn(&[(f64, f64)]) -> Option<Fit>;
        let fits: [Maker; 4] = [linear_fit, logarithmic_fit, power_fit, exponential_fit];
        let linear = |x: f64| 3.0 + 0.5 * x;
        let logarithmic = |x: f64| linear(x.ln());
        let power = |x: f64| linear(x.ln()).exp();
        let exponential = |x: f64| linear(x).exp();
        let curves: [&dyn Fn(f64) -> f64; 4] = [&linear, &logarithmic, &power, &exponential];
        for (made_by, curve) in curves.iter().enumerate() {
            for (fitted_by, fit) in fits.iter().enumerate() {
                let fit = fit(&made(curve)).expect("24 points");
                if made_by == fitted_by {
                    assert!((fit.slope - 0.5).abs() < 1e-9 && (fit.intercept - 3.0).abs() < 1e-9);
                    assert!(fit.r_squared > 1.0 - 1e-12);
                } else {
                    assert!(fit.r_squared < 0.999, "{made_by} by {fitted_by}: {fit:?}");
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_fitted_is_no_fit() {
        assert_eq!(linear_fit(&[(1.0, 2.0), (2.0, 3.0)]), None);
        assert_eq!(linear_fit(&[(1.0, 2.0), (1.0, 3.0), (1.0, 4.0)]), None);
        assert_eq!(power_fit(&[(1.0, 2.0), (2.0, 0.0), (3.0, 4.0)]), None);
        assert_eq!(power_fit(&[(1.0, 2.0), (2.0, -1.0), (3.0, 4.0)]), None);
        let level = linear_fit(&[(1.0, 2.0), (2.0, 2.0), (3.0, 2.0)]).expect("a level line");
        assert_eq!((level.slope, level.r_squared), (0.0, 1.0));
    }
}
