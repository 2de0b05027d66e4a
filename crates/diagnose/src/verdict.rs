//! From the measurements to a verdict in plain words. Pure: records in, record out.

use lns_record::{
    DiagnoseRecord, EstimateRecord, Group, GrowthModel, VarianceGrowth, VerdictRecord,
};
use lns_show::{counted, layers_in_words};

use crate::{
    growth::fit_growth,
    probes::{
        probes,
        removal::{IDLE_THRESHOLD, RemovalVerdict, output_changes, predicted_token},
        tasks,
    },
    words::{number, since},
};

/// Judges what was measured, whatever verdict the record has; each part is absent if its probe was not
/// run.
pub fn judge(record: &DiagnoseRecord) -> VerdictRecord {
    let removal = RemovalVerdict::of(record);
    let growth = fit_growth(&record.stream);
    // What was done to the loss says more than what can be seen of the stream.
    let of = |group: Group| {
        probes()
            .filter(move |probe| probe.group() == group)
            .flat_map(move |probe| probe.evidence(record))
    };
    let estimates = record.estimates.iter().map(|estimate| estimate_sentence(record, estimate));
    let evidence = of(Group::Effect).chain(of(Group::Stream)).chain(estimates).collect();
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

/// How far an estimate can stand for what it estimates.
fn estimate_sentence(record: &DiagnoseRecord, estimate: &EstimateRecord) -> String {
    format!(
        "Rank correlation (Spearman) over {}: {} between \"{}\" and \"{}\".",
        counted(estimate.entries, "layer"),
        number(estimate.rank_correlation),
        record.label(&estimate.quantity),
        record.label(&estimate.of)
    )
}

fn summary(
    record: &DiagnoseRecord,
    removal: Option<&RemovalVerdict>,
    growth: Option<&VarianceGrowth>,
) -> String {
    let layers = record.layers.len();
    let mut text = match (removal, growth) {
        (None, None) => return "Too little was measured for a verdict.".to_owned(),
        (None, Some(growth)) => {
            let why = match output_changes(record) {
                // There is a loss wherever there is a head.
                Some(_) => "The model has no head, so no loss says which layers idle",
                None => "Layer removal was not measured, so which layers idle is open",
            };
            format!("{why}; {}.", growth_in_short(growth))
        }
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
    if let Some(tasks) = tasks::in_short(record) {
        text = format!("{text} {tasks}");
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
                 {IDLE_THRESHOLD} nats per {}.",
                counted(layers, "layer"),
                layers_in_words(idle),
                predicted_token(record)
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

#[cfg(test)]
mod tests {
    use lns_record::{
        BaselineRecord, BlockRecord, HeavyToken, LayerRecord, RemovalRecord, StreamRecord,
        TextRecord,
    };

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
            text: TextRecord {
                files: Vec::new(),
                tokens: windows * 512,
                windows,
                window_len: 512,
                masking: None,
            },
            removal_error: None,
            baseline: Some(BaselineRecord { nll: 3.0, perplexity: 3f64.exp(), nll_stderr: None }),
            stream,
            heavy_tokens: Vec::new(),
            layers,
            angular_distance: Vec::new(),
            blocks,
            lens: Vec::new(),
            tasks: Vec::new(),
            verdict: VerdictRecord::default(),
            probes: Vec::new(),
            described: Vec::new(),
            estimates: Vec::new(),
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
                more: Default::default(),
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
                windows: None,
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

    #[test]
    fn an_estimate_beside_what_it_estimates_is_told_with_its_rank_correlation() {
        let mut record = record(vec![], layers(&[0.5, 0.1, 0.3], 0.01), vec![], 8);
        record.estimates = vec![EstimateRecord {
            quantity: "layers[].guess".to_owned(),
            of: "layers[].removal.delta_nll".to_owned(),
            rank_correlation: 0.5,
            entries: 3,
        }];
        let told = judge(&record).evidence.join(" ");
        let said = "over 3 layers: 0.500 between \"layers[].guess\" and";
        assert!(told.contains(said), "{told}");
    }
}
