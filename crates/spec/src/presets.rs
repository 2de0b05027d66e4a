//! The model sizes of the paper's runs (its official configurations, 9M to 7B): LLaMA with an
//! untied head, vocabulary of 32,000, eps 1e-6.

use serde_json::Map;

use crate::{
    Activation, AttentionScale, Family, LayerSpec, ModelSpec, NormKind, NormScheme, Prediction,
    QkNorm, RopeScaling, RopeSpec,
};

/// One size of the paper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preset {
    /// The size as the paper calls it, such as `130m`.
    pub name: &'static str,
    /// Features of the stream.
    pub hidden_size: usize,
    /// Features inside the MLP.
    pub intermediate_size: usize,
    /// Query heads, and as many key/value heads.
    pub num_attention_heads: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Rows of the embedding: 32,000, but 32,100 in the 100M configuration.
    pub vocab_size: usize,
    /// Context in tokens.
    pub max_position_embeddings: usize,
}

const fn preset(
    name: &'static str,
    [hidden_size, intermediate_size, num_attention_heads, num_hidden_layers]: [usize; 4],
) -> Preset {
    Preset {
        name,
        hidden_size,
        intermediate_size,
        num_attention_heads,
        num_hidden_layers,
        vocab_size: 32_000,
        max_position_embeddings: 1024,
    }
}

/// The paper's sizes, smallest first.
pub const PRESETS: [Preset; 13] = [
    preset("9m", [128, 352, 4, 4]),
    preset("20m", [256, 688, 4, 4]),
    preset("35m", [384, 1024, 8, 6]),
    preset("40m", [416, 1024, 8, 8]),
    preset("60m", [512, 1376, 8, 8]),
    preset("71m", [512, 1368, 8, 12]),
    Preset { vocab_size: 32_100, ..preset("100m", [640, 1708, 10, 12]) },
    preset("130m", [768, 2048, 12, 12]),
    preset("250m", [768, 2560, 16, 24]),
    preset("350m", [1024, 2736, 16, 24]),
    preset("1b", [2048, 5461, 32, 24]),
    preset("3b", [2560, 6848, 32, 32]),
    Preset { max_position_embeddings: 2048, ..preset("7b", [4096, 11008, 32, 32]) },
];

impl Preset {
    /// The preset called `name`, if there is one.
    pub fn named(name: &str) -> Option<Self> {
        PRESETS.into_iter().find(|preset| preset.name == name)
    }

    /// The full specification under a norm scheme. [`ModelSpec::validate`] says whether a preset of
    /// one's own fits together.
    pub fn spec(&self, norm_scheme: NormScheme) -> ModelSpec {
        let layers = self.num_hidden_layers;
        ModelSpec {
            family: Family::LLAMA,
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: layers,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_attention_heads,
            head_dim: self.hidden_size.checked_div(self.num_attention_heads).unwrap_or(0),
            max_position_embeddings: self.max_position_embeddings,
            prediction: Prediction::NextToken,
            norm: NormKind::Rms,
            rms_norm_eps: 1e-6,
            learned_positions: false,
            token_types: 0,
            rope: RopeSpec { theta: 10_000.0, scaling: RopeScaling::Default },
            local_rope: None,
            rotary_dim: self.hidden_size.checked_div(self.num_attention_heads).unwrap_or(0),
            rotary_interleaved: false,
            latent: None,
            qkv_bias: false,
            attention_output_bias: false,
            mlp_bias: false,
            qk_norm: QkNorm::None,
            attention_scale: AttentionScale::HeadSize,
            attention_softcap: None,
            attention_sinks: false,
            gated_mlp: true,
            hidden_act: Activation::Silu,
            clamped_gate: None,
            parallel_branches: false,
            embedding_multiplier: 1.0,
            residual_multiplier: 1.0,
            logits_divisor: 1.0,
            logits_softcap: None,
            tie_word_embeddings: false,
            embedding_norm: false,
            norm_scheme,
            per_layer: LayerSpec::unpruned(layers),
            trained_layers: layers,
            other_keys: Map::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_have_the_papers_parameter_counts() {
        // Counted from the sizes of arXiv 2502.05795, Table 1, and its official code, with an
        // untied head and a vocabulary of 32,000.
        for (name, millions) in [("130m", 134.1), ("250m", 247.4), ("350m", 368.0), ("1b", 1339.0)]
        {
            let spec = Preset::named(name).expect(name).spec(NormScheme::pre());
            let got = spec.parameter_count().total() as f64 / 1e6;
            assert!((got - millions).abs() < 0.51, "{name}: {got} M, the paper's is {millions} M");
        }
    }

    #[test]
    fn every_preset_is_a_valid_model_that_survives_config_json() {
        for preset in PRESETS {
            for scheme in [NormScheme::pre(), NormScheme::lns()] {
                let spec = preset.spec(scheme);
                spec.validate().expect(preset.name);
                let back = ModelSpec::from_config(&spec.to_config()).expect(preset.name);
                assert_eq!(back.parameter_count(), spec.parameter_count());
                assert_eq!(back.norm_scheme, spec.norm_scheme);
            }
        }
    }
}
