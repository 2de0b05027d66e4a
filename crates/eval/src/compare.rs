//! Two models that should be one function, held against each other.

use burn::tensor::Tensor;
use layernorm_scaling::{LayerSource, rotary_table};
use lns_data::Window;
use lns_kernels::{Workers, with_slices};

use crate::{Progress, RunError, evaluate, window_length};

/// How far the second model is from the first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Mean loss of each, in nats per predicted token.
    pub nll: [f64; 2],
    /// Largest |difference| of two logits, over the first window.
    pub logit_difference: f64,
    /// Largest |logit| of the first model there.
    pub largest_logit: f64,
}

impl Comparison {
    /// The largest difference of two logits over the largest logit.
    pub fn relative(&self) -> f64 {
        self.logit_difference / self.largest_logit.max(f64::MIN_POSITIVE)
    }
}

/// Losses on all windows, logits on the first.
///
/// # Errors
/// As [`evaluate`].
///
/// # Panics
/// If the models have vocabularies of different sizes.
pub fn compare(
    models: [&dyn LayerSource; 2],
    windows: &[Window],
    workers: &Workers,
    progress: Progress<'_>,
) -> Result<Comparison, RunError> {
    window_length(windows)?;
    let mut nll = [0.0; 2];
    for (nll, model) in nll.iter_mut().zip(models) {
        *nll = evaluate(model, windows, workers, progress)?.nll();
    }
    let [first, second] = [logits(models[0], &windows[0])?, logits(models[1], &windows[0])?];
    assert_eq!(first.dims(), second.dims(), "two models of one vocabulary");
    let (mut logit_difference, mut largest_logit) = (0f64, 0f64);
    with_slices([&first, &second], |[first, second]| {
        for (a, b) in first.iter().zip(second) {
            let (a, b) = (f64::from(*a), f64::from(*b));
            logit_difference = logit_difference.max((a - b).abs());
            largest_logit = largest_logit.max(a.abs());
        }
    });
    Ok(Comparison { nll, logit_difference, largest_logit })
}

/// All logits of a window, \[tokens · vocabulary\].
fn logits(model: &dyn LayerSource, window: &Window) -> Result<Tensor<1>, RunError> {
    let rotary = rotary_table(model.spec(), window.ids.len());
    let mut stream = model.embed_ids(&window.ids)?;
    for layer in model.spec().layers() {
        stream = model.layer(layer)?.forward(stream, &rotary);
    }
    let logits = model.head()?.logits(stream);
    let count = logits.dims().iter().product::<usize>();
    Ok(logits.reshape([count]))
}
