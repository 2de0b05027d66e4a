//! `branches`: what attention and MLP add to the stream, and how far a layer turns it.

use lns_kernels::with_slices;
use lns_record::{
    ChartDescription, ChartScale, DiagnoseRecord, Group, LayerRecord, Quantity, SeriesDescription,
};
use lns_statistics::mean;

use super::{Course, Probe};
use crate::{
    observer::{AtLayer, Notes, Observer, Passed},
    statistics::{change_sums, median, variances},
    words::number,
};

pub(crate) struct Branches;

fn influence() -> Quantity {
    Quantity::of_layers("block_influence", "block influence").in_column("influence", 40, 70)
}

fn ratio() -> Quantity {
    Quantity::of_layers("branch_to_stream", "branch to stream").in_column("ratio", 50, 60)
}

impl Probe for Branches {
    fn name(&self) -> &'static str {
        "branches"
    }

    fn measures(&self) -> &'static str {
        "what attention and MLP add, cosine, block influence"
    }

    fn is_default(&self) -> bool {
        true
    }

    fn price(&self, _layers: f64) -> f64 {
        0.0
    }

    fn group(&self) -> Group {
        Group::Stream
    }

    fn quantities(&self) -> Vec<Quantity> {
        let median = |site: &str, label: &str| Quantity {
            stand_in: Some(format!("layers[].{site}_variance")),
            ..Quantity::of_layers(&format!("{site}_variance_median"), label)
        };
        vec![
            median("attention", "attention, median token").in_column("var attention", 100, 50),
            Quantity::of_layers("attention_variance", "attention variance"),
            median("mlp", "MLP, median token").in_column("var MLP", 100, 50),
            Quantity::of_layers("mlp_variance", "MLP variance"),
            Quantity::of_layers("attention_to_stream", "attention / stream"),
            Quantity::of_layers("mlp_to_stream", "MLP / stream"),
            ratio(),
            Quantity::of_layers("cosine", "cosine"),
            influence(),
        ]
    }

    fn charts(&self) -> Vec<ChartDescription> {
        let chart = |name: &str, title: &str, caption: &str, y: &str, series| ChartDescription {
            name: name.to_owned(),
            title: title.to_owned(),
            caption: caption.to_owned(),
            y: y.to_owned(),
            scale: ChartScale::Positive,
            without_end: false,
            line: None,
            series: vec![series],
        };
        vec![
            chart(
                "influence",
                "Block influence",
                "1 − mean cosine of a layer's input and output (ShortGPT): 0 when the layer turns the \
                 stream nowhere.",
                "1 − cosine",
                SeriesDescription::of(&influence(), "block influence", 0),
            ),
            chart(
                "ratio",
                "What a layer adds, against what it gets",
                "Mean over tokens of ‖stream[i+1] − stream[i]‖ / ‖stream[i]‖.",
                "ratio of norms",
                SeriesDescription::of(&ratio(), "branch to stream", 0),
            ),
        ]
    }

    fn course(&self) -> Course {
        Course::Shared(Box::new(Watch::default()))
    }

    fn evidence(&self, record: &DiagnoseRecord) -> Vec<String> {
        influence_sentence(&record.layers).into_iter().collect()
    }
}

/// The content tokens of one window in one layer.
#[derive(Debug, Clone, Default, PartialEq)]
struct LayerSums {
    /// Variance over features of each token's attention branch.
    attention_variances: Vec<f64>,
    /// Variances of what the MLP branch adds.
    mlp_variances: Vec<f64>,
    /// Σ ‖out − in‖ / ‖in‖
    branch_to_stream: f64,
    /// Σ cosine of in and out.
    cosine: f64,
}

impl LayerSums {
    fn is_finite(&self) -> bool {
        let branches = self.attention_variances.iter().chain(&self.mlp_variances);
        branches.chain([&self.branch_to_stream, &self.cosine]).all(|value| value.is_finite())
    }
}

#[derive(Default)]
struct Watch(Notes<LayerSums>);

impl Observer for Watch {
    fn at_layer(&self, at: &AtLayer<'_>) -> Result<(), String> {
        let (hidden, content) = (at.stream.dims()[2], at.content);
        let mut sums = LayerSums::default();
        with_slices([at.stream, at.out, at.attention, at.mlp], |[stream, out, attention, mlp]| {
            (sums.branch_to_stream, sums.cosine) = change_sums(stream, out, hidden, content);
            sums.attention_variances = variances(attention, hidden, content);
            sums.mlp_variances = variances(mlp, hidden, content);
        });
        if !sums.is_finite() {
            return Err(format!("what layer {} adds to the stream", at.layer.get()));
        }
        self.0.add(at.window, at.layer.get(), sums);
        Ok(())
    }

    fn conclude(&self, passed: &Passed<'_>, record: &mut DiagnoseRecord) {
        let notes = self.0.read();
        for layer in &mut record.layers {
            let place = layer.layer;
            let windows =
                (0..passed.windows.len()).filter_map(|window| notes.get(&(window, place)));
            write(&windows.collect::<Vec<_>>(), passed.streams[place].content(), layer);
        }
    }
}

/// What one layer adds to content tokens, and that beside the mean variance of what enters it.
fn write(windows: &[&LayerSums], entering: f64, layer: &mut LayerRecord) {
    let attention: Vec<f64> =
        windows.iter().flat_map(|sums| &sums.attention_variances).copied().collect();
    let mlp: Vec<f64> = windows.iter().flat_map(|sums| &sums.mlp_variances).copied().collect();
    let content = mlp.len() as f64;
    let cosine = windows.iter().map(|sums| sums.cosine).sum::<f64>() / content;
    let ratio = windows.iter().map(|sums| sums.branch_to_stream).sum::<f64>() / content;
    let (attention_mean, mlp_mean) = (mean(&attention), mean(&mlp));
    // A stream without variance has no ratio.
    let to_stream = |variance: f64| (entering > 0.0).then(|| variance / entering);
    layer.attention_variance = Some(attention_mean);
    layer.mlp_variance = Some(mlp_mean);
    layer.attention_variance_median = Some(median(attention));
    layer.mlp_variance_median = Some(median(mlp));
    layer.attention_to_stream = to_stream(attention_mean);
    layer.mlp_to_stream = to_stream(mlp_mean);
    layer.branch_to_stream = Some(ratio);
    layer.cosine = Some(cosine);
    layer.block_influence = Some(1.0 - cosine);
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
