//! Token-weighted loss of a model on windows of text: negative log-likelihood, perplexity, bits per
//! byte, with the standard error over windows.
//!
//! Inside a window every token but the first is predicted. The mean is over predicted tokens, and the
//! denominator is their number: a model of constant logits has a loss of exactly ln(vocabulary).

mod compare;
mod paired;

use std::time::Instant;

use burn::tensor::Tensor;
use layernorm_scaling::{TransformerLayerWithScaling, rotary_table};
use lns_corpus::Window;
use lns_kernels::Workers;
use lns_model::{LayerSource, LoadError};
use lns_record::EvalRecord;
use lns_spec::LayerIndex;
use statrs::distribution::{ContinuousCDF, StudentsT};

pub use compare::{Comparison, compare};
pub use paired::paired;

/// Called with the number of layer passes over one window that were just finished.
pub type CountPasses<'a> = &'a (dyn Fn(u64) + Sync);

/// Why a model could not be measured on a text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message names its fields")]
pub enum ScoreError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("there is no window of at least two tokens to measure on")]
    NoWindows,
    #[error(
        "{what} of window {window} is not a finite number; the checkpoint's weights are damaged or its \
         values leave the range of f32"
    )]
    NotFinite { what: String, window: usize },
}

/// Bytes of residual streams held at once when the layers come from disk.
const STREAM_BUDGET: usize = 1 << 28;

/// Loss of a model on a text, window by window.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Mean nats per predicted token of each window.
    pub window_nll: Vec<f64>,
    /// Predicted tokens of each window, all equal.
    pub predicted: usize,
    /// Bytes of text the predicted tokens stand for.
    pub bytes: u64,
    /// Wall-clock seconds of computation.
    pub seconds: f64,
}

impl Evaluation {
    /// Mean nats per predicted token.
    pub fn nll(&self) -> f64 {
        mean(&self.window_nll)
    }

    /// Standard error of [`nll`](Self::nll) over windows; `None` with fewer than two.
    pub fn stderr(&self) -> Option<f64> {
        standard_error(&self.window_nll)
    }

    /// The record that `eval --json` prints.
    pub fn record(&self, model: String, window_len: usize) -> EvalRecord {
        let tokens = (self.window_nll.len() * self.predicted) as u64;
        let bits = self.nll() / std::f64::consts::LN_2 * tokens as f64;
        EvalRecord {
            model,
            tokens,
            bytes: self.bytes,
            nll: self.nll(),
            perplexity: self.nll().exp(),
            bits_per_byte: (self.bytes > 0).then(|| bits / self.bytes as f64),
            nll_stderr: self.stderr(),
            windows: self.window_nll.len() as u64,
            window_len: window_len as u64,
            seconds: self.seconds,
            difference: None,
        }
    }
}

/// Arithmetic mean; NaN of nothing.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Sample standard deviation over √n; `None` with fewer than two values.
pub fn standard_error(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let count = values.len() as f64;
    Some((squares / (count - 1.0) / count).sqrt())
}

/// Half the 95 % confidence interval of the mean, t(0.975, n − 1)·s/√n by Student's t; `None` with
/// fewer than two values.
pub fn margin(values: &[f64]) -> Option<f64> {
    let stderr = standard_error(values)?;
    let t = StudentsT::new(0.0, 1.0, values.len() as f64 - 1.0).ok()?;
    Some(t.inverse_cdf(0.975) * stderr)
}

/// Layer passes that [`evaluate`] will report.
pub fn work(source: &dyn LayerSource, windows: &[Window]) -> u64 {
    (source.spec().num_hidden_layers * windows.len()) as u64
}

/// Evaluates `source` on `windows`, each of the same length.
///
/// A model in memory is run window by window; one on disk layer by layer, so that each layer is read
/// once per batch of windows.
///
/// # Errors
/// [`ScoreError`] when there is no window, a layer cannot be read, or a loss is not a number.
pub fn evaluate(
    source: &dyn LayerSource,
    windows: &[Window],
    workers: &Workers,
    progress: CountPasses<'_>,
) -> Result<Evaluation, ScoreError> {
    let length = window_length(windows)?;
    let spec = source.spec();
    let rotary = rotary_table(spec, length);
    let per_window = length * spec.hidden_size * size_of::<f32>();
    let batch = (STREAM_BUDGET / per_window.max(1)).max(workers.count());
    let mut window_nll = Vec::with_capacity(windows.len());
    let start = Instant::now();
    for windows in windows.chunks(batch) {
        let mut streams = windows
            .iter()
            .map(|window| source.embed_ids(&window.ids))
            .collect::<Result<Vec<_>, _>>()?;
        for first in (0..spec.num_hidden_layers).step_by(source.layers_at_once()) {
            let group = layers(source, first)?;
            streams = workers.map(streams.len(), |window| {
                group.iter().fold(streams[window].clone(), |stream, layer| {
                    progress(1);
                    layer.forward(stream, &rotary)
                })
            });
        }
        // After the layers, so that a head from disk is not held beside them.
        let head = source.head()?;
        window_nll.extend(workers.map(windows.len(), |window| {
            let losses = head.nll(predictors(&streams[window]), &windows[window].ids[1..]);
            mean_of(&losses)
        }));
    }
    require_finite("the loss", &window_nll)?;
    let bytes = windows.iter().flat_map(|window| &window.bytes[1..]).map(|n| u64::from(*n)).sum();
    Ok(Evaluation {
        window_nll,
        predicted: length.saturating_sub(1),
        bytes,
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// Tokens per window.
///
/// # Errors
/// [`ScoreError::NoWindows`] when there is nothing to predict.
pub fn window_length(windows: &[Window]) -> Result<usize, ScoreError> {
    let length = windows.first().map_or(0, |window| window.ids.len());
    if length < 2 { Err(ScoreError::NoWindows) } else { Ok(length) }
}

/// Refuses numbers, one per window, that are not finite.
///
/// # Errors
/// [`ScoreError::NotFinite`], naming `what` and the first such window.
pub fn require_finite(what: &str, by_window: &[f64]) -> Result<(), ScoreError> {
    match by_window.iter().position(|value| !value.is_finite()) {
        Some(window) => Err(ScoreError::NotFinite { what: what.to_owned(), window }),
        None => Ok(()),
    }
}

/// The layers from `first` that the source holds at once.
fn layers(
    source: &dyn LayerSource,
    first: usize,
) -> Result<Vec<TransformerLayerWithScaling>, LoadError> {
    let end = (first + source.layers_at_once()).min(source.spec().num_hidden_layers);
    (first..end).map(|layer| source.layer(LayerIndex::new(layer))).collect()
}

/// The positions of a \[1, T, H\] stream that predict a token: all but the last, \[T − 1, H\].
pub fn predictors(stream: &Tensor<3>) -> Tensor<2> {
    let [_, length, hidden] = stream.dims();
    stream.clone().narrow(1, 0, length - 1).reshape([length - 1, hidden])
}

/// Mean of a tensor's elements, summed in f64.
pub fn mean_of(losses: &Tensor<1>) -> f64 {
    lns_kernels::with_slices([losses], |[losses]| {
        losses.iter().map(|loss| f64::from(*loss)).sum::<f64>() / losses.len() as f64
    })
}
