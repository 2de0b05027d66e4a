//! The program as its user meets it: real commands on tiny checkpoints, results, files, errors.

mod bench;
mod finetuning;
mod folders;
mod gpt_oss;
mod latents;
mod measure;
mod numbers;
mod strangers;
mod surgery;
mod tasks;
mod text;

use std::fs;

use assert_cmd::Command;
use serde_json::{Value, json};

use bench::Bench;

const EVAL: [&str; 7] = ["eval", "model", "--text", "text.txt", "--window", "16", "--json"];

#[test]
fn eval_prints_the_contract_and_nothing_else() {
    let bench = Bench::new("llama");
    let record: Value = serde_json::from_str(&bench.succeeds(&EVAL)).expect("only JSON");
    for key in ["model", "tokens", "bytes", "nll", "perplexity", "bits_per_byte", "nll_stderr"] {
        assert!(!record[key].is_null(), "{key} is missing");
    }
    assert_eq!(record["windows"], 12, "200 tokens are 12 windows of 16, the rest is dropped");
    assert_eq!(record["tokens"], 12 * 15);
    let (nll, ppl) = (record["nll"].as_f64().expect("a number"), record["perplexity"].as_f64());
    assert!((nll.exp() - ppl.expect("a number")).abs() < 1e-9);
}

#[test]
fn max_tokens_is_exactly_the_first_windows() {
    let bench = Bench::new("llama");
    let mut arguments = EVAL.to_vec();
    arguments.extend(["--max-tokens", "64"]);
    let record: Value = serde_json::from_str(&bench.succeeds(&arguments)).expect("only JSON");
    assert_eq!(record["windows"], 4);
}

#[test]
fn diagnose_writes_record_page_and_charts_and_shows_a_table() {
    let bench = Bench::new("llama");
    let arguments = ["diagnose", "model", "--text", "text.txt", "--window", "16", "--out", "found"];
    let table = bench.succeeds(&arguments);
    assert!(table.contains("3 layers") && table.contains("Δ loss"), "{table}");
    let record: Value =
        serde_json::from_slice(&fs::read(bench.path("found/diagnose.json")).expect("written"))
            .expect("JSON");
    assert_eq!(record["stream"].as_array().map(Vec::len), Some(4));
    assert_eq!(record["layers"][2]["layer"], 2);
    assert_eq!(record["angular_distance"][1].as_array().map(Vec::len), Some(2));
    assert!(record["verdict"]["effective_depth"].is_number());
    let page = fs::read_to_string(bench.path("found/report.html")).expect("written");
    assert!(page.contains("<svg") && !page.contains("<script"));
    assert!(fs::read_dir(bench.path("found/charts")).expect("written").count() >= 4);
}

#[test]
fn a_model_of_no_numbers_is_an_error_not_a_diagnosis() {
    let bench = Bench::new("llama");
    let path = bench.path("model/model.safetensors");
    let bytes = fs::read(&path).expect("there");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let head: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("JSON");
    let at = head["model.layers.1.mlp.down_proj.weight"]["data_offsets"][0].as_u64();
    let at = 8 + length + at.expect("an offset") as usize;
    rewrite(&bench, |bytes| bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes()));
    for verb in ["eval", "diagnose"] {
        let error = bench.fails(&[verb, "model", "--text", "text.txt", "--window", "16"], 2);
        assert!(error.contains("not a finite number"), "{error}");
    }
    let error = bench.lns(&["generate", "model", "--prompt", "w1"]).assert().code(2);
    let error = String::from_utf8_lossy(&error.get_output().stderr).into_owned();
    assert!(error.contains("not numbers"), "{error}");
}

#[test]
fn diagnose_as_json_prints_the_record_and_writes_no_file() {
    let bench = Bench::new("qwen3");
    let arguments = ["diagnose", "model", "--text", "text.txt", "--window", "16", "--json"];
    let record: Value = serde_json::from_str(&bench.succeeds(&arguments)).expect("only JSON");
    assert_eq!(record["model"]["model_type"], "qwen3");
    assert!(!bench.path("diagnosis-model").exists());
}

#[test]
fn two_models_or_a_model_and_a_finished_run_stand_side_by_side() {
    let bench = Bench::new("scheme-lns");
    bench.tokenizer(32);
    let words: Vec<String> = (0..80).map(|i| format!("w{}", i * 7 % 32)).collect();
    fs::write(bench.path("text.txt"), words.join(" ")).expect("writable");
    let of = ["diagnose", "model", "--text", "text.txt", "--window", "8"];
    bench.succeeds(&[&of[..], &["--out", "first"]].concat());
    for other in ["first", "model", "first/diagnose.json"] {
        let both = bench.succeeds(&[&of[..], &["--json", "--against", other]].concat());
        let both: Value = serde_json::from_str(&both).expect("only JSON");
        assert_eq!(both[0]["baseline"], both[1]["baseline"], "{other}");
    }
    let table = bench.succeeds(&["report", "first", "first", "--out", "page"]);
    assert!(!table.is_empty() && bench.path("page/report.html").is_file());
    for wrong in ["nowhere", "text.txt"] {
        let error = bench.fails(&[&of[..], &["--out", "new", "--against", wrong]].concat(), 2);
        assert!(error.contains(wrong), "{error}");
        assert!(!bench.path("new").exists(), "{wrong}: the first model was measured for nothing");
    }
    bench.succeeds(&[&of[..], &["--out", "pair", "--against", "model"]].concat());
    assert!(
        bench.path("pair/diagnose.json").is_file() && bench.path("pair/against.json").is_file()
    );
}

#[test]
fn inspect_says_what_the_model_is() {
    let bench = Bench::new("scheme-lns-pruned");
    let text = bench.succeeds(&["inspect", "model", "--tensors"]);
    for part in ["lns", "layers 0, 2, 3 of 4 trained", "model.layers.2.mlp.down_proj.weight"] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    let json: Value =
        serde_json::from_str(&bench.succeeds(&["inspect", "model", "--json"])).expect("only JSON");
    assert_eq!(json["complete"], true);
    assert_eq!(json["norm_scheme"]["name"], "lns");
}

#[test]
fn inspect_says_how_many_of_a_mixtures_parameters_a_token_needs() {
    let bench = Bench::new("mixtral");
    let json: Value =
        serde_json::from_str(&bench.succeeds(&["inspect", "model", "--json"])).expect("only JSON");
    let number = |key: &str| json[key].as_u64().expect(key);
    // Three layers of four experts of which a token has two: three matrices of 24 × 32 each.
    let idle = 3 * 2 * 3 * 24 * 32;
    assert_eq!(number("parameters_active"), number("parameters_total") - idle);
    let [few, all] = ["streaming_memory_bytes_of_a_token", "streaming_memory_bytes"].map(number);
    assert!(few < all && all < number("memory_bytes"));
    let text = bench.succeeds(&["inspect", "model"]);
    assert!(text.contains("of them for each token"), "{text}");
    let plan = bench.succeeds(&["prune", "model", "--layers", "1", "--out", "less"]);
    assert!(plan.contains("; for each token "), "{plan}");
}

#[test]
fn a_mixture_generates_the_same_with_its_experts_on_disk() {
    let bench = Bench::new("qwen3_moe");
    let arguments = ["generate", "model", "--prompt", "w3 w1", "--max-new-tokens", "6"];
    let streamed = [&arguments[..], &["--stream"]].concat();
    let output = bench.lns(&streamed).assert().success().get_output().clone();
    assert_eq!(String::from_utf8_lossy(&output.stdout), bench.succeeds(&arguments));
    let notes = String::from_utf8_lossy(&output.stderr);
    assert!(notes.contains("experts read from disk"), "{notes}");
    let error = Bench::new("llama").fails(&streamed, 2);
    assert!(error.contains("has none"), "{error}");
}

#[test]
fn generate_continues_a_prompt_and_repeats_itself_for_a_seed() {
    let bench = Bench::new("mistral");
    let arguments =
        ["generate", "model", "--prompt", "w3 w1", "--max-new-tokens", "6", "--temperature", "1"];
    let first = bench.succeeds(&arguments);
    assert!(first.starts_with("w3 w1") && first.len() > "w3 w1 ".len(), "{first}");
    assert_eq!(bench.succeeds(&arguments), first);
    assert_ne!(bench.succeeds(&[&arguments[..], &["--seed", "5"]].concat()), first);
    bench.fails(&["generate", "model", "--prompt", ""], 2);
}

#[test]
fn quickstart_without_a_network_trains_a_pair() {
    let bench = Bench::new("llama");
    let text = bench.succeeds(&["quickstart", "--offline", "--out", "start", "--steps", "2"]);
    assert!(text.contains("baseline") && text.contains("no interval"), "{text}");
    let page =
        fs::read_to_string(bench.path("start/pair-language-2/report.html")).expect("written");
    let caution = "2 steps of 2\u{202f}048 tokens are far too few";
    assert!(page.contains(caution) && text.contains(caution), "{text}");
    assert!(!bench.path("start/report.html").exists(), "that is the page of a fetched model");
    assert!(bench.path("start/pair-language-2/runs/lns-seed1/model/config.json").is_file());
}

/// Settings of a model that trains in a moment.
const TINY: [&str; 12] = [
    "--layers",
    "2",
    "--hidden",
    "16",
    "--batch",
    "2",
    "--length",
    "16",
    "--set",
    "model.num_attention_heads=2",
    "--set",
    "model.intermediate_size=24",
];

fn with<'a>(verb: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [verb, &TINY, more].concat()
}

fn final_weights(bench: &Bench, run: &str) -> Vec<u8> {
    fs::read(bench.path(run).join("model/model.safetensors")).expect("a finished model")
}

#[test]
fn a_model_is_trained_watched_and_read_by_the_other_verbs() {
    let bench = Bench::new("llama");
    let train = with(&["train", "--scheme", "lns", "--out", "run"], &["--steps", "6"]);
    let text = bench.succeeds(&train);
    assert!(text.contains("nats per token, held out") && text.contains("run/model"), "{text}");
    let summary = bench.succeeds(&["watch", "run"]);
    assert!(summary.contains("finished") && summary.contains("lns"), "{summary}");
    assert!(fs::read_dir(bench.path("run/tensorboard")).expect("there").count() == 1);
    let inspected = bench.succeeds(&["inspect", "run/model"]);
    assert!(inspected.contains("lns"), "{inspected}");
    // A run is known by what its text holds: it goes on where that has moved.
    fs::rename(bench.path("run/text"), bench.path("moved")).expect("moves");
    fs::remove_dir_all(bench.path("run/model")).expect("removes");
    assert_eq!(bench.succeeds(&["train", "--out", "run", "--corpus", "moved"]), text);
    fs::rename(bench.path("moved"), bench.path("run/text")).expect("moves");
    // The same again finds it finished; other settings are refused; without any it is continued.
    assert_eq!(bench.succeeds(&train), text);
    let other = with(&["train", "--scheme", "pre", "--out", "run"], &["--steps", "6"]);
    let error = bench.fails(&other, 2);
    assert!(error.contains("model.scheme.name") && error.contains("another folder"), "{error}");
    assert_eq!(bench.succeeds(&["train", "--out", "run"]), text);

    fs::write(bench.path("other.txt"), "w1 w2").expect("writable");
    let text = bench.fails(&["train", "--out", "run", "--text", "other.txt"], 2);
    assert!(text.contains("prepared from something else"), "{text}");
    let estimate = bench.succeeds(&["train", "--estimate", "--preset", "paper-130m"]);
    assert!(estimate.contains("134105856") && estimate.contains("expected"), "{estimate}");
    let unknown = bench.fails(&["train", "--out", "x", "--set", "schedule.warmpu=3"], 2);
    assert!(unknown.contains("warmpu") && unknown.contains("warmup"), "{unknown}");
    let scheme = bench.fails(&["train", "--out", "x", "--scheme", "LNS"], 2);
    assert!(scheme.contains("LNS") && scheme.contains("mix-ln"), "{scheme}");
    assert!(bench.fails(&["watch", "model"], 2).contains("events"));
}

/// Kills with SIGKILL wherever the run happens to be, several times over.
#[cfg(unix)]
#[test]
fn a_training_run_survives_being_killed_at_any_moment() {
    let bench = Bench::new("llama");
    bench.succeeds(&with(
        &["train", "--out", "whole"],
        &["--steps", "40", "--set", "snapshots.every=1"],
    ));
    let again =
        with(&["train", "--out", "killed"], &["--steps", "40", "--set", "snapshots.every=1"]);
    let mut kills = 0;
    for milliseconds in [150, 300, 450, 600, 350, 250] {
        let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin("lns"))
            .current_dir(bench.dir.path())
            .args(&again)
            .stderr(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("starts");
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        kills += usize::from(child.try_wait().expect("asks").is_none());
        child.kill().expect("kills");
        child.wait().expect("ends");
    }
    assert!(kills > 0, "the test must kill something");
    bench.succeeds(&again);
    assert_eq!(final_weights(&bench, "killed"), final_weights(&bench, "whole"));
}

/// A limit on file size fails a snapshot in the middle, as a full disk does.
#[cfg(unix)]
#[test]
fn a_full_disk_during_a_snapshot_is_said_and_the_run_goes_on_from_the_one_before() {
    let bench = Bench::new("llama");
    let run = with(&["train", "--out", "run"], &["--steps", "8", "--set", "snapshots.every=4"]);
    bench.succeeds(&with(
        &["train", "--out", "whole"],
        &["--steps", "8", "--set", "snapshots.every=4"],
    ));
    // The text first, which is larger than the limit.
    let corpus = bench.path("whole/text");
    let run = [&run[..], &["--corpus", corpus.to_str().expect("UTF-8")]].concat();
    let program = assert_cmd::cargo::cargo_bin("lns");
    let script = format!("ulimit -f 16; exec '{}' {}", program.display(), run.join(" "));
    let mut shell = Command::new("sh");
    let output = shell.current_dir(bench.dir.path()).args(["-c", &script]).assert().failure();
    let error = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    assert!(error.contains("step-00000004 was not written"), "{error}");
    assert!(error.contains("run/model was not written"), "{error}");
    let left = fs::read_dir(bench.path("run")).expect("there").flatten();
    let left: Vec<String> = left.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    assert!(!left.iter().any(|name| name.contains("partial") || name == "model"), "{left:?}");
    bench.succeeds(&run);
    assert_eq!(final_weights(&bench, "run"), final_weights(&bench, "whole"));
}

#[test]
fn a_study_compares_schemes_goes_on_and_is_reported_again() {
    let bench = Bench::new("llama");
    let study = with(
        &["study", "laptop", "--out", "study", "--groups", "lns,before-norm", "--seeds", "1,2"],
        &["--steps", "4", "--set", "evaluation.tokens=512"],
    );
    let text = bench.succeeds(&study);
    assert!(text.contains("lns") && text.contains("before-norm"), "{text}");
    let json = fs::read_to_string(bench.path("study/study.json")).expect("there");
    let record: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(record["missing_runs"], 0);
    assert_eq!(record["pairs"].as_array().map(Vec::len), Some(2));
    let probe = &record["pairs"][1];
    assert_eq!(probe["noise_probe"], true);
    let moved = probe["difference"]["mean"].as_f64().expect("a number");
    assert!(moved.abs() < 1e-3, "the scale before the norm changes nothing but rounding: {moved}");
    let checks = record["theory"]["checks"].as_array().expect("measured");
    assert!(checks.len() >= 4, "{checks:?}");

    let page = fs::read(bench.path("study/report.html")).expect("a page");
    fs::remove_file(bench.path("study/report.html")).expect("removes");
    fs::remove_dir_all(bench.path("study/runs/lns-seed2")).expect("removes");
    bench.succeeds(&study);
    assert_eq!(fs::read(bench.path("study/report.html")).expect("again").len(), page.len());
    bench.succeeds(&["report", "study"]);
    let other = with(&["study", "laptop", "--out", "study"], &["--steps", "5"]);
    let error = bench.fails(&other, 2);
    assert!(error.contains("runs/pre-seed1") && error.contains("steps = 4 there"), "{error}");
    let reserved = bench.fails(&["study", "smoke", "--out", "x", "--set", "seed=4"], 2);
    assert!(reserved.contains("belongs to the groups"), "{reserved}");
    // It may grow by seeds.
    let more: Vec<&str> =
        study.iter().map(|word| if *word == "1,2" { "1,2,3" } else { word }).collect();
    bench.succeeds(&more);
    assert!(bench.path("study/runs/before-norm-seed3/model").is_dir());
    assert!(bench.fails(&["study", "lapto", "--out", "x"], 2).contains("laptop"));
}

/// A limit on file size fails a write in the middle, as a full disk does.
#[cfg(unix)]
#[test]
fn a_write_that_fails_names_the_file_and_leaves_the_old_one() {
    let bench = Bench::new("llama");
    fs::create_dir(bench.path("out")).expect("writable");
    fs::write(bench.path("out/diagnose.json"), "old").expect("writable");
    let program = assert_cmd::cargo::cargo_bin("lns");
    let script = format!(
        "ulimit -f 2; exec '{}' diagnose model --text text.txt --window 16 --out out",
        program.display()
    );
    let mut shell = Command::new("sh");
    let output = shell.current_dir(bench.dir.path()).args(["-c", &script]).assert().code(1);
    let error = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    assert!(error.contains("error: out/diagnose.json cannot be written"), "{error}");
    assert_eq!(fs::read_to_string(bench.path("out/diagnose.json")).expect("there"), "old");
    let left: Vec<_> = fs::read_dir(bench.path("out")).expect("readable").collect();
    assert_eq!(left.len(), 2, "charts/ and the old file, nothing half-written: {left:?}");
}

#[test]
fn bench_prints_the_contract_and_an_estimate() {
    let bench = Bench::new("llama");
    let run = bench.succeeds(&[
        "bench",
        "--workload",
        "",
        "--model",
        "model",
        "--prompt-tokens",
        "16",
        "--new-tokens",
        "4",
        "--seconds",
        "0",
        "--threads",
        "2",
        "--json",
    ]);
    let record: Value = serde_json::from_str(&run).expect("only JSON");
    assert!(record["peak_gflops"].as_f64().expect("a number") > 0.0);
    assert_eq!(record["threads"], 2);
    for (result, mode) in
        record["workloads"].as_array().expect("a list").iter().zip(["prefill", "decode"])
    {
        // The folder's own name, `model`, tells it from no other.
        let name = bench.dir.path().file_name().expect("named").to_string_lossy().into_owned();
        assert_eq!((&result["name"], &result["mode"]), (&name.into(), &mode.into()));
        for key in ["tokens_per_second", "gflops", "share_of_peak"] {
            assert!(result[key].as_f64().expect(key) > 0.0, "{key}: {result}");
        }
    }
    let estimate = bench.succeeds(&["bench", "--workload", "c", "--estimate", "--threads", "2"]);
    assert!(estimate.contains("134105856") && estimate.contains("per worker"), "{estimate}");
}

#[test]
fn bf16_products_change_a_loss_by_little() {
    let bench = Bench::new("llama");
    let nll = |more: &[&str]| {
        let run = bench.succeeds(&[&EVAL[..], more].concat());
        let record: Value = serde_json::from_str(&run).expect("only JSON");
        record["nll"].as_f64().expect("a number")
    };
    let difference = (nll(&[]) - nll(&["--precision", "bf16"])).abs();
    assert!(difference > 0.0 && difference < 0.02, "{difference}");
}

#[test]
fn help_and_completions_are_there() {
    let bench = Bench::new("llama");
    let help = bench.succeeds(&["diagnose", "--help"]);
    assert!(help.contains("jacobian") && help.contains("forward passes"), "{help}");
    assert!(bench.succeeds(&["completions", "bash"]).contains("diagnose"));
}

#[test]
fn wrong_usage_names_the_remedy() {
    let bench = Bench::new("llama");
    fs::write(bench.path("empty.txt"), "").expect("writable");
    fs::write(bench.path("short.txt"), "w1 w2 w3").expect("writable");
    let eval = |text: &str, more: &[&str]| {
        bench.fails(&[&["eval", "model", "--text", text][..], more].concat(), 2)
    };
    assert!(eval("empty.txt", &[]).contains("no text in empty.txt"));
    assert!(eval("short.txt", &["--window", "16"]).contains("3 tokens"));
    assert!(eval("text.txt", &["--window", "100000"]).contains("context"));
    assert!(eval("text.txt", &["--window", "16", "--max-tokens", "15"]).contains("window"));
    assert!(eval("text.txt", &["--window", "16", "--threads", "0"]).contains("--threads"));
    assert!(eval("gone.txt", &[]).contains("gone.txt"));
    fs::write(bench.path("occupied"), "a file").expect("writable");
    let error = bench.fails(
        &["diagnose", "model", "--text", "text.txt", "--window", "16", "--out", "occupied"],
        2,
    );
    assert!(error.contains("occupied") && error.contains("file"), "{error}");
    assert_eq!(fs::read_to_string(bench.path("occupied")).expect("still there"), "a file");
    let error = bench.fails(
        &["diagnose", "model", "--text", "text.txt", "--window", "16", "--out", "text.txt/sub"],
        2,
    );
    assert!(error.contains("text.txt/sub"), "{error}");
    let eval = ["eval", "model", "--text", "text.txt", "--window", "16"];
    if cfg!(not(feature = "cuda")) {
        let error = bench.fails(&[&eval[..], &["--device", "cuda:1"]].concat(), 2);
        assert!(error.contains("lacks cuda") && error.contains("--features cuda"), "{error}");
    }
    for (option, value) in [("--device", "gpu"), ("--device", "cpu:x"), ("--precision", "f16")] {
        let error = bench.fails(&[&eval[..], &[option, value]].concat(), 2);
        assert!(error.contains(option) && error.contains(value), "{error}");
    }
    let error = bench.fails(&["bench", "--workload", "A,E"], 2);
    assert!(error.contains("--workload E") && error.contains("130M"), "{error}");
    let error = bench.fails(&["bench", "--workload", "", "--model", "model"], 2);
    assert!(error.contains("context") && error.contains("--prompt-tokens"), "{error}");
    let diagnose = ["diagnose", "model", "--text", "text.txt", "--probes", "Stream"];
    let error = bench.fails(&diagnose, 2);
    assert!(error.contains("\"Stream\" is not a probe"), "{error}");
    let error = bench.fails(&["diagnose", "nope", "--text", "text.txt"], 2);
    assert!(error.contains("nope") && !bench.path("diagnosis-nope").exists(), "{error}");
}

#[test]
fn a_vocabulary_larger_than_the_embedding_is_refused() {
    let bench = Bench::new("llama");
    bench.tokenizer(200);
    fs::write(bench.path("text.txt"), "w150 ".repeat(40)).expect("writable");
    let error = bench.fails(&["eval", "model", "--text", "text.txt", "--window", "16"], 2);
    assert!(error.contains("150") && error.contains("96"), "{error}");
}

#[test]
fn a_damaged_checkpoint_gives_an_error_that_names_file_and_fault() {
    type Damage = (&'static str, fn(&Bench), &'static [&'static str]);
    let cases: [Damage; 12] = [
        (
            "llama-bf16-sharded",
            |b| fs::remove_file(b.path("model/model-00002-of-00003.safetensors")).expect("there"),
            &["model-00002-of-00003.safetensors"],
        ),
        ("llama", |b| rewrite(b, |bytes| bytes.truncate(bytes.len() - 9)), &["model.safetensors"]),
        ("llama", |b| rewrite(b, |bytes| bytes.truncate(5)), &["model.safetensors"]),
        ("llama", |b| rewrite(b, |bytes| bytes[..8].fill(0xff)), &["header"]),
        (
            "llama",
            |b| header(b, |h| h["model.norm.weight"]["data_offsets"] = json!([0, 128])),
            &["model.safetensors"],
        ),
        (
            "llama",
            |b| header(b, |h| h["model.norm.weight"]["shape"] = json!([1u64 << 40, 1u64 << 40])),
            &["model.norm.weight"],
        ),
        ("llama", |b| header(b, |h| h["model.norm.weight"]["dtype"] = json!("I32")), &["I32"]),
        (
            "llama",
            |b| {
                header(b, |h| {
                    let tensor = h["model.norm.weight"].take();
                    h.as_object_mut().expect("an object").remove("model.norm.weight");
                    h["model.other.weight"] = tensor;
                });
            },
            &["model.norm.weight", "model.other.weight"],
        ),
        ("llama", |b| b.config(|c| c["hidden_size"] = json!(64)), &["model.norm.weight", "64"]),
        ("llama", |b| b.config(|c| c["model_type"] = json!("bert")), &["config.json", "bert"]),
        (
            "llama",
            |b| b.config(|c| c["num_attention_heads"] = json!(7)),
            &["config.json", "num_attention_heads"],
        ),
        (
            "llama-bf16-sharded",
            |b| {
                let path = b.path("model/model.safetensors.index.json");
                let text = fs::read_to_string(&path).expect("there");
                fs::write(path, text.replace("model-00001", "../model-00001")).expect("writable");
            },
            &["..", "inside"],
        ),
    ];
    for (index, (golden, damage, parts)) in cases.into_iter().enumerate() {
        let bench = Bench::new(golden);
        damage(&bench);
        for verb in
            [&EVAL[..], &["diagnose", "model", "--text", "text.txt", "--window", "16", "--json"]]
        {
            let error = bench.fails(verb, 2);
            for part in parts {
                assert!(error.contains(part), "case {index}: no {part:?} in {error}");
            }
        }
    }
}

fn rewrite(bench: &Bench, change: impl FnOnce(&mut Vec<u8>)) {
    let path = bench.path("model/model.safetensors");
    let mut bytes = fs::read(&path).expect("there");
    change(&mut bytes);
    fs::write(path, bytes).expect("writable");
}

/// Changes the header of the safetensors file, keeping the data behind it.
fn header(bench: &Bench, change: impl FnOnce(&mut Value)) {
    rewrite(bench, |bytes| {
        let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
        let mut header = serde_json::from_slice(&bytes[8..8 + length]).expect("JSON");
        change(&mut header);
        let text = header.to_string();
        let data = bytes.split_off(8 + length);
        *bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text.as_bytes());
        bytes.extend(data);
    });
}

#[test]
fn a_hostile_gguf_gives_an_error() {
    let bench = Bench::new("llama");
    let head = |tensors: u64, pairs: u64| {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(pairs.to_le_bytes());
        bytes
    };
    let mut long_string = head(0, 1);
    long_string.extend((1u64 << 60).to_le_bytes());
    long_string.extend(b"general.architecture");
    let mut unknown_type = head(1, 1);
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    };
    text(&mut unknown_type, "general.architecture");
    unknown_type.extend(8u32.to_le_bytes());
    text(&mut unknown_type, "llama");
    text(&mut unknown_type, "token_embd.weight");
    unknown_type.extend(1u32.to_le_bytes());
    unknown_type.extend(32u64.to_le_bytes());
    unknown_type.extend(77u32.to_le_bytes());
    unknown_type.extend(0u64.to_le_bytes());
    unknown_type.resize(4096, 0);
    let many = head(u64::MAX, u64::MAX);
    for (name, bytes, part) in [
        ("string.gguf", long_string, "1152921504606846976"),
        ("type.gguf", unknown_type, "77"),
        ("many.gguf", many, "many.gguf"),
        ("empty.gguf", Vec::new(), "empty.gguf"),
    ] {
        fs::write(bench.path(name), bytes).expect("writable");
        let error = bench.fails(&["inspect", name], 2);
        assert!(error.contains(name) && error.contains(part), "{error}");
    }
}
