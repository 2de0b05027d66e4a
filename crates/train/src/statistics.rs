//! What each layer does while training: the paper's Figure 4, and what explains it.

use std::collections::HashMap;

use burn::tensor::Tensor;
use layernorm_scaling::packed_rotary_table;
use lns_checkpoint::NamedTensor;
use lns_kernels::{Workers, with_slices};
use lns_model::{Decoder, ids_tensor};
use lns_record::LayersEvent;
use lns_score::counted;
use lns_spec::{LayerIndex, ModelSpec};

use crate::Batch;

/// Sequences of the batch that streams are measured on.
const SEQUENCES: usize = 4;

/// Variance of the stream and what each layer adds to it.
pub(crate) struct Streams {
    /// Variance over features, mean over tokens, of each of the L + 1 streams.
    pub(crate) variance: Vec<f64>,
    /// For each layer √(variance of what it adds / variance of what enters it).
    pub(crate) branch_ratio: Vec<f64>,
}

/// What every layer did in one step.
pub(crate) struct LayerStatistics {
    pub(crate) streams: Streams,
    /// ‖gradient‖₂ over the layer's parameters, before clipping.
    pub(crate) gradient_norm: Vec<f64>,
    /// See [`update_ratios`].
    pub(crate) update_ratio: Vec<f64>,
}

impl LayerStatistics {
    /// Whether all of it are finite numbers.
    pub(crate) fn is_finite(&self) -> bool {
        let Streams { variance, branch_ratio } = &self.streams;
        let all = [variance, branch_ratio, &self.gradient_norm, &self.update_ratio];
        all.iter().all(|values| values.iter().all(|value| value.is_finite()))
    }

    /// The event that a run's log has of it.
    pub(crate) fn event(self, step: u64, time: f64) -> LayersEvent {
        let Self { streams, gradient_norm, update_ratio } = self;
        let Streams { variance: stream_variance, branch_ratio } = streams;
        LayersEvent { step, time, stream_variance, branch_ratio, gradient_norm, update_ratio }
    }
}

impl Streams {
    /// Over the first sequences of the batch, one at a time.
    pub(crate) fn measure(model: &Decoder, batch: &Batch, workers: &Workers) -> Self {
        let sequences = batch.sequences().min(SEQUENCES);
        let parts = workers.map(sequences, |sequence| {
            let sequence = batch.sequence(sequence);
            // A sequence without a target is measured whole.
            let tokens = match counted(sequence.targets) {
                0 => sequence.inputs.len(),
                tokens => tokens,
            };
            let ids = ids_tensor(&sequence.inputs[..tokens], &model.device());
            let streams = match &sequence.parts(tokens)[..] {
                [_] => model.streams(ids),
                parts => {
                    let rotary = packed_rotary_table(model.spec(), batch.length(), parts);
                    model.streams_at(ids, &rotary)
                }
            };
            let added = streams.windows(2).map(|pair| pair[1].clone() - pair[0].clone());
            let added = added.map(|added| mean_variance(&added)).collect();
            [streams.iter().map(mean_variance).collect(), added]
        });
        let [variance, added] = [0, 1].map(|which| {
            let mean = |i| {
                let of = |part: &[Vec<f64>; 2]| part[which][i];
                parts.iter().map(of).sum::<f64>() / sequences as f64
            };
            (0..parts[0][which].len()).map(mean).collect::<Vec<f64>>()
        });
        let ratio =
            |(added, entering): (&f64, &f64)| (added / entering.max(f64::MIN_POSITIVE)).sqrt();
        let branch_ratio = added.iter().zip(&variance).map(ratio).collect();
        Self { variance, branch_ratio }
    }
}

/// Variance over the last dimension, mean over the others, in f64.
fn mean_variance(stream: &Tensor<3>) -> f64 {
    let [sequences, tokens, width] = stream.dims();
    with_slices([&stream.clone().reshape([sequences * tokens * width])], |[values]| {
        let rows = values.chunks_exact(width).map(|row| {
            let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / width as f64;
            row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / width as f64
        });
        rows.sum::<f64>() / (sequences * tokens) as f64
    })
}

/// For each layer ‖change‖₂ over ‖parameters before‖₂, from the model's tensors as a folder holds them
/// before and after the update.
pub(crate) fn update_ratios(
    spec: &ModelSpec,
    before: &[NamedTensor<'_>],
    after: &[NamedTensor<'_>],
) -> Vec<f64> {
    let stored = spec.stored_tensors().into_iter();
    let layer_of: HashMap<String, LayerIndex> = stored
        .filter_map(|stored| {
            let layer = stored.parts.first()?.id.layer?;
            Some((stored.name, layer))
        })
        .collect();
    let ratio = |layer: LayerIndex| {
        let (mut changed, mut size) = (0.0, 0.0);
        let own = |tensor: &NamedTensor<'_>| layer_of.get(&tensor.name) == Some(&layer);
        for (old, new) in before.iter().zip(after).filter(|(old, _)| own(old)) {
            for (old, new) in old.values.iter().zip(new.values.iter()) {
                changed += (f64::from(*new) - f64::from(*old)).powi(2);
                size += f64::from(*old).powi(2);
            }
        }
        (changed / size.max(f64::MIN_POSITIVE)).sqrt()
    };
    spec.layers().map(ratio).collect()
}
