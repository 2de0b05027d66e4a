//! Derivatives through the layers, one layer at a time: forward without autodiff keeping each layer's
//! input, then from the last layer to the first forward again with autodiff and backward. Memory is every
//! window's streams, (L + 1) · T · H numbers each, and one layer's tape and gradient per worker.

use std::sync::OnceLock;

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{Gradients, Tensor},
};
use layernorm_scaling::{TransformerLayerWithScaling, rotary_table};
use lns_corpus::Window;
use lns_kernels::{LossTerms, RotaryTable, Workers, backward_from, with_slices};
use lns_model::{Head, LayerSource, LoadError};
use lns_score::{ScoreError, predicted, targets, window_length};

use crate::Control;

/// A model and the windows of a text, for a probe that makes passes of its own.
#[derive(Clone, Copy)]
pub struct Examined<'a> {
    /// The model.
    pub source: &'a dyn LayerSource,
    /// Windows of one length, at least two tokens.
    pub windows: &'a [Window],
    /// Who computes.
    pub workers: &'a Workers,
    /// To be told of every layer that a window has passed, and asked between layers whether to stop.
    pub control: Control<'a>,
    /// The forward pass that the first probe makes and all use.
    pub forward: &'a Forward,
}

/// stream\[0..=L\] of each window, once a probe has asked for them.
#[derive(Debug, Default)]
pub struct Forward(OnceLock<Vec<Vec<Tensor<3>>>>);

/// The loss's derivative at one layer, for one window.
pub(crate) struct AtDerivative<'a> {
    pub(crate) weights: &'a TransformerLayerWithScaling,
    pub(crate) rotary: &'a RotaryTable,
    /// stream\[i\], \[1, T, H\].
    pub(crate) input: &'a Tensor<3>,
    /// ∂loss/∂stream\[i + 1\], \[1, T, H\].
    pub(crate) upstream: &'a Tensor<3>,
}

impl Examined<'_> {
    pub(crate) fn rotary(&self) -> Result<RotaryTable, ScoreError> {
        Ok(rotary_table(self.source.spec(), window_length(self.windows)?))
    }

    /// stream\[0..=L\] of each window; `None` when it was stopped.
    pub(crate) fn streams(
        &self,
        rotary: &RotaryTable,
    ) -> Result<Option<&[Vec<Tensor<3>>]>, LoadError> {
        let Forward(forward) = self.forward;
        if forward.get().is_none() {
            let Some(streams) = self.forward(rotary)? else { return Ok(None) };
            // Probes run one after another, so that nobody else has set it.
            let _ = forward.set(streams);
        }
        Ok(forward.get().map(Vec::as_slice))
    }

    fn forward(&self, rotary: &RotaryTable) -> Result<Option<Vec<Vec<Tensor<3>>>>, LoadError> {
        let Self { source, windows, workers, control, .. } = *self;
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

    /// Takes the derivative of the mean loss over all predicted tokens of all windows through the
    /// layers, the last first. `derive` gives ∂loss/∂stream\[i\] of a window and what else is wanted of
    /// it, `window` is handed that window after window, and `layer` is told when a layer is done, with
    /// ∂loss/∂stream\[i\] of every window. Whether it came to the first layer, or was stopped.
    pub(crate) fn backward<T: Send, S: Default>(
        &self,
        derive: impl Fn(&AtDerivative<'_>) -> (Tensor<3>, T) + Sync,
        mut window_done: impl FnMut(&mut S, T),
        mut layer_done: impl FnMut(usize, S, &[Tensor<3>]) -> Result<(), ScoreError>,
    ) -> Result<bool, ScoreError> {
        let Self { source, windows, workers, control, .. } = *self;
        let rotary = self.rotary()?;
        let Some(streams) = self.streams(&rotary)? else { return Ok(false) };
        let predicted = windows.iter().map(predicted).sum::<usize>() as f64;
        let head = source.head()?;
        let mut upstream = workers.map(windows.len(), |window| {
            let last = &streams[window][streams[window].len() - 1];
            head_gradient(&head, last, &targets(&windows[window]), predicted)
        });
        let layers: Vec<_> = source.spec().layers().collect();
        for layer in layers.into_iter().rev() {
            if control.is_stopped() {
                return Ok(false);
            }
            let weights = source.whole_layer(layer)?;
            let mut sum = S::default();
            // As many windows as workers, so that no more gradients than that are held at once.
            for first in (0..windows.len()).step_by(workers.count()) {
                let count = workers.count().min(windows.len() - first);
                let results = workers.map(count, |job| {
                    let (input, upstream) =
                        (&streams[first + job][layer.get()], &upstream[first + job]);
                    let at = AtDerivative { weights: &weights, rotary: &rotary, input, upstream };
                    let result = derive(&at);
                    (control.progress)(1);
                    result
                });
                for (job, (input_gradient, found)) in results.into_iter().enumerate() {
                    window_done(&mut sum, found);
                    upstream[first + job] = input_gradient;
                }
            }
            let finite = |window: &Tensor<3>| squares(window).is_finite();
            if let Some(window) = upstream.iter().position(|gradient| !finite(gradient)) {
                let what = format!("the gradient of stream {}", layer.get());
                return Err(ScoreError::NotFinite { what, window });
            }
            layer_done(layer.get(), sum, &upstream)?;
        }
        Ok(true)
    }
}

/// Σ of squares, in f64.
pub(crate) fn squares(tensor: &Tensor<3>) -> f64 {
    with_slices([tensor], |[values]| values.iter().map(|x| f64::from(*x).powi(2)).sum())
}

/// ∂(Σ loss / predicted)/∂stream\[L\] of one window, \[1, T, H\]: nothing at places without a target.
fn head_gradient(head: &Head, last: &Tensor<3>, targets: &[u32], predicted: f64) -> Tensor<3> {
    let [_, length, hidden] = last.dims();
    let head = head.clone().no_grad().train();
    let rows = last.clone().reshape([length, hidden]);
    let leaf = Tensor::from_inner(rows).require_grad();
    let terms = LossTerms { weight: 1.0 / predicted, z_loss: 0.0 };
    let (loss, _) = head.loss(leaf.clone(), targets, terms);
    let found = leaf.grad(&loss.backward());
    found
        .unwrap_or_else(|| Tensor::zeros([length, hidden], &last.device()))
        .reshape([1, length, hidden])
}

/// Gradient of ⟨layer(input), upstream⟩ with respect to the input and to the parameters, the latter
/// as one list in a fixed order.
pub(crate) fn layer_gradients(
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
        let values = param.val();
        match values.grad(self.gradients) {
            Some(gradient) => {
                with_slices([&gradient], |[values]| self.values.extend_from_slice(values));
            }
            // An expert that no token of this window is sent to; others may be.
            None if values.is_require_grad() => {
                let count = values.shape().num_elements();
                self.values.resize(self.values.len() + count, 0.0);
            }
            None => {}
        }
    }
}
