//! `sublayers`: what the loss rises by when a layer lacks its attention, and when it lacks its MLP, and how far
//! the output moves.
//!
//! The stream passes a site that is left out as it came, under Post-LN without the site's norm too.

use burn::tensor::Tensor;
use lns_record::{
    ChartDescription, ChartScale, DiagnoseRecord, Group, Quantity, SeriesDescription,
};
use lns_spec::Site;

use super::{Course, Probe};
use crate::{
    observer::{AtEndWithout, AtLayer, Observer, Passed},
    representation::{self, Changes},
};

pub(crate) struct Sublayers;

fn attention() -> Quantity {
    Quantity::loss_difference("removal_attention", "Δ loss, attention").in_column(
        "Δ attention",
        30,
        110,
    )
}

fn mlp() -> Quantity {
    Quantity::loss_difference("removal_mlp", "Δ loss, MLP").in_column("Δ MLP", 30, 110)
}

impl Probe for Sublayers {
    fn name(&self) -> &'static str {
        "sublayers"
    }

    fn measures(&self) -> &'static str {
        "loss and output without each layer's attention, and without its MLP"
    }

    fn price(&self, layers: f64) -> f64 {
        layers * 1.1
    }

    fn group(&self) -> Group {
        Group::Effect
    }

    fn quantities(&self) -> Vec<Quantity> {
        let changes = CHANGES.map(|(name, of)| representation::quantities(name, of));
        [attention(), mlp()].into_iter().chain(changes.into_iter().flatten()).collect()
    }

    fn quantities_in(&self, record: &DiagnoseRecord) -> Vec<Quantity> {
        if record.baseline.is_some() {
            let windows = [("removal_attention", "attention"), ("removal_mlp", "MLP")];
            let windows =
                windows.map(|(name, of)| Quantity::windows_of(name, &format!("windows, {of}")));
            let spent = record.removal_error.map(|_| windows);
            return self.quantities().into_iter().chain(spent.into_iter().flatten()).collect();
        }
        let changes = CHANGES.map(|(name, of)| representation::quantities(name, of));
        let [[attention, ..], [mlp, ..]] = changes.clone();
        let columns =
            [attention.in_column("Δ out att", 30, 110), mlp.in_column("Δ out MLP", 30, 110)];
        let rest = changes.into_iter().flat_map(|[_, l2, mean]| [l2, mean]);
        columns.into_iter().chain(rest).collect()
    }

    fn charts(&self) -> Vec<ChartDescription> {
        let loss = ChartDescription {
            name: "removal-sublayers".to_owned(),
            title: "Cost of removing attention or MLP alone".to_owned(),
            caption: "As above, with only one branch of the layer left out. The two need not add up to the \
                      cost of the whole layer."
                .to_owned(),
            y: "loss without it − loss with it".to_owned(),
            scale: ChartScale::Difference,
            without_end: false,
            line: None,
            series: vec![
                SeriesDescription::of(&attention(), "attention removed", 2),
                SeriesDescription::of(&mlp(), "MLP removed", 3),
            ],
        };
        let [[attention, ..], [mlp, ..]] =
            &CHANGES.map(|(name, of)| representation::quantities(name, of));
        let title = "What removing attention or MLP alone does to the output";
        let series = [(attention, "attention removed", 2), (mlp, "MLP removed", 3)];
        vec![loss, representation::chart("removal-sublayers-representation", title, &series)]
    }

    fn course(&self) -> Course {
        Course::Shared(Box::new(Watch::default()))
    }
}

/// Names of the output's changes in a layer's record, and what each is without.
const CHANGES: [(&str, &str); 2] =
    [("representation_attention", ", attention"), ("representation_mlp", ", MLP")];

#[derive(Default)]
struct Watch(Changes);

impl Observer for Watch {
    fn variants(&self) -> usize {
        2
    }

    fn without(&self, at: &AtLayer<'_>) -> Vec<Tensor<3>> {
        let alone = at.weights.branch(Site::Mlp, at.stream.clone(), at.rotary);
        let without_attention = at.weights.join(Site::Mlp, at.stream.clone(), alone);
        vec![without_attention, at.middle.clone()]
    }

    fn at_end_without(&self, at: &AtEndWithout<'_>) {
        self.0.note(at);
    }

    fn conclude(&self, passed: &Passed<'_>, record: &mut DiagnoseRecord) {
        for layer in &mut record.layers {
            layer.removal_attention = passed.removal(0, layer.layer);
            layer.removal_mlp = passed.removal(1, layer.layer);
        }
        for (part, (name, _)) in CHANGES.into_iter().enumerate() {
            self.0.conclude(name, part, passed, &mut record.layers);
        }
    }
}
