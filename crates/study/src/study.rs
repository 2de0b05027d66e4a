//! Running a study.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use lns_checkpoint::Checkpoint;
use lns_corpus::{Corpus, Windows};
use lns_diagnose::{Control, Labels, Moment, Probes, Subject, diagnose, theory};
use lns_kernels::Compute;
use lns_model::Decoder;
use lns_record::{
    DiagnoseRecord, Event, Outcome, SMALL_FILE, StudyRecord, TheoryRecord, pretty_json,
    read_regular_text, replace_file,
};
use lns_spec::{Initialisation, NormScheme};
use lns_train::{RunConfig, RunError, check, train};

use crate::{
    StudyConfig, StudyError,
    config::Planned,
    record::{THEORY, record},
    tuned::Tuned,
};

/// Tokens of a sequence that the theory is measured on: its vector products need the whole model's
/// activations many times.
const THEORY_TOKENS: usize = 64;

/// What a study is doing.
#[derive(Debug)]
#[non_exhaustive]
pub enum StudyProgress<'a> {
    /// Run `index` of `count` begins, goes on or is found finished.
    Run {
        /// Number of this run, from 0.
        index: usize,
        /// Number of all runs.
        count: usize,
        /// Name of its group.
        group: &'a str,
        /// Its seed.
        seed: u64,
        /// Its folder.
        folder: &'a Path,
        /// Its settings.
        config: &'a RunConfig,
    },
    /// Something happened in the current run.
    Event(&'a Event),
    /// The current run's model is being diagnosed.
    Diagnosing,
    /// The lemmas are being measured.
    Theory,
    /// `study.json` was written: everything found so far.
    Found(&'a StudyRecord),
}

/// How a study stands when [`run`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StudyOutcome {
    /// Every run was made.
    Finished,
    /// It was asked to stop and can be continued.
    Interrupted,
}

/// Runs a study in `folder`, which is new, empty or holds this very study: then it goes on.
///
/// # Errors
/// [`StudyError`], naming the run.
pub fn run(
    config: &StudyConfig,
    folder: &Path,
    compute: &Compute,
    stop: &AtomicBool,
    observe: &mut dyn FnMut(StudyProgress<'_>),
) -> Result<StudyOutcome, StudyError> {
    let known = config.plan()?;
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| StudyError::Io { path, source }
    };
    let runs = folder.join("runs");
    refuse_others(config, &known, folder)?;
    std::fs::create_dir_all(&runs).map_err(io(&runs))?;
    settle(config, folder)?;
    let Some(tuned) = tune(config, folder, compute, stop, observe)? else {
        return Ok(StudyOutcome::Interrupted);
    };
    let plan = config.compared(&|group| tuned.of(group))?;
    for (index, planned) in plan.iter().enumerate() {
        let path = folder.join(&planned.folder);
        match made(planned, (index, plan.len()), &path, compute, stop, observe)? {
            Outcome::Interrupted => return Ok(StudyOutcome::Interrupted),
            Outcome::Diverged => {}
            Outcome::Finished => {
                for (place, models) in diagnosed(planned) {
                    let file = folder.join(place).join(DiagnoseRecord::FILE_NAME);
                    if file.exists() {
                        continue;
                    }
                    observe(StudyProgress::Diagnosing);
                    let found = diagnosis(config, planned, &folder.join(models), compute, stop)?;
                    // A diagnosis that was stopped saw a part of the text only and would not
                    // compare with the other models'.
                    let Some(record) = found.filter(|_| !stop.load(Ordering::Relaxed)) else {
                        return Ok(StudyOutcome::Interrupted);
                    };
                    write_json(&file, &record)?;
                }
            }
        }
        if index + 1 < plan.len() {
            publish(config, folder, observe)?;
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(StudyOutcome::Interrupted);
        }
    }
    let theory_path = folder.join(THEORY);
    if config.theory && !theory_path.exists() {
        observe(StudyProgress::Theory);
        write_json(&theory_path, &measured_theory(&plan, folder, compute)?)?;
    }
    publish(config, folder, observe)?;
    Ok(StudyOutcome::Finished)
}

/// The models of a finished run that are diagnosed, as (where the diagnosis stands, the model's folder), both
/// relative to the study's: those kept along the way, then the finished one.
fn diagnosed(planned: &Planned) -> Vec<(PathBuf, PathBuf)> {
    let run = Path::new(&planned.folder);
    let steps = planned.config.checkpoint_steps().filter(|step| *step < planned.config.steps);
    let kept = steps.map(|step| run.join(RunConfig::checkpoint(step)));
    let finished = (run.to_owned(), run.join(RunConfig::MODEL));
    kept.map(|folder| (folder.clone(), folder)).chain([finished]).collect()
}

/// Makes or goes on with a run, the first of `(index, count)`.
fn made(
    planned: &Planned,
    (index, count): (usize, usize),
    path: &Path,
    compute: &Compute,
    stop: &AtomicBool,
    observe: &mut dyn FnMut(StudyProgress<'_>),
) -> Result<Outcome, StudyError> {
    observe(StudyProgress::Run {
        index,
        count,
        group: &planned.group,
        seed: planned.seed,
        folder: path,
        config: &planned.config,
    });
    let summary = train(&planned.config, path, compute, stop, &mut |event| {
        observe(StudyProgress::Event(event));
    });
    Ok(summary.map_err(|source| in_run(planned, source))?.outcome)
}

/// Tunes every group that is not tuned yet; `None` when it was asked to stop.
fn tune(
    config: &StudyConfig,
    folder: &Path,
    compute: &Compute,
    stop: &AtomicBool,
    observe: &mut dyn FnMut(StudyProgress<'_>),
) -> Result<Option<Tuned>, StudyError> {
    let tuned = Tuned::read(config, folder)?;
    let Some(tuning) = &config.tuning else { return Ok(Some(tuned)) };
    let count = tuning.values.len() * config.groups.len();
    let mut tuned = tuned;
    let mut index = 0;
    while let Some((group, value)) = tuned.open(config) {
        let planned = config.tuning_run(tuning, group, value)?;
        let path = folder.join(&planned.folder);
        let outcome = made(&planned, (index, count.max(index + 1)), &path, compute, stop, observe)?;
        if outcome == Outcome::Interrupted || stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        index += 1;
        tuned = Tuned::read(config, folder)?;
    }
    publish(config, folder, observe)?;
    Ok(Some(tuned))
}

/// Makes sure that every run can begin or go on. A study may grow by groups and seeds: its runs are
/// known by their own settings.
fn refuse_others(config: &StudyConfig, plan: &[Planned], folder: &Path) -> Result<(), StudyError> {
    for planned in plan {
        check(&planned.config, &folder.join(&planned.folder))
            .map_err(|source| in_run(planned, source))?;
        held_out(&planned.config, planned.config.data.length, config.diagnosis.tokens)?;
    }
    Ok(())
}

/// Writes the study's settings into its folder.
fn settle(config: &StudyConfig, folder: &Path) -> Result<(), StudyError> {
    let path = folder.join(StudyConfig::FILE_NAME);
    let mine = config.to_toml();
    if read_regular_text(&path, SMALL_FILE).is_ok_and(|there| there != mine) {
        // The study may have grown, so that another pair of models is to be measured.
        let _ = std::fs::remove_file(folder.join(THEORY));
    }
    replace_file(&path, mine.as_bytes()).map_err(|source| StudyError::Io { path, source })
}

fn in_run(planned: &Planned, source: RunError) -> StudyError {
    StudyError::Run { run: planned.folder.clone(), source: Box::new(source) }
}

pub(crate) fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), StudyError> {
    let failed = |source| StudyError::Io { path: path.to_owned(), source };
    let json = pretty_json(value).map_err(|error| failed(error.into()))?;
    replace_file(path, &json).map_err(failed)
}

fn publish(
    config: &StudyConfig,
    folder: &Path,
    observe: &mut dyn FnMut(StudyProgress<'_>),
) -> Result<(), StudyError> {
    let record = record(config, folder)?;
    write_json(&folder.join(StudyRecord::FILE_NAME), &record)?;
    observe(StudyProgress::Found(&record));
    Ok(())
}

/// `compute` with as many threads as the run was trained with.
fn with_threads(compute: &Compute, planned: &Planned) -> Result<Compute, StudyError> {
    let threads = planned.config.threads;
    compute.clone().with_threads(threads).map_err(|error| StudyError::Diagnosis {
        run: planned.folder.clone(),
        reason: format!("{threads} threads cannot be started: {error}"),
    })
}

/// The first held-out windows of a run's text, and where they are from.
fn held_out(
    config: &RunConfig,
    length: usize,
    tokens: u64,
) -> Result<(Windows, Corpus), StudyError> {
    let source = &config.data.sources[0];
    let corpus = Corpus::open(&source.corpus)?;
    let windows = Windows::held_out(&corpus, length, tokens)?;
    Ok((windows, corpus))
}

fn model(path: &Path, planned: &Planned, compute: &Compute) -> Result<Decoder, StudyError> {
    let failed = |reason: String| StudyError::Diagnosis { run: planned.folder.clone(), reason };
    let checkpoint = Checkpoint::open(path).map_err(|error| failed(error.to_string()))?;
    Decoder::from_checkpoint(&checkpoint, &compute.device)
        .map_err(|error| failed(error.to_string()))
}

fn diagnosis(
    config: &StudyConfig,
    planned: &Planned,
    path: &Path,
    compute: &Compute,
    stop: &AtomicBool,
) -> Result<Option<DiagnoseRecord>, StudyError> {
    let failed = |reason: String| StudyError::Diagnosis { run: planned.folder.clone(), reason };
    let model = model(path, planned, compute)?;
    let (text, corpus) =
        held_out(&planned.config, planned.config.data.length, config.diagnosis.tokens)?;
    let control = Control { progress: &|_| {}, stop };
    let spell = |id| corpus.tokenizer().decode(&[id]).unwrap_or_default();
    let labels = Labels {
        name: format!("{}, seed {}", planned.group, planned.seed),
        files: vec![format!("held-out part of {}", corpus.description())],
        spell: &spell,
    };
    let workers = with_threads(compute, planned)?.workers;
    diagnose(&model, &text, &Probes::default(), &workers, control, labels)
        .map_err(|error| failed(error.to_string()))
}

/// The lemmas on the first seed's Pre-LN and LNS models, before and after training.
fn measured_theory(
    plan: &[Planned],
    folder: &Path,
    compute: &Compute,
) -> Result<TheoryRecord, StudyError> {
    let plain = |planned: &&Planned| {
        let model = &planned.config.model;
        let stated = model.scheme == NormScheme::pre() || model.scheme == NormScheme::lns();
        stated && model.initialisation == Initialisation::Normal
    };
    let mut chosen: Vec<&Planned> = plan.iter().filter(plain).collect();
    let mut seen = Vec::new();
    chosen.retain(|planned| {
        let new = !seen.contains(&planned.group);
        seen.push(planned.group.clone());
        new
    });
    let Some(first) = chosen.first() else {
        return Ok(TheoryRecord { checks: Vec::new(), curves: Vec::new() });
    };
    let length = first.config.data.length.min(THEORY_TOKENS);
    let (text, _) = held_out(&first.config, length, 8 * length as u64)?;
    let mut models = Vec::new();
    for planned in &chosen {
        let path = folder.join(&planned.folder).join(RunConfig::MODEL);
        if path.is_dir() {
            let trained = model(&path, planned, compute)?;
            let start = &planned.config.model;
            let initial = Decoder::initialised(
                trained.spec(),
                start.initialisation,
                start.embedding_std,
                planned.seed,
                &compute.device,
            );
            models.push((planned.group.as_str(), Moment::Initialisation, initial));
            models.push((planned.group.as_str(), Moment::Trained, trained));
        }
    }
    let subjects: Vec<Subject<'_>> = models
        .iter()
        .map(|(name, moment, source)| Subject { name, moment: *moment, source })
        .collect();
    let workers = with_threads(compute, first)?.workers;
    theory(&subjects, &text, &workers).map_err(|error| StudyError::Diagnosis {
        run: first.folder.clone(),
        reason: error.to_string(),
    })
}
