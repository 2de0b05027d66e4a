//! `jacobian`: how far each layer is from passing its input on, ‖J − I‖_F / ‖I‖_F with J its Jacobian
//! over a whole window (eq. 5 of arXiv 2502.05795: near 0 is near the identity).
//!
//! For a vector v of random signs, E‖(Jᵀ − I)v‖² = ‖J − I‖²_F (Hutchinson); the reported number is the
//! root of the mean over windows and vectors, divided by ‖I‖_F = √(T·H).

use burn::{
    module::Module,
    tensor::{Tensor, TensorData},
};
use layernorm_scaling::TransformerLayerWithScaling;
use lns_kernels::RotaryTable;
use lns_record::{
    ChartDescription, ChartScale, DiagnoseRecord, Group, Quantity, SeriesDescription,
};
use lns_score::ScoreError;
use lns_statistics::{mean, standard_error};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use super::{Course, Probe};
use crate::derivative::{Examined, layer_gradients, squares};

/// Random vectors per layer and window. Each has T·H signs, so one already has a relative error of a few
/// per mille at T·H = 10⁵.
const PROBES_PER_WINDOW: u64 = 2;

pub(crate) struct Jacobian;

fn distance() -> Quantity {
    let distance = Quantity::of_layers("jacobian_identity_distance", "‖J − I‖ / ‖I‖");
    Quantity { stderr: Some("layers[].jacobian_stderr".to_owned()), ..distance }.in_column(
        "‖J−I‖",
        60,
        80,
    )
}

impl Probe for Jacobian {
    fn name(&self) -> &'static str {
        "jacobian"
    }

    fn measures(&self) -> &'static str {
        "distance of each layer's Jacobian from the identity"
    }

    fn price(&self, _layers: f64) -> f64 {
        6.0
    }

    fn group(&self) -> Group {
        Group::Effect
    }

    fn quantities(&self) -> Vec<Quantity> {
        vec![distance()]
    }

    fn charts(&self) -> Vec<ChartDescription> {
        vec![ChartDescription {
            name: "jacobian".to_owned(),
            title: "Distance of each layer from the identity".to_owned(),
            caption: "‖J − I‖ / ‖I‖ (Frobenius) of the layer's Jacobian J = ∂stream[i+1]/∂stream[i]: 0 \
                      for a layer that passes its input on (the paper's eq. 5 and figure 5). Whiskers \
                      are ±2 standard errors over random vectors."
                .to_owned(),
            y: "‖J − I‖ / ‖I‖".to_owned(),
            scale: ChartScale::Positive,
            without_end: false,
            line: None,
            series: vec![SeriesDescription::of(&distance(), "distance", 0)],
        }]
    }

    fn course(&self) -> Course {
        Course::Own { passes: 1, run }
    }
}

/// Distances with their standard errors over random vectors; none when it was stopped.
fn run(examined: &Examined<'_>, record: &mut DiagnoseRecord) -> Result<(), ScoreError> {
    let Examined { source, windows, workers, control, .. } = *examined;
    let rotary = examined.rotary()?;
    let Some(streams) = examined.streams(&rotary)? else { return Ok(()) };
    let mut distances = Vec::new();
    for layer in source.spec().layers() {
        if control.is_stopped() {
            return Ok(());
        }
        let weights = source.layer(layer)?;
        let squares = workers.map(windows.len(), |window| {
            let input = &streams[window][layer.get()];
            let estimates: Vec<f64> = (0..PROBES_PER_WINDOW)
                .map(|probe| {
                    let seed = (layer.get() as u64) << 40 | (window as u64) << 8 | probe;
                    jacobian_square(&weights, input, &rotary, seed)
                })
                .collect();
            (control.progress)(1);
            estimates
        });
        let lost = |estimates: &Vec<f64>| estimates.iter().any(|square| !square.is_finite());
        if let Some(window) = squares.iter().position(lost) {
            let what = format!("the Jacobian of layer {}", layer.get());
            return Err(ScoreError::NotFinite { what, window });
        }
        let squares: Vec<f64> = squares.into_iter().flatten().collect();
        let distance = mean(&squares).sqrt();
        let stderr = standard_error(&squares).map(|error| error / (2.0 * distance.max(1e-300)));
        distances.push((distance, stderr));
    }
    for (layer, (distance, stderr)) in record.layers.iter_mut().zip(distances) {
        layer.jacobian_identity_distance = Some(distance);
        layer.jacobian_stderr = stderr;
    }
    Ok(())
}

/// ‖(Jᵀ − I)v‖² / (T·H) for one vector of random signs.
fn jacobian_square(
    layer: &TransformerLayerWithScaling,
    input: &Tensor<3>,
    rotary: &RotaryTable,
    seed: u64,
) -> f64 {
    let count = input.dims().iter().product::<usize>();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut signs = Vec::with_capacity(count);
    while signs.len() < count {
        let bits = rng.next_u64();
        let left = count - signs.len();
        signs.extend((0..64.min(left)).map(|bit| if bits >> bit & 1 == 0 { -1f32 } else { 1.0 }));
    }
    let v = Tensor::<3>::from_data(TensorData::new(signs, input.dims()), &input.device());
    let (product, _) = layer_gradients(&layer.clone().no_grad(), input.clone(), v.clone(), rotary);
    squares(&(product - v)) / count as f64
}
