//! Tasks scored on a tiny model, held against lm-evaluation-harness (`golden/tasks.py`).

use std::{fs, path::Path};

use burn::tensor::Device;
use lns_checkpoint::Checkpoint;
use lns_kernels::Workers;
use lns_model::Decoder;
use lns_score::{Reading, ScoreError, score_documents};
use lns_tasks::{AskOptions, Asked, Data, Scored, ask, sample, summary};
use lns_tokenizer::Tokenizer;
use serde_json::Value;

const WINDOW: usize = 64;

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn tokenizer() -> Tokenizer {
    let path = folder().join("../tasks/tests/golden/tokenizer.json");
    let tokenizer = Tokenizer::from_json_file(&path).expect("in the repository");
    // The quotation mark, which the witness is told begins a sequence.
    tokenizer.with_bos(3)
}

fn golden() -> Value {
    let path = folder().join("../tasks/tests/golden/tasks.json");
    serde_json::from_slice(&fs::read(path).expect("in the repository")).expect("JSON")
}

/// The documents of the witness's file.
fn asked(name: &str, of: &Value) -> Asked {
    let task = lns_tasks::tasks().find(|task| task.name() == name).expect("a task");
    let data = tempfile::tempdir().expect("a temporary folder");
    let write = |split: lns_tasks::Split, rows: &Value| {
        let lines: String =
            rows.as_array().expect("rows").iter().map(|row| format!("{row}\n")).collect();
        fs::write(data.path().join(format!("{split}.jsonl")), lines).expect("writes");
    };
    write(task.split(), &of["rows"]);
    if let Some(split) = task.examples() {
        write(split, &of["examples"]);
    }
    let place = Data { task: Some(name.to_owned()), path: data.path().to_owned() };
    let shots = of["shots"].as_u64().expect("a count") as usize;
    ask(name, &AskOptions { data: vec![place], shots, ..AskOptions::default() }).expect(name)
}

fn score(asked: &Asked, window: usize) -> Result<Vec<Scored>, ScoreError> {
    let checkpoint = Checkpoint::open(&folder().join("../../golden/tiny/llama")).expect("there");
    let model = Decoder::from_checkpoint(&checkpoint, &Device::flex()).expect("loads");
    let tokenizer = tokenizer();
    let reading = Reading { tokenizer: &tokenizer, bos: false, window };
    score_documents(&model, asked, reading, &Workers::new(2).expect("threads start"), &|_| {})
}

#[test]
fn every_task_is_scored_as_lm_evaluation_harness_scores_it() {
    let golden = golden();
    let mut dropped = 0;
    for (name, settings) in golden.as_object().expect("tasks") {
        for of in settings.as_array().expect("settings") {
            let asked = asked(name, of);
            let scores = score(&asked, WINDOW).expect(name);
            let expected = of["documents"].as_array().expect("documents");
            assert_eq!(scores.len(), expected.len());
            let lines = sample(&asked, &scores);
            for ((scores, line), expected) in scores.iter().zip(lines).zip(expected) {
                for (score, expected) in
                    scores.iter().zip(expected["choices"].as_array().expect("choices"))
                {
                    let log_probability = expected["log_probability"].as_f64().expect("a number");
                    let difference = (score.log_probability - log_probability).abs();
                    assert!(difference < 1e-4, "{name}: {score:?}, {expected}");
                    assert_eq!(score.greedy, expected["greedy"], "{name}");
                    dropped += usize::from(score.dropped > 0);
                }
                let number = |key: &str| expected[key].as_f64().map(|value| value as u8);
                assert_eq!(line.acc, number("acc"), "{name}, document {}", line.doc_id);
                if let Some(acc_norm) = number("acc_norm") {
                    assert_eq!(line.acc_norm, Some(acc_norm), "{name}, document {}", line.doc_id);
                }
            }
            assert!(summary(&asked, &scores).chance.is_some() != (name == "lambada"));
        }
    }
    assert!(dropped > 20, "contexts longer than the window are among them: {dropped}");
}

#[test]
fn a_choice_longer_than_the_window_is_refused_with_its_document() {
    let golden = golden();
    let asked = asked("piqa", &golden["piqa"][0]);
    let message = score(&asked, 12).expect_err("too long").to_string();
    assert!(
        message.contains("piqa, document 0: choice 0 has 14 tokens and a window 12"),
        "{message}"
    );
}
