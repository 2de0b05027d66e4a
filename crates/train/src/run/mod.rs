//! A whole training run in a folder: begun, continued or found finished.
//!
//! The folder holds `config.toml` (resolved settings), `events.jsonl` (what happened, only ever
//! appended to), `snapshots/`, `checkpoints/` where models are kept along the way, and, at the end,
//! `model/`: Hugging Face folders. Every value that
//! decides the result is a function of the settings and the step, so a run that was killed at any
//! moment goes on to the same bits.

mod begin;
mod error;
mod folder;
mod origin;
mod record;
mod teacher;
mod text;

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use lns_checkpoint::Checkpoint;
use lns_kernels::Compute;
use lns_record::{Event, Outcome, StepEvent};

pub use error::RunError;
pub use origin::check_checkpoint;
pub use teacher::check_teacher;

use self::{
    begin::Opened,
    folder::{finished, of_this_run},
    origin::Origin,
    record::now,
    text::Text,
};
use crate::{
    Batch, RunConfig, Trainer,
    estimate::check_memory,
    guard::Ruling,
    snapshot::{Snapshots, State},
    statistics::{LayerStatistics, Streams, update_ratios},
    trainer::BatchGradient,
};

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
    /// Folder of the models that were kept along the way, in a run's folder.
    pub const CHECKPOINTS: &str = "checkpoints";

    /// The steps after which a model is kept: 0, as it was drawn, and the last one where it is due.
    pub fn checkpoint_steps(&self) -> impl Iterator<Item = u64> + use<> {
        let every = self.checkpoints.every;
        let count = self.steps.checked_div(every).map_or(0, |count| count + 1);
        (0..count).map(move |nth| nth * every)
    }

    /// Where the model after `step` is kept, in a run's folder.
    pub fn checkpoint(step: u64) -> PathBuf {
        Path::new(Self::CHECKPOINTS).join(format!("step-{step:08}"))
    }
}

/// Trains as `config` says in `folder`, which is new, empty, or holds this very run: then it goes on
/// from its last snapshot, or is found finished. So does the run that `config` takes on to more steps
/// ([`RunConfig::extended`]). The device and the exchange are those of `compute`; threads and precision are
/// the settings', which decide the result.
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
    compute: &Compute,
    stop: &AtomicBool,
    observe: &mut dyn FnMut(&Event),
) -> Result<Summary, RunError> {
    match Run::open(config, folder, compute, observe)? {
        Opened::Finished(summary) => Ok(summary),
        Opened::Begun(run) => run.finish(stop),
    }
}

/// Whether a run could begin, or go on, in `folder`: its text, its model, what is there.
///
/// # Errors
/// Those of [`train`] that are known before anything is made.
pub fn check(config: &RunConfig, folder: &Path) -> Result<(), RunError> {
    let mut config = config.clone();
    let there = of_this_run(&mut config, folder)?;
    let text = Text::open(&config)?;
    let origin = Origin::open(&mut config, &text.corpora)?;
    let teacher = teacher::open(&mut config, &text.corpora)?;
    if there.is_none() || finished(folder, config.steps)?.is_none() {
        check_memory(&config, origin.spec(), teacher.as_ref().map(Checkpoint::spec))?;
    }
    text.resolve(&mut config)
}

/// A run between two steps.
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

impl Run<'_> {
    fn finish(mut self, stop: &AtomicBool) -> Result<Summary, RunError> {
        if self.state.step == 0 {
            self.evaluate()?;
            self.keep_if_due()?;
        }
        while self.state.step < self.config.steps {
            if stop.load(Ordering::Relaxed) {
                let saved = self.snapshot()?;
                let summary = self.end(Outcome::Interrupted, None)?;
                return saved.map(|()| summary).map_err(RunError::Snapshot);
            }
            if let Some(reason) = self.step()? {
                return self.diverged(reason);
            }
            self.keep_if_due()?;
            self.evaluate_and_save_if_due()?;
        }
        let loss = match self.evaluated {
            Some((step, loss)) if step == self.state.step => loss,
            _ => self.evaluate()?,
        };
        let Some(loss) = loss else {
            return self
                .diverged("the held-out loss of the last step is not a finite number".to_owned());
        };
        if self.config.snapshots.every > 0 {
            self.snapshot_or_note()?;
        }
        self.write_model(Path::new(RunConfig::MODEL))?;
        self.end(Outcome::Finished, Some(loss))
    }

    fn diverged(&mut self, reason: String) -> Result<Summary, RunError> {
        self.note(reason)?;
        self.end(Outcome::Diverged, None)
    }

    /// Keeps the model of this step. It stands before the step's snapshot is taken, so that a run which
    /// goes on from there has it.
    fn keep_if_due(&mut self) -> Result<(), RunError> {
        let every = self.config.checkpoints.every;
        if every == 0 || !self.state.step.is_multiple_of(every) {
            return Ok(());
        }
        self.write_model(&RunConfig::checkpoint(self.state.step))
    }

    fn evaluate_and_save_if_due(&mut self) -> Result<(), RunError> {
        let (step, last) = (self.state.step, self.config.steps);
        let due = |every: u64| every > 0 && step.is_multiple_of(every) && step < last;
        let snapshot = due(self.config.snapshots.every);
        // The best snapshot is known by its loss.
        if due(self.config.evaluation.every) || (snapshot && self.config.snapshots.keep_best) {
            self.evaluate()?;
        }
        if snapshot { self.snapshot_or_note() } else { Ok(()) }
    }

    /// One step; a reason when the run cannot go on.
    fn step(&mut self) -> Result<Option<String>, RunError> {
        let start = Instant::now();
        let number = self.state.step + 1;
        let drawn = self.text.sampler.next(&mut self.state.position, self.config.batch.sequences);
        let batch = Batch::new(drawn.inputs, drawn.targets, drawn.length)?
            .with_documents(drawn.documents)?;
        let learning_rate = self.config.schedule.at(number, self.config.steps);
        self.trainer.move_scheme(number);
        let gradient = self.trainer.gradient(&batch)?;
        let kl = gradient.divergence;
        let (loss, norm, tokens) = (gradient.loss, gradient.norm, gradient.tokens as u64);
        let ruling = self.state.guard.judge(&self.config.guard, loss, norm);
        let every = self.config.statistics.every;
        let measured = every > 0 && (number.is_multiple_of(every) || number == 1);
        let mut layers = None;
        match &ruling {
            Ruling::Apply if measured => {
                layers = Some(self.apply_measured(&batch, gradient, learning_rate));
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
            kl: kl.and_then(finite),
            gradient_norm: finite(norm),
            learning_rate,
            tokens_per_second,
            skipped: ruling != Ruling::Apply,
        }))?;
        if let Ruling::Skip(reason) = ruling {
            self.note(format!("step {number}: {reason}"))?;
        }
        // JSON has no other numbers; the guard answers for those that are not finite.
        if let Some(layers) = layers.filter(LayerStatistics::is_finite) {
            self.emit(Event::Layers(layers.event(number, time)))?;
        }
        Ok(None)
    }

    /// Applies a gradient, and tells what every layer did before and by it.
    fn apply_measured(
        &mut self,
        batch: &Batch,
        gradient: BatchGradient,
        learning_rate: f64,
    ) -> LayerStatistics {
        let streams = Streams::measure(self.trainer.model(), batch, self.trainer.workers());
        let gradient_norm = self.trainer.layer_norms(&gradient);
        let before = self.trainer.model().tensors();
        self.trainer.apply(gradient, learning_rate);
        let after = self.trainer.model().tensors();
        let update_ratio = update_ratios(self.trainer.model().spec(), &before, &after);
        LayerStatistics { streams, gradient_norm, update_ratio }
    }
}
