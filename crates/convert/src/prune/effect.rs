//! What a pruning costs in loss and gains in speed.

use std::time::Instant;

use lns_corpus::{Window, Windows};
use lns_kernels::Workers;
use lns_model::{LayerSource, Pruned};
use lns_score::{Evaluation, evaluate, paired};
use lns_spec::Removal;
use serde_json::{Value, json};

use crate::ConvertError;

/// Windows that speed is measured on, and how often, the two models taking turns.
const SPEED: (usize, usize) = (4, 3);

/// The model before and after.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effect {
    /// Loss of each, in nats per token.
    pub nll: [f64; 2],
    /// Standard error over windows of the paired difference; absent with one window.
    pub rise_stderr: Option<f64>,
    /// Speed of each: losses of whole windows, the best of some turns.
    pub tokens_per_second: [f64; 2],
}

impl Effect {
    /// As the record of where the model came from has it.
    pub fn record(&self) -> Value {
        let ([before, after], [slow, fast]) = (self.nll, self.tokens_per_second);
        json!({
            "nll_before": before, "nll_after": after, "nll_rise_stderr": self.rise_stderr,
            "tokens_per_second_before": slow, "tokens_per_second_after": fast,
        })
    }
}

/// Measures `source` and what is left of it without `removals` on a text. `known` are their losses
/// there, if they were measured before, as a choice on this text did.
///
/// # Errors
/// [`ConvertError`] when the model cannot lose that, or gives losses that are no numbers.
pub fn effect(
    source: &dyn LayerSource,
    removals: &[Removal],
    text: &Windows,
    known: Option<[&Evaluation; 2]>,
    workers: &Workers,
) -> Result<Effect, ConvertError> {
    let pruned = Pruned::new(source, removals)?;
    let models: [&dyn LayerSource; 2] = [source, &pruned];
    let [before, after] = match known {
        Some(known) => known.map(Evaluation::clone),
        None => {
            let loss = |model| evaluate(model, &text.windows, workers, &|_| {});
            [loss(models[0])?, loss(models[1])?]
        }
    };
    Ok(Effect {
        nll: [before.nll(), after.nll()],
        rise_stderr: paired(&before, &after).and_then(|difference| difference.stderr),
        tokens_per_second: speeds(models, &text.windows, workers)?,
    })
}

/// Tokens per second of each.
fn speeds(
    models: [&dyn LayerSource; 2],
    windows: &[Window],
    workers: &Workers,
) -> Result<[f64; 2], ConvertError> {
    let (most, turns) = SPEED;
    let windows = &windows[..windows.len().min(most)];
    let tokens = windows.iter().map(|window| window.ids.len()).sum::<usize>() as f64;
    let mut best = [0f64; 2];
    for _ in 0..turns {
        for (best, model) in best.iter_mut().zip(models) {
            let start = Instant::now();
            evaluate(model, windows, workers, &|_| {})?;
            *best = best.max(tokens / start.elapsed().as_secs_f64());
        }
    }
    Ok(best)
}
