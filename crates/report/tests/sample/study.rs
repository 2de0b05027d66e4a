//! A study shaped like one that was run: losses of a 24-layer pilot, no model behind them.

use lns_record::{
    AlongRecord, ContrastRecord, CurvePoint, EquivalenceRecord, GroupRecord, Interval, PairRecord,
    RunRecord, StudyRecord, TheoryCheck, TheoryCurve, TheoryRecord, TunedGroupRecord, TuningRecord,
};

use super::{default_probes, noise};

const STEPS: u64 = 1220;
const TOKENS: u64 = 2048;

/// Name, seeds, final loss, variance after the last layer, published perplexity.
const GROUPS: [(&str, u64, f64, f64, Option<f64>); 7] = [
    ("pre", 3, 4.102, 340.0, Some(26.73)),
    ("lns", 3, 4.025, 25.0, Some(25.76)),
    ("lns before norm", 2, 4.104, 331.0, None),
    ("pre + scaled init", 3, 4.093, 120.0, Some(26.04)),
    ("mix-ln", 1, 4.118, 96.0, Some(26.07)),
    ("sandwich", 1, 4.061, 46.0, None),
    ("post", 1, 6.93, 1.0, None),
];

/// With `layers` layers, diagnosed: seven groups, of which one is the noise probe and one diverged.
pub(crate) fn full(layers: usize) -> StudyRecord {
    let mut groups: Vec<GroupRecord> = (0..GROUPS.len()).map(|at| group(at, layers)).collect();
    let lost = &mut groups[6];
    lost.runs[0].outcome = "diverged".to_owned();
    (lost.runs[0].loss, lost.runs[0].diagnosis) = (None, None);
    lost.runs[0].curve.truncate(14);
    (lost.loss, lost.perplexity) = (None, None);
    let pairs = groups[1..].iter().map(|group| pair(group, &groups[0])).collect();
    StudyRecord {
        name: "laptop".to_owned(),
        settings: [
            ("Model", "24 layers × 128, 4 heads, vocabulary 2 048"),
            ("Text", "data/books, 3.1 million tokens, one document in 20 held out"),
            ("Steps", "1 220 × 2 048 tokens"),
            ("Optimiser", "AdamW, learning rate 3e-3, cosine, clip 1"),
        ]
        .map(|(what, value)| (what.to_owned(), value.to_owned()))
        .to_vec(),
        baseline: "pre".to_owned(),
        groups,
        contrasts: contrasts(),
        tuning: Some(tuning()),
        pairs,
        ideal_loss: None,
        published_source: Some("arXiv 2502.05795, tables 1 and 4, 130M".to_owned()),
        theory: Some(theory(layers)),
        missing_runs: 2,
        caution: None,
    }
}

/// One inside, one at the edge, one that is still to be tuned.
fn tuning() -> TuningRecord {
    let group = |name: &str, losses: &[Option<f64>], best: Option<f64>| TunedGroupRecord {
        name: name.to_owned(),
        tried: [0.001, 0.003, 0.01].into_iter().zip(losses.iter().copied()).collect(),
        best,
        at_edge: best == Some(0.001),
        finished: best.is_some(),
    };
    TuningRecord {
        setting: "schedule.learning_rate".to_owned(),
        seed: 101,
        groups: vec![
            group("pre", &[Some(4.2), Some(4.1), None], Some(0.003)),
            group("lns", &[Some(4.0), Some(4.3), Some(4.4)], Some(0.001)),
            group("sandwich", &[Some(4.0)], None),
        ],
    }
}

/// One that differs, one that is called none, one that is open.
fn contrasts() -> Vec<ContrastRecord> {
    let found = |name: &str, values: &[f64], p: f64, equivalent: f64| ContrastRecord {
        name: name.to_owned(),
        weights: [("lns", 1.0), ("pre", -1.0), ("lns + scaled init", -0.5), ("sandwich", 0.5)]
            .map(|(group, weight)| (group.to_owned(), weight))
            .to_vec(),
        primary: name.contains("interaction"),
        estimate: interval(values).expect("values"),
        by_seed: (0..).zip(values.iter().copied()).collect(),
        p: Some(p),
        p_holm: name.contains("interaction").then_some(2.0 * p),
        equivalence: Some(EquivalenceRecord { margin: 0.03, p: Some(equivalent) }),
    };
    vec![
        found("interaction with the initialisation", &[-0.21, -0.19, -0.2], 0.000_8, 0.999),
        found("no more than chance", &[0.001, -0.002, 0.0015], 0.9, 0.002),
        found("open", &[0.1, -0.1, 0.06], 0.8, 0.4),
    ]
}

/// Mean and 95 % interval of a few numbers.
fn interval(values: &[f64]) -> Option<Interval> {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    // Student's t at 97.5 % for one and two degrees of freedom.
    let reach = [12.706, 4.303]
        .get(values.len().wrapping_sub(2))
        .map(|t| t * (squares / (count - 1.0) / count).sqrt());
    (count > 0.0).then_some(Interval {
        mean,
        low: reach.map(|reach| mean - reach),
        high: reach.map(|reach| mean + reach),
        count: values.len() as u64,
    })
}

fn group(at: usize, layers: usize) -> GroupRecord {
    let (name, seeds, _, _, published_perplexity) = GROUPS[at];
    let runs: Vec<RunRecord> = (0..seeds).map(|seed| run(at, seed, layers)).collect();
    let losses: Vec<f64> = runs.iter().filter_map(|run| run.loss).collect();
    let perplexities: Vec<f64> = losses.iter().map(|loss| loss.exp()).collect();
    GroupRecord {
        name: name.to_owned(),
        runs,
        loss: interval(&losses),
        perplexity: interval(&perplexities),
        published_perplexity,
    }
}

fn run(at: usize, seed: u64, layers: usize) -> RunRecord {
    let (name, _, end, variance, _) = GROUPS[at];
    let luck = 0.02 * (noise(seed as usize * 31 + 1) - 0.5);
    let own = 0.012 * (noise(at * 17 + seed as usize) - 0.5);
    let loss = |step: u64| {
        let left = 1.0 - step as f64 / STEPS as f64;
        let jitter = 0.01 * (noise(step as usize + at * 999) - 0.5) * left;
        end + luck + own + jitter + (7.62 - end) * (-7.0 * (1.0 - left)).exp() * left.powf(0.3)
    };
    let curve = (0..=20).map(|k| STEPS * k / 20);
    let point = |step| CurvePoint { step, tokens: step * TOKENS, loss: loss(step) };
    let at_step = |step: u64| {
        let learnt = (step as f64 / STEPS as f64).sqrt();
        let own = 1.0 + 0.2 * (noise(seed as usize + at) - 0.5);
        let last = 1.4 + (variance * own - 1.4) * learnt;
        (0..=layers).map(|i| 0.4 + (last - 0.4) * (i as f64 / layers as f64).powf(1.3)).collect()
    };
    let mut diagnosis = default_probes(name, layers);
    for (i, layer) in diagnosis.layers.iter_mut().enumerate() {
        if let Some(removal) = &mut layer.removal {
            removal.delta_nll *= 0.3 + 0.5 * noise(i + at * 40 + seed as usize * 7);
        }
    }
    diagnosis.verdict.effective_depth = Some(9.0 + at as f64 + 0.3 * seed as f64);
    diagnosis.angular_distance.iter_mut().flatten().for_each(|d| *d *= 0.7 + 0.05 * at as f64);
    // The first group's models were kept along the way, the last of them the finished one.
    let along = (1..=if at < 2 { 5 } else { 0 }).map(|k| {
        let step = STEPS * k / 5;
        let finished = AlongRecord::of(&diagnosis, step, step * TOKENS).expect("a loss");
        let depth = 2.0 + finished.effective_depth.unwrap_or_default() * k as f64 / 6.0;
        let idle = (layers as u64).saturating_sub(2 * k + at as u64);
        AlongRecord { effective_depth: Some(depth), idle_layers: Some(idle), ..finished }
    });
    RunRecord {
        folder: format!("runs/{}-seed{seed}", name.replace(' ', "-")),
        seed,
        outcome: "finished".to_owned(),
        steps: STEPS,
        tokens: STEPS * TOKENS,
        loss: Some(loss(STEPS)),
        curve: curve.map(point).collect(),
        variance: (0..=12).map(|k| STEPS * k / 12).map(|step| (step, at_step(step))).collect(),
        along: along.collect(),
        diagnosis: Some(Box::new(diagnosis)),
    }
}

fn pair(group: &GroupRecord, baseline: &GroupRecord) -> PairRecord {
    let difference = |run: &RunRecord| {
        let other = baseline.runs.iter().find(|other| other.seed == run.seed)?;
        Some((run.seed, run.loss? - other.loss?))
    };
    let differences: Vec<(u64, f64)> = group.runs.iter().filter_map(difference).collect();
    let values: Vec<f64> = differences.iter().map(|(_, value)| *value).collect();
    let nothing = Interval { mean: 0.0, low: None, high: None, count: 0 };
    PairRecord {
        name: group.name.clone(),
        difference: interval(&values).unwrap_or(nothing),
        differences,
        noise_probe: group.name == "lns before norm",
    }
}

fn theory(layers: usize) -> TheoryRecord {
    let curve = |scheme: &str, when: &str, at: &dyn Fn(f64) -> f64| TheoryCurve {
        scheme: scheme.to_owned(),
        when: when.to_owned(),
        variance: (1..=layers + 1).map(|depth| at(depth as f64)).collect(),
    };
    let check = |source: &str,
                 scheme: &str,
                 when: &str,
                 quantity: &str,
                 expected: &str,
                 measured,
                 agrees| {
        TheoryCheck {
            source: source.to_owned(),
            scheme: scheme.to_owned(),
            when: when.to_owned(),
            quantity: quantity.to_owned(),
            expected: expected.to_owned(),
            measured,
            r_squared: Some(0.9974),
            agrees,
        }
    };
    let (start, end) = ("initialisation", "trained");
    TheoryRecord {
        checks: vec![
            check(
                "Lemma 3.2",
                "pre",
                start,
                "exponent of variance against depth",
                "1, linear",
                1.04,
                Some(true),
            ),
            check(
                "Lemma 4.1",
                "lns",
                start,
                "variance per ln(depth)",
                "straight, R² above 0.98",
                0.61,
                Some(true),
            ),
            check(
                "eq. 52",
                "lns",
                start,
                "exponent of the MLP branch's variance",
                "near −2",
                -1.62,
                Some(false),
            ),
            check(
                "Lemma 3.2",
                "pre",
                end,
                "growth of ln(variance) per layer",
                "between linear and exponential",
                0.21,
                None,
            ),
            check(
                "Theorem 4.2",
                "lns",
                end,
                "‖∂y_L/∂x_1‖ against the bound's product",
                "at most 1",
                0.43,
                Some(true),
            ),
        ],
        curves: vec![
            curve("pre", start, &|depth| 0.4 + 0.55 * (depth - 1.0)),
            curve("lns", start, &|depth| 0.4 + 0.61 * depth.ln()),
            curve("pre", end, &|depth| 0.4 + 0.9 * depth.powf(1.8)),
            curve("lns", end, &|depth| 0.4 + 0.9 * depth),
        ],
    }
}

/// No run has begun.
pub(crate) fn empty() -> StudyRecord {
    StudyRecord {
        name: String::new(),
        settings: vec![],
        baseline: "pre".to_owned(),
        groups: vec![],
        contrasts: Vec::new(),
        tuning: None,
        pairs: vec![],
        ideal_loss: None,
        published_source: None,
        theory: None,
        missing_runs: 0,
        caution: None,
    }
}

/// The same with the first `seeds` seeds of the groups named, nothing diagnosed.
pub(crate) fn part(names: &[&str], seeds: usize) -> StudyRecord {
    let mut record = full(4);
    record.groups.retain(|group| names.contains(&group.name.as_str()));
    for group in &mut record.groups {
        group.runs.truncate(seeds);
        for run in &mut group.runs {
            (run.diagnosis, run.along) = (None, vec![]);
        }
        let losses: Vec<f64> = group.runs.iter().filter_map(|run| run.loss).collect();
        group.loss = interval(&losses);
        group.perplexity = interval(&losses.iter().map(|loss| loss.exp()).collect::<Vec<_>>());
    }
    let pairs = record.groups.iter().skip(1).map(|group| pair(group, &record.groups[0]));
    record.pairs = pairs.collect();
    (record.theory, record.missing_runs) = (None, 0);
    (record.contrasts, record.tuning) = (Vec::new(), None);
    record
}
