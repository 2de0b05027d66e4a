//! A whole training run in a folder: begun, continued or found finished.
//!
//! The folder holds `config.toml` (resolved settings), `events.jsonl` (what happened, only ever
//! appended to), `snapshots/` and, at the end, `model/`: a Hugging Face folder. Every value that
//! decides the result is a function of the settings and the step, so a run that was killed at any
//! moment goes on to the same bits.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use lns_checkpoint::{Checkpoint, CheckpointError};
use lns_corpus::{
    Corpus, CorpusError, Layout, Part, Position, Sampler, Sequences, evaluation_sequences,
};
use lns_kernels::{Device, Workers, with_slices};
use lns_model::{Decoder, LoadError, LoraError};
use lns_record::{
    EvalEvent, Event, EventsError, LayersEvent, NewFolder, Outcome, ProvenanceRecord, StartEvent,
    StepEvent, pretty_json, read_events, regular, replace_file,
};
use lns_spec::ModelSpec;
use lns_tokenizer::{TokenizerError, model_tokenizer, write_tokenizer};

use crate::{
    Batch, BatchError, ConfigError, FinetuneConfig, ModelConfig, RunConfig, Shape, SnapshotError,
    Trainer,
    estimate::check_memory,
    gradients::rows as rows_of,
    guard::{Guard, Ruling},
    packing::Pass,
    snapshot::{Restored, Snapshots, State},
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
    Corpus(#[from] CorpusError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Lora(#[from] LoraError),
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
    #[error(
        "{folder} is not the folder of a run, but holds {found}: name another folder, or a new one"
    )]
    NotARun { folder: PathBuf, found: &'static str },
    #[error("{folder}: another lns is training here; wait for it, or name another folder")]
    InUse { folder: PathBuf },
    #[error("{corpus} holds other tokens than those the settings were made with")]
    OtherText { corpus: PathBuf },
    #[error("{base} is not the checkpoint that this run was begun with")]
    OtherBase { base: PathBuf },
    #[error(
        "{corpus} was prepared with another tokenizer than that of {base}; prepare it with --tokenizer \
         {base}"
    )]
    OtherTokenizer { corpus: PathBuf, base: PathBuf },
    #[error(
        "the tokenizer of {corpus} has {tokens} tokens and the embedding of {base} {rows} rows: text \
         with the others cannot be learned"
    )]
    TokenizerTooLarge { corpus: PathBuf, base: PathBuf, tokens: usize, rows: usize },
    #[error(
        "{base}: the scale is to be annealed over {anneal} steps and the run has {steps}; give --steps \
         {anneal} or more, or make the retrofit with fewer"
    )]
    AnnealTooLong { base: PathBuf, anneal: u64, steps: u64 },
    #[error(
        "{corpus} holds instructions of which only the responses are learned: use it with --set \
         data.layout=rows, which keeps each example whole"
    )]
    CutInstructions { corpus: PathBuf },
    #[error(
        "{base} was trained for {context} tokens, and a sequence has {length}; use --length {context} \
         or less"
    )]
    BeyondContext { base: PathBuf, context: usize, length: usize },
    #[error(
        "{path}: {source}; what snapshots hold is safe, and the same command goes on from there"
    )]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path} was not written: {reason}")]
    Model { path: PathBuf, reason: String },
    #[error("the run needs up to {needed} of memory and {available} are free: {cure}")]
    Memory { needed: String, available: String, cure: String },
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
/// from its last snapshot, or is found finished. So does the run that `config` takes on to more steps
/// ([`RunConfig::extended`]).
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
    match Run::open(config, folder, observe)? {
        Opened::Finished(summary) => Ok(summary),
        Opened::Begun(run) => run.finish(stop),
    }
}

/// Whether a run could begin, or go on, in `folder`: its text, its model, what is there.
///
/// # Errors
/// As [`train`]'s, before anything is made.
pub fn check(config: &RunConfig, folder: &Path) -> Result<(), RunError> {
    let mut config = config.clone();
    let there = of_this_run(&mut config, folder)?;
    let text = Text::open(&config)?;
    let origin = Origin::open(&mut config, &text.corpora)?;
    if there.is_none() || finished(folder, config.steps)?.is_none() {
        check_memory(&config, origin.spec())?;
    }
    text.resolve(&mut config)
}

/// Whether a run's settings suit the checkpoint that it goes on from, whatever its text.
///
/// # Errors
/// Adapters that do not fit, [`RunError::AnnealTooLong`], [`RunError::BeyondContext`].
pub fn check_checkpoint(
    config: &RunConfig,
    from: &FinetuneConfig,
    spec: &ModelSpec,
) -> Result<(), RunError> {
    if let Some(lora) = &from.lora {
        lora.check(spec)?;
    }
    let (base, steps, length) = (&from.base, config.steps, config.data.length);
    if let Some(anneal) = spec.norm_scheme.anneal()
        && anneal.steps > steps
    {
        return Err(RunError::AnnealTooLong { base: base.clone(), anneal: anneal.steps, steps });
    }
    let context = spec.max_position_embeddings;
    if length > context {
        return Err(RunError::BeyondContext { base: base.clone(), context, length });
    }
    Ok(())
}

/// Mean loss per predicted token of some sequences, in nats; their number.
pub fn evaluate(model: &Decoder, sequences: &Sequences, workers: &Workers) -> (f64, u64) {
    let length = sequences.length;
    let rows: Vec<_> =
        sequences.inputs.chunks(length).zip(sequences.targets.chunks(length)).collect();
    // Adapters are added once, and not in every pass.
    let model = &model.merged();
    let sums = workers.each(rows.chunks(EVALUATED_AT_ONCE).collect(), |rows| {
        let Some(pass) = Pass::new(model, rows, length) else { return 0.0 };
        let stream = model.stream_at(pass.tokens, &pass.rotary);
        let nll = model.head().nll(rows_of(stream), &pass.targets);
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
        let whole = corpora.iter().position(Corpus::learns_responses_only);
        if let Some(index) = whole.filter(|_| config.data.layout == Layout::Packed) {
            return Err(RunError::CutInstructions { corpus: sources[index].corpus.clone() });
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

    /// Fills in which tokens it holds.
    fn resolve(&self, config: &mut RunConfig) -> Result<(), RunError> {
        for (source, corpus) in config.data.sources.iter_mut().zip(&self.corpora) {
            if !source.fingerprint.is_empty() && source.fingerprint != corpus.fingerprint() {
                return Err(RunError::OtherText { corpus: source.corpus.clone() });
            }
            corpus.fingerprint().clone_into(&mut source.fingerprint);
        }
        Ok(())
    }
}

/// Where the model of a run comes from.
enum Origin {
    Scratch(Box<ModelSpec>),
    Checkpoint(Box<Checkpoint>),
}

impl Origin {
    /// Opens it, and fills in what it and the text's tokenizer decide.
    fn open(config: &mut RunConfig, corpora: &[Corpus]) -> Result<Self, RunError> {
        let (vocabulary, length) = (corpora[0].vocab_size(), config.data.length);
        let Some(from) = &mut config.finetune else {
            let spec = config.model.spec(vocabulary, length)?;
            config.model.vocab_size = spec.vocab_size;
            config.model.num_key_value_heads = spec.num_key_value_heads;
            return Ok(Self::Scratch(Box::new(spec)));
        };
        let FinetuneConfig { base, fingerprint, .. } = from;
        let checkpoint = Checkpoint::open(base).map_err(LoadError::from)?;
        let found = checkpoint.fingerprint().map_err(LoadError::from)?;
        if !fingerprint.is_empty() && *fingerprint != found {
            return Err(RunError::OtherBase { base: base.clone() });
        }
        *fingerprint = found;
        let tokenizer = model_tokenizer(&checkpoint)?;
        let same = tokenizer.as_ref().map(|tokenizer| tokenizer.fingerprint());
        if same.is_some_and(|same| same != corpora[0].tokenizer().fingerprint()) {
            let corpus = config.data.sources[0].corpus.clone();
            return Err(RunError::OtherTokenizer { corpus, base: base.clone() });
        }
        let spec = checkpoint.spec();
        if vocabulary > spec.vocab_size {
            let (corpus, base) = (config.data.sources[0].corpus.clone(), base.clone());
            let (tokens, rows) = (vocabulary, spec.vocab_size);
            return Err(RunError::TokenizerTooLarge { corpus, base, tokens, rows });
        }
        if let Some(from) = &config.finetune {
            check_checkpoint(config, from, spec)?;
        }
        Ok(Self::Checkpoint(Box::new(checkpoint)))
    }

    fn spec(&self) -> &ModelSpec {
        match self {
            Self::Scratch(spec) => spec,
            Self::Checkpoint(checkpoint) => checkpoint.spec(),
        }
    }

    /// The model before its first step, without adapters.
    fn model(&self, config: &RunConfig) -> Result<Decoder, RunError> {
        let device = Device::flex();
        let model = match self {
            Self::Scratch(spec) => {
                let ModelConfig { initialisation, embedding_std, .. } = config.model;
                Decoder::initialised(spec, initialisation, embedding_std, config.seed, &device)
            }
            Self::Checkpoint(checkpoint) => Decoder::from_checkpoint(checkpoint, &device)?,
        };
        Ok(model.with_precision(config.precision))
    }

    /// The tokenizer's files, of the checkpoint as they are.
    fn write_tokenizer(&self, text: &Text, folder: &Path) -> Result<(), TokenizerError> {
        match self {
            Self::Scratch(_) => text.corpora[0].tokenizer().save(folder),
            Self::Checkpoint(checkpoint) => write_tokenizer(checkpoint, folder).map(drop),
        }
    }
}

struct Run<'a> {
    config: RunConfig,
    folder: PathBuf,
    text: Text,
    origin: Origin,
    trainer: Trainer,
    snapshots: Snapshots,
    state: State,
    /// Step of the latest snapshot.
    saved: Option<u64>,
    log: File,
    observe: &'a mut dyn FnMut(&Event),
    /// Step of the latest evaluation, and its loss.
    evaluated: Option<(u64, Option<f64>)>,
}

/// A run's folder, opened.
enum Opened<'a> {
    Finished(Summary),
    Begun(Box<Run<'a>>),
}

impl<'a> Run<'a> {
    fn open(
        config: &RunConfig,
        folder: &Path,
        observe: &'a mut dyn FnMut(&Event),
    ) -> Result<Opened<'a>, RunError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| RunError::Io { path, source }
        };
        let mut config = config.clone();
        let there = of_this_run(&mut config, folder)?;
        let extended = there.as_ref().filter(|there| config.steps > there.steps).cloned();
        if there.is_some()
            && let Some(summary) = finished(folder, config.steps)?
        {
            return Ok(Opened::Finished(summary));
        }
        let text = Text::open(&config)?;
        let origin = Origin::open(&mut config, &text.corpora)?;
        check_memory(&config, origin.spec())?;
        text.resolve(&mut config)?;
        std::fs::create_dir_all(folder).map_err(io(folder))?;
        let log_path = folder.join(Event::FILE_NAME);
        let mut log = open_log(&log_path).map_err(io(&log_path))?;
        match log.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(RunError::InUse { folder: folder.to_owned() });
            }
            // Some network file systems have no locks.
            Err(TryLockError::Error(_)) => {}
        }
        let config_path = folder.join(RunConfig::FILE_NAME);
        if there.is_none() || extended.is_some() {
            replace_file(&config_path, config.to_toml().as_bytes()).map_err(io(&config_path))?;
        }
        lns_record::remove_unfinished(folder);
        cut_torn_line(&mut log).map_err(io(&log_path))?;
        let any_events = log.seek(SeekFrom::End(0)).map_err(io(&log_path))? > 0;

        let threads = config.threads;
        let workers = Workers::new(threads)
            .map_err(|error| RunError::Threads { threads, reason: error.to_string() })?;
        let snapshots = Snapshots::of(folder);
        let lora = config.finetune.as_ref().and_then(|from| from.lora.as_ref());
        // Snapshots of adapters hold nothing else.
        let base = lora.map(|_| origin.model(&config)).transpose()?;
        let restored = match there {
            Some(_) => snapshots.latest(&config, base.as_ref())?,
            None => None,
        };
        let options = config.training_options();
        // What was evaluated before a kill need not be again.
        let evaluated = match &restored {
            Some(restored) if any_events => last_evaluation(folder, restored.state.step)?,
            _ => None,
        };
        let (trainer, state, saved, damaged) = match restored {
            Some(Restored { state, model, moments, damaged }) => {
                text.sampler.check(&state.position)?;
                let mut trainer = Trainer::new(model, options, workers);
                snapshots.restore(&mut trainer, &moments, &state)?;
                // Adapters come without a config that says how far the scale is.
                trainer.move_scheme(state.step);
                let step = state.step;
                // The number of threads may be another.
                let state = State { config: config.clone(), ..state };
                (trainer, state, Some(step), damaged)
            }
            None => {
                let model = match (base, lora) {
                    (Some(base), Some(lora)) => base.with_lora(lora, config.seed)?,
                    _ => origin.model(&config)?,
                };
                let state = State::first(&config, text.sampler.start());
                (Trainer::new(model, options, workers), state, None, Vec::new())
            }
        };
        let mut run = Self {
            config,
            folder: folder.to_owned(),
            text,
            origin,
            trainer,
            snapshots,
            state,
            saved,
            log,
            observe,
            evaluated,
        };
        run.begin(any_events, extended.as_ref(), damaged)?;
        if let Some(there) = there.filter(|there| any_events && there.threads != threads) {
            run.note(format!(
                "{threads} threads instead of {}: sums are taken in another order, so the last bits \
                 will differ from those of a run that never stopped",
                there.threads
            ))?;
        }
        Ok(Opened::Begun(Box::new(run)))
    }

    /// Says what begins or goes on.
    fn begin(
        &mut self,
        any_events: bool,
        extended: Option<&RunConfig>,
        damaged: Vec<String>,
    ) -> Result<(), RunError> {
        let time = now();
        if any_events {
            let steps = extended.map(|_| self.config.steps);
            self.emit(Event::Resume { step: self.state.step, time, steps })?;
            if let Some(before) = extended {
                self.note(extension(before, &self.config))?;
            }
        } else {
            let (config, spec) = (&self.config, self.origin.spec());
            let name = serde_json::to_value(config.model.initialisation).unwrap_or_default();
            let from = config.finetune.as_ref();
            let start = StartEvent {
                time,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                scheme: spec.norm_scheme.to_string(),
                initialisation: match from {
                    None => name.as_str().unwrap_or_default().to_owned(),
                    Some(_) => "checkpoint".to_owned(),
                },
                seed: config.seed,
                threads: config.threads as u64,
                layers: spec.num_hidden_layers as u64,
                parameters: spec.parameter_count().total(),
                steps: config.steps,
                tokens_per_step: config.tokens_per_step(),
                base: from.map(|from| from.base.display().to_string()),
                trainable: from.map(|_| self.trainer.trainable()),
            };
            self.emit(Event::Start(start))?;
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
        if self.state.step == 0 {
            self.evaluate()?;
        }
        while self.state.step < self.config.steps {
            if stop.load(Ordering::Relaxed) {
                let saved = self.snapshot()?;
                let summary = self.end(Outcome::Interrupted, None)?;
                return saved.map(|()| summary).map_err(RunError::Snapshot);
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
            // The best snapshot is known by its loss.
            if evaluation || (snapshot && self.config.snapshots.keep_best) {
                self.evaluate()?;
            }
            if snapshot {
                self.snapshot_or_note()?;
            }
        }
        let loss = match self.evaluated {
            Some((step, loss)) if step == self.state.step => loss,
            _ => self.evaluate()?,
        };
        if loss.is_none() {
            self.note("the held-out loss of the last step is not a finite number".to_owned())?;
            return self.end(Outcome::Diverged, None);
        }
        if self.config.snapshots.every > 0 {
            self.snapshot_or_note()?;
        }
        self.write_model()?;
        self.end(Outcome::Finished, loss)
    }

    fn end(&mut self, outcome: Outcome, loss: Option<f64>) -> Result<Summary, RunError> {
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
        self.trainer.move_scheme(number);
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
        self.state.updates = self.trainer.steps();
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
        self.evaluated = Some((step, loss));
        let tokens = self.state.tokens;
        self.emit(Event::Eval(EvalEvent { step, time: now(), tokens, loss, predicted }))?;
        Ok(loss)
    }

    /// Writes a snapshot; when that fails, says so and goes on.
    fn snapshot_or_note(&mut self) -> Result<(), RunError> {
        match self.snapshot()? {
            Ok(()) => Ok(()),
            Err(problem) => self.note(format!(
                "{problem}. The run goes on; its earlier snapshots are untouched. Make room, or the \
                 steps since then are repeated if it stops"
            )),
        }
    }

    /// Writes a snapshot unless this step has one.
    fn snapshot(&mut self) -> Result<Result<(), SnapshotError>, RunError> {
        let step = self.state.step;
        if self.saved == Some(step) {
            return Ok(Ok(()));
        }
        let before = self.state.best;
        if let Some((at, Some(loss))) = self.evaluated
            && at == step
            && before.is_none_or(|(best, _)| loss < best)
        {
            self.state.best = Some((loss, step));
        }
        // What the snapshot says happened must outlive it; a system that cannot sync says so below.
        let _ = self.log.sync_all();
        let tokenizer = |folder: &Path| self.origin.write_tokenizer(&self.text, folder);
        match self.snapshots.write(&self.state, &self.trainer, &tokenizer) {
            Ok(folder) => {
                self.saved = Some(step);
                let best = self.state.best.is_some_and(|(_, best)| best == step);
                self.emit(Event::Snapshot { step, time: now(), folder, best })?;
                Ok(Ok(()))
            }
            Err(problem) => {
                self.state.best = before;
                Ok(Err(problem))
            }
        }
    }

    /// The finished model as a Hugging Face folder.
    fn write_model(&mut self) -> Result<(), RunError> {
        let path = self.folder.join(RunConfig::MODEL);
        let failed = |reason: String| RunError::Model { path: path.clone(), reason };
        // One that is there is of this very run: of fewer steps, or written just before it was killed.
        let new = NewFolder::replace(&path).map_err(|error| failed(error.to_string()))?;
        self.trainer.model().write(new.path()).map_err(|error| failed(error.to_string()))?;
        let written = self.origin.write_tokenizer(&self.text, new.path());
        written.map_err(|error| failed(error.to_string()))?;
        if let Some(record) = self.provenance().map_err(|error| failed(error.to_string()))? {
            let path = new.path().join(ProvenanceRecord::FILE_NAME);
            let json = pretty_json(&record).map_err(|error| failed(error.to_string()))?;
            std::fs::write(path, json).map_err(|error| failed(error.to_string()))?;
        }
        new.commit().map_err(|error| failed(error.to_string()))
    }
}

impl Run<'_> {
    /// Where a fine-tuned model comes from.
    fn provenance(&self) -> Result<Option<ProvenanceRecord>, CheckpointError> {
        let Origin::Checkpoint(base) = &self.origin else { return Ok(None) };
        let options = serde_json::to_value(&self.config).unwrap_or_default();
        base.provenance("finetune", self.trainer.model().spec(), options).map(Some)
    }
}

impl State {
    fn first(config: &RunConfig, position: Position) -> Self {
        let config = config.clone();
        Self {
            config,
            step: 0,
            updates: 0,
            tokens: 0,
            position,
            best: None,
            guard: Guard::default(),
        }
    }
}

/// The settings of the run that is in `folder`, which must be those asked for, or `None` when the
/// folder is free. What only a begun run knows is filled in.
fn of_this_run(asked: &mut RunConfig, folder: &Path) -> Result<Option<RunConfig>, RunError> {
    asked.check_paths()?;
    if !folder.join(RunConfig::FILE_NAME).exists() {
        let ours = [RunConfig::MODEL, "snapshots", Event::FILE_NAME];
        // An empty log is left by a run that was killed as it began: it is opened, to be locked, before
        // the settings are written.
        let holds = |name: &&str| {
            folder.join(name).metadata().is_ok_and(|found| found.is_dir() || found.len() > 0)
        };
        return match ours.into_iter().find(holds) {
            Some(found) => Err(RunError::NotARun { folder: folder.to_owned(), found }),
            None => Ok(None),
        };
    }
    let there = RunConfig::read(folder)?;
    if asked.model.vocab_size == 0 {
        asked.model.vocab_size = there.model.vocab_size;
    }
    if let (Some(asked), Some(there)) = (&mut asked.finetune, &there.finetune)
        && asked.fingerprint.is_empty()
    {
        there.fingerprint.clone_into(&mut asked.fingerprint);
    }
    for (asked, there) in asked.data.sources.iter_mut().zip(&there.data.sources) {
        if asked.fingerprint.is_empty() {
            there.fingerprint.clone_into(&mut asked.fingerprint);
        }
    }
    let differences = asked.differences(&there);
    if differences.is_empty() || asked.extends(&there) {
        return Ok(Some(there));
    }
    let line = |(key, asked, there): &(String, String, String)| {
        format!("  {key} = {there} there, {asked} asked for")
    };
    let differences = differences.iter().map(line).collect::<Vec<_>>().join("\n");
    Err(RunError::AnotherRun { folder: folder.to_owned(), differences })
}

/// What a person should know of a run that is taken on to more steps.
fn extension(before: &RunConfig, config: &RunConfig) -> String {
    let (steps, schedule) = (config.steps, config.schedule_steps());
    let of = format!("the run is taken on from {} to {steps} steps", before.steps);
    if config.schedule.shape == Shape::Constant || schedule >= steps {
        return format!("{of}: to the same result as if it had been planned for them");
    }
    format!(
        "{of}: its learning rate keeps to the schedule of {schedule} steps and stays at that of the \
         last one, {:.3e}, which is not the result of a run that was planned for {steps}",
        config.schedule.at(steps, steps)
    )
}

/// The loss of the evaluation after a step, as the log has it.
fn last_evaluation(folder: &Path, step: u64) -> Result<Option<(u64, Option<f64>)>, EventsError> {
    let events = read_events(folder)?;
    let last = events.iter().rev().find_map(|event| match event {
        Event::Eval(event) => Some((event.step, event.loss)),
        _ => None,
    });
    Ok(last.filter(|(at, _)| *at == step))
}

/// How a run that needs no more than `steps` steps ended.
fn finished(folder: &Path, steps: u64) -> Result<Option<Summary>, RunError> {
    if !folder.join(Event::FILE_NAME).exists() {
        return Ok(None);
    }
    let events = read_events(folder)?;
    let Some(Event::End { step, outcome, .. }) = events.last() else { return Ok(None) };
    let model = folder.join(RunConfig::MODEL).is_dir();
    let done = match outcome {
        Outcome::Finished => model && *step >= steps,
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

fn open_log(path: &Path) -> std::io::Result<File> {
    // Opened for reading and writing, a pipe does not wait for its other end.
    regular(OpenOptions::new().read(true).append(true).create(true).open(path)?)
}

/// Half a line that a killed run left behind is cut off.
fn cut_torn_line(log: &mut File) -> std::io::Result<()> {
    let mut text = Vec::new();
    log.read_to_end(&mut text)?;
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    if whole < text.len() { log.set_len(whole as u64) } else { Ok(()) }
}

/// Seconds since the Unix epoch.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}
