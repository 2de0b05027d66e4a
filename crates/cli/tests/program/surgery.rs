//! Retrofit, fold, unfold, prune, export and finetune, as their user meets them.

use std::{collections::BTreeMap, fs, path::Path};

use assert_cmd::Command;
use lns_spec::Preset;
use lns_testing::models::LARGE;
use serde_json::{Value, json};

use crate::bench::Bench;

const TEXT: [&str; 4] = ["--text", "text.txt", "--window", "16"];

fn with<'a>(verb: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [verb, more].concat()
}

fn nll(bench: &Bench, model: &str) -> f64 {
    let record = bench.succeeds(&with(&["eval", model, "--json"], &TEXT));
    serde_json::from_str::<Value>(&record).expect("JSON")["nll"].as_f64().expect("a number")
}

fn read(bench: &Bench, path: &str) -> Value {
    serde_json::from_slice(&fs::read(bench.path(path)).expect(path)).expect("JSON")
}

/// Every file of a folder.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| {
            let path = entry.expect("readable").path();
            let name = path.file_name().expect("named").to_string_lossy().into_owned();
            (name, fs::read(&path).unwrap_or_default())
        })
        .collect()
}

#[test]
fn a_model_takes_the_scale_and_gives_it_back_and_says_where_it_came_from() {
    let bench = Bench::new("llama");
    let before = files(&bench.path("model"));
    let shown = bench.succeeds(&with(
        &["retrofit", "model", "--out", "scaled", "--exponent", "0.4", "--verify"],
        &TEXT,
    ));
    assert!(shown.contains("logits") && shown.contains("scaled"), "{shown}");
    let config = read(&bench, "scaled/config.json");
    assert_eq!(config["model_type"], "lns_llama");
    assert_eq!(config["norm_scheme"]["exponent"], 0.4);
    let record = read(&bench, "scaled/lns-provenance.json");
    assert_eq!(
        (&record["verb"], &record["options"]["mode"]),
        (&json!("retrofit"), &json!("preserve"))
    );
    let sums: Vec<_> = record["source_files"].as_array().expect("a list").iter().collect();
    assert!(sums.iter().all(|file| file["sha256"].as_str().is_some_and(|sum| sum.len() == 64)));

    bench.succeeds(&with(&["fold", "scaled", "--out", "folded", "--verify"], &TEXT));
    let config = read(&bench, "folded/config.json");
    assert_eq!((&config["model_type"], &config["norm_scheme"]), (&json!("llama"), &Value::Null));
    assert_eq!(read(&bench, "folded/lns-provenance.json")["before"]["verb"], "retrofit");
    // Unfold knows the exponent that fold noted.
    bench.succeeds(&["unfold", "folded", "--out", "unfolded"]);
    assert_eq!(read(&bench, "unfolded/config.json")["norm_scheme"]["exponent"], 0.4);
    let measured = &read(&bench, "folded/lns-provenance.json")["measured"];
    assert!(measured["nll_before"].is_number() && measured["logit_difference"].is_number());
    // So does it through an export and a pruning.
    bench.succeeds(&["export", "scaled", "--out", "exported"]);
    bench.succeeds(&["prune", "exported", "--layers", "1", "--out", "less"]);
    bench.succeeds(&["unfold", "less", "--out", "less-unfolded"]);
    assert_eq!(read(&bench, "less-unfolded/config.json")["norm_scheme"]["exponent"], 0.4);
    let losses = ["model", "scaled", "folded", "unfolded"].map(|model| nll(&bench, model));
    assert!(losses.iter().all(|loss| (loss - losses[0]).abs() < 1e-5), "{losses:?}");
    assert_eq!(files(&bench.path("model")), before, "the source is as it was");
}

#[test]
fn the_mode_that_replaces_says_that_the_function_changes_and_by_how_much() {
    let bench = Bench::new("llama");
    let replace = ["retrofit", "model", "--mode", "replace", "--out", "replaced"];
    let error = bench.fails(&replace, 2);
    assert!(error.contains("--text"), "{error}");
    let output = bench.lns(&with(&replace, &TEXT)).assert().success().get_output().clone();
    let (shown, notes) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(shown.contains("nll") && notes.contains("The function changed"), "{shown}{notes}");
    assert!((nll(&bench, "replaced") - nll(&bench, "model")).abs() > 1e-4);
}

#[test]
fn a_dry_run_shows_every_edit_and_writes_nothing() {
    let bench = Bench::new("llama");
    let there = files(bench.dir.path());
    let edits = bench.succeeds(&["retrofit", "model", "--dry-run"]);
    for part in ["model.layers.1.input_layernorm.weight", "× 1.414213562", "scheme lns"] {
        assert!(edits.contains(part), "{part} is missing: {edits}");
    }
    let edits = bench.succeeds(&["prune", "model", "--layers", "0", "--mlp", "2", "--dry-run"]);
    for part in ["from model.layers.1.", "model.layers.2.mlp.up_proj.weight", "left out"] {
        assert!(edits.contains(part), "{part} is missing: {edits}");
    }
    let edits = bench.succeeds(&["prune", "model", "--layers", "1", "--dry-run", "--json"]);
    let edits: Value = serde_json::from_str(&edits).expect("only JSON");
    assert_eq!(edits["config"]["num_hidden_layers"], 2);
    let tensors = bench.succeeds(&["export", "model", "--out", "m.gguf", "--dry-run"]);
    assert!(tensors.contains("blk.0.attn_q.weight"), "{tensors}");
    bench.succeeds(&["export", "model", "--dtype", "bf16", "--dry-run"]);
    bench.succeeds(&with(&["finetune", "model", "--dry-run"], &[]));
    assert_eq!(files(bench.dir.path()), there);
}

#[test]
fn layers_are_dropped_by_evidence_and_the_plan_does_it_again() {
    let bench = Bench::new("llama");
    let diagnose = bench.succeeds(&with(&["diagnose", "model", "--json"], &TEXT));
    let diagnosis: Value = serde_json::from_str(&diagnose).expect("JSON");
    let delta = |layer: &Value| layer["removal"]["delta_nll"].as_f64().expect("a number");
    let layers = diagnosis["layers"].as_array().expect("a list");
    let least = layers.iter().min_by(|a, b| delta(a).total_cmp(&delta(b))).expect("some");

    let prune = ["prune", "model", "--drop", "1", "--out", "pruned"];
    let shown = bench.succeeds(&with(&prune, &TEXT));
    for part in ["parameters", "tokens/s", "perplexity", "3 → 2", "measured on  --text text.txt"]
    {
        assert!(shown.contains(part), "{part} is missing: {shown}");
    }
    fs::copy(bench.path("text.txt"), bench.path("other.txt")).expect("copies");
    let other = ["prune", "model", "--drop", "1", "--out", "held", "--held-out", "other.txt"];
    let shown = bench.succeeds(&with(&other, &TEXT));
    assert!(shown.contains("measured on  --held-out other.txt"), "{shown}");
    let plan = read(&bench, "pruned/prune.json");
    assert_eq!(plan["steps"][0]["removal"]["layer"], least["layer"], "the diagnosis agrees");
    let raised = plan["steps"][0]["nll"].as_f64().expect("a number")
        - plan["baseline_nll"].as_f64().expect("a number");
    assert!((raised - delta(least)).abs() < 1e-5, "{raised} {}", delta(least));
    assert!((nll(&bench, "pruned") - nll(&bench, "model") - raised).abs() < 1e-5);

    bench.succeeds(&["prune", "model", "--plan", "pruned/prune.json", "--out", "again"]);
    assert_eq!(
        files(&bench.path("again"))["model.safetensors"],
        files(&bench.path("pruned"))["model.safetensors"]
    );
    let error =
        bench.fails(&["prune", "pruned", "--plan", "pruned/prune.json", "--out", "twice"], 2);
    assert!(error.contains("made for another model"), "{error}");

    for rule in ["angular", "influence", "deepest"] {
        let out = format!("by-{rule}");
        bench.succeeds(&with(
            &["prune", "model", "--drop", "1", "--by", rule, "--out", &out],
            &TEXT,
        ));
        assert_eq!(read(&bench, &format!("{out}/prune.json"))["rule"], rule);
    }
    let deepest = read(&bench, "by-deepest/prune.json");
    assert_eq!(deepest["steps"][0]["removal"]["layer"], 1, "the deepest but the last");
    let branch = ["prune", "model", "--drop", "1", "--branches", "--out", "branch"];
    bench.succeeds(&with(&branch, &TEXT));
    assert_eq!(read(&bench, "branch/config.json")["model_type"], "lns_llama");

    let gate = ["prune", "model", "--drop", "2", "--max-ppl-increase", "0", "--out", "gated"];
    let harmless = delta(least) <= 0.0;
    let code = if harmless { 0 } else { 1 };
    let output = bench.lns(&with(&gate, &TEXT)).assert().code(code).get_output().clone();
    let notes = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(bench.path("gated").exists(), harmless, "{notes}");
    assert!(notes.contains("Stopped: without layer ") || harmless, "{notes}");
    assert!(notes.contains("error: nothing can go") || harmless, "{notes}");
}

#[test]
fn a_pruned_lns_model_keeps_the_depths_and_is_exported_for_other_programs() {
    let bench = Bench::new("scheme-lns");
    bench.tokenizer(32);
    let words: Vec<String> = (0..200).map(|i| format!("w{}", i * 7 % 32)).collect();
    fs::write(bench.path("text.txt"), words.join(" ")).expect("writable");
    bench.succeeds(&["prune", "model", "--layers", "0", "--attention", "1", "--out", "pruned"]);
    let config = read(&bench, "pruned/config.json");
    assert_eq!(config["layer_depths"][0], 2);
    assert_eq!(config["layer_branches"][0], json!(["mlp"]));
    let shown = bench.succeeds(&["inspect", "pruned"]);
    // Layers are counted from 0 everywhere: the second layer's depth is 2, its index 1.
    for part in ["kept         layers 1", "without 0.attention", "made by", "lns prune from model"]
    {
        assert!(shown.contains(part), "{part} is missing: {shown}");
    }
    assert!(bench.path("pruned/tokenizer.json").exists());
    bench.succeeds(&["export", "pruned", "--out", "plain", "--dtype", "f32"]);
    let config = read(&bench, "plain/config.json");
    assert_eq!((&config["model_type"], &config["layer_branches"]), (&json!("llama"), &Value::Null));
    let (pruned, plain) = (nll(&bench, "pruned"), nll(&bench, "plain"));
    assert!((pruned - plain).abs() < 1e-5, "{pruned} {plain}");
    // One file or many.
    bench.succeeds(&["export", "pruned", "--out", "shards", "--shard-size", "0.00001"]);
    assert!(bench.path("shards/model.safetensors.index.json").exists());
    assert!((nll(&bench, "shards") - plain).abs() < 1e-5);
}

#[test]
fn a_checkpoint_is_tuned_in_full_and_by_lora_and_goes_on_by_its_folder_alone() {
    let bench = Bench::new("llama");
    let words: Vec<String> = (0..3000).map(|i| format!("w{}", i * i % 7)).collect();
    let documents: String =
        words.chunks(60).map(|words| json!({"text": words.join(" ")}).to_string() + "\n").collect();
    fs::write(bench.path("train.jsonl"), documents).expect("writable");
    bench.config(|config| config["eos_token_id"] = json!(95));
    let settings = [
        "--text",
        "train.jsonl",
        "--length",
        "16",
        "--steps",
        "6",
        "--lr",
        "0.01",
        "--json",
        "--set",
        "evaluation.tokens=160",
    ];
    let before = files(&bench.path("model"));
    for (out, more) in [("full", &[][..]), ("lora", &["--lora", "4"][..])] {
        let tune = with(&with(&["finetune", "model", "--out", out], more), &settings);
        let record: Value = serde_json::from_str(&bench.succeeds(&tune)).expect("only JSON");
        assert_eq!(record["outcome"], "finished");
        bench.succeeds(&["finetune", "--out", out, "--json"]);
        bench.succeeds(&tune);
        let model = format!("{out}/model");
        assert!(nll(&bench, &model).is_finite());
        assert_ne!(files(&bench.path(&model))["model.safetensors"], before["model.safetensors"]);
    }
    assert_eq!(files(&bench.path("model")), before, "the source is as it was");
    let error =
        bench.fails(&with(&["finetune", "model", "--out", "x", "--lora", "999"], &settings), 2);
    assert!(error.contains("rank 999") && error.contains("q_proj"), "{error}");
    let error = bench.fails(&["finetune", "--out", "full", "--lr", "1"], 2);
    assert!(error.contains("schedule.learning_rate = 0.01 there, 1.0 asked for"), "{error}");
    let error = bench.fails(&["finetune", "model", "--out", "lora", "--lora", "8"], 2);
    assert!(error.contains("finetune.lora.rank = 4 there, 8 asked for"), "{error}");
    let longer = bench.succeeds(&["finetune", "--out", "lora", "--steps", "8", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&longer).expect("JSON")["steps"], 8);
    let error = bench.fails(&["finetune", "model", "--out", "y"], 2);
    assert!(error.contains("--instructions"), "{error}");
    let error = bench.fails(&["finetune", "--out", "y"], 2);
    assert!(error.contains("give MODEL: there is no run in y to continue"), "{error}");
    // What is trained is said, and a base that has moved is named again.
    let lora =
        with(&["finetune", "model", "--out", "q", "--lora", "4"], &settings[..settings.len() - 3]);
    let lora = with(&lora, &["--lora-targets", "q_proj", "--set", "evaluation.tokens=160"]);
    let output = bench.lns(&lora).assert().success().get_output().clone();
    let notes = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(notes.contains("of adapters of rank 4 on q_proj are trained"), "{notes}");
    fs::rename(bench.path("model"), bench.path("elsewhere")).expect("moves");
    fs::remove_dir_all(bench.path("q/model")).expect("there");
    let error = bench.fails(&["finetune", "--out", "q"], 2);
    assert!(error.contains("name it again: lns finetune MODEL --out q"), "{error}");
    bench.succeeds(&["finetune", "elsewhere", "--out", "q"]);
}

#[test]
fn a_pruned_model_heals_towards_the_whole_one_which_is_checked_and_remembered() {
    let bench = Bench::new("llama");
    bench.config(|config| config["eos_token_id"] = json!(95));
    let words: Vec<String> = (0..3000).map(|i| format!("w{}", i * i % 7)).collect();
    let documents: String =
        words.chunks(60).map(|words| json!({"text": words.join(" ")}).to_string() + "\n").collect();
    fs::write(bench.path("train.jsonl"), documents).expect("writable");
    bench.succeeds(&["prune", "model", "--layers", "1", "--out", "pruned"]);
    let settings = ["--text", "train.jsonl", "--length", "16", "--steps", "6", "--lr", "0.01"];
    let heal = with(&["finetune", "pruned", "--out", "run", "--teacher", "model"], &settings);
    let heal = with(&heal, &["--teacher-weight", "1", "--temperature", "2"]);
    let heal = with(&heal, &["--set", "evaluation.tokens=160"]);
    let output = bench.lns(&heal).assert().success().get_output().clone();
    let notes = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(notes.contains("1 of the objective at temperature 2"), "{notes}");
    let distances: Vec<f64> = notes
        .lines()
        .filter_map(|line| line.split_once("to the teacher ")?.1.split(' ').next()?.parse().ok())
        .collect();
    let [first, .., last] = distances[..] else { panic!("{notes}") };
    assert!(last < first, "{notes}");
    let events = fs::read_to_string(bench.path("run/events.jsonl")).expect("events");
    assert!(events.lines().filter(|line| line.contains("\"kl\":")).count() > 6, "{events}");
    let watched = bench.succeeds(&["watch", "run", "--summary"]);
    assert!(watched.contains("from the teacher"), "{watched}");

    bench.succeeds(&["finetune", "--out", "run"]);
    for (more, what) in [
        (&["--temperature", "0"][..], "0.01 to 100"),
        (&["--teacher-weight", "1.5"], "0 to 1"),
        (&["--teacher", "gone"], "the teacher"),
    ] {
        let tune = with(&["finetune", "pruned", "--out", "x", "--teacher", "model"], &settings);
        let tune = if more[0] == "--teacher" { with(&tune[..4], more) } else { with(&tune, more) };
        let error = bench.fails(&with(&tune, &settings), 2);
        assert!(error.contains(what), "{error}");
        assert!(!bench.path("x").exists(), "{more:?}");
    }
    let alone = with(&["finetune", "pruned", "--out", "x", "--temperature", "2"], &settings);
    assert!(bench.fails(&alone, 2).contains("--teacher"));
    // The same number of tokens, two of which are the other way round.
    bench.succeeds(&["prune", "model", "--layers", "0", "--out", "stranger"]);
    let file = bench.path("stranger/tokenizer.json");
    let tokenizer = fs::read_to_string(&file).expect("a tokenizer");
    let mut swapped: Value = serde_json::from_str(&tokenizer).expect("JSON");
    let vocabulary = swapped["model"]["vocab"].as_object_mut().expect("a vocabulary");
    let [three, four] = ["w3", "w4"].map(|word| vocabulary[word].clone());
    vocabulary.insert("w3".to_owned(), four);
    vocabulary.insert("w4".to_owned(), three);
    fs::write(&file, swapped.to_string()).expect("writes");
    let stranger = with(&["finetune", "pruned", "--out", "x", "--teacher", "stranger"], &settings);
    let error = bench.fails(&stranger, 2);
    assert!(error.contains("`w4` there and `w3` in the model"), "{error}");
    // A run goes on with its own teacher only; one that has moved is named again.
    fs::remove_dir_all(bench.path("run/model")).expect("there");
    let error = bench.fails(&["finetune", "--out", "run", "--teacher", "pruned"], 2);
    assert!(error.contains("is not the teacher that this run was begun with"), "{error}");
    fs::rename(bench.path("model"), bench.path("moved")).expect("moves");
    let error = bench.fails(&["finetune", "--out", "run"], 2);
    assert!(error.contains("lns finetune --out run --teacher MODEL"), "{error}");
    bench.succeeds(&["finetune", "--out", "run", "--teacher", "moved"]);
}

#[test]
fn a_chat_template_that_does_not_render_is_an_error_with_the_line() {
    let bench = Bench::new("llama");
    let template = "{% for m in messages %}{{ raise_exception('only w1 may speak') }}{% endfor %}";
    let config = json!({"chat_template": template}).to_string();
    fs::write(bench.path("model/tokenizer_config.json"), config).expect("writable");
    bench.config(|config| config["eos_token_id"] = json!(95));
    let line = json!({"prompt": "w1 w2", "response": "w3"}).to_string();
    fs::write(bench.path("chats.jsonl"), format!("{line}\n{line}\n")).expect("writable");
    let tune =
        ["finetune", "model", "--instructions", "chats.jsonl", "--length", "16", "--out", "tuned"];
    let error = bench.fails(&tune, 2);
    assert!(error.contains("chats.jsonl") && error.contains("only w1 may speak"), "{error}");
}

#[test]
fn what_surgery_cannot_do_is_said_with_the_remedy() {
    let bench = Bench::new("llama");
    bench.succeeds(&["retrofit", "model", "--out", "scaled"]);
    let post = Bench::new("scheme-post");
    // A branch under Post-LN goes with the norm on its sum.
    post.succeeds(&["prune", "model", "--mlp", "1", "--out", "without-mlp"]);
    for (bench, arguments, parts) in [
        (
            &bench,
            &["fold", "model", "--out", "x"][..],
            &["scheme is pre", "no LayerNorm Scaling"][..],
        ),
        (&bench, &["unfold", "scaled", "--out", "x"], &["already lns"]),
        (&bench, &["retrofit", "scaled", "--out", "x"], &["already lns", "fold"]),
        (&post, &["retrofit", "model", "--out", "x"], &["post", "plain `pre` model"]),
        (&post, &["export", "model", "--out", "x.gguf"], &["post"]),
        (&post, &["export", "without-mlp", "--out", "x"], &["the scheme is post"]),
        (&bench, &["prune", "model", "--layers", "0..3", "--out", "x"], &["all 3 layers"]),
        (&bench, &["prune", "model", "--layers", "3", "--out", "x"], &["0–2"]),
        (&bench, &["prune", "model", "--layers", "2..=3", "--out", "x"], &["half-open"]),
        (&bench, &["prune", "model", "--out", "x"], &["--drop", "--layers"]),
        (&bench, &["prune", "model", "--drop", "1", "--out", "x"], &["--text"]),
        (&bench, &["retrofit", "model"], &["--out"]),
        (&bench, &["retrofit", "model", "--out", "model"], &["never changed in place"]),
        (&bench, &["retrofit", "model", "--out", "scaled"], &["--force"]),
        (&bench, &["retrofit", "model", "--out", ".", "--force"], &["never changed in place"]),
        (&bench, &["retrofit", "model", "--out", "x", "--mode", "anneal"], &["--steps"]),
        (&bench, &["retrofit", "model", "--out", "x", "--steps", "3"], &["anneal"]),
        (&bench, &["retrofit", "model", "--out", "x", "--first-layer", "3"], &["below 3"]),
        (&bench, &["retrofit", "model", "--out", "x", "--exponent", "9"], &["-8 to 8"]),
        (&bench, &["export", "model", "--out", "x", "--dtype", "q8_0"], &[".gguf"]),
    ] {
        let error = bench.fails(arguments, 2);
        for part in parts {
            assert!(error.contains(part), "{arguments:?}: {part} is missing: {error}");
        }
        assert!(!bench.path("x").exists() && !bench.path("x.gguf").exists(), "{arguments:?}");
    }
    let drop = ["prune", "model", "--out", "x", "--drop"];
    for (more, part) in [
        (&["3"][..], "there are 3 layers, and at least one must stay; drop 2 at most"),
        (&["1", "--rounds", "2"], "one a round"),
        (&["1", "--by", "deepest", "--branches"], "measured removal"),
    ] {
        let error = bench.fails(&with(&with(&drop, more), &TEXT), 2);
        assert!(error.contains(part), "{error}");
    }
    let length = ["finetune", "model", "--text", "text.txt", "--out", "x", "--length", "999"];
    let error = bench.fails(&length, 2);
    assert!(error.contains("--length 64") && !bench.path("x").exists(), "{error}");
    let inside = ["finetune", "model", "--text", "text.txt", "--out", "model"];
    assert!(bench.fails(&inside, 2).contains("never written into"));
    let idle = ["fold", "scaled", "--out", "x", "--max-tokens", "64"];
    assert!(bench.fails(&idle, 2).contains("--text"));
    let idle = ["prune", "model", "--layers", "1", "--out", "x", "--threads", "1"];
    assert!(bench.fails(&idle, 2).contains("--text"));
    let plan = ["prune", "model", "--layers", "1", "--dry-run", "--save-plan", "model/config.json"];
    assert!(bench.fails(&plan, 2).contains("something else than a plan"));
    let error = bench.fails(&["export", "model", "--out", "m.safetensors"], 2);
    assert!(error.contains("name a folder"), "{error}");
    fs::write(bench.path("file"), "x").expect("writes");
    let error = bench.fails(&["retrofit", "model", "--out", "file", "--force"], 2);
    assert!(error.contains("is a file"), "{error}");
    #[cfg(unix)]
    {
        // A source of links into the place that would be replaced.
        fs::create_dir(bench.path("links")).expect("makes");
        for name in ["config.json", "model.safetensors"] {
            std::os::unix::fs::symlink(
                bench.path("scaled").join(name),
                bench.path("links").join(name),
            )
            .expect("links");
        }
        let error = bench.fails(&["fold", "links", "--out", "scaled", "--force"], 2);
        assert!(error.contains("never changed in place"), "{error}");
    }
    // A folder that is no model is not replaced by one.
    fs::create_dir(bench.path("precious")).expect("makes");
    fs::write(bench.path("precious/letters.txt"), "x").expect("writes");
    for force in [&["--force"][..], &[]] {
        let error = bench.fails(&with(&["retrofit", "model", "--out", "precious"], force), 2);
        assert!(error.contains("replaces models only") && !error.contains("give --force"));
    }
    assert!(bench.path("precious/letters.txt").exists());
}

/// A folder's files, or a file; nothing if there is neither.
fn whatever(place: &Path) -> Option<BTreeMap<String, Vec<u8>>> {
    if place.is_dir() {
        return Some(files(place));
    }
    fs::read(place).ok().map(|bytes| [(String::new(), bytes)].into())
}

/// Kills a command with SIGKILL at many moments, first with nothing at its place, then with what
/// `older` makes there; how often it was still running, and how often nothing was there afterwards.
#[cfg(unix)]
fn kill(bench: &Bench, command: &[&str], place: &str, older: &[&str]) -> (usize, usize) {
    const ROUNDS: u64 = 30;
    let place = bench.path(place);
    let remove = || {
        let _ = fs::remove_dir_all(&place);
        let _ = fs::remove_file(&place);
    };
    bench.succeeds(command);
    let whole = whatever(&place);
    let (mut killed, mut absent) = (0, 0);
    for round in 0..2 * ROUNDS {
        if round <= ROUNDS {
            remove();
        }
        if round == ROUNDS {
            bench.succeeds(older);
        }
        let before = whatever(&place);
        let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin("lns"))
            .current_dir(bench.dir.path())
            .args(command)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("starts");
        std::thread::sleep(std::time::Duration::from_millis(5 * (round % ROUNDS)));
        killed += usize::from(child.try_wait().expect("asks").is_none());
        child.kill().expect("kills");
        child.wait().expect("ends");
        let after = whatever(&place);
        absent += usize::from(after.is_none());
        assert!(after == whole || after == before, "{command:?}, round {round}");
    }
    // What the kills left beside goes with the next run, which ends with the whole result.
    bench.succeeds(command);
    assert!(whatever(&place) == whole, "{command:?}");
    let names = files(bench.dir.path()).into_keys();
    let left: Vec<_> = names.filter(|name| name.ends_with(".partial")).collect();
    assert!(left.is_empty(), "{left:?}");
    (killed, absent)
}

#[cfg(unix)]
#[test]
fn a_conversion_that_is_killed_leaves_all_or_nothing() {
    let bench = Bench::new("llama");
    bench.large_model(&Preset { num_hidden_layers: 12, vocab_size: 8000, ..LARGE });
    let source = files(&bench.path("large"));
    for (command, place, older) in [
        (
            &["fold", "large", "--out", "out", "--force"][..],
            "out",
            &["retrofit", "model", "--out", "out"][..],
        ),
        (
            &["prune", "large", "--layers", "2..5", "--out", "less", "--force"],
            "less",
            &["retrofit", "model", "--out", "less"],
        ),
        (
            &["export", "large", "--out", "large.gguf", "--force"],
            "large.gguf",
            &["export", "large", "--out", "large.gguf", "--dtype", "q8_0"],
        ),
    ] {
        let (killed, absent) = kill(&bench, command, place, older);
        assert!(killed > 10 && absent > 0, "it must be killed at work: {killed}, {absent}");
    }
    assert_eq!(files(&bench.path("large")), source, "the source is as it was");
}

#[cfg(unix)]
#[test]
fn a_conversion_of_a_mixture_that_is_killed_leaves_all_or_nothing_and_is_repeated_whole() {
    for family in ["mixtral", "qwen3_moe"] {
        let bench = Bench::new(family);
        bench.large_mixture(family);
        let source = files(&bench.path("large"));
        let retrofit = ["retrofit", "large", "--out", "scaled", "--force"];
        let smaller = |place| ["retrofit", "model", "--out", place];
        let mut counts = kill(&bench, &retrofit, "scaled", &smaller("scaled"));
        let scaled = files(&bench.path("scaled"));
        for (command, place) in [
            (&["fold", "scaled", "--out", "folded", "--force"][..], "folded"),
            (&["prune", "scaled", "--layers", "2", "--out", "less", "--force"], "less"),
        ] {
            let (killed, absent) = kill(&bench, command, place, &smaller(place));
            counts = (counts.0 + killed, counts.1 + absent);
        }
        let (killed, absent) = counts;
        assert!(killed > 20 && absent > 0, "they must be killed at work: {killed}, {absent}");
        assert_eq!(files(&bench.path("large")), source, "the source is as it was");
        assert_eq!(files(&bench.path("scaled")), scaled, "the scaled model is as it was");
        let names = |place: &str| {
            let checkpoint = lns_checkpoint::Checkpoint::open(&bench.path(place)).expect("opens");
            assert!(checkpoint.audit().is_clean(), "{place}: {}", checkpoint.audit());
            checkpoint.tensors().map(|tensor| tensor.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names("folded"), names("large"), "{family}");
        assert!(names("less").len() < names("large").len());
    }
}

/// A limit on file size fails a write in the middle, as a full disk does.
#[cfg(unix)]
#[test]
fn a_full_disk_is_said_and_leaves_nothing_behind() {
    let bench = Bench::new("llama");
    bench.large_model(&Preset { num_hidden_layers: 12, vocab_size: 8000, ..LARGE });
    bench.succeeds(&["retrofit", "model", "--out", "older"]);
    let older = files(&bench.path("older"));
    let entries = || fs::read_dir(bench.dir.path()).expect("readable").count();
    let before = entries();
    let program = assert_cmd::cargo::cargo_bin("lns");
    for arguments in [
        "fold large --out new",
        "fold large --out older --force",
        "prune large --layers 3 --out new",
        "export large --out new --dtype bf16",
        "export large --out new.gguf",
    ] {
        let script = format!("ulimit -f 1000; exec '{}' {arguments}", program.display());
        let mut shell = Command::new("sh");
        let output = shell.current_dir(bench.dir.path()).args(["-c", &script]).assert();
        let output = output.code(1).get_output().clone();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains("was not written"), "{arguments}: {error}");
        assert_eq!(entries(), before, "{arguments}");
    }
    assert_eq!(files(&bench.path("older")), older);
}
