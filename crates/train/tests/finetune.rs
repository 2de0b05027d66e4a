//! Fine-tunes: a checkpoint's training continued, in full or by LoRA, its scale annealed or not.

mod runs;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use lns_checkpoint::{Checkpoint, Conversion};
use lns_corpus::{
    InstructionOptions, Language, Limits, Part, PrepareOptions, Validation, prepare_documents,
    prepare_instructions,
};
use lns_kernels::cpu_device;
use lns_model::{Decoder, LoraConfig, Retrofit};
use lns_record::{Event, Outcome, ProvenanceRecord, read_events};
use lns_spec::{DepthScale, Family, Initialisation, NormScheme, Preset, QkNorm};
use lns_testing::golden::tiny_checkpoint;
use lns_testing::models::TINY;
use lns_tokenizer::{Tokenizer, TokenizerError, model_tokenizer, write_tokenizer};
use lns_train::{
    ConfigError, FinetuneConfig, RunConfig, RunError, Settings, SourceConfig, TeacherConfig, check,
    check_checkpoint, finetune_defaults,
};
use tempfile::TempDir;

use runs::{go, go_until};

/// A small model of the built-in language's tokenizer, and a text of it.
struct Place {
    dir: TempDir,
    base: PathBuf,
    corpus: PathBuf,
}

impl Place {
    fn new(scheme: NormScheme) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let corpus = runs::corpus(dir.path(), 1);
        let tokenizer = Language::new(1).tokenizer();
        let preset = Preset { vocab_size: tokenizer.vocab_size(), ..TINY };
        let model = Decoder::new(&preset.spec(scheme), 5, &cpu_device());
        let base = dir.path().join("base");
        fs::create_dir(&base).expect("makes");
        model.write(&base).expect("writes");
        tokenizer.save(&base).expect("writes");
        Self { dir, base, corpus }
    }

    fn run(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self, lora: Option<LoraConfig>) -> RunConfig {
        let toml = r#"
            steps = 9
            threads = 2
            batch = { sequences = 4 }
            snapshots = { every = 4 }
            evaluation = { every = 3, tokens = 500 }
            statistics = { every = 5 }
            data = { length = 32 }
            schedule = { warmup = 3, learning_rate = 1e-2 }
        "#;
        let layer = Settings::from_toml("the test", toml).expect("settings");
        let mut config = finetune_defaults().with(&[layer]).expect("settings");
        config.data.sources = vec![SourceConfig::new(self.corpus.clone())];
        config.finetune = Some(FinetuneConfig { lora, ..FinetuneConfig::of(self.base.clone()) });
        config
    }
}

fn lora() -> Option<LoraConfig> {
    let targets = vec!["q_proj".to_owned(), "down_proj".to_owned()];
    Some(LoraConfig { rank: 4, alpha: 8.0, targets })
}

fn weights(folder: &Path) -> BTreeMap<String, Vec<f32>> {
    let checkpoint = Checkpoint::open(folder).expect("a checkpoint");
    let read = |tensor: &lns_checkpoint::TensorInfo| {
        let values = checkpoint.read_f32(&tensor.name, &tensor.shape).expect("reads");
        (tensor.name.clone(), values)
    };
    checkpoint.tensors().map(read).collect()
}

fn losses(folder: &Path) -> Vec<Option<f64>> {
    let events = read_events(folder).expect("events");
    let loss = |event: &Event| match event {
        Event::Step(event) => Some(event.loss),
        Event::Eval(event) => Some(event.loss),
        _ => None,
    };
    events.iter().filter_map(loss).collect()
}

#[test]
fn a_fine_tune_goes_on_from_its_checkpoint_and_repeats_to_the_bit_when_it_is_stopped() {
    for (name, lora) in [("full", None), ("lora", lora())] {
        let place = Place::new(NormScheme::lns());
        let config = place.config(lora);
        let (whole, parts) = (place.run("whole"), place.run("parts"));
        let summary = go(&config, &whole).expect("runs");
        assert_eq!(summary.outcome, Outcome::Finished, "{name}");
        let seen = losses(&whole);
        assert!(summary.loss < seen[0], "{name}: it learns: {seen:?}");

        go_until(&config, &parts, 2);
        go_until(&config, &parts, 6);
        // A snapshot that was damaged is passed over.
        let model = ["model.safetensors", "adapter_model.safetensors"];
        let latest = parts.join("snapshots/step-00000006");
        let damaged = model.iter().map(|file| latest.join(file)).find(|path| path.exists());
        fs::write(damaged.expect("a snapshot has one"), "x").expect("writes");
        go(&config, &parts).expect("goes on");
        assert_eq!(weights(&whole.join("model")), weights(&parts.join("model")), "{name}");
        assert_eq!(seen, losses(&parts), "{name}");
    }
}

#[test]
fn adapters_change_their_targets_only_and_come_merged_and_apart() {
    let place = Place::new(NormScheme::pre());
    let run = place.run("run");
    go(&place.config(lora()), &run).expect("runs");
    let (before, after) = (weights(&place.base), weights(&run.join("model")));
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (name, values) in &before {
        let target = name.contains("q_proj") || name.contains("down_proj");
        assert_eq!(values != &after[name], target, "{name}");
    }
    let snapshot = run.join("snapshots/step-00000009");
    let names: Vec<_> = fs::read_dir(&snapshot)
        .expect("a folder")
        .map(|entry| entry.expect("readable").file_name().into_string().expect("plain"))
        .collect();
    assert!(names.contains(&"adapter_config.json".to_owned()), "{names:?}");
    assert!(!names.contains(&"model.safetensors".to_owned()), "{names:?}");
    let config = fs::read(snapshot.join("adapter_config.json")).expect("there");
    let config: serde_json::Value = serde_json::from_slice(&config).expect("JSON");
    let base = config["base_model_name_or_path"].as_str().expect("adapters are of a model");
    assert_eq!(std::path::Path::new(base), place.base);
    let Event::Start(start) = &read_events(&run).expect("events")[0] else { panic!("begins") };
    // Rank 4 beside 16 × 16 and 16 × 24, three times.
    assert_eq!(start.trainable, Some(3 * 4 * (16 + 16 + 16 + 24)));
}

#[test]
fn a_scale_that_is_annealed_arrives_and_a_stop_on_the_way_changes_nothing() {
    let place = Place::new(NormScheme::pre());
    let checkpoint = Checkpoint::open(&place.base).expect("a checkpoint");
    let (scale, gains) = Retrofit::Anneal { steps: 6 }.begin(DepthScale::default());
    let conversion = Conversion::of(&checkpoint).expect("whole");
    let conversion = conversion.with_layernorm_scaling(scale, gains).expect("takes it");
    let annealed = place.run("annealed");
    fs::create_dir(&annealed).expect("makes");
    conversion.write(&annealed, u64::MAX, &|_| {}).expect("writes");
    write_tokenizer(&checkpoint, &annealed).expect("writes");

    let mut config = place.config(None);
    config.finetune.as_mut().expect("is set").base.clone_from(&annealed);
    let (whole, parts, plain) = (place.run("whole"), place.run("parts"), place.run("plain"));
    go(&config, &whole).expect("runs");
    go_until(&config, &parts, 4);
    let on_the_way = Checkpoint::open(&parts.join("snapshots/step-00000004")).expect("opens");
    let scheme = on_the_way.spec().norm_scheme.to_string();
    assert!(scheme.starts_with("lns, exponent 0.33333"), "{scheme}");
    go(&config, &parts).expect("goes on");
    assert_eq!(weights(&whole.join("model")), weights(&parts.join("model")));
    let end = Checkpoint::open(&whole.join("model")).expect("opens");
    assert_eq!(end.spec().norm_scheme, NormScheme::lns());
    // By LoRA too, whose snapshots have no config: stopped after its last step, the model unwritten.
    let mut by_lora = config.clone();
    by_lora.finetune.as_mut().expect("is set").lora = lora();
    let (whole_lora, parts_lora) = (place.run("whole-lora"), place.run("parts-lora"));
    go(&by_lora, &whole_lora).expect("runs");
    go(&by_lora, &parts_lora).expect("runs");
    fs::remove_dir_all(parts_lora.join("model")).expect("removes");
    go(&by_lora, &parts_lora).expect("goes on");
    let end = Checkpoint::open(&parts_lora.join("model")).expect("opens");
    assert_eq!(end.spec().norm_scheme, NormScheme::lns());
    assert_eq!(weights(&whole_lora.join("model")), weights(&parts_lora.join("model")));

    let mut short = config.clone();
    short.steps = 5;
    let error = check(&short, &place.run("short")).expect_err("ends on the way");
    assert!(matches!(error, RunError::AnnealTooLong { anneal: 6, steps: 5, .. }), "{error}");

    let record = ProvenanceRecord::read(&whole.join("model").join(ProvenanceRecord::FILE_NAME));
    let record = record.expect("is written");
    assert_eq!(record.verb, "finetune");
    // Before the first step nothing has changed.
    go(&place.config(None), &plain).expect("runs");
    assert_eq!(losses(&whole)[0], losses(&plain)[0]);
    assert_ne!(losses(&whole)[1], losses(&plain)[1]);
}

#[test]
fn only_responses_are_learned_of_instructions() {
    let place = Place::new(NormScheme::pre());
    let line = |text: String| {
        let words: Vec<_> = text.split(' ').take(40).collect();
        let (prompt, response) = words.split_at(words.len() * 3 / 4);
        let (prompt, response) = (prompt.join(" ") + " ", response.join(" "));
        serde_json::json!({"prompt": prompt, "response": response}).to_string() + "\n"
    };
    let language = Language::new(2);
    let documents = language.documents(Part::Train).take(60);
    let lines: String = documents.map(|document| line(document.text)).collect();
    let data = place.run("chats.jsonl");
    fs::write(&data, lines).expect("writes");
    let checkpoint = Checkpoint::open(&place.base).expect("a checkpoint");
    let tokenizer = model_tokenizer(&checkpoint).expect("reads").expect("has one");
    let corpus = PrepareOptions {
        validation: Validation::Share(0.2),
        max_train_tokens: None,
        max_validation_tokens: None,
    };
    let options = InstructionOptions { corpus, sequence_length: 64 };
    let folder = place.run("instructions");
    let corpus = prepare_instructions(&[data], &tokenizer, None, &options, &folder, &|_| {
        std::ops::ControlFlow::Continue(())
    })
    .expect("prepares");
    let mut config = place.config(None);
    config.data.sources = vec![SourceConfig::new(folder)];
    config.data.layout = lns_corpus::Layout::Rows;
    config.data.length = 64;
    config.evaluation.tokens = 0;
    let run = place.run("run");
    go(&config, &run).expect("runs");
    // Examples of unequal length are dealt to the workers by their tokens, the same every time.
    let parts = place.run("parts");
    go_until(&config, &parts, 2);
    go_until(&config, &parts, 6);
    go(&config, &parts).expect("goes on");
    assert_eq!(weights(&parts.join("model")), weights(&run.join("model")));
    let Some(Event::Eval(event)) =
        read_events(&run).expect("events").into_iter().find(|e| matches!(e, Event::Eval(_)))
    else {
        panic!("it is evaluated")
    };
    let held_out = corpus.tokens(Part::Validation);
    config.data.layout = lns_corpus::Layout::Packed;
    let error = check(&config, &place.run("packed")).expect_err("would cut examples");
    assert!(matches!(error, RunError::CutInstructions { .. }), "{error}");
    assert!(event.predicted > 0 && event.predicted < held_out.len() / 2, "{event:?}");
    assert!(corpus.learns_responses_only());
}

/// A model that the place's own is to become: trained further, or of another family and another size.
fn teach(place: &Place, family: Family) -> PathBuf {
    if family == Family::LLAMA {
        let run = place.run("taught");
        go(&place.config(None), &run).expect("runs");
        return run.join("model");
    }
    let tokenizer = Language::new(1).tokenizer();
    let preset = Preset { hidden_size: 24, vocab_size: tokenizer.vocab_size() + 3, ..TINY };
    let mut spec = preset.spec(NormScheme::pre());
    (spec.family, spec.qk_norm) = (family, QkNorm::PerHead);
    let initialisation = Initialisation::Normal;
    let model = Decoder::initialised(&spec, initialisation, 1.0, 8, &cpu_device());
    let folder = place.run("other");
    fs::create_dir(&folder).expect("makes");
    model.write(&folder).expect("writes");
    tokenizer.save(&folder).expect("writes");
    folder
}

fn towards(config: RunConfig, teacher: TeacherConfig) -> RunConfig {
    let from = config.finetune.expect("goes on from a checkpoint");
    RunConfig { finetune: Some(FinetuneConfig { teacher: Some(teacher), ..from }), ..config }
}

fn divergences(folder: &Path) -> [Vec<f64>; 2] {
    let events = read_events(folder).expect("events");
    let of = |pick: fn(&Event) -> Option<Option<f64>>| {
        events.iter().filter_map(pick).map(|kl| kl.expect("is measured")).collect()
    };
    [
        of(|event| if let Event::Step(event) = event { Some(event.kl) } else { None }),
        of(|event| if let Event::Eval(event) = event { Some(event.kl) } else { None }),
    ]
}

#[test]
fn a_model_comes_nearer_to_its_teacher_and_a_stop_changes_no_bit() {
    let place = Place::new(NormScheme::pre());
    let taught = teach(&place, Family::LLAMA);
    let before = weights(&taught);
    // Two matrices of rank 4 go a small part of the way.
    for (name, lora, weight, left) in [("full", None, 1.0, 0.5), ("lora", lora(), 0.5, 0.995)] {
        let teacher =
            TeacherConfig { weight, temperature: 2.0, ..TeacherConfig::of(taught.clone()) };
        let config = towards(place.config(lora), teacher);
        let (whole, parts) =
            (place.run(&format!("whole-{name}")), place.run(&format!("parts-{name}")));
        go(&config, &whole).expect("runs");
        let [steps, evaluated] = divergences(&whole);
        assert_eq!((steps.len(), evaluated.len()), (9, 6), "{name}");
        assert!(evaluated[5] < left * evaluated[0], "{name}: {evaluated:?}");
        assert!(losses(&whole).iter().all(Option::is_some), "{name}: both are told");

        go_until(&config, &parts, 2);
        go_until(&config, &parts, 6);
        go(&config, &parts).expect("goes on");
        assert_eq!(weights(&whole.join("model")), weights(&parts.join("model")), "{name}");
        assert_eq!((losses(&whole), divergences(&whole)), (losses(&parts), divergences(&parts)));

        let Event::Start(start) = &read_events(&whole).expect("events")[0] else {
            panic!("begins")
        };
        assert_eq!(start.teacher.as_deref(), taught.to_str(), "{name}");
        let settings = RunConfig::read(&whole).expect("settings").finetune.expect("a fine-tune");
        let recorded = settings.teacher.expect("a teacher");
        let fingerprint = Checkpoint::open(&taught).expect("opens").fingerprint().expect("reads");
        assert_eq!(recorded.fingerprint, fingerprint, "{name}");
    }
    assert_eq!(before, weights(&taught), "nothing of a teacher is trained");
}

#[test]
fn a_teacher_without_weight_is_only_measured() {
    let place = Place::new(NormScheme::lns());
    let teacher = TeacherConfig { weight: 0.0, ..TeacherConfig::of(teach(&place, Family::QWEN3)) };
    let (plain, taught) = (place.run("plain"), place.run("run"));
    go(&place.config(None), &plain).expect("runs");
    go(&towards(place.config(None), teacher), &taught).expect("runs");
    assert_eq!(weights(&plain.join("model")), weights(&taught.join("model")));
    assert_eq!(losses(&plain), losses(&taught));
    assert!(divergences(&taught)[0].iter().all(|kl| *kl > 0.0));
}

#[test]
fn a_teacher_of_another_family_size_and_padding_teaches() {
    let place = Place::new(NormScheme::lns());
    let teacher = TeacherConfig { weight: 1.0, ..TeacherConfig::of(teach(&place, Family::QWEN3)) };
    let run = place.run("run");
    go(&towards(place.config(None), teacher), &run).expect("runs");
    let [_, evaluated] = divergences(&run);
    assert!(evaluated[5] < evaluated[0], "{evaluated:?}");
}

#[test]
fn a_teacher_that_cannot_teach_or_is_another_than_before_is_refused() {
    let place = Place::new(NormScheme::pre());
    let folder = place.run("run");
    let with = |teacher: PathBuf| towards(place.config(None), TeacherConfig::of(teacher));
    let error = refused(&with(place.run("gone")), &folder);
    assert!(matches!(error, RunError::Teacher { .. }), "{error}");
    let encoder = lns_testing::golden::golden("tiny").join("bert");
    let error = refused(&with(encoder), &folder);
    assert!(matches!(error, RunError::TeacherEncoder { .. }), "{error}");

    let model = teach(&place, Family::QWEN3);
    let mut config = with(model.clone());
    config.data.length = 65;
    let error = refused(&config, &folder);
    assert!(matches!(error, RunError::BeyondContext { .. }), "{error}");

    // The same number of tokens, two of which are the other way round.
    let file = model.join("tokenizer.json");
    let own = fs::read_to_string(&file).expect("a tokenizer");
    let other = own.replace("\"dog\":58,\"horse\":59", "\"horse\":58,\"dog\":59");
    assert_ne!(own, other);
    fs::write(&file, other).expect("writes");
    let error = refused(&with(model.clone()), &folder);
    assert!(matches!(error, RunError::TeacherVocabulary { id: 58, .. }), "{error}");
    assert!(error.to_string().contains("58 is `horse` there and `dog` in"), "{error}");
    fs::remove_file(&file).expect("removes");
    let error = refused(&with(model.clone()), &folder);
    assert!(matches!(error, RunError::TeacherWithoutTokenizer { .. }), "{error}");
    fs::write(&file, own).expect("writes");

    let config = with(model.clone());
    go_until(&config, &folder, 2);
    let weights = model.join("model.safetensors");
    let mut bytes = fs::read(&weights).expect("weights");
    *bytes.last_mut().expect("some") ^= 1;
    fs::write(&weights, bytes).expect("writes");
    let error = refused(&config, &folder);
    assert!(matches!(error, RunError::OtherTeacher { .. }), "{error}");
    // Without a teacher, or with another weight, it is another run.
    let error = refused(&place.config(None), &folder);
    assert!(matches!(error, RunError::AnotherRun { .. }), "{error}");
    assert!(error.to_string().contains("finetune.teacher.weight"), "{error}");

    for (key, value) in
        [("temperature", "0"), ("temperature", "-1.0"), ("temperature", "nan"), ("weight", "1.5")]
    {
        let toml = format!("[finetune.teacher]\nmodel = 'm'\n{key} = {value}\n");
        let layer = Settings::from_toml("the test", &format!("[finetune]\nbase = 'b'\n{toml}"));
        let error = RunConfig::default().with(&[layer.expect("settings")]).expect_err(value);
        assert!(error.to_string().contains(key), "{error}");
    }
}

fn refused(config: &RunConfig, folder: &Path) -> RunError {
    check(config, folder).expect_err("is refused")
}

#[test]
fn what_cannot_be_gone_on_from_is_refused_before_the_first_step() {
    let place = Place::new(NormScheme::pre());
    let folder = place.run("run");
    let mixture = tiny_checkpoint("mixtral");
    let from = place.config(None).finetune.expect("goes on from a checkpoint");
    let error = check_checkpoint(&place.config(None), &from, mixture.spec());
    assert!(matches!(error, Err(RunError::Mixture { .. })), "{error:?}");

    let mut config = place.config(None);
    config.data.length = 65;
    let error = refused(&config, &folder);
    assert!(matches!(error, RunError::BeyondContext { context: 64, length: 65, .. }), "{error}");

    let mut config = place.config(None);
    config.finetune.as_mut().expect("is set").fingerprint = "another".to_owned();
    let error = refused(&config, &folder);
    assert!(matches!(error, RunError::OtherBase { .. }), "{error}");

    let rank = LoraConfig { rank: 17, ..LoraConfig::default() };
    let error = go(&place.config(Some(rank)), &folder).expect_err("too large");
    assert!(error.to_string().contains("rank of 17") || error.to_string().contains("rank 17"));

    let other = tempfile::tempdir().expect("a temporary folder");
    let text = std::iter::once(Ok::<_, TokenizerError>("one two three ".repeat(400)));
    let tokenizer = Tokenizer::train_bpe(text, 264, 1 << 20).expect("trains");
    let of = |part| (part, "one two three ".repeat(40));
    let mut documents = [of(Part::Train), (Part::Validation, "two one ".repeat(90))].into_iter();
    let corpus = other.path().join("text");
    let limits = Limits { train: None, validation: None };
    prepare_documents(&mut documents, "other", &tokenizer, limits, &corpus, &|_| {
        std::ops::ControlFlow::Continue(())
    })
    .expect("prepares");
    let mut config = place.config(None);
    config.data.sources = vec![SourceConfig::new(corpus)];
    let error = refused(&config, &folder);
    assert!(matches!(error, RunError::OtherTokenizer { .. }), "{error}");
}

#[test]
fn a_checkpoint_and_a_model_of_ones_own_are_not_both_settings_of_a_run() {
    let toml = "[finetune]\nbase = 'm'\n[model]\nnum_hidden_layers = 3\n";
    let layer = Settings::from_toml("the test", toml).expect("settings");
    let error = RunConfig::default().with(&[layer]).expect_err("both");
    assert!(matches!(error, ConfigError::Invalid { key: "model", .. }), "{error}");
    // What is written of a fine-tune has no model, and reads back.
    let place = Place::new(NormScheme::pre());
    let config = place.config(lora());
    let text = config.to_toml();
    assert!(!text.contains("[model]") && text.contains("[finetune.lora]"), "{text}");
    let layer = Settings::from_toml("the test", &text).expect("settings");
    assert_eq!(RunConfig::default().with(&[layer]).expect("settings"), config);
}
