//! What a model answers, kept in the study's folder so that nothing is asked twice.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use lns_checkpoint::Checkpoint;
use lns_kernels::Compute;
use lns_model::Decoder;
use lns_record::{SampleRecord, TaskRecord, pretty_json, read_regular, replace_file, sha256};
use lns_score::{Reading, score_documents};
use lns_tasks::{Asked, sample, summary};
use lns_tokenizer::{begins_with_bos, model_tokenizer};
use serde::{Deserialize, Serialize};

use super::{FinetuningProgress, FinishedModel};
use crate::{StudyError, config::slug};

/// The largest file of answers that is read: 100 bytes for each of a million choices.
const LARGEST: u64 = 1 << 30;

/// When a model is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    Before,
    After,
}

impl Moment {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }
}

/// A model's answers to one task.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Answers {
    /// SHA-256 of what was asked.
    questions: String,
    /// Documents that were not, because a model of the study has no room for a choice.
    #[serde(default)]
    pub(super) too_long: u64,
    /// What they come to.
    pub(super) record: TaskRecord,
    /// One for each document.
    samples: Vec<SampleRecord>,
}

impl Answers {
    fn place(study: &Path, model: &FinishedModel, moment: Moment, task: &str) -> PathBuf {
        let folder = format!("{}-seed{}", slug(&model.group), model.seed);
        study.join("answers").join(folder).join(moment.name()).join(slug(task) + ".json")
    }

    /// Those that are there; the task as the settings name it.
    ///
    /// # Errors
    /// A file that is damaged.
    pub(super) fn read(
        study: &Path,
        model: &FinishedModel,
        moment: Moment,
        task: &str,
    ) -> Result<Option<Self>, StudyError> {
        let path = Self::place(study, model, moment, task);
        if !path.exists() {
            return Ok(None);
        }
        let failed = |source| StudyError::Io { path: path.clone(), source };
        let json = read_regular(&path, LARGEST).map_err(failed)?;
        serde_json::from_slice(&json).map(Some).map_err(|error| StudyError::Malformed {
            place: path.display().to_string(),
            reason: format!("{error}; delete it to have it asked again"),
        })
    }

    /// 1 for each document that is right and 0 for the others; why there is no accuracy, if there is none.
    pub(super) fn right(&self) -> Result<Vec<f64>, String> {
        let record = &self.record;
        if record.not_finite > 0 {
            return Err("not finite".to_owned());
        }
        match record.acc {
            Some(_) => Ok(self.samples.iter().map(|s| f64::from(s.acc.unwrap_or(0))).collect()),
            None => Err("ties".to_owned()),
        }
    }

    /// Whether the same was asked as in `other`.
    pub(super) fn asks_as(&self, other: &Self) -> bool {
        self.questions == other.questions
    }

    /// Accuracy of one who always takes the same choice, the luckiest; none where the right one never
    /// moves.
    pub(super) fn always_same(&self) -> Option<f64> {
        self.record.always_first?;
        let mut right = Vec::new();
        for sample in &self.samples {
            let place = usize::try_from(sample.gold).ok()?;
            if right.len() <= place {
                right.resize(place + 1, 0u64);
            }
            right[place] += 1;
        }
        let most = right.into_iter().max()?;
        Some(most as f64 / self.samples.len() as f64)
    }
}

/// A task's questions that every model of a study has room for.
pub(super) struct Questions {
    pub(super) asked: Asked,
    /// How many were left out.
    pub(super) too_long: u64,
}

/// What tells questions from others.
fn fingerprint(asked: &Asked) -> String {
    let mut all = String::new();
    for document in &asked.documents {
        all += &format!("{}\n", document.question.gold);
        for choice in &document.question.choices {
            all += &format!("{:?} {:?}\n", choice.context, choice.continuation);
        }
    }
    sha256(all.as_bytes())
}

/// Asks the checkpoint at `path` what it was not asked yet; whether it came to the end before `stop` was
/// set. `names` are the tasks as the settings name them.
pub(super) fn ask_all(
    study: &Path,
    (model, moment): (&FinishedModel, Moment),
    path: &Path,
    (names, questions): (&[String], &[Questions]),
    compute: &Compute,
    stop: &AtomicBool,
    observe: &mut dyn FnMut(FinetuningProgress<'_>),
) -> Result<bool, StudyError> {
    let mut loaded = None;
    for (name, questions) in names.iter().zip(questions) {
        let fingerprint = fingerprint(&questions.asked);
        let there = Answers::read(study, model, moment, name)?;
        if there.is_some_and(|there| there.questions == fingerprint) {
            continue;
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let asker = match &loaded {
            Some(asker) => asker,
            None => loaded.insert(Asker::load(path, compute)?),
        };
        let asked = &questions.asked;
        observe(FinetuningProgress::Asking { moment: moment.name(), asked });
        let answers = asker.ask(questions, fingerprint, compute)?;
        let place = Answers::place(study, model, moment, name);
        let failed = |source| StudyError::Io { path: place.clone(), source };
        if let Some(folder) = place.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let json = pretty_json(&answers).map_err(|error| failed(error.into()))?;
        replace_file(&place, &json).map_err(failed)?;
    }
    Ok(true)
}

/// A model in memory, and how it reads.
struct Asker {
    path: PathBuf,
    model: Decoder,
    tokenizer: lns_tokenizer::Tokenizer,
    bos: bool,
}

impl Asker {
    fn load(path: &Path, compute: &Compute) -> Result<Self, StudyError> {
        let failed = |reason: String| StudyError::Model { path: path.to_owned(), reason };
        let checkpoint = Checkpoint::open(path).map_err(|error| failed(error.to_string()))?;
        let tokenizer = model_tokenizer(&checkpoint)
            .map_err(|error| failed(error.to_string()))?
            .ok_or_else(|| failed("it has no tokenizer".to_owned()))?;
        let bos = begins_with_bos(&checkpoint).map_err(|error| failed(error.to_string()))?;
        let model = Decoder::from_checkpoint(&checkpoint, &compute.device)
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self { path: path.to_owned(), model, tokenizer, bos })
    }

    fn ask(
        &self,
        Questions { asked, too_long }: &Questions,
        questions: String,
        compute: &Compute,
    ) -> Result<Answers, StudyError> {
        let window = self.model.spec().max_position_embeddings;
        let reading = Reading { tokenizer: &self.tokenizer, bos: self.bos, window };
        let scores =
            score_documents(&self.model, asked, reading, &compute.workers, &|_| {}).map_err(
                |error| StudyError::Model { path: self.path.clone(), reason: error.to_string() },
            )?;
        let samples = sample(asked, &scores).collect();
        let record = summary(asked, &scores);
        Ok(Answers { questions, too_long: *too_long, record, samples })
    }
}
