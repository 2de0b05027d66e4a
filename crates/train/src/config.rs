//! What a run is: everything that decides its result, as TOML.
//!
//! A run's settings come in layers, each over the one before: a preset (or the defaults), a file,
//! flags. [`RunConfig::layered`] checks each for misspelt keys and puts them together; what comes out
//! is complete, is saved in the run's folder as `config.toml`, and is what a resumed run must equal.

use std::path::{Path, PathBuf};

use lns_corpus::Layout;
use lns_kernels::Precision;
use lns_model::LoraConfig;
use lns_record::{SMALL_FILE, read_regular_text};
use lns_spec::{Family, Initialisation, ModelSpec, NormScheme, Preset, meant};
use serde::{Deserialize, Deserializer, Serialize};
use toml::{Table, Value};

use crate::{Decay, Optimiser, Schedule, Shape, TrainingOptions, known::misspelt, ranges};

/// Why settings make no run.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message names its fields")]
pub enum ConfigError {
    #[error("{place}: {reason}")]
    Malformed { place: String, reason: String },
    #[error("{path} cannot be read: {reason}")]
    Unreadable { path: PathBuf, reason: String },
    #[error("`{key}` is {value}; {expected}")]
    Invalid { key: &'static str, value: String, expected: String },
    #[error(
        "{place}: `{key}` is not a setting{} A run's config.toml has them all.",
        did_you_mean(meant.as_deref())
    )]
    Unknown { place: String, key: String, meant: Option<String> },
    #[error(
        "{}: a run's settings are text and hold its paths, and this one is not UTF-8: rename it, or \
         give a link to it", path.display()
    )]
    NotText { path: PathBuf },
    #[error("both `steps` and `tokens` are given; the length of a run is one of them")]
    TwoLengths,
}

fn did_you_mean(meant: Option<&str>) -> String {
    meant.map_or_else(|| ".".to_owned(), |meant| format!(": did you mean `{meant}`?"))
}

/// An error's text, its lines cut to what a person reads: it quotes values, which may be of any length.
/// Where it has no line of a file, its key stands first.
fn shown(error: &toml::de::Error) -> String {
    const LONGEST: usize = 200;
    let cut = |line: &str| match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{} …", &line[..end]),
        None => line.to_owned(),
    };
    let mut text = error.to_string();
    if error.span().is_none()
        && let Some((what, key)) = text.trim_end().rsplit_once("\nin ")
    {
        text = format!("{key}: {what}");
    }
    text.lines().map(cut).collect::<Vec<_>>().join("\n")
}

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
    /// What to do when the loss goes wrong.
    pub guard: GuardConfig,
}

/// A Llama-like model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// Features of the stream.
    pub hidden_size: usize,
    /// Features inside the MLP.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key/value heads; 0 is as many as query heads.
    pub num_key_value_heads: usize,
    /// Rows of the embedding; 0 is as many as the tokenizer has.
    pub vocab_size: usize,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// Whether heads of q and k are normed.
    pub qk_norm: bool,
    /// Norm scheme: a name, or a table with a `name` and options.
    #[serde(deserialize_with = "scheme")]
    pub scheme: NormScheme,
    /// How weights start.
    pub initialisation: Initialisation,
    /// Standard deviation of the embedding at the start.
    pub embedding_std: f64,
    /// Whether a norm with a gain stands between the embedding and layer 0, whatever the scheme.
    pub embedding_norm: bool,
}

/// A checkpoint whose training is continued.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinetuneConfig {
    /// The checkpoint: a folder, a `.gguf` or a `.safetensors` file.
    pub base: PathBuf,
    /// What it holds: filled in when the run begins, so that it cannot go on from another.
    #[serde(default)]
    pub fingerprint: String,
    /// Train adapters instead of the whole model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
}

/// A prepared text and its share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// Folder of the prepared text.
    pub corpus: PathBuf,
    /// Share of the sequences, relative to the other sources.
    #[serde(default = "one")]
    pub weight: f64,
    /// Which tokens it holds: filled in when the run begins, so that it cannot go on with others.
    #[serde(default)]
    pub fingerprint: String,
}

impl SourceConfig {
    /// The only text.
    pub fn new(corpus: PathBuf) -> Self {
        Self { corpus, weight: one(), fingerprint: String::new() }
    }
}

fn one() -> f64 {
    1.0
}

/// The text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// Prepared texts, of one tokenizer.
    pub sources: Vec<SourceConfig>,
    /// How documents become sequences.
    pub layout: Layout,
    /// Tokens of a sequence.
    pub length: usize,
}

/// Sequences of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatchConfig {
    /// Sequences of a step, over all workers.
    pub sequences: usize,
    /// Sequences a worker takes through at once, gradients being accumulated; 0 is all of its share.
    pub sequences_per_pass: usize,
    /// Keep only layers' inputs and make activations again in the backward pass.
    pub recompute: bool,
}

/// Which update rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimiserName {
    /// Adam: no weight decay.
    Adam,
    /// AdamW.
    #[default]
    AdamW,
    /// Muon for the layers' matrices, AdamW for the rest.
    Muon,
}

/// Update rule and objective.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimiserConfig {
    /// Which rule.
    pub name: OptimiserName,
    /// Decay of the first moment (Adam, AdamW).
    pub beta1: f64,
    /// Decay of the second moment (Adam, AdamW).
    pub beta2: f64,
    /// Added to the root of the second moment (Adam, AdamW).
    pub eps: f64,
    /// Momentum (Muon).
    pub momentum: f64,
    /// Decoupled weight decay (AdamW, Muon).
    pub weight_decay: f64,
    /// What decays: `projections` (no gains, biases, embeddings) or `all`.
    pub decay: Decay,
    /// Largest ‖gradient‖₂; 0 is without clipping.
    pub clip: f64,
    /// Weight of the squared log-sum of the logits; 0 is without.
    pub z_loss: f64,
}

/// Loss on held-out text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluationConfig {
    /// Steps between evaluations; 0 is at the start and the end only.
    pub every: u64,
    /// Tokens of held-out text at most; 0 is all.
    pub tokens: u64,
}

/// Per-layer statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StatisticsConfig {
    /// Steps between them; 0 is never.
    pub every: u64,
}

/// What is kept to resume from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SnapshotConfig {
    /// Steps between them; 0 is only when the run is stopped.
    pub every: u64,
    /// The latest that are kept, at least 1.
    pub keep_last: usize,
    /// Whether the one with the lowest held-out loss is kept too.
    pub keep_best: bool,
}

/// What a step is answered with whose loss or gradient is not a finite number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NotFinite {
    /// The run stops.
    #[default]
    Stop,
    /// The update is left out; ten in a row stop the run.
    Skip,
}

/// What to do when the loss goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GuardConfig {
    /// Numbers that are not finite.
    pub not_finite: NotFinite,
    /// An update whose ‖gradient‖₂ is more than so many times the median of the last 100 is left
    /// out; ten in a row stop the run; 0 is never.
    pub spike: f64,
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
            guard: GuardConfig::default(),
        }
    }
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            hidden_size: 128,
            intermediate_size: 352,
            num_hidden_layers: 24,
            num_attention_heads: 4,
            num_key_value_heads: 0,
            vocab_size: 0,
            tie_word_embeddings: false,
            qk_norm: false,
            scheme: NormScheme::pre(),
            initialisation: Initialisation::Normal,
            embedding_std: Initialisation::STD,
            embedding_norm: false,
        }
    }
}

impl Default for DataConfig {
    fn default() -> Self {
        Self { sources: Vec::new(), layout: Layout::Packed, length: 128 }
    }
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self { sequences: 16, sequences_per_pass: 0, recompute: false }
    }
}

impl Default for OptimiserConfig {
    fn default() -> Self {
        Self {
            name: OptimiserName::AdamW,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            momentum: 0.95,
            weight_decay: 0.0,
            decay: Decay::Projections,
            clip: 1.0,
            z_loss: 0.0,
        }
    }
}

impl Default for EvaluationConfig {
    fn default() -> Self {
        Self { every: 50, tokens: 32_768 }
    }
}

impl Default for StatisticsConfig {
    fn default() -> Self {
        Self { every: 20 }
    }
}

impl Default for SnapshotConfig {
    fn default() -> Self {
        Self { every: 200, keep_last: 2, keep_best: true }
    }
}

/// A scheme as a table or as its bare name.
fn scheme<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NormScheme, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let scheme = match &value {
        Value::String(name) => name.parse().map_err(|error: lns_spec::SpecError| error.to_string()),
        other => serde_json::to_value(other)
            .map_err(|error| error.to_string())
            .and_then(|json| NormScheme::from_json(&json).map_err(|error| error.to_string())),
    };
    scheme.map_err(serde::de::Error::custom)
}

mod precision {
    use lns_kernels::Precision;
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(value: &Precision, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(value.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Precision, D::Error> {
        let given = String::deserialize(from)?;
        let known = Precision::ALL.into_iter().find(|precision| precision.name() == given);
        known.ok_or_else(|| {
            serde::de::Error::custom(format!("{given:?} is not a precision; use f32 or bf16"))
        })
    }
}

/// One layer of settings: where it comes from, and the keys it sets.
#[derive(Debug, Clone)]
pub struct Layer {
    place: String,
    table: Table,
}

impl Layer {
    /// Settings from a file's text.
    ///
    /// # Errors
    /// [`ConfigError::Malformed`] with line and column, for what is no TOML, a key that does not exist
    /// or a value of another type.
    pub fn from_toml(place: &str, text: &str) -> Result<Self, ConfigError> {
        let malformed = |reason: String| ConfigError::Malformed { place: place.to_owned(), reason };
        // Typed first, for an error that points at the line; then as a table, for what it sets.
        toml::from_str::<RunConfig>(text)
            .map_err(|error| malformed(explained(&error, text, &[])))?;
        let table = toml::from_str(text).map_err(|error| malformed(shown(&error)))?;
        Ok(Self { place: place.to_owned(), table })
    }

    /// Settings from a file.
    ///
    /// # Errors
    /// As [`from_toml`](Self::from_toml), and when it cannot be read.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = read_regular_text(path, SMALL_FILE).map_err(|error| {
            ConfigError::Unreadable { path: path.to_owned(), reason: error.to_string() }
        })?;
        Self::from_toml(&path.display().to_string(), &text)
    }

    /// Whether it sets a key of the outermost table.
    pub fn sets(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Settings that were made elsewhere, such as flags.
    pub fn from_table(place: &str, table: Table) -> Self {
        Self { place: place.to_owned(), table }
    }
}

impl RunConfig {
    /// Its file's name in a run's folder.
    pub const FILE_NAME: &str = "config.toml";

    /// Settings in layers, later ones over earlier ones, key by key, over `self`; then checked.
    ///
    /// # Errors
    /// [`ConfigError`], naming the layer or the key.
    pub fn layered(&self, layers: &[Layer]) -> Result<Self, ConfigError> {
        let mut merged = self.table();
        for layer in layers {
            match (layer.sets("steps"), layer.sets("tokens")) {
                (true, true) => return Err(ConfigError::TwoLengths),
                (true, false) => drop(merged.remove("tokens")),
                _ => {}
            }
            if let Some((key, meant)) = misspelt(&layer.table) {
                return Err(ConfigError::Unknown { place: layer.place.clone(), key, meant });
            }
            merge(&mut merged, &layer.table);
            ranges::check_table(&merged)?;
            // Which layer is to blame shows when it was the one that broke it.
            merged.clone().try_into::<Self>().map_err(|error| ConfigError::Malformed {
                place: layer.place.clone(),
                reason: shown(&error),
            })?;
        }
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
        let layer = Layer::from_file(&folder.join(Self::FILE_NAME))?;
        Self::default().layered(&[layer])
    }

    /// As it is written to `config.toml`.
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

    /// The settings of this run taken on to more steps. The learning rate of the steps that it has taken
    /// was that of its own schedule, so it keeps to it, and the steps beyond are taken at the
    /// schedule's last learning rate: the result is that of a run of `steps` steps with this schedule,
    /// not of one whose schedule was planned for `steps`.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] where that learning rate is 0, so that nothing would be learned.
    pub fn extended(&self, steps: u64) -> Result<Self, ConfigError> {
        let mut config = self.clone();
        config.schedule.steps = Some(self.schedule_steps());
        config.steps = steps;
        if config.schedule.at(steps, steps) <= 0.0 {
            return Err(ConfigError::Invalid {
                key: "steps",
                value: steps.to_string(),
                expected: format!(
                    "the run's learning rate has come down to 0 at step {}, so more steps would \
                     change nothing: name another folder for a run of {steps} steps, or go on from \
                     its model with `lns finetune`",
                    self.schedule_steps()
                ),
            });
        }
        Ok(config)
    }

    /// Whether this is the run of `other`, taken on to more steps.
    pub(crate) fn extends(&self, other: &Self) -> bool {
        let (steps, mut same) = (self.steps, self.clone());
        (same.steps, same.schedule.steps) = (other.steps, other.schedule.steps);
        steps > other.steps
            && self.schedule.steps == Some(other.schedule_steps())
            && same.differences(other).is_empty()
    }

    /// The keys, dotted, in which two configs differ, with both values; `threads` and how often
    /// snapshots are taken leave a run the same.
    pub fn differences(&self, other: &Self) -> Vec<(String, String, String)> {
        let [mut a, mut b] = [self, other].map(|config| {
            let mut config = config.clone();
            // Text is what it holds, wherever it is.
            for source in
                config.data.sources.iter_mut().filter(|source| !source.fingerprint.is_empty())
            {
                source.corpus.clear();
            }
            // So is a checkpoint.
            if let Some(from) = config.finetune.as_mut().filter(|from| !from.fingerprint.is_empty())
            {
                from.base.clear();
            }
            // No number of key/value heads is as many as query heads: runs of earlier versions have it so.
            if config.finetune.is_none() {
                config.model.num_key_value_heads = config.model.key_value_heads();
            }
            flattened(&config.table())
        });
        for values in [&mut a, &mut b] {
            values.retain(|(key, _)| key != "threads" && !key.starts_with("snapshots."));
        }
        let mut keys: Vec<&String> = a.iter().chain(&b).map(|(key, _)| key).collect();
        keys.sort();
        keys.dedup();
        let value = |values: &[(String, String)], key: &String| {
            let found = values.iter().find(|(name, _)| name == key);
            found.map_or_else(|| "absent".to_owned(), |(_, value)| value.clone())
        };
        keys.into_iter()
            .map(|key| (key.clone(), value(&a, key), value(&b, key)))
            .filter(|(_, mine, theirs)| mine != theirs)
            .collect()
    }

    fn check(&self) -> Result<(), ConfigError> {
        let invalid = |key, value: String, expected: &str| {
            Err(ConfigError::Invalid { key, value, expected: expected.to_owned() })
        };
        ranges::check(self)?;
        // Later sums count tokens in 64 bits.
        if self.steps.checked_mul(self.tokens_per_step()).is_none_or(|all| all > 1 << 62) {
            let expected = format!(
                "with {} tokens a step a run ends after at most {} of them",
                self.tokens_per_step(),
                (1 << 62) / self.tokens_per_step()
            );
            return invalid("steps", self.steps.to_string(), &expected);
        }
        let evaluated = self.evaluation.tokens;
        if evaluated != 0 && evaluated < self.data.length as u64 {
            let expected = format!(
                "the held-out text that is evaluated, `evaluation.tokens` = {evaluated}, must hold a \
                 sequence: use a shorter length, more of these tokens, or 0 for all there are"
            );
            return invalid("data.length", self.data.length.to_string(), &expected);
        }
        let (sequences, pass) = (self.batch.sequences, self.batch.sequences_per_pass);
        if pass != 0 && !sequences.is_multiple_of(pass) {
            let divisors: Vec<String> = (1..=sequences)
                .filter(|divisor| sequences.is_multiple_of(*divisor))
                .map(|divisor| divisor.to_string())
                .collect();
            let expected = format!(
                "it must divide `batch.sequences`, {sequences}: one of {}",
                divisors.join(", ")
            );
            return invalid("batch.sequences_per_pass", pass.to_string(), &expected);
        }
        let optimiser = &self.optimiser;
        for (key, value) in [
            ("optimiser.beta1", optimiser.beta1),
            ("optimiser.beta2", optimiser.beta2),
            ("optimiser.momentum", optimiser.momentum),
        ] {
            if !(0.0..1.0).contains(&value) {
                return invalid(key, value.to_string(), "it must be at least 0 and below 1");
            }
        }
        for (key, value) in [
            ("optimiser.eps", optimiser.eps),
            ("optimiser.weight_decay", optimiser.weight_decay),
            ("optimiser.clip", optimiser.clip),
            ("optimiser.z_loss", optimiser.z_loss),
            ("schedule.learning_rate", self.schedule.learning_rate),
            ("model.embedding_std", self.model.embedding_std),
            ("guard.spike", self.guard.spike),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return invalid(key, value.to_string(), "it must be a finite number of at least 0");
            }
        }
        for (key, value) in
            [("schedule.floor", self.schedule.floor), ("schedule.decay", self.schedule.decay)]
        {
            if !(0.0..=1.0).contains(&value) {
                return invalid(key, value.to_string(), "it is a share, from 0 to 1");
            }
        }
        self.check_effect()?;
        if optimiser.name == OptimiserName::Adam && optimiser.weight_decay > 0.0 {
            return invalid(
                "optimiser.weight_decay",
                optimiser.weight_decay.to_string(),
                "adam has none: leave it at 0 or use adamw",
            );
        }
        Ok(())
    }

    /// Refuses settings that would do nothing.
    fn check_effect(&self) -> Result<(), ConfigError> {
        if self.finetune.is_some() && self.model != ModelConfig::default() {
            return Err(ConfigError::Invalid {
                key: "model",
                value: "set".to_owned(),
                expected: "the model is that of `finetune.base`: leave [model] out".to_owned(),
            });
        }
        if self.model.embedding_norm && self.model.scheme.norms_embedding() {
            return Err(ConfigError::Invalid {
                key: "model.embedding_norm",
                value: "true".to_owned(),
                expected: format!(
                    "the scheme {} has that norm already: leave it out",
                    self.model.scheme
                ),
            });
        }
        let (given, usual) = (&self.optimiser, OptimiserConfig::default());
        let (schedule, usual_schedule) = (&self.schedule, Schedule::default());
        let muon = given.name == OptimiserName::Muon;
        let wsd = schedule.shape == Shape::WarmupStableDecay;
        let constant = schedule.shape == Shape::Constant;
        let fixed = "muon updates all but the layers' matrices by AdamW with beta1 = 0.9, beta2 = \
            0.95, eps = 1e-8";
        for (idle, key, value, usual, why) in [
            (muon, "optimiser.beta1", given.beta1, usual.beta1, fixed),
            (muon, "optimiser.beta2", given.beta2, usual.beta2, fixed),
            (muon, "optimiser.eps", given.eps, usual.eps, fixed),
            (!muon, "optimiser.momentum", given.momentum, usual.momentum, "only muon has it"),
            (
                !wsd,
                "schedule.decay",
                schedule.decay,
                usual_schedule.decay,
                "only warmup-stable-decay has it",
            ),
            (
                constant,
                "schedule.floor",
                schedule.floor,
                usual_schedule.floor,
                "a constant learning rate has none",
            ),
        ] {
            if idle && value != usual {
                let expected = format!("{why}: leave it at {usual}");
                return Err(ConfigError::Invalid { key, value: value.to_string(), expected });
            }
        }
        Ok(())
    }

    /// Refuses paths that its file cannot hold.
    pub(crate) fn check_paths(&self) -> Result<(), ConfigError> {
        let base = self.finetune.iter().map(|from| &from.base);
        let text = self.data.sources.iter().map(|source| &source.corpus);
        base.chain(text).try_for_each(|path| path_in_file(path))
    }

    /// How the trainer computes.
    pub fn training_options(&self) -> TrainingOptions {
        let OptimiserConfig {
            beta1, beta2, eps, momentum, weight_decay, decay, clip, z_loss, ..
        } = self.optimiser;
        TrainingOptions {
            optimiser: match self.optimiser.name {
                OptimiserName::Adam | OptimiserName::AdamW => {
                    Optimiser::AdamW { beta1, beta2, eps, weight_decay, decay }
                }
                OptimiserName::Muon => Optimiser::Muon { momentum, weight_decay, decay },
            },
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

impl ModelConfig {
    /// Key/value heads, resolved.
    fn key_value_heads(&self) -> usize {
        match self.num_key_value_heads {
            0 => self.num_attention_heads,
            heads => heads,
        }
    }

    /// The specification, for sequences of `length` tokens of a tokenizer of `vocabulary` tokens.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] for sizes that do not fit together.
    pub fn spec(&self, vocabulary: usize, length: usize) -> Result<ModelSpec, ConfigError> {
        if self.vocab_size != 0 && self.vocab_size < vocabulary {
            return Err(ConfigError::Invalid {
                key: "model.vocab_size",
                value: self.vocab_size.to_string(),
                expected: format!(
                    "the text's tokenizer has {vocabulary} tokens: give at least as many, or 0 for \
                     exactly as many"
                ),
            });
        }
        if self.num_attention_heads == 0
            || !self.hidden_size.is_multiple_of(self.num_attention_heads)
        {
            return Err(ConfigError::Invalid {
                key: "model.num_attention_heads",
                value: self.num_attention_heads.to_string(),
                expected: format!("it must divide `model.hidden_size`, {}", self.hidden_size),
            });
        }
        let preset = Preset {
            name: "run",
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_attention_heads: self.num_attention_heads,
            num_hidden_layers: self.num_hidden_layers,
            vocab_size: vocabulary.max(self.vocab_size),
            max_position_embeddings: length,
        };
        let mut spec = preset.spec(self.scheme.clone());
        spec.num_key_value_heads = self.key_value_heads();
        spec.tie_word_embeddings = self.tie_word_embeddings;
        spec.embedding_norm = self.embedding_norm;
        if self.qk_norm {
            // The family whose config.json says that heads of q and k are normed.
            (spec.family, spec.qk_norm) = (Family::QWEN3, true);
        }
        // What could not be read again is refused before anything is trained.
        spec.validate().and_then(|()| spec.check_config()).map_err(|error| {
            ConfigError::Malformed { place: "[model]".to_owned(), reason: error.to_string() }
        })?;
        Ok(spec)
    }
}

/// Refuses a path that the settings of a run cannot hold: they are text.
///
/// # Errors
/// [`ConfigError::NotText`].
pub fn path_in_file(path: &Path) -> Result<(), ConfigError> {
    match path.to_str() {
        Some(_) => Ok(()),
        None => Err(ConfigError::NotText { path: path.to_owned() }),
    }
}

/// A scheme's name as the table of its options, in which single ones can be set; what names no scheme
/// stays as it is.
#[must_use]
pub fn scheme_as_table(name: Value) -> Value {
    let scheme = name.as_str().and_then(|name| name.parse::<NormScheme>().ok());
    scheme.and_then(|scheme| Value::try_from(scheme).ok()).unwrap_or(name)
}

/// Lays `over` over `under`, table by table. A scheme with its name is one value: options of another
/// scheme's table do not linger. Options without a name are of the scheme that is there.
fn merge(under: &mut Table, over: &Table) {
    for (key, value) in over {
        if key == "scheme"
            && let Some(there) = under.get_mut(key)
        {
            *there = scheme_as_table(there.clone());
        }
        match (under.get_mut(key), value) {
            (Some(Value::Table(under)), Value::Table(over))
                if key != "scheme" || !over.contains_key("name") =>
            {
                merge(under, over);
            }
            _ => drop(under.insert(key.clone(), value.clone())),
        }
    }
}

/// What is wrong with a file of settings: the error with its line, and what was probably meant. `inside`
/// is the way to the settings in the file.
pub fn explained(error: &toml::de::Error, text: &str, inside: &[&str]) -> String {
    let mut reason = shown(error);
    let table = text.parse::<Table>().unwrap_or_default();
    let settings = inside.iter().try_fold(&table, |table, key| table.get(*key)?.as_table());
    let setting = settings.and_then(misspelt).and_then(|(key, meant)| Some((key, meant?)));
    if let Some((key, meant)) = setting.or_else(|| misspelt_field(error.message())) {
        reason += &format!("\n`{key}`: did you mean `{meant}`?");
    }
    reason
}

/// The name that serde knows no field of, and the one that was probably meant of those it expects.
fn misspelt_field(message: &str) -> Option<(String, String)> {
    let mut names = message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    let given = names.next()?;
    Some((given.to_owned(), meant(given, names)?.to_owned()))
}

/// Dotted keys and values as text.
pub(crate) fn flattened(table: &Table) -> Vec<(String, String)> {
    let mut flat = Vec::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) => {
                let inner = flattened(inner).into_iter();
                flat.extend(inner.map(|(name, value)| (format!("{key}.{name}"), value)));
            }
            other => flat.push((key.clone(), other.to_string())),
        }
    }
    flat
}

#[cfg(test)]
mod tests;
