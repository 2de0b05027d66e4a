//! A whole training run in a folder: begun, continued or found finished.
//!
//! The folder holds `config.toml` (resolved settings), `events.jsonl` (what happened, only ever
//! appended to), `snapshots/` and, at the end, `model/`: a Hugging Face folder. Every value that
//! decides the result is a function of the settings and the step, so a run that was killed at any
//! moment goes on to the same bits.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use layernorm_scaling::{Decoder, LoadError, rotary_table};
use lns_data::{Corpus, DataError, Part, Position, Sampler, Sequences, evaluation_sequences};
use lns_kernels::{Device, Workers, with_slices};
use lns_record::{
    EvalEvent, Event, EventsError, LayersEvent, NewFolder, Outcome, StartEvent, StepEvent,
    read_events, replace_file,
};
use lns_spec::ModelSpec;

use crate::{
    Batch, BatchError, ConfigError, ModelConfig, RunConfig, SnapshotError, Trainer,
    gradients::ids,
    guard::{Guard, Ruling},
    snapshot::{Snapshots, State},
    statistics::{Streams, update_ratios},
};

/// Sequences that are evaluated at once by a worker.
const EVALUATED_AT_ONCE: usize = 4;

/// Why a run could not begin or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message names its fields")]
pub enum RunError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Events(#[from] EventsError),
    #[error("the run has no text: name at least one prepared text in `data.sources`")]
    NoText,
    #[error(
        "{first} and {second} were made with different tokenizers; prepare them with the same one"
    )]
    Tokenizers { first: PathBuf, second: PathBuf },
    #[error(
        "{folder} holds a run with other settings:\n{differences}\nContinue it without these \
         settings, or name another folder."
    )]
    AnotherRun { folder: PathBuf, differences: String },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path} was not written: {reason}")]
    Model { path: PathBuf, reason: String },
    #[error("{threads} threads cannot be started: {reason}")]
    Threads { threads: usize, reason: String },
}

/// How a run stands when [`train`] returns.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Why it returned.
    pub outcome: Outcome,
    /// Steps taken.
    pub step: u64,
    /// Tokens predicted.
    pub tokens: u64,
    /// Held-out loss at the end of a finished run.
    pub loss: Option<f64>,
}

impl RunConfig {
    /// Folder of the finished model in a run's folder.
    pub const MODEL: &str = "model";
}

/// Trains as `config` says in `folder`, which is new, empty, or holds this very run: then it goes on
/// from its last snapshot, or is found finished.
///
/// Between steps `stop` is looked at; when it is set, a snapshot is written and the run returns as
/// [`Outcome::Interrupted`]. `observe` sees every event as it is written.
///
/// # Errors
/// [`RunError`] before the first step, or when the finished model cannot be written. A snapshot that
/// cannot be written is reported as a note; the run goes on.
pub fn train(
    config: &RunConfig,
    folder: &Path,
    stop: &AtomicBool,
    observe: &mut dyn FnMut(&Event),
) -> Result<Summary, RunError> {
    Run::open(config, folder, observe)?.finish(stop)
}

/// Mean loss per predicted token of some sequences, in nats; their number.
pub fn evaluate(model: &Decoder, sequences: &Sequences, workers: &Workers) -> (f64, u64) {
    let length = sequences.length;
    let size = EVALUATED_AT_ONCE * length;
    let jobs: Vec<(&[u32], &[u32])> =
        sequences.inputs.chunks(size).zip(sequences.targets.chunks(size)).collect();
    let rotary = rotary_table(model.spec(), length);
    let sums = workers.each(jobs, |(inputs, targets)| {
        let mut stream = model.embed(ids(model, inputs, length));
        for layer in &model.layers {
            stream = layer.forward(stream, &rotary);
        }
        let [b, t, hidden] = stream.dims();
        let nll = model.head().nll(stream.reshape([b * t, hidden]), targets);
        with_slices([&nll], |[nll]| nll.iter().map(|x| f64::from(*x)).sum::<f64>())
    });
    let predicted = sequences.targets.iter().filter(|id| **id != lns_kernels::IGNORED).count();
    (sums.iter().sum::<f64>() / predicted as f64, predicted as u64)
}

/// The text of a run: what is drawn from and what is evaluated.
struct Text {
    corpora: Vec<Corpus>,
    sampler: Sampler,
    held_out: Sequences,
}

impl Text {
    fn open(config: &RunConfig) -> Result<Self, RunError> {
        let sources = &config.data.sources;
        let corpora = sources
            .iter()
            .map(|source| Corpus::open(&source.corpus))
            .collect::<Result<Vec<_>, _>>()?;
        let first = corpora.first().ok_or(RunError::NoText)?;
        if let Some(other) = corpora
            .iter()
            .position(|corpus| corpus.tokenizer().fingerprint() != first.tokenizer().fingerprint())
        {
            let (first, second) = (sources[0].corpus.clone(), sources[other].corpus.clone());
            return Err(RunError::Tokenizers { first, second });
        }
        let padding = first.tokenizer().end_of_text_id().unwrap_or(0);
        let (layout, length) = (config.data.layout, config.data.length);
        let weighted = corpora.iter().zip(sources);
        let weighted = weighted.map(|(c, source)| (c.tokens(Part::Train).clone(), source.weight));
        let sampler = Sampler::new(weighted.collect(), layout, length, config.seed, padding)?;
        let limit = match config.evaluation.tokens {
            0 => None,
            tokens => Some(tokens.div_ceil(corpora.len() as u64)),
        };
        let mut held_out = Sequences { inputs: Vec::new(), targets: Vec::new(), length };
        for corpus in &corpora {
            let part = corpus.tokens(Part::Validation);
            let more = evaluation_sequences(part, layout, length, limit, padding)?;
            held_out.inputs.extend(more.inputs);
            held_out.targets.extend(more.targets);
        }
        Ok(Self { corpora, sampler, held_out })
    }
}

struct Run<'a> {
    config: RunConfig,
    folder: PathBuf,
    text: Text,
    trainer: Trainer,
    snapshots: Snapshots,
    state: State,
    /// Step of the latest snapshot.
    saved: Option<u64>,
    log: File,
    observe: &'a mut dyn FnMut(&Event),
    finished: Option<Summary>,
}

impl<'a> Run<'a> {
    fn open(
        config: &RunConfig,
        folder: &Path,
        observe: &'a mut dyn FnMut(&Event),
    ) -> Result<Self, RunError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| RunError::Io { path, source }
        };
        let text = Text::open(config)?;
        let mut config = config.clone();
        let spec = config.model.spec(text.corpora[0].vocab_size(), config.data.length)?;
        config.model.vocab_size = spec.vocab_size;
        for (source, corpus) in config.data.sources.iter_mut().zip(&text.corpora) {
            corpus.fingerprint().clone_into(&mut source.fingerprint);
        }
        std::fs::create_dir_all(folder).map_err(io(folder))?;
        let config_path = folder.join(RunConfig::FILE_NAME);
        let begun = config_path.exists();
        if begun {
            refuse_another(&RunConfig::read(folder)?, &config, folder)?;
        } else {
            replace_file(&config_path, config.to_toml().as_bytes()).map_err(io(&config_path))?;
        }
        lns_record::remove_unfinished(folder).map_err(io(folder))?;

        let threads = config.threads;
        let workers = || Workers::new(threads).map_err(std::io::Error::other);
        let snapshots = Snapshots::of(folder);
        let finished = if begun { finished(folder)? } else { None };
        let restored = if begun { snapshots.latest(&config, &workers)? } else { None };
        let log_path = folder.join(Event::FILE_NAME);
        let mut log = open_log(&log_path).map_err(io(&log_path))?;
        let any_events = log.seek(SeekFrom::End(0)).map_err(io(&log_path))? > 0;
        let (trainer, state, saved, damaged) = match restored {
            Some(restored) => {
                text.sampler.check(&restored.state.position)?;
                let step = restored.state.step;
                // The number of threads may be another.
                let state = State { config: config.clone(), ..restored.state };
                (restored.trainer, state, Some(step), restored.damaged)
            }
            None => {
                let workers = workers()
                    .map_err(|error| RunError::Threads { threads, reason: error.to_string() })?;
                let trainer = fresh(&config, &spec, workers);
                let position = text.sampler.start();
                (trainer, State::first(&config, position), None, Vec::new())
            }
        };
        let mut run = Self {
            config,
            folder: folder.to_owned(),
            text,
            trainer,
            snapshots,
            state,
            saved,
            log,
            observe,
            finished,
        };
        if run.finished.is_none() {
            run.begin(any_events, &spec, damaged)?;
        }
        Ok(run)
    }

    /// Says what begins or goes on.
    fn begin(
        &mut self,
        any_events: bool,
        spec: &ModelSpec,
        damaged: Vec<String>,
    ) -> Result<(), RunError> {
        let time = now();
        if any_events {
            self.emit(Event::Resume { step: self.state.step, time })?;
        } else {
            let config = &self.config;
            let name = serde_json::to_value(config.model.initialisation).unwrap_or_default();
            self.emit(Event::Start(StartEvent {
                time,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                scheme: spec.norm_scheme.to_string(),
                initialisation: name.as_str().unwrap_or_default().to_owned(),
                seed: config.seed,
                threads: config.threads as u64,
                layers: spec.num_hidden_layers as u64,
                parameters: spec.parameter_count().total(),
                steps: config.steps,
                tokens_per_step: config.tokens_per_step(),
            }))?;
            for warning in self.config.warnings() {
                self.note(warning)?;
            }
        }
        for problem in damaged {
            self.note(format!("{problem}; the snapshot before it is used"))?;
        }
        Ok(())
    }

    fn emit(&mut self, event: Event) -> Result<(), RunError> {
        let path = self.folder.join(Event::FILE_NAME);
        let mut line = match serde_json::to_vec(&event) {
            Ok(line) => line,
            Err(error) => unreachable!("events are plain: {error}"),
        };
        line.push(b'\n');
        self.log.write_all(&line).map_err(|source| RunError::Io { path, source })?;
        (self.observe)(&event);
        Ok(())
    }

    fn note(&mut self, text: String) -> Result<(), RunError> {
        self.emit(Event::Note { step: self.state.step, time: now(), text })
    }

    fn finish(mut self, stop: &AtomicBool) -> Result<Summary, RunError> {
        if let Some(summary) = self.finished.take() {
            return Ok(summary);
        }
        if self.state.step == 0 {
            self.evaluate()?;
        }
        while self.state.step < self.config.steps {
            if stop.load(Ordering::Relaxed) {
                self.snapshot()?;
                return self.end(Outcome::Interrupted, None);
            }
            if let Some(reason) = self.step()? {
                self.note(reason)?;
                return self.end(Outcome::Diverged, None);
            }
            let step = self.state.step;
            let due =
                |every: u64| every > 0 && step.is_multiple_of(every) && step < self.config.steps;
            let (evaluation, snapshot) =
                (due(self.config.evaluation.every), due(self.config.snapshots.every));
            if evaluation {
                self.evaluate()?;
            }
            if snapshot {
                self.snapshot()?;
            }
        }
        let loss = self.evaluate()?;
        self.write_model()?;
        self.end(Outcome::Finished, loss)
    }

    fn end(mut self, outcome: Outcome, loss: Option<f64>) -> Result<Summary, RunError> {
        let (step, tokens) = (self.state.step, self.state.tokens);
        self.emit(Event::End { step, time: now(), outcome })?;
        Ok(Summary { outcome, step, tokens, loss })
    }

    /// One step; a reason when the run cannot go on.
    fn step(&mut self) -> Result<Option<String>, RunError> {
        let start = Instant::now();
        let number = self.state.step + 1;
        let drawn = self.text.sampler.next(&mut self.state.position, self.config.batch.sequences);
        let batch = Batch::new(drawn.inputs, drawn.targets, drawn.length)?;
        let learning_rate = self.config.schedule.at(number, self.config.steps);
        let gradient = self.trainer.gradient(&batch)?;
        let (loss, norm, tokens) = (gradient.loss, gradient.norm, gradient.tokens as u64);
        let ruling = self.state.guard.judge(&self.config.guard, loss, norm);
        let every = self.config.statistics.every;
        let measured =
            ruling == Ruling::Apply && every > 0 && (number.is_multiple_of(every) || number == 1);
        let mut layers = None;
        match &ruling {
            Ruling::Apply if measured => {
                let streams =
                    Streams::measure(self.trainer.model(), &batch, self.trainer.workers());
                let gradient_norm = self.trainer.layer_norms(&gradient);
                let before = self.trainer.model().tensors();
                self.trainer.apply(gradient, learning_rate);
                let after = self.trainer.model().tensors();
                let update_ratio = update_ratios(gradient_norm.len(), &before, &after);
                layers = Some((streams, gradient_norm, update_ratio));
            }
            Ruling::Apply => self.trainer.apply(gradient, learning_rate),
            Ruling::Skip(_) => {}
            Ruling::Stop(reason) => return Ok(Some(format!("step {number}: {reason}"))),
        }
        self.state.step = number;
        self.state.tokens += tokens;
        let time = now();
        let finite = |value: f64| value.is_finite().then_some(value);
        let tokens_per_second = batch.tokens() as f64 / start.elapsed().as_secs_f64();
        self.emit(Event::Step(StepEvent {
            step: number,
            time,
            tokens: self.state.tokens,
            loss: finite(loss),
            gradient_norm: finite(norm),
            learning_rate,
            tokens_per_second,
            skipped: ruling != Ruling::Apply,
        }))?;
        if let Ruling::Skip(reason) = ruling {
            self.note(format!("step {number}: {reason}"))?;
        }
        if let Some((streams, gradient_norm, update_ratio)) = layers {
            let Streams { variance: stream_variance, branch_ratio } = streams;
            let all = [&stream_variance, &branch_ratio, &gradient_norm, &update_ratio];
            // JSON has no other numbers; the guard answers for those that are not finite.
            if all.iter().all(|values| values.iter().all(|value| value.is_finite())) {
                self.emit(Event::Layers(LayersEvent {
                    step: number,
                    time,
                    stream_variance,
                    branch_ratio,
                    gradient_norm,
                    update_ratio,
                }))?;
            }
        }
        Ok(None)
    }

    fn evaluate(&mut self) -> Result<Option<f64>, RunError> {
        let held_out = &self.text.held_out;
        let (loss, predicted) = evaluate(self.trainer.model(), held_out, self.trainer.workers());
        let loss = loss.is_finite().then_some(loss);
        let step = self.state.step;
        if let Some(loss) = loss
            && self.state.best.is_none_or(|(best, _)| loss < best)
        {
            self.state.best = Some((loss, step));
        }
        let tokens = self.state.tokens;
        self.emit(Event::Eval(EvalEvent { step, time: now(), tokens, loss, predicted }))?;
        Ok(loss)
    }

    /// Writes a snapshot; when that fails, says so and goes on.
    fn snapshot(&mut self) -> Result<(), RunError> {
        let step = self.state.step;
        if self.saved == Some(step) {
            return Ok(());
        }
        // What the snapshot says happened must outlive it.
        let synced = self.log.sync_all().map_err(|error| error.to_string());
        let tokenizer = self.text.corpora[0].tokenizer();
        let written = synced.and_then(|()| {
            let written = self.snapshots.write(&self.state, &self.trainer, tokenizer);
            written.map_err(|error| error.to_string())
        });
        match written {
            Ok(folder) => {
                self.saved = Some(step);
                let best = self.state.best.is_some_and(|(_, best)| best == step);
                self.emit(Event::Snapshot { step, time: now(), folder, best })
            }
            Err(problem) => self.note(format!(
                "{problem}. The run goes on; its earlier snapshots are untouched. Make room or the \
                 steps since then are lost if it stops"
            )),
        }
    }

    /// The finished model as a Hugging Face folder.
    fn write_model(&mut self) -> Result<(), RunError> {
        let path = self.folder.join(RunConfig::MODEL);
        let failed = |reason: String| RunError::Model { path: path.clone(), reason };
        if path.exists() {
            // Of this very run, written just before it was killed.
            std::fs::remove_dir_all(&path).map_err(|error| failed(error.to_string()))?;
        }
        let new = NewFolder::create(&path).map_err(|error| failed(error.to_string()))?;
        self.trainer.model().write(new.path()).map_err(|error| failed(error.to_string()))?;
        let tokenizer = self.text.corpora[0].tokenizer();
        tokenizer.save(new.path()).map_err(|error| failed(error.to_string()))?;
        new.commit().map_err(|error| failed(error.to_string()))
    }
}

impl State {
    fn first(config: &RunConfig, position: Position) -> Self {
        let config = config.clone();
        Self { config, step: 0, tokens: 0, position, best: None, guard: Guard::default() }
    }
}

fn fresh(config: &RunConfig, spec: &ModelSpec, workers: Workers) -> Trainer {
    let ModelConfig { initialisation, embedding_std, .. } = config.model;
    let device = Device::flex();
    let model = Decoder::initialised(spec, initialisation, embedding_std, config.seed, &device);
    Trainer::new(model.with_precision(config.precision), config.training_options(), workers)
}

fn refuse_another(there: &RunConfig, asked: &RunConfig, folder: &Path) -> Result<(), RunError> {
    let differences = asked.differences(there);
    if differences.is_empty() {
        return Ok(());
    }
    let line = |(key, asked, there): &(String, String, String)| {
        format!("  {key} = {there} there, {asked} asked for")
    };
    let differences = differences.iter().map(line).collect::<Vec<_>>().join("\n");
    Err(RunError::AnotherRun { folder: folder.to_owned(), differences })
}

/// How a run that needs no more steps ended.
fn finished(folder: &Path) -> Result<Option<Summary>, RunError> {
    if !folder.join(Event::FILE_NAME).exists() {
        return Ok(None);
    }
    let events = read_events(folder)?;
    let Some(Event::End { step, outcome, .. }) = events.last() else { return Ok(None) };
    let model = folder.join(RunConfig::MODEL).is_dir();
    let done = match outcome {
        Outcome::Finished => model,
        Outcome::Diverged => true,
        Outcome::Interrupted => false,
    };
    if !done {
        return Ok(None);
    }
    let mut summary = Summary { outcome: *outcome, step: *step, tokens: 0, loss: None };
    for event in &events {
        match event {
            Event::Step(event) => summary.tokens = event.tokens,
            Event::Eval(event) if *outcome == Outcome::Finished => summary.loss = event.loss,
            _ => {}
        }
    }
    Ok(Some(summary))
}

/// The log, to be appended to; half a line that a killed run left behind is cut off.
fn open_log(path: &Path) -> std::io::Result<File> {
    let mut log = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    let mut text = Vec::new();
    log.read_to_end(&mut text)?;
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    if whole < text.len() {
        log.set_len(whole as u64)?;
    }
    Ok(log)
}

/// Seconds since the Unix epoch.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}
