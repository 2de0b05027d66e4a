//! `ModelSpec` ⇄ `config.json`.
//!
//! Known keys are taken out of the object one by one; what is left is kept in `other_keys` and
//! written back, so that a round trip loses nothing. A key that would change the function and is
//! not implemented is refused by name.
//!
//! A plain Pre-LN model keeps its family's `model_type`. Any other scheme is written with
//! `model_type` `lns_<family>` and a `norm_scheme` object, so that a stock runtime refuses the
//! checkpoint instead of running it without its scheme.

mod keys;
mod rope;

use serde_json::{Value, json};

use self::{
    keys::{Keys, invalid, shown},
    rope::rope_spec,
};
use crate::{Activation, Depth, Family, ModelSpec, NormScheme, RopeScaling, Sites, SpecError};

/// Keys that change the function, the number at which each does nothing (beside null and false, which
/// never do), and why it is refused.
const UNSUPPORTED: [(&str, Option<f64>, &str); 14] = [
    (
        "quantization_config",
        None,
        "quantised safetensors are not read; use the original or a GGUF file",
    ),
    ("num_experts", Some(0.0), "mixtures of experts are not supported"),
    ("num_local_experts", Some(0.0), "mixtures of experts are not supported"),
    ("n_routed_experts", Some(0.0), "mixtures of experts are not supported"),
    (
        "partial_rotary_factor",
        Some(1.0),
        "rotary embedding of a part of each head is not supported",
    ),
    ("embedding_multiplier", Some(1.0), "scaled embeddings are not supported"),
    ("residual_multiplier", Some(1.0), "scaled residuals are not supported"),
    ("attention_multiplier", None, "a custom attention scale is not supported"),
    ("logits_scaling", Some(1.0), "scaled logits are not supported"),
    ("logit_scale", Some(1.0), "scaled logits are not supported"),
    ("final_logit_softcapping", None, "soft-capped logits are not supported"),
    ("attn_logit_softcapping", None, "soft-capped attention is not supported"),
    ("alibi", None, "ALiBi positions are not supported"),
    ("is_encoder_decoder", None, "encoder-decoder models are not supported"),
];

const SCHEME_PREFIX: &str = "lns_";

impl ModelSpec {
    /// Parses the text of a `config.json`.
    ///
    /// # Errors
    /// Any [`SpecError`].
    pub fn from_config_text(text: &str) -> Result<Self, SpecError> {
        let value: Value = serde_json::from_str(text)
            .map_err(|error| SpecError::NotJson { reason: error.to_string() })?;
        Self::from_config(&value)
    }

    /// Reads a parsed `config.json`.
    ///
    /// # Errors
    /// Any [`SpecError`]: a missing or impossible value, an unknown architecture, an unsupported
    /// key, an unknown norm scheme.
    pub fn from_config(config: &Value) -> Result<Self, SpecError> {
        let Value::Object(map) = config else {
            return Err(SpecError::NotJson { reason: "the top level is not an object".to_owned() });
        };
        let mut keys = Keys(map.clone());
        let (family, norm_scheme, own) = family_and_scheme(&mut keys)?;
        refuse_unsupported(&keys)?;

        let hidden_act = match keys.text("hidden_act")?.as_deref() {
            None | Some("silu" | "swish") => Activation::Silu,
            Some(other) => {
                return Err(SpecError::Unsupported {
                    key: "hidden_act".to_owned(),
                    value: other.to_owned(),
                    why: "only \"silu\" is".to_owned(),
                });
            }
        };
        let hidden_size = keys.required_size("hidden_size")?;
        let num_hidden_layers = keys.required_size("num_hidden_layers")?;
        let num_attention_heads = keys.required_size("num_attention_heads")?;
        // Defaults for absent keys are those of the reference configuration classes.
        let num_key_value_heads = keys.size("num_key_value_heads")?.unwrap_or(match family {
            Family::Llama => num_attention_heads,
            Family::Mistral => 8,
            Family::Qwen2 | Family::Qwen3 => 32,
        });
        let head_dim = match (keys.size("head_dim")?, family) {
            (Some(head_dim), _) => head_dim,
            (None, Family::Qwen3) => 128,
            (None, _) if hidden_size.is_multiple_of(num_attention_heads) => {
                hidden_size / num_attention_heads
            }
            (None, _) => {
                return Err(SpecError::Inconsistent {
                    what: format!(
                        "`hidden_size` ({hidden_size}) is not a multiple of `num_attention_heads` \
                         ({num_attention_heads}) and there is no `head_dim`"
                    ),
                });
            }
        };
        // `max_sequence_length` is what the paper's own configurations call it.
        let max_position_embeddings =
            match (keys.size("max_position_embeddings")?, keys.size("max_sequence_length")?) {
                (Some(length), _) | (None, Some(length)) => length,
                (None, None) => match family {
                    Family::Llama => 2048,
                    Family::Mistral => 131_072,
                    Family::Qwen2 | Family::Qwen3 => 32_768,
                },
            };
        let attention_bias = match family {
            Family::Llama | Family::Qwen3 => keys.flag("attention_bias")?.unwrap_or(false),
            Family::Mistral | Family::Qwen2 => false,
        };
        let mlp_bias = match family {
            Family::Llama => keys.flag("mlp_bias")?.unwrap_or(false),
            Family::Mistral | Family::Qwen2 | Family::Qwen3 => false,
        };
        // Checked here, before anything is made per layer.
        if num_hidden_layers > 1 << 12 {
            return Err(invalid(
                "num_hidden_layers",
                &json!(num_hidden_layers),
                "a number from 1 to 4096",
            ));
        }
        let (depths, trained_layers) = depths(&mut keys, num_hidden_layers)?;
        let branches = branches(&mut keys, num_hidden_layers)?;
        let spec = Self {
            family,
            vocab_size: keys.required_size("vocab_size")?,
            hidden_size,
            intermediate_size: keys.required_size("intermediate_size")?,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            max_position_embeddings,
            rms_norm_eps: keys.number("rms_norm_eps")?.unwrap_or(1e-6),
            rope: rope_spec(&mut keys, max_position_embeddings)?,
            qkv_bias: attention_bias || family == Family::Qwen2,
            attention_output_bias: attention_bias,
            mlp_bias,
            qk_norm: family == Family::Qwen3,
            hidden_act,
            tie_word_embeddings: keys.flag("tie_word_embeddings")?.unwrap_or(false),
            embedding_norm: keys.flag("embedding_norm")?.unwrap_or(false),
            sliding_windows: sliding_windows(&mut keys, family, num_hidden_layers)?,
            norm_scheme,
            depths,
            trained_layers,
            branches,
            other_keys: {
                keys.0.remove("architectures");
                keys.0
            },
        };
        spec.validate()?;
        if !own && !spec.runs_on_stock_runtimes() {
            let (key, does) = if spec.embedding_norm {
                ("embedding_norm", "is true")
            } else {
                ("layer_branches", "leaves out branches")
            };
            return Err(SpecError::Inconsistent {
                what: format!(
                    "`{key}` {does} but `model_type` is \"{0}\", which every other program runs \
                     otherwise; it must be \"{SCHEME_PREFIX}{0}\"",
                    family.model_type()
                ),
            });
        }
        Ok(spec)
    }

    /// The `config.json` of this model: readable by stock runtimes exactly if the scheme is `pre`.
    pub fn to_config(&self) -> Value {
        let mut config = self.other_keys.clone();
        let stock = self.runs_on_stock_runtimes();
        let (prefix, class) = if stock {
            ("", self.family.architecture().to_owned())
        } else {
            (SCHEME_PREFIX, format!("Lns{}", self.family.architecture()))
        };
        let mut put = |key: &str, value: Value| config.insert(key.to_owned(), value);
        put("model_type", json!(format!("{prefix}{}", self.family.model_type())));
        put("architectures", json!([class]));
        if !stock {
            put("norm_scheme", json!(self.norm_scheme));
        }
        if self.trained_layers != self.num_hidden_layers
            || self.depths != Self::unpruned_depths(self.num_hidden_layers)
        {
            put("layer_depths", json!(self.depths));
            put("trained_layers", json!(self.trained_layers));
        }
        if self.branches.iter().any(|branches| *branches != Sites::BOTH) {
            put("layer_branches", json!(self.branches));
        }
        put("vocab_size", json!(self.vocab_size));
        put("hidden_size", json!(self.hidden_size));
        put("intermediate_size", json!(self.intermediate_size));
        put("num_hidden_layers", json!(self.num_hidden_layers));
        put("num_attention_heads", json!(self.num_attention_heads));
        put("num_key_value_heads", json!(self.num_key_value_heads));
        put("head_dim", json!(self.head_dim));
        put("max_position_embeddings", json!(self.max_position_embeddings));
        put("rms_norm_eps", json!(self.rms_norm_eps));
        put("hidden_act", json!("silu"));
        put("tie_word_embeddings", json!(self.tie_word_embeddings));
        if self.embedding_norm {
            put("embedding_norm", json!(true));
        }
        put("rope_theta", json!(self.rope.theta));
        if self.rope.scaling != RopeScaling::Default {
            put("rope_scaling", json!(self.rope.scaling));
        }
        match self.family {
            Family::Llama => {
                put("attention_bias", json!(self.qkv_bias));
                put("mlp_bias", json!(self.mlp_bias));
            }
            Family::Mistral => {
                put("sliding_window", json!(self.sliding_windows.first().copied().flatten()));
            }
            Family::Qwen2 | Family::Qwen3 => {
                if self.family == Family::Qwen3 {
                    put("attention_bias", json!(self.qkv_bias));
                }
                let window = self.sliding_windows.iter().find_map(|window| *window);
                put("use_sliding_window", json!(window.is_some()));
                put("sliding_window", json!(window));
                let types = self.sliding_windows.iter().map(|window| match window {
                    Some(_) => "sliding_attention",
                    None => "full_attention",
                });
                put("layer_types", types.collect());
            }
        }
        Value::Object(config)
    }

    /// Ids that end a text, from `eos_token_id` (a number or a list), within the vocabulary.
    pub fn eos_token_ids(&self) -> Vec<u32> {
        let ids = match self.other_keys.get("eos_token_id") {
            Some(Value::Array(ids)) => ids.iter().collect(),
            Some(id) => vec![id],
            None => Vec::new(),
        };
        ids.into_iter().filter_map(|id| self.token_id(id)).collect()
    }

    /// The id that begins a text, from `bos_token_id`, within the vocabulary.
    pub fn bos_token_id(&self) -> Option<u32> {
        self.other_keys.get("bos_token_id").and_then(|id| self.token_id(id))
    }

    fn token_id(&self, id: &Value) -> Option<u32> {
        let id = id.as_u64().filter(|id| *id < self.vocab_size as u64)?;
        u32::try_from(id).ok()
    }
}

/// Family, scheme, and whether `model_type` is this project's own.
fn family_and_scheme(keys: &mut Keys) -> Result<(Family, NormScheme, bool), SpecError> {
    let model_type = keys
        .text("model_type")?
        .ok_or_else(|| SpecError::Missing { key: "model_type".to_owned() })?;
    let (own, name) = match model_type.strip_prefix(SCHEME_PREFIX) {
        Some(name) => (true, name),
        None => (false, model_type.as_str()),
    };
    let Some(family) = Family::ALL.into_iter().find(|family| family.model_type() == name) else {
        let supported = Family::ALL.map(|family| family.model_type()).join(", ");
        return Err(SpecError::UnknownArchitecture {
            model_type: model_type.clone(),
            supported: format!("{supported}, each also as {SCHEME_PREFIX}<name>"),
        });
    };
    let scheme = keys.take("norm_scheme").as_ref().map(NormScheme::from_json).transpose()?;
    match (own, scheme) {
        (true, Some(scheme)) => Ok((family, scheme, true)),
        (true, None) => Err(SpecError::Missing { key: "norm_scheme".to_owned() }),
        (false, None | Some(NormScheme::Pre {})) => Ok((family, NormScheme::Pre {}, false)),
        (false, Some(scheme)) => Err(SpecError::Inconsistent {
            what: format!(
                "`norm_scheme` is {scheme} but `model_type` is \"{model_type}\", which every other \
                 program runs as Pre-LN; it must be \"{SCHEME_PREFIX}{model_type}\""
            ),
        }),
    }
}

fn refuse_unsupported(keys: &Keys) -> Result<(), SpecError> {
    for (key, neutral, why) in UNSUPPORTED {
        match keys.0.get(key) {
            None | Some(Value::Null | Value::Bool(false)) => {}
            Some(value) if neutral.is_some() && value.as_f64() == neutral => {}
            Some(value) => {
                return Err(SpecError::Unsupported {
                    key: key.to_owned(),
                    value: shown(value),
                    why: why.to_owned(),
                });
            }
        }
    }
    Ok(())
}

fn depths(keys: &mut Keys, layers: usize) -> Result<(Vec<Depth>, usize), SpecError> {
    let trained_layers = keys.size("trained_layers")?.unwrap_or(layers);
    let depths = keys.typed("layer_depths", "a list of whole numbers of at least 1", |value| {
        serde_json::from_value::<Vec<Depth>>(value.clone()).ok()
    })?;
    Ok((depths.unwrap_or_else(|| ModelSpec::unpruned_depths(layers)), trained_layers))
}

fn branches(keys: &mut Keys, layers: usize) -> Result<Vec<Sites>, SpecError> {
    let expected = "a list with [\"attention\", \"mlp\"], or one of them, for each layer";
    let branches = keys.typed("layer_branches", expected, |value| {
        serde_json::from_value::<Vec<Sites>>(value.clone()).ok()
    })?;
    Ok(branches.unwrap_or_else(|| vec![Sites::BOTH; layers]))
}

fn sliding_windows(
    keys: &mut Keys,
    family: Family,
    layers: usize,
) -> Result<Vec<Option<usize>>, SpecError> {
    // Absent and null differ: the reference classes of Mistral and Qwen fall back to 4096.
    let absent = !keys.0.contains_key("sliding_window");
    let window = keys.size("sliding_window")?;
    let window = match family {
        Family::Mistral | Family::Qwen2 | Family::Qwen3 if absent => Some(4096),
        Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3 => window,
    };
    match family {
        Family::Llama => {
            // Llama has no window; a value here belongs to another implementation.
            match window {
                None => Ok(vec![None; layers]),
                Some(window) => Err(SpecError::Unsupported {
                    key: "sliding_window".to_owned(),
                    value: window.to_string(),
                    why: "model_type \"llama\" has no sliding window".to_owned(),
                }),
            }
        }
        Family::Mistral => Ok(vec![window; layers]),
        Family::Qwen2 | Family::Qwen3 => {
            let used = keys.flag("use_sliding_window")?.unwrap_or(false);
            let first = keys.typed("max_window_layers", "a whole number", Value::as_u64)?;
            let types = keys.typed("layer_types", "a list of strings", |value| {
                let list = value.as_array()?;
                list.iter().map(|kind| kind.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
            })?;
            let window = window.filter(|_| used);
            let Some(types) = types else {
                let first = first.unwrap_or(28);
                return Ok((0..layers as u64)
                    .map(|layer| window.filter(|_| layer >= first))
                    .collect());
            };
            types
                .into_iter()
                .map(|kind| match kind.as_str() {
                    "full_attention" => Ok(None),
                    "sliding_attention" if window.is_some() => Ok(window),
                    "sliding_attention" => Err(SpecError::Inconsistent {
                        what: "`layer_types` has \"sliding_attention\" but no window is in use"
                            .to_owned(),
                    }),
                    other => Err(SpecError::Unsupported {
                        key: "layer_types".to_owned(),
                        value: other.to_owned(),
                        why: "only full_attention and sliding_attention are".to_owned(),
                    }),
                })
                .collect()
        }
    }
}

#[cfg(test)]
mod tests;
