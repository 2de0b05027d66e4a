//! The loss on held-out text.

use lns_corpus::Sequences;
use lns_kernels::{IGNORED, Workers, with_slices};
use lns_model::Decoder;

use crate::{gradients::rows as rows_of, packing::Pass};

/// Sequences that are evaluated at once by a worker.
const EVALUATED_AT_ONCE: usize = 4;

/// Mean loss per predicted token of some sequences, in nats; their number.
pub fn evaluate(model: &Decoder, sequences: &Sequences, workers: &Workers) -> (f64, u64) {
    let length = sequences.length;
    let rows: Vec<_> =
        sequences.inputs.chunks(length).zip(sequences.targets.chunks(length)).collect();
    // Adapters are added once, and not in every pass.
    let model = &model.merged();
    let sums = workers.each(rows.chunks(EVALUATED_AT_ONCE).collect(), |rows| {
        let Some(pass) = Pass::new(model, rows, length) else { return 0.0 };
        let stream = model.stream_at(pass.tokens, &pass.rotary);
        let nll = model.head().nll(rows_of(stream), &pass.targets);
        with_slices([&nll], |[nll]| nll.iter().map(|x| f64::from(*x)).sum::<f64>())
    });
    let predicted = sequences.targets.iter().filter(|id| **id != IGNORED).count();
    (sums.iter().sum::<f64>() / predicted as f64, predicted as u64)
}
