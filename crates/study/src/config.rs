//! What a study is, as TOML.

use std::path::{Path, PathBuf};

use lns_corpus::CorpusError;
use lns_record::{EventsError, RecordError, SMALL_FILE, read_regular_text};
use lns_spec::{Initialisation, NormScheme};
use lns_tasks::TaskError;
use lns_train::{
    ConfigError, RUN_PRESETS, RunConfig, RunError, Settings, explained, ranges::SEED, run_preset,
};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::{
    contrast::Contrast,
    grid::{self, Factor},
    tuning::Tuning,
};

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
    #[error("[[grid]], group {group}: {reason}")]
    Grid { group: String, reason: String },
    #[error("[tuning]: {reason}")]
    Tuning { reason: String },
    #[error("contrast {name}: {reason}")]
    Contrast { name: String, reason: String },
    #[error("the seed {seed} is too large: seeds go up to {}", SEED.end())]
    Seed { seed: u64 },
    #[error("a study needs at least one group and one seed")]
    Empty,
    #[error(transparent)]
    Tasks(#[from] TaskError),
    #[error("models: {reason}")]
    Models { reason: String },
    #[error("{}: {reason}", path.display())]
    Model { path: PathBuf, reason: String },
    #[error(
        "{}: these examples were drawn otherwise than is asked for now, and models were tuned on them; name \
         another folder with --out", folder.display()
    )]
    OtherData { folder: PathBuf },
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
    /// What every run has in common; in a file over the preset that `preset` names there, else over `laptop`.
    #[serde(default)]
    pub run: RunConfig,
    /// A setting that is tuned for each group before its seeds are run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuning: Option<Tuning>,
    /// The groups that are compared.
    #[serde(default)]
    pub groups: Vec<Group>,
    /// Groups as every combination of the levels of some factors; [`read`](Self::read) spells them out after
    /// the other `groups`.
    #[serde(default, skip_serializing)]
    pub grid: Vec<Factor>,
    /// Comparisons of more than a group and the baseline.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contrasts: Vec<Contrast>,
}

fn yes() -> bool {
    true
}

/// The preset that `[run]` begins from, if it names one; what else stands there; and the other tables.
fn of_preset(mut study: Table) -> Option<(Value, Table, Table)> {
    let run = study.get_mut("run")?.as_table_mut()?;
    let name = run.remove("preset")?;
    let own = std::mem::take(run);
    study.remove("run");
    Some((name, own, study))
}

/// The settings of a preset.
fn preset(name: &Value) -> Result<RunConfig, StudyError> {
    let known = name.as_str().and_then(run_preset);
    known.map(|preset| preset.config).ok_or_else(|| StudyError::Malformed {
        place: "[run]".to_owned(),
        reason: format!("there is no preset {name}; presets are {}", RUN_PRESETS.join(", ")),
    })
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

    /// The settings of a run, with a setting that was tuned.
    fn config(
        &self,
        base: &RunConfig,
        seed: u64,
        tuned: Option<(&str, f64)>,
    ) -> Result<RunConfig, ConfigError> {
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
        let own = Settings::from_table(&place, own);
        match tuned {
            None => base.with(&[own]),
            Some((setting, value)) => {
                let mut keys = setting.rsplit('.');
                let last = (keys.next().unwrap_or(setting).to_owned(), Value::Float(value));
                let table = keys.fold(Table::from_iter([last]), |inner, key| {
                    Table::from_iter([(key.to_owned(), Value::Table(inner))])
                });
                base.with(&[own, Settings::from_table("[tuning]", table)])
            }
        }
    }
}

impl StudyConfig {
    /// The file's name in a study's folder.
    pub const FILE_NAME: &str = "study.toml";

    /// Reads a study's file.
    ///
    /// # Errors
    /// [`StudyError::Malformed`] with line and column; [`StudyError::Io`].
    pub fn read(path: &Path) -> Result<Self, StudyError> {
        let text = read_regular_text(path, SMALL_FILE)
            .map_err(|source| StudyError::Io { path: path.to_owned(), source })?;
        let malformed = |error: &toml::de::Error| StudyError::Malformed {
            place: path.display().to_string(),
            reason: explained(error, &text, &["run"]),
        };
        let study = match text.parse::<Table>().ok().and_then(of_preset) {
            None => toml::from_str::<Self>(&text).map_err(|error| malformed(&error))?,
            Some((name, own, others)) => {
                let run = preset(&name)?.with(&[Settings::from_table("[run]", own)])?;
                let study: Self = others.try_into().map_err(|error| malformed(&error))?;
                Self { run, ..study }
            }
        };
        study.spelled_out()
    }

    /// With the groups of the grid among the groups.
    fn spelled_out(mut self) -> Result<Self, StudyError> {
        self.groups.extend(grid::groups(&std::mem::take(&mut self.grid))?);
        Ok(self)
    }

    /// Leaves out the groups that are not among `names`, but for the baseline, and the contrasts of groups
    /// that are left out.
    ///
    /// # Errors
    /// The name that is none of the groups, and theirs.
    pub fn keep_groups(&mut self, names: &[String]) -> Result<(), (String, Vec<String>)> {
        let titles: Vec<String> = self.groups.iter().map(Group::title).collect();
        if let Some(unknown) = names.iter().find(|name| !titles.contains(name)) {
            return Err((unknown.clone(), titles));
        }
        let kept = |title: &String| *title == self.baseline || names.contains(title);
        self.contrasts.retain(|contrast| contrast.weights.keys().all(kept));
        self.groups.retain(|group| kept(&group.title()));
        Ok(())
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

    /// Every run that is known beforehand: those that tune, then those that are compared, seed by seed, so
    /// that the first comparison is there as early as can be. A tuned setting has its first value.
    ///
    /// # Errors
    /// As [`run`](crate::run), for what makes no study.
    pub fn plan(&self) -> Result<Vec<Planned>, StudyError> {
        let mut plan = Vec::new();
        if let Some(tuning) = &self.tuning {
            for group in &self.groups {
                for value in &tuning.values {
                    plan.push(self.tuning_run(tuning, group, *value)?);
                }
            }
        }
        let first = self.tuning.as_ref().and_then(|tuning| tuning.values.first().copied());
        plan.extend(self.compared(&|_| Some(first))?);
        Ok(plan)
    }

    /// A run of a group with a value of the tuned setting.
    pub(crate) fn tuning_run(
        &self,
        tuning: &Tuning,
        group: &Group,
        value: f64,
    ) -> Result<Planned, StudyError> {
        let title = group.title();
        let mut config = group.config(&self.run, tuning.seed, self.tuned(Some(value)))?;
        // Only its loss is asked for.
        config.checkpoints.every = 0;
        Ok(Planned {
            folder: format!("tuning/{}-{value:e}-seed{}", slug(&title), tuning.seed),
            config,
            group: title,
            seed: tuning.seed,
        })
    }

    fn tuned(&self, value: Option<f64>) -> Option<(&str, f64)> {
        Some((self.tuning.as_ref()?.setting.as_str(), value?))
    }

    /// The runs that are compared. `tuned` says of a group which value its tuned setting has, none where
    /// nothing is tuned; a group of which it says nothing is left out.
    pub(crate) fn compared(
        &self,
        tuned: &dyn Fn(&Group) -> Option<Option<f64>>,
    ) -> Result<Vec<Planned>, StudyError> {
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
        if let Some(reason) = self.tuning.as_ref().and_then(|tuning| tuning.fault(&all)) {
            return Err(StudyError::Tuning { reason });
        }
        if all.is_empty() {
            return Err(StudyError::Empty);
        }
        let mut plan = Vec::new();
        for seed in all {
            for (group, title) in self.groups.iter().zip(&titles) {
                if seeds(group).contains(&seed)
                    && let Some(value) = tuned(group)
                {
                    plan.push(Planned {
                        group: title.clone(),
                        seed,
                        folder: format!("runs/{}-seed{seed}", slug(title)),
                        config: group.config(&self.run, seed, self.tuned(value))?,
                    });
                }
            }
        }
        Ok(plan)
    }

    /// Whether a group is the noise probe: the scale on the norm's input, which changes nothing but
    /// rounding.
    pub(crate) fn is_noise_probe(config: &RunConfig) -> bool {
        matches!(&config.model.scheme, NormScheme::Lns(scale)
            if scale.placement == lns_spec::Placement::Input)
    }
}

/// The title with every character replaced that does not belong into a folder's name.
pub(crate) fn slug(title: &str) -> String {
    let kept =
        title.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' });
    let kept: String = kept.collect();
    kept.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn study(text: &str) -> StudyConfig {
        toml::from_str::<StudyConfig>(text).expect("a study").spelled_out().expect("a grid")
    }

    const GRID: &str = r#"
        name = "grid"
        baseline = "pre 0.02"
        seeds = [1, 2]
        [[grid]]
        levels = [{ name = "pre", scheme = "pre" }, { name = "lns", scheme = "lns" }]
        [[grid]]
        levels = [{ name = "0.02" }, { name = "0.632", settings.model.embedding_std = 0.632 }]
        [[contrasts]]
        name = "interaction"
        weights = { "lns 0.02" = 1, "pre 0.02" = -1, "lns 0.632" = -1, "pre 0.632" = 1 }
    "#;

    #[test]
    fn a_grid_is_every_combination_of_its_levels() {
        let grid = study(GRID);
        let titles: Vec<String> = grid.groups.iter().map(Group::title).collect();
        assert_eq!(titles, ["pre 0.02", "pre 0.632", "lns 0.02", "lns 0.632"]);
        let plan = grid.plan().expect("a plan");
        assert_eq!(plan.len(), 8);
        assert_eq!(plan[3].config.model.scheme, NormScheme::lns());
        assert_eq!(plan[3].config.model.embedding_std, 0.632);
        assert_eq!(study(&grid.to_toml()), grid, "a study's folder has its groups spelled out");
    }

    #[test]
    fn a_grid_that_contradicts_itself_is_refused_with_the_group() {
        let error = |text: &str| {
            let grid = toml::from_str::<StudyConfig>(text).expect("TOML");
            grid.spelled_out().expect_err("refused").to_string()
        };
        let twice = GRID.replace("{ name = \"0.02\" }", "{ name = \"0.02\", scheme = \"pre\" }");
        assert_eq!(error(&twice), "[[grid]], group pre 0.02: two of its factors give a `scheme`");
        let none = GRID.replace(", scheme = \"lns\"", "");
        assert!(error(&none).contains("group lns 0.02: none of its factors gives a `scheme`"));
        let setting =
            GRID.replace("scheme = \"lns\"", "scheme = \"lns\", settings.model.embedding_std = 1");
        assert!(
            error(&setting).contains("two of its factors give the setting model.embedding_std")
        );
    }

    #[test]
    fn groups_that_are_left_out_take_their_contrasts_with_them() {
        let mut grid = study(GRID);
        let error = grid.keep_groups(&["mix-ln".to_owned()]).expect_err("no such group");
        assert_eq!((error.0.as_str(), error.1.len()), ("mix-ln", 4));
        grid.keep_groups(&["lns 0.02".to_owned()]).expect("a group");
        assert_eq!((grid.groups.len(), grid.contrasts.len()), (2, 0));
    }

    #[test]
    fn tuning_runs_come_first_and_its_value_is_laid_over_every_groups_settings() {
        let tuning =
            "[tuning]\nsetting = \"schedule.learning_rate\"\nvalues = [1e-3, 3e-3]\nseed = 101\n";
        let tuned = study(&TWO.replace("[run.schedule]", &format!("{tuning}[run.schedule]")));
        let plan = tuned.plan().expect("a plan");
        let folders: Vec<&str> = plan.iter().map(|run| run.folder.as_str()).collect();
        assert_eq!(
            folders[..4],
            [
                "tuning/pre-1e-3-seed101",
                "tuning/pre-3e-3-seed101",
                "tuning/lns-scaled-init-1e-3-seed101",
                "tuning/lns-scaled-init-3e-3-seed101"
            ]
        );
        assert_eq!((plan[3].seed, plan[3].config.schedule.learning_rate), (101, 3e-3));
        assert_eq!(plan[3].config.schedule.warmup, 7, "the group's own settings stay");
        let best = |group: &Group| (group.title() == "pre").then_some(Some(2e-2));
        let compared = tuned.compared(&best).expect("a plan");
        assert_eq!(compared.len(), 2, "a group that is not tuned yet has no runs");
        assert_eq!(compared[0].config.schedule.learning_rate, 2e-2);
        let unknown = study(&tuned.to_toml().replace("schedule.learning_rate", "schedule.rate"));
        assert!(unknown.plan().expect_err("no such setting").to_string().contains("rate"));
        let favoured = study(&tuned.to_toml().replace("seed = 101", "seed = 2"));
        assert!(
            favoured.plan().expect_err("a seed twice").to_string().contains("[tuning]: seed 2")
        );
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
