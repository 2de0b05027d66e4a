//! Which layers of a model work and which idle: probes over a running decoder, and what they say.
//!
//! One pass through the layers yields every statistic of the default set; the layers may come from
//! memory or from disk, one at a time. Definitions stand with the fields of
//! [`DiagnoseRecord`].

mod choose;
mod derivative;
mod elimination;
mod estimate;
mod growth;
mod observer;
mod pass;
mod probes;
mod representation;
mod statistics;
mod task_costs;
mod theory;
mod verdict;
mod words;

pub use choose::{Choice, ChooseError, Chosen, PruneRule, choose};
pub use derivative::{Examined, Forward};
pub use growth::fit_growth;
pub use observer::{AtEnd, AtEndWithout, AtLayer, Observer, Observers, Passed};
pub use probes::{Course, Probe, Probes, UnknownProbe, UnsuitedProbe, probes};
pub use task_costs::{TaskCosts, TaskCostsError, TaskMeasure};
pub use theory::{Moment, Subject, theory};
pub use verdict::judge;

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use lns_corpus::Windows;
use lns_kernels::Workers;
use lns_model::LayerSource;
use lns_record::{
    BaselineRecord, DiagnoseRecord, LayerRecord, ProbeRecord, RecordError, TextRecord,
    VerdictRecord,
};
use lns_score::{CountPasses, Reading, ScoreError, window_length};
use lns_spec::ModelSpec;
use lns_statistics::{mean, standard_error};
use lns_tasks::Asked;

/// Who watches a diagnosis and may end it.
#[derive(Clone, Copy)]
pub struct Control<'a> {
    /// Told of the layer passes that are done or that turned out not to be needed; [`work`] in all.
    pub progress: CountPasses<'a>,
    /// Set from elsewhere to end early, with the windows that are whole by then.
    pub stop: &'a AtomicBool,
}

impl Control<'_> {
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// What the record calls things.
pub struct Labels<'a> {
    /// The model.
    pub name: String,
    /// The text.
    pub files: Vec<String>,
    /// The text of a token.
    pub spell: &'a dyn Fn(u32) -> String,
}

/// Runs the probes on a text whose windows are of the same length and at least two tokens long.
///
/// When it is stopped, the record is of the windows that were whole by then, and without the probes
/// that were not; `None` when there was no such window.
///
/// # Errors
/// [`ScoreError`] when there is no window, a layer cannot be read, or a number is not finite.
pub fn diagnose(
    source: &dyn LayerSource,
    text: &Windows,
    probes: &Probes,
    workers: &Workers,
    control: Control<'_>,
    labels: Labels<'_>,
) -> Result<Option<DiagnoseRecord>, ScoreError> {
    let length = window_length(&text.windows)?;
    let mut ran = Vec::new();
    let mut timed = |name: String, start: Instant| {
        ran.push(ProbeRecord { name, seconds: start.elapsed().as_secs_f64() });
    };

    let start = Instant::now();
    let (names, observers) = shared(probes);
    let found = pass::run(source, text, &observers, probes.removal_error(), workers, control)?;
    if found.windows() == 0 {
        return Ok(None);
    }
    let windows = &text.windows[..found.windows()];
    let baseline = found.baseline().map(|losses| {
        let nll = mean(&losses);
        BaselineRecord { nll, perplexity: nll.exp(), nll_stderr: standard_error(&losses) }
    });
    let layer = |layer| LayerRecord { layer, ..LayerRecord::default() };
    let mut record = DiagnoseRecord {
        name: labels.name,
        model: source.spec().to_config(),
        text: TextRecord {
            files: labels.files,
            tokens: (windows.len() * length) as u64,
            windows: windows.len() as u64,
            window_len: length as u64,
            masking: text.masking,
        },
        removal_error: probes.removal_error(),
        baseline,
        stream: Vec::new(),
        heavy_tokens: Vec::new(),
        layers: (0..source.spec().num_hidden_layers).map(layer).collect(),
        angular_distance: Vec::new(),
        blocks: Vec::new(),
        lens: Vec::new(),
        tasks: Vec::new(),
        verdict: VerdictRecord::default(),
        probes: Vec::new(),
        described: Vec::new(),
        estimates: Vec::new(),
    };
    found.conclude(text, &observers, labels.spell, &mut record);
    timed(names.join("+"), start);

    let forward = Forward::default();
    let examined = Examined { source, windows, workers, control, forward: &forward };
    for probe in probes.iter() {
        if let Course::Own { run, .. } = probe.course() {
            let start = Instant::now();
            run(&examined, &mut record)?;
            timed(probe.name().to_owned(), start);
        }
    }
    record.probes = ran;
    finish(&mut record);
    Ok(Some(record))
}

/// A model and the tasks that are asked of it, for a probe that asks.
#[derive(Clone, Copy)]
pub struct Questioned<'a> {
    /// The model.
    pub source: &'a dyn LayerSource,
    /// Documents of each task; no two tasks have one name.
    pub asked: &'a [Asked],
    /// How the model reads them.
    pub reading: Reading<'a>,
    /// Who computes.
    pub workers: &'a Workers,
    /// To be told of every layer that a choice has passed ([`task_work`] in all), and asked between
    /// documents whether to stop.
    pub control: Control<'a>,
}

/// Asks a model and the model without each of its layers, and adds to its record what that comes to. When
/// it is stopped, the documents that were scored by then count.
///
/// # Errors
/// [`ScoreError`] when a document cannot be scored or a layer cannot be read.
pub fn diagnose_tasks(
    questioned: &Questioned<'_>,
    record: &mut DiagnoseRecord,
) -> Result<(), ScoreError> {
    for probe in probes() {
        if let Course::Questions { run } = probe.course() {
            let start = Instant::now();
            run(questioned, record)?;
            let seconds = start.elapsed().as_secs_f64();
            record.probes.push(ProbeRecord { name: probe.name().to_owned(), seconds });
        }
    }
    finish(record);
    Ok(())
}

/// Layer passes of choices that [`diagnose_tasks`] will report to its progress.
pub fn task_work(spec: &ModelSpec, asked: &[Asked]) -> u64 {
    let layers = spec.num_hidden_layers as u64;
    let documents = asked.iter().flat_map(|asked| &asked.documents);
    let choices: u64 = documents.map(|document| document.question.choices.len() as u64).sum();
    choices * layers * (layers + 1) / 2
}

/// Says in the record what its numbers are and what they come to.
fn finish(record: &mut DiagnoseRecord) {
    probes::describe(record);
    record.estimates = estimate::estimates(record);
    record.verdict = judge(record);
}

/// What `probes` find in a text, for those that only need the numbers.
fn measure(
    source: &dyn LayerSource,
    text: &Windows,
    probes: &Probes,
    workers: &Workers,
) -> Result<DiagnoseRecord, ScoreError> {
    let control = Control { progress: &|_| {}, stop: &AtomicBool::new(false) };
    let labels = Labels { name: String::new(), files: Vec::new(), spell: &|_| String::new() };
    // Nobody stops it, so that the first window is whole.
    diagnose(source, text, probes, workers, control, labels)?.ok_or(ScoreError::NoWindows)
}

/// The probes that watch the one pass, and what that pass is called.
fn shared(probes: &Probes) -> (Vec<&'static str>, Vec<Box<dyn Observer>>) {
    let mut shared: (Vec<_>, Vec<_>) = (vec!["baseline"], Vec::new());
    for probe in probes.iter() {
        if let Course::Shared(observer) = probe.course() {
            shared.0.push(probe.name());
            shared.1.push(observer);
        }
    }
    shared
}

/// Reads a finished diagnosis, a `diagnose.json` or a folder that holds one. That of an earlier version,
/// which does not say what its numbers are, is described by the probes of this one.
///
/// # Errors
/// [`RecordError`], naming the file.
pub fn read(path: &Path) -> Result<DiagnoseRecord, RecordError> {
    let mut record = DiagnoseRecord::read(path)?;
    if record.described.is_empty() {
        probes::describe(&mut record);
    }
    Ok(record)
}

/// Layer passes over one window that [`diagnose`] will report to its progress; a head counts as the
/// layers it costs as much as. With a removal error they are the most that can be needed.
pub fn work(spec: &ModelSpec, windows: usize, probes: &Probes) -> u64 {
    let (_, observers) = shared(probes);
    let own = probes.iter().filter_map(|probe| match probe.course() {
        Course::Own { passes, .. } => Some(passes),
        Course::Shared(_) | Course::Questions { .. } => None,
    });
    let own: Vec<u64> = own.collect();
    // One more makes the streams that all of them start from.
    let passes = own.iter().sum::<u64>() + u64::from(!own.is_empty());
    pass::work(spec, windows, &observers) + passes * (spec.num_hidden_layers * windows) as u64
}
