//! Running a study that fine-tunes.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use lns_checkpoint::Checkpoint;
use lns_kernels::Compute;
use lns_record::{
    Event, FinetuningRecord, InstructionDataRecord, Outcome, StudyRecord, replace_file,
};
use lns_score::Reading;
use lns_tasks::Asked;
use lns_tokenizer::{Tokenizer, begins_with_bos, model_tokenizer};
use lns_train::{RunConfig, check, train};

use super::answers::{Moment, Questions, ask_all};
use super::{FinetuningConfig, FinishedModel, examples, finetuning_record};
use crate::{StudyConfig, StudyError, StudyOutcome, study::write_json};

/// What a study that fine-tunes is doing.
#[derive(Debug)]
#[non_exhaustive]
pub enum FinetuningProgress<'a> {
    /// The instruction data are there.
    Data(&'a InstructionDataRecord),
    /// The data are put into a tokenizer's words.
    Tokenizing,
    /// Model `index` of `count` is next.
    Model {
        /// Number of this model, from 0.
        index: usize,
        /// Number of all models.
        count: usize,
        /// The model.
        model: &'a FinishedModel,
    },
    /// The current model is asked a task.
    Asking {
        /// `before` or `after` it is tuned.
        moment: &'static str,
        /// The questions.
        asked: &'a Asked,
    },
    /// The current model is tuned.
    Run {
        /// The folder of the run.
        folder: &'a Path,
        /// Its settings.
        config: &'a RunConfig,
    },
    /// Something happened in the current run.
    Event(&'a Event),
    /// `study.json` was written: everything found so far.
    Found(&'a FinetuningRecord),
}

/// A model that was looked at before anything is made.
struct Looked {
    model: FinishedModel,
    tokenizer: Tokenizer,
    bos: bool,
    context: usize,
}

impl Looked {
    fn at(model: FinishedModel) -> Result<Self, StudyError> {
        let failed = |reason: String| StudyError::Model { path: model.path.clone(), reason };
        let checkpoint =
            Checkpoint::open(&model.path).map_err(|error| failed(error.to_string()))?;
        let tokenizer = model_tokenizer(&checkpoint).map_err(|error| failed(error.to_string()))?;
        let tokenizer = tokenizer.ok_or_else(|| {
            failed("it has no tokenizer; put its tokenizer.json beside the weights".to_owned())
        })?;
        let bos = begins_with_bos(&checkpoint).map_err(|error| failed(error.to_string()))?;
        let context = checkpoint.spec().max_position_embeddings;
        Ok(Self { model, tokenizer, bos, context })
    }
}

/// The questions that every model has room for, so that all are asked the same.
fn questions(asked: Vec<Asked>, looked: &[Looked]) -> Result<Vec<Questions>, StudyError> {
    // Models that read alike are asked alike.
    let mut readings: Vec<(String, &Looked)> = Vec::new();
    for looked in looked {
        let fingerprint = looked.tokenizer.fingerprint();
        let alike = |(known, other): &(String, &Looked)| {
            *known == fingerprint && other.bos == looked.bos && other.context == looked.context
        };
        if !readings.iter().any(alike) {
            readings.push((fingerprint, looked));
        }
    }
    let fitting = |mut asked: Asked| {
        let before = asked.documents.len();
        for (_, Looked { model, tokenizer, bos, context }) in &readings {
            let reading = Reading { tokenizer, bos: *bos, window: *context };
            let can = reading.can_ask(&asked.documents).map_err(|error| StudyError::Model {
                path: model.path.clone(),
                reason: error.to_string(),
            })?;
            let mut can = can.into_iter();
            asked.documents.retain(|_| can.next().unwrap_or(false));
            if asked.documents.is_empty() {
                let reason = format!("its context has no room for any question of {}", asked.task);
                return Err(StudyError::Model { path: model.path.clone(), reason });
            }
        }
        let too_long = (before - asked.documents.len()) as u64;
        Ok(Questions { asked, too_long })
    };
    asked.into_iter().map(fitting).collect()
}

/// A model and how it is tuned.
struct Planned {
    model: FinishedModel,
    config: RunConfig,
    folder: PathBuf,
}

/// Makes what is still to be made of a study in `folder`, which is new, empty or holds this very study.
/// `threads` is how many worker threads every run has.
///
/// # Errors
/// [`StudyError`], before anything is trained where that is possible.
pub fn finetune(
    config: &FinetuningConfig,
    folder: &Path,
    threads: usize,
    compute: &Compute,
    stop: &AtomicBool,
    observe: &mut dyn FnMut(FinetuningProgress<'_>),
) -> Result<StudyOutcome, StudyError> {
    let models = config.finished_models()?;
    let looked = models.into_iter().map(Looked::at).collect::<Result<Vec<_>, _>>()?;
    let context = looked.iter().map(|looked| looked.context).min().unwrap_or(0);
    // Wrong settings are said before data are read, and those before anything is written.
    config.run(1, context)?;
    let asked = questions(config.asked()?, &looked)?;
    let data = examples::make(config, folder)?;
    observe(FinetuningProgress::Data(&data));
    let mut common = config.run(data.train, context)?;
    common.threads = threads;
    let Some(planned) = plan(config, folder, looked, &common, stop, observe)? else {
        return Ok(StudyOutcome::Interrupted);
    };
    for planned in &planned {
        check(&planned.config, &planned.folder).map_err(|source| in_run(planned, source))?;
    }
    settle(config, folder)?;
    let compute = compute.clone().with_threads(threads).map_err(|error| StudyError::Malformed {
        place: "threads".to_owned(),
        reason: format!("{threads} threads cannot be started: {error}"),
    })?;
    for (index, one) in planned.iter().enumerate() {
        observe(FinetuningProgress::Model { index, count: planned.len(), model: &one.model });
        if !made(config, folder, one, &asked, &compute, stop, observe)? {
            return Ok(StudyOutcome::Interrupted);
        }
        publish(config, folder, observe)?;
    }
    Ok(StudyOutcome::Finished)
}

/// How each model is tuned, its data in its tokenizer's words; `None` when it was asked to stop.
fn plan(
    config: &FinetuningConfig,
    folder: &Path,
    looked: Vec<Looked>,
    common: &RunConfig,
    stop: &AtomicBool,
    observe: &mut dyn FnMut(FinetuningProgress<'_>),
) -> Result<Option<Vec<Planned>>, StudyError> {
    let mut texts: HashMap<String, PathBuf> = HashMap::new();
    let mut planned = Vec::new();
    let folder = std::path::absolute(folder)
        .map_err(|source| StudyError::Io { path: folder.to_owned(), source })?;
    for Looked { model, tokenizer, .. } in looked {
        let fingerprint = tokenizer.fingerprint();
        let text = match texts.get(&fingerprint) {
            Some(text) => text.clone(),
            None => {
                observe(FinetuningProgress::Tokenizing);
                let tell = |_| match stop.load(Ordering::Relaxed) {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                };
                let length = common.data.length;
                let text = match examples::in_tokens(&folder, &tokenizer, length, &tell) {
                    Err(StudyError::Corpus(lns_corpus::CorpusError::Stopped)) => return Ok(None),
                    made => made?,
                };
                texts.insert(fingerprint, text.clone());
                text
            }
        };
        let config = config.run_of(common, &model, text)?;
        planned.push(Planned { folder: folder.join(model.folder()), model, config });
    }
    Ok(Some(planned))
}

/// Asks, tunes and asks again; whether it came to the end before it was asked to stop.
fn made(
    config: &FinetuningConfig,
    folder: &Path,
    planned: &Planned,
    asked: &[Questions],
    compute: &Compute,
    stop: &AtomicBool,
    observe: &mut dyn FnMut(FinetuningProgress<'_>),
) -> Result<bool, StudyError> {
    let Planned { model, config: run, folder: place } = planned;
    let tasks = (&config.tasks.names[..], asked);
    if !ask_all(folder, (model, Moment::Before), &model.path, tasks, compute, stop, observe)? {
        return Ok(false);
    }
    observe(FinetuningProgress::Run { folder: place, config: run });
    let mut tell = |event: &Event| observe(FinetuningProgress::Event(event));
    let summary = train(run, place, compute, stop, &mut tell);
    match summary.map_err(|source| in_run(planned, source))?.outcome {
        Outcome::Interrupted => Ok(false),
        Outcome::Diverged => Ok(true),
        Outcome::Finished => {
            let tuned = place.join(RunConfig::MODEL);
            ask_all(folder, (model, Moment::After), &tuned, tasks, compute, stop, observe)
        }
    }
}

fn in_run(planned: &Planned, source: lns_train::RunError) -> StudyError {
    StudyError::Run { run: planned.model.folder(), source: Box::new(source) }
}

/// Writes the study's settings into its folder.
fn settle(config: &FinetuningConfig, folder: &Path) -> Result<(), StudyError> {
    let path = folder.join(StudyConfig::FILE_NAME);
    replace_file(&path, config.to_toml().as_bytes())
        .map_err(|source| StudyError::Io { path, source })
}

fn publish(
    config: &FinetuningConfig,
    folder: &Path,
    observe: &mut dyn FnMut(FinetuningProgress<'_>),
) -> Result<(), StudyError> {
    let record = finetuning_record(config, folder)?;
    write_json(&folder.join(StudyRecord::FILE_NAME), &record)?;
    observe(FinetuningProgress::Found(&record));
    Ok(())
}
