//! Studies of tiny models from their first run to their record.

use std::{
    ops::ControlFlow,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use lns_corpus::{Language, Limits, Part, prepare_documents};
use lns_kernels::Compute;
use lns_record::Event;
use lns_study::{StudyConfig, StudyOutcome, StudyProgress, record, run};
use lns_train::run_preset;

/// Two groups of tiny models on the built-in language, 6 steps each, tuned before they are compared.
const TUNED: &str = r#"
name = "tuned"
baseline = "pre"
seeds = [1, 2]
theory = false
diagnosis = { tokens = 64 }
[tuning]
setting = "schedule.learning_rate"
values = [1e-3, 1e-2]
seed = 101
widen = 1
[run]
steps = 6
threads = 1
batch = { sequences = 2 }
evaluation = { every = 3, tokens = 128 }
data = { length = 32, sources = [{ corpus = "CORPUS" }] }
model = { hidden_size = 16, intermediate_size = 24, num_hidden_layers = 2, num_attention_heads = 2 }
schedule = { warmup = 2 }
[[grid]]
levels = [{ name = "pre", scheme = "pre" }, { name = "lns", scheme = "lns" }]
"#;

/// One seed of the same groups, which keep their models every two steps.
const ALONG: &str = r#"
name = "along"
baseline = "pre"
seeds = [1]
theory = false
diagnosis = { tokens = 128 }
[run]
steps = 5
threads = 1
batch = { sequences = 2 }
evaluation = { every = 3, tokens = 128 }
checkpoints = { every = 2 }
data = { length = 32, sources = [{ corpus = "CORPUS" }] }
model = { hidden_size = 16, intermediate_size = 24, num_hidden_layers = 2, num_attention_heads = 2 }
schedule = { warmup = 2 }
[[groups]]
scheme = "pre"
[[groups]]
scheme = "lns"
settings = { model = { embedding_std = 0.5 } }
"#;

fn study(folder: &Path, text: &str) -> StudyConfig {
    let language = Language::new(1);
    let of = |part, count| {
        language.documents(part).take(count).map(move |document| (part, document.text))
    };
    let mut documents = of(Part::Train, 60).chain(of(Part::Validation, 10));
    let limits = Limits { train: None, validation: None };
    let (corpus, tokenizer) = (folder.join("corpus"), language.tokenizer());
    let go_on = |_: u64| ControlFlow::Continue(());
    prepare_documents(&mut documents, "a language", &tokenizer, limits, &corpus, &go_on)
        .expect("prepares");
    let path = folder.join("asked.toml");
    let text = text.replace("CORPUS", &corpus.display().to_string());
    std::fs::write(&path, text).expect("is written");
    StudyConfig::read(&path).expect("a study")
}

#[test]
fn each_group_is_tuned_on_its_own_seed_and_compared_at_its_best_value_also_after_a_stop() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = study(folder.path(), TUNED);
    let compute = Compute::on_cpu(1).expect("a thread starts");
    let out = folder.path().join("study");
    let stop = AtomicBool::new(false);
    let mut begun = Vec::new();
    let outcome = run(&config, &out, &compute, &stop, &mut |progress| match progress {
        StudyProgress::Run { folder, .. } => {
            begun.push(folder.strip_prefix(&out).expect("inside").display().to_string());
        }
        // In the second run of the first group.
        StudyProgress::Event(Event::Step(_)) if begun.len() == 2 => {
            stop.store(true, Ordering::Relaxed);
        }
        _ => {}
    });
    assert_eq!(outcome.expect("stops"), StudyOutcome::Interrupted);
    assert_eq!(begun, ["tuning/pre-1e-3-seed101", "tuning/pre-1e-2-seed101"]);
    let half = record(&config, &out).expect("a record");
    let tuning = half.tuning.expect("tunes");
    assert_eq!((tuning.groups[0].tried.len(), tuning.groups[0].finished), (1, false));
    assert_eq!(half.missing_runs, 4, "the seeds of groups that are not tuned yet are missing");

    let stop = AtomicBool::new(false);
    let outcome = run(&config, &out, &compute, &stop, &mut |_| {});
    assert_eq!(outcome.expect("finishes"), StudyOutcome::Finished);
    let whole = record(&config, &out).expect("a record");
    assert_eq!(whole.missing_runs, 0);
    let rate = whole.settings.iter().find(|row| row.0 == "learning rate").expect("a row");
    assert!(rate.1.starts_with("tuned for each group, after 2 steps"), "{}", rate.1);
    for group in &whole.tuning.expect("tuned").groups {
        // Six steps learn more the larger the rate: both values, and one wider.
        let losses: Vec<f64> = group.tried.iter().filter_map(|(_, loss)| *loss).collect();
        assert_eq!(losses.len(), 3, "{group:?}");
        let best = group.tried.iter().find(|(value, _)| Some(*value) == group.best);
        let lowest = losses.iter().copied().fold(f64::INFINITY, f64::min);
        assert_eq!(best.and_then(|(_, loss)| *loss), Some(lowest));
        let run = out.join(format!("runs/{}-seed2/config.toml", group.name));
        let settings = std::fs::read_to_string(run).expect("a run");
        let rate = format!("learning_rate = {:?}", group.best.expect("a best value"));
        assert!(settings.contains(&rate), "{rate} is not in {settings}");
    }
    let there = StudyConfig::read(&out.join(StudyConfig::FILE_NAME)).expect("is read again");
    assert_eq!(there, config);
}

#[test]
fn models_kept_along_the_way_are_diagnosed_and_their_numbers_stand_in_the_record() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = study(folder.path(), ALONG);
    let compute = Compute::on_cpu(1).expect("a thread starts");
    let out = folder.path().join("study");
    // Stopped while the first model kept along the way is diagnosed: it is diagnosed again.
    let stop = AtomicBool::new(false);
    let outcome = run(&config, &out, &compute, &stop, &mut |progress| {
        if matches!(progress, StudyProgress::Diagnosing) {
            stop.store(true, Ordering::Relaxed);
        }
    });
    assert_eq!(outcome.expect("stops"), StudyOutcome::Interrupted);
    let half = record(&config, &out).expect("a record");
    assert_eq!(half.groups[0].runs[0].along, []);

    let stop = AtomicBool::new(false);
    let outcome = run(&config, &out, &compute, &stop, &mut |_| {});
    assert_eq!(outcome.expect("finishes"), StudyOutcome::Finished);
    let whole = record(&config, &out).expect("a record");
    for group in &whole.groups {
        let run = &group.runs[0];
        let at: Vec<(u64, u64)> = run.along.iter().map(|at| (at.step, at.tokens)).collect();
        assert_eq!(at, [(0, 0), (2, 128), (4, 256), (5, 320)], "drawn, kept twice, finished");
        let [.., finished] = run.along.as_slice() else { panic!("none") };
        let diagnosis = run.diagnosis.as_deref().expect("diagnosed");
        assert_eq!(finished.loss, diagnosis.baseline.as_ref().expect("a loss").nll);
        assert_eq!(finished.removal[1], diagnosis.layers[1].removal.expect("removed").delta_nll);
        assert_eq!(finished.variance.len(), 3);
        assert!(run.along[0].loss > finished.loss, "{:?}", run.along);
    }
    let common = |what: &str| &whole.settings.iter().find(|row| row.0 == what).expect(what).1;
    assert!(common("initialisation").ends_with("; groups differ in this"));
    assert!(!common("learning rate").contains("differ"));
}

#[test]
fn a_studys_file_may_begin_from_a_preset_as_the_paper_s_table_does() {
    let page = include_str!("../../../docs/reproduce.md");
    let (_, file) = page.split_once("```toml\n").expect("a study's file");
    let (file, _) = file.split_once("```").expect("its end");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("study.toml");
    let read = |text: &str| {
        std::fs::write(&path, text).expect("writes");
        StudyConfig::read(&path).map_err(|error| error.to_string())
    };
    let study = read(file).expect("a study");
    let preset = run_preset("paper-130m").expect("a preset").config;
    assert_eq!((study.run.model, study.run.steps), (preset.model, preset.steps));
    assert_eq!(study.run.data.layout, preset.data.layout);
    assert_eq!(study.run.data.sources.len(), 1);

    let unknown = read(&file.replace("paper-130m", "paper-13b")).expect_err("no such preset");
    assert!(unknown.contains("no preset") && unknown.contains("paper-1b"), "{unknown}");
    let unknown = read(&file.replace("data = {", "dta = {")).expect_err("no such setting");
    assert!(unknown.contains("[run]") && unknown.contains("data"), "{unknown}");
    let unknown = read(&file.replace("seeds", "seed")).expect_err("no such key");
    assert!(unknown.contains("seed"), "{unknown}");
}
