//! A DeepSeek through the verbs: latent attention, experts of groups beside shared ones.

use std::fs;

use serde_json::{Value, json};

use crate::bench::Bench;

const TEXT: [&str; 4] = ["--text", "text.txt", "--window", "16"];

fn json_of(bench: &Bench, arguments: &[&str]) -> Value {
    serde_json::from_str(&bench.succeeds(&[arguments, &TEXT].concat())).expect("only JSON")
}

fn nll(bench: &Bench, model: &str) -> f64 {
    json_of(bench, &["eval", model, "--json"])["nll"].as_f64().expect("a number")
}

fn config(bench: &Bench, model: &str) -> Value {
    let text = fs::read_to_string(bench.path(model).join("config.json")).expect("there");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn a_deepseek_is_inspected_diagnosed_and_continued() {
    let bench = Bench::new("deepseek_v3");
    let said = bench.succeeds(&["inspect", "model"]);
    for part in [
        "4 heads of 10, 4 key/value of 5, made of latents of 12 for queries and 10 for keys and values",
        "6 experts of 16, 3 for each token, MLP 16 beside them for all, in 2 layers, MLP 48 in 1",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let found = json_of(&bench, &["diagnose", "model", "--probes", "all", "--json"]);
    let layers = found["layers"].as_array().expect("a list");
    assert_eq!(layers.len(), 3);
    for (index, layer) in layers.iter().enumerate() {
        for key in ["gradient_norm", "jacobian_identity_distance", "attention_variance"] {
            assert!(layer[key].as_f64().is_some_and(f64::is_finite), "layer {index}: {key}");
        }
        for key in ["removal", "removal_attention", "removal_mlp"] {
            assert!(layer[key]["delta_nll"].is_number(), "layer {index}: {key}");
        }
        let load = layer["experts"]["load"].as_array().map(Vec::len);
        assert_eq!(load, (index > 0).then_some(6), "shared experts are not counted");
    }
    let continued = ["generate", "model", "--prompt", "w3 w1", "--max-new-tokens", "6"];
    assert!(bench.succeeds(&continued).starts_with("w3 w1"));
    let on_disk = json_of(&bench, &["eval", "model", "--stream", "--json"]);
    assert_eq!(on_disk["nll"].as_f64(), Some(nll(&bench, "model")));
}

#[test]
fn a_deepseek_takes_the_scale_gives_it_back_loses_a_layer_and_becomes_gguf() {
    let bench = Bench::new("deepseek_v3");
    let before = nll(&bench, "model");
    bench.succeeds(&[&["retrofit", "model", "--out", "scaled", "--verify"][..], &TEXT].concat());
    assert_eq!(config(&bench, "scaled")["model_type"], "lns_deepseek_v3");
    bench.succeeds(&[&["fold", "scaled", "--out", "folded", "--verify"][..], &TEXT].concat());
    assert_eq!(config(&bench, "folded")["model_type"], "deepseek_v3");
    bench.succeeds(&["prune", "model", "--layers", "0", "--out", "less"]);
    assert_eq!(config(&bench, "less")["first_k_dense_replace"], 0);
    assert!(nll(&bench, "less").is_finite());
    // A vocabulary of words is none that a GGUF file can hold; it is read beside the file.
    fs::rename(bench.path("model/tokenizer.json"), bench.path("tokenizer.json")).expect("moves");
    bench.succeeds(&["export", "model", "--dtype", "f32", "--out", "model.gguf"]);
    bench.succeeds(&["export", "model.gguf", "--out", "again"]);
    for model in ["scaled", "folded", "model.gguf", "again"] {
        let after = nll(&bench, model);
        assert!((after - before).abs() < 1e-5, "{model}: {after} after {before}");
    }
    // What llama.cpp would compute otherwise is refused before a file is begun.
    bench.config(|config| config["rope_parameters"]["mscale"] = json!(0.5));
    let error = bench.fails(&["export", "model", "--out", "other.gguf"], 2);
    assert!(error.contains("mscale_all_dim") && !bench.path("other.gguf").exists(), "{error}");
}
