//! From the measurements to a verdict in plain words. Pure: records in, record out.

use lns_record::{
    BlockRecord, DiagnoseRecord, GrowthModel, HeavyToken, LayerRecord, StreamRecord,
    VarianceGrowth, VerdictRecord, block_in_words, counted, layers_in_words, with_minus,
};

/// A layer is idle when its removal surely costs less than this many nats per token: 0.02 nats are
/// 2 % of perplexity.
const IDLE_THRESHOLD: f64 = 0.02;

/// Judges what was measured, whatever verdict the record has; each part is absent if its probe was not
/// run.
pub fn judge(record: &DiagnoseRecord) -> VerdictRecord {
    let DiagnoseRecord { stream, layers, blocks, .. } = record;
    let mut evidence = Vec::new();
    let removal = judge_removal(record, &mut evidence);
    let growth = fit_growth(stream);
    if let Some(growth) = &growth {
        evidence.push(growth_sentence(growth, stream));
    }
    evidence.extend(heavy_sentences(record));
    evidence.extend(influence_sentence(layers));
    evidence.extend(block_sentence(blocks, layers.len()));
    let text = summary(record, removal.as_ref(), growth.as_ref());
    let is_judged = removal.as_ref().is_some_and(|removal| removal.idle.is_some());
    VerdictRecord {
        effective_depth: removal.as_ref().map(|removal| removal.effective_depth),
        idle_threshold: is_judged.then_some(IDLE_THRESHOLD),
        idle_layers: removal.and_then(|removal| removal.idle).unwrap_or_default(),
        variance_growth: growth,
        text,
        evidence,
    }
}

struct RemovalVerdict {
    effective_depth: f64,
    /// The layers whose removal surely costs less than the threshold; `None` when there are too few
    /// windows to judge.
    idle: Option<Vec<usize>>,
    /// Whether every layer's removal surely costs more.
    all_needed: bool,
}

fn judge_removal(record: &DiagnoseRecord, evidence: &mut Vec<String>) -> Option<RemovalVerdict> {
    let layers = &record.layers;
    let removals: Vec<_> =
        layers.iter().map(|layer| Some((layer.layer, layer.removal?))).collect::<Option<_>>()?;
    let dearest = removals.iter().max_by(|a, b| a.1.delta_nll.total_cmp(&b.1.delta_nll))?;
    let cheapest = removals.iter().min_by(|a, b| a.1.delta_nll.total_cmp(&b.1.delta_nll))?;
    evidence.push(format!(
        "Removing one layer costs between {} nats (layer {}) and {} nats (layer {}) per token.",
        number(cheapest.1.delta_nll),
        cheapest.0,
        number(dearest.1.delta_nll),
        dearest.0
    ));
    let idle = (record.text.windows >= VerdictRecord::WINDOWS_TO_JUDGE).then(|| {
        let idle = removals
            .iter()
            .filter(|(_, r)| r.margin.is_some_and(|m| r.delta_nll + m < IDLE_THRESHOLD));
        idle.map(|(layer, _)| *layer).collect()
    });
    let all_needed =
        removals.iter().all(|(_, r)| r.margin.is_some_and(|m| r.delta_nll - m > IDLE_THRESHOLD));
    let deltas: Vec<f64> = removals.iter().map(|r| r.1.delta_nll).collect();
    Some(RemovalVerdict { effective_depth: effective_depth(&deltas), idle, all_needed })
}

/// Why idle layers are not judged, and what would help.
fn too_few(record: &DiagnoseRecord) -> String {
    let windows = record.text.windows;
    let least = VerdictRecord::WINDOWS_TO_JUDGE;
    format!(
        "Which layers idle cannot be judged on {}: an error over windows takes {least} \
         or more of them. Give more text, or cut it into windows of {} tokens (--window).",
        counted(windows, "window"),
        record.text.tokens / least
    )
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

fn growth_sentence(growth: &VarianceGrowth, stream: &[StreamRecord]) -> String {
    let shape = match growth.model {
        GrowthModel::Flat => "level".to_owned(),
        GrowthModel::Linear => format!("linear, by {} per layer", number(growth.rate)),
        GrowthModel::Polynomial => format!("depth to the power {}", number(growth.rate)),
        GrowthModel::Exponential => {
            format!("exponential, by {} % per layer", number((growth.rate.exp() - 1.0) * 100.0))
        }
    };
    let at = |index: usize| stream.get(index).map_or(f64::NAN, StreamRecord::typical);
    format!(
        "The stream's variance (of the median token) best fits: {shape} (weight among four curves: \
         {:.0} %); it leaves layer 0 at {} and the last layer at {}, a factor of {}.",
        growth.confidence * 100.0,
        number(at(1)),
        number(at(stream.len().saturating_sub(1))),
        number(growth.ratio)
    )
}

/// Which tokens carry massive activations, the heaviest first, and what they do to the mean.
fn heavy_sentences(record: &DiagnoseRecord) -> Vec<String> {
    /// Kinds of tokens that are named; the record has all.
    const NAMED: usize = 4;
    let kinds = HeavyToken::kinds(&record.heavy_tokens);
    if kinds.is_empty() {
        return Vec::new();
    }
    let named = kinds.iter().take(NAMED).map(|kind| {
        let times = if kind.count > 1 { format!(", {} times", kind.count) } else { String::new() };
        format!(
            "{:?} (id {}{times}) {}, up to {} times",
            kind.text,
            kind.id,
            since(kind.layer),
            number(kind.ratio)
        )
    });
    let mut named = named.collect::<Vec<_>>().join("; ");
    if kinds.len() > NAMED {
        named += &format!("; and {} more", counted(kinds.len() - NAMED, "kind"));
    }
    let mut sentences = vec![format!(
        "Massive activations: {} of {} tokens carry more than {} times the median token's variance: \
         {named}.",
        record.heavy_tokens.len(),
        record.text.tokens,
        HeavyToken::FACTOR
    )];
    let lifted = record.stream.iter().max_by(|a, b| lift(a).total_cmp(&lift(b)));
    if let Some(most) = lifted.filter(|most| lift(most) > 1.5) {
        sentences.push(format!(
            "At stream {} such tokens lift the mean variance over all tokens to {}, where the median \
             token has {} and the mean without first tokens and separators is {}.",
            most.index,
            number(most.variance),
            number(most.typical()),
            number(most.content())
        ));
    }
    sentences
}

/// How far the mean over all tokens is above the median.
fn lift(stream: &StreamRecord) -> f64 {
    if stream.typical() > 0.0 { stream.variance / stream.typical() } else { 0.0 }
}

/// "from layer 11 on"
fn since(layer: Option<usize>) -> String {
    layer.map_or_else(
        || "from the embedding on".to_owned(),
        |layer| format!("from layer {layer} on"),
    )
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
        "The most redundant block of {} is {} (angular distance {} across it).",
        counted(quarter.n, "layer"),
        block_in_words(quarter.start, quarter.n),
        number(quarter.distance)
    ))
}

fn summary(
    record: &DiagnoseRecord,
    removal: Option<&RemovalVerdict>,
    growth: Option<&VarianceGrowth>,
) -> String {
    let layers = record.layers.len();
    let mut text = match (removal, growth) {
        (None, None) => return "Too little was measured for a verdict.".to_owned(),
        (None, Some(growth)) => format!(
            "Layer removal was not measured, so which layers idle is open; {}.",
            growth_in_short(growth)
        ),
        (Some(removal), growth) => {
            let growth = growth.map(|growth| format!("; {}", growth_in_short(growth)));
            format!(
                "{} The cost of removal is spread as over {:.1} equally useful layers of {layers}{}.",
                idle_sentence(removal, record),
                removal.effective_depth,
                growth.unwrap_or_default()
            )
        }
    };
    if let Some(heaviest) = record.heavy_tokens.iter().max_by(|a, b| a.ratio.total_cmp(&b.ratio)) {
        text += &format!(
            " {} of {} tokens carry massive activations, the heaviest ({:?}) {}, {} times the median \
             token's variance.",
            record.heavy_tokens.len(),
            record.text.tokens,
            heaviest.text,
            since(heaviest.layer),
            number(heaviest.ratio)
        );
    }
    text
}

fn idle_sentence(removal: &RemovalVerdict, record: &DiagnoseRecord) -> String {
    let layers = record.layers.len();
    let Some(idle) = &removal.idle else { return too_few(record) };
    match idle.len() {
        0 if removal.all_needed => {
            format!("No layer is idle: removing any one costs more than {IDLE_THRESHOLD} nats.")
        }
        0 => format!(
            "No layer is surely idle (costing less than {IDLE_THRESHOLD} nats up to the end of its 95 % \
             interval)."
        ),
        count => {
            let deep = idle.iter().filter(|layer| **layer >= layers / 2).count();
            let deep = match layers {
                1 => String::new(),
                _ => format!(", {deep} of them in the deeper half"),
            };
            format!(
                "{count} of {} idle ({}){deep}: removing any one costs less than \
                 {IDLE_THRESHOLD} nats per token.",
                counted(layers, "layer"),
                layers_in_words(idle)
            )
        }
    }
}

/// "the stream's variance grows 416-fold, exponentially"
fn growth_in_short(growth: &VarianceGrowth) -> String {
    let change = if growth.ratio >= 1.0 {
        format!("the stream's variance grows {}-fold", number(growth.ratio))
    } else {
        format!("the stream's variance falls to {} of its start", number(growth.ratio))
    };
    match growth.model {
        _ if !growth.is_decided() => format!("{change}, by what curve is undecided"),
        GrowthModel::Flat => "the stream's variance stays level with depth".to_owned(),
        GrowthModel::Linear => format!("{change}, linearly"),
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
    use lns_record::{BaselineRecord, RemovalRecord, TextRecord};

    use super::*;

    fn record(
        stream: Vec<StreamRecord>,
        layers: Vec<LayerRecord>,
        blocks: Vec<BlockRecord>,
        windows: u64,
    ) -> DiagnoseRecord {
        DiagnoseRecord {
            name: String::new(),
            model: serde_json::Value::Null,
            text: TextRecord { files: Vec::new(), tokens: windows * 512, windows, window_len: 512 },
            baseline: BaselineRecord { nll: 3.0, perplexity: 3f64.exp(), nll_stderr: None },
            stream,
            heavy_tokens: Vec::new(),
            layers,
            angular_distance: Vec::new(),
            blocks,
            lens: Vec::new(),
            verdict: VerdictRecord::default(),
            probes: Vec::new(),
        }
    }

    /// The verdict of eight windows.
    fn judged(
        stream: Vec<StreamRecord>,
        layers: Vec<LayerRecord>,
        blocks: Vec<BlockRecord>,
    ) -> VerdictRecord {
        judge(&record(stream, layers, blocks, 8))
    }

    fn stream(f: impl Fn(f64) -> f64, layers: usize) -> Vec<StreamRecord> {
        let record = |index| {
            let variance = f(index as f64);
            // Only the median is what it should be: the others hang on a few tokens.
            StreamRecord {
                index,
                variance: 1e4,
                variance_without_first: 1e3,
                variance_content: Some(1e2),
                variance_median: Some(variance),
                rms: variance.sqrt(),
            }
        };
        (0..=layers).map(record).collect()
    }

    /// Removals with an interval of ±`margin`.
    fn layers(deltas: &[f64], margin: f64) -> Vec<LayerRecord> {
        let record = |(layer, delta_nll): (usize, &f64)| LayerRecord {
            layer,
            removal: Some(RemovalRecord {
                delta_nll: *delta_nll,
                stderr: Some(margin / 3.0),
                margin: Some(margin),
            }),
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
    fn a_layer_is_idle_only_when_its_whole_interval_is_below_the_threshold() {
        let verdict = judged(vec![], layers(&[0.5, 0.012, 0.001, 0.03], 0.01), vec![]);
        assert_eq!(verdict.idle_layers, [2]);
        assert_eq!(verdict.idle_threshold, Some(0.02));
        assert!(verdict.text.contains("1 of 4 layers idle (2), 1 of them in the deeper half"));
        let verdict = judged(vec![], layers(&[0.5, 0.4, 0.3, 0.2], 0.01), vec![]);
        assert!(verdict.idle_layers.is_empty() && verdict.text.contains("No layer is idle"));
        let verdict = judged(vec![], layers(&[0.5, 0.03, 0.3, -0.2], 0.4), vec![]);
        assert!(verdict.idle_layers.is_empty() && verdict.text.contains("surely idle"));
    }

    #[test]
    fn idle_layers_and_blocks_are_ranges_whose_ends_belong_to_them() {
        let mut deltas = [0.0; 24];
        (deltas[0], deltas[1]) = (3.0, -0.5);
        let block = BlockRecord { n: 6, start: 12, distance: 0.1 };
        let verdict = judged(vec![], layers(&deltas, 0.001), vec![block]);
        assert!(verdict.text.contains("23 of 24 layers idle (1–23), 12"), "{}", verdict.text);
        let told = verdict.evidence.join(" ");
        assert!(told.contains("block of 6 layers is 12–17 (angular"), "{told}");
        assert!(told.contains("between −0.500 nats (layer 1)"), "{told}");
    }

    #[test]
    fn fewer_than_four_windows_judge_no_layer_and_say_what_would() {
        for windows in 1..VerdictRecord::WINDOWS_TO_JUDGE {
            let certain = layers(&[0.5, 0.0, -0.1, 0.3], 1e-9);
            let verdict = judge(&record(vec![], certain, vec![], windows));
            assert_eq!((&verdict.idle_layers[..], verdict.idle_threshold), (&[][..], None));
            assert!(verdict.effective_depth.is_some());
            let remedy = format!("windows of {} tokens", windows * 512 / 4);
            let said = &verdict.text;
            assert!(said.contains(&format!("cannot be judged on {windows} window")), "{said}");
            assert!(said.contains(&remedy) && !said.contains("surely"), "{said}");
        }
    }

    #[test]
    fn heavy_tokens_are_a_finding_with_their_text_id_and_layer() {
        let mut record = record(stream(|l| l + 1.0, 12), vec![], vec![], 8);
        assert!(judge(&record).evidence.iter().all(|said| !said.contains("assive")));
        let heavy = |position, id, text: &str, layer, ratio| HeavyToken {
            window: 0,
            position,
            id,
            text: text.to_owned(),
            layer,
            ratio,
        };
        record.heavy_tokens = vec![
            heavy(0, 7, " The\n", Some(3), 150.0),
            heavy(9, 0, "<|endoftext|>", Some(3), 7e4),
            heavy(80, 0, "<|endoftext|>", Some(3), 6e4),
            heavy(81, 5, "x", None, 101.0),
        ];
        let verdict = judge(&record);
        let told = verdict.evidence.join(" ");
        for part in [
            "4 of 4096 tokens carry more than 100 times the median",
            "\"<|endoftext|>\" (id 0, 2 times) from layer 3 on, up to 70000 times",
            "\" The\\n\" (id 7) from layer 3 on",
            "\"x\" (id 5) from the embedding on",
            "lift the mean variance over all tokens to 10000",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert!(
            verdict.text.contains("4 of 4096 tokens carry massive activations"),
            "{}",
            verdict.text
        );
    }

    #[test]
    fn a_falling_variance_does_not_grow_and_an_open_shape_is_called_open() {
        let falling = judged(stream(|l| 8.0 * (-0.2 * l).exp(), 20), vec![], vec![]);
        assert!(falling.text.contains("falls to") && falling.text.contains("exponentially"));
        let four = judged(stream(|l| [0.0, 1.0, 1.3, 1.1, 1.5][l as usize], 4), vec![], vec![]);
        assert!(!four.text.contains("linearly") && !four.text.contains("exponentially"));
    }

    #[test]
    fn what_was_not_measured_is_not_claimed() {
        let verdict = judged(stream(|l| l + 1.0, 12), vec![LayerRecord::default()], vec![]);
        assert_eq!((verdict.effective_depth, verdict.idle_threshold), (None, None));
        assert!(verdict.text.contains("not measured"), "{}", verdict.text);
        assert!(judged(vec![], vec![], vec![]).text.contains("Too little"));
    }
}
