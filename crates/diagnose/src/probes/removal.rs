//! `removal`: what the loss rises by when a layer is left out.
//!
//! Removing layer i means that the stream entering i enters i + 1.

use burn::tensor::Tensor;
use lns_record::{DiagnoseRecord, Group, Quantity, RemovalRecord, VerdictRecord};

use super::{Course, Probe};
use crate::{
    observer::{AtLayer, Observer, Passed},
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
        "loss without each layer"
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
        vec![Quantity::loss_difference("removal", "Δ loss, layer").in_column("Δ loss", 10, 120)]
    }

    fn course(&self) -> Course {
        Course::Shared(Box::new(Watch))
    }

    fn evidence(&self, record: &DiagnoseRecord) -> Vec<String> {
        range_sentence(record).into_iter().collect()
    }
}

struct Watch;

impl Observer for Watch {
    fn variants(&self) -> usize {
        1
    }

    fn without(&self, at: &AtLayer<'_>) -> Vec<Tensor<3>> {
        vec![at.stream.clone()]
    }

    fn conclude(&self, passed: &Passed<'_>, record: &mut DiagnoseRecord) {
        for layer in &mut record.layers {
            layer.removal = passed.removal(0, layer.layer);
        }
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
        "Removing one layer costs between {} nats (layer {}) and {} nats (layer {}) per token.",
        number(cheapest.1.delta_nll),
        cheapest.0,
        number(dearest.1.delta_nll),
        dearest.0
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
