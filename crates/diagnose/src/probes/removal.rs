//! `removal`: what the loss rises by when a layer is left out, and how far the output moves.
//!
//! Removing layer i means that the stream entering i enters i + 1: under Post-LN its norms go with it. A model
//! without a head has no loss, and the output's change is all there is.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use lns_record::{
    ChartDescription, DiagnoseRecord, Group, LayerRecord, Quantity, RemovalRecord, VerdictRecord,
};
use lns_show::{counted, layers_in_words};
use lns_spec::ModelSpec;

use super::{Course, Probe};
use crate::{
    observer::{AtEndWithout, AtLayer, Observer, Passed},
    pass::head_in_layers,
    representation::{self, Changes},
    words::number,
};

/// A layer is idle when its removal surely costs less than this many nats per token: 0.02 nats are
/// 2 % of perplexity.
pub(crate) const IDLE_THRESHOLD: f64 = 0.02;

pub(crate) struct Removal;

impl Probe for Removal {
    fn name(&self) -> &'static str {
        "removal"
    }

    fn measures(&self) -> &'static str {
        "loss and output representation without each layer"
    }

    fn is_default(&self) -> bool {
        true
    }

    /// Variant i runs layers i + 1.. and the head.
    fn price(&self, layers: f64) -> f64 {
        layers * 0.52
    }

    fn group(&self) -> Group {
        Group::Effect
    }

    fn quantities(&self) -> Vec<Quantity> {
        let loss =
            Quantity::loss_difference("removal", "Δ loss, layer").in_column("Δ loss", 10, 120);
        let changes = representation::quantities(CHANGE, "");
        [loss].into_iter().chain(changes).collect()
    }

    fn quantities_in(&self, record: &DiagnoseRecord) -> Vec<Quantity> {
        if record.baseline.is_some() {
            let windows = Quantity::windows_of("removal", "windows, layer");
            let windows = windows.in_column("windows", 13, 121);
            let spent = record.removal_error.map(|_| windows);
            return self.quantities().into_iter().chain(spent).collect();
        }
        let [cosine, l2, mean] = representation::quantities(CHANGE, "");
        vec![
            cosine.in_column("Δ output", 10, 120),
            l2.in_column("Δ L2", 35, 121),
            mean.in_column("Δ mean", 36, 122),
        ]
    }

    fn charts(&self) -> Vec<ChartDescription> {
        let [cosine, ..] = &representation::quantities(CHANGE, "");
        let title = "What removing a layer does to the output";
        vec![representation::chart(
            "removal-representation",
            title,
            &[(cosine, "layer removed", 0)],
        )]
    }

    fn course(&self) -> Course {
        Course::Shared(Box::new(Watch::default()))
    }

    fn evidence(&self, record: &DiagnoseRecord) -> Vec<String> {
        range_sentence(record)
            .into_iter()
            .chain(spent_sentence(record))
            .chain(open_sentence(record))
            .chain(output_sentence(record))
            .chain(no_loss(record))
            .collect()
    }
}

/// Name of the output's change in a layer's record.
const CHANGE: &str = "representation";

#[derive(Default)]
struct Watch(Changes);

impl Observer for Watch {
    fn variants(&self) -> usize {
        1
    }

    fn without(&self, at: &AtLayer<'_>) -> Vec<Tensor<3>> {
        vec![at.stream.clone()]
    }

    fn at_end_without(&self, at: &AtEndWithout<'_>) {
        self.0.note(at);
    }

    fn conclude(&self, passed: &Passed<'_>, record: &mut DiagnoseRecord) {
        for layer in &mut record.layers {
            layer.removal = passed.removal(0, layer.layer);
        }
        self.0.conclude(CHANGE, 0, passed, &mut record.layers);
    }
}

/// What the costs of removal come to.
pub(crate) struct RemovalVerdict {
    pub(crate) effective_depth: f64,
    /// The layers whose removal surely costs less than the threshold; `None` when there are too few
    /// windows to judge.
    pub(crate) idle: Option<Vec<usize>>,
    /// Whether every layer's removal surely costs more.
    pub(crate) all_needed: bool,
}

/// The measured removals by layer; `None` where a layer has none.
fn removals(record: &DiagnoseRecord) -> Option<Vec<(usize, RemovalRecord)>> {
    record.layers.iter().map(|layer| Some((layer.layer, layer.removal?))).collect()
}

impl RemovalVerdict {
    /// `None` where removal was not measured.
    pub(crate) fn of(record: &DiagnoseRecord) -> Option<Self> {
        let removals = removals(record).filter(|removals| !removals.is_empty())?;
        let idle = (record.text.windows >= VerdictRecord::WINDOWS_TO_JUDGE).then(|| {
            let idle = removals
                .iter()
                .filter(|(_, r)| r.margin.is_some_and(|m| r.delta_nll + m < IDLE_THRESHOLD));
            idle.map(|(layer, _)| *layer).collect()
        });
        let all_needed = removals
            .iter()
            .all(|(_, r)| r.margin.is_some_and(|m| r.delta_nll - m > IDLE_THRESHOLD));
        let deltas: Vec<f64> = removals.iter().map(|r| r.1.delta_nll).collect();
        Some(Self { effective_depth: effective_depth(&deltas), idle, all_needed })
    }
}

fn range_sentence(record: &DiagnoseRecord) -> Option<String> {
    let removals = removals(record)?;
    let dearest = removals.iter().max_by(|a, b| a.1.delta_nll.total_cmp(&b.1.delta_nll))?;
    let cheapest = removals.iter().min_by(|a, b| a.1.delta_nll.total_cmp(&b.1.delta_nll))?;
    Some(format!(
        "Removing one layer costs between {} nats (layer {}) and {} nats (layer {}) per {}.",
        number(cheapest.1.delta_nll),
        cheapest.0,
        number(dearest.1.delta_nll),
        dearest.0,
        predicted_token(record)
    ))
}

/// On how many windows the layers' removal was measured, where they were spent as needed.
fn spent_sentence(record: &DiagnoseRecord) -> Option<String> {
    let error = record.removal_error?;
    let all = record.text.windows;
    let windows: Vec<u64> =
        removals(record)?.into_iter().map(|(_, removal)| removal.windows.unwrap_or(all)).collect();
    let mut layers_by_windows = BTreeMap::new();
    for windows in &windows {
        *layers_by_windows.entry(*windows).or_insert(0u64) += 1;
    }
    let groups: Vec<String> = layers_by_windows
        .into_iter()
        .map(|(windows, layers)| format!("{} on {windows}", counted(layers, "layer")))
        .collect();
    // Without layer i, the layers after it and the head are computed.
    let layers = windows.len();
    let head = ModelSpec::from_config(&record.model).map_or(0.0, |spec| head_in_layers(&spec));
    let price = |layer: usize| (layers - 1 - layer) as f64 + head;
    let spent: f64 =
        windows.iter().enumerate().map(|(i, windows)| price(i) * *windows as f64).sum();
    let full: f64 = (0..layers).map(price).sum::<f64>() * all as f64;
    Some(format!(
        "Windows were spent until a cost was known to ±{} nats or surely beside {IDLE_THRESHOLD}: of {all}, {}; \
         {:.0} % of the work of all. The intervals allow for the repeated looks.",
        number(error),
        groups.join(", "),
        100.0 * spent / full.max(f64::MIN_POSITIVE)
    ))
}

/// The layers whose cost may lie on either side of the threshold, where windows were spent as needed.
fn open_sentence(record: &DiagnoseRecord) -> Option<String> {
    record.removal_error?;
    let is_open = |removal: &RemovalRecord| {
        let distance = (removal.delta_nll - IDLE_THRESHOLD).abs();
        removal.margin.is_none_or(|margin| distance <= margin)
    };
    let open: Vec<usize> = removals(record)?
        .into_iter()
        .filter(|(_, removal)| is_open(removal))
        .map(|(layer, _)| layer)
        .collect();
    (!open.is_empty()).then(|| {
        format!(
            "Neither surely below nor surely above {IDLE_THRESHOLD} nats: {}.",
            layers_in_words(&open)
        )
    })
}

/// What a loss is per.
pub(crate) fn predicted_token(record: &DiagnoseRecord) -> &'static str {
    if record.text.masking.is_some() { "masked token" } else { "token" }
}

/// How far the output moves without each layer, by the cosine distance; `None` where it was not measured.
pub(crate) fn output_changes(record: &DiagnoseRecord) -> Option<Vec<(usize, f64)>> {
    let of = |layer: &LayerRecord| {
        let change = layer.more.get(CHANGE)?.get("cosine_distance")?.get("mean")?.as_f64()?;
        Some((layer.layer, change))
    };
    let changes: Vec<(usize, f64)> = record.layers.iter().map(of).collect::<Option<_>>()?;
    (!changes.is_empty()).then_some(changes)
}

fn output_sentence(record: &DiagnoseRecord) -> Option<String> {
    let changes = output_changes(record)?;
    let most = changes.iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let least = changes.iter().min_by(|a, b| a.1.total_cmp(&b.1))?;
    Some(format!(
        "Removing one layer turns the last hidden state by a cosine distance between {} (layer {}) and {} \
         (layer {}).",
        number(least.1),
        least.0,
        number(most.1),
        most.0
    ))
}

/// What cannot be measured of a model without a head.
fn no_loss(record: &DiagnoseRecord) -> Option<String> {
    let model = ModelSpec::from_config(&record.model).ok().filter(|model| !model.has_head())?;
    Some(format!(
        "The model has no head and so no loss: removal is measured by the change of its output alone, no layer \
         can be called idle, and the probes {} do not apply.",
        super::that_take_a_loss(&model).join(", ")
    ))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_depth_counts_equal_layers() {
        assert!((effective_depth(&[0.3; 12]) - 12.0).abs() < 1e-9);
        assert!((effective_depth(&[2.0, 0.0, -0.1]) - 1.0).abs() < 1e-12);
        assert_eq!(effective_depth(&[-0.1, 0.0]), 0.0);
    }
}
