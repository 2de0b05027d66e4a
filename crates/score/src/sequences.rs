//! The loss on sequences whose targets may be masked and padded: training's held-out text.

use burn::tensor::Tensor;
use layernorm_scaling::TransformerLayerWithScaling;
use lns_corpus::Sequences;
use lns_kernels::{IGNORED, Projection, Workers, divergence_to, with_slices};
use lns_model::{Decoder, Head, LayerSource};

use crate::{Pass, ScoreError, Sequence, layers::Jobs};

/// Sequences that a worker takes through the model at once.
const AT_ONCE: usize = 4;

/// Loss on held-out sequences.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeldOut {
    /// Mean nats per predicted token; not a finite number when the model computes none.
    pub nll: f64,
    /// Mean KL(reference ‖ model) per predicted token, in nats, where there is a reference.
    pub divergence: Option<f64>,
    /// Predicted tokens.
    pub predicted: u64,
}

/// A model whose predictions of the same sequences are compared with.
#[derive(Debug, Clone, Copy)]
pub struct Reference<'a> {
    /// The model, of the same vocabulary.
    pub model: &'a Decoder,
    /// Both models' logits are divided by it before they are compared.
    pub temperature: f64,
}

impl Reference<'_> {
    /// What its predictions of some sequences are made of, a row for each token of their
    /// [`Pass`]; `None` if none of them has a target.
    pub fn predict(&self, sequences: &[Sequence<'_>], length: usize) -> Option<Projection> {
        let device = self.model.device();
        let pass = Pass::new(self.model.spec(), &device, sequences, length)?;
        let stream = self.model.stream_at(pass.tokens(&device), &pass.rotary);
        let [batch, tokens, hidden] = stream.dims();
        Some(self.model.head().projection(stream.reshape([batch * tokens, hidden])))
    }
}

/// The loss of the targets of `sequences` that are not [`IGNORED`]. Unlike
/// [`evaluate`](crate::evaluate) this gives a loss that is no number as it is: a training run goes on
/// from there, or says that it diverged. Where there is a `reference`, its predictions are compared too.
///
/// # Errors
/// [`ScoreError::Load`] when a layer cannot be read.
pub fn evaluate_sequences(
    source: &dyn LayerSource,
    sequences: &Sequences,
    reference: Option<Reference<'_>>,
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
        end: |group: usize, head: &Head, state: Option<(Pass, Tensor<3>)>| {
            let Some((pass, stream)) = state else { return (0.0, 0.0) };
            let [batch, tokens, hidden] = stream.dims();
            let stream = stream.reshape([batch * tokens, hidden]);
            let divergence = reference.map_or(0.0, |reference| {
                let Some(theirs) = reference.predict(groups[group], length) else { return 0.0 };
                let own = head.projection(stream.clone());
                let rows = divergence_to(&theirs, &own, reference.temperature);
                let rows = rows.iter().zip(&pass.targets);
                rows.filter(|(_, target)| **target != IGNORED).map(|(row, _)| row.0).sum()
            });
            let losses = head.nll(stream, &pass.targets);
            let nll = with_slices([&losses], |[losses]| {
                losses.iter().map(|x| f64::from(*x)).sum::<f64>()
            });
            (nll, divergence)
        },
    };
    let sums = jobs.run(source, workers)?;
    let predicted = sequences.targets.iter().filter(|id| **id != IGNORED).count() as u64;
    let mean = |sum: f64| sum / predicted as f64;
    let nll = mean(sums.iter().map(|sum| sum.0).sum());
    let divergence = reference.map(|_| mean(sums.iter().map(|sum| sum.1).sum()));
    Ok(HeldOut { nll, divergence, predicted })
}
