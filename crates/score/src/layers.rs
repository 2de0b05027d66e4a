//! The way of many independent streams through a model, in memory or layer by layer from disk.

use layernorm_scaling::TransformerLayerWithScaling;
use lns_kernels::Workers;
use lns_model::{Head, LayerSource, LoadError};
use lns_spec::LayerIndex;

/// Bytes of residual streams held at once when the layers come from disk.
const STREAM_BUDGET: usize = 1 << 28;

/// What goes through a model: jobs that do not see each other, each a state of its own.
pub(crate) struct Jobs<Begin, Step, End> {
    /// How many there are.
    pub(crate) count: usize,
    /// Bytes that the state of the largest holds.
    pub(crate) bytes_each: usize,
    /// What enters layer 0.
    pub(crate) begin: Begin,
    /// A state after one more layer.
    pub(crate) step: Step,
    /// What is read off the state that left the last layer.
    pub(crate) end: End,
}

impl<S, R, Begin, Step, End> Jobs<Begin, Step, End>
where
    S: Send,
    R: Send,
    Begin: Fn(usize) -> Result<S, LoadError> + Sync,
    Step: Fn(usize, &TransformerLayerWithScaling, S) -> S + Sync,
    End: Fn(usize, &Head, S) -> R + Sync,
{
    /// Every job's result, in the jobs' order, the same whatever the workers and the source.
    ///
    /// A model in memory takes job by job, so that only the workers' own streams are there; one on disk
    /// takes a batch of jobs through each layer, which is read once per batch.
    pub(crate) fn run(
        &self,
        source: &dyn LayerSource,
        workers: &Workers,
    ) -> Result<Vec<R>, LoadError> {
        let layers = source.spec().num_hidden_layers;
        if source.layers_at_once() >= layers {
            let model = read(source, 0, layers)?;
            let head = source.head()?;
            let results = workers.map(self.count, |job| {
                let state = model
                    .iter()
                    .fold((self.begin)(job)?, |state, layer| (self.step)(job, layer, state));
                Ok((self.end)(job, &head, state))
            });
            return results.into_iter().collect();
        }
        let batch = (STREAM_BUDGET / self.bytes_each.max(1)).max(workers.count());
        let mut results = Vec::with_capacity(self.count);
        for first in (0..self.count).step_by(batch) {
            let jobs = first..(first + batch).min(self.count);
            let begin = |job| Ok::<_, LoadError>((job, (self.begin)(job)?));
            let mut states = jobs.map(begin).collect::<Result<Vec<_>, _>>()?;
            for layer in (0..layers).step_by(source.layers_at_once()) {
                let group = read(source, layer, source.layers_at_once())?;
                states = workers.each(states, |(job, state)| {
                    let step = |state, layer: &_| (self.step)(job, layer, state);
                    (job, group.iter().fold(state, step))
                });
            }
            // After the layers, so that a head from disk is not held beside them.
            let head = source.head()?;
            results.extend(workers.each(states, |(job, state)| (self.end)(job, &head, state)));
        }
        Ok(results)
    }
}

/// At most `count` layers from `first`.
fn read(
    source: &dyn LayerSource,
    first: usize,
    count: usize,
) -> Result<Vec<TransformerLayerWithScaling>, LoadError> {
    let end = (first + count).min(source.spec().num_hidden_layers);
    (first..end).map(|layer| source.layer(LayerIndex::new(layer))).collect()
}
