//! A run from its settings and its folder to its next step.

use std::{
    fs::TryLockError,
    io::{Seek, SeekFrom},
    path::Path,
};

use lns_checkpoint::Checkpoint;
use lns_corpus::Position;
use lns_kernels::Compute;
use lns_record::{Event, StartEvent, replace_file};

use super::{
    Run, Summary,
    folder::{cut_torn_line, finished, last_evaluation, of_this_run, open_log},
    origin::Origin,
    record::now,
    teacher,
    text::Text,
};
use crate::{
    RunConfig, RunError, ScheduleShape, Trainer,
    estimate::check_memory,
    guard::Guard,
    snapshot::{Restored, Snapshots, State},
};

/// A run's folder, opened.
pub(super) enum Opened<'a> {
    Finished(Summary),
    Begun(Box<Run<'a>>),
}

impl<'a> Run<'a> {
    pub(super) fn open(
        config: &RunConfig,
        folder: &Path,
        compute: &Compute,
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
        let teacher = teacher::open(&mut config, &text.corpora)?;
        check_memory(&config, origin.spec(), teacher.as_ref().map(Checkpoint::spec))?;
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
        let compute = compute
            .clone()
            .with_precision(config.precision)
            .with_threads(threads)
            .map_err(|error| RunError::Threads { threads, reason: error.to_string() })?;
        let device = compute.device.clone();
        let snapshots = Snapshots::of(folder);
        let lora = config.finetune.as_ref().and_then(|from| from.lora.as_ref());
        // Snapshots of adapters hold nothing else.
        let base = lora.map(|_| origin.model(&config, &compute)).transpose()?;
        let restored = match there {
            Some(_) => snapshots.latest(&config, &compute, base.as_ref())?,
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
                let mut trainer = Trainer::new(model, options, compute);
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
                    _ => origin.model(&config, &compute)?,
                };
                let state = State::first(&config, text.sampler.start());
                (Trainer::new(model, options, compute), state, None, Vec::new())
            }
        };
        let trainer = match &teacher {
            Some(teacher) => trainer.with_teacher(teacher::load(teacher, &config, &device)?),
            None => trainer,
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
                teacher: from
                    .and_then(|from| from.teacher.as_ref())
                    .map(|teacher| teacher.model.display().to_string()),
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
}

impl State {
    pub(super) fn first(config: &RunConfig, position: Position) -> Self {
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

/// What a person should know of a run that is taken on to more steps.
fn extension(before: &RunConfig, config: &RunConfig) -> String {
    let (steps, schedule) = (config.steps, config.schedule_steps());
    let of = format!("the run is taken on from {} to {steps} steps", before.steps);
    if config.schedule.shape == ScheduleShape::Constant || schedule >= steps {
        return format!("{of}: to the same result as if it had been planned for them");
    }
    format!(
        "{of}: its learning rate keeps to the schedule of {schedule} steps and stays at that of the \
         last one, {:.3e}, which is not the result of a run that was planned for {steps}",
        config.schedule.at(steps, steps)
    )
}
