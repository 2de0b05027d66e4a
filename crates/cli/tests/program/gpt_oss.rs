//! gpt_oss as it is published, its experts in four bits, through the verbs.

use serde_json::Value;

use crate::bench::Bench;

const TEXT: [&str; 4] = ["--text", "text.txt", "--window", "16"];

fn nll(bench: &Bench, model: &str) -> f64 {
    let said = bench.succeeds(&[&["eval", model, "--json"], &TEXT[..]].concat());
    let json: Value = serde_json::from_str(&said).expect("only JSON");
    json["nll"].as_f64().expect("a number")
}

#[test]
fn a_gpt_oss_is_diagnosed_continued_scaled_folded_and_pruned() {
    let bench = Bench::new("gpt_oss-mxfp4");
    let before = nll(&bench, "model");
    let diagnose = ["diagnose", "model", "--probes", "all", "--json"];
    let said = bench.succeeds(&[&diagnose[..], &TEXT].concat());
    let found: Value = serde_json::from_str(&said).expect("only JSON");
    for layer in found["layers"].as_array().expect("a list") {
        for key in ["gradient_norm", "jacobian_identity_distance", "attention_variance"] {
            assert!(layer[key].as_f64().is_some_and(f64::is_finite), "{key}");
        }
        assert_eq!(layer["experts"]["load"].as_array().map(Vec::len), Some(6));
    }
    let continued = ["generate", "model", "--prompt", "w3 w1", "--max-new-tokens", "6"];
    assert!(bench.succeeds(&continued).starts_with("w3 w1"));
    let f32 = ["--dtype", "f32"];
    bench.succeeds(&[&["retrofit", "model", "--out", "scaled"][..], &f32].concat());
    bench.succeeds(&[&["fold", "scaled", "--out", "folded"][..], &f32].concat());
    for model in ["scaled", "folded"] {
        let after = nll(&bench, model);
        assert!((after - before).abs() < 1e-5, "{model}: {after} after {before}");
    }
    bench.succeeds(&["prune", "model", "--layers", "0", "--out", "less"]);
    assert!(nll(&bench, "less").is_finite());
}

#[test]
fn a_gpt_oss_becomes_gguf_in_four_bits_with_a_word_on_what_llama_cpp_rounds() {
    let bench = Bench::new("gpt_oss-mxfp4");
    let before = nll(&bench, "model");
    // A vocabulary of words is none that a GGUF file can hold; it is read beside the file.
    std::fs::rename(bench.path("model/tokenizer.json"), bench.path("tokenizer.json"))
        .expect("moves");
    let output = bench.lns(&["export", "model", "--out", "model.gguf"]).assert().success();
    let told = String::from_utf8(output.get_output().stderr.clone()).expect("UTF-8");
    assert!(told.contains("rounds the ends of YaRN's range"), "{told}");
    assert!(bench.succeeds(&["inspect", "model.gguf"]).contains("6 MXFP4"));
    let after = nll(&bench, "model.gguf");
    // What is not an expert's is bf16 in both.
    assert!((after - before).abs() < 1e-6, "{after} after {before}");
    let refused = bench.fails(&["export", "model", "--dtype", "mxfp4", "--out", "folder"], 2);
    assert!(refused.contains("--dtype mxfp4 is for GGUF"), "{refused}");
}
