//! The one pass through the layers that yields every statistic and the leave-one-out losses.
//!
//! Layer by layer, so that weights may come from disk. Beside the untouched model run its variants:
//! removing layer i means that the stream entering i enters i + 1, so variant i starts there and
//! shares everything before. After layer j there are j + 2 streams per window, each a job for any
//! worker; sums are taken in a fixed order afterwards, window by window, so that neither threads nor
//! batches nor an early end change a window's share.

use std::ops::Range;

use burn::tensor::Tensor;
use layernorm_scaling::{TransformerLayerWithScaling, rotary_table};
use lns_corpus::{Window, Windows};
use lns_kernels::{RotaryTable, Workers, with_slices};
use lns_model::{Head, LayerSource, LoadError};
use lns_record::{HeavyToken, LayerRecord, LensRecord, RemovalRecord, StreamRecord};
use lns_score::{
    CountPasses, ScoreError, margin, mean, require_finite, standard_error, window_length,
    window_loss,
};
use lns_spec::{LayerIndex, ModelSpec, Site};

use crate::{
    Control, Probe, Probes,
    angular::{distance_sum, reciprocal_norms},
    lens,
    statistics::{
        LayerSums, StreamSums, change_sums, content, heavy_tokens, median, stream_sums, variances,
    },
};

/// Bytes of residual streams held at once.
const STREAM_BUDGET: usize = 1 << 30;

/// What the pass found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Mean loss of each window.
    pub(crate) baseline: Vec<f64>,
    pub(crate) stream: Vec<StreamRecord>,
    pub(crate) heavy_tokens: Vec<HeavyToken>,
    pub(crate) layers: Vec<LayerRecord>,
    pub(crate) angular: Vec<Vec<f64>>,
    pub(crate) lens: Vec<LensRecord>,
}

/// What a variant lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removed {
    Layer,
    Attention,
    Mlp,
}

/// The stream of a model that lacks something, for one window.
struct Variant {
    removed: Removed,
    layer: usize,
    stream: Tensor<3>,
}

/// One window on its way through the layers.
struct Run<'a> {
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
    /// Of the stream that entered the layer.
    entering: StreamSums,
    layer: LayerSums,
}

/// What one window gave; whole once it has left the head.
#[derive(Default)]
struct Measured {
    streams: Vec<StreamSums>,
    layers: Vec<LayerSums>,
    /// Σ over content tokens, \[i\]\[n − 1\].
    angular: Vec<Vec<f64>>,
    /// Σ over tokens.
    lens: Vec<(f64, usize)>,
    baseline: f64,
    /// Loss and identity of each variant.
    losses: Vec<(Removed, usize, f64)>,
}

/// Bytes of streams one window needs at the end of the pass.
fn bytes_per_window(layers: usize, length: usize, hidden: usize, probes: &Probes) -> usize {
    let mut streams = if keeps_streams(probes) { layers + 1 } else { 2 };
    streams += if probes.has(Probe::Removal) { layers } else { 0 };
    streams += if probes.has(Probe::Sublayers) { 2 * layers } else { 0 };
    streams * length * hidden * size_of::<f32>()
}

fn keeps_streams(probes: &Probes) -> bool {
    probes.has(Probe::Angular) || probes.has(Probe::Lens)
}

/// Layer passes over one window that [`run`] reports to its progress.
pub(crate) fn work(spec: &ModelSpec, windows: usize, probes: &Probes) -> u64 {
    let layers = spec.num_hidden_layers as u64;
    let kinds = u64::from(probes.has(Probe::Removal)) + 2 * u64::from(probes.has(Probe::Sublayers));
    let passes = layers + kinds * layers * (layers - 1) / 2;
    let lenses = if probes.has(Probe::Lens) { 2 * (layers + 1) } else { 0 };
    let heads = 1 + kinds * layers + lenses;
    (passes + heads * head_passes(spec)) * windows as u64
}

/// How many layers a head costs as much as, at least one.
fn head_passes(spec: &ModelSpec) -> u64 {
    let count = spec.parameter_count();
    (count.embedding * spec.num_hidden_layers as u64 / count.layers.max(1)).max(1)
}

/// Measures window after window; when asked to stop, what is not whole by then is dropped.
pub(crate) fn run(
    source: &dyn LayerSource,
    text: &Windows,
    probes: &Probes,
    workers: &Workers,
    control: Control<'_>,
    spell: &dyn Fn(u32) -> String,
) -> Result<Findings, ScoreError> {
    let spec = source.spec();
    let length = window_length(&text.windows)?;
    let rotary = rotary_table(spec, length);
    let content = content(text);
    let batch = batch(source, length, probes, workers);
    let mut measured: Vec<Measured> = Vec::with_capacity(text.windows.len());
    'batches: for (windows, content) in text.windows.chunks(batch).zip(content.chunks(batch)) {
        let mut runs = start(source, windows, content)?;
        for layer in spec.layers() {
            if control.is_stopped() {
                break 'batches;
            }
            let weights = source.layer(layer)?;
            let context = Context {
                weights: &weights,
                rotary: &rotary,
                layer,
                probes,
                progress: control.progress,
                first: measured.len(),
            };
            advance(&mut runs, &context, workers)?;
        }
        let report = |heads: u64| (control.progress)(heads * head_passes(spec));
        finish(&mut runs, &source.head()?, probes, workers, &report, measured.len())?;
        measured.extend(runs.into_iter().map(|run| run.measured));
    }
    require_finite_losses(&measured)?;
    let text = Subject { windows: &text.windows[..measured.len()], content: &content, spell };
    Ok(conclude(&measured, &text, spec.num_hidden_layers, probes))
}

/// Windows that go through the layers together. What is read from disk is read once a batch, so that
/// a batch is as large as its streams may be; in memory, a few windows keep the workers busy, and the
/// sooner a batch is whole, the more is there when someone stops the program.
fn batch(source: &dyn LayerSource, length: usize, probes: &Probes, workers: &Workers) -> usize {
    const BUSY: usize = 4;
    let spec = source.spec();
    let per_window = bytes_per_window(spec.num_hidden_layers, length, spec.hidden_size, probes);
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
) -> Result<Vec<Run<'a>>, LoadError> {
    let run = |(window, content): (&'a Window, &'a Vec<bool>)| {
        Ok(Run {
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
    probes: &'a Probes,
    progress: CountPasses<'a>,
    /// Index of the batch's first window in the text.
    first: usize,
}

/// Takes every stream of every window through one layer.
fn advance(
    runs: &mut [Run<'_>],
    context: &Context<'_>,
    workers: &Workers,
) -> Result<(), ScoreError> {
    let steps = workers.map(runs.len(), |window| {
        let step = step(&runs[window], context);
        (context.progress)(1);
        step
    });
    let stacks = stacks(runs);
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
        if !step.layer.is_finite() {
            let what = format!("what layer {layer} adds to the stream");
            return Err(ScoreError::NotFinite { what, window: context.first + window });
        }
        run.measured.layers.push(step.layer);
        if !keeps_streams(context.probes) {
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
    run: &mut Run<'_>,
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

/// The variants of every window, as (window, range of its variants), at most [`STACK`] together.
fn stacks(runs: &[Run<'_>]) -> Vec<(usize, Range<usize>)> {
    let of = |(window, run): (usize, &Run<'_>)| {
        let count = run.variants.len();
        let range = move |start: usize| (window, start..(start + STACK).min(count));
        (0..count).step_by(STACK).map(range).collect::<Vec<_>>()
    };
    runs.iter().enumerate().flat_map(of).collect()
}

/// Streams of some variants as one tensor, \[variants, T, H\].
fn stacked(run: &Run<'_>, range: Range<usize>) -> Tensor<3> {
    Tensor::cat(run.variants[range].iter().map(|variant| variant.stream.clone()).collect(), 0)
}

/// The untouched model through one layer, and the variants that begin there.
fn step(run: &Run<'_>, context: &Context<'_>) -> Step {
    let &Context { weights, rotary, layer, probes, .. } = context;
    let (stream, content) = (&run.streams[run.streams.len() - 1], run.content);
    let hidden = stream.dims()[2];
    let attention = weights.branch(Site::Attention, stream.clone(), rotary);
    let middle = weights.join(Site::Attention, stream.clone(), attention.clone());
    let mlp = weights.branch(Site::Mlp, middle.clone(), rotary);
    let out = weights.join(Site::Mlp, middle.clone(), mlp.clone());

    let mut sums = LayerSums::default();
    if probes.has(Probe::Branches) {
        with_slices([stream, &out, &attention, &mlp], |[stream, out, attention, mlp]| {
            (sums.branch_to_stream, sums.cosine) = change_sums(stream, out, hidden, content);
            sums.attention_variances = variances(attention, hidden, content);
            sums.mlp_variances = variances(mlp, hidden, content);
        });
    }
    let variant = |removed, stream| Variant { removed, layer: layer.get(), stream };
    let mut variants = Vec::new();
    if probes.has(Probe::Removal) {
        variants.push(variant(Removed::Layer, stream.clone()));
    }
    if probes.has(Probe::Sublayers) {
        let alone = weights.branch(Site::Mlp, stream.clone(), rotary);
        let without_attention = weights.join(Site::Mlp, stream.clone(), alone);
        variants.push(variant(Removed::Attention, without_attention));
        variants.push(variant(Removed::Mlp, middle));
    }
    Step { stream: out, variants, entering: sums_of(stream), layer: sums }
}

fn sums_of(stream: &Tensor<3>) -> StreamSums {
    let hidden = stream.dims()[2];
    with_slices([stream], |[stream]| stream_sums(stream, hidden))
}

/// Losses, angles and lens of the windows of a batch, once they have left the last layer; `first` is
/// the index of the batch's first window in the text.
fn finish(
    runs: &mut [Run<'_>],
    head: &Head,
    probes: &Probes,
    workers: &Workers,
    progress: CountPasses<'_>,
    first: usize,
) -> Result<(), ScoreError> {
    let last = |run: &Run<'_>| run.streams[run.streams.len() - 1].clone();
    let sums = workers.map(runs.len(), |window| sums_of(&last(&runs[window])));
    for (window, sums) in sums.into_iter().enumerate() {
        let layers = runs[window].measured.layers.len();
        add_stream(&mut runs[window], layers, first + window, sums)?;
    }
    let loss_of = |run: &Run<'_>, stream: &Tensor<3>| {
        let loss = window_loss(head, stream, &run.window.ids);
        progress(1);
        loss
    };
    let baselines = workers.map(runs.len(), |window| loss_of(&runs[window], &last(&runs[window])));
    let variants: Vec<(usize, &Variant)> = runs
        .iter()
        .enumerate()
        .flat_map(|(window, run)| run.variants.iter().map(move |variant| (window, variant)))
        .collect();
    let losses: Vec<(usize, (Removed, usize, f64))> = workers.map(variants.len(), |job| {
        let (window, variant) = variants[job];
        (window, (variant.removed, variant.layer, loss_of(&runs[window], &variant.stream)))
    });
    for (window, loss) in losses {
        runs[window].measured.losses.push(loss);
    }
    for (window, (run, baseline)) in runs.iter_mut().zip(baselines).enumerate() {
        let not_finite = |what| ScoreError::NotFinite { what, window: first + window };
        run.measured.baseline = baseline;
        if probes.has(Probe::Angular) {
            run.measured.angular = angular_sums(&run.streams, run.content, workers);
            let lost = |row: &Vec<f64>| row.iter().any(|sum| !sum.is_finite());
            if let Some(i) = run.measured.angular.iter().position(lost) {
                return Err(not_finite(format!("the angle of stream {i} to a later one")));
            }
        }
        if probes.has(Probe::Lens) {
            run.measured.lens = workers.map(run.streams.len(), |i| {
                let sums = lens::sums(head, &run.streams[i], &last(run));
                progress(2);
                sums
            });
            if let Some(i) = run.measured.lens.iter().position(|(kl, _)| !kl.is_finite()) {
                return Err(not_finite(format!("the prediction read off stream {i}")));
            }
        }
    }
    Ok(())
}

/// Σ over one window's content tokens of the angular distance of stream\[i\] and stream\[i + n\], at
/// \[i\]\[n − 1\].
fn angular_sums(streams: &[Tensor<3>], content: &[bool], workers: &Workers) -> Vec<Vec<f64>> {
    let hidden = streams[0].dims()[2];
    let norms = workers.map(streams.len(), |i| {
        with_slices([&streams[i]], |[stream]| reciprocal_norms(stream, hidden))
    });
    workers.map(streams.len() - 1, |i| {
        (i + 1..streams.len())
            .map(|j| {
                with_slices([&streams[i], &streams[j]], |[a, b]| {
                    distance_sum((a, &norms[i]), (b, &norms[j]), hidden, content)
                })
            })
            .collect()
    })
}

/// Refuses losses that are no numbers, of the untouched model or without a part.
fn require_finite_losses(measured: &[Measured]) -> Result<(), ScoreError> {
    let baseline: Vec<f64> = measured.iter().map(|window| window.baseline).collect();
    require_finite("the loss", &baseline)?;
    for (window, measured) in measured.iter().enumerate() {
        if let Some((_, layer, _)) = measured.losses.iter().find(|loss| !loss.2.is_finite()) {
            return Err(ScoreError::NotFinite {
                what: format!("the loss without layer {layer}"),
                window,
            });
        }
    }
    Ok(())
}

/// The text that was measured, as the statistics see it.
struct Subject<'a> {
    windows: &'a [Window],
    content: &'a [Vec<bool>],
    spell: &'a dyn Fn(u32) -> String,
}

/// Sums over windows, in window order, as means and medians.
fn conclude(measured: &[Measured], text: &Subject<'_>, layers: usize, probes: &Probes) -> Findings {
    let mut found = Findings {
        baseline: measured.iter().map(|window| window.baseline).collect(),
        ..Findings::default()
    };
    if measured.is_empty() {
        return found;
    }
    let tokens = text.windows.iter().map(|window| window.ids.len()).sum::<usize>() as f64;
    let content = text.content[..measured.len()].iter().flatten().filter(|is| **is).count() as f64;
    let streams: Vec<StreamRecord> =
        (0..=layers).map(|index| stream_record(index, measured, text)).collect();
    for (layer, stream) in streams[..layers].iter().enumerate() {
        let mut record = match probes.has(Probe::Branches) {
            true => branches_record(measured, layer, stream.content()),
            false => LayerRecord::default(),
        };
        record.layer = layer;
        record.removal = removal(measured, Removed::Layer, layer);
        record.removal_attention = removal(measured, Removed::Attention, layer);
        record.removal_mlp = removal(measured, Removed::Mlp, layer);
        found.layers.push(record);
    }
    if probes.has(Probe::Stream) {
        let medians: Vec<f64> = streams.iter().map(StreamRecord::typical).collect();
        found.heavy_tokens = heavy_tokens(
            text.windows.iter().map(|window| &window.ids[..]),
            |index, window| &measured[window].streams[index].variances,
            &medians,
            text.spell,
        );
        found.stream = streams;
    }
    if probes.has(Probe::Angular) {
        let distance = |i: usize, n: usize| {
            measured.iter().map(|window| window.angular[i][n]).sum::<f64>() / content
        };
        found.angular =
            (0..layers).map(|i| (0..layers - i).map(|n| distance(i, n)).collect()).collect();
    }
    if probes.has(Probe::Lens) {
        for index in 0..=layers {
            let sums = measured.iter().map(|window| window.lens[index]);
            let (kl, agreed) = sums.fold((0.0, 0), |sum, next| (sum.0 + next.0, sum.1 + next.1));
            found.lens.push(LensRecord {
                index,
                kl: kl / tokens,
                agreement: agreed as f64 / tokens,
            });
        }
    }
    found
}

/// What one layer adds to content tokens, and that beside the mean variance of what enters it.
fn branches_record(measured: &[Measured], layer: usize, entering: f64) -> LayerRecord {
    let sums = || measured.iter().map(|window| &window.layers[layer]);
    let attention: Vec<f64> = sums().flat_map(|sums| &sums.attention_variances).copied().collect();
    let mlp: Vec<f64> = sums().flat_map(|sums| &sums.mlp_variances).copied().collect();
    let content = mlp.len() as f64;
    let cosine = sums().map(|sums| sums.cosine).sum::<f64>() / content;
    let (attention_mean, mlp_mean) = (mean(&attention), mean(&mlp));
    // A stream without variance has no ratio.
    let to_stream = |variance: f64| (entering > 0.0).then(|| variance / entering);
    LayerRecord {
        attention_variance: Some(attention_mean),
        mlp_variance: Some(mlp_mean),
        attention_variance_median: Some(median(attention)),
        mlp_variance_median: Some(median(mlp)),
        attention_to_stream: to_stream(attention_mean),
        mlp_to_stream: to_stream(mlp_mean),
        branch_to_stream: Some(sums().map(|sums| sums.branch_to_stream).sum::<f64>() / content),
        cosine: Some(cosine),
        block_influence: Some(1.0 - cosine),
        ..LayerRecord::default()
    }
}

/// stream\[index\] over all windows.
fn stream_record(index: usize, measured: &[Measured], text: &Subject<'_>) -> StreamRecord {
    let (mut all, mut later, mut squares, mut tokens) = (0.0, 0.0, 0.0, 0usize);
    let mut content = Vec::new();
    for (window, is_content) in measured.iter().zip(text.content) {
        let StreamSums { variances, mean_square } = &window.streams[index];
        all += variances.iter().sum::<f64>();
        later += variances[1..].iter().sum::<f64>();
        squares += mean_square;
        tokens += variances.len();
        let kept = variances.iter().zip(is_content).filter(|(_, is)| **is);
        content.extend(kept.map(|(variance, _)| *variance));
    }
    StreamRecord {
        index,
        variance: all / tokens as f64,
        variance_without_first: later / (tokens - measured.len()) as f64,
        variance_content: Some(mean(&content)),
        variance_median: Some(median(content)),
        rms: (squares / tokens as f64).sqrt(),
    }
}

/// Mean paired difference over windows; `None` when the variant was not run.
fn removal(measured: &[Measured], removed: Removed, layer: usize) -> Option<RemovalRecord> {
    let differences: Vec<f64> = measured
        .iter()
        .flat_map(|window| {
            let own = window.losses.iter().filter(|loss| (loss.0, loss.1) == (removed, layer));
            own.map(|loss| loss.2 - window.baseline)
        })
        .collect();
    if differences.is_empty() {
        return None;
    }
    Some(RemovalRecord {
        delta_nll: mean(&differences),
        stderr: standard_error(&differences),
        margin: margin(&differences),
    })
}
