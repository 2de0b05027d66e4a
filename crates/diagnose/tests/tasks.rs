//! What tasks lose without each layer, held against models that lack it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use burn::tensor::Device;
use lns_corpus::{Window, Windows};
use lns_diagnose::{Control, Labels, Probes, Questioned, diagnose, diagnose_tasks, task_work};
use lns_kernels::Workers;
use lns_model::{Decoder, LayerSource, Pruned};
use lns_record::{CostRecord, DiagnoseRecord, Numbers};
use lns_score::{Reading, score_documents};
use lns_spec::{LayerIndex, Removal};
use lns_statistics::{margin, mean};
use lns_tasks::{AskOptions, Asked, Scored, ask, summary};
use lns_testing::golden::tiny_checkpoint;
use lns_tokenizer::Tokenizer;
use serde_json::json;

fn tokenizer() -> Tokenizer {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path: PathBuf = folder.join("../tasks/tests/golden/tokenizer.json");
    Tokenizer::from_json_file(&path).expect("in the repository").with_bos(3)
}

fn model() -> Decoder {
    Decoder::from_checkpoint(&tiny_checkpoint("llama"), &Device::flex()).expect("loads")
}

/// Questions of three choices about numbers.
fn asked(name: &str, documents: usize) -> Asked {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(format!("{name}.jsonl"));
    let question = |n: usize| {
        let choices = [n % 7, n % 11 + 20, n % 5 + 40].map(|n| format!("{n} or {}", n + 1));
        json!({"context": format!("What is {n}?"), "choices": choices, "gold": n % 3}).to_string()
    };
    let lines: Vec<String> = (0..documents).map(question).collect();
    fs::write(&path, lines.join("\n")).expect("writes");
    ask(&path.display().to_string(), &AskOptions::default()).expect("asks")
}

/// A diagnosis of removal on a few windows.
fn record(model: &Decoder, workers: &Workers) -> DiagnoseRecord {
    let ids = |window: u32| (0..16).map(|at| (window * 31 + at * at) % 96).collect();
    let window = |window| Window { ids: ids(window), targets: None, text_bytes: None };
    let windows = (0..5).map(window).collect();
    let text =
        Windows { window: 16, windows, files: Vec::new(), separators: Vec::new(), masking: None };
    let control = Control { progress: &|_| {}, stop: &AtomicBool::new(false) };
    let labels = Labels { name: "tiny".to_owned(), files: Vec::new(), spell: &|_| String::new() };
    diagnose(model, &text, &Probes::default(), workers, control, labels)
        .expect("a diagnosis")
        .expect("nobody stopped it")
}

fn diagnosed(model: &Decoder, asked: &[Asked], threads: usize, stop: bool) -> DiagnoseRecord {
    let (workers, tokenizer) = (Workers::new(threads).expect("threads start"), tokenizer());
    let mut record = record(model, &workers);
    let (stopped, done) = (AtomicBool::new(false), std::sync::atomic::AtomicU64::new(0));
    let advance = |passes| {
        done.fetch_add(passes, Ordering::Relaxed);
        stopped.store(stop, Ordering::Relaxed);
    };
    let control = Control { progress: &advance, stop: &stopped };
    let reading = Reading { tokenizer: &tokenizer, bos: false, window: 64 };
    let questioned = Questioned { source: model, asked, reading, workers: &workers, control };
    diagnose_tasks(&questioned, &mut record).expect("asks");
    if !stop {
        assert_eq!(done.into_inner(), task_work(model.spec(), asked));
    }
    record
}

fn scores(source: &dyn LayerSource, asked: &Asked) -> Vec<Scored> {
    let (workers, tokenizer) = (Workers::new(2).expect("threads start"), tokenizer());
    let reading = Reading { tokenizer: &tokenizer, bos: false, window: 64 };
    score_documents(source, asked, reading, &workers, &|_| {}).expect("scores")
}

fn assert_cost(found: Option<CostRecord>, whole: &[f64], without: &[f64]) {
    let found = found.expect("measured");
    let drops: Vec<f64> = whole.iter().zip(without).map(|(a, b)| a - b).collect();
    assert!((found.drop - mean(&drops)).abs() < 1e-5, "{found:?}, {}", mean(&drops));
    let margin = margin(&drops).expect("many documents");
    assert!((found.margin.expect("an interval") - margin).abs() < 1e-5, "{found:?}, {margin}");
}

#[test]
fn what_a_task_loses_without_a_layer_is_what_a_model_that_lacks_it_answers_worse() {
    let (model, asked) = (model(), asked("numbers", 40));
    let record = diagnosed(&model, std::slice::from_ref(&asked), 2, false);
    let golds = |scores: &[Scored]| -> Vec<f64> {
        let documents = asked.documents.iter().zip(scores);
        documents.map(|(of, scores)| scores[of.question.gold].log_probability).collect()
    };
    // 1 where the largest of the choices' values is the right one.
    let right = |scores: &[Scored], norm: bool| -> Vec<f64> {
        let documents = asked.documents.iter().zip(scores);
        let of = documents.map(|(document, scores)| {
            let choices = document.question.choices.iter().zip(scores);
            let value = choices.map(|(choice, score)| {
                score.log_probability / if norm { choice.characters() as f64 } else { 1.0 }
            });
            let values: Vec<f64> = value.collect();
            let gold = values[document.question.gold];
            f64::from(u8::from(values.iter().all(|value| *value <= gold)))
        });
        of.collect()
    };
    let whole = scores(&model, &asked);
    let task = &record.tasks[0];
    assert_eq!(task.answers, summary(&asked, &whole));
    assert!((task.gold_logprob.expect("numbers") - mean(&golds(&whole))).abs() < 1e-9);
    for layer in &record.layers {
        let gone = Removal { layer: LayerIndex::new(layer.layer), branch: None };
        let pruned = Pruned::new(&model, &[gone]).expect("a model");
        let without = scores(&pruned, &asked);
        let costs = &layer.tasks["numbers"];
        assert_cost(costs.gold, &golds(&whole), &golds(&without));
        assert_cost(costs.acc, &right(&whole, false), &right(&without, false));
        assert_cost(costs.acc_norm, &right(&whole, true), &right(&without, true));
    }
    let against = &task.against_loss[0];
    assert_eq!((against.measure.as_str(), against.layers), ("gold", 3));
    assert_eq!(against.cheapest_by_loss.len(), 1);
    let said = record.verdict.evidence.join(" ");
    for expected in
        ["numbers (40 documents), every layer: acc", "always the first", "chance would give"]
    {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    assert!(record.verdict.text.contains("correlations (Spearman) of: numbers"));
}

#[test]
fn documents_are_the_same_whoever_scores_them_and_those_before_a_stop_count() {
    let (model, asked) = (model(), [asked("a", 40), asked("b", 5)]);
    let two = diagnosed(&model, &asked, 2, false);
    let three = diagnosed(&model, &asked, 3, false);
    assert_eq!((&two.tasks, &two.layers), (&three.tasks, &three.layers));
    assert_eq!(two.tasks.len(), 2);

    let stopped = diagnosed(&model, &asked, 1, true);
    let [task] = &stopped.tasks[..] else { panic!("{:?}", stopped.tasks) };
    assert_eq!((task.answers.documents, task.answers.of), (32, 40));
    let mut few = asked[0].clone();
    few.documents.truncate(32);
    assert_eq!(task.answers, summary(&few, &scores(&model, &few)));
}

#[test]
fn every_measure_of_every_task_is_described_and_drawn() {
    let record = diagnosed(&model(), &[asked("a", 20), asked("b", 20)], 1, false);
    let probe = record.described.iter().find(|probe| probe.name == "tasks").expect("described");
    assert_eq!((probe.quantities.len(), probe.charts.len()), (6, 4));
    let numbers = Numbers::of(&record);
    for quantity in &probe.quantities {
        assert!(numbers.has(quantity), "{}", quantity.field);
        for field in [&quantity.stderr, &quantity.margin] {
            let column = numbers.column(field.as_deref().expect("measured"));
            assert_eq!(column.len(), 3, "{field:?}");
        }
    }
    let read: DiagnoseRecord =
        serde_json::from_str(&serde_json::to_string(&record).expect("JSON")).expect("reads");
    assert_eq!(read, record);
    // Without tasks nothing says that they could have been measured by a name alone.
    let workers = Workers::new(1).expect("a thread starts");
    let plain = self::record(&model(), &workers);
    assert!(plain.described.iter().all(|probe| probe.name != "tasks"));
}
