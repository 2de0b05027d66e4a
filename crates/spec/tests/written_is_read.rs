//! Whatever `config.json` is said to hold comes back from it, for every family, scheme and setting.

use lns_spec::{
    Activation, Anneal, AttentionScale, Block, ClampedGate, DepthScale, ExpertGroups, ExpertsSpec,
    Family, LatentSpec, LayerIndex, ModelSpec, NormKind, NormScheme, Placement, Prediction, Preset,
    QkNorm, Removal, RopeScaling, RopeSpec, Rotary, Router, Site, Sites, SpecError,
    schemes::{BranchRule, BranchScale, Keel, LayerScale, MixLn, Progressive},
};
use proptest::prelude::*;
use serde_json::{Value, json};

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
    let blocks = prop::sample::select(vec![Block::Pre, Block::Sandwich, Block::SandwichInput]);
    let lns = (-8f64..8.0, sites, placement, 0u32..4, anneal, blocks).prop_map(
        |(exponent, sites, placement, first_layer, anneal, block)| {
            NormScheme::Lns(DepthScale { exponent, sites, placement, block, first_layer, anneal })
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

/// One of the things that some families compute and a Llama does not.
fn compute_otherwise(spec: &mut ModelSpec, part: usize) {
    match part {
        0 => spec.norm = NormKind::RmsPlusOne,
        1 => spec.norm = NormKind::LayerNorm,
        2 => spec.learned_positions = true,
        3 => {
            spec.local_rope = Some(RopeSpec { theta: 1e3, scaling: RopeScaling::Default });
            spec.per_layer[1].rotary = Rotary::Local;
        }
        4 => spec.rotary_dim = 2,
        5 => spec.rotary_interleaved = true,
        6 => spec.qk_norm = QkNorm::FullWidth,
        7 => spec.attention_scale = AttentionScale::Constant(0.3),
        8 => spec.attention_softcap = Some(20.0),
        9 => spec.gated_mlp = false,
        10 => spec.hidden_act = Activation::Gelu,
        11 => spec.parallel_branches = true,
        12 => spec.embedding_multiplier = 12.0,
        13 => spec.residual_multiplier = 0.22,
        14 => (spec.logits_divisor, spec.logits_softcap) = (8.0, Some(30.0)),
        15 => spec.per_layer[2].rotary = Rotary::None,
        19 => spec.attention_sinks = true,
        20 => spec.clamped_gate = Some(ClampedGate { limit: 7.0, alpha: 1.702 }),
        21 => become_gpt_oss(spec),
        22 | 23 => {
            spec.latent = Some(LatentSpec {
                q_lora_rank: (part == 22).then_some(6),
                kv_lora_rank: 5,
                v_head_dim: 3,
            });
            (spec.num_key_value_heads, spec.rotary_dim) = (spec.num_attention_heads, 2);
            spec.rotary_interleaved = true;
            let yarn = RopeScaling::Yarn {
                factor: 4.0,
                original_max_position_embeddings: 16.0,
                beta_fast: 32.0,
                beta_slow: 1.0,
                attention_factor: 1.0,
                truncate: true,
            };
            // Phi-3 has YaRN for another name of LongRoPE.
            if spec.family.model_type() != "phi3" {
                spec.rope.scaling = yarn;
                spec.attention_scale = AttentionScale::Stretched { mscale_all_dim: 0.7 };
            }
            let experts = ExpertsSpec {
                count: 6,
                per_token: 2,
                intermediate_size: 8,
                router: if part == 22 { Router::SigmoidRenormalised } else { Router::Softmax },
                groups: Some(ExpertGroups { count: 3, per_token: 2 }),
                scale: 2.5,
                shared_intermediate_size: Some(16),
            };
            for layer in &mut spec.per_layer[1..] {
                layer.experts = Some(experts);
            }
        }
        24 => spec.prediction = Prediction::MaskedToken,
        25 => (spec.prediction, spec.token_types) = (Prediction::Nothing, 3),
        26 => {
            spec.prediction = Prediction::MaskedToken;
            (spec.norm, spec.token_types, spec.learned_positions) = (NormKind::LayerNorm, 2, true);
            (spec.gated_mlp, spec.mlp_bias, spec.qkv_bias) = (false, true, true);
            (spec.attention_output_bias, spec.num_key_value_heads) = (true, 4);
            spec.rms_norm_eps = 1e-12;
            spec.rope = RopeSpec { theta: 1e4, scaling: RopeScaling::Default };
            spec.per_layer.iter_mut().for_each(|layer| layer.rotary = Rotary::None);
        }
        part => {
            let router = if part == 16 { Router::Softmax } else { Router::SoftmaxRenormalised };
            let inner = if part == 18 { 24 } else { 12 };
            let experts = ExpertsSpec {
                count: 5,
                per_token: 3,
                intermediate_size: inner,
                router,
                ..ExpertsSpec::PLAIN
            };
            for (index, layer) in spec.per_layer.iter_mut().enumerate() {
                layer.experts = Some(experts).filter(|_| part != 17 || index % 2 == 1);
            }
        }
    }
}

/// What gpt_oss says of every model, with settings of its own.
fn become_gpt_oss(spec: &mut ModelSpec) {
    (spec.attention_sinks, spec.mlp_bias) = (true, true);
    spec.clamped_gate = Some(ClampedGate { limit: 0.5, alpha: 1.25 });
    spec.attention_output_bias = spec.qkv_bias;
    let inner = spec.intermediate_size;
    let router = Router::SoftmaxRenormalised;
    let experts = ExpertsSpec {
        count: 5,
        per_token: 3,
        intermediate_size: inner,
        router,
        ..ExpertsSpec::PLAIN
    };
    spec.per_layer.iter_mut().for_each(|layer| layer.experts = Some(experts));
}

/// The sizes of a model, in words that the family has.
fn sizes(family: Family) -> Value {
    let mut config = json!({
        "model_type": family.model_type(), "vocab_size": 32, "hidden_size": 32,
        "intermediate_size": 24, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
    });
    let latent = family.model_type().starts_with("deepseek");
    if !latent && !["gpt2", "gpt_neox", "bert"].contains(&family.model_type()) {
        config["head_dim"] = json!(8);
        config["num_key_value_heads"] = json!(2);
    }
    if latent || ["mixtral", "qwen3_moe", "gpt_oss"].contains(&family.model_type()) {
        config["num_experts_per_tok"] = json!(2);
    }
    if latent {
        let sizes = json!({
            "q_lora_rank": 12, "kv_lora_rank": 8, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4,
            "v_head_dim": 10, "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1,
        });
        config.as_object_mut().expect("an object").extend(sizes.as_object().expect("one").clone());
    }
    config
}

/// The `config.json` of a family with some settings that it or another one has.
fn config() -> impl Strategy<Value = Value> {
    let families: Vec<Family> = Family::all().collect();
    let types = ["full_attention", "sliding_attention"];
    let settings = vec![
        ("attention_bias", vec![json!(true), json!(false)]),
        ("mlp_bias", vec![json!(true)]),
        ("tie_word_embeddings", vec![json!(true), json!(false)]),
        ("sliding_window", vec![json!(3), json!(null)]),
        ("use_sliding_window", vec![json!(true)]),
        (
            "layer_types",
            vec![json!([types[0], types[1], types[1], types[0]]), json!(vec![types[0]; 4])],
        ),
        ("sliding_window_pattern", vec![json!(2)]),
        ("query_pre_attn_scalar", vec![json!(5), json!(7.5)]),
        ("attn_logit_softcapping", vec![json!(20.0), json!(null)]),
        ("final_logit_softcapping", vec![json!(20.0), json!(null)]),
        ("rope_theta", vec![json!(5e5)]),
        ("rope_local_base_freq", vec![json!(2e4), json!(1e6)]),
        ("rope_scaling", vec![json!({"rope_type": "linear", "factor": 2.0})]),
        (
            "rope_parameters",
            vec![
                json!({"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5}),
                json!({
                    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 300.0},
                    "sliding_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 30.0},
                }),
            ],
        ),
        ("partial_rotary_factor", vec![json!(0.5), json!(1.0)]),
        ("rotary_pct", vec![json!(0.5)]),
        ("use_parallel_residual", vec![json!(false)]),
        ("no_rope_layers", vec![json!([1, 0, 1, 1])]),
        ("no_rope_layer_interval", vec![json!(2)]),
        ("scale_attn_by_inverse_layer_idx", vec![json!(true)]),
        ("activation_function", vec![json!("gelu")]),
        ("hidden_act", vec![json!("gelu_pytorch_tanh"), json!("silu")]),
        ("embedding_multiplier", vec![json!(12.0)]),
        ("residual_multiplier", vec![json!(0.22)]),
        ("attention_multiplier", vec![json!(0.1)]),
        ("logits_scaling", vec![json!(8.0)]),
        ("num_experts", vec![json!(0), json!(1), json!(6)]),
        ("num_local_experts", vec![json!(5), json!(6)]),
        ("architectures", vec![json!(["BertForMaskedLM"]), json!(["BertModel"])]),
        ("type_vocab_size", vec![json!(1), json!(3)]),
        ("embedding_norm", vec![json!(true), json!(false)]),
        ("norm_topk_prob", vec![json!(true)]),
        ("swiglu_limit", vec![json!(7.0), json!(0.5)]),
        ("swiglu_alpha", vec![json!(1.0)]),
        ("moe_intermediate_size", vec![json!(12)]),
        ("decoder_sparse_step", vec![json!(2), json!(9)]),
        ("q_lora_rank", vec![json!(null), json!(9)]),
        ("kv_lora_rank", vec![json!(7)]),
        ("v_head_dim", vec![json!(3), json!(12)]),
        ("qk_nope_head_dim", vec![json!(1), json!(9)]),
        ("qk_rope_head_dim", vec![json!(2), json!(3)]),
        ("first_k_dense_replace", vec![json!(0), json!(3), json!(9)]),
        ("n_routed_experts", vec![json!(6), json!(null)]),
        ("n_shared_experts", vec![json!(0), json!(2), json!(null)]),
        ("n_group", vec![json!(1), json!(4), json!(3)]),
        ("topk_group", vec![json!(2), json!(5)]),
        ("topk_method", vec![json!("group_limited_greedy"), json!("noaux_tc"), json!("greedy")]),
        ("norm_topk_prob", vec![json!(false)]),
        ("routed_scaling_factor", vec![json!(16.0)]),
        ("rope_interleave", vec![json!(false)]),
        (
            "rope_scaling",
            vec![json!({
                "type": "yarn", "factor": 40, "original_max_position_embeddings": 16, "mscale": 0.707,
                "mscale_all_dim": 0.5,
            })],
        ),
        ("mlp_only_layers", vec![json!([]), json!([3, 0]), json!([0, 1, 2, 3]), json!([4])]),
    ];
    let count = settings.len();
    let chosen = prop::sample::subsequence((0..count).collect::<Vec<_>>(), 0..=4);
    (prop::sample::select(families), chosen, any::<usize>()).prop_map(
        move |(family, chosen, variant)| {
            let mut config = sizes(family);
            for place in chosen {
                let (key, values) = &settings[place];
                config[*key] = values[variant % values.len()].clone();
            }
            config
        },
    )
}

/// A model with any setting of any family, whether or not the family knows the setting.
fn model() -> impl Strategy<Value = ModelSpec> {
    let families: Vec<Family> = Family::all().collect();
    let switches = prop::array::uniform7(any::<bool>());
    let window = prop::option::of(1usize..9);
    let removed = prop::option::of((0..LAYERS, prop::option::of(any::<bool>())));
    let other = prop::option::of(0usize..27);
    (prop::sample::select(families), scheme(), switches, window, removed, other).prop_map(
        |(family, norm_scheme, switches, window, removed, other)| {
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
                spec.tie_word_embeddings,
                spec.embedding_norm,
            ] = [switches[0], switches[1], switches[2], switches[4], switches[5]];
            spec.qk_norm = if switches[3] { QkNorm::PerHead } else { QkNorm::None };
            if let Some(part) = other {
                compute_otherwise(&mut spec, part);
            }
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn what_is_read_of_any_config_is_written_and_read_again(config in config()) {
        if let Ok(spec) = ModelSpec::from_config(&config) {
            prop_assert_eq!(spec.check_config(), Ok(()), "{} {}", config, spec.to_config());
        }
    }

    #[test]
    fn a_key_that_changes_the_function_is_computed_or_refused(
        family in prop::sample::select(Family::all().collect::<Vec<_>>()),
        place in 0usize..12,
    ) {
        let (key, value) = [
            ("num_experts", json!(6)),
            ("alibi", json!(true)),
            ("use_bidirectional_attention", json!(true)),
            ("partial_rotary_factor", json!(0.75)),
            ("embedding_multiplier", json!(2.0)),
            ("residual_multiplier", json!(2.0)),
            ("attention_multiplier", json!(2.0)),
            ("logits_scaling", json!(2.0)),
            ("attn_logit_softcapping", json!(2.0)),
            ("final_logit_softcapping", json!(2.0)),
            ("swiglu_limit", json!(2.0)),
            ("swiglu_alpha", json!(2.0)),
        ][place].clone();
        let mut config = sizes(family);
        let plain = ModelSpec::from_config(&config).expect("sizes");
        config[key] = value;
        match ModelSpec::from_config(&config) {
            Err(SpecError::Unsupported { key: named, .. }) => prop_assert_eq!(named, key),
            Err(error) => prop_assert!(false, "{}", error),
            Ok(spec) => {
                prop_assert_ne!(&spec, &plain, "{} is passed over", key);
                prop_assert!(!spec.other_keys.contains_key(key), "{key} is kept as if it meant nothing");
            }
        }
    }
}

#[test]
fn every_family_can_say_a_stock_model_and_every_scheme() {
    for family in Family::all() {
        for (name, scheme) in NormScheme::named() {
            let mut config = sizes(family);
            config["model_type"] = json!(format!("lns_{}", family.model_type()));
            config["norm_scheme"] = json!(scheme);
            let spec = match ModelSpec::from_config(&config) {
                Ok(spec) => spec,
                Err(error) => {
                    // Branches that read one stream can only be added to it.
                    assert_eq!(family.model_type(), "gpt_neox", "{name}: {error}");
                    assert!(error.to_string().contains("same stream"), "{error}");
                    continue;
                }
            };
            assert_eq!(spec.check_config(), Ok(()), "{name}");
            let mut names: Vec<String> =
                spec.stored_tensors().into_iter().map(|tensor| tensor.name).collect();
            names.sort();
            assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{name}: a name stands twice");
            assert!(names.iter().all(|name| !name.contains("..")), "{name}: a role has no name");
        }
    }
}

#[test]
fn keys_that_make_another_function_of_a_bert_are_refused_by_name() {
    let mut sizes = sizes(Family::BERT);
    sizes["architectures"] = json!(["BertForMaskedLM"]);
    for (key, same) in [
        ("position_embedding_type", json!("absolute")),
        ("is_decoder", json!(false)),
        ("pruned_heads", json!({})),
        ("add_cross_attention", json!(false)),
        ("tie_word_embeddings", json!(true)),
    ] {
        let mut config = sizes.clone();
        config[key] = same;
        let mut spec = ModelSpec::from_config(&config).expect(key);
        spec.other_keys.clear();
        assert_eq!(spec, ModelSpec::from_config(&sizes).expect("sizes"), "{key}");
    }
    for (key, value, named) in [
        ("position_embedding_type", json!("relative_key"), "relative_key"),
        ("is_decoder", json!(true), "only what came before"),
        ("pruned_heads", json!({"1": [0]}), "pruned_heads"),
        ("add_cross_attention", json!(true), "add_cross_attention"),
        ("architectures", json!(["BertLMHeadModel"]), "predicts the next token"),
        ("tie_word_embeddings", json!(false), "its embedding, transposed"),
        ("hidden_act", json!("relu"), "relu"),
        ("num_key_value_heads", json!(2), "num_key_value_heads"),
        ("rope_theta", json!(1e4), "rope_theta"),
        ("type_vocab_size", json!(1 << 20), "type_vocab_size"),
        ("embedding_norm", json!(false), "`embedding_norm` is false"),
    ] {
        let mut config = sizes.clone();
        config[key] = value;
        let error = ModelSpec::from_config(&config).expect_err(key).to_string();
        assert!(error.contains(named), "{key}: {error}");
    }
    let headless = |classes: Value| {
        sizes["architectures"] = classes;
        ModelSpec::from_config(&sizes).expect("sizes").prediction
    };
    let classes =
        [json!(["BertModel"]), json!(["BertForSequenceClassification"]), json!(null), json!(7)];
    assert_eq!(classes.map(headless), [Prediction::Nothing; 4]);
}
