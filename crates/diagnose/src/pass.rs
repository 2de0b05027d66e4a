//! The one pass through the layers that yields every statistic and the leave-one-out losses.
//!
//! Layer by layer, so that weights may come from disk. Beside the untouched model run its variants:
//! removing layer i means that the stream entering i enters i + 1, so variant i starts there and
//! shares everything before. After layer j there are j + 2 streams per window, each a job for any
//! worker; sums are taken in a fixed order afterwards, window by window, so that neither threads nor
//! batches nor an early end change a window's share.

use std::{collections::BTreeMap, ops::Range};

use burn::tensor::Tensor;
use layernorm_scaling::{TransformerLayerWithScaling, rotary_table};
use lns_corpus::{Window, Windows};
use lns_kernels::{RotaryTable, Workers, with_slices};
use lns_model::{Head, LayerSource, LoadError};
use lns_record::{DiagnoseRecord, StreamRecord};
use lns_score::{CountPasses, ScoreError, window_length, window_losses};
use lns_spec::{LayerIndex, ModelSpec, Prediction, Site};
use lns_statistics::mean;

use crate::{
    Control,
    elimination::Elimination,
    observer::{AtEnd, AtEndWithout, AtLayer, Lacks, Measured, Observers, Passed},
    representation::last_hidden,
    statistics::{StreamSums, content, median, stream_sums},
};

/// Bytes of residual streams held at once.
const STREAM_BUDGET: usize = 1 << 30;

/// The stream of a model that lacks something, for one window.
struct Variant {
    lacks: Lacks,
    stream: Tensor<3>,
}

/// One window on its way through the layers.
struct WindowState<'a> {
    window: &'a Window,
    /// Which tokens are content.
    content: &'a [bool],
    /// stream\[0\], … of the untouched model; only the newest if nothing needs the others.
    streams: Vec<Tensor<3>>,
    variants: Vec<Variant>,
    measured: Measured,
}

/// What a step through a layer yields; only the untouched model's has variants and sums.
struct Step {
    stream: Tensor<3>,
    variants: Vec<Variant>,
    /// Sums over the stream that entered the layer.
    entering: StreamSums,
    /// What an observer found not to be finite.
    lost: Option<String>,
}

/// Bytes of streams one window needs at the end of the pass.
fn bytes_per_window(
    spec: &ModelSpec,
    length: usize,
    observers: &Observers,
    variants: usize,
) -> usize {
    let streams = if keeps_streams(observers) { spec.num_hidden_layers + 1 } else { 2 };
    (streams + variants) * length * spec.hidden_size * size_of::<f32>()
}

fn keeps_streams(observers: &Observers) -> bool {
    observers.iter().any(|observer| observer.keeps_streams())
}

/// Variants that begin in each layer.
fn variants(observers: &Observers) -> usize {
    observers.iter().map(|observer| observer.variants()).sum()
}

/// Layer passes over one window that [`run`] reports to its progress.
pub(crate) fn work(spec: &ModelSpec, windows: usize, observers: &Observers) -> u64 {
    let layers = spec.num_hidden_layers as u64;
    let variants = variants(observers) as u64;
    let passes = layers + variants * layers * (layers - 1) / 2;
    let at_end: u64 = observers.iter().map(|observer| observer.heads(layers)).sum();
    let heads = 1 + variants * layers + at_end;
    (passes + heads * head_passes(spec)) * windows as u64
}

/// Layer passes over one window that a variant takes which lacks a part of `layer`.
fn work_without(spec: &ModelSpec, layer: usize) -> u64 {
    let layers = spec.num_hidden_layers.saturating_sub(layer + 1);
    layers as u64 + head_passes(spec)
}

/// How many layers a head costs as much as, at least one.
fn head_passes(spec: &ModelSpec) -> u64 {
    (head_in_layers(spec) as u64).max(1)
}

/// How many layers a head costs as much as.
pub(crate) fn head_in_layers(spec: &ModelSpec) -> f64 {
    let count = spec.parameter_count();
    (count.embedding * spec.num_hidden_layers as u64) as f64 / count.layers.max(1) as f64
}

/// Measures window after window; when asked to stop, what is not whole by then is dropped. With a
/// `removal_error`, variants end as [`Elimination`] says, and the passes that they are spared count as done.
pub(crate) fn run(
    source: &dyn LayerSource,
    text: &Windows,
    observers: &Observers,
    removal_error: Option<f64>,
    workers: &Workers,
    control: Control<'_>,
) -> Result<Findings, ScoreError> {
    let spec = source.spec();
    let length = window_length(&text.windows)?;
    let rotary = rotary_table(spec, length);
    let content = content(text);
    let mut elimination = Elimination::new(removal_error);
    let mut measured: Vec<Measured> = Vec::with_capacity(text.windows.len());
    'batches: while measured.len() < text.windows.len() {
        let first = measured.len();
        let open = variants(observers) * spec.num_hidden_layers - elimination.done();
        let most = batch(source, bytes_per_window(spec, length, observers, open), workers);
        let count = elimination.windows_before_the_next_look(first, most);
        let batch = first..(first + count).min(text.windows.len());
        let mut runs = start(source, &text.windows[batch.clone()], &content[batch])?;
        for layer in spec.layers() {
            if control.is_stopped() {
                break 'batches;
            }
            let weights = source.layer(layer)?;
            let context = Context {
                weights: &weights,
                rotary: &rotary,
                layer,
                observers,
                elimination: &elimination,
                progress: control.progress,
                first,
            };
            advance(&mut runs, &context, workers)?;
        }
        let report = |heads: u64| (control.progress)(heads * head_passes(spec));
        let head = spec.has_head().then(|| source.head()).transpose()?;
        let end = End { head: head.as_ref(), prediction: spec.prediction, first };
        finish(&mut runs, &end, observers, workers, &report)?;
        measured.extend(runs.into_iter().map(|run| run.measured));
        require_finite_losses(&measured[first..], first)?;
        let spared: u64 =
            elimination.look(&measured).iter().map(|lacks| work_without(spec, lacks.layer)).sum();
        (control.progress)(spared * (text.windows.len() - measured.len()) as u64);
    }
    Ok(Findings { measured, content, as_needed: removal_error.is_some() })
}

/// Windows that go through the layers together. What is read from disk is read once a batch, so that
/// a batch is as large as its streams may be; in memory, a few windows keep the workers busy, and the
/// sooner a batch is whole, the more is there when someone stops the program.
fn batch(source: &dyn LayerSource, per_window: usize, workers: &Workers) -> usize {
    const BUSY: usize = 4;
    let most = (STREAM_BUDGET / per_window.max(1)).max(1);
    match source.layers_at_once() {
        1 => most,
        _ => most.min(workers.count().max(BUSY)),
    }
}

fn start<'a>(
    source: &dyn LayerSource,
    windows: &'a [Window],
    content: &'a [Vec<bool>],
) -> Result<Vec<WindowState<'a>>, LoadError> {
    let run = |(window, content): (&'a Window, &'a Vec<bool>)| {
        Ok(WindowState {
            window,
            content,
            streams: vec![source.embed_ids(&window.ids)?],
            variants: Vec::new(),
            measured: Measured::default(),
        })
    };
    windows.iter().zip(content).map(run).collect()
}

struct Context<'a> {
    weights: &'a TransformerLayerWithScaling,
    rotary: &'a RotaryTable,
    layer: LayerIndex,
    observers: &'a Observers,
    elimination: &'a Elimination,
    progress: CountPasses<'a>,
    /// Index of the batch's first window in the text.
    first: usize,
}

/// Takes every stream of every window through one layer.
fn advance(
    runs: &mut [WindowState<'_>],
    context: &Context<'_>,
    workers: &Workers,
) -> Result<(), ScoreError> {
    let steps = workers.map(runs.len(), |window| {
        let step = step(&runs[window], context.first + window, context);
        (context.progress)(1);
        step
    });
    let stacks = stacks(runs, STACK);
    let done = workers.map(stacks.len(), |job| {
        let (window, range) = stacks[job].clone();
        let stack = stacked(&runs[window], range.clone());
        let out = context.weights.forward(stack, context.rotary);
        (context.progress)(range.len() as u64);
        out
    });
    for ((window, range), stack) in stacks.into_iter().zip(done) {
        let variants = runs[window].variants[range].iter_mut();
        for (place, variant) in variants.enumerate() {
            variant.stream = stack.clone().narrow(0, place, 1);
        }
    }
    for (window, step) in steps.into_iter().enumerate() {
        let run = &mut runs[window];
        let layer = context.layer.get();
        add_stream(run, layer, context.first + window, step.entering)?;
        if let Some(what) = step.lost {
            return Err(ScoreError::NotFinite { what, window: context.first + window });
        }
        if !keeps_streams(context.observers) {
            run.streams.clear();
        }
        run.streams.push(step.stream);
        run.variants.extend(step.variants);
    }
    Ok(())
}

/// Notes the statistics of stream\[index\] of a window. Refuses what is not a number: no statistic of
/// such a model would mean anything.
fn add_stream(
    run: &mut WindowState<'_>,
    index: usize,
    window: usize,
    sums: StreamSums,
) -> Result<(), ScoreError> {
    if !sums.mean_square.is_finite() {
        let what = match index.checked_sub(1) {
            None => "the embedding".to_owned(),
            Some(layer) => format!("the stream after layer {layer}"),
        };
        return Err(ScoreError::NotFinite { what, window });
    }
    run.measured.streams.push(sums);
    Ok(())
}

/// Variants of one window that go through a layer together, so that preparing its weights for the
/// products is shared.
const STACK: usize = 4;

/// Rows of variants of one window that go through the head together: so many fill one of its products, and of
/// more the logits would leave the cache (`lns_kernels` takes as many at once).
const HEAD_ROWS: usize = 512;

/// The variants of every window, as (window, range of its variants), at most so many together.
fn stacks(runs: &[WindowState<'_>], together: usize) -> Vec<(usize, Range<usize>)> {
    let of = |(window, run): (usize, &WindowState<'_>)| {
        let count = run.variants.len();
        let range = move |start: usize| (window, start..(start + together).min(count));
        (0..count).step_by(together).map(range).collect::<Vec<_>>()
    };
    runs.iter().enumerate().flat_map(of).collect()
}

/// Streams of some variants as one tensor, \[variants, T, H\].
fn stacked(run: &WindowState<'_>, range: Range<usize>) -> Tensor<3> {
    Tensor::cat(run.variants[range].iter().map(|variant| variant.stream.clone()).collect(), 0)
}

/// The untouched model through one layer, what the observers note of it, and the variants that begin
/// there.
fn step(run: &WindowState<'_>, window: usize, context: &Context<'_>) -> Step {
    let &Context { weights, rotary, layer, observers, .. } = context;
    let stream = &run.streams[run.streams.len() - 1];
    let attention = weights.branch(Site::Attention, stream.clone(), rotary);
    let middle = weights.join(Site::Attention, stream.clone(), attention.clone());
    let read = weights.mlp_reads(stream.clone(), middle.clone());
    let mlp = weights.branch(Site::Mlp, read, rotary);
    let out = weights.join(Site::Mlp, middle.clone(), mlp.clone());
    let at = AtLayer {
        window,
        content: run.content,
        layer,
        weights,
        rotary,
        stream,
        attention: &attention,
        middle: &middle,
        mlp: &mlp,
        out: &out,
    };
    let lost = observers.iter().find_map(|observer| observer.at_layer(&at).err());
    let variants = variants_that_begin(&at, context);
    Step { variants, entering: sums_of(stream), lost, stream: out }
}

/// The variants that begin in a layer and need more windows.
fn variants_that_begin(at: &AtLayer<'_>, context: &Context<'_>) -> Vec<Variant> {
    let mut variants = Vec::new();
    for (observer, own) in context.observers.iter().enumerate() {
        let lacks = |part| Lacks { observer, part, layer: at.layer.get() };
        let is_open = |part: &usize| !context.elimination.is_done(lacks(*part));
        let open: Vec<usize> = (0..own.variants()).filter(is_open).collect();
        if open.is_empty() {
            continue;
        }
        let streams = own.without(at).into_iter().enumerate();
        let streams = streams.filter(|(part, _)| open.contains(part));
        variants.extend(streams.map(|(part, stream)| Variant { lacks: lacks(part), stream }));
    }
    variants
}

fn sums_of(stream: &Tensor<3>) -> StreamSums {
    let hidden = stream.dims()[2];
    with_slices([stream], |[stream]| stream_sums(stream, hidden))
}

/// What stands after the last layer.
struct End<'a> {
    head: Option<&'a Head>,
    prediction: Prediction,
    /// Index of the batch's first window in the text.
    first: usize,
}

/// Losses of the windows of a batch, and what the observers note of them, once they have left the last
/// layer.
fn finish(
    runs: &mut [WindowState<'_>],
    end: &End<'_>,
    observers: &Observers,
    workers: &Workers,
    progress: CountPasses<'_>,
) -> Result<(), ScoreError> {
    let &End { head, prediction, first } = end;
    let last = |run: &WindowState<'_>| run.streams[run.streams.len() - 1].clone();
    let sums = workers.map(runs.len(), |window| sums_of(&last(&runs[window])));
    for (window, sums) in sums.into_iter().enumerate() {
        let layers = runs[window].measured.streams.len();
        add_stream(&mut runs[window], layers, first + window, sums)?;
    }
    let losses_of = |run: &WindowState<'_>, streams: &[Tensor<3>]| {
        let losses = head.map(|head| window_losses(head, streams, run.window));
        progress(streams.len() as u64);
        losses.unwrap_or_default()
    };
    let hidden = |stream: &Tensor<3>| last_hidden(prediction, head, stream);
    let outputs = workers.map(runs.len(), |window| hidden(&last(&runs[window])));
    let baselines = workers.map(runs.len(), |window| {
        losses_of(&runs[window], &[last(&runs[window])]).first().copied()
    });
    let together = runs.first().map_or(1, |run| (HEAD_ROWS / run.window.ids.len().max(1)).max(1));
    let stacks = stacks(runs, together);
    let losses = workers.map(stacks.len(), |job| {
        let (window, range) = stacks[job].clone();
        let run = &runs[window];
        let variants = &run.variants[range];
        for Variant { lacks: Lacks { observer, part, layer }, stream } in variants {
            observers[*observer].at_end_without(&AtEndWithout {
                window: first + window,
                content: run.content,
                layer: *layer,
                part: *part,
                whole: &outputs[window],
                without: &hidden(stream),
            });
        }
        let streams: Vec<_> = variants.iter().map(|variant| variant.stream.clone()).collect();
        let losses = losses_of(run, &streams);
        let lacks = variants.iter().map(|variant| variant.lacks);
        (window, lacks.zip(losses).collect::<Vec<_>>())
    });
    for (window, losses) in losses {
        runs[window].measured.losses.extend(losses);
    }
    for (window, (run, baseline)) in runs.iter_mut().zip(baselines).enumerate() {
        let window = first + window;
        run.measured.baseline = baseline;
        let (content, streams) = (run.content, &run.streams[..]);
        let at = AtEnd { window, content, streams, head, workers, progress };
        for observer in observers {
            observer.at_end(&at).map_err(|what| ScoreError::NotFinite { what, window })?;
        }
    }
    Ok(())
}

/// Refuses losses that are no numbers, of the untouched model or without a part. `first` is the index of the
/// first of these windows in the text.
fn require_finite_losses(measured: &[Measured], first: usize) -> Result<(), ScoreError> {
    for (window, measured) in (first..).zip(measured) {
        if measured.baseline.is_some_and(|loss| !loss.is_finite()) {
            return Err(ScoreError::NotFinite { what: "the loss".to_owned(), window });
        }
        if let Some((lacks, _)) = measured.losses.iter().find(|loss| !loss.1.is_finite()) {
            return Err(ScoreError::NotFinite {
                what: format!("the loss without layer {}", lacks.layer),
                window,
            });
        }
    }
    Ok(())
}

/// What the pass found.
pub(crate) struct Findings {
    measured: Vec<Measured>,
    content: Vec<Vec<bool>>,
    as_needed: bool,
}

impl Findings {
    /// How many windows were whole.
    pub(crate) fn windows(&self) -> usize {
        self.measured.len()
    }

    /// Mean loss of each of them; `None` without a head.
    pub(crate) fn baseline(&self) -> Option<Vec<f64>> {
        self.measured.iter().map(|window| window.baseline).collect()
    }

    /// Lets the observers write their numbers, if any window was whole.
    pub(crate) fn conclude(
        &self,
        text: &Windows,
        observers: &Observers,
        spell: &dyn Fn(u32) -> String,
        record: &mut DiagnoseRecord,
    ) {
        let windows = &text.windows[..self.measured.len()];
        let content = &self.content[..windows.len()];
        let streams: Vec<StreamRecord> = (0..=record.layers.len())
            .map(|index| stream_record(index, &self.measured, content))
            .collect();
        for (at, observer) in observers.iter().enumerate() {
            let (measured, streams) = (&self.measured[..], &streams[..]);
            let as_needed = self.as_needed;
            let passed =
                Passed { windows, content, streams, spell, measured, observer: at, as_needed };
            observer.conclude(&passed, record);
        }
    }
}

/// stream\[index\] over all windows: sums in window order, as means and medians.
fn stream_record(index: usize, measured: &[Measured], content: &[Vec<bool>]) -> StreamRecord {
    let (mut all, mut later, mut squares, mut tokens) = (0.0, 0.0, 0.0, 0usize);
    let mut counted = Vec::new();
    for (window, is_content) in measured.iter().zip(content) {
        let StreamSums { variances, mean_square } = &window.streams[index];
        all += variances.iter().sum::<f64>();
        later += variances[1..].iter().sum::<f64>();
        squares += mean_square;
        tokens += variances.len();
        let kept = variances.iter().zip(is_content).filter(|(_, is)| **is);
        counted.extend(kept.map(|(variance, _)| *variance));
    }
    StreamRecord {
        index,
        variance: all / tokens as f64,
        variance_without_first: later / (tokens - measured.len()) as f64,
        variance_content: Some(mean(&counted)),
        variance_median: Some(median(counted)),
        rms: (squares / tokens as f64).sqrt(),
        more: BTreeMap::new(),
    }
}
