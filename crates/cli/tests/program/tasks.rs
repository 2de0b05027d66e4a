//! `lns eval --tasks`.

use std::fs;

use serde_json::{Value, json};

use super::bench::Bench;

/// A model, and a file of questions in its words.
fn bench(documents: usize) -> Bench {
    let bench = Bench::new("llama");
    let question = |n: usize| {
        let context: Vec<String> = (0..5).map(|i| format!("w{}", (n * 7 + i * 3) % 96)).collect();
        let choices = [1, 2, 3].map(|i| format!("w{} w{}", (n + i * 11) % 96, (n * i) % 96));
        json!({"context": context.join(" "), "choices": choices, "gold": n % 3}).to_string() + "\n"
    };
    let lines: String = (0..documents).map(question).collect();
    fs::write(bench.path("own.jsonl"), lines).expect("writable");
    bench
}

#[test]
fn eval_of_tasks_prints_the_contract_and_writes_a_line_for_each_document() {
    let bench = bench(12);
    let arguments = [
        "eval",
        "model",
        "--tasks",
        "own.jsonl",
        "--json",
        "--samples",
        "samples.jsonl",
        "--limit",
        "10",
    ];
    let record: Value = serde_json::from_str(&bench.succeeds(&arguments)).expect("only JSON");
    let task = &record["tasks"][0];
    assert_eq!((&record["model"], &task["task"]), (&json!("model"), &json!("own")));
    assert_eq!((&task["documents"], &task["of"]), (&json!(10), &json!(12)));
    for key in ["acc", "acc_stderr", "acc_norm", "acc_norm_stderr", "always_first", "chance"] {
        assert!(task[key].is_number(), "{key} is missing: {task}");
    }
    let samples = fs::read_to_string(bench.path("samples.jsonl")).expect("written");
    let lines: Vec<Value> =
        samples.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 10);
    assert_eq!(lines[4]["doc_id"], 4);
    let choice = &lines[4]["choices"][2];
    assert!(choice["logprob"].as_f64().expect("a number") < 0.0);
    assert_eq!(choice["tokens"], 2);
    let right: u64 = lines.iter().map(|line| line["acc"].as_u64().expect("0 or 1")).sum();
    assert!((task["acc"].as_f64().expect("a number") - right as f64 / 10.0).abs() < 1e-12);
}

#[test]
fn two_models_are_compared_by_document_in_words_and_in_json() {
    let bench = bench(12);
    let other = Bench::new("qwen2");
    let model = other.path("model").display().to_string();
    let arguments = ["eval", "model", "--against", &model, "--tasks", "own.jsonl"];
    let table = bench.succeeds(&arguments);
    for expected in ["task", "always first", "points to", "McNemar p = "] {
        assert!(table.contains(expected), "{expected} is not in:\n{table}");
    }
    let records: Value =
        serde_json::from_str(&bench.succeeds(&[&arguments[..], &["--json"]].concat()))
            .expect("JSON");
    assert!(records[0]["tasks"][0]["differences"].is_null());
    assert_eq!(records[1]["tasks"][0]["differences"][0]["metric"], "acc");
    // A model against itself.
    let table = bench.succeeds(&["eval", "model", "model", "--tasks", "own.jsonl"]);
    assert!(table.contains("right only in") && table.contains("McNemar p = 1.000"), "{table}");
}

#[test]
fn tasks_without_data_or_names_are_refused_with_what_to_do() {
    let bench = bench(3);
    for (arguments, expected) in [
        (vec!["--tasks", "piqa"], "hf download --repo-type dataset baber/piqa"),
        (vec!["--tasks", "piqa", "--data", "."], "no data for piqa (validation): looked in ."),
        (vec!["--tasks", "piqqa"], "(\"piqa\"?)"),
        (vec!["--tasks", "missing.jsonl"], "missing.jsonl: cannot be read"),
        (vec!["--tasks", "own.jsonl", "--shots", "2"], "own has no examples"),
        (vec!["--tasks", "own.jsonl", "--max-tokens", "5"], "--limit bounds the documents"),
        (vec!["--tasks", "own.jsonl", "--window", "4096"], "longer than the context"),
    ] {
        let output = bench.lns(&[&["eval", "model"], &arguments[..]].concat()).assert().code(2);
        let message = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
}

#[test]
fn contexts_longer_than_the_window_lose_their_beginning_and_are_counted() {
    let bench = bench(3);
    let table = bench.succeeds(&["eval", "model", "--tasks", "own.jsonl", "--window", "4"]);
    assert!(table.contains("3 documents have a context longer than the window"), "{table}");
}

#[test]
fn samples_of_an_evaluation_that_fails_leave_those_of_an_earlier_one() {
    let bench = bench(3);
    let samples = bench.path("samples.jsonl");
    fs::write(&samples, "earlier\n").expect("writable");
    let arguments = ["eval", "model", "--tasks", "own.jsonl", "--samples", "samples.jsonl"];
    bench.lns(&[&arguments[..], &["--window", "1"]].concat()).assert().code(2);
    assert_eq!(fs::read_to_string(&samples).expect("there"), "earlier\n");
    bench.succeeds(&arguments);
    assert_eq!(fs::read_to_string(&samples).expect("there").lines().count(), 3);
    let left = fs::read_dir(bench.path(".")).expect("readable").flatten();
    let left = left.filter(|entry| entry.file_name().to_string_lossy().starts_with(".lns-"));
    assert_eq!(left.count(), 0, "nothing unfinished stays");
    // A folder, or a device that would be replaced by a file.
    let onto_a_folder = ["eval", "model", "--tasks", "own.jsonl", "--samples", "model"];
    let message = bench.fails(&onto_a_folder, 2);
    assert!(message.contains("something else than a file"), "{message}");
}

#[test]
fn a_diagnosis_tells_what_tasks_lose_without_each_layer_beside_the_loss() {
    let bench = bench(30);
    let arguments = ["diagnose", "model", "--tasks", "own.jsonl", "--window", "16", "--out", "d"];
    let table = bench.succeeds(&[&arguments[..], &["--text", "text.txt"]].concat());
    for expected in ["own log p", "own acc", "always first", "correlations (Spearman) of: own"] {
        assert!(table.contains(expected), "{expected} is not in:\n{table}");
    }
    let json = fs::read(bench.path("d/diagnose.json")).expect("written");
    let record: Value = serde_json::from_slice(&json).expect("JSON");
    assert_eq!(record["tasks"][0]["documents"], 30);
    for layer in record["layers"].as_array().expect("layers") {
        for measure in ["gold", "acc", "acc_norm"] {
            let cost = &layer["tasks"]["own"][measure];
            assert!(cost["drop"].is_number() && cost["margin"].is_number(), "{cost}");
        }
        assert!(layer["removal"]["delta_nll"].is_number());
    }
    let page = fs::read_to_string(bench.path("d/report.html")).expect("written");
    for expected in ["Tasks, with every layer", "always the first", "task-own", "task-own-accuracy"]
    {
        assert!(page.contains(expected), "{expected} is not in the page");
    }

    // Without a text the loss is that of the documents with their answers.
    let json = bench.succeeds(&[&arguments[..6], &["--json"]].concat());
    let record: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(record["text"]["files"], json!(["documents of own"]));
    for (more, expected) in [
        (vec!["--shots", "2"], "own has no examples"),
        (vec!["--probes", "tasks"], "runs where --tasks names some"),
        (vec!["--tasks", "./own.jsonl"], "two tasks are called own"),
        (vec!["--limit", "0"], "--limit"),
    ] {
        let message = bench.fails(&[&arguments[..6], &more[..]].concat(), 2);
        assert!(message.contains(expected), "{more:?}: {message}");
    }
    let message = bench.fails(&["diagnose", "model"], 2);
    assert!(message.contains("--text"), "{message}");
}

#[test]
fn a_report_puts_evaluations_side_by_side() {
    let bench = bench(12);
    let other = Bench::new("qwen2");
    let (model, together) = (other.path("model").display().to_string(), bench.path("both.json"));
    let both = ["eval", "model", &model, "--tasks", "own.jsonl", "--json"];
    fs::write(&together, bench.succeeds(&both)).expect("writable");
    let table = bench.succeeds(&["report", "both.json", "--out", "page"]);
    assert!(table.contains("McNemar") && table.contains("always first"), "{table}");
    let page = fs::read_to_string(bench.path("page/report.html")).expect("written");
    assert!(page.contains("Paired by document") && page.contains("always the first"));

    let one = ["eval", "model", "--tasks", "own.jsonl", "--json"];
    fs::write(bench.path("one.json"), bench.succeeds(&one)).expect("writable");
    bench.succeeds(&["report", "one.json", "both.json"]);
    let page = fs::read_to_string(bench.path("report.html")).expect("beside the first");
    assert!(page.contains(" #1<") && page.contains("McNemar"));

    fs::write(bench.path("other.json"), "{\"model\": \"m\"}").expect("writable");
    let message = bench.fails(&["report", "one.json", "other.json"], 2);
    assert!(message.contains("other.json: not what `lns eval --tasks --json` prints"), "{message}");
    let message = bench.fails(&["report", "other.json"], 2);
    assert!(message.contains("not a diagnosis"), "{message}");
}

#[test]
fn prune_by_task_takes_the_layers_that_a_diagnosis_found_the_task_loses_least_without() {
    let bench = bench(30);
    fs::copy(bench.path("own.jsonl"), bench.path("second.jsonl")).expect("copies");
    let text = ["--text", "text.txt", "--window", "16"];
    let diagnose = |tasks: &[&str], out: &str| {
        let all = [&["diagnose", "model", "--out", out][..], tasks, &text].concat();
        bench.succeeds(&all);
        let json = fs::read(bench.path(out).join("diagnose.json")).expect("written");
        serde_json::from_slice::<Value>(&json).expect("JSON")
    };
    let found = diagnose(&["--tasks", "own.jsonl"], "one");
    diagnose(&["--tasks", "own.jsonl,second.jsonl"], "two");
    diagnose(&[], "none");

    let drop = |diagnosis: &str, more: &[&str]| {
        let by = ["prune", "model", "--drop", "1", "--by", "task", "--diagnosis", diagnosis];
        [&by[..], &text, more].concat().iter().map(|part| part.to_string()).collect::<Vec<_>>()
    };
    for measure in ["gold", "acc"] {
        let arguments = drop("one", &["--measure", measure, "--out", measure]);
        bench.succeeds(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let plan = fs::read(bench.path(measure).join("prune.json")).expect("written");
        let plan: Value = serde_json::from_slice(&plan).expect("JSON");
        assert_eq!(
            (&plan["rule"], &plan["task"]),
            (&json!("task"), &json!(format!("own, {measure}")))
        );
        let cost = |layer: &Value| layer["tasks"]["own"][measure]["drop"].as_f64().expect("there");
        let layers = found["layers"].as_array().expect("layers");
        let least = layers.iter().min_by(|a, b| cost(a).total_cmp(&cost(b))).expect("layers");
        let step = &plan["steps"][0];
        assert_eq!(
            (&step["removal"]["layer"], &step["score"]),
            (&least["layer"], &json!(cost(least)))
        );
        assert!(step["nll"].is_number(), "the loss on the text is told beside it");
    }

    let other = Bench::new("qwen2");
    let foreign = other.path("model").display().to_string();
    for (arguments, expected) in [
        (drop("two", &["--out", "x"]), "asked own, second: name one of them with --task"),
        (drop("two", &["--task", "third", "--out", "x"]), "asked own, second"),
        (drop("none", &["--out", "x"]), "asked no tasks"),
        (drop("nowhere", &["--out", "x"]), "nowhere"),
        (drop("one", &["--rounds", "1", "--branches", "--out", "x"]), "--branches"),
    ] {
        let message = bench.fails(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), 2);
        assert!(message.contains(expected), "{expected}: {message}");
    }
    let alone = ["prune", "model", "--drop", "1", "--by", "task", "--out", "x"];
    let message = bench.fails(&[&alone[..], &text].concat(), 2);
    assert!(message.contains("go together"), "{message}");
    let foreign =
        ["prune", &foreign, "--drop", "1", "--by", "task", "--diagnosis", "one", "--out", "x"];
    let message = bench.fails(&[&foreign[..], &text].concat(), 2);
    assert!(message.contains("another config.json"), "{message}");

    // A measure that the diagnosis lacks.
    let path = bench.path("one/diagnose.json");
    let mut record = found.clone();
    record["layers"][1]["tasks"]["own"].as_object_mut().expect("costs").remove("acc_norm");
    fs::write(path, record.to_string()).expect("writable");
    let arguments = drop("one", &["--measure", "acc_norm", "--out", "x"]);
    let message = bench.fails(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), 2);
    assert!(message.contains("layer 1 has no acc_norm in own"), "{message}");
    assert!(message.contains("measured are gold, acc"), "{message}");
}
