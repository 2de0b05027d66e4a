//! `gradients`: how large the loss's gradient is in each layer's parameters and at its input.

use lns_record::{
    ChartDescription, ChartScale, DiagnoseRecord, Group, Quantity, SeriesDescription,
};
use lns_score::ScoreError;

use lns_spec::ModelSpec;

use super::{Course, Probe};
use crate::derivative::{Examined, layer_gradients, squares};

pub(crate) struct Gradients;

fn parameters() -> Quantity {
    Quantity::of_layers("gradient_norm", "gradient norm").in_column("gradient", 80, 90)
}

fn stream() -> Quantity {
    Quantity::of_layers("stream_gradient_norm", "stream gradient")
}

impl Probe for Gradients {
    fn name(&self) -> &'static str {
        "gradients"
    }

    fn measures(&self) -> &'static str {
        "gradient norm of each layer's parameters and input"
    }

    fn lacks(&self, model: &ModelSpec) -> Option<&'static str> {
        super::lacks_head(model)
    }

    fn price(&self, _layers: f64) -> f64 {
        5.0
    }

    fn group(&self) -> Group {
        Group::Effect
    }

    fn quantities(&self) -> Vec<Quantity> {
        vec![parameters(), stream()]
    }

    fn charts(&self) -> Vec<ChartDescription> {
        vec![ChartDescription {
            name: "gradients".to_owned(),
            title: "Gradients by layer".to_owned(),
            caption:
                "‖∂loss/∂θ‖₂ over the layer's parameters, and ‖∂loss/∂stream[i]‖₂ at its input."
                    .to_owned(),
            y: "gradient norm".to_owned(),
            scale: ChartScale::Positive,
            without_end: false,
            line: None,
            series: vec![
                SeriesDescription::of(&parameters(), "parameters", 0),
                SeriesDescription::of(&stream(), "stream", 4),
            ],
        }]
    }

    fn course(&self) -> Course {
        Course::Own { passes: 1, run }
    }
}

/// Norms of the gradients of the mean loss over all predicted tokens; none when it was stopped.
fn run(examined: &Examined<'_>, record: &mut DiagnoseRecord) -> Result<(), ScoreError> {
    let mut norms = vec![(0.0, 0.0); record.layers.len()];
    let finished = examined.backward(
        |at| layer_gradients(at.weights, at.input.clone(), at.upstream.clone(), at.rotary),
        |sum: &mut Vec<f64>, parameters: Vec<f32>| {
            sum.resize(parameters.len(), 0.0);
            sum.iter_mut().zip(parameters).for_each(|(sum, g)| *sum += f64::from(g));
        },
        |layer, sum, stream| {
            let parameters = sum.iter().map(|g| g * g).sum::<f64>().sqrt();
            if !parameters.is_finite() {
                let what = format!("the gradient of layer {layer}");
                return Err(ScoreError::NotFinite { what, window: 0 });
            }
            norms[layer] = (parameters, stream.iter().map(squares).sum::<f64>().sqrt());
            Ok(())
        },
    )?;
    if finished {
        for (layer, (parameters, stream)) in record.layers.iter_mut().zip(norms) {
            layer.gradient_norm = Some(parameters);
            layer.stream_gradient_norm = Some(stream);
        }
    }
    Ok(())
}
