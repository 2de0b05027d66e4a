//! What is measured, on how much text, with which errors, and what an early end leaves.

use std::fs;

use serde_json::Value;

use crate::bench::Bench;

/// As many words of the bench's vocabulary, one a token.
fn write_words(bench: &Bench, name: &str, count: usize) {
    let words: Vec<String> = (0..count).map(|i| format!("w{}", i * i % 89)).collect();
    fs::write(bench.path(name), words.join(" ")).expect("writable");
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("only JSON")
}

#[test]
fn a_diagnosis_reads_2048_tokens_unless_told_otherwise_and_says_what_more_would_buy() {
    let bench = Bench::new("llama");
    write_words(&bench, "long.txt", 5000);
    let run = |text: &str, more: &[&str]| {
        let arguments = ["diagnose", "model", "--text", text, "--json", "--probes", "stream"];
        let output = bench.lns(&[&arguments[..], more].concat()).assert().success();
        let output = output.get_output().clone();
        let said = String::from_utf8(output.stderr).expect("UTF-8");
        (json(&String::from_utf8(output.stdout).expect("UTF-8"))["text"]["tokens"].clone(), said)
    };
    let (tokens, said) = run("long.txt", &[]);
    assert_eq!(tokens, 2048);
    assert!(said.contains("first 2048 tokens; --max-tokens 8192 takes four times"), "{said}");
    let (tokens, said) = run("long.txt", &["--max-tokens", "4096"]);
    assert_eq!(tokens, 4096);
    assert!(!said.contains("takes four times"), "{said}");
    let (_, said) = run("text.txt", &["--window", "16"]);
    assert!(!said.contains("takes four times"), "a short text has no more: {said}");
}

#[test]
fn removal_ends_where_it_is_known_and_says_on_how_many_windows() {
    let bench = Bench::new("llama");
    write_words(&bench, "long.txt", 20_000);
    let own = ["diagnose", "model", "--text", "long.txt", "--probes", "removal"];
    let mut found = bench.lns(&[&own[..], &["--removal-error", "0.5", "--out", "found"]].concat());
    let found = found.assert().success().get_output().clone();
    let said = String::from_utf8(found.stdout).expect("UTF-8");
    let record = json(&fs::read_to_string(bench.path("found/diagnose.json")).expect("written"));
    assert_eq!(record["removal_error"], 0.5);
    assert_eq!(
        record["text"]["windows"], 128,
        "four times as many as otherwise, of the model's context"
    );
    for layer in record["layers"].as_array().expect("layers") {
        assert_eq!(layer["removal"]["windows"], 4);
    }
    let row = said.lines().find(|line| line.trim_start().starts_with("0 ")).expect("a row");
    assert!(said.contains("windows") && row.contains(" 4 "), "{said}");
    let page = fs::read_to_string(bench.path("found/report.html")).expect("written");
    assert!(page.contains("windows, layer") && page.contains("of 128, 3 layers on 4;"), "{said}");

    let refused = |more: &[&str]| {
        let own = ["diagnose", "model", "--text", "long.txt", "--json"];
        let output = bench.lns(&[&own[..], more].concat()).assert().code(2);
        String::from_utf8(output.get_output().stderr.clone()).expect("UTF-8")
    };
    let said = refused(&["--probes", "stream", "--removal-error", "0.01"]);
    assert!(said.contains("the probes removal and sublayers"), "{said}");
    for error in ["0", "-1", "NaN", "x"] {
        let said = refused(&[&format!("--removal-error={error}")]);
        assert!(said.contains("expected a number above 0"), "{said}");
    }
}

#[test]
fn too_few_windows_judge_no_layer_and_the_remedy_works() {
    let bench = Bench::new("llama");
    write_words(&bench, "short.txt", 130);
    let run = |window: &str| {
        json(&bench.succeeds(&[
            "diagnose",
            "model",
            "--text",
            "short.txt",
            "--json",
            "--window",
            window,
        ]))
    };
    let two = run("64");
    assert_eq!(two["verdict"]["idle_threshold"], Value::Null);
    let said = two["verdict"]["text"].as_str().expect("a text");
    assert!(said.contains("2 windows") && said.contains("windows of 32 tokens"), "{said}");
    assert!(!said.contains("surely"), "{said}");
    assert!(run("32")["verdict"]["idle_threshold"].is_number());
}

#[test]
fn two_models_are_compared_window_by_window_with_an_error() {
    let bench = Bench::new("llama");
    let text = ["--text", "text.txt", "--window", "16"];
    let scaled = ["retrofit", "model", "--out", "scaled", "--mode", "replace"];
    bench.succeeds(&[&scaled[..], &text].concat());
    let eval = |more: &[&str]| bench.succeeds(&[&["eval"], more, &text].concat());
    let both = json(&eval(&["model", "scaled", "--json"]));
    let nll = |index: usize| both[index]["nll"].as_f64().expect("a number");
    let difference = &both[1]["difference"];
    assert_eq!(both[0]["difference"], Value::Null);
    let number = |key: &str| difference[key].as_f64().expect(key);
    assert!((number("nll") - (nll(1) - nll(0))).abs() < 1e-12);
    assert!(number("stderr") > 0.0);
    assert!(number("low") < number("nll") && number("nll") < number("high"));
    let table = eval(&["model", "scaled"]);
    assert!(table.contains("paired over 12 windows; 95 %: "), "{table}");
    // One model is an object still, and the same model differs by nothing.
    assert!(json(&eval(&["model", "--json"])).is_object());
    let same = json(&eval(&["model", "model", "--json"]));
    assert_eq!(same[1]["difference"]["nll"], 0.0);
}

#[test]
fn models_of_different_tokens_are_not_paired() {
    let bench = Bench::new("llama");
    fs::create_dir(bench.path("other")).expect("writable");
    for entry in fs::read_dir(bench.path("model")).expect("readable") {
        let entry = entry.expect("readable");
        fs::copy(entry.path(), bench.path("other").join(entry.file_name())).expect("copies");
    }
    // The other reads half of the words as the word it falls back to.
    let tokenizer = bench.path("other/tokenizer.json");
    let mut changed = json(&fs::read_to_string(&tokenizer).expect("there"));
    let vocabulary = changed["model"]["vocab"].as_object_mut().expect("words");
    (48..95).for_each(|i| drop(vocabulary.remove(&format!("w{i}"))));
    fs::write(&tokenizer, changed.to_string()).expect("writable");
    let arguments = ["eval", "model", "other", "--text", "text.txt", "--window", "16", "--json"];
    let output = bench.lns(&arguments).assert().success().get_output().clone();
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(said.contains("other tokens than model: bits/byte compare"), "{said}");
    let records = json(&String::from_utf8(output.stdout).expect("UTF-8"));
    assert_eq!(records[1]["difference"], Value::Null);
}

#[test]
fn windows_and_prompts_begin_as_the_models_own_files_say() {
    let bench = Bench::new("llama");
    bench.config(|config| config["bos_token_id"] = 1.into());
    let run = |flags: &[&str]| {
        let arguments = ["eval", "model", "--text", "text.txt", "--window", "16", "--json"];
        let output = bench.lns(&[&arguments[..], flags].concat()).assert().success();
        let output = output.get_output().clone();
        let said = String::from_utf8(output.stderr).expect("UTF-8");
        (json(&String::from_utf8(output.stdout).expect("UTF-8"))["nll"].clone(), said)
    };
    let prompt = |flags: &[&str]| {
        let arguments = ["generate", "model", "--prompt", "w5", "--max-new-tokens", "1", "--json"];
        json(&bench.succeeds(&[&arguments[..], flags].concat()))["prompt_tokens"].clone()
    };
    let (with, without) = (run(&["--bos"]).0, run(&["--no-bos"]).0);
    assert_ne!(with, without);
    assert_eq!(run(&[]).0, without, "no file asks for it");
    assert_eq!(prompt(&[]), 1);

    let config = bench.path("model/tokenizer_config.json");
    fs::write(&config, r#"{"add_bos_token": true}"#).expect("writable");
    let (by_itself, said) = run(&[]);
    assert_eq!(by_itself, with);
    assert!(said.contains("begins with w1") && said.contains("--no-bos leaves it out"), "{said}");
    assert_eq!(run(&["--no-bos"]).0, without);
    assert_eq!((prompt(&[]), prompt(&["--no-bos"])), (2.into(), 1.into()));
    // What is trained on packed text has no such beginnings, which is said.
    fs::copy(bench.path("text.txt"), bench.path("held.txt")).expect("copies");
    let words: Vec<String> = (0..400).map(|i| format!("w{}", i * 5 % 95)).collect();
    fs::write(bench.path("more.txt"), words.join(" ")).expect("writable");
    let tune = ["finetune", "model", "--text", "more.txt", "--validation", "held.txt"];
    let more = ["--steps", "1", "--length", "16", "--out", "tuned"];
    let output = bench.lns(&[&tune[..], &more].concat()).assert().success();
    let said = String::from_utf8(output.get_output().stderr.clone()).expect("UTF-8");
    assert!(said.contains("without the begin-of-text token"), "{said}");

    // Without that file the tokenizer's own post-processor decides.
    fs::remove_file(&config).expect("there");
    let tokenizer = bench.path("model/tokenizer.json");
    let mut changed = json(&fs::read_to_string(&tokenizer).expect("there"));
    changed["post_processor"] = serde_json::json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "w1", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"w1": {"id": "w1", "ids": [1], "tokens": ["w1"]}},
    });
    fs::write(&tokenizer, changed.to_string()).expect("writable");
    assert_eq!(run(&[]).0, with);
}

#[test]
fn every_step_of_a_pruning_has_its_errors() {
    let bench = Bench::new("llama");
    let arguments =
        ["prune", "model", "--drop", "1", "--text", "text.txt", "--window", "16", "--out", "small"];
    let output = bench.lns(&arguments).assert().success().get_output().clone();
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    let step = said.lines().find(|line| line.contains("loss then")).expect("a step");
    assert_eq!(step.matches(" ± ").count(), 2, "{step}");
    let result = String::from_utf8(output.stdout).expect("UTF-8");
    let nll = result.lines().find(|line| line.starts_with("nll ")).expect("losses");
    assert!(nll.contains(" ± "), "{nll}");
    let plan = json(&fs::read_to_string(bench.path("small/prune.json")).expect("written"));
    for key in ["score", "score_stderr", "nll", "rise_stderr"] {
        assert!(plan["steps"][0][key].is_number(), "{key}: {plan}");
    }
}

#[cfg(unix)]
#[test]
fn a_diagnosis_that_a_signal_ends_says_so_and_keeps_whole_windows_or_nothing() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use crate::bench::heeding_signals;

    let bench = Bench::new("llama");
    write_words(&bench, "long.txt", 400_000);
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let mut child = heeding_signals()
            .current_dir(bench.dir.path())
            .args(["diagnose", "model", "--text", "long.txt", "--window", "16", "--out", "found"])
            .args(["--max-tokens", "400000"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let begun = lines.find(|line| line.as_ref().is_ok_and(|line| line.starts_with("Text:")));
        assert!(begun.is_some(), "it ended");
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(sent.expect("kill is there").success());
        let said: Vec<String> = lines.map_while(Result::ok).collect();
        assert_eq!(child.wait().expect("ends").code(), Some(code), "{said:?}");
        assert!(said.iter().any(|line| line.starts_with("Stopped ")), "{said:?}");
        if bench.path("found").exists() {
            let record =
                fs::read(bench.path("found/diagnose.json")).expect("a folder is not empty");
            let record: Value = serde_json::from_slice(&record).expect("JSON");
            let windows = record["text"]["windows"].as_u64().expect("a number");
            assert!((1..25_000).contains(&windows), "{windows}");
            assert!(bench.path("found/report.html").exists());
            fs::remove_dir_all(bench.path("found")).expect("removes");
        }
    }
}
