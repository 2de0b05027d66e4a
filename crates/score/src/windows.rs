//! Token-weighted loss on windows of text: negative log-likelihood, perplexity, bits per byte, with the
//! standard error over windows.
//!
//! Inside a window every token but the first is predicted; of a window that names its targets, those. The mean
//! is over predicted tokens, and the denominator is their number: a model of constant logits has a loss of
//! exactly ln(vocabulary).

use std::{borrow::Cow, time::Instant};

use burn::tensor::{Int, Tensor};
use layernorm_scaling::{TransformerLayerWithScaling, rotary_table};
use lns_corpus::Window;
use lns_kernels::{IGNORED, Workers, with_slices};
use lns_model::{Head, LayerSource};
use lns_record::{DifferenceRecord, EvalRecord};
use lns_statistics::{mean, paired_difference, standard_error};

use crate::{CountPasses, ScoreError, layers::Jobs};

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
            masking: None,
            seconds: self.seconds,
            difference: None,
        }
    }
}

/// The loss of `second` minus that of `first`, paired over the windows; `None` when they were not
/// measured on as many windows of as many tokens. That these hold the same tokens is the caller's to
/// know.
pub fn paired(first: &Evaluation, second: &Evaluation) -> Option<DifferenceRecord> {
    if first.predicted != second.predicted {
        return None;
    }
    paired_difference(&first.window_nll, &second.window_nll)
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
    let rotary = rotary_table(source.spec(), length);
    let start = Instant::now();
    let jobs = Jobs {
        count: windows.len(),
        bytes_each: length * source.spec().hidden_size * size_of::<f32>(),
        begin: |window: usize| source.embed_ids(&windows[window].ids),
        step: |_: usize, layer: &TransformerLayerWithScaling, stream: Tensor<3>| {
            progress(1);
            layer.forward(stream, &rotary)
        },
        end: |window: usize, head: &Head, stream: Tensor<3>| {
            window_loss(head, &stream, &windows[window])
        },
    };
    let window_nll = jobs.run(source, workers)?;
    require_finite("the loss", &window_nll)?;
    // What a masked token costs says nothing of the bytes around it.
    let whole = windows.iter().filter(|window| window.targets.is_none());
    let bytes = whole.filter_map(|window| window.text_bytes.as_ref());
    let bytes = bytes.flat_map(|bytes| &bytes[1..]).map(|n| u64::from(*n)).sum();
    Ok(Evaluation {
        window_nll,
        predicted: predicted(&windows[0]),
        bytes,
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// Mean nats per predicted token of a window whose stream, \[1, T, H\], left the last layer.
pub fn window_loss(head: &Head, stream: &Tensor<3>, window: &Window) -> f64 {
    window_losses(head, std::slice::from_ref(stream), window).into_iter().sum()
}

/// As [`window_loss`], for each of several streams of one window, which go through the head in one product.
pub fn window_losses(head: &Head, streams: &[Tensor<3>], window: &Window) -> Vec<f64> {
    let predicting = |stream: &Tensor<3>| match &window.targets {
        None => (predictors(stream), window.ids[1..].to_vec()),
        Some(targets) => asked(stream, targets),
    };
    let (rows, targets): (Vec<_>, Vec<_>) = streams.iter().map(predicting).unzip();
    let Some(count) = targets.first().map(Vec::len) else { return Vec::new() };
    let losses = head.nll(Tensor::cat(rows, 0), &targets.concat());
    with_slices([&losses], |[losses]| {
        let of = |index: usize| {
            let own = &losses[index * count..][..count];
            own.iter().map(|loss| f64::from(*loss)).sum::<f64>() / count as f64
        };
        (0..streams.len()).map(of).collect()
    })
}

/// The token to predict at each place of a window, [`IGNORED`] where there is none.
pub fn targets(window: &Window) -> Cow<'_, [u32]> {
    match &window.targets {
        Some(targets) => Cow::Borrowed(targets),
        None => Cow::Owned(window.ids[1..].iter().copied().chain([IGNORED]).collect()),
    }
}

/// How many tokens of a window are predicted.
pub fn predicted(window: &Window) -> usize {
    match &window.targets {
        Some(targets) => targets.iter().filter(|target| **target != IGNORED).count(),
        None => window.ids.len().saturating_sub(1),
    }
}

/// The rows of a \[1, T, H\] stream that have a target, and those.
fn asked(stream: &Tensor<3>, targets: &[u32]) -> (Tensor<2>, Vec<u32>) {
    let [_, length, hidden] = stream.dims();
    let (places, asked): (Vec<i32>, Vec<u32>) = targets
        .iter()
        .enumerate()
        .filter(|(_, target)| **target != IGNORED)
        .map(|(place, target)| (place as i32, *target))
        .unzip();
    let places = Tensor::<1, Int>::from_data(&places[..], &stream.device());
    (stream.clone().reshape([length, hidden]).select(0, places), asked)
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

/// The positions of a \[1, T, H\] stream that predict a token: all but the last, \[T − 1, H\].
fn predictors(stream: &Tensor<3>) -> Tensor<2> {
    let [_, length, hidden] = stream.dims();
    stream.clone().narrow(1, 0, length - 1).reshape([length - 1, hidden])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluation(window_nll: &[f64], predicted: usize) -> Evaluation {
        Evaluation { window_nll: window_nll.to_vec(), predicted, bytes: 0, seconds: 1.0 }
    }

    #[test]
    fn evaluations_of_other_windows_are_not_paired() {
        let one = evaluation(&[1.0], 511);
        let found = paired(&one, &evaluation(&[1.5], 511)).expect("the same window");
        assert_eq!((found.nll, found.stderr), (0.5, None));
        assert_eq!(paired(&one, &evaluation(&[1.0], 255)), None);
        assert_eq!(paired(&one, &evaluation(&[1.0, 2.0], 511)), None);
        assert_eq!(paired(&evaluation(&[], 0), &evaluation(&[], 0)), None);
    }
}
