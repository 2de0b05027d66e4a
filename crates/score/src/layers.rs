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
            let in_memory = |job, model: &[_], head: &_| {
                let state = self.through(job, model, (self.begin)(job)?);
                Ok((self.end)(job, head, state))
            };
            return self.in_memory(source, workers, in_memory);
        }
        let step = |job, layers: &[_], state| self.through(job, layers, state);
        self.streamed(source, workers, 1, &self.begin, step, &self.end)
    }

    /// Every job's results without layer 0, without layer 1 and so on, and last that of the whole model.
    ///
    /// What enters layer i enters layer i + 1 where layer i is left out: the layers before are computed
    /// once. In memory one such way after another is gone to its end, so that a worker holds two states
    /// at a time; from disk all that have begun go through each layer.
    pub(crate) fn run_without_layers(
        &self,
        source: &dyn LayerSource,
        workers: &Workers,
    ) -> Result<Vec<Vec<R>>, LoadError>
    where
        S: Clone,
    {
        let layers = source.spec().num_hidden_layers;
        if source.layers_at_once() >= layers {
            let in_memory = |job, model: &[TransformerLayerWithScaling], head: &_| {
                let mut state = (self.begin)(job)?;
                let mut results = Vec::with_capacity(layers + 1);
                for (layer, weights) in model.iter().enumerate() {
                    let without = self.through(job, &model[layer + 1..], state.clone());
                    results.push((self.end)(job, head, without));
                    state = (self.step)(job, weights, state);
                }
                results.push((self.end)(job, head, state));
                Ok(results)
            };
            return self.in_memory(source, workers, in_memory);
        }
        // The whole model's state stands last, as its result does.
        let begin = |job| Ok(vec![(self.begin)(job)?]);
        let step = |job, layers: &[TransformerLayerWithScaling], states: Vec<S>| {
            layers.iter().fold(states, |mut states, layer| {
                let without = states.last().cloned();
                states = states.into_iter().map(|state| (self.step)(job, layer, state)).collect();
                let whole = states.len() - 1;
                states.splice(whole..whole, without);
                states
            })
        };
        let end = |job, head: &Head, states: Vec<S>| {
            states.into_iter().map(|state| (self.end)(job, head, state)).collect()
        };
        self.streamed(source, workers, layers + 1, begin, step, end)
    }

    fn through(&self, job: usize, layers: &[TransformerLayerWithScaling], state: S) -> S {
        layers.iter().fold(state, |state, layer| (self.step)(job, layer, state))
    }

    /// Job by job through a model in memory.
    fn in_memory<T: Send>(
        &self,
        source: &dyn LayerSource,
        workers: &Workers,
        run: impl Fn(usize, &[TransformerLayerWithScaling], &Head) -> Result<T, LoadError> + Sync,
    ) -> Result<Vec<T>, LoadError> {
        let model = read(source, 0, source.spec().num_hidden_layers)?;
        let head = source.head()?;
        workers.map(self.count, |job| run(job, &model, &head)).into_iter().collect()
    }

    /// Batches of jobs through layers from disk, a job having at most `states` states of the size that
    /// was told.
    fn streamed<T: Send, Q: Send>(
        &self,
        source: &dyn LayerSource,
        workers: &Workers,
        states: usize,
        begin: impl Fn(usize) -> Result<T, LoadError>,
        step: impl Fn(usize, &[TransformerLayerWithScaling], T) -> T + Sync,
        end: impl Fn(usize, &Head, T) -> Q + Sync,
    ) -> Result<Vec<Q>, LoadError> {
        let batch = STREAM_BUDGET / self.bytes_each.saturating_mul(states).max(1);
        let batch = batch.max(workers.count());
        let mut results = Vec::with_capacity(self.count);
        for first in (0..self.count).step_by(batch) {
            let jobs = first..(first + batch).min(self.count);
            let begin = |job| Ok::<_, LoadError>((job, begin(job)?));
            let mut running = jobs.map(begin).collect::<Result<Vec<_>, _>>()?;
            for layer in (0..source.spec().num_hidden_layers).step_by(source.layers_at_once()) {
                let group = read(source, layer, source.layers_at_once())?;
                running = workers.each(running, |(job, state)| (job, step(job, &group, state)));
            }
            // After the layers, so that a head from disk is not held beside them.
            let head = source.head()?;
            results.extend(workers.each(running, |(job, state)| end(job, &head, state)));
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
