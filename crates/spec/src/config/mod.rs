//! `ModelSpec` ⇄ `config.json`.
//!
//! Known keys are taken out of the object one by one; what is left is kept in `other_keys` and
//! written back, so that a round trip loses nothing. A key that would change the function and is
//! not implemented is refused by name.
//!
//! A stock model keeps its family's `model_type`. Any other scheme is written with
//! `model_type` `lns_<family>` and a `norm_scheme` object, so that a stock runtime refuses the
//! checkpoint instead of running it without its scheme.

pub(crate) mod keys;
pub(crate) mod rope;

use lns_show::counted;
use serde_json::{Map, Value, json};

use self::keys::{Keys, shown};
use crate::{Depth, Family, LayerSpec, ModelSpec, NormScheme, RopeScaling, Sites, SpecError};

/// Keys that change the function, the number at which each does nothing (beside null and false, which
/// never do), and why it is refused.
const UNSUPPORTED: [(&str, Option<f64>, &str); 18] = [
    (
        "quantization_config",
        None,
        "it says how files are stored, which only a reader of files can heed",
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
    ("swiglu_limit", None, "a clamped gate of the MLP is not supported"),
    ("swiglu_alpha", None, "a clamped gate of the MLP is not supported"),
    ("alibi", None, "ALiBi positions are not supported"),
    ("use_bidirectional_attention", None, "attention in both directions is not supported"),
    ("add_cross_attention", None, "attention to another model's output is not supported"),
    ("is_encoder_decoder", None, "encoder-decoder models are not supported"),
];

const SCHEME_PREFIX: &str = "lns_";

impl ModelSpec {
    /// The specification that the text of a `config.json` describes.
    ///
    /// # Errors
    /// Any [`SpecError`].
    pub fn from_config_text(text: &str) -> Result<Self, SpecError> {
        let value: Value = serde_json::from_str(text)
            .map_err(|error| SpecError::NotJson { reason: error.to_string() })?;
        Self::from_config(&value)
    }

    /// The specification that a parsed `config.json` describes.
    ///
    /// # Errors
    /// Any [`SpecError`]: a missing or impossible value, an unknown architecture, an unsupported
    /// key, an unknown norm scheme.
    pub fn from_config(config: &Value) -> Result<Self, SpecError> {
        let Value::Object(map) = config else {
            return Err(SpecError::NotJson { reason: "the top level is not an object".to_owned() });
        };
        let mut keys = Keys(of_the_text_model(map.clone()));
        let (family, norm_scheme, own) = family_and_scheme(&mut keys)?;
        refuse_unsupported(&keys, family)?;

        let mut spec = family.read(&mut keys)?;
        spec.norm_scheme = norm_scheme;
        spec.embedding_norm =
            keys.flag("embedding_norm")?.unwrap_or_else(|| family.norms_embedding());
        spec.trained_layers = keys.size("trained_layers")?.unwrap_or(spec.num_hidden_layers);
        for_each_layer(
            &mut keys,
            "layer_depths",
            "a list of whole numbers of at least 1",
            &mut spec.per_layer,
            |layer, depth: Depth| layer.depth = depth,
        )?;
        for_each_layer(
            &mut keys,
            "layer_branches",
            "a list with [\"attention\", \"mlp\"], or one of them, for each layer",
            &mut spec.per_layer,
            |layer, branches: Sites| layer.branches = branches,
        )?;
        keys.0.remove("architectures");
        spec.other_keys = keys.0;
        spec.validate()?;
        if !own && !spec.is_stock() {
            let (key, does) = if spec.embedding_norm != family.norms_embedding() {
                ("embedding_norm", if spec.embedding_norm { "is true" } else { "is false" })
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

    /// The `config.json` of this model: readable by stock runtimes exactly if the model is
    /// [stock](Self::is_stock).
    pub fn to_config(&self) -> Value {
        let mut config = self.other_keys.clone();
        let stock = self.is_stock();
        let class = self.family.architecture(self.has_head());
        let (prefix, class) = match stock {
            true => ("", class.to_owned()),
            false => (SCHEME_PREFIX, format!("Lns{class}")),
        };
        let mut put = |key: &str, value: Value| config.insert(key.to_owned(), value);
        put("model_type", json!(format!("{prefix}{}", self.family.model_type())));
        put("architectures", json!([class]));
        if !stock {
            put("norm_scheme", json!(self.norm_scheme));
        }
        if !self.is_unpruned() {
            let depths = self.per_layer.iter().map(|layer| json!(layer.depth));
            put("layer_depths", depths.collect());
            put("trained_layers", json!(self.trained_layers));
        }
        if !self.has_all_branches() {
            let branches = self.per_layer.iter().map(|layer| json!(layer.branches));
            put("layer_branches", branches.collect());
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
        put("hidden_act", json!(self.hidden_act.name()));
        put("tie_word_embeddings", json!(self.tie_word_embeddings));
        if self.embedding_norm != self.family.norms_embedding() {
            put("embedding_norm", json!(self.embedding_norm));
        }
        put("rope_theta", json!(self.rope.theta));
        if self.rope.scaling != RopeScaling::Default {
            put("rope_scaling", json!(self.rope.scaling));
        }
        self.family.write(self, &mut config);
        Value::Object(config)
    }

    /// Checks that `config.json` can say all of this model, so that what is written is read again as it
    /// was. A family's file has no place for another family's biases, head norms or windows.
    ///
    /// # Errors
    /// [`SpecError::Unwritable`], naming what would be lost; any other that reading would give.
    pub fn check_config(&self) -> Result<(), SpecError> {
        let again = Self::from_config(&self.to_config())?;
        if again == *self {
            return Ok(());
        }
        let fields = |spec: &Self| match serde_json::to_value(spec) {
            Ok(Value::Object(fields)) => fields,
            _ => Map::new(),
        };
        let (wanted, found) = (fields(self), fields(&again));
        let lost = wanted.iter().filter(|(key, value)| found.get(*key) != Some(*value));
        Err(SpecError::Unwritable {
            model_type: self.family.model_type(),
            lost: lost
                .map(|(key, value)| format!("{key} = {}", shown(value)))
                .collect::<Vec<_>>()
                .join(", "),
        })
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

/// The family, the scheme, and whether `model_type` is this project's own.
fn family_and_scheme(keys: &mut Keys) -> Result<(Family, NormScheme, bool), SpecError> {
    let model_type = keys
        .text("model_type")?
        .ok_or_else(|| SpecError::Missing { key: "model_type".to_owned() })?;
    let (own, name) = match model_type.strip_prefix(SCHEME_PREFIX) {
        Some(name) => (true, name),
        None => (false, model_type.as_str()),
    };
    let Some(family) = Family::named(name) else {
        let supported: Vec<&str> = Family::all().map(Family::model_type).collect();
        return Err(SpecError::UnknownArchitecture {
            model_type: model_type.clone(),
            supported: format!("{}, each also as {SCHEME_PREFIX}<name>", supported.join(", ")),
        });
    };
    let scheme = keys.take("norm_scheme").as_ref().map(NormScheme::from_json).transpose()?;
    let usual = family.own_scheme();
    match (own, scheme) {
        (true, Some(scheme)) => Ok((family, scheme, true)),
        (true, None) => Err(SpecError::Missing { key: "norm_scheme".to_owned() }),
        (false, None) => Ok((family, usual, false)),
        (false, Some(scheme)) if scheme == usual => Ok((family, usual, false)),
        (false, Some(scheme)) => Err(SpecError::Inconsistent {
            what: format!(
                "`norm_scheme` is {scheme} but `model_type` is \"{model_type}\", which every other \
                 program runs as {usual}; it must be \"{SCHEME_PREFIX}{model_type}\""
            ),
        }),
    }
}

/// The `config.json` of the text model, where that is inside one with other modalities.
fn of_the_text_model(mut outer: Map<String, Value>) -> Map<String, Value> {
    let family = outer.get("model_type").and_then(Value::as_str).and_then(Family::inside);
    match (family, outer.remove("text_config")) {
        (Some(family), Some(Value::Object(mut text))) => {
            for key in
                ["bos_token_id", "eos_token_id", "tie_word_embeddings", "quantization_config"]
            {
                if let Some(value) = outer.remove(key) {
                    text.entry(key).or_insert(value);
                }
            }
            text.insert("model_type".to_owned(), json!(family.model_type()));
            text
        }
        (_, text) => {
            outer.extend(text.map(|text| ("text_config".to_owned(), text)));
            outer
        }
    }
}

fn refuse_unsupported(keys: &Keys, family: Family) -> Result<(), SpecError> {
    for (key, neutral, why) in UNSUPPORTED {
        match keys.0.get(key) {
            _ if family.computes(key) => {}
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

/// Puts a list with one entry for each layer where it belongs, if there is one.
fn for_each_layer<T: serde::de::DeserializeOwned>(
    keys: &mut Keys,
    key: &str,
    expected: &str,
    layers: &mut [LayerSpec],
    put: impl Fn(&mut LayerSpec, T),
) -> Result<(), SpecError> {
    let list =
        keys.typed(key, expected, |value| serde_json::from_value::<Vec<T>>(value.clone()).ok())?;
    let Some(list) = list else { return Ok(()) };
    if list.len() != layers.len() {
        let (values, layers) = (counted(list.len(), "value"), counted(layers.len(), "layer"));
        let what = format!("`{key}` lists {values} for {layers}");
        return Err(SpecError::Inconsistent { what });
    }
    layers.iter_mut().zip(list).for_each(|(layer, entry)| put(layer, entry));
    Ok(())
}

#[cfg(test)]
mod tests;
