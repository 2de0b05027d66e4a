use super::*;

use crate::{LayerIndex, QkNorm, RopeSpec, Site};

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

fn windows(spec: &ModelSpec) -> Vec<Option<usize>> {
    spec.windows().collect()
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
fn a_norm_on_the_embedding_survives_config_json_and_is_no_stock_model() {
    for scheme in [NormScheme::pre(), NormScheme::lns()] {
        let mut spec = ModelSpec::from_config(&llama()).expect("a valid config");
        (spec.norm_scheme, spec.embedding_norm) = (scheme, true);
        let written = spec.to_config();
        assert_eq!(written["model_type"], "lns_llama");
        assert_eq!(ModelSpec::from_config(&written).expect("reads back"), spec);
        let norm = |tensor: &crate::ModelTensor| tensor.name == "model.embed_norm.weight";
        assert_eq!(spec.outer_tensors().iter().filter(|tensor| norm(tensor)).count(), 1);
        assert_eq!(spec.folded(), Err(crate::ConversionError::EmbeddingNorm));
    }
    let message = refused(&[("embedding_norm", json!(true))]);
    assert!(message.contains("lns_llama"), "{message}");
}

#[test]
fn a_scheme_hidden_in_a_stock_model_type_is_refused() {
    let message = refused(&[("norm_scheme", json!({"name": "lns"}))]);
    assert!(message.contains("lns_llama"), "{message}");
    let message = refused(&[("model_type", json!("lns_llama"))]);
    assert!(message.contains("norm_scheme"), "{message}");
    let message =
        refused(&[("model_type", json!("lns_llama")), ("norm_scheme", json!({"name": "LNS"}))]);
    assert!(message.contains("The schemes: pre, lns"), "{message}");
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
    let last = spec.branch(LayerIndex::new(2), Site::Mlp);
    assert_eq!(last.output_scale(), 1.0 / 6f64.sqrt());
    assert_eq!(ModelSpec::from_config(&spec.to_config()).expect("reads back"), spec);
    for bad in [json!([1, 2]), json!([0, 1, 2]), json!([1, 2, 7]), json!([3, 2, 1]), json!("x")] {
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
        ("hidden_act", json!("relu")),
        ("quantization_config", json!({"bits": 4})),
        ("num_local_experts", json!(8)),
        ("partial_rotary_factor", json!(0.5)),
        ("sliding_window", json!(16)),
        ("residual_multiplier", json!(0)),
        ("alibi", json!(true)),
        ("alibi", json!(1)),
        ("attention_multiplier", json!(1.0)),
        ("num_experts", json!(1)),
        ("rope_scaling", json!({"type": "yarn", "factor": 2.0, "beta_fast": 0})),
        (
            "rope_scaling",
            json!({"type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}),
        ),
        ("rope_scaling", json!({"type": "longrope", "factor": 2.0})),
        (
            "rope_scaling",
            json!({"type": "longrope", "short_factor": [1.0], "long_factor": [1.0, 2.0, 3.0, 0.0]}),
        ),
        (
            "rope_scaling",
            json!({"type": "longrope", "short_factor": [1.0], "long_factor": [1.0, 2.0, 3.0, 4.0]}),
        ),
        ("rope_scaling", json!({"type": "linear"})),
        ("rope_scaling", json!({"type": "linear", "factor": 0})),
        ("rope_scaling", json!([1])),
    ] {
        let message = refused(&[(key, value.clone())]);
        let named = ["rope_type", "num_attention_heads", key].iter().any(|k| message.contains(k));
        assert!(named, "{key} = {value}: {message}");
    }
    let message = refused(&[("model_type", json!("mamba"))]);
    assert!(message.contains("mamba") && message.contains("qwen3"), "{message}");
    assert!(ModelSpec::from_config_text("{").is_err());
    assert!(ModelSpec::from_config_text("[]").is_err());
}

#[test]
fn an_older_phi3_calls_longrope_yarn_and_yarn_itself_is_refused_by_name() {
    let factors = json!([1.0, 1.0, 1.0, 1.0]);
    let phi3 = |scaling: Value| with(&[("model_type", json!("phi3")), ("rope_scaling", scaling)]);
    let older = json!({"type": "yarn", "short_factor": factors, "long_factor": factors});
    let spec = ModelSpec::from_config(&phi3(older)).expect("LongRoPE");
    assert!(matches!(spec.rope.scaling, crate::RopeScaling::LongRope { .. }));
    let error = ModelSpec::from_config(&phi3(json!({"rope_type": "yarn", "factor": 2.0})));
    let message = error.expect_err("no LongRoPE").to_string();
    for said in ["rope_scaling.rope_type", "yarn", "longrope", "short_factor", "phi3"] {
        assert!(message.contains(said), "{message} lacks {said}");
    }
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
    assert!(spec.qkv_bias && !spec.attention_output_bias && spec.qk_norm == QkNorm::None);
    assert_eq!(windows(&spec), [None, None, Some(8)]);
    assert_eq!(ModelSpec::from_config(&spec.to_config()).expect("reads back"), spec);

    let qwen3 = with(&[("model_type", json!("qwen3")), ("head_dim", json!(16))]);
    let spec = ModelSpec::from_config(&qwen3).expect("valid qwen3");
    assert!(spec.qk_norm == QkNorm::PerHead && !spec.qkv_bias);
    assert_eq!(spec.query_size(), 64);

    let mistral = with(&[("model_type", json!("mistral")), ("sliding_window", json!(16))]);
    let spec = ModelSpec::from_config(&mistral).expect("valid mistral");
    assert_eq!(windows(&spec), [Some(16); 3]);
    for (value, expected) in [(Some(json!(null)), None), (None, Some(4096))] {
        let mut config = mistral.clone();
        match value {
            Some(value) => config["sliding_window"] = value,
            None => drop(config.as_object_mut().and_then(|map| map.remove("sliding_window"))),
        }
        let spec = ModelSpec::from_config(&config).expect("valid mistral");
        assert_eq!(windows(&spec), [expected; 3], "absent is the reference's 4096");
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
    assert_eq!(spec.rope, RopeSpec { theta: 5e5, scaling: RopeScaling::Linear { factor: 2.0 } });
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

fn of_experts(more: Value) -> Result<ModelSpec, SpecError> {
    let mut config = json!({
        "model_type": "qwen3_moe", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 4, "num_attention_heads": 2, "num_experts": 6, "num_experts_per_tok": 2,
        "num_key_value_heads": 1, "moe_intermediate_size": 8,
    });
    let keys = config.as_object_mut().expect("an object");
    keys.extend(more.as_object().expect("an object").clone());
    ModelSpec::from_config(&config)
}

#[test]
fn a_layer_of_experts_has_a_router_and_each_experts_matrices_and_the_others_an_mlp() {
    let spec =
        of_experts(json!({"mlp_only_layers": [3], "decoder_sparse_step": 2})).expect("reads");
    let sparse: Vec<bool> = spec.per_layer.iter().map(|layer| layer.experts.is_some()).collect();
    assert_eq!(sparse, [false, true, false, false]);
    let named = |layer, part: &str| {
        let tensors = spec.layer_tensors(LayerIndex::new(layer));
        let of_mlp = tensors.into_iter().filter(|tensor| tensor.name.contains(part));
        of_mlp.map(|tensor| (tensor.name, tensor.shape)).collect::<Vec<_>>()
    };
    let experts = named(1, "mlp.");
    assert_eq!(experts.len(), 1 + 3 * 6);
    assert_eq!(experts[0], ("model.layers.1.mlp.gate.weight".to_owned(), vec![6, 16]));
    let last = ("model.layers.1.mlp.experts.5.down_proj.weight".to_owned(), vec![16, 8]);
    assert_eq!(experts[18], last);
    assert_eq!(named(0, "mlp.").len(), 3);
    // Surgery keeps what each layer has.
    let removal = crate::Removal { layer: LayerIndex::new(0), branch: None };
    let (pruned, _) = spec.without(&[removal]).expect("prunes");
    assert!(pruned.experts(LayerIndex::new(0)).is_some());
    assert_eq!(pruned.check_config(), Ok(()));
    // Random weights differ from expert to expert.
    let mut seeds: Vec<String> =
        spec.tensors().iter().map(|tensor| tensor.id.to_string()).collect();
    let all = seeds.len();
    seeds.sort();
    seeds.dedup();
    assert_eq!(seeds.len(), all);
}

#[test]
fn the_published_gpt_oss_has_the_parameters_that_its_card_counts() {
    // config.json of gpt-oss-20b, and of gpt-oss-120b where they differ.
    for (layers, experts, parameters) in [(24, 32, 20_914_757_184), (36, 128, 116_829_156_672u64)] {
        let config = json!({
            "model_type": "gpt_oss", "attention_bias": true, "eos_token_id": 200_002,
            "experts_per_token": 4, "head_dim": 64, "hidden_act": "silu", "hidden_size": 2880,
            "initial_context_length": 4096, "intermediate_size": 2880,
            "max_position_embeddings": 131_072, "num_attention_heads": 64, "num_experts_per_tok": 4,
            "num_hidden_layers": layers, "num_key_value_heads": 8, "num_local_experts": experts,
            "rms_norm_eps": 1e-5, "rope_scaling": {
                "beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0,
                "original_max_position_embeddings": 4096, "rope_type": "yarn", "truncate": false,
            },
            "rope_theta": 150_000, "sliding_window": 128, "swiglu_limit": 7.0,
            "tie_word_embeddings": false, "vocab_size": 201_088,
        });
        let spec = ModelSpec::from_config(&config).expect("reads");
        assert_eq!(spec.parameter_count().total(), parameters);
        assert_eq!(spec.check_config(), Ok(()));
        let stored = spec.stored_tensors();
        let of = |name: &str| {
            let name = format!("model.layers.1.mlp.experts.{name}");
            stored.iter().find(|tensor| tensor.name == name).map(|tensor| tensor.shape.clone())
        };
        assert_eq!(of("gate_up_proj"), Some(vec![experts, 2880, 5760]));
        assert_eq!(of("gate_up_proj_bias"), Some(vec![experts, 5760]));
        assert_eq!(of("down_proj"), Some(vec![experts, 2880, 2880]));
        assert_eq!(of("down_proj_bias"), Some(vec![experts, 2880]));
        // 13 and 4 tensors: attention, norms, router; the experts' stacks.
        assert_eq!(stored.len(), 3 + layers * (13 + 4));
        let windows: Vec<_> = spec.windows().take(3).collect();
        assert_eq!(windows, [Some(128), None, Some(128)]);
    }
}

#[test]
fn numbers_of_experts_that_no_model_has_are_refused_without_a_list_of_them() {
    for (more, part) in [
        (json!({"num_experts": 1u64 << 40}), "1099511627776 experts"),
        (json!({"num_experts": 4096, "num_hidden_layers": 4096}), "all layers together"),
        (json!({"num_experts_per_tok": 7}), "7 of 6 experts"),
        (json!({"num_experts_per_tok": 0}), "num_experts_per_tok"),
        (json!({"moe_intermediate_size": 1u64 << 40}), "features inside"),
        (json!({"num_local_experts": 5}), "`num_local_experts` is 5 and `num_experts` 6"),
        (json!({"num_experts": -1}), "num_experts"),
        (json!({"decoder_sparse_step": 0}), "decoder_sparse_step"),
        (json!({"mlp_only_layers": [4]}), "mlp_only_layers"),
        (json!({"mlp_only_layers": "all"}), "mlp_only_layers"),
        (json!({"model_type": "mixtral", "num_experts": 0}), "0 experts"),
    ] {
        let error = of_experts(more).expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
    }
    let stacked =
        |key: &str, value: Value| json!({"model_type": "gpt_oss", "num_experts": 6, key: value});
    for (key, value, part) in [
        ("num_local_experts", json!(7), "`num_local_experts` is 7 and `num_experts` 6"),
        ("num_experts_per_tok", json!(7), "7 of 6 experts"),
        ("num_experts", json!(0), "0 experts"),
        ("num_experts", json!(4097), "4097 experts"),
        (
            "layer_types",
            json!(vec!["full_attention"; 3]),
            "`layer_types` lists 3 values for 4 layers",
        ),
        ("layer_types", json!(vec!["chunked_attention"; 4]), "layer_types"),
        ("sliding_window", json!(null), "no window"),
        ("swiglu_limit", json!(0), "limit of the MLP's gate"),
        ("swiglu_limit", json!(-7.0), "limit of the MLP's gate"),
        ("swiglu_limit", json!("7"), "swiglu_limit"),
        ("swiglu_alpha", json!(1e40), "factor of the MLP's gate"),
        ("hidden_act", json!("gelu"), "hidden_act"),
        ("rope_scaling", json!({"rope_type": "yarn", "factor": 0}), "factor"),
    ] {
        let error = of_experts(stacked(key, value)).expect_err(part).to_string();
        assert!(error.contains(part), "{key}: {error}");
    }
    let dense = of_experts(json!({"num_experts": 0})).expect("no experts are none");
    assert!(!dense.is_mixture());
}

/// A small DeepSeek with some keys more.
fn deepseek(more: Value) -> Result<ModelSpec, SpecError> {
    let mut config = json!({
        "model_type": "deepseek_v3", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 2,
        "q_lora_rank": 6, "kv_lora_rank": 5, "qk_nope_head_dim": 4, "qk_rope_head_dim": 2, "v_head_dim": 3,
        "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "n_group": 4,
        "topk_group": 2, "first_k_dense_replace": 1,
    });
    let keys = config.as_object_mut().expect("an object");
    keys.extend(more.as_object().expect("an object").clone());
    ModelSpec::from_config(&config)
}

#[test]
fn latents_share_tensors_on_disk_and_have_their_own_rows_of_them() {
    let spec = deepseek(json!({})).expect("reads");
    let stored: Vec<_> = spec
        .stored_tensors()
        .into_iter()
        .filter(|tensor| tensor.name.starts_with("model.layers.1.self_attn."))
        .map(|tensor| (tensor.name["model.layers.1.self_attn.".len()..].to_owned(), tensor.shape))
        .collect();
    let expected = [
        ("q_a_proj.weight", vec![6, 16]),
        ("q_a_layernorm.weight", vec![6]),
        ("q_b_proj.weight", vec![12, 6]),
        ("kv_a_proj_with_mqa.weight", vec![7, 16]),
        ("kv_a_layernorm.weight", vec![5]),
        ("kv_b_proj.weight", vec![14, 5]),
        ("o_proj.weight", vec![16, 6]),
    ];
    assert_eq!(stored, expected.map(|(name, shape)| (name.to_owned(), shape)));
    // Of each head four rows of the key, then three of the value.
    let tensors = spec.layer_tensors(LayerIndex::new(1));
    let rows = |role| {
        let tensor = tensors.iter().find(|tensor| tensor.id.role == role).expect("is there");
        (0..tensor.shape[0]).map(|row| tensor.rows.expect("a part").of(row)).collect::<Vec<_>>()
    };
    assert_eq!(rows(crate::Role::Key), [0, 1, 2, 3, 7, 8, 9, 10]);
    assert_eq!(rows(crate::Role::Value), [4, 5, 6, 11, 12, 13]);
    let whole = deepseek(json!({"q_lora_rank": null})).expect("reads");
    let names: Vec<String> = whole.stored_tensors().into_iter().map(|tensor| tensor.name).collect();
    assert!(names.contains(&"model.layers.1.self_attn.q_proj.weight".to_owned()));
    assert!(!names.iter().any(|name| name.contains("q_a_") || name.contains("q_b_")));
}

#[test]
fn sizes_and_groups_that_fit_no_deepseek_are_refused_by_key() {
    for (more, part) in [
        (json!({"n_group": 3}), "cannot stand in 3 groups"),
        (json!({"n_group": 8}), "chosen by the sum of two"),
        (json!({"topk_group": 5}), "5 of 4 groups"),
        (json!({"num_experts_per_tok": 5}), "5 experts of 2 groups of 2, which have 4"),
        (json!({"n_routed_experts": 1u64 << 40}), "1099511627776 experts"),
        (json!({"n_routed_experts": 4096, "num_hidden_layers": 4096}), "all layers together"),
        (
            json!({"n_routed_experts": 8, "num_experts": 6}),
            "`num_experts` is 6 and `n_routed_experts` 8",
        ),
        (json!({"n_shared_experts": 1u64 << 60}), "shared experts"),
        (json!({"n_shared_experts": -1}), "n_shared_experts"),
        (json!({"routed_scaling_factor": 0.0}), "routed_scaling_factor"),
        (json!({"first_k_dense_replace": -1}), "first_k_dense_replace"),
        (json!({"num_key_value_heads": 1}), "num_key_value_heads"),
        (json!({"qk_rope_head_dim": 3}), "turns pairs"),
        (json!({"qk_nope_head_dim": u64::MAX, "qk_rope_head_dim": 2}), "head_dim"),
        (json!({"qk_nope_head_dim": 0}), "qk_nope_head_dim"),
        (json!({"v_head_dim": 1u64 << 40}), "v_head_dim"),
        (json!({"kv_lora_rank": 1u64 << 40}), "kv_lora_rank"),
        (json!({"q_lora_rank": 1u64 << 40}), "q_lora_rank"),
        (json!({"head_dim": 5}), "head_dim"),
        (json!({"qk_head_dim": 5}), "qk_head_dim"),
        (json!({"mlp_bias": true}), "mlp_bias"),
        (json!({"moe_layer_freq": 2}), "moe_layer_freq"),
        (json!({"scoring_func": "softmax"}), "scoring_func"),
        (json!({"topk_method": "greedy"}), "topk_method"),
        (json!({"rope_interleave": "yes"}), "rope_interleave"),
        (
            json!({"rope_scaling": {"type": "linear", "factor": 2.0, "mscale_all_dim": 1.0}}),
            "mscale_all_dim",
        ),
        (
            json!({"rope_scaling": {"type": "yarn", "factor": 4.0, "mscale_all_dim": 1e200}}),
            "the attention's scale",
        ),
        (
            json!({"rope_scaling": {"type": "yarn", "factor": 4.0, "mscale_all_dim": "1"}}),
            "mscale_all_dim",
        ),
        (json!({"model_type": "deepseek_v2", "norm_topk_prob": true}), "norm_topk_prob"),
        (json!({"model_type": "deepseek_v2", "scoring_func": "sigmoid"}), "scoring_func"),
        (json!({"model_type": "deepseek_v2", "topk_method": "noaux_tc"}), "topk_method"),
        (json!({"model_type": "deepseek_v2", "rope_interleave": false}), "rope_interleave"),
        (json!({"model_type": "deepseek_v2", "num_experts_per_tok": null}), "num_experts_per_tok"),
    ] {
        let error = deepseek(more.clone()).expect_err(part).to_string();
        assert!(error.contains(part), "{more}: {error}");
    }
    // What asks for nothing is taken.
    let plain = json!({
        "head_dim": 2, "qk_head_dim": 6, "mlp_bias": false, "moe_layer_freq": 1, "scoring_func": "sigmoid",
        "topk_method": "noaux_tc", "rope_interleave": true, "num_nextn_predict_layers": 1,
    });
    let spec = deepseek(plain).expect("reads");
    assert_eq!(spec.per_layer, deepseek(json!({})).expect("reads").per_layer);
    let dense = deepseek(json!({"n_routed_experts": null})).expect("reads");
    assert!(!dense.is_mixture());
}

#[test]
fn experts_are_chosen_in_the_best_groups_and_stand_by_their_weight() {
    let spec = deepseek(json!({"num_experts_per_tok": 3})).expect("reads");
    let experts = spec.experts(LayerIndex::new(1)).expect("a mixture");
    // Two of four groups of two. Sums of shares: 1.0, 0.9, 1.1, 0.3; the correction lifts the last.
    let shares = [0.5, 0.5, 0.8, 0.1, 0.6, 0.5, 0.2, 0.1];
    assert_eq!(experts.choose(&shares, None), [4, 0, 1]);
    let correction = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.9, 0.0];
    assert_eq!(experts.choose(&shares, Some(&correction)), [4, 5, 6]);
    // A softmax's groups are chosen by their largest share.
    let greedy = crate::ExpertsSpec { router: crate::Router::Softmax, ..experts };
    assert_eq!(greedy.choose(&shares, None), [2, 4, 5]);
    let anywhere = crate::ExpertsSpec { groups: None, ..greedy };
    assert_eq!(anywhere.choose(&shares, None), [2, 4, 0]);
    assert_eq!(anywhere.choose(&[f32::NAN; 8], None).len(), 3);
}

#[test]
fn yarn_stretches_the_scores_by_a_square() {
    let yarn = json!({
        "type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1,
        "mscale": 1.0, "mscale_all_dim": 1.0,
    });
    let spec = deepseek(json!({"rope_scaling": yarn})).expect("reads");
    let scale = spec.score_scale(LayerIndex::new(2)).expect("of its own");
    // 0.1·ln 40 + 1 = 1.3689; six features.
    assert!((scale - 1.368_888_f64.powi(2) / 6f64.sqrt()).abs() < 1e-5, "{scale}");
    assert_eq!(spec.check_config(), Ok(()));
}

#[test]
fn a_token_has_a_part_of_a_mixtures_parameters_and_all_of_any_other_model() {
    let dense = deepseek(json!({"n_routed_experts": null})).expect("reads");
    assert_eq!(dense.expert_parameters(), 0);
    assert_eq!(dense.active_parameters(), dense.parameter_count().total());
    // Three layers of eight experts, two for each token: three matrices of 8 × 16 each.
    let mixture = deepseek(json!({})).expect("reads");
    assert_eq!(mixture.expert_parameters(), 3 * 8 * 3 * 8 * 16);
    let idle = 3 * 6 * 3 * 8 * 16;
    assert_eq!(mixture.active_parameters(), mixture.parameter_count().total() - idle);
}
