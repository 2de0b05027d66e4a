//! `ModelSpec` ⇄ `config.json`.
//!
//! Known keys are taken out of the object one by one; what is left is kept in `other_keys` and
//! written back, so that a round trip loses nothing. A key that would change the function and is
//! not implemented is refused by name.
//!
//! A plain Pre-LN model keeps its family's `model_type`. Any other scheme is written with
//! `model_type` `lns_<family>` and a `norm_scheme` object, so that a stock runtime refuses the
//! checkpoint instead of running it without its scheme.

use serde_json::{Map, Value, json};

use crate::{
    Activation, Depth, Family, ModelSpec, NormScheme, RopeScaling, RopeSpec, SpecError, rope,
};

/// Keys whose presence (with a value that is not neutral) changes the function.
const UNSUPPORTED: [(&str, &str); 14] = [
    ("quantization_config", "quantised safetensors are not read; use the original or a GGUF file"),
    ("num_experts", "mixtures of experts are not supported"),
    ("num_local_experts", "mixtures of experts are not supported"),
    ("n_routed_experts", "mixtures of experts are not supported"),
    ("partial_rotary_factor", "rotary embedding of a part of each head is not supported"),
    ("embedding_multiplier", "scaled embeddings are not supported"),
    ("residual_multiplier", "scaled residuals are not supported"),
    ("attention_multiplier", "a custom attention scale is not supported"),
    ("logits_scaling", "scaled logits are not supported"),
    ("logit_scale", "scaled logits are not supported"),
    ("final_logit_softcapping", "soft-capped logits are not supported"),
    ("attn_logit_softcapping", "soft-capped attention is not supported"),
    ("alibi", "ALiBi positions are not supported"),
    ("is_encoder_decoder", "encoder-decoder models are not supported"),
];

const SCHEME_PREFIX: &str = "lns_";

/// Takes typed values out of a JSON object.
struct Keys(Map<String, Value>);

impl Keys {
    fn take(&mut self, key: &str) -> Option<Value> {
        self.0.remove(key).filter(|value| !value.is_null())
    }

    fn typed<T>(
        &mut self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, SpecError> {
        let Some(value) = self.take(key) else { return Ok(None) };
        read(&value).map(Some).ok_or_else(|| invalid(key, &value, expected))
    }

    fn size(&mut self, key: &str) -> Result<Option<usize>, SpecError> {
        self.typed(key, "a whole number of at least 1", |value| {
            value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0)
        })
    }

    fn required_size(&mut self, key: &str) -> Result<usize, SpecError> {
        self.size(key)?.ok_or_else(|| SpecError::Missing { key: key.to_owned() })
    }

    fn number(&mut self, key: &str) -> Result<Option<f64>, SpecError> {
        self.typed(key, "a number", |value| value.as_f64().filter(|n| n.is_finite()))
    }

    fn required_number(&mut self, key: &str) -> Result<f64, SpecError> {
        self.number(key)?.ok_or_else(|| SpecError::Missing { key: key.to_owned() })
    }

    fn flag(&mut self, key: &str) -> Result<Option<bool>, SpecError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    fn text(&mut self, key: &str) -> Result<Option<String>, SpecError> {
        self.typed(key, "a string", |value| value.as_str().map(str::to_owned))
    }
}

fn invalid(key: &str, value: &Value, expected: &str) -> SpecError {
    let mut shown = value.to_string();
    if shown.chars().count() > 80 {
        shown = shown.chars().take(77).chain("...".chars()).collect();
    }
    SpecError::Invalid { key: key.to_owned(), value: shown, expected: expected.to_owned() }
}

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
        let (family, norm_scheme) = family_and_scheme(&mut keys)?;
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
            sliding_windows: sliding_windows(&mut keys, family, num_hidden_layers)?,
            norm_scheme,
            depths,
            trained_layers,
            other_keys: {
                keys.0.remove("architectures");
                keys.0
            },
        };
        spec.validate()?;
        Ok(spec)
    }

    /// The `config.json` of this model: readable by stock runtimes exactly if the scheme is `pre`.
    pub fn to_config(&self) -> Value {
        let mut config = self.other_keys.clone();
        let stock = self.norm_scheme.runs_on_stock_runtimes();
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

fn family_and_scheme(keys: &mut Keys) -> Result<(Family, NormScheme), SpecError> {
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
        (true, Some(scheme)) => Ok((family, scheme)),
        (true, None) => Err(SpecError::Missing { key: "norm_scheme".to_owned() }),
        (false, None | Some(NormScheme::Pre {})) => Ok((family, NormScheme::Pre {})),
        (false, Some(scheme)) => Err(SpecError::Inconsistent {
            what: format!(
                "`norm_scheme` is {scheme} but `model_type` is \"{model_type}\", which every other \
                 program runs as Pre-LN; it must be \"{SCHEME_PREFIX}{model_type}\""
            ),
        }),
    }
}

fn refuse_unsupported(keys: &Keys) -> Result<(), SpecError> {
    for (key, why) in UNSUPPORTED {
        match keys.0.get(key) {
            None | Some(Value::Null | Value::Bool(false)) => {}
            // A factor of one does nothing; a count of none is none.
            Some(value) if value.as_f64() == Some(1.0) && !key.contains("expert") => {}
            Some(value) if value.as_f64() == Some(0.0) && key.contains("expert") => {}
            Some(value) => {
                let SpecError::Invalid { value, .. } = invalid(key, value, "") else { continue };
                return Err(SpecError::Unsupported {
                    key: key.to_owned(),
                    value,
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

/// `rope_parameters` (newer files) or `rope_theta` with `rope_scaling` (older ones).
fn rope_spec(keys: &mut Keys, max_position_embeddings: usize) -> Result<RopeSpec, SpecError> {
    let object = |key: &str, value: Option<Value>| match value {
        None => Ok(Keys(Map::new())),
        Some(Value::Object(map)) => Ok(Keys(map)),
        Some(value) => Err(invalid(key, &value, "an object")),
    };
    let parameters = keys.take("rope_parameters");
    let scaling = keys.take("rope_scaling");
    let outer_theta = keys.number("rope_theta")?;
    let name = if parameters.is_some() { "rope_parameters" } else { "rope_scaling" };
    let mut inner = object(name, parameters.or(scaling))?;
    let theta = inner.number("rope_theta")?.or(outer_theta).unwrap_or(10_000.0);
    let older_name = inner.text("type")?;
    let kind = inner.text("rope_type")?.or(older_name).unwrap_or_else(|| "default".to_owned());
    let in_object = |error: SpecError| match error {
        SpecError::Missing { key } => SpecError::Missing { key: format!("{name}.{key}") },
        SpecError::Invalid { key, value, expected } => {
            SpecError::Invalid { key: format!("{name}.{key}"), value, expected }
        }
        other => other,
    };
    let scaling = rope_scaling(&kind, &mut inner, max_position_embeddings).map_err(in_object)?;
    if let Some(partial) = inner.number("partial_rotary_factor").map_err(in_object)?
        && partial != 1.0
    {
        return Err(SpecError::Unsupported {
            key: format!("{name}.partial_rotary_factor"),
            value: partial.to_string(),
            why: "rotary embedding of a part of each head is not supported".to_owned(),
        });
    }
    Ok(RopeSpec { theta, scaling })
}

fn rope_scaling(
    kind: &str,
    keys: &mut Keys,
    max_position_embeddings: usize,
) -> Result<RopeScaling, SpecError> {
    let positive = |key: &str, value: f64| {
        if value > 0.0 { Ok(value) } else { Err(invalid(key, &json!(value), "a number above 0")) }
    };
    let factor = |keys: &mut Keys| positive("factor", keys.required_number("factor")?);
    let original = |keys: &mut Keys| -> Result<f64, SpecError> {
        let given = keys.number("original_max_position_embeddings")?;
        positive(
            "original_max_position_embeddings",
            given.unwrap_or(max_position_embeddings as f64),
        )
    };
    let scaling = match kind {
        "default" => RopeScaling::Default,
        "linear" => RopeScaling::Linear { factor: factor(keys)? },
        "dynamic" => RopeScaling::Dynamic { factor: factor(keys)? },
        "llama3" => RopeScaling::Llama3 {
            factor: factor(keys)?,
            low_freq_factor: positive("low_freq_factor", keys.required_number("low_freq_factor")?)?,
            high_freq_factor: positive(
                "high_freq_factor",
                keys.required_number("high_freq_factor")?,
            )?,
            original_max_position_embeddings: original(keys)?,
        },
        "yarn" => {
            let factor = factor(keys)?;
            let (mscale, all) = (keys.number("mscale")?, keys.number("mscale_all_dim")?);
            let inferred = match (mscale, all) {
                (Some(mscale), Some(all)) if mscale != 0.0 && all != 0.0 => {
                    rope::yarn_mscale(factor, mscale) / rope::yarn_mscale(factor, all)
                }
                _ => rope::yarn_mscale(factor, 1.0),
            };
            RopeScaling::Yarn {
                factor,
                original_max_position_embeddings: original(keys)?,
                beta_fast: keys.number("beta_fast")?.unwrap_or(32.0),
                beta_slow: keys.number("beta_slow")?.unwrap_or(1.0),
                attention_factor: keys.number("attention_factor")?.unwrap_or(inferred),
                truncate: keys.flag("truncate")?.unwrap_or(true),
            }
        }
        other => {
            return Err(SpecError::Unsupported {
                key: "rope_type".to_owned(),
                value: other.to_owned(),
                why: "only default, linear, dynamic, llama3 and yarn are".to_owned(),
            });
        }
    };
    match scaling {
        RopeScaling::Llama3 { low_freq_factor: low, high_freq_factor: high, .. } if low >= high => {
            Err(invalid("high_freq_factor", &json!(high), "more than `low_freq_factor`"))
        }
        RopeScaling::Yarn { beta_fast, beta_slow, .. }
            if !(beta_fast > beta_slow && beta_slow > 0.0) =>
        {
            Err(invalid("beta_fast", &json!(beta_fast), "more than `beta_slow`, both above 0"))
        }
        RopeScaling::Yarn { attention_factor, .. } if attention_factor <= 0.0 => {
            Err(invalid("attention_factor", &json!(attention_factor), "a number above 0"))
        }
        scaling => Ok(scaling),
    }
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
mod tests {
    use super::*;
    use crate::{LayerIndex, Residual, Site};

    fn llama() -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 96,
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "torch_dtype": "bfloat16", "made_by": {"a": [1, 2]},
            "eos_token_id": [2, 95, 96]
        })
    }

    fn with(changes: &[(&str, Value)]) -> Value {
        let mut config = llama();
        for (key, value) in changes {
            config[*key] = value.clone();
        }
        config
    }

    fn refused(changes: &[(&str, Value)]) -> String {
        let error = ModelSpec::from_config(&with(changes)).expect_err("must be refused");
        error.to_string()
    }

    #[test]
    fn unknown_keys_survive_a_round_trip() {
        let spec = ModelSpec::from_config(&llama()).expect("a valid config");
        let written = spec.to_config();
        assert_eq!(written["made_by"], json!({"a": [1, 2]}));
        assert_eq!(written["torch_dtype"], "bfloat16");
        assert_eq!(written["architectures"], json!(["LlamaForCausalLM"]));
        assert_eq!(ModelSpec::from_config(&written).expect("reads back"), spec);
        assert_eq!(spec.eos_token_ids(), [2, 95], "ids beyond the vocabulary are dropped");
    }

    #[test]
    fn another_scheme_gets_its_own_model_type_and_comes_back() {
        let mut spec = ModelSpec::from_config(&llama()).expect("a valid config");
        spec.norm_scheme = NormScheme::lns();
        let written = spec.to_config();
        assert_eq!(written["model_type"], "lns_llama");
        assert_eq!(written["architectures"], json!(["LnsLlamaForCausalLM"]));
        assert_eq!(written["norm_scheme"]["name"], "lns");
        assert_eq!(ModelSpec::from_config(&written).expect("reads back"), spec);
    }

    #[test]
    fn a_scheme_hidden_in_a_stock_model_type_is_refused() {
        let message = refused(&[("norm_scheme", json!({"name": "lns"}))]);
        assert!(message.contains("lns_llama"), "{message}");
        let message = refused(&[("model_type", json!("lns_llama"))]);
        assert!(message.contains("norm_scheme"), "{message}");
        let message =
            refused(&[("model_type", json!("lns_llama")), ("norm_scheme", json!({"name": "LNS"}))]);
        assert!(message.contains("known schemes"), "{message}");
    }

    #[test]
    fn a_pruned_model_keeps_each_layers_depth() {
        let config = with(&[
            ("model_type", json!("lns_llama")),
            ("norm_scheme", json!({"name": "lns"})),
            ("layer_depths", json!([1, 3, 6])),
            ("trained_layers", json!(6)),
        ]);
        let spec = ModelSpec::from_config(&config).expect("a valid pruned model");
        let last = spec.residual(LayerIndex::new(2), Site::Mlp);
        assert!(
            matches!(last, Residual::Pre { output_scale, .. } if output_scale == 1.0 / 6f64.sqrt())
        );
        assert_eq!(ModelSpec::from_config(&spec.to_config()).expect("reads back"), spec);
        for bad in [json!([1, 2]), json!([0, 1, 2]), json!([1, 2, 7]), json!([3, 2, 1]), json!("x")]
        {
            refused(&[("layer_depths", bad), ("trained_layers", json!(6))]);
        }
    }

    #[test]
    fn impossible_values_are_refused_by_key() {
        for (key, value) in [
            ("num_attention_heads", json!(0)),
            ("num_attention_heads", json!(5)),
            ("num_attention_heads", json!(-4)),
            ("num_attention_heads", json!(4.5)),
            ("num_key_value_heads", json!(3)),
            ("num_hidden_layers", json!(1u64 << 60)),
            ("hidden_size", json!("32")),
            ("head_dim", json!(7)),
            ("vocab_size", json!(null)),
            ("rms_norm_eps", json!(0.0)),
            ("rope_theta", json!(-1)),
            ("hidden_act", json!("gelu")),
            ("quantization_config", json!({"bits": 4})),
            ("num_local_experts", json!(8)),
            ("partial_rotary_factor", json!(0.5)),
            ("sliding_window", json!(16)),
            ("residual_multiplier", json!(0)),
            ("alibi", json!(true)),
            ("rope_scaling", json!({"type": "yarn", "factor": 2.0, "beta_fast": 0})),
            (
                "rope_scaling",
                json!({"type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}),
            ),
            ("rope_scaling", json!({"type": "longrope", "factor": 2.0})),
            ("rope_scaling", json!({"type": "linear"})),
            ("rope_scaling", json!({"type": "linear", "factor": 0})),
            ("rope_scaling", json!([1])),
        ] {
            let message = refused(&[(key, value.clone())]);
            let named =
                ["rope_type", "num_attention_heads", key].iter().any(|k| message.contains(k));
            assert!(named, "{key} = {value}: {message}");
        }
        let message = refused(&[("model_type", json!("gpt2"))]);
        assert!(message.contains("gpt2") && message.contains("qwen3"), "{message}");
        assert!(ModelSpec::from_config_text("{").is_err());
        assert!(ModelSpec::from_config_text("[]").is_err());
    }

    #[test]
    fn families_have_their_own_biases_norms_and_windows() {
        let qwen2 = with(&[
            ("model_type", json!("qwen2")),
            ("use_sliding_window", json!(true)),
            ("sliding_window", json!(8)),
            ("max_window_layers", json!(2)),
        ]);
        let spec = ModelSpec::from_config(&qwen2).expect("valid qwen2");
        assert!(spec.qkv_bias && !spec.attention_output_bias && !spec.qk_norm);
        assert_eq!(spec.sliding_windows, [None, None, Some(8)]);
        assert_eq!(ModelSpec::from_config(&spec.to_config()).expect("reads back"), spec);

        let qwen3 = with(&[("model_type", json!("qwen3")), ("head_dim", json!(16))]);
        let spec = ModelSpec::from_config(&qwen3).expect("valid qwen3");
        assert!(spec.qk_norm && !spec.qkv_bias);
        assert_eq!(spec.query_size(), 64);

        let mistral = with(&[("model_type", json!("mistral")), ("sliding_window", json!(16))]);
        let spec = ModelSpec::from_config(&mistral).expect("valid mistral");
        assert_eq!(spec.sliding_windows, [Some(16); 3]);
        for (value, expected) in [(Some(json!(null)), None), (None, Some(4096))] {
            let mut config = mistral.clone();
            match value {
                Some(value) => config["sliding_window"] = value,
                None => drop(config.as_object_mut().and_then(|map| map.remove("sliding_window"))),
            }
            let spec = ModelSpec::from_config(&config).expect("valid mistral");
            assert_eq!(spec.sliding_windows, [expected; 3], "absent is the reference's 4096");
        }
        let spec = ModelSpec::from_config(&mistral).expect("valid mistral");
        assert_eq!(ModelSpec::from_config(&spec.to_config()).expect("reads back"), spec);
    }

    #[test]
    fn rope_is_read_from_either_spelling() {
        let newer = with(&[(
            "rope_parameters",
            json!({"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}),
        )]);
        let spec = ModelSpec::from_config(&newer).expect("newer spelling");
        assert_eq!(
            spec.rope,
            RopeSpec { theta: 5e5, scaling: RopeScaling::Linear { factor: 2.0 } }
        );
        let older = with(&[("rope_scaling", json!({"type": "linear", "factor": 2.0}))]);
        let spec = ModelSpec::from_config(&older).expect("older spelling");
        assert_eq!(spec.rope.scaling, RopeScaling::Linear { factor: 2.0 });
        assert_eq!(ModelSpec::from_config(&spec.to_config()).expect("reads back"), spec);
    }

    #[test]
    fn parameter_count_is_the_sum_of_the_tensors() {
        let spec = ModelSpec::from_config(&llama()).expect("a valid config");
        let sum: usize = spec.tensors().iter().map(|t| t.shape.iter().product::<usize>()).sum();
        assert_eq!(spec.parameter_count().total(), sum as u64);
        let layer = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 48 + 2 * 32;
        assert_eq!(sum, 2 * 96 * 32 + 32 + 3 * layer);
    }
}
