//! The one pass through the layers that yields every statistic and the leave-one-out losses.
//!
//! Layer by layer, so that weights may come from disk. Beside the untouched model run its variants:
//! removing layer i means that the stream entering i enters i + 1, so variant i starts there and
//! shares everything before. After layer j there are j + 2 streams per window, each a job for any
//! worker; sums are taken in a fixed order afterwards.

use std::ops::Range;

use burn::tensor::Tensor;
use layernorm_scaling::{Head, LayerSource, LoadError, TransformerLayerWithScaling, rotary_table};
use lns_data::Window;
use lns_eval::{
    Progress, RunError, mean, mean_of, predictors, require_finite, standard_error, window_length,
};
use lns_kernels::{RotaryTable, Workers, with_slices};
use lns_record::{LayerRecord, LensRecord, RemovalRecord, StreamRecord};
use lns_spec::{LayerIndex, ModelSpec, Site};

use crate::{
    Probe, Probes,
    angular::{distance_sum, reciprocal_norms},
    lens,
    statistics::{LayerSums, StreamSums, change_sums, stream_sums, variance_sum},
};

/// Bytes of residual streams held at once.
const STREAM_BUDGET: usize = 1 << 30;

/// What the pass found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Mean loss of each window.
    pub(crate) baseline: Vec<f64>,
    pub(crate) stream: Vec<StreamRecord>,
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
struct Run {
    /// stream\[0\], … of the untouched model; only the newest if nothing needs the others.
    streams: Vec<Tensor<3>>,
    variants: Vec<Variant>,
}

/// What a step through a layer yields; only the untouched model's has variants and sums.
struct Step {
    stream: Tensor<3>,
    variants: Vec<Variant>,
    /// Of the stream that entered the layer.
    entering: StreamSums,
    layer: LayerSums,
}

/// A finished window.
struct Finished {
    baseline: f64,
    /// Loss and identity of each variant.
    losses: Vec<(Removed, usize, f64)>,
}

/// Sums over windows, in window order.
struct Totals {
    streams: Vec<StreamSums>,
    layers: Vec<LayerSums>,
    angular: Vec<Vec<f64>>,
    lens: Vec<(f64, usize)>,
    windows: Vec<Finished>,
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

pub(crate) fn run(
    source: &dyn LayerSource,
    windows: &[Window],
    probes: &Probes,
    workers: &Workers,
    progress: Progress<'_>,
) -> Result<Findings, RunError> {
    let spec = source.spec();
    let (layers, hidden) = (spec.num_hidden_layers, spec.hidden_size);
    let length = window_length(windows)?;
    let rotary = rotary_table(spec, length);
    let per_window = bytes_per_window(layers, length, hidden, probes).max(1);
    let mut totals = Totals {
        streams: vec![StreamSums::default(); layers + 1],
        layers: vec![LayerSums::default(); layers],
        angular: (0..layers).map(|i| vec![0.0; layers - i]).collect(),
        lens: vec![(0.0, 0); layers + 1],
        windows: Vec::with_capacity(windows.len()),
    };
    for batch in windows.chunks((STREAM_BUDGET / per_window).max(1)) {
        let mut runs = start(source, batch)?;
        for layer in spec.layers() {
            let weights = source.layer(layer)?;
            let context = Context { weights: &weights, rotary: &rotary, layer, probes, progress };
            advance(&mut runs, &context, workers, &mut totals)?;
        }
        let report = |heads: u64| progress(heads * head_passes(spec));
        finish(&runs, batch, &source.head()?, probes, workers, &report, &mut totals)?;
    }
    require_finite_losses(&totals)?;
    Ok(conclude(&totals, length, probes))
}

fn start(source: &dyn LayerSource, windows: &[Window]) -> Result<Vec<Run>, LoadError> {
    windows
        .iter()
        .map(|window| {
            Ok(Run { streams: vec![source.embed_ids(&window.ids)?], variants: Vec::new() })
        })
        .collect()
}

struct Context<'a> {
    weights: &'a TransformerLayerWithScaling,
    rotary: &'a RotaryTable,
    layer: LayerIndex,
    probes: &'a Probes,
    progress: Progress<'a>,
}

/// Takes every stream of every window through one layer.
fn advance(
    runs: &mut [Run],
    context: &Context<'_>,
    workers: &Workers,
    totals: &mut Totals,
) -> Result<(), RunError> {
    let steps = workers.map(runs.len(), |window| {
        let streams = &runs[window].streams;
        let step = step(&streams[streams.len() - 1], context);
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
        add_stream(totals, context.layer.get(), window, &step.entering)?;
        totals.layers[context.layer.get()].add(&step.layer);
        if !keeps_streams(context.probes) {
            run.streams.clear();
        }
        run.streams.push(step.stream);
        run.variants.extend(step.variants);
    }
    Ok(())
}

/// Adds the sums of stream\[index\] of a window of this batch. Refuses what is not a number: no statistic
/// of such a model would mean anything.
fn add_stream(
    totals: &mut Totals,
    index: usize,
    window: usize,
    sums: &StreamSums,
) -> Result<(), RunError> {
    if !sums.mean_square.is_finite() {
        let what = match index.checked_sub(1) {
            None => "the embedding".to_owned(),
            Some(layer) => format!("the stream after layer {layer}"),
        };
        return Err(RunError::NotFinite { what, window: totals.windows.len() + window });
    }
    totals.streams[index].add(sums);
    Ok(())
}

/// Variants of one window that go through a layer together, so that preparing its weights for the
/// products is shared.
const STACK: usize = 4;

/// The variants of every window, as (window, range of its variants), at most [`STACK`] together.
fn stacks(runs: &[Run]) -> Vec<(usize, Range<usize>)> {
    let of = |(window, run): (usize, &Run)| {
        let count = run.variants.len();
        let range = move |start: usize| (window, start..(start + STACK).min(count));
        (0..count).step_by(STACK).map(range).collect::<Vec<_>>()
    };
    runs.iter().enumerate().flat_map(of).collect()
}

/// Streams of some variants as one tensor, \[variants, T, H\].
fn stacked(run: &Run, range: Range<usize>) -> Tensor<3> {
    Tensor::cat(run.variants[range].iter().map(|variant| variant.stream.clone()).collect(), 0)
}

/// The untouched model through one layer, and the variants that begin there.
fn step(stream: &Tensor<3>, context: &Context<'_>) -> Step {
    let &Context { weights, rotary, layer, probes, .. } = context;
    let hidden = stream.dims()[2];
    let attention = weights.branch(Site::Attention, stream.clone(), rotary);
    let middle = weights.join(Site::Attention, stream.clone(), attention.clone());
    let mlp = weights.branch(Site::Mlp, middle.clone(), rotary);
    let out = weights.join(Site::Mlp, middle.clone(), mlp.clone());

    let mut sums = LayerSums::default();
    if probes.has(Probe::Branches) {
        with_slices([stream, &out, &attention, &mlp], |[stream, out, attention, mlp]| {
            (sums.branch_to_stream, sums.cosine) = change_sums(stream, out, hidden);
            sums.attention_variance = variance_sum(attention, hidden);
            sums.mlp_variance = variance_sum(mlp, hidden);
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

/// Losses, angles and lens of the windows of a batch, once they have left the last layer.
fn finish(
    runs: &[Run],
    windows: &[Window],
    head: &Head,
    probes: &Probes,
    workers: &Workers,
    progress: Progress<'_>,
    totals: &mut Totals,
) -> Result<(), RunError> {
    let first = totals.windows.len();
    let targets = |window: usize| &windows[window].ids[1..];
    let last = |run: &Run| run.streams[run.streams.len() - 1].clone();
    let layers = totals.layers.len();
    let sums = workers.map(runs.len(), |window| sums_of(&last(&runs[window])));
    for (window, sums) in sums.iter().enumerate() {
        add_stream(totals, layers, window, sums)?;
    }
    let loss_of = |window: usize, stream: &Tensor<3>| {
        let loss = mean_of(&head.nll(predictors(stream), targets(window)));
        progress(1);
        loss
    };
    let baselines = workers.map(runs.len(), |window| loss_of(window, &last(&runs[window])));
    let finished = |baseline| Finished { baseline, losses: Vec::new() };
    totals.windows.extend(baselines.into_iter().map(finished));
    let variants: Vec<(usize, &Variant)> = runs
        .iter()
        .enumerate()
        .flat_map(|(window, run)| run.variants.iter().map(move |variant| (window, variant)))
        .collect();
    let losses =
        workers.map(variants.len(), |job| loss_of(variants[job].0, &variants[job].1.stream));
    for ((window, variant), loss) in variants.into_iter().zip(losses) {
        totals.windows[first + window].losses.push((variant.removed, variant.layer, loss));
    }
    for run in runs {
        if probes.has(Probe::Angular) {
            let rows = angular_sums(&run.streams, workers);
            for (total, row) in totals.angular.iter_mut().zip(rows) {
                total.iter_mut().zip(row).for_each(|(total, sum)| *total += sum);
            }
        }
        if probes.has(Probe::Lens) {
            let sums = workers.map(layers + 1, |i| {
                let sums = lens::sums(head, &run.streams[i], &last(run));
                progress(2);
                sums
            });
            for (total, (divergence, agreed)) in totals.lens.iter_mut().zip(sums) {
                total.0 += divergence;
                total.1 += agreed;
            }
        }
    }
    Ok(())
}

/// Σ over one window's tokens of the angular distance of stream\[i\] and stream\[i + n\], at \[i\]\[n − 1\].
fn angular_sums(streams: &[Tensor<3>], workers: &Workers) -> Vec<Vec<f64>> {
    let hidden = streams[0].dims()[2];
    let norms = workers.map(streams.len(), |i| {
        with_slices([&streams[i]], |[stream]| reciprocal_norms(stream, hidden))
    });
    workers.map(streams.len() - 1, |i| {
        (i + 1..streams.len())
            .map(|j| {
                with_slices([&streams[i], &streams[j]], |[a, b]| {
                    distance_sum((a, &norms[i]), (b, &norms[j]), hidden)
                })
            })
            .collect()
    })
}

/// Refuses losses that are no numbers, of the untouched model or without a part.
fn require_finite_losses(totals: &Totals) -> Result<(), RunError> {
    let baseline: Vec<f64> = totals.windows.iter().map(|window| window.baseline).collect();
    require_finite("the loss", &baseline)?;
    for (window, finished) in totals.windows.iter().enumerate() {
        if let Some((_, layer, _)) = finished.losses.iter().find(|loss| !loss.2.is_finite()) {
            return Err(RunError::NotFinite {
                what: format!("the loss without layer {layer}"),
                window,
            });
        }
    }
    Ok(())
}

fn conclude(totals: &Totals, length: usize, probes: &Probes) -> Findings {
    let windows = totals.windows.len();
    let tokens = (windows * length) as f64;
    let later_tokens = (windows * (length - 1)) as f64;
    let mut found = Findings {
        baseline: totals.windows.iter().map(|window| window.baseline).collect(),
        ..Findings::default()
    };
    let streams = totals.streams.iter().enumerate().map(|(index, sums)| StreamRecord {
        index,
        variance: sums.variance / tokens,
        variance_without_first: (sums.variance - sums.first_variance) / later_tokens,
        rms: (sums.mean_square / tokens).sqrt(),
    });
    if probes.has(Probe::Stream) {
        found.stream = streams.collect();
    }
    for (layer, sums) in totals.layers.iter().enumerate() {
        let mut record = LayerRecord { layer, ..LayerRecord::default() };
        if probes.has(Probe::Branches) {
            let cosine = sums.cosine / tokens;
            record.attention_variance = Some(sums.attention_variance / tokens);
            record.mlp_variance = Some(sums.mlp_variance / tokens);
            // A stream without variance has no ratio.
            let entering = totals.streams[layer].variance;
            if entering > 0.0 {
                record.attention_to_stream = Some(sums.attention_variance / entering);
                record.mlp_to_stream = Some(sums.mlp_variance / entering);
            }
            record.branch_to_stream = Some(sums.branch_to_stream / tokens);
            record.cosine = Some(cosine);
            record.block_influence = Some(1.0 - cosine);
        }
        record.removal = removal(totals, Removed::Layer, layer);
        record.removal_attention = removal(totals, Removed::Attention, layer);
        record.removal_mlp = removal(totals, Removed::Mlp, layer);
        found.layers.push(record);
    }
    if probes.has(Probe::Angular) {
        let average = |row: &Vec<f64>| row.iter().map(|sum| sum / tokens).collect();
        found.angular = totals.angular.iter().map(average).collect();
    }
    if probes.has(Probe::Lens) {
        let record = |(index, (divergence, agreed)): (usize, &(f64, usize))| LensRecord {
            index,
            kl: divergence / tokens,
            agreement: *agreed as f64 / tokens,
        };
        found.lens = totals.lens.iter().enumerate().map(record).collect();
    }
    found
}

/// Mean paired difference over windows; `None` when the variant was not run.
fn removal(totals: &Totals, removed: Removed, layer: usize) -> Option<RemovalRecord> {
    let differences: Vec<f64> = totals
        .windows
        .iter()
        .flat_map(|window| {
            let own = window.losses.iter().filter(|loss| (loss.0, loss.1) == (removed, layer));
            own.map(|loss| loss.2 - window.baseline)
        })
        .collect();
    if differences.is_empty() {
        return None;
    }
    Some(RemovalRecord { delta_nll: mean(&differences), stderr: standard_error(&differences) })
}
