//! By which curve the stream's variance grows with depth.

use lns_record::{GrowthModel, StreamRecord, VarianceGrowth};

/// The growth of the stream's variance with depth: of the curves flat, a + bℓ, aℓ^p and a·e^(kℓ)
/// through the median variance of stream\[1..=L\], the one with the best Schwarz criterion of the
/// logarithms' residuals. `None` with fewer than four layers.
pub fn fit_growth(stream: &[StreamRecord]) -> Option<VarianceGrowth> {
    let points: Vec<(f64, f64)> = stream
        .iter()
        .skip(1)
        .map(|s| (s.index as f64, s.typical()))
        .filter(|(_, variance)| *variance > 0.0 && variance.is_finite())
        .map(|(index, variance)| (index, variance.ln()))
        .collect();
    if points.len() < 4 {
        return None;
    }
    let count = points.len() as f64;
    let exponential = line(&points, |depth| depth);
    let polynomial = line(&points, f64::ln);
    let (linear_slope, linear_residual) = linear(&points);
    let mean_log = points.iter().map(|p| p.1).sum::<f64>() / count;
    let flat: f64 = points.iter().map(|p| (p.1 - mean_log).powi(2)).sum();
    // Places in the list below.
    const LINEAR: usize = 1;
    const POLYNOMIAL: usize = 2;
    let candidates = [
        (GrowthModel::Flat, 0.0, flat, 1.0),
        (GrowthModel::Linear, linear_slope, linear_residual, 2.0),
        (GrowthModel::Polynomial, polynomial.0, polynomial.1, 2.0),
        (GrowthModel::Exponential, exponential.0, exponential.1, 2.0),
    ];
    // Residuals below a relative error of 1e-6 are rounding, not evidence.
    let criterion = |residual: f64, parameters: f64| {
        count * (residual / count).max(1e-12).ln() + parameters * count.ln()
    };
    let scores = candidates.map(|(_, _, residual, parameters)| criterion(residual, parameters));
    let best = (0..4).min_by(|a, b| scores[*a].total_cmp(&scores[*b]))?;
    let weights = scores.map(|score| ((scores[best] - score) / 2.0).exp());
    // A power of one is a line through the origin, and a line is what people call it.
    let is_line = [LINEAR, POLYNOMIAL].contains(&best) && (polynomial.0 - 1.0).abs() < 0.05;
    let (model, rate, _, _) = candidates[if is_line { LINEAR } else { best }];
    let weight = if is_line { weights[LINEAR] + weights[POLYNOMIAL] } else { weights[best] };
    let confidence = weight / weights.iter().sum::<f64>();
    let (first, last) = (points[0].1, points[points.len() - 1].1);
    Some(VarianceGrowth { model, rate, confidence, ratio: (last - first).exp() })
}

/// Least squares of the log variance on `f(depth)`: slope and sum of squared residuals.
fn line(points: &[(f64, f64)], f: impl Fn(f64) -> f64) -> (f64, f64) {
    let count = points.len() as f64;
    let mean_x = points.iter().map(|p| f(p.0)).sum::<f64>() / count;
    let mean_y = points.iter().map(|p| p.1).sum::<f64>() / count;
    let covariance: f64 = points.iter().map(|p| (f(p.0) - mean_x) * (p.1 - mean_y)).sum();
    let variance: f64 = points.iter().map(|p| (f(p.0) - mean_x).powi(2)).sum();
    let slope = covariance / variance;
    let residual = points.iter().map(|p| (p.1 - mean_y - slope * (f(p.0) - mean_x)).powi(2)).sum();
    (slope, residual)
}

/// Best a + bℓ with a ≥ 0, b > 0 in the sense of squared residuals of the logarithm: with a = r·b the
/// fit of ln(ℓ + r) + ln b has a closed form for b, and r is searched over a logarithmic grid.
fn linear(points: &[(f64, f64)]) -> (f64, f64) {
    let count = points.len() as f64;
    let fit = |ratio: f64| {
        let log_slope = points.iter().map(|p| p.1 - (p.0 + ratio).ln()).sum::<f64>() / count;
        let residual: f64 =
            points.iter().map(|p| (p.1 - log_slope - (p.0 + ratio).ln()).powi(2)).sum();
        (log_slope.exp(), residual)
    };
    let ratios =
        std::iter::once(0.0).chain((-200..=300).map(|step| 10f64.powf(step as f64 * 0.01)));
    ratios.map(fit).min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0.0, f64::INFINITY))
}
