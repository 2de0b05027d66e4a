//! The settings of a run: everything that decides its result, as TOML.
//!
//! A run's settings are given in several places, each laid over the one before: a preset (or the defaults), a
//! file, flags. [`RunConfig::with`] checks each for misspelt keys and puts them together; what comes out
//! is complete, is saved in the run's folder as `config.toml`, and is what a resumed run must equal.
//!
//! Each table of the settings is one file here, or stands with what it sets ([`Schedule`],
//! [`GuardConfig`], the [optimisers](crate::Optimiser)): what there is, what it is without being set, and
//! what its numbers may be.

pub(crate) mod batch;
mod check;
pub(crate) mod data;
mod error;
pub(crate) mod intervals;
pub(crate) mod keys;
pub(crate) mod model;
pub(crate) mod optimiser;
mod precision;
mod same_run;
mod settings;

use std::path::Path;

use lns_kernels::Precision;
use lns_spec::{Initialisation, NormScheme};
use serde::{Deserialize, Serialize};
use toml::Table;

pub use batch::BatchConfig;
pub use data::{DataConfig, FinetuneConfig, SourceConfig, TeacherConfig, path_in_file};
pub use error::{ConfigError, explained};
pub use intervals::{CheckpointConfig, EvaluationConfig, SnapshotConfig, StatisticsConfig};
pub use model::ModelConfig;
pub use optimiser::OptimiserConfig;
pub(crate) use settings::flattened;
pub use settings::{Settings, scheme_as_table};

use self::{error::shown, keys::misspelt, settings::merge};
use crate::{GuardConfig, Schedule, TrainingOptions, ranges};

/// A training run. Every field has a default, that of the `laptop` study.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// Seed of the initial weights and of the order of the text.
    pub seed: u64,
    /// Worker threads. Sums over workers are taken in a fixed order, so a run repeats to the bit with
    /// the same number only.
    pub threads: usize,
    /// Length of the run.
    pub steps: u64,
    /// Instead of `steps`: a number of tokens, rounded up to whole steps. Never in a resolved config.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Precision of matrix products; parameters and optimiser are f32.
    #[serde(with = "precision")]
    pub precision: Precision,
    /// The model, when it is trained from scratch.
    pub model: ModelConfig,
    /// The checkpoint to go on from, instead of `model`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finetune: Option<FinetuneConfig>,
    /// The text.
    pub data: DataConfig,
    /// Sequences of a step.
    pub batch: BatchConfig,
    /// Update rule and objective.
    pub optimiser: OptimiserConfig,
    /// Learning rate.
    pub schedule: Schedule,
    /// Loss on held-out text.
    pub evaluation: EvaluationConfig,
    /// Per-layer statistics.
    pub statistics: StatisticsConfig,
    /// What is kept to resume from.
    pub snapshots: SnapshotConfig,
    /// Models that are kept along the way.
    pub checkpoints: CheckpointConfig,
    /// What to do when the loss goes wrong.
    pub guard: GuardConfig,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            seed: 1,
            threads: 2,
            steps: 400,
            tokens: None,
            precision: Precision::F32,
            model: ModelConfig::default(),
            finetune: None,
            data: DataConfig::default(),
            batch: BatchConfig::default(),
            optimiser: OptimiserConfig::default(),
            schedule: Schedule::default(),
            evaluation: EvaluationConfig::default(),
            statistics: StatisticsConfig::default(),
            snapshots: SnapshotConfig::default(),
            checkpoints: CheckpointConfig::default(),
            guard: GuardConfig::default(),
        }
    }
}

/// What the whole numbers outside the tables may be.
pub(crate) const RUN: &[ranges::WholeSetting] = &[
    ("seed", |run| run.seed, ranges::SEED),
    ("threads", |run| run.threads as u64, ranges::THREADS),
    ("steps", |run| run.steps, ranges::STEPS),
    ("tokens", |run| run.tokens.unwrap_or(1), ranges::TOKENS),
];

impl RunConfig {
    /// The file's name in a run's folder.
    pub const FILE_NAME: &str = "config.toml";

    /// `self` with other settings laid over it key by key, later ones over earlier ones; then checked.
    ///
    /// # Errors
    /// [`ConfigError`], naming the place that a setting is from, or its key.
    pub fn with(&self, given: &[Settings]) -> Result<Self, ConfigError> {
        let mut merged = self.table();
        for settings in given {
            match (settings.sets("steps"), settings.sets("tokens")) {
                (true, true) => return Err(ConfigError::TwoLengths),
                (true, false) => drop(merged.remove("tokens")),
                _ => {}
            }
            if let Some((key, meant)) = misspelt(&settings.table) {
                return Err(ConfigError::Unknown { place: settings.place.clone(), key, meant });
            }
            merge(&mut merged, &settings.table);
            ranges::check_table(&merged)?;
            // Read after each of them, so that the error names the place that broke the whole.
            merged.clone().try_into::<Self>().map_err(|error| ConfigError::Malformed {
                place: settings.place.clone(),
                reason: shown(&error),
            })?;
        }
        optimiser::refuse_idle(&merged)?;
        let mut config: Self = merged.try_into().map_err(|error: toml::de::Error| {
            ConfigError::Malformed { place: "settings".to_owned(), reason: shown(&error) }
        })?;
        ranges::check(&config)?;
        if let Some(tokens) = config.tokens.take() {
            config.steps = tokens.div_ceil(config.tokens_per_step());
        }
        config.check()?;
        Ok(config)
    }

    /// Reads the resolved settings of a run.
    ///
    /// # Errors
    /// [`ConfigError`], naming the file and the line.
    pub fn read(folder: &Path) -> Result<Self, ConfigError> {
        let there = Settings::from_file(&folder.join(Self::FILE_NAME))?;
        Self::default().with(&[there])
    }

    /// The text of its `config.toml`.
    pub fn to_toml(&self) -> String {
        let text = match self.finetune {
            None => toml::to_string_pretty(self),
            Some(_) => toml::to_string_pretty(&self.table()),
        };
        match text {
            Ok(text) => text,
            Err(error) => unreachable!("settings are plain tables: {error}"),
        }
    }

    fn table(&self) -> Table {
        let mut table = match Table::try_from(self) {
            Ok(table) => table,
            Err(error) => unreachable!("settings are plain tables: {error}"),
        };
        if self.finetune.is_some() && self.model == ModelConfig::default() {
            table.remove("model");
        }
        table
    }

    /// Tokens of a step, predicted or not.
    pub fn tokens_per_step(&self) -> u64 {
        (self.batch.sequences * self.data.length) as u64
    }

    /// Steps over which the learning rate's schedule goes.
    pub fn schedule_steps(&self) -> u64 {
        self.schedule.steps.unwrap_or(self.steps)
    }

    /// How the trainer computes.
    pub fn training_options(&self) -> TrainingOptions {
        let OptimiserConfig { rule, clip, z_loss } = self.optimiser;
        TrainingOptions {
            optimiser: rule,
            clip: (clip > 0.0).then_some(clip),
            z_loss,
            sequences_per_pass: std::num::NonZeroUsize::new(self.batch.sequences_per_pass),
            recompute: self.batch.recompute,
        }
    }

    /// What to tell a person before a run that will work but should perhaps be another.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if matches!(self.model.scheme, NormScheme::Lns(_))
            && self.model.initialisation != Initialisation::Normal
        {
            warnings.push(
                "LayerNorm Scaling with a scaled initialisation: both damp the deep layers, and \
                 the paper found it no better than LayerNorm Scaling alone (arXiv 2502.05795, \
                 Table 6: 25.80 against 25.76 at 130M, 20.79 against 20.35 at 250M); it \
                 recommends initialisation = \"normal\""
                    .to_owned(),
            );
        }
        if self.schedule.warmup >= self.steps {
            warnings.push(format!(
                "the learning rate never reaches its peak: schedule.warmup is {} of {} steps",
                self.schedule.warmup, self.steps
            ));
        }
        warnings
    }
}

#[cfg(test)]
mod tests;
