//! From the measurements to a verdict in plain words. Pure: records in, record out.

use lns_record::{
    BlockRecord, GrowthModel, LayerRecord, StreamRecord, VarianceGrowth, VerdictRecord,
    block_in_words, layers_in_words, with_minus,
};

/// A layer is idle when its removal costs less than this many nats per token, with two standard
/// errors to spare: 0.02 nats are 2 % of perplexity.
const IDLE_THRESHOLD: f64 = 0.02;

/// Below this weight the best curve is named in the evidence only.
const SURE_OF_SHAPE: f64 = 0.6;

/// Judges a model by what was measured; each part is absent if its probe was not run.
pub fn judge(
    stream: &[StreamRecord],
    layers: &[LayerRecord],
    blocks: &[BlockRecord],
) -> VerdictRecord {
    let mut evidence = Vec::new();
    let removal = judge_removal(layers, &mut evidence);
    let growth = fit_growth(stream);
    if let Some(growth) = &growth {
        evidence.push(growth_sentence(growth, stream));
    }
    if let Some(share) = first_token_share(stream) {
        evidence.push(share);
    }
    evidence.extend(influence_sentence(layers));
    evidence.extend(block_sentence(blocks, layers.len()));
    let text = summary(layers.len(), removal.as_ref(), growth.as_ref());
    let (effective_depth, idle_layers) = match removal {
        Some(removal) => (Some(removal.effective_depth), removal.idle),
        None => (None, Vec::new()),
    };
    VerdictRecord {
        effective_depth,
        idle_threshold: effective_depth.map(|_| IDLE_THRESHOLD),
        idle_layers,
        variance_growth: growth,
        text,
        evidence,
    }
}

struct RemovalVerdict {
    effective_depth: f64,
    idle: Vec<usize>,
    /// Idle layers in the second half of the model.
    idle_deep: usize,
    /// Whether every layer's removal costs more than the threshold, with two standard errors to spare.
    all_needed: bool,
}

fn judge_removal(layers: &[LayerRecord], evidence: &mut Vec<String>) -> Option<RemovalVerdict> {
    let removals: Vec<_> =
        layers.iter().map(|layer| Some((layer.layer, layer.removal?))).collect::<Option<_>>()?;
    let dearest = removals.iter().max_by(|a, b| a.1.delta_nll.total_cmp(&b.1.delta_nll))?;
    let cheapest = removals.iter().min_by(|a, b| a.1.delta_nll.total_cmp(&b.1.delta_nll))?;
    let idle: Vec<usize> = removals
        .iter()
        .filter(|(_, r)| r.stderr.is_some_and(|e| r.delta_nll + 2.0 * e < IDLE_THRESHOLD))
        .map(|(layer, _)| *layer)
        .collect();
    let all_needed = removals
        .iter()
        .all(|(_, r)| r.stderr.is_some_and(|e| r.delta_nll - 2.0 * e > IDLE_THRESHOLD));
    let effective_depth =
        effective_depth(&removals.iter().map(|r| r.1.delta_nll).collect::<Vec<_>>());
    evidence.push(format!(
        "Removing one layer costs between {} nats (layer {}) and {} nats (layer {}) per token.",
        number(cheapest.1.delta_nll),
        cheapest.0,
        number(dearest.1.delta_nll),
        dearest.0
    ));
    if removals.iter().any(|(_, r)| r.stderr.is_none()) {
        evidence.push(
            "There was one window, so removal costs have no error bars and no layer can be called \
             idle; more text gives them."
                .to_owned(),
        );
    }
    let half = layers.len() / 2;
    let idle_deep = idle.iter().filter(|layer| **layer >= half).count();
    Some(RemovalVerdict { effective_depth, idle, idle_deep, all_needed })
}

/// e^(entropy of the shares): how many layers of equal worth would be as evenly spread. Removals that
/// help count as worth nothing.
fn effective_depth(deltas: &[f64]) -> f64 {
    let worth: Vec<f64> = deltas.iter().map(|delta| delta.max(0.0)).collect();
    let total: f64 = worth.iter().sum();
    if total <= 0.0 {
        return 0.0;
    }
    let entropy: f64 = worth
        .iter()
        .filter(|worth| **worth > 0.0)
        .map(|worth| -(worth / total) * (worth / total).ln())
        .sum();
    entropy.exp()
}

/// The growth of the stream's variance with depth: of the curves flat, a + bℓ, aℓ^p and a·e^(kℓ)
/// through `variance_without_first` of stream\[1..=L\], the one with the best Schwarz criterion of
/// the logarithms' residuals. `None` with fewer than four layers.
pub fn fit_growth(stream: &[StreamRecord]) -> Option<VarianceGrowth> {
    let points: Vec<(f64, f64)> = stream
        .iter()
        .skip(1)
        .filter(|s| s.variance_without_first > 0.0 && s.variance_without_first.is_finite())
        .map(|s| (s.index as f64, s.variance_without_first.ln()))
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

fn growth_sentence(growth: &VarianceGrowth, stream: &[StreamRecord]) -> String {
    let shape = match growth.model {
        GrowthModel::Flat => "level".to_owned(),
        GrowthModel::Linear => format!("linear, by {} per layer", number(growth.rate)),
        GrowthModel::Polynomial => format!("depth to the power {}", number(growth.rate)),
        GrowthModel::Exponential => {
            format!("exponential, by {} % per layer", number((growth.rate.exp() - 1.0) * 100.0))
        }
    };
    let at = |index: usize| stream.get(index).map_or(f64::NAN, |s| s.variance_without_first);
    format!(
        "The stream's variance (first token left out) best fits: {shape} (weight among four curves: \
         {:.0} %); it leaves layer 0 at {} and the last layer at {}, a factor of {}.",
        growth.confidence * 100.0,
        number(at(1)),
        number(at(stream.len().saturating_sub(1))),
        number(growth.ratio)
    )
}

/// Says so when the first token dominates the variance: a massive activation.
fn first_token_share(stream: &[StreamRecord]) -> Option<String> {
    let largest = stream
        .iter()
        .filter(|s| s.variance_without_first > 0.0)
        .max_by(|a, b| ratio(a).total_cmp(&ratio(b)))?;
    (ratio(largest) > 3.0).then(|| {
        format!(
            "At stream {} the first token alone lifts the mean variance from {} to {}: a massive \
             activation. The variance is also given without it.",
            largest.index,
            number(largest.variance_without_first),
            number(largest.variance)
        )
    })
}

fn ratio(stream: &StreamRecord) -> f64 {
    stream.variance / stream.variance_without_first
}

fn influence_sentence(layers: &[LayerRecord]) -> Option<String> {
    let influence: Vec<f64> =
        layers.iter().map(|layer| layer.block_influence).collect::<Option<_>>()?;
    if influence.len() < 2 {
        return None;
    }
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let (first, second) = influence.split_at(influence.len() / 2);
    Some(format!(
        "Block influence (1 − cosine of a layer's input and output) averages {} in the first half \
         and {} in the second.",
        number(mean(first)),
        number(mean(second))
    ))
}

fn block_sentence(blocks: &[BlockRecord], layers: usize) -> Option<String> {
    let quarter = blocks.iter().find(|block| block.n == (layers / 4).max(1))?;
    Some(format!(
        "The most redundant block of {} layers is {} (angular distance {} across it).",
        quarter.n,
        block_in_words(quarter.start, quarter.n),
        number(quarter.distance)
    ))
}

fn summary(
    layers: usize,
    removal: Option<&RemovalVerdict>,
    growth: Option<&VarianceGrowth>,
) -> String {
    let Some(removal) = removal else {
        return match growth {
            Some(growth) => format!(
                "Layer removal was not measured, so which layers idle is open; {}.",
                growth_in_short(growth)
            ),
            None => "Too little was measured for a verdict.".to_owned(),
        };
    };
    let idle = match removal.idle.len() {
        0 if removal.all_needed => {
            format!("No layer is idle: removing any one costs more than {IDLE_THRESHOLD} nats.")
        }
        0 => format!(
            "No layer is surely idle (costing less than {IDLE_THRESHOLD} nats with two standard errors \
             to spare)."
        ),
        count => {
            let deep = match layers {
                1 => String::new(),
                _ => format!(", {} of them in the deeper half", removal.idle_deep),
            };
            format!(
                "{count} of {layers} layers idle ({}){deep}: removing any one costs less than \
                 {IDLE_THRESHOLD} nats per token.",
                layers_in_words(&removal.idle)
            )
        }
    };
    let depth = format!(
        "The cost of removal is spread as over {:.1} equally useful layers of {layers}",
        removal.effective_depth
    );
    match growth {
        Some(growth) => format!("{idle} {depth}; {}.", growth_in_short(growth)),
        None => format!("{idle} {depth}."),
    }
}

/// "the stream's variance grows 416-fold, exponentially"
fn growth_in_short(growth: &VarianceGrowth) -> String {
    if growth.model == GrowthModel::Flat {
        return "the stream's variance stays level with depth".to_owned();
    }
    let change = if growth.ratio >= 1.0 {
        format!("the stream's variance grows {}-fold", number(growth.ratio))
    } else {
        format!("the stream's variance falls to {} of its start", number(growth.ratio))
    };
    match growth.model {
        _ if growth.confidence < SURE_OF_SHAPE => {
            format!("{change}, by what curve is undecided")
        }
        GrowthModel::Flat | GrowthModel::Linear => format!("{change}, linearly"),
        GrowthModel::Polynomial => format!("{change}, polynomially"),
        GrowthModel::Exponential => format!("{change}, exponentially"),
    }
}

/// Three significant digits.
fn number(value: f64) -> String {
    let magnitude = value.abs();
    let written = match magnitude {
        _ if magnitude == 0.0 => "0".to_owned(),
        m if !(1e-3..1e5).contains(&m) => format!("{value:.2e}"),
        m if m >= 100.0 => format!("{value:.0}"),
        m if m >= 10.0 => format!("{value:.1}"),
        m if m >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    };
    with_minus(&written)
}

#[cfg(test)]
mod tests {
    use lns_record::RemovalRecord;

    use super::*;

    fn stream(f: impl Fn(f64) -> f64, layers: usize) -> Vec<StreamRecord> {
        let record = |index| {
            let variance = f(index as f64);
            StreamRecord { index, variance, variance_without_first: variance, rms: variance.sqrt() }
        };
        (0..=layers).map(record).collect()
    }

    fn layers(deltas: &[f64], stderr: f64) -> Vec<LayerRecord> {
        let record = |(layer, delta_nll): (usize, &f64)| LayerRecord {
            layer,
            removal: Some(RemovalRecord { delta_nll: *delta_nll, stderr: Some(stderr) }),
            ..LayerRecord::default()
        };
        deltas.iter().enumerate().map(record).collect()
    }

    #[test]
    fn each_kind_of_growth_is_recognised_with_its_rate() {
        // A deterministic ripple of ±5 %, so that no curve fits exactly.
        let ripple = |depth: f64| 1.0 + 0.05 * (depth * 2.7).sin();
        type Case = (GrowthModel, f64, fn(f64) -> f64);
        let cases: [Case; 5] = [
            (GrowthModel::Flat, 0.0, |_| 3.0),
            (GrowthModel::Linear, 2.0, |l| 5.0 + 2.0 * l),
            (GrowthModel::Linear, 5.1, |l| 5.1 * l),
            (GrowthModel::Polynomial, 2.0, |l| 0.3 * l * l),
            (GrowthModel::Exponential, 0.2, |l| 0.5 * (0.2 * l).exp()),
        ];
        for (model, rate, f) in cases {
            let growth = fit_growth(&stream(|l| f(l) * ripple(l), 30)).expect("enough layers");
            assert_eq!(growth.model, model, "{growth:?}");
            assert!((growth.rate - rate).abs() <= 0.1 * rate.max(0.1), "{growth:?}");
            assert!(growth.confidence > 0.6, "{growth:?}");
        }
    }

    #[test]
    fn growth_needs_four_layers_and_positive_numbers() {
        assert_eq!(fit_growth(&stream(|l| l + 1.0, 3)), None);
        assert_eq!(fit_growth(&stream(|_| 0.0, 30)), None);
        assert_eq!(fit_growth(&[]), None);
    }

    #[test]
    fn effective_depth_counts_equal_layers() {
        assert!((effective_depth(&[0.3; 12]) - 12.0).abs() < 1e-9);
        assert!((effective_depth(&[2.0, 0.0, -0.1]) - 1.0).abs() < 1e-12);
        assert_eq!(effective_depth(&[-0.1, 0.0]), 0.0);
    }

    #[test]
    fn a_layer_is_idle_only_with_two_standard_errors_to_spare() {
        let verdict = judge(&[], &layers(&[0.5, 0.012, 0.001, 0.03], 0.005), &[]);
        assert_eq!(verdict.idle_layers, [2]);
        assert!(verdict.text.contains("1 of 4 layers idle (2), 1 of them in the deeper half"));
        let verdict = judge(&[], &layers(&[0.5, 0.4, 0.3, 0.2], 0.005), &[]);
        assert!(verdict.idle_layers.is_empty() && verdict.text.contains("No layer is idle"));
        let verdict = judge(&[], &layers(&[0.5, 0.03, 0.3, -0.2], 0.2), &[]);
        assert!(verdict.idle_layers.is_empty() && verdict.text.contains("surely idle"));
    }

    #[test]
    fn idle_layers_and_blocks_are_ranges_whose_ends_belong_to_them() {
        let mut deltas = [0.0; 24];
        (deltas[0], deltas[1]) = (3.0, -0.5);
        let block = BlockRecord { n: 6, start: 12, distance: 0.1 };
        let verdict = judge(&[], &layers(&deltas, 0.001), &[block]);
        assert!(verdict.text.contains("23 of 24 layers idle (1–23), 12"), "{}", verdict.text);
        let told = verdict.evidence.join(" ");
        assert!(told.contains("block of 6 layers is 12–17 (angular"), "{told}");
        assert!(told.contains("between −0.500 nats (layer 1)"), "{told}");
    }

    #[test]
    fn one_window_calls_no_layer_idle() {
        let mut layers = layers(&[0.5, 0.0, -0.1, 0.3], 0.0);
        layers.iter_mut().for_each(|layer| {
            layer.removal = layer.removal.map(|removal| RemovalRecord { stderr: None, ..removal });
        });
        let verdict = judge(&[], &layers, &[]);
        assert!(verdict.idle_layers.is_empty() && verdict.text.contains("surely idle"));
        assert!(verdict.evidence.iter().any(|sentence| sentence.contains("one window")));
    }

    #[test]
    fn a_falling_variance_does_not_grow_and_an_open_shape_is_called_open() {
        let falling = judge(&stream(|l| 8.0 * (-0.2 * l).exp(), 20), &[], &[]);
        assert!(falling.text.contains("falls to") && falling.text.contains("exponentially"));
        let four = judge(&stream(|l| [0.0, 1.0, 1.3, 1.1, 1.5][l as usize], 4), &[], &[]);
        assert!(!four.text.contains("linearly") && !four.text.contains("exponentially"));
    }

    #[test]
    fn what_was_not_measured_is_not_claimed() {
        let verdict = judge(&stream(|l| l + 1.0, 12), &[LayerRecord::default()], &[]);
        assert_eq!((verdict.effective_depth, verdict.idle_threshold), (None, None));
        assert!(verdict.text.contains("not measured"), "{}", verdict.text);
        assert!(judge(&[], &[], &[]).text.contains("Too little"));
    }
}
