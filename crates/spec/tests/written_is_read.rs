//! Whatever `config.json` is said to hold comes back from it, for every family, scheme and setting.

use lns_spec::{
    Anneal, DepthScale, Family, LayerIndex, ModelSpec, NormScheme, Placement, Preset, Removal,
    Site, Sites, SpecError,
    schemes::{BranchRule, BranchScale, Keel, LayerScale, MixLn, Progressive},
};
use proptest::prelude::*;
use serde_json::json;

const LAYERS: usize = 4;

/// Every scheme by name, and those with options with any.
fn scheme() -> impl Strategy<Value = NormScheme> {
    let named = prop::sample::select(
        NormScheme::named().into_iter().map(|(_, scheme)| scheme).collect::<Vec<_>>(),
    );
    let sites = prop::sample::select(vec![
        Sites::BOTH,
        Sites { attention: true, mlp: false },
        Sites { attention: false, mlp: true },
    ]);
    let anneal = prop::option::of((-8f64..8.0, 1u64..1000))
        .prop_map(|anneal| anneal.map(|(exponent, steps)| Anneal { exponent, steps }));
    let placement = prop::sample::select(vec![Placement::Output, Placement::Input]);
    let lns = (-8f64..8.0, sites, placement, 0u32..4, anneal).prop_map(
        |(exponent, sites, placement, first_layer, anneal)| {
            NormScheme::Lns(DepthScale { exponent, sites, placement, first_layer, anneal })
        },
    );
    let rules = vec![BranchRule::SqrtDepth, BranchRule::SqrtLayers, BranchRule::Layers];
    prop_oneof![
        named,
        lns,
        (0f64..=1.0).prop_map(|post_fraction| NormScheme::MixLn(MixLn { post_fraction })),
        prop::sample::select(rules).prop_map(|rule| NormScheme::BranchScale(BranchScale { rule })),
        (-8f64..8.0).prop_map(|init| NormScheme::LayerScale(LayerScale { init })),
        prop::option::of(0.01f64..1e4).prop_map(|alpha| NormScheme::Keel(Keel { alpha })),
        (1u64..2000, 0u64..2000)
            .prop_map(|(steps, taken)| NormScheme::Progressive(Progressive { steps, taken })),
    ]
}

/// A model with any setting of any family, whether or not the family knows the setting.
fn model() -> impl Strategy<Value = ModelSpec> {
    let families: Vec<Family> = Family::all().collect();
    let switches = prop::array::uniform7(any::<bool>());
    let window = prop::option::of(1usize..9);
    let removed = prop::option::of((0..LAYERS, prop::option::of(any::<bool>())));
    (prop::sample::select(families), scheme(), switches, window, removed).prop_map(
        |(family, norm_scheme, switches, window, removed)| {
            let preset = Preset {
                name: "any",
                hidden_size: 16,
                intermediate_size: 24,
                num_attention_heads: 4,
                num_hidden_layers: LAYERS,
                vocab_size: 32,
                max_position_embeddings: 64,
            };
            let mut spec = preset.spec(norm_scheme);
            spec.family = family;
            spec.num_key_value_heads = 2;
            let some_layers = switches[6];
            [
                spec.qkv_bias,
                spec.attention_output_bias,
                spec.mlp_bias,
                spec.qk_norm,
                spec.tie_word_embeddings,
                spec.embedding_norm,
            ] = [switches[0], switches[1], switches[2], switches[3], switches[4], switches[5]];
            for (index, layer) in spec.per_layer.iter_mut().enumerate() {
                layer.attention_window = window.filter(|_| !some_layers || index % 2 == 0);
            }
            let removal = removed.map(|(layer, site)| Removal {
                layer: LayerIndex::new(layer),
                branch: site.map(|mlp| if mlp { Site::Mlp } else { Site::Attention }),
            });
            match removal.map(|removal| spec.without(&[removal])) {
                Some(Ok((pruned, _))) => pruned,
                _ => spec,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_a_config_can_say_comes_back_and_what_it_cannot_is_refused(spec in model()) {
        match spec.check_config() {
            Ok(()) => {
                let again = ModelSpec::from_config(&spec.to_config()).expect("reads back");
                prop_assert_eq!(&again, &spec);
                prop_assert_eq!(again.tensors(), spec.tensors());
                // Stock runtimes get stock models only.
                let model_type = spec.to_config()["model_type"].as_str().unwrap_or("").to_owned();
                prop_assert_eq!(spec.is_stock(), model_type == spec.family.model_type());
            }
            Err(SpecError::Unwritable { lost, .. }) => prop_assert!(!lost.is_empty()),
            Err(error) => {
                // Only what no reader takes may fail otherwise.
                prop_assert!(spec.validate().is_err(), "{} is valid: {}", spec, error);
            }
        }
    }
}

#[test]
fn every_family_can_say_a_stock_model_and_every_scheme() {
    for family in Family::all() {
        for (name, scheme) in NormScheme::named() {
            let config = json!({
                "model_type": format!("lns_{}", family.model_type()), "norm_scheme": scheme,
                "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "head_dim": 4,
                "num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2,
            });
            let spec = ModelSpec::from_config(&config).expect(name);
            assert_eq!(spec.check_config(), Ok(()), "{name}");
            let mut names: Vec<String> =
                spec.stored_tensors().into_iter().map(|tensor| tensor.name).collect();
            names.sort();
            assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{name}: a name stands twice");
            assert!(names.iter().all(|name| !name.contains("..")), "{name}: a role has no name");
        }
    }
}
