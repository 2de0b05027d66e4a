//! What a study that fine-tunes is, as TOML.

use std::path::{Path, PathBuf};

use lns_model::LoraConfig;
use lns_record::{SMALL_FILE, read_regular_text};
use lns_tasks::{AskOptions, Asked, Data, Split, TaskError, TaskFormat, ask};
use lns_train::{FinetuneConfig, RunConfig, Settings, SourceConfig, explained, finetune_defaults};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::models::{FinishedModel, ModelEntry};
use crate::{StudyConfig, StudyError, config::slug};

/// The training sets of LLM-Adapters' Commonsense170K, and how many examples of each it has: of WinoGrande
/// all its nested sizes (xs, s, m, l, xl, debiased), one in the other.
pub(super) const SETS: [(&str, u64); 8] = [
    ("boolq", 9_427),
    ("piqa", 16_113),
    ("siqa", 33_410),
    ("hellaswag", 39_905),
    ("winogrande", 63_238),
    ("arc_easy", 2_251),
    ("arc_challenge", 1_119),
    ("openbookqa", 4_957),
];
/// The tasks of Table 2 of arXiv 2502.05795, in its order.
const TABLE_2: [&str; 7] =
    ["mmlu", "boolq", "arc_easy", "piqa", "hellaswag", "openbookqa", "winogrande"];
/// Tokens of a sequence, as LLM-Adapters has them, where the models' context is not shorter.
const LENGTH: usize = 256;
/// Steps of warm-up, as LLM-Adapters has them, or a tenth of a shorter run.
const WARMUP: u64 = 100;

/// A study that fine-tunes finished models and asks them before and after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinetuningConfig {
    /// The study's name.
    pub name: String,
    /// Name of the group that the others are compared to; the first if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<String>,
    /// The models: those of studies, or named one by one.
    pub models: Vec<ModelEntry>,
    /// What they learn.
    #[serde(default)]
    pub data: InstructionTable,
    /// How they learn it.
    #[serde(default)]
    pub finetune: FinetuneTable,
    /// What they are asked.
    #[serde(default)]
    pub tasks: TaskTable,
}

/// `[data]`: the instruction data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InstructionTable {
    /// Where the data of training sets and tasks lie: folders, or `TASK=PATH`.
    pub folders: Vec<String>,
    /// How examples are put.
    #[serde(with = "format")]
    pub format: TaskFormat,
    /// The training sets, by their tasks' names.
    pub sets: Vec<String>,
    /// Examples of each set at most, drawn by the seed; 0 for all.
    pub examples: usize,
    /// Examples of each set that are held out, a tenth of a small set at most.
    pub held_out: usize,
    /// Seed of the order, which is the same for every model.
    pub seed: u64,
}

impl Default for InstructionTable {
    fn default() -> Self {
        Self {
            folders: Vec::new(),
            format: TaskFormat::Continuation,
            sets: SETS.map(|(set, _)| set.to_owned()).to_vec(),
            examples: 0,
            held_out: 32,
            seed: 1,
        }
    }
}

/// `[finetune]`: how much is learned of it, and any settings of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FinetuneTable {
    /// How often every example is seen; 3 if neither this nor `steps` or `tokens` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Train adapters instead of the whole model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// Settings of a run.
    #[serde(flatten)]
    pub settings: Table,
}

/// `[tasks]`: what is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TaskTable {
    /// Names of tasks, or files of questions.
    pub names: Vec<String>,
    /// Documents of each at most; 0 for all.
    pub limit: usize,
    /// Examples before every question.
    pub shots: usize,
    /// Another split than the tasks' own, of tasks that have splits.
    #[serde(with = "split", skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
    /// How they are asked.
    #[serde(with = "format")]
    pub format: TaskFormat,
}

impl Default for TaskTable {
    fn default() -> Self {
        Self {
            names: TABLE_2.map(str::to_owned).to_vec(),
            limit: 0,
            shots: 0,
            split: None,
            format: TaskFormat::Continuation,
        }
    }
}

/// A split by its name.
mod split {
    use lns_tasks::Split;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        split: &Option<Split>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match split {
            Some(split) => to.serialize_str(split.name()),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Split>, D::Error> {
        let given = String::deserialize(from)?;
        let known = Split::NAMED.into_iter().find(|split| split.name() == given);
        known.map(Some).ok_or_else(|| {
            let known = Split::NAMED.map(Split::name).join(", ");
            serde::de::Error::custom(format!("there is no split \"{given}\"; splits are {known}"))
        })
    }
}

/// A format by its name.
mod format {
    use lns_tasks::TaskFormat;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(format: &TaskFormat, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(format.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<TaskFormat, D::Error> {
        let given = String::deserialize(from)?;
        TaskFormat::ALL.into_iter().find(|format| format.name() == given).ok_or_else(|| {
            let known = TaskFormat::ALL.map(TaskFormat::name).join(", ");
            serde::de::Error::custom(format!("there is no format \"{given}\"; formats are {known}"))
        })
    }
}

impl FinetuningConfig {
    /// The name of the study that comes with the program.
    pub const PRESET: &str = "commonsense";

    /// Commonsense170K's sets and Table 2's tasks, with LLM-Adapters' batch, rate and number of epochs; the
    /// models and the data are still to be named.
    pub fn preset() -> Self {
        let rate = Table::from_iter([
            ("learning_rate".to_owned(), Value::Float(3e-4)),
            ("shape".to_owned(), Value::String("linear".to_owned())),
            ("floor".to_owned(), Value::Float(0.0)),
        ]);
        let batch = Table::from_iter([("sequences".to_owned(), Value::Integer(16))]);
        let settings = Table::from_iter([
            ("schedule".to_owned(), Value::Table(rate)),
            ("batch".to_owned(), Value::Table(batch)),
        ]);
        Self {
            name: Self::PRESET.to_owned(),
            baseline: None,
            models: Vec::new(),
            data: InstructionTable::default(),
            finetune: FinetuneTable { settings, ..FinetuneTable::default() },
            tasks: TaskTable::default(),
        }
    }

    /// Reads the file of a study that fine-tunes: it is known by its `models`; `None` of another study's.
    ///
    /// # Errors
    /// [`StudyError::Malformed`] with line and column; [`StudyError::Io`].
    pub fn read(path: &Path) -> Result<Option<Self>, StudyError> {
        let text = read_regular_text(path, SMALL_FILE)
            .map_err(|source| StudyError::Io { path: path.to_owned(), source })?;
        // What is no TOML at all is told by who reads the usual kind.
        if !text.parse::<Table>().is_ok_and(|table| table.contains_key("models")) {
            return Ok(None);
        }
        let read = toml::from_str(&text).map_err(|error| StudyError::Malformed {
            place: path.display().to_string(),
            reason: explained(&error, &text, &[]),
        });
        read.map(Some)
    }

    /// The study in `folder`, if one that fine-tunes is there.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_in(folder: &Path) -> Result<Option<Self>, StudyError> {
        let path = folder.join(StudyConfig::FILE_NAME);
        if path.is_file() { Self::read(&path) } else { Ok(None) }
    }

    /// The text of a `study.toml` that says this study.
    pub fn to_toml(&self) -> String {
        let table = Table::try_from(self).map(|table| toml::to_string_pretty(&table));
        match table {
            Ok(Ok(text)) => text,
            Ok(Err(error)) | Err(error) => unreachable!("settings are plain tables: {error}"),
        }
    }

    /// The models, seed by seed, and within a seed in the order in which their groups were named.
    ///
    /// # Errors
    /// A model that is named twice or nowhere, a study that cannot be read, groups that would share a
    /// folder, a baseline that is none of them.
    pub fn finished_models(&self) -> Result<Vec<FinishedModel>, StudyError> {
        let mut models = Vec::new();
        for entry in &self.models {
            models.extend(entry.models()?);
        }
        let refused = |reason: String| StudyError::Models { reason };
        if models.is_empty() {
            return Err(refused("there is no finished model".to_owned()));
        }
        for (index, model) in models.iter().enumerate() {
            let same = |other: &&FinishedModel| other.folder() == model.folder();
            if let Some(other) = models[..index].iter().find(same) {
                return Err(refused(format!(
                    "{} and {} are both {}, seed {}; give one of them another name or seed",
                    other.path.display(),
                    model.path.display(),
                    model.group,
                    model.seed
                )));
            }
        }
        let groups = groups(&models);
        let baseline = self.baseline(&groups);
        if !groups.contains(&baseline) {
            let groups = groups.join(", ");
            return Err(StudyError::NoBaseline { baseline, groups });
        }
        let place = |group: &str| groups.iter().position(|other| other == group);
        models.sort_by_key(|model| (model.seed, place(&model.group)));
        Ok(models)
    }

    /// The group that the others of `groups` are compared to.
    pub(super) fn baseline(&self, groups: &[String]) -> String {
        self.baseline.clone().or_else(|| groups.first().cloned()).unwrap_or_default()
    }

    fn options(&self) -> AskOptions {
        let data = self.data.folders.iter().map(|given| Data::named(given)).collect();
        AskOptions { data, ..AskOptions::default() }
    }

    /// The questions of each task.
    ///
    /// # Errors
    /// No tasks, one of them twice, or as [`ask`].
    pub(super) fn asked(&self) -> Result<Vec<Asked>, StudyError> {
        let TaskTable { names, shots, format, .. } = &self.tasks;
        let refused =
            |reason: String| StudyError::Malformed { place: "[tasks]".to_owned(), reason };
        if names.is_empty() {
            return Err(refused("`names` needs one task at least".to_owned()));
        }
        let twice = |at: &usize| names[..*at].iter().any(|other| slug(other) == slug(&names[*at]));
        if let Some(at) = (0..names.len()).find(twice) {
            return Err(refused(format!("{} is asked twice", names[at])));
        }
        let options = AskOptions { shots: *shots, ..self.asking(*format) };
        let asked = names.iter().map(|name| ask(name, &options));
        Ok(asked.collect::<Result<Vec<_>, TaskError>>()?)
    }

    fn asking(&self, format: TaskFormat) -> AskOptions {
        let TaskTable { limit, split, .. } = self.tasks;
        AskOptions { limit: (limit > 0).then_some(limit), split, format, ..self.options() }
    }

    /// The questions of a training set's task as examples are put, if it is asked: none of them may be
    /// learned from.
    pub(super) fn asked_of_set(&self, set: &str) -> Result<Option<Asked>, TaskError> {
        let is_asked = self.tasks.names.iter().any(|name| name == set);
        is_asked.then(|| ask(set, &self.asking(self.data.format))).transpose()
    }

    /// The documents of a training set.
    pub(super) fn training_set(&self, set: &str) -> Result<Asked, TaskError> {
        let split = Some(Split::Train);
        ask(set, &AskOptions { split, format: self.data.format, ..self.options() })
    }

    /// The settings that all runs have in common, for so many examples and a context of so many tokens.
    ///
    /// # Errors
    /// Settings that belong to the study, or as [`RunConfig::with`].
    pub(super) fn run(&self, examples: u64, context: usize) -> Result<RunConfig, StudyError> {
        let place = || "[finetune]".to_owned();
        let FinetuneTable { epochs, settings, .. } = &self.finetune;
        let data = settings.get("data").and_then(Value::as_table);
        let in_data = |key: &str| data.is_some_and(|data| data.contains_key(key));
        for (key, given) in [
            ("seed", settings.contains_key("seed")),
            ("model", settings.contains_key("model")),
            ("data.sources", in_data("sources")),
            ("data.layout", in_data("layout")),
        ] {
            if given {
                return Err(StudyError::Reserved { place: place(), key });
            }
        }
        let own = Settings::from_table("[finetune]", settings.clone());
        let length_given = in_data("length");
        let warmup_given = settings
            .get("schedule")
            .and_then(Value::as_table)
            .is_some_and(|schedule| schedule.contains_key("warmup"));
        let steps_given = settings.contains_key("steps") || settings.contains_key("tokens");
        let refused = |reason: String| StudyError::Malformed { place: place(), reason };
        if steps_given && epochs.is_some() {
            return Err(refused("give `epochs`, or `steps` or `tokens`, not both".to_owned()));
        }
        let mut base = finetune_defaults();
        base.data.length = LENGTH.min(context);
        base.data.layout = lns_corpus::Layout::Rows;
        base.seed = self.data.seed;
        let mut config = base.with(&[own])?;
        if !steps_given {
            let epochs = epochs.unwrap_or(3.0);
            if !(epochs.is_finite() && epochs > 0.0 && epochs <= 1e6) {
                return Err(refused(format!("`epochs` is {epochs}; give a number above 0")));
            }
            let sequences = epochs * examples as f64 / config.batch.sequences as f64;
            config.steps = (sequences.ceil() as u64).max(1);
        }
        if !warmup_given {
            config.schedule.warmup = WARMUP.min(config.steps / 10);
        }
        if length_given && config.data.length > context {
            return Err(refused(format!(
                "`data.length` is {}, and the shortest context of the models {context} tokens",
                config.data.length
            )));
        }
        Ok(config)
    }

    /// The settings of a model's run on a prepared text.
    pub(super) fn run_of(
        &self,
        common: &RunConfig,
        model: &FinishedModel,
        corpus: PathBuf,
    ) -> Result<RunConfig, StudyError> {
        lns_train::path_in_file(&model.path)?;
        lns_train::path_in_file(&corpus)?;
        let mut config = common.clone();
        config.data.sources = vec![SourceConfig::new(corpus)];
        let (base, lora) = (model.path.clone(), self.finetune.lora.clone());
        config.finetune = Some(FinetuneConfig { lora, ..FinetuneConfig::of(base) });
        // What was put together is checked like what was typed.
        Ok(config.with(&[])?)
    }
}

/// The groups of models, in the order in which they were named.
pub(super) fn groups(models: &[FinishedModel]) -> Vec<String> {
    let mut groups: Vec<String> = Vec::new();
    for model in models {
        if !groups.contains(&model.group) {
            groups.push(model.group.clone());
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    const STUDY: &str = r#"
        name = "mine"
        baseline = "pre 0.02"
        [[models]]
        study = "/data/stage-a"
        groups = ["pre 0.02", "lns 0.02"]
        [[models]]
        group = "pre 0.02"
        seed = 3
        path = "/models/pre-3"
        [data]
        folders = ["/data/tasks", "piqa=/data/piqa"]
        format = "generating"
        sets = ["boolq", "piqa"]
        examples = 2000
        [finetune]
        epochs = 2
        lora = { rank = 32, alpha = 64 }
        schedule = { learning_rate = 3e-4 }
        [tasks]
        names = ["boolq", "piqa", "blimp"]
        limit = 500
        split = "validation"
    "#;

    fn read(text: &str) -> Result<Option<FinetuningConfig>, StudyError> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("study.toml");
        std::fs::write(&path, text).expect("writable");
        FinetuningConfig::read(&path)
    }

    #[test]
    fn a_study_survives_its_file_and_one_that_trains_from_scratch_is_told_from_it() {
        let study = read(STUDY).expect("reads").expect("of this kind");
        assert_eq!(study.data.format, TaskFormat::Generating);
        assert_eq!(study.tasks.split, Some(Split::Validation));
        assert_eq!(read(&study.to_toml()).expect("reads"), Some(study));
        assert_eq!(read("name = \"x\"\nbaseline = \"pre\"\nseeds = [1]").expect("reads"), None);
        let preset = FinetuningConfig::preset();
        assert_eq!(read(&preset.to_toml()).expect("reads"), Some(preset));
    }

    #[test]
    fn epochs_are_steps_over_all_examples_and_warm_up_is_a_tenth_of_a_short_run() {
        let study = read(STUDY).expect("reads").expect("of this kind");
        let run = study.run(1001, 4096).expect("a run");
        // Twice 1,001 examples in batches of 8, the usual of a fine-tune.
        assert_eq!((run.steps, run.schedule.warmup, run.data.length), (251, 25, 256));
        let preset = FinetuningConfig::preset().run(147_238, 128).expect("a run");
        assert_eq!((preset.steps, preset.batch.sequences), (27_608, 16));
        assert_eq!((preset.schedule.warmup, preset.data.length), (100, 128));
    }

    #[test]
    fn what_is_misspelt_is_refused_with_its_name() {
        let error = |from: &str, to: &str| {
            let read = read(&STUDY.replace(from, to));
            read.and_then(|study| study.expect("of this kind").run(9, 64))
                .expect_err("refused")
                .to_string()
        };
        assert!(error("examples =", "exmples =").contains("exmples"));
        assert!(
            error("\"generating\"", "\"spoken\"").contains("formats are continuation, generating")
        );
        assert!(error("\"validation\"", "\"vali\"").contains("splits are train"));
        assert!(error("learning_rate", "rate").contains("rate"));
        assert!(error("epochs = 2", "epochs = 0").contains("`epochs` is 0"));
    }
}
