//! Probes that need derivatives: gradient norms and the distance of each layer's Jacobian from the
//! identity.
//!
//! The derivative is taken one layer at a time: forward without autodiff keeping each layer's input,
//! then from the last layer to the first forward again with autodiff and backward. Memory is every
//! window's streams, (L + 1) · T · H numbers each, and one layer's tape and gradient per worker.

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{Gradients, Tensor, TensorData},
};
use layernorm_scaling::{TransformerLayerWithScaling, rotary_table};
use lns_corpus::Window;
use lns_kernels::{LossTerms, RotaryTable, Workers, backward_from, with_slices};
use lns_model::{Head, LayerSource, LoadError};
use lns_score::{ScoreError, mean, predictors, standard_error, window_length};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::Control;

/// Random vectors per layer and window for the Jacobian. Each has T·H signs, so one already has a
/// relative error of a few per mille at T·H = 10⁵.
const PROBES_PER_WINDOW: u64 = 2;

/// Norms of one layer's gradients.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct GradientNorms {
    /// ‖∂loss/∂θ‖₂
    pub(crate) parameters: f64,
    /// ‖∂loss/∂stream\[i\]‖₂
    pub(crate) stream: f64,
}

/// Layer passes that either probe reports to its progress.
pub(crate) fn work(layers: usize, windows: usize) -> u64 {
    (2 * layers * windows) as u64
}

/// stream\[0..=L\] of each window; `None` when it was stopped.
fn streams(
    source: &dyn LayerSource,
    windows: &[Window],
    rotary: &RotaryTable,
    workers: &Workers,
    control: Control<'_>,
) -> Result<Option<Vec<Vec<Tensor<3>>>>, LoadError> {
    let mut streams = windows
        .iter()
        .map(|window| Ok(vec![source.embed_ids(&window.ids)?]))
        .collect::<Result<Vec<_>, LoadError>>()?;
    for layer in source.spec().layers() {
        if control.is_stopped() {
            return Ok(None);
        }
        let weights = source.layer(layer)?;
        let next = workers.map(windows.len(), |window| {
            let streams = &streams[window];
            let out = weights.forward(streams[streams.len() - 1].clone(), rotary);
            (control.progress)(1);
            out
        });
        streams.iter_mut().zip(next).for_each(|(streams, next)| streams.push(next));
    }
    Ok(Some(streams))
}

/// Gradient norms of the mean loss over all predicted tokens of all windows, by layer; none when it was
/// stopped.
pub(crate) fn gradient_norms(
    source: &dyn LayerSource,
    windows: &[Window],
    workers: &Workers,
    control: Control<'_>,
) -> Result<Vec<GradientNorms>, ScoreError> {
    let length = window_length(windows)?;
    let rotary = rotary_table(source.spec(), length);
    let Some(streams) = streams(source, windows, &rotary, workers, control)? else {
        return Ok(Vec::new());
    };
    let predicted = (windows.len() * (length - 1)) as f64;
    let head = source.head()?;
    let mut upstream = workers.map(windows.len(), |window| {
        let last = &streams[window][streams[window].len() - 1];
        head_gradient(&head, last, &windows[window].ids[1..], predicted)
    });
    let mut norms = Vec::new();
    let layers: Vec<_> = source.spec().layers().collect();
    for layer in layers.into_iter().rev() {
        if control.is_stopped() {
            return Ok(Vec::new());
        }
        let weights = source.layer(layer)?;
        let mut sum: Vec<f64> = Vec::new();
        // As many windows as workers, so that no more gradients than that are held at once.
        for first in (0..windows.len()).step_by(workers.count()) {
            let count = workers.count().min(windows.len() - first);
            let results = workers.map(count, |job| {
                let window = first + job;
                let input = streams[window][layer.get()].clone();
                let result = layer_gradients(&weights, input, upstream[window].clone(), &rotary);
                (control.progress)(1);
                result
            });
            for (job, (input_gradient, parameters)) in results.into_iter().enumerate() {
                sum.resize(parameters.len(), 0.0);
                sum.iter_mut().zip(parameters).for_each(|(sum, g)| *sum += f64::from(g));
                upstream[first + job] = input_gradient;
            }
        }
        let stream_squares: f64 = upstream.iter().map(squares).sum();
        let finite = |window: &Tensor<3>| squares(window).is_finite();
        if let Some(window) = upstream.iter().position(|gradient| !finite(gradient)) {
            let what = format!("the gradient of stream {}", layer.get());
            return Err(ScoreError::NotFinite { what, window });
        }
        let parameters = sum.iter().map(|g| g * g).sum::<f64>().sqrt();
        if !parameters.is_finite() {
            let what = format!("the gradient of layer {}", layer.get());
            return Err(ScoreError::NotFinite { what, window: 0 });
        }
        norms.push(GradientNorms { parameters, stream: stream_squares.sqrt() });
    }
    norms.reverse();
    Ok(norms)
}

fn squares(tensor: &Tensor<3>) -> f64 {
    with_slices([tensor], |[values]| values.iter().map(|x| f64::from(*x).powi(2)).sum())
}

/// ∂(Σ loss / predicted)/∂stream\[L\] of one window, \[1, T, H\].
fn head_gradient(head: &Head, last: &Tensor<3>, targets: &[u32], predicted: f64) -> Tensor<3> {
    let [_, length, hidden] = last.dims();
    let head = head.clone().no_grad().train();
    let leaf = Tensor::from_inner(predictors(last)).require_grad();
    let terms = LossTerms { weight: 1.0 / predicted, z_loss: 0.0 };
    let (loss, _) = head.loss(leaf.clone(), targets, terms);
    let found = leaf.grad(&loss.backward());
    // The last position predicts nothing.
    let nothing = Tensor::zeros([1, hidden], &last.device());
    let rows = found.into_iter().chain([nothing]).collect();
    Tensor::cat(rows, 0).reshape([1, length, hidden])
}

/// Gradient of ⟨layer(input), upstream⟩ with respect to the input and to the parameters, the latter
/// as one list in a fixed order.
fn layer_gradients(
    layer: &TransformerLayerWithScaling,
    input: Tensor<3>,
    upstream: Tensor<3>,
    rotary: &RotaryTable,
) -> (Tensor<3>, Vec<f32>) {
    let zeros = input.zeros_like();
    // Leaves of its own, so that the windows' tapes stay apart.
    let layer = layer.clone().train();
    let leaf = Tensor::from_inner(input).require_grad();
    let out = layer.forward(leaf.clone(), rotary);
    let gradients = backward_from(out, upstream);
    let mut collected = Collect { gradients: &gradients, values: Vec::new() };
    layer.visit(&mut collected);
    (leaf.grad(&gradients).unwrap_or(zeros), collected.values)
}

struct Collect<'a> {
    gradients: &'a Gradients,
    values: Vec<f32>,
}

impl ModuleVisitor for Collect<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = param.val().grad(self.gradients) {
            with_slices([&gradient], |[values]| self.values.extend_from_slice(values));
        }
    }
}

/// ‖J − I‖_F / ‖I‖_F of each layer, J its Jacobian over a whole window, with the standard error over
/// random vectors; none when it was stopped.
///
/// For a vector v of random signs, E‖(Jᵀ − I)v‖² = ‖J − I‖²_F (Hutchinson); the reported number is the
/// root of the mean over windows and vectors, divided by ‖I‖_F = √(T·H).
pub(crate) fn jacobian_distances(
    source: &dyn LayerSource,
    windows: &[Window],
    workers: &Workers,
    control: Control<'_>,
) -> Result<Vec<(f64, Option<f64>)>, ScoreError> {
    let length = window_length(windows)?;
    let rotary = rotary_table(source.spec(), length);
    let Some(streams) = streams(source, windows, &rotary, workers, control)? else {
        return Ok(Vec::new());
    };
    let mut distances = Vec::new();
    for layer in source.spec().layers() {
        if control.is_stopped() {
            return Ok(Vec::new());
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
    Ok(distances)
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
