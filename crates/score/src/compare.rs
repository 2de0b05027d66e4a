//! Two models that should be one function, held against each other.

use burn::tensor::Tensor;
use layernorm_scaling::rotary_table;
use lns_corpus::Window;
use lns_kernels::{Workers, with_slices};
use lns_model::LayerSource;

use crate::{CountPasses, ScoreError, evaluate, window_length};

/// Tokens whose logits are in memory at once.
const TOKENS_AT_ONCE: usize = 64;

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
    progress: CountPasses<'_>,
) -> Result<Comparison, ScoreError> {
    window_length(windows)?;
    let mut nll = [0.0; 2];
    for (nll, model) in nll.iter_mut().zip(models) {
        *nll = evaluate(model, windows, workers, progress)?.nll();
    }
    let streams = [stream(models[0], &windows[0])?, stream(models[1], &windows[0])?];
    let heads = [models[0].head()?, models[1].head()?];
    let (mut logit_difference, mut largest_logit) = (0f64, 0f64);
    let tokens = windows[0].ids.len();
    for start in (0..tokens).step_by(TOKENS_AT_ONCE) {
        let count = TOKENS_AT_ONCE.min(tokens - start);
        let [first, second] =
            [0, 1].map(|which| heads[which].logits(streams[which].clone().narrow(1, start, count)));
        assert_eq!(first.dims(), second.dims(), "two models of one vocabulary");
        with_slices([&flat(first), &flat(second)], |[first, second]| {
            for (a, b) in first.iter().zip(second) {
                let (a, b) = (f64::from(*a), f64::from(*b));
                logit_difference = logit_difference.max((a - b).abs());
                largest_logit = largest_logit.max(a.abs());
            }
        });
    }
    Ok(Comparison { nll, logit_difference, largest_logit })
}

/// The stream after the last layer, \[1, T, H\].
fn stream(model: &dyn LayerSource, window: &Window) -> Result<Tensor<3>, ScoreError> {
    let rotary = rotary_table(model.spec(), window.ids.len());
    let mut stream = model.embed_ids(&window.ids)?;
    for layer in model.spec().layers() {
        stream = model.layer(layer)?.forward(stream, &rotary);
    }
    Ok(stream)
}

fn flat(tensor: Tensor<3>) -> Tensor<1> {
    let count = tensor.dims().iter().product::<usize>();
    tensor.reshape([count])
}
