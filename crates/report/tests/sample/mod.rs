//! Records to draw: one shaped like a real 30-layer diagnosis, made without a model.

#![allow(dead_code, reason = "each test file uses its own part")]

pub(crate) mod study;

use lns_record::{
    BaselineRecord, BlockRecord, ChartDescription, ChartScale, DiagnoseRecord, EstimateRecord,
    Format, Group, GrowthModel, HeavyToken, LayerRecord, LensRecord, ProbeDescription, ProbeRecord,
    Quantity, RemovalRecord, SeriesDescription, StreamRecord, TextRecord, VarianceGrowth,
    VerdictRecord,
};
use serde_json::json;

/// Rises of the loss of SmolLM2-135M on one window, by layer left out.
const REMOVAL: [f64; 30] = [
    8.05, 3.51, 0.74, 0.15, 0.11, 0.15, 0.29, 0.15, 0.66, 0.28, 0.22, 1.38, 0.17, 0.19, 0.16, 0.24,
    0.29, 0.19, 0.32, 0.29, 0.61, 0.37, 0.29, 0.44, 0.81, 0.14, 0.18, 0.22, 1.13, 2.20,
];

/// Numbers in [0, 1) that look random and never change.
pub(crate) fn noise(seed: usize) -> f64 {
    ((seed as f64 * 12.9898 + 4.1414).sin() * 43_758.545).rem_euclid(1.0)
}

fn angular(layers: usize) -> Vec<Vec<f64>> {
    let step = |i: usize| {
        let depth = i as f64 / layers as f64;
        0.35 * (-9.0 * depth).exp()
            + 0.055
            + 0.12 * (depth - 0.93).max(0.0) / 0.07
            + 0.02 * noise(i)
    };
    let across = |i: usize, n: usize| {
        let turned: f64 = (i..i + n).map(|k| step(k).powi(2)).sum();
        (turned.sqrt() * 1.15).min(0.62)
    };
    (0..layers).map(|i| (1..=layers - i).map(|n| across(i, n)).collect()).collect()
}

fn blocks(distances: &[Vec<f64>]) -> Vec<BlockRecord> {
    let closest = |n: usize| {
        let starts = 0..=distances.len() - n;
        let start = starts.min_by(|a, b| distances[*a][n - 1].total_cmp(&distances[*b][n - 1]));
        start.map(|start| BlockRecord { n, start, distance: distances[start][n - 1] })
    };
    (1..=distances.len()).filter_map(closest).collect()
}

fn layer(layer: usize, layers: usize) -> LayerRecord {
    let depth = layer as f64 / layers as f64;
    let delta = REMOVAL[(depth * 30.0) as usize % 30] - 0.1 * noise(layer + 900) * depth;
    let removed = |share: f64, seed: usize| RemovalRecord {
        delta_nll: delta * share * (0.6 + 0.8 * noise(seed)),
        stderr: Some(0.004 + 0.05 * delta.abs()),
        margin: Some(2.131 * (0.004 + 0.05 * delta.abs())),
        windows: None,
    };
    let cosine = 1.0 - 0.4 * (-8.0 * depth).exp() - 0.03 - 0.02 * noise(layer + 50);
    LayerRecord {
        layer,
        attention_variance: Some(0.32 + 3.1 * depth + noise(layer)),
        mlp_variance: Some(2.0 * (1.0 - depth) + 4.2 * depth.powi(3) + noise(layer + 7)),
        attention_variance_median: Some(0.3 + 3.0 * depth + noise(layer)),
        mlp_variance_median: Some(1.9 * (1.0 - depth) + 4.0 * depth.powi(3) + noise(layer + 7)),
        attention_to_stream: Some(0.2 + 0.1 * noise(layer + 3)),
        mlp_to_stream: Some(0.4 + 0.1 * noise(layer + 5)),
        branch_to_stream: Some(1.4 * (-7.0 * depth).exp() + 0.24 + 0.06 * noise(layer + 11)),
        cosine: Some(cosine),
        block_influence: Some(1.0 - cosine),
        removal: Some(RemovalRecord {
            delta_nll: delta,
            stderr: Some(0.006 + 0.05 * delta.abs()),
            margin: Some(2.131 * (0.006 + 0.05 * delta.abs())),
            windows: None,
        }),
        removal_attention: Some(removed(0.4, layer + 100)),
        removal_mlp: Some(removed(0.6, layer + 200)),
        gradient_norm: Some(0.9 * (-4.0 * depth).exp() + 0.05 + 0.02 * noise(layer + 3)),
        stream_gradient_norm: Some(0.02 * (-5.0 * depth).exp() + 0.0008),
        jacobian_identity_distance: Some(
            0.9 * (-6.0 * depth).exp() + 0.21 + 0.05 * noise(layer + 5),
        ),
        jacobian_stderr: Some(0.012),
        tasks: Default::default(),
        more: Default::default(),
    }
}

fn stream(index: usize, layers: usize) -> StreamRecord {
    let depth = index as f64 / layers as f64;
    let quiet =
        0.9 + 34.0 * depth.powf(0.9) + 1400.0 * (depth - 0.97).max(0.0) * (1.0 / 0.03) / 10.0;
    let massive = if (0.36..0.97).contains(&depth) { 2000.0 + 700.0 * depth } else { 0.0 };
    StreamRecord {
        index,
        variance: quiet * (1.0 + 0.1 * noise(index)) + massive,
        variance_without_first: quiet + massive / 4.0,
        variance_content: Some(1.04 * quiet),
        variance_median: Some(quiet),
        rms: (quiet + massive).sqrt(),
        more: Default::default(),
    }
}

/// A separator, and the first tokens of some windows.
fn heavy_tokens(layers: usize) -> Vec<HeavyToken> {
    let heavy = |window, position, id, text: &str, ratio| HeavyToken {
        window,
        position,
        id,
        text: text.to_owned(),
        layer: Some(layers / 3),
        ratio,
    };
    vec![
        heavy(0, 0, 57, "M", 3.4e4),
        heavy(2, 0, 284, " the", 2.9e4),
        heavy(2, 311, 0, "<|endoftext|>", 6.9e4),
        heavy(3, 0, 284, " the", 3.1e4),
    ]
}

/// What `lns-diagnose` says of its probes; a test there holds this file against them.
fn described() -> Vec<ProbeDescription> {
    serde_json::from_str(include_str!("described.json")).unwrap()
}

/// A diagnosis with every probe.
pub(crate) fn full(name: &str, layers: usize) -> DiagnoseRecord {
    let angular_distance = angular(layers);
    let settled = |index: usize| index as f64 / layers as f64;
    let lens = |index| LensRecord {
        index,
        kl: 9.5 * (1.0 - settled(index)).powf(0.8) * (1.0 - 0.2 * noise(index)),
        agreement: settled(index).powi(3) * 0.98 + 0.02 * settled(index),
    };
    let table: Vec<LayerRecord> = (0..layers).map(|i| layer(i, layers)).collect();
    let idle = |layer: &LayerRecord| {
        let removal = layer.removal.unwrap();
        removal.delta_nll + removal.margin.unwrap() < 0.15
    };
    let idle_layers = table.iter().filter(|layer| idle(layer)).map(|layer| layer.layer).collect();
    DiagnoseRecord {
        name: name.to_owned(),
        model: json!({"model_type": "llama", "hidden_size": 576, "num_hidden_layers": layers,
            "num_attention_heads": 9, "rms_norm_eps": 1e-5}),
        text: TextRecord {
            files: vec!["speeches/1961-Kennedy.txt".to_owned(), "speeches/1965-Johnson.txt".to_owned()],
            tokens: 8192,
            windows: 16,
            window_len: 512,
            masking: None,
        },
        removal_error: None,
        baseline: Some(BaselineRecord { nll: 3.108, perplexity: 22.38, nll_stderr: Some(0.043) }),
        stream: (0..=layers).map(|index| stream(index, layers)).collect(),
        heavy_tokens: heavy_tokens(layers),
        layers: table,
        blocks: blocks(&angular_distance),
        angular_distance,
        lens: (0..=layers).map(lens).collect(),
        tasks: vec![],
        verdict: VerdictRecord {
            effective_depth: Some(12.4),
            idle_threshold: Some(0.15),
            idle_layers,
            variance_growth: Some(VarianceGrowth {
                model: GrowthModel::Polynomial,
                rate: 0.93,
                confidence: 0.874,
                ratio: 45.2,
            }),
            text: "The middle of this model works little: three of 30 layers cost less than 0.15 nats per \
                   token when removed, while layers 0 and 1 carry most of the loss. The stream's \
                   variance grows 45-fold with depth, about as fast as depth itself, which leaves \
                   later layers a smaller say."
                .to_owned(),
            evidence: vec![
                "Removing layer 0 costs 8.05 nats per token, removing layer 4 costs 0.11.".to_owned(),
                "Effective depth is 12.4 of 30 layers.".to_owned(),
                "The most redundant block of four layers is 12–15, angular distance 0.14.".to_owned(),
            ],
        },
        probes: ["stream", "branches", "angular", "removal", "sublayers"]
            .map(|name| ProbeRecord { name: name.to_owned(), seconds: 3.21 + name.len() as f64 })
            .to_vec(),
        described: described(),
        estimates: vec![],
    }
}

/// The same without what the default probes do not measure.
pub(crate) fn default_probes(name: &str, layers: usize) -> DiagnoseRecord {
    let mut record = full(name, layers);
    record.lens.clear();
    for layer in &mut record.layers {
        let LayerRecord { removal_attention, removal_mlp, .. } = layer;
        (*removal_attention, *removal_mlp) = (None, None);
        layer.gradient_norm = None;
        layer.stream_gradient_norm = None;
        layer.jacobian_identity_distance = None;
        layer.jacobian_stderr = None;
    }
    record
}

/// The same with a probe that this room has never heard of.
pub(crate) fn novel(name: &str, layers: usize) -> DiagnoseRecord {
    let mut record = default_probes(name, layers);
    for layer in &mut record.layers {
        let value = json!({"value": (layer.layer + 1) as f64 / 10.0, "error": 0.01});
        layer.more.insert("novelty".to_owned(), value);
    }
    let field = "layers[].novelty.value".to_owned();
    let quantity = Quantity {
        unit: "furlongs".to_owned(),
        format: Format::Measured,
        stderr: Some("layers[].novelty.error".to_owned()),
        estimates: Some("layers[].removal.delta_nll".to_owned()),
        ..Quantity::of_layers("novelty.value", "how new it is").in_column("novelty", 35, 115)
    };
    let chart = ChartDescription {
        name: "novelty".to_owned(),
        title: "Novelty by layer".to_owned(),
        caption: String::new(),
        y: "newness".to_owned(),
        scale: ChartScale::Difference,
        without_end: false,
        line: None,
        series: vec![SeriesDescription::of(&quantity, "new", 1)],
    };
    record.described.push(ProbeDescription {
        name: "novelty".to_owned(),
        measures: "newness".to_owned(),
        group: Group::Effect,
        quantities: vec![quantity],
        charts: vec![chart],
    });
    record.estimates = vec![EstimateRecord {
        quantity: field,
        of: "layers[].removal.delta_nll".to_owned(),
        rank_correlation: 0.7601,
        entries: layers,
    }];
    record
}

/// The same as an earlier version wrote it.
pub(crate) fn earlier(name: &str, layers: usize) -> DiagnoseRecord {
    let mut record = default_probes(name, layers);
    record.heavy_tokens.clear();
    for stream in &mut record.stream {
        (stream.variance_content, stream.variance_median) = (None, None);
    }
    for layer in &mut record.layers {
        (layer.attention_variance_median, layer.mlp_variance_median) = (None, None);
        layer.removal.iter_mut().for_each(|removal| removal.margin = None);
    }
    record
}

/// No probe ran.
pub(crate) fn bare(name: &str, layers: usize) -> DiagnoseRecord {
    let empty = |layer| LayerRecord { layer, ..LayerRecord::default() };
    DiagnoseRecord {
        name: name.to_owned(),
        model: json!(null),
        text: TextRecord { files: vec![], tokens: 0, windows: 0, window_len: 0, masking: None },
        removal_error: None,
        baseline: Some(BaselineRecord { nll: 3.0, perplexity: 20.09, nll_stderr: None }),
        stream: vec![],
        heavy_tokens: vec![],
        layers: (0..layers).map(empty).collect(),
        angular_distance: vec![],
        blocks: vec![],
        lens: vec![],
        tasks: vec![],
        verdict: VerdictRecord {
            effective_depth: None,
            idle_layers: vec![],
            idle_threshold: None,
            variance_growth: None,
            text: String::new(),
            evidence: vec![],
        },
        probes: vec![],
        described: described(),
        estimates: vec![],
    }
}
