//! Numbers and names that nobody means: refused where they are typed, in words.

use std::fs;

use lns_spec::{Family, NormScheme};
use serde_json::Value;

use crate::{TINY, bench::Bench, with};

#[test]
fn numbers_out_of_range_are_refused_with_the_range_before_anything_is_made() {
    let bench = Bench::new("llama");
    let most = u64::MAX.to_string();
    let deep = format!("{}=1", vec!["a"; 30_000].join("."));
    let nested = format!("model={}", "[".repeat(60_000));
    let tables = format!("model={}1{}", "{a=".repeat(20_000), "}".repeat(20_000));
    let train = ["train", "--out", "run"];
    for (verb, flags, says) in [
        (&train[..], &["--layers", &most][..], "from 1 to 4096"),
        (&train, &["--layers", "9223372036854775807"], "from 1 to 4096"),
        (&train, &["--layers", "4294967295"], "from 1 to 4096"),
        (&train, &["--steps", "-5"], "from 1 to 1000000000"),
        (&train, &["--lr", "-1"], "at least 0"),
        (&train, &["--lr", "-1e-3"], "at least 0"),
        (&train, &["--text", "text.txt", "--vocab", "9223372036854775807"], "to 1048576"),
        (&train, &["--set", "model.num_hidden_layers=4294967295"], "from 1 to 4096"),
        (&train, &["--set", "schedule.warmup=9223372036854775807"], "`schedule.warmup`"),
        (&train, &["--tokens", "1000000000000000", "--batch", "1", "--length", "1"], "`steps`"),
        (&train, &["--set", "seed=-1"], "`seed` is -1; it must be a whole number from 0"),
        (&train, &["--set", "data.length=1.5"], "`data.length` is 1.5; it must be a whole"),
        (&train, &["--set", &deep], "dots between"),
        (&train, &["--set", &nested], "model"),
        (&train, &["--set", &tables], "model"),
        (&train, &["--set", "=1"], "dots between"),
        (&["quickstart", "--offline", "--out", "run"], &["--steps", &most], "to 1000000000"),
        (&["study", "smoke", "--out", "run"], &["--seeds", &most], "9223372036854775807"),
        (&["generate", "model", "--prompt", "w1"], &["--top-p", "1.5"], "at most 1"),
        (&["eval", "model", "--text", "text.txt"], &["--window", "1"], "from 2"),
        (&["eval", "model", "--text", "text.txt"], &["--threads", "0"], "from 1 to 1024"),
    ] {
        let error = bench.fails(&[verb, flags].concat(), 2);
        assert!(error.contains(says), "{flags:?}: {error}");
        assert!(error.len() < 2000, "{} bytes of error", error.len());
        assert!(!bench.path("run").exists(), "{flags:?}");
    }
}

#[test]
fn a_run_that_no_memory_holds_is_refused_before_its_text_is_prepared() {
    let bench = Bench::new("llama");
    let wide = ["--hidden", "1048576", "--set", "model.num_attention_heads=4096"];
    let train = [&["train", "--out", "run"], &wide[..]].concat();
    let tune = ["finetune", "model", "--text", "text.txt", "--out", "run", "--length", "64"];
    for (command, cure) in [
        (train, "smaller model"),
        ([&tune[..], &["--batch", "1048576"]].concat(), "batch.sequences_per_pass=1"),
        ([&tune[..], &["--set", "batch.sequences=1048576"]].concat(), "batch.sequences_per_pass=1"),
    ] {
        let error = bench.fails(&command, 2);
        assert!(error.contains("of memory") && error.contains(cure), "{error}");
        assert!(!bench.path("run/text").exists());
    }
}

#[test]
fn estimates_say_what_is_needed_and_what_is_free() {
    let bench = Bench::new("llama");
    let json = |arguments: &[&str]| -> Value {
        serde_json::from_str(&bench.succeeds(arguments)).expect("only JSON")
    };
    let train = json(&with(&["train", "--estimate", "--json"], &["--steps", "7"]));
    assert_eq!(train["steps"], 7);
    assert!(train["memory_bytes"].as_u64() > train["weights_bytes"].as_u64());
    let tune = ["finetune", "model", "--estimate", "--json", "--length", "16", "--lora", "2"];
    let adapters = json(&tune);
    let whole = json(&tune[..6]);
    assert_eq!(whole["trained"], whole["parameters"]);
    assert_eq!(adapters["parameters"], whole["parameters"]);
    assert!(adapters["trained"].as_u64() < whole["trained"].as_u64());
    assert!(adapters["moments_bytes"].as_u64() < whole["moments_bytes"].as_u64());
    let taught = json(&[&tune[..6], &["--teacher", "model"]].concat());
    assert_eq!(taught["teacher_bytes"], whole["weights_bytes"]);
    assert!(taught["flops_per_step"].as_f64() > whole["flops_per_step"].as_f64());
    assert!(taught["memory_bytes"].as_u64() > whole["memory_bytes"].as_u64());
    let study = with(&["study", "smoke", "--estimate"], &["--seeds", "1,2,3"]);
    let planned = json(&[&study[..], &["--json"]].concat());
    assert_eq!(planned["runs"].as_array().map(Vec::len), Some(12));
    let text = bench.succeeds(&study);
    assert!(text.contains("12, one after another"), "{text}");
    if cfg!(target_os = "linux") {
        assert!(text.contains("free now"), "{text}");
    }
}

#[test]
fn a_model_with_norms_on_its_heads_is_read_by_every_verb() {
    let bench = Bench::new("llama");
    let train = ["train", "--scheme", "lns", "--set", "model.scheme.exponent=0.25"];
    let norms = ["--set", "model.qk_norm=true", "--set", "model.embedding_norm=true"];
    let line = |n| format!("{{\"text\": \"The river rose {n} feet in the night.\"}}\n");
    fs::write(bench.path("book.jsonl"), (0..80).map(line).collect::<String>()).expect("writable");
    let out = ["--text", "book.jsonl", "--vocab", "257", "--out", "run", "--steps", "2"];
    bench.succeeds(&[&train[..], &TINY, &norms, &out].concat());
    let inspected = bench.succeeds(&["inspect", "run/model"]);
    assert!(inspected.contains("qwen3") && inspected.contains("exponent 0.25"), "{inspected}");
    fs::write(bench.path("book.txt"), "The river rose in the night. ".repeat(60))
        .expect("writable");
    let text = ["--text", "book.txt", "--window", "16"];
    bench.succeeds(&[&["eval", "run/model"], &text[..]].concat());
    bench.succeeds(&[&["diagnose", "run/model", "--out", "found"], &text[..]].concat());
    bench.succeeds(&["generate", "run/model", "--prompt", "The river", "--max-new-tokens", "2"]);
    bench.succeeds(
        &[&["prune", "run/model", "--layers", "1", "--out", "small"], &text[..]].concat(),
    );
    bench.succeeds(&["inspect", "small"]);
}

#[test]
fn a_llama_with_norms_on_its_heads_is_refused_with_what_makes_it_readable() {
    let bench = Bench::new("qwen3");
    bench.config(|config| config["model_type"] = "llama".into());
    let error = bench.fails(&["eval", "model", "--text", "text.txt", "--window", "16"], 2);
    assert!(error.contains("q_norm") && error.contains("qwen3 instead of llama"), "{error}");
}

#[test]
fn a_panic_that_is_caught_and_answered_says_nothing_of_itself() {
    let bench = Bench::new("llama");
    // The library keeps room for the longest token only, and this merge makes a longer one.
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "post_processor": null, "pre_tokenizer": null, "decoder": null,
        "model": {
            "type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "<s>": 3},
            "merges": [["<s>", "ab"]]
        },
    });
    fs::write(bench.path("model/tokenizer.json"), tokenizer.to_string()).expect("writable");
    let mut command = bench.lns(&["eval", "model", "--text", "text.txt"]);
    let output = command.env("RUST_BACKTRACE", "1").assert().code(2).get_output().clone();
    let error = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(error.contains("the library that reads it panicked"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn a_misspelt_setting_is_answered_with_the_one_that_was_meant() {
    let bench = Bench::new("llama");
    let error = bench.fails(&["train", "--out", "run", "--set", "optimizer.name=adam"], 2);
    assert!(error.contains("did you mean `optimiser.name`?"), "{error}");
    fs::write(bench.path("my.toml"), "[run.optimizer]\nname = 'adam'\n").expect("writable");
    let error = bench.fails(&["study", "my.toml", "--out", "run"], 2);
    assert!(error.contains("did you mean `optimiser.name`?"), "{error}");
    for (text, meant) in [
        ("name = 'x'\nbaselne = 'pre'\n", "`baselne`: did you mean `baseline`?"),
        ("[[groups]]\nshceme = 'pre'\n", "`shceme`: did you mean `scheme`?"),
    ] {
        fs::write(bench.path("my.toml"), text).expect("writable");
        let error = bench.fails(&["study", "my.toml", "--out", "run"], 2);
        assert!(error.contains(meant), "{error}");
    }
}

#[test]
fn every_scheme_and_family_is_in_the_help_and_the_one_that_was_meant_is_named() {
    let bench = Bench::new("llama");
    let names = NormScheme::names();
    for arguments in [
        &["train", "--help"][..],
        &["train", "-h"],
        &["completions", "bash"],
        &["completions", "zsh"],
        &["completions", "fish"],
    ] {
        let text = bench.succeeds(arguments);
        for name in &names {
            assert!(text.contains(name), "{arguments:?}: {name} is missing: {text}");
        }
    }
    let help = bench.succeeds(&["--help"]);
    for family in Family::all() {
        assert!(help.contains(family.model_type()), "{help}");
    }
    let study = "name = 'x'\nbaseline = 'lsn'\nseeds = [1]\n[[groups]]\nscheme = 'lsn'\n";
    fs::write(bench.path("my.toml"), study).expect("writable");
    for arguments in [
        &["train", "--out", "run", "--scheme", "lsn"][..],
        &["train", "--out", "run", "--set", "model.scheme=lsn"],
        &["study", "my.toml", "--out", "run"],
    ] {
        let error = bench.fails(arguments, 2);
        assert!(error.contains("did you mean lns?"), "{error}");
        assert!(error.contains(&names.join(", ")) && !error.contains("\nin `"), "{error}");
    }
}

#[test]
fn the_name_of_a_file_is_refused_for_a_folder_with_the_remedy() {
    let bench = Bench::new("llama");
    for (out, part) in [
        ("model.ggfu", "or model.gguf for a GGUF file"),
        ("foo.txt", "name a folder, as foo,"),
        ("x.safetensor", "name a folder, as x,"),
    ] {
        let error = bench.fails(&["export", "model", "--out", out], 2);
        assert!(error.contains(part), "{error}");
        assert!(!bench.path(out).exists(), "{out}");
    }
    for arguments in [
        &["train", "--out", "x.gguf"][..],
        &["study", "smoke", "--out", "x.gguf"],
        &["finetune", "model", "--text", "text.txt", "--out", "x.gguf"],
        &["tokenize", "--text", "text.txt", "--out", "x.gguf"],
    ] {
        let error = bench.fails(arguments, 2);
        assert!(error.contains("name a folder, as x,"), "{error}");
        assert!(!bench.path("x.gguf").exists(), "{arguments:?}");
    }
    bench.succeeds(&["export", "model", "--out", "SmolLM-1.7B"]);
}

#[test]
fn the_settings_of_a_run_hold_its_key_value_heads_and_a_run_without_them_goes_on() {
    let bench = Bench::new("llama");
    let run = with(&["train", "--out", "run"], &["--steps", "2"]);
    bench.succeeds(&run);
    let path = bench.path("run/config.toml");
    let settings = fs::read_to_string(&path).expect("there");
    assert!(settings.contains("num_key_value_heads = 2\n"), "{settings}");
    // As earlier versions wrote it.
    let older = settings.replace("num_key_value_heads = 2\n", "num_key_value_heads = 0\n");
    fs::write(&path, older).expect("writable");
    fs::remove_dir_all(bench.path("run/model")).expect("there");
    bench.succeeds(&["train", "--out", "run"]);
    bench.succeeds(&run);
    bench.succeeds(&["train", "--out", "run", "--set", "model.num_key_value_heads=2"]);
    let other = ["train", "--out", "run", "--set", "model.num_key_value_heads=1"];
    assert!(bench.fails(&other, 2).contains("model.num_key_value_heads"));
}

#[test]
fn what_is_no_report_and_no_folder_is_said_in_words() {
    let bench = Bench::new("llama");
    let error = bench.fails(&["report", "."], 2);
    assert!(error.contains("no diagnosis") && !error.contains("os error"), "{error}");
    for out in ["x.bin", "x.safetensors", "x.PT"] {
        let error = bench.fails(&["export", "model", "--out", out], 2);
        assert!(error.contains("name a folder"), "{error}");
        assert!(!bench.path(out).exists());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn help_that_cannot_be_written_is_a_failure() {
    let bench = Bench::new("llama");
    for flag in ["--help", "--version"] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("there");
        let program = assert_cmd::cargo::cargo_bin("lns");
        let run = std::process::Command::new(program).arg(flag).stdout(full).output();
        let run = run.expect("runs");
        assert_eq!(run.status.code(), Some(1), "{flag}");
        let error = String::from_utf8_lossy(&run.stderr).into_owned();
        assert!(error.contains("standard output cannot be written to"), "{error}");
        bench.succeeds(&[flag]);
    }
}

#[test]
fn a_benchmark_of_nothing_says_so_instead_of_an_empty_table() {
    let bench = Bench::new("llama");
    let error = bench.fails(&["bench", "--workload", ""], 2);
    assert!(error.contains("nothing to measure"), "{error}");
}

#[test]
fn a_benchmark_names_its_instruction_set_and_uses_the_one_that_is_asked_for() {
    let bench = Bench::new("llama");
    let least = ["--prompt-tokens", "4", "--new-tokens", "2", "--seconds", "0", "--threads", "1"];
    let measure = [&["bench", "--workload", "", "--model", "model", "--json"][..], &least].concat();
    let of = |set: &str| -> Value {
        let more = ["--isa", set];
        serde_json::from_str(&bench.succeeds(&[&measure[..], &more].concat())).expect("JSON")
    };
    assert_eq!(of("baseline")["instruction_set"], "baseline");
    let error = bench.fails(&[&measure[..], &["--isa", "mmx"]].concat(), 2);
    assert!(error.contains("expected one of baseline, avx2, avx512"), "{error}");
}

/// Names of other encodings, as old disks and archives have.
#[cfg(target_os = "linux")]
#[test]
fn paths_that_are_not_utf_8_are_read_and_where_they_cannot_be_written_down_refused() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let bench = Bench::new("llama");
    let [name, new] = [&b"mod\xe9le"[..], b"ne\xfc"].map(OsStr::from_bytes);
    fs::rename(bench.path("model"), bench.dir.path().join(name)).expect("renames");
    for (arguments, code) in [
        (&["inspect"][..], 0),
        (&["inspect", "--json"], 0),
        (&["eval", "--text", "text.txt", "--window", "16", "--json"], 0),
        (&["diagnose", "--text", "text.txt", "--window", "16", "--out", "found"], 0),
        (&["retrofit", "--out", "scaled"], 0),
        (&["finetune", "--text", "text.txt", "--length", "16", "--out", "tuned"], 2),
        (&["train", "--corpus"], 2),
        (&["train", "--steps", "1", "--out"], 2),
        (&["study", "smoke", "--out"], 2),
    ] {
        let mut command = bench.lns(arguments);
        match arguments.last() {
            Some(&"--corpus") => command.arg(name).args(["--out", "run"]),
            Some(&"--out") => command.arg(new),
            _ => command.arg(name),
        };
        let output = command.assert().code(code).get_output().clone();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!error.contains("panicked"), "{arguments:?}: {error}");
        assert_eq!(code == 2, error.contains("is not UTF-8"), "{arguments:?}: {error}");
    }
}
