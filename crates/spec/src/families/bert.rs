//! BERT (Devlin et al., arXiv 1810.04805): an encoder. Post-LN LayerNorms, one of them on the embedding,
//! attention in both directions, learned positions and token types, and where it is there the head that
//! predicts masked tokens.
//!
//! Folders name their class, which says whether there is a head: `BertModel` has none, `BertForMaskedLM` and
//! `BertForPreTraining` have one. What other classes put on top is left out.

use serde_json::{Map, Value, json};

use super::{Description, Family, StoredName, USUAL, common};
use crate::{
    Activation, ModelSpec, NormKind, NormScheme, Prediction, Role, Rotary, Site, SpecError,
    config::keys::{Keys, shown},
};

pub(super) static FAMILY: Description = Description {
    model_type: "bert",
    architecture: "BertForMaskedLM",
    is_encoder: true,
    headless: Some("BertModel"),
    names: &NAMES,
    own_scheme: NormScheme::post,
    norms_embedding: true,
    layer_prefix: "bert.encoder.layer.",
    optional_prefix: "bert.",
    left_out: &["pooler.", "cls.seq_relationship.", "classifier.", "qa_outputs."],
    read,
    write,
    ..USUAL
};

// The norms stand on the sums, and are named as a site's usual norm is.
static NAMES: [StoredName; 16] = [
    StoredName::new(&[Role::Embedding], "bert.embeddings.word_embeddings", ""),
    StoredName::new(&[Role::PositionEmbedding], "bert.embeddings.position_embeddings", ""),
    StoredName::new(&[Role::TokenTypeEmbedding], "bert.embeddings.token_type_embeddings", ""),
    StoredName::new(&[Role::EmbeddingNorm], "bert.embeddings.LayerNorm", ""),
    StoredName::new(&[Role::HeadTransform], "cls.predictions.transform.dense", ""),
    StoredName::new(&[Role::FinalNorm], "cls.predictions.transform.LayerNorm", ""),
    StoredName::new(&[Role::Head], "cls.predictions.decoder", ""),
    StoredName::new(&[Role::HeadBias], "cls.predictions.bias", ""),
    StoredName::new(&[Role::Query], "attention.self.query", ""),
    StoredName::new(&[Role::Key], "attention.self.key", ""),
    StoredName::new(&[Role::Value], "attention.self.value", ""),
    StoredName::new(&[Role::AttentionOutput], "attention.output.dense", ""),
    StoredName::new(&[Role::InputNorm(Site::Attention)], "attention.output.LayerNorm", ""),
    StoredName::new(&[Role::MlpUp], "intermediate.dense", ""),
    StoredName::new(&[Role::MlpDown], "output.dense", ""),
    StoredName::new(&[Role::InputNorm(Site::Mlp)], "output.LayerNorm", ""),
];

/// Classes with the head that predicts masked tokens.
const WITH_HEAD: [&str; 2] = ["BertForMaskedLM", "BertForPreTraining"];

fn read(keys: &mut Keys) -> Result<ModelSpec, SpecError> {
    keys.rename("layer_norm_eps", "rms_norm_eps");
    for key in ["rope_theta", "rope_scaling", "rope_parameters"] {
        common::refuse_key(Family(&FAMILY), keys, key)?;
    }
    refuse_other_functions(keys)?;
    let defaults = common::Defaults {
        max_position_embeddings: 512,
        rms_norm_eps: 1e-12,
        hidden_act: Activation::Gelu,
        tie_word_embeddings: true,
        ..common::Defaults::USUAL
    };
    let prediction = prediction(keys)?;
    if prediction == Prediction::Nothing {
        // Without a head there is nothing to be tied.
        keys.take("tie_word_embeddings");
    }
    let mut spec = common::read(Family(&FAMILY), keys, &defaults)?;
    common::whole_heads(&spec)?;
    spec.prediction = prediction;
    spec.norm = NormKind::LayerNorm;
    spec.embedding_norm = true;
    spec.learned_positions = true;
    spec.token_types = keys.size("type_vocab_size")?.unwrap_or(2);
    spec.gated_mlp = false;
    (spec.qkv_bias, spec.attention_output_bias, spec.mlp_bias) = (true, true, true);
    spec.per_layer.iter_mut().for_each(|layer| layer.rotary = Rotary::None);
    Ok(spec)
}

/// Whether there is a head, as the class says that `architectures` names; without that key there is none.
fn prediction(keys: &Keys) -> Result<Prediction, SpecError> {
    let classes = keys.0.get("architectures").and_then(Value::as_array);
    let classes = classes.into_iter().flatten().filter_map(Value::as_str);
    let mut found = Prediction::Nothing;
    for class in classes.map(|class| class.strip_prefix("Lns").unwrap_or(class)) {
        if class == "BertLMHeadModel" {
            return Err(SpecError::Unsupported {
                key: "architectures".to_owned(),
                value: class.to_owned(),
                why: "a BERT that predicts the next token is not".to_owned(),
            });
        }
        if WITH_HEAD.contains(&class) {
            found = Prediction::MaskedToken;
        }
    }
    Ok(found)
}

/// Refuses what would make another function of the model.
fn refuse_other_functions(keys: &mut Keys) -> Result<(), SpecError> {
    let usual: [(&str, &[Value], &str); 3] = [
        (
            "position_embedding_type",
            &[json!("absolute")],
            "only positions that are added to the embedding are",
        ),
        ("is_decoder", &[json!(false)], "a BERT that sees only what came before is not"),
        ("pruned_heads", &[json!({}), json!([])], "layers of fewer heads than others are not"),
    ];
    for (key, same, why) in usual {
        match keys.take(key) {
            Some(value) if !same.contains(&value) => {
                let (key, value, why) = (key.to_owned(), shown(&value), why.to_owned());
                return Err(SpecError::Unsupported { key, value, why });
            }
            _ => {}
        }
    }
    Ok(())
}

fn write(spec: &ModelSpec, config: &mut Map<String, Value>) {
    for key in ["head_dim", "num_key_value_heads", "rope_theta", "rope_scaling"] {
        config.remove(key);
    }
    common::rename(config, "rms_norm_eps", "layer_norm_eps");
    if spec.token_types > 0 {
        config.insert("type_vocab_size".to_owned(), json!(spec.token_types));
    }
    if spec.hidden_act == Activation::GeluTanh {
        config.insert("hidden_act".to_owned(), json!("gelu_new"));
    }
}
