//! `attribution`: what leaving out a layer, its attention or its MLP would cost, estimated to first order
//! from one gradient.
//!
//! With Δ what a part does to the stream and g = ∂loss/∂stream where the part's output has joined it, a
//! model in which the part does only (1 − ε)·Δ loses −ε⟨g, Δ⟩ + O(ε²); the estimate takes that line to
//! ε = 1, where the part is gone. The cost of removal is measured by `removal` and `sublayers`, at a price
//! that grows with the depth; how well the estimate ranks the layers is told where both ran. Under GPAS
//! the gradient is the one that training uses, which passes the damping by (arXiv 2506.22049, eq. 5).

use burn::{
    module::Module,
    tensor::{Gradients, Tensor},
};
use lns_kernels::{backward_from, with_slices};
use lns_record::{
    ChartDescription, ChartScale, DiagnoseRecord, Group, Quantity, RemovalRecord, SeriesDescription,
};
use lns_score::ScoreError;
use lns_spec::Site;
use lns_statistics::{margin, mean, standard_error};

use super::{Course, Probe};
use crate::{
    derivative::{AtDerivative, Examined},
    words::number,
};

pub(crate) struct Attribution;

/// The parts, in the order of their estimates.
const NAMES: [&str; 3] = ["attribution", "attribution_attention", "attribution_mlp"];

fn layer() -> Quantity {
    estimate(NAMES[0], "estimated Δ loss, layer", "removal").in_column("est. Δ loss", 35, 112)
}

fn attention() -> Quantity {
    estimate(NAMES[1], "estimated Δ loss, attention", "removal_attention").in_column(
        "est. attention",
        36,
        111,
    )
}

fn mlp() -> Quantity {
    estimate(NAMES[2], "estimated Δ loss, MLP", "removal_mlp").in_column("est. MLP", 36, 111)
}

fn estimate(name: &str, label: &str, of: &str) -> Quantity {
    let estimates = Quantity::loss_difference(of, "").field;
    Quantity { estimates: Some(estimates), ..Quantity::loss_difference(name, label) }
}

impl Probe for Attribution {
    fn name(&self) -> &'static str {
        "attribution"
    }

    fn measures(&self) -> &'static str {
        "first-order estimate of the loss without each layer, attention, MLP"
    }

    fn lacks(&self, model: &lns_spec::ModelSpec) -> Option<&'static str> {
        super::lacks_head(model)
    }

    /// 0.6 of the time of `gradients`, measured beside it: no parameter needs a gradient.
    fn price(&self, _layers: f64) -> f64 {
        3.0
    }

    fn group(&self) -> Group {
        Group::Effect
    }

    fn quantities(&self) -> Vec<Quantity> {
        vec![layer(), attention(), mlp()]
    }

    fn charts(&self) -> Vec<ChartDescription> {
        vec![ChartDescription {
            name: "attribution".to_owned(),
            title: "Estimated cost of removing each layer, its attention, its MLP".to_owned(),
            caption: "−⟨∂loss/∂stream, what the part adds to the stream⟩: the first-order estimate of the \
                      rise of the loss without the part, from one gradient. Whiskers are 95 % intervals over \
                      windows (Student's t) of the estimate, not of its error."
                .to_owned(),
            y: "estimate of loss without it − loss with it".to_owned(),
            scale: ChartScale::Difference,
            without_end: false,
            line: None,
            series: vec![
                SeriesDescription::of(&layer(), "layer", 0),
                SeriesDescription::of(&attention(), "attention", 2),
                SeriesDescription::of(&mlp(), "MLP", 3),
            ],
        }]
    }

    fn course(&self) -> Course {
        Course::Own { passes: 1, run }
    }

    fn evidence(&self, record: &DiagnoseRecord) -> Vec<String> {
        range_sentence(record).into_iter().collect()
    }
}

/// Estimates with their errors over windows; none when it was stopped.
fn run(examined: &Examined<'_>, record: &mut DiagnoseRecord) -> Result<(), ScoreError> {
    let windows = examined.windows.len() as f64;
    let mut found = vec![Vec::new(); record.layers.len()];
    let finished = examined.backward(
        derive,
        |estimates: &mut Vec<[f64; 3]>, estimate| {
            // The gradient is of the mean over all windows, an estimate of one window's own loss.
            estimates.push(estimate.map(|estimate| estimate * windows));
        },
        |layer, estimates, _| {
            let lost = |estimate: &[f64; 3]| estimate.iter().any(|part| !part.is_finite());
            if let Some(window) = estimates.iter().position(lost) {
                let what = format!("the attribution of layer {layer}");
                return Err(ScoreError::NotFinite { what, window });
            }
            found[layer] = estimates;
            Ok(())
        },
    )?;
    if !finished {
        return Ok(());
    }
    for (layer, estimates) in record.layers.iter_mut().zip(found) {
        for (part, name) in NAMES.into_iter().enumerate() {
            let windows: Vec<f64> = estimates.iter().map(|estimate| estimate[part]).collect();
            let (stderr, margin) = (standard_error(&windows), margin(&windows));
            let delta_nll = mean(&windows);
            layer.note(name, &RemovalRecord { delta_nll, stderr, margin, windows: None });
        }
    }
    Ok(())
}

/// ∂loss/∂stream\[i\], and the estimates for the layer, its attention and its MLP.
fn derive(at: &AtDerivative<'_>) -> (Tensor<3>, [f64; 3]) {
    // Leaves of its own, so that the windows' tapes stay apart; no parameter needs a gradient.
    let weights = at.weights.clone().no_grad().train();
    let leaf = |stream: Tensor<3>| Tensor::from_inner(stream).require_grad();
    let input = leaf(at.input.clone());
    let attention = weights.branch(Site::Attention, input.clone(), at.rotary);
    let middle = weights.join(Site::Attention, input.clone(), attention);
    let middle_value = middle.clone().inner();
    // A leaf for the sum and one for what a parallel branch reads beside it.
    let (between, beside) = (leaf(middle_value.clone()), leaf(at.input.clone()));
    let read = weights.mlp_reads(beside.clone(), between.clone());
    let mlp = weights.branch(Site::Mlp, read, at.rotary);
    let out = weights.join(Site::Mlp, between.clone(), mlp);
    let out_value = out.clone().inner();
    let of = |leaf: &Tensor<3>, found: &Gradients| {
        leaf.grad(found).unwrap_or_else(|| at.upstream.zeros_like())
    };
    let found = backward_from(out, at.upstream.clone());
    let at_middle = of(&between, &found);
    let mut at_input = of(&input, &backward_from(middle, at_middle.clone()));
    if let Some(past_the_attention) = beside.grad(&found) {
        at_input = at_input + past_the_attention;
    }
    let estimates = [
        cost(at.upstream, &out_value, at.input),
        cost(&at_middle, &middle_value, at.input),
        cost(at.upstream, &out_value, &middle_value),
    ];
    (at_input, estimates)
}

/// −⟨gradient, with − without⟩ over all tokens and features, in f64.
fn cost(gradient: &Tensor<3>, with: &Tensor<3>, without: &Tensor<3>) -> f64 {
    with_slices([gradient, with, without], |[gradient, with, without]| {
        let differences = with.iter().zip(without).map(|(a, b)| f64::from(*b) - f64::from(*a));
        gradient.iter().zip(differences).map(|(g, difference)| f64::from(*g) * difference).sum()
    })
}

fn range_sentence(record: &DiagnoseRecord) -> Option<String> {
    let estimate = |layer: &lns_record::LayerRecord| {
        let estimate = layer.more.get(NAMES[0])?.get("delta_nll")?.as_f64()?;
        Some((estimate, layer.layer))
    };
    let estimates: Vec<(f64, usize)> = record.layers.iter().filter_map(estimate).collect();
    let least = estimates.iter().min_by(|a, b| a.0.total_cmp(&b.0))?;
    let most = estimates.iter().max_by(|a, b| a.0.total_cmp(&b.0))?;
    Some(format!(
        "To first order, removing one layer would cost between {} nats (layer {}) and {} nats (layer {}) \
         per token.",
        number(least.0),
        least.1,
        number(most.0),
        most.1
    ))
}
