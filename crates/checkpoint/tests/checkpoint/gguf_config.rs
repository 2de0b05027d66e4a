//! GGUF metadata → specification.

use lns_checkpoint::{Checkpoint, Stranger};
use lns_spec::{Family, RopeScaling, RopeSpec};

use crate::files::{Gguf, GgufTensor, Meta};

#[test]
fn a_number_per_layer_is_accepted_if_all_are_equal() {
    let mut file = Gguf::model("llama");
    file.set("llama.attention.head_count_kv", Meta::U32s(vec![1, 1, 1]));
    file.set("llama.feed_forward_length", Meta::I32s(vec![32, 32]));
    let checkpoint = file.open().expect("all layers have one key/value head");
    assert_eq!(checkpoint.spec().num_key_value_heads, 1);
    file.set("llama.attention.head_count_kv", Meta::U32s(vec![1, 2]));
    let message = file.refused();
    assert!(
        message.contains("head_count_kv") && message.contains("layers of different"),
        "{message}"
    );
    file.set("llama.attention.head_count_kv", Meta::U32s(vec![]));
    assert!(file.refused().contains("array of 0"));
}

#[test]
fn key_value_heads_default_to_the_query_heads() {
    let mut file = Gguf::model("llama");
    file.unset("llama.attention.head_count_kv");
    assert_eq!(file.open().expect("sound").spec().num_key_value_heads, 2);
}

#[test]
fn the_head_size_is_the_key_length_and_all_others_agree_with_it() {
    let mut file = Gguf::model("qwen3");
    file.set("qwen3.attention.key_length", Meta::U32(6));
    file.set("qwen3.attention.value_length", Meta::U32(6));
    assert_eq!(file.open().expect("sound").spec().head_dim, 6);
    for key in ["attention.value_length", "rope.dimension_count"] {
        let mut file = Gguf::model("llama");
        assert_eq!(file.open().expect("sound").spec().head_dim, 4);
        file.set(&format!("llama.{key}"), Meta::U32(2));
        let message = file.refused();
        assert!(message.contains(key) && message.contains("is 2"), "{message}");
    }
    let mut file = Gguf::model("llama");
    file.set("llama.attention.head_count", Meta::U32(3));
    assert!(file.refused().contains("head_count"));
    file.set("llama.attention.head_count", Meta::U32(0));
    assert!(file.refused().contains("head_count"));
}

#[test]
fn a_sliding_window_makes_a_llama_file_mistral() {
    let mut file = Gguf::model("llama");
    file.set("llama.attention.sliding_window", Meta::U32(4));
    let checkpoint = file.open().expect("sound");
    assert_eq!(checkpoint.spec().family, Family::MISTRAL);
    assert!(checkpoint.spec().windows().eq([Some(4)]));
    assert!(checkpoint.audit().is_clean());
    let key = checkpoint.read_f32("model.layers.0.self_attn.k_proj.weight", &[4, 8]);
    assert_eq!(key.expect("readable")[8], 4.25, "still in llama.cpp's row order");
    file.set("llama.attention.sliding_window", Meta::U32(16));
    assert_eq!(file.open().expect("the window is the context").spec().family, Family::LLAMA);
    let mut file = Gguf::model("qwen2");
    file.set("qwen2.attention.sliding_window", Meta::U32(4));
    assert!(file.refused().contains("sliding_window"));
}

#[test]
fn linear_and_yarn_scaling_are_read() {
    let mut file = Gguf::model("llama");
    file.set("llama.rope.freq_base", Meta::F32(5e5));
    file.set("llama.rope.scaling.type", Meta::Text("linear"));
    file.set("llama.rope.scaling.factor", Meta::F32(4.0));
    let linear = RopeSpec { theta: 5e5, scaling: RopeScaling::Linear { factor: 4.0 } };
    assert_eq!(file.open().expect("sound").spec().rope, linear);
    file.set("llama.rope.scaling.type", Meta::Text("yarn"));
    file.set("llama.rope.scaling.original_context_length", Meta::U32(8));
    let checkpoint = file.open().expect("sound");
    let RopeScaling::Yarn { factor, original_max_position_embeddings, attention_factor, .. } =
        checkpoint.spec().rope.scaling
    else {
        panic!("yarn was asked for")
    };
    assert_eq!((factor, original_max_position_embeddings), (4.0, 8.0));
    assert!((attention_factor - (0.1 * 4f64.ln() + 1.0)).abs() < 1e-12);
    file.set("llama.rope.scaling.type", Meta::Text("none"));
    assert_eq!(file.open().expect("sound").spec().rope.scaling, RopeScaling::Default);
    file.set("llama.rope.scaling.type", Meta::Text("longrope"));
    assert!(file.refused().contains("longrope"));
}

/// Llama 3.1's heads and base, so that its factors differ from frequency to frequency.
fn with_rope_factors(factors: Vec<f32>) -> Gguf {
    let mut file = Gguf::model("llama");
    file.set("llama.attention.key_length", Meta::U32(128));
    file.set("llama.rope.freq_base", Meta::F32(5e5));
    let count = factors.len() as u64;
    file.tensors.push(GgufTensor::f32("rope_freqs.weight", &[count], factors));
    file
}

fn llama3(factor: f64, high_freq_factor: f64) -> RopeScaling {
    let original_max_position_embeddings = 8192.0;
    let low_freq_factor = 1.0;
    RopeScaling::Llama3 {
        factor,
        low_freq_factor,
        high_freq_factor,
        original_max_position_embeddings,
    }
}

fn factors_of(scaling: RopeScaling) -> Vec<f32> {
    let inverse = |scaling| RopeSpec { theta: 5e5, scaling }.frequencies(128, 1, 16).inverse;
    let plain = inverse(RopeScaling::Default);
    plain.iter().zip(inverse(scaling)).map(|(plain, scaled)| (plain / scaled) as f32).collect()
}

#[test]
fn rotary_factors_of_llama_3_become_its_scaling() {
    for factor in [8.0, 32.0] {
        let checkpoint = with_rope_factors(factors_of(llama3(factor, 4.0))).open().expect("sound");
        assert_eq!(checkpoint.spec().rope.scaling, llama3(factor, 4.0));
        assert!(checkpoint.tensor("rope_freqs.weight").is_none(), "it is no weight");
    }
    let checkpoint = with_rope_factors(vec![1.0; 64]).open().expect("sound");
    assert_eq!(checkpoint.spec().rope.scaling, RopeScaling::Default);
}

#[test]
fn rotary_factors_that_nothing_explains_are_refused() {
    let unlike = factors_of(llama3(8.0, 2.0));
    for factors in [unlike, vec![2.0; 64], vec![f32::NAN; 64], vec![0.0; 64], vec![1.0; 63]] {
        assert!(with_rope_factors(factors).refused().contains("rope_freqs.weight"));
    }
    let mut file = with_rope_factors(factors_of(llama3(8.0, 4.0)));
    file.set("llama.rope.scaling.type", Meta::Text("linear"));
    file.set("llama.rope.scaling.factor", Meta::F32(4.0));
    assert!(file.refused().contains("another rope scaling"));
}

#[test]
fn keys_that_would_change_the_function_are_refused_by_name() {
    for (key, value) in [
        ("expert_shared_count", Meta::U32(1)),
        ("expert_gating_func", Meta::U32(2)),
        ("expert_weights_scale", Meta::F32(2.5)),
        ("attention.clamp_kqv", Meta::F32(8.0)),
        ("attention.max_alibi_bias", Meta::F32(8.0)),
        ("attention.scale", Meta::F32(0.1)),
        ("attn_logit_softcapping", Meta::F32(50.0)),
        ("final_logit_softcapping", Meta::F32(30.0)),
        ("logit_scale", Meta::F32(0.5)),
        ("embedding_scale", Meta::F32(12.0)),
        ("residual_scale", Meta::F32(0.2)),
        ("use_parallel_residual", Meta::Bool(true)),
        ("attention.causal", Meta::Bool(false)),
        ("rope.scaling.attn_factor", Meta::F32(0.8)),
        ("rope.scaling.yarn_log_multiplier", Meta::F32(0.1)),
    ] {
        let mut file = Gguf::model("llama");
        let message = file.set(&format!("llama.{key}"), value).refused();
        assert!(message.contains(key) && message.contains("not supported"), "{message}");
    }
    let mut file = Gguf::model("llama");
    file.set("llama.expert_count", Meta::U32(0)).set("llama.logit_scale", Meta::F32(1.0));
    assert!(file.open().is_ok(), "neutral values change nothing");
}

#[test]
fn another_architecture_is_refused_by_name_with_those_that_are_read() {
    for name in ["gemma4", "mistral3", "mamba", "Llama", ""] {
        let message = Gguf::model(name).refused();
        assert!(message.contains(&format!("{name:?}")), "{message}");
        assert!(message.contains("llama, qwen2, qwen3"), "{message}");
    }
    let mut file = Gguf::model("llama");
    assert!(file.unset("general.architecture").refused().contains("general.architecture"));
    assert!(file.set("general.architecture", Meta::U32(1)).refused().contains("a string"));
}

#[test]
fn a_missing_or_mistyped_key_is_named() {
    for key in [
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "attention.layer_norm_rms_epsilon",
    ] {
        let key = format!("llama.{key}");
        let mut file = Gguf::model("llama");
        let message = file.unset(&key).refused();
        assert!(message.contains(&key) && message.contains("missing"), "{message}");
        let message = file.set(&key, Meta::Text("eight")).refused();
        assert!(message.contains(&key) && message.contains("eight"), "{message}");
    }
    let mut file = Gguf::model("llama");
    assert!(file.set("llama.block_count", Meta::I32(-1)).refused().contains("-1"));
    assert!(
        file.set("llama.block_count", Meta::U64(1 << 40)).refused().contains("num_hidden_layers")
    );
    let mut file = Gguf::model("llama");
    file.set("llama.attention.layer_norm_rms_epsilon", Meta::F32(f32::NAN));
    assert!(file.refused().contains("NaN"));
}

#[test]
fn one_part_of_several_is_refused() {
    let mut file = Gguf::model("llama");
    file.set("split.count", Meta::U32(3));
    let message = file.refused();
    assert!(message.contains("3 parts") && message.contains("merge"), "{message}");
}

#[test]
fn a_tokenizer_with_lists_of_different_lengths_or_types_is_refused() {
    for (key, value) in [
        ("token_type", Meta::I32s(vec![1, 2])),
        ("scores", Meta::F32s(vec![0.0])),
        ("scores", Meta::I32s(vec![0; 6])),
        ("tokens", Meta::U32s(vec![1; 6])),
        ("tokens", Meta::Text("a b")),
        (
            "merges",
            Meta::Raw(
                9,
                [&8u32.to_le_bytes()[..], &1u64.to_le_bytes(), &1u64.to_le_bytes(), &[0xff]]
                    .concat(),
            ),
        ),
        ("eos_token_id", Meta::U64(1 << 32)),
        ("model", Meta::Bool(true)),
    ] {
        let key = format!("tokenizer.ggml.{key}");
        let mut file = Gguf::model("llama");
        let message = file.set(&key, value).refused();
        assert!(message.contains(&key), "{message}");
    }
}

/// A Phi-3 whose heads have 4 features, with tables of rotary factors.
fn with_long_rope(tables: [(&'static str, Vec<f32>); 2]) -> Gguf {
    let mut file = Gguf::model("phi3");
    file.set("phi3.rope.scaling.attn_factor", Meta::F32(1.25));
    file.set("phi3.rope.scaling.original_context_length", Meta::U32(8));
    for (name, factors) in tables {
        file.tensors.push(GgufTensor::f32(name, &[factors.len() as u64], factors));
    }
    file
}

const LONG: &str = "rope_factors_long.weight";
const SHORT: &str = "rope_factors_short.weight";

#[test]
fn tables_of_rotary_factors_become_longrope() {
    let mut file = with_long_rope([(LONG, vec![2.0, 4.5]), (SHORT, vec![1.0, 1.5])]);
    let scaling = RopeScaling::LongRope {
        short_factor: vec![1.0, 1.5],
        long_factor: vec![2.0, 4.5],
        original_max_position_embeddings: 8.0,
        attention_factor: 1.25,
    };
    for kind in [None, Some("none"), Some("longrope")] {
        if let Some(kind) = kind {
            file.set("phi3.rope.scaling.type", Meta::Text(kind));
        }
        assert_eq!(file.open().expect("sound").spec().rope.scaling, scaling);
    }
}

#[test]
fn longrope_that_is_not_whole_is_refused_by_name() {
    let good = || vec![1.0, 1.5];
    for (tables, expected) in [
        ([(LONG, vec![1.0]), (SHORT, good())], LONG),
        ([(LONG, good()), (SHORT, vec![1.0; 3])], SHORT),
        ([(LONG, vec![1.0, 0.0]), (SHORT, good())], "above 0"),
        ([(LONG, good()), (SHORT, vec![f32::NAN, 1.0])], "above 0"),
        ([(LONG, good()), ("other.weight", good())], "one for short ones"),
        ([("rope_freqs.weight", good()), (SHORT, good())], "one table for long contexts"),
        ([("other.weight", good()), ("another.weight", good())], "attn_factor"),
    ] {
        let message = with_long_rope(tables).refused();
        assert!(message.contains(expected), "{message} lacks {expected}");
    }
    let mut file = with_long_rope([(LONG, good()), (SHORT, good())]);
    for factor in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        file.set("phi3.rope.scaling.attn_factor", Meta::F32(factor));
        assert!(file.refused().contains("attn_factor"));
    }
    let mut file = Gguf::model("qwen3");
    file.tensors.push(GgufTensor::f32(LONG, &[2], good()));
    assert!(file.refused().contains("phi3 alone"));
}

#[test]
fn a_file_of_another_architecture_is_told_what_it_would_take() {
    let mut file = Gguf::model("gemma9");
    file.set("gemma9.attn_logit_softcapping", Meta::F32(50.0));
    file.set("gemma9.expert_count", Meta::U32(4));
    file.set("gemma9.ssm.state_size", Meta::U32(4));
    file.tensors.push(GgufTensor::f32("blk.0.ssm_in.weight", &[2], vec![0.0; 2]));
    let (folder, path) = file.write();
    let error = Checkpoint::open(&path).expect_err("refused");
    let stranger = Stranger::of(&path, &error).expect("readable").expect("not supported");
    assert!(!stranger.is_known && stranger.refused.is_empty());
    let nearest = stranger.nearest.expect("it has a llama's tensors");
    assert_eq!(nearest.found.family, Family::LLAMA);
    assert_eq!(nearest.found.without_role, ["blk.N.ssm_in"]);
    assert_eq!(nearest.unread_keys, ["gemma9.ssm.state_size"]);
    assert!(nearest.refused[0].contains("expert_count"), "{:?}", nearest.refused);
    assert!(nearest.refused[1].contains("attn_logit_softcapping"), "{:?}", nearest.refused);
    drop(folder);

    let mut file = Gguf::model("qwen3");
    file.set("qwen3.logit_scale", Meta::F32(2.0));
    file.set("qwen3.attention.causal", Meta::Bool(false));
    let (_folder, path) = file.write();
    let error = Checkpoint::open(&path).expect_err("refused");
    let stranger = Stranger::of(&path, &error).expect("readable").expect("not supported");
    assert!(stranger.is_known);
    let told = stranger.refused.join("; ");
    assert!(told.contains("logit_scale") && told.contains("both directions"), "{told}");
    assert_eq!(stranger.refused.len(), 2);
}
