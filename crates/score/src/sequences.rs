//! The loss on sequences whose targets may be masked and padded: training's held-out text.

use burn::tensor::Tensor;
use layernorm_scaling::TransformerLayerWithScaling;
use lns_corpus::Sequences;
use lns_kernels::{IGNORED, Workers, with_slices};
use lns_model::{Head, LayerSource};

use crate::{Pass, ScoreError, Sequence, layers::Jobs};

/// Sequences that a worker takes through the model at once.
const AT_ONCE: usize = 4;

/// Loss on held-out sequences.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeldOut {
    /// Mean nats per predicted token; not a finite number when the model computes none.
    pub nll: f64,
    /// Predicted tokens.
    pub predicted: u64,
}

/// The loss of the targets of `sequences` that are not [`IGNORED`]. Unlike
/// [`evaluate`](crate::evaluate) this gives a loss that is no number as it is: a training run goes on
/// from there, or says that it diverged.
///
/// # Errors
/// [`ScoreError::Load`] when a layer cannot be read.
pub fn evaluate_sequences(
    source: &dyn LayerSource,
    sequences: &Sequences,
    workers: &Workers,
) -> Result<HeldOut, ScoreError> {
    let (spec, device) = (source.spec(), source.device());
    let length = sequences.length;
    let rows = sequences.inputs.chunks(length).zip(sequences.targets.chunks(length)).enumerate();
    let rows: Vec<Sequence<'_>> = rows
        .map(|(index, (inputs, targets))| {
            let documents = sequences.documents.get(index).map_or(&[][..], Vec::as_slice);
            Sequence { inputs, targets, documents }
        })
        .collect();
    let groups: Vec<&[Sequence<'_>]> = rows.chunks(AT_ONCE).collect();
    let jobs = Jobs {
        count: groups.len(),
        bytes_each: AT_ONCE * length * spec.hidden_size * size_of::<f32>(),
        begin: |group: usize| {
            let Some(pass) = Pass::new(spec, &device, groups[group], length) else {
                return Ok(None);
            };
            let stream = source.embed_ids_at(&pass.ids, &pass.positions())?;
            let [_, tokens, hidden] = stream.dims();
            let batch = [pass.sequences, tokens / pass.sequences, hidden];
            Ok(Some((pass, stream.reshape(batch))))
        },
        step: |_: usize, layer: &TransformerLayerWithScaling, state: Option<(Pass, Tensor<3>)>| {
            let (pass, stream) = state?;
            let stream = layer.forward(stream, &pass.rotary);
            Some((pass, stream))
        },
        end: |_: usize, head: &Head, state: Option<(Pass, Tensor<3>)>| {
            let Some((pass, stream)) = state else { return 0.0 };
            let [batch, tokens, hidden] = stream.dims();
            let losses = head.nll(stream.reshape([batch * tokens, hidden]), &pass.targets);
            with_slices([&losses], |[losses]| losses.iter().map(|x| f64::from(*x)).sum::<f64>())
        },
    };
    let sums = jobs.run(source, workers)?;
    let predicted = sequences.targets.iter().filter(|id| **id != IGNORED).count() as u64;
    Ok(HeldOut { nll: sums.iter().sum::<f64>() / predicted as f64, predicted })
}
