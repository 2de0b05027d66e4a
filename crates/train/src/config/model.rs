//! `[model]`: the model that is trained from scratch.

use lns_spec::{Family, Initialisation, ModelSpec, NormScheme, Preset, QkNorm};
use serde::{Deserialize, Deserializer, Serialize};
use toml::Value;

use super::ConfigError;
use crate::ranges::{HEADS, HIDDEN, INNER, LAYERS, ROWS, Real, RealSetting, WholeSetting};

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

/// What its whole numbers may be.
pub(crate) const WHOLE: &[WholeSetting] = &[
    ("model.hidden_size", |run| run.model.hidden_size as u64, HIDDEN),
    ("model.intermediate_size", |run| run.model.intermediate_size as u64, INNER),
    ("model.num_hidden_layers", |run| run.model.num_hidden_layers as u64, LAYERS),
    ("model.num_attention_heads", |run| run.model.num_attention_heads as u64, 1..=HEADS),
    ("model.num_key_value_heads", |run| run.model.num_key_value_heads as u64, 0..=HEADS),
    ("model.vocab_size", |run| run.model.vocab_size as u64, ROWS),
];

/// What its other numbers may be.
pub(crate) const REAL: &[RealSetting] =
    &[("model.embedding_std", |run| run.model.embedding_std, Real::NotNegative)];

impl ModelConfig {
    /// Key/value heads, resolved.
    pub(super) fn key_value_heads(&self) -> usize {
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
            (spec.family, spec.qk_norm) = (Family::QWEN3, QkNorm::PerHead);
        }
        // What could not be read again is refused before anything is trained.
        spec.validate().and_then(|()| spec.check_config()).map_err(|error| {
            ConfigError::Malformed { place: "[model]".to_owned(), reason: error.to_string() }
        })?;
        Ok(spec)
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
