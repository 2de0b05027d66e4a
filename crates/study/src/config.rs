//! What a study is, as TOML.

use std::path::{Path, PathBuf};

use lns_corpus::CorpusError;
use lns_record::{EventsError, RecordError, SMALL_FILE, read_regular_text};
use lns_spec::{Initialisation, NormScheme};
use lns_train::{ConfigError, RunConfig, RunError, Settings, explained, ranges::SEED};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::contrast::Contrast;

/// Why a study could not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message names its fields")]
pub enum StudyError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Corpus(#[from] CorpusError),
    #[error("run {run}: {source}")]
    Run { run: String, source: Box<RunError> },
    #[error("run {run}: its model cannot be diagnosed: {reason}")]
    Diagnosis { run: String, reason: String },
    #[error(transparent)]
    Events(#[from] EventsError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("{place}: {reason}")]
    Malformed { place: String, reason: String },
    #[error("two groups are called {name}, or nearly so; give one of them another `name`")]
    Twice { name: String },
    #[error("the baseline {baseline} is none of the groups: {groups}")]
    NoBaseline { baseline: String, groups: String },
    #[error("contrast {name}: {reason}")]
    Contrast { name: String, reason: String },
    #[error("the seed {seed} is too large: seeds go up to {}", SEED.end())]
    Seed { seed: u64 },
    #[error("a study needs at least one group and one seed")]
    Empty,
    #[error("{place}: `{key}` belongs to the groups and seeds of a study; leave it out")]
    Reserved { place: String, key: &'static str },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
}

/// A study: groups of runs that differ in what is compared and in nothing else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StudyConfig {
    /// The study's name.
    pub name: String,
    /// Name of the group that the others are compared to.
    pub baseline: String,
    /// Seeds of every group that names none.
    pub seeds: Vec<u64>,
    /// SHA-256 of the document that said, before the first run, what is asked and how it is judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan_sha256: Option<String>,
    /// Primary contrasts of the whole plan, those of its other studies included; as many as are here if
    /// not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primaries: Option<u64>,
    /// Hold the paper's lemmas against the first seed's Pre-LN and LNS models.
    #[serde(default = "yes")]
    pub theory: bool,
    /// The loss that nobody can go below on the held-out text, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ideal_loss: Option<f64>,
    /// How finished models are diagnosed.
    #[serde(default)]
    pub diagnosis: DiagnosisConfig,
    /// What every run has in common.
    #[serde(default)]
    pub run: RunConfig,
    /// The groups that are compared.
    pub groups: Vec<Group>,
    /// Comparisons of more than a group and the baseline.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contrasts: Vec<Contrast>,
}

fn yes() -> bool {
    true
}

/// How finished models are diagnosed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiagnosisConfig {
    /// Held-out tokens that they are fed.
    pub tokens: u64,
}

impl Default for DiagnosisConfig {
    fn default() -> Self {
        Self { tokens: 4096 }
    }
}

/// Runs that share a scheme, an initialisation and any other settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// The group's name; without one it is made of its scheme, its initialisation and its settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Norm scheme: a name, or a table with a `name` and options.
    pub scheme: Value,
    /// How weights start.
    #[serde(default)]
    pub initialisation: Initialisation,
    /// The seeds of this group, if they are not the study's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seeds: Option<Vec<u64>>,
    /// Any other settings of a run, laid over those in common.
    #[serde(default, skip_serializing_if = "Table::is_empty")]
    pub settings: Table,
}

/// One run of a study, resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// Name of its group.
    pub group: String,
    /// Its seed.
    pub seed: u64,
    /// Folder of the run, relative to the study's.
    pub folder: String,
    /// Its settings.
    pub config: RunConfig,
}

impl Group {
    /// A scheme by its bare name, with the study's seeds or its own.
    pub fn of(scheme: &str, initialisation: Initialisation, seeds: Option<Vec<u64>>) -> Self {
        let scheme = Value::String(scheme.to_owned());
        Self { name: None, scheme, initialisation, seeds, settings: Table::new() }
    }

    /// The name of the group: the one it was given, or the one that its scheme, its initialisation
    /// and its settings make.
    pub fn title(&self) -> String {
        if let Some(name) = &self.name {
            return name.clone();
        }
        let scheme = match &self.scheme {
            Value::Table(table) => table.get("name").map(ToString::to_string).unwrap_or_default(),
            other => other.to_string(),
        };
        let scheme = scheme.trim_matches('"');
        match self.initialisation {
            Initialisation::Normal => scheme.to_owned(),
            Initialisation::Scaled => format!("{scheme} + scaled init"),
            Initialisation::DepthScaled => format!("{scheme} + depth-scaled init"),
        }
    }

    fn config(&self, base: &RunConfig, seed: u64) -> Result<RunConfig, ConfigError> {
        let place = format!("group {}", self.title());
        let mut own = self.settings.clone();
        let model = own.entry("model").or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(model) = model else {
            let reason = "`model` is a table of settings".to_owned();
            return Err(ConfigError::Malformed { place, reason });
        };
        model.insert("scheme".to_owned(), self.scheme.clone());
        match Value::try_from(self.initialisation) {
            Ok(name) => drop(model.insert("initialisation".to_owned(), name)),
            Err(error) => unreachable!("an initialisation is a name: {error}"),
        }
        own.insert("seed".to_owned(), Value::Integer(seed as i64));
        base.with(&[Settings::from_table(&place, own)])
    }
}

impl StudyConfig {
    /// Its file's name in a study's folder.
    pub const FILE_NAME: &str = "study.toml";

    /// Reads a study's file.
    ///
    /// # Errors
    /// [`StudyError::Malformed`] with line and column; [`StudyError::Io`].
    pub fn read(path: &Path) -> Result<Self, StudyError> {
        let text = read_regular_text(path, SMALL_FILE)
            .map_err(|source| StudyError::Io { path: path.to_owned(), source })?;
        toml::from_str(&text).map_err(|error| StudyError::Malformed {
            place: path.display().to_string(),
            reason: explained(&error, &text, &["run"]),
        })
    }

    /// The text of a `study.toml` that says this study.
    pub fn to_toml(&self) -> String {
        match toml::to_string_pretty(self) {
            Ok(text) => text,
            Err(error) => unreachable!("settings are plain tables: {error}"),
        }
    }

    /// Sequences that the longest of its runs draws.
    ///
    /// # Errors
    /// As [`run`](crate::run), for what makes no study.
    pub fn most_sequences(&self) -> Result<u64, StudyError> {
        let sequences =
            |planned: &Planned| planned.config.steps * planned.config.batch.sequences as u64;
        Ok(self.plan()?.iter().map(sequences).max().unwrap_or(0))
    }

    /// Every run: seed by seed, so that the first comparison is there as early as can be.
    ///
    /// # Errors
    /// As [`run`](crate::run), for what makes no study.
    pub fn plan(&self) -> Result<Vec<Planned>, StudyError> {
        let titles: Vec<String> = self.groups.iter().map(Group::title).collect();
        for (index, name) in titles.iter().enumerate() {
            let folder = slug(name);
            if folder.is_empty() || titles[..index].iter().any(|other| slug(other) == folder) {
                return Err(StudyError::Twice { name: name.clone() });
            }
        }
        let (given, usual) = (&self.run, RunConfig::default());
        for (key, differs) in [
            ("seed", given.seed != usual.seed),
            ("model.scheme", given.model.scheme != usual.model.scheme),
            ("model.initialisation", given.model.initialisation != usual.model.initialisation),
        ] {
            if differs {
                return Err(StudyError::Reserved { place: "[run]".to_owned(), key });
            }
        }
        for (group, title) in self.groups.iter().zip(&titles) {
            let model = group.settings.get("model").and_then(Value::as_table);
            let in_model = |key| model.is_some_and(|model| model.contains_key(key));
            for (key, given) in [
                ("seed", group.settings.contains_key("seed")),
                ("model.scheme", in_model("scheme")),
                ("model.initialisation", in_model("initialisation")),
            ] {
                if given {
                    return Err(StudyError::Reserved { place: format!("group {title}"), key });
                }
            }
        }
        if !titles.contains(&self.baseline) {
            let (baseline, groups) = (self.baseline.clone(), titles.join(", "));
            return Err(StudyError::NoBaseline { baseline, groups });
        }
        for contrast in &self.contrasts {
            if let Some(reason) = contrast.fault(&titles) {
                return Err(StudyError::Contrast { name: contrast.name.clone(), reason });
            }
        }
        let named = self.groups.iter().filter_map(|group| group.seeds.as_ref()).flatten();
        if let Some(seed) = self.seeds.iter().chain(named).find(|seed| !SEED.contains(seed)) {
            return Err(StudyError::Seed { seed: *seed });
        }
        let seeds = |group: &Group| group.seeds.clone().unwrap_or_else(|| self.seeds.clone());
        let mut all: Vec<u64> = self.groups.iter().flat_map(seeds).collect();
        all.sort_unstable();
        all.dedup();
        let mut plan = Vec::new();
        for seed in all {
            for (group, title) in self.groups.iter().zip(&titles) {
                if seeds(group).contains(&seed) {
                    plan.push(Planned {
                        group: title.clone(),
                        seed,
                        folder: format!("runs/{}-seed{seed}", slug(title)),
                        config: group.config(&self.run, seed)?,
                    });
                }
            }
        }
        if plan.is_empty() { Err(StudyError::Empty) } else { Ok(plan) }
    }

    /// Whether a group is the noise probe: the scale on the norm's input, which changes nothing but
    /// rounding.
    pub(crate) fn is_noise_probe(config: &RunConfig) -> bool {
        matches!(&config.model.scheme, NormScheme::Lns(scale)
            if scale.placement == lns_spec::Placement::Input)
    }
}

/// The title with every character replaced that does not belong into a folder's name.
fn slug(title: &str) -> String {
    let kept =
        title.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' });
    let kept: String = kept.collect();
    kept.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn study(text: &str) -> StudyConfig {
        toml::from_str(text).expect("a study")
    }

    const TWO: &str = r#"
        name = "two"
        baseline = "pre"
        seeds = [1, 2]
        [run.schedule]
        learning_rate = 1
        [[groups]]
        scheme = "pre"
        [[groups]]
        scheme = { name = "lns", exponent = 0.25 }
        initialisation = "scaled"
        seeds = [2]
        settings = { schedule = { warmup = 7 }, model = { num_hidden_layers = 6 } }
    "#;

    #[test]
    fn runs_are_planned_seed_by_seed_with_each_groups_settings_over_the_common_ones() {
        let plan = study(TWO).plan().expect("a plan");
        let folders: Vec<&str> = plan.iter().map(|run| run.folder.as_str()).collect();
        assert_eq!(folders, ["runs/pre-seed1", "runs/pre-seed2", "runs/lns-scaled-init-seed2"]);
        let lns = &plan[2].config;
        assert_eq!((lns.seed, lns.schedule.warmup, lns.model.num_hidden_layers), (2, 7, 6));
        assert_eq!(lns.schedule.learning_rate, 1.0);
        assert_eq!(lns.model.scheme.to_string(), "lns, exponent 0.25");
        assert_eq!(plan[0].config.model.num_hidden_layers, 24);
    }

    #[test]
    fn a_study_survives_its_file() {
        let study = study(TWO);
        let again: StudyConfig = toml::from_str(&study.to_toml()).expect("a study");
        assert_eq!(study, again);
    }

    #[test]
    fn what_makes_no_study_is_refused_by_name() {
        let error = |text: &str| study(text).plan().expect_err("refused").to_string();
        assert!(
            error(&TWO.replace("baseline = \"pre\"", "baseline = \"x\"")).contains("x is none")
        );
        assert!(error(&TWO.replace("[1, 2]", "[]").replace("[2]", "[]")).contains("one seed"));
        assert!(error(&TWO.replace("\"lns\", exponent = 0.25", "\"LNS\"")).contains("LNS"));
        let twice = format!("{TWO}\n[[groups]]\nscheme = \"pre\"");
        assert!(error(&twice).contains("two groups are called pre"));
        let nearly = format!("{TWO}\n[[groups]]\nname = \"PRE\"\nscheme = \"post\"");
        assert!(error(&nearly).contains("PRE"), "they would share a folder");
        let seeded = TWO.replace("[run.schedule]", "[run]\nseed = 5\n[run.schedule]");
        assert!(error(&seeded).contains("[run]: `seed`"));
        let schemed = TWO.replace("num_hidden_layers = 6", "scheme = \"pre\"");
        assert!(error(&schemed).contains("`model.scheme` belongs to the groups"));
    }
}
