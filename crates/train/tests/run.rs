//! Whole runs in folders: repeated, stopped, killed, damaged, misconfigured, diverging.

mod runs;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;
use lns_checkpoint::Checkpoint;
use lns_corpus::{Corpus, Part, Sequences, evaluation_sequences};
use lns_kernels::{IGNORED, Workers, cpu_device};
use lns_model::Decoder;
use lns_record::{Event, Outcome, read_events};
use lns_score::{HeldOut, evaluate_sequences};
use lns_train::{
    GuardConfig, ModelConfig, NotFinite, RunConfig, Schedule, Settings, SourceConfig, train,
};
use tempfile::TempDir;

use runs::{compute, corpus, go, go_until};

struct Place {
    dir: TempDir,
    corpus: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let corpus = corpus(dir.path(), 1);
        Self { dir, corpus }
    }

    fn run(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// 12 steps, a snapshot every 4, an evaluation every 3, statistics every 5.
    fn config(&self) -> RunConfig {
        let toml = r#"
            steps = 12
            threads = 2
            batch = { sequences = 4 }
            snapshots = { every = 4 }
            evaluation = { every = 3, tokens = 500 }
            statistics = { every = 5 }
            [model]
            hidden_size = 16
            intermediate_size = 24
            num_hidden_layers = 3
            num_attention_heads = 2
            scheme = "lns"
            [data]
            length = 32
            [schedule]
            warmup = 3
        "#;
        let layer = Settings::from_toml("the test", toml).expect("settings");
        let mut config = RunConfig::default().with(&[layer]).expect("settings");
        config.data.sources = vec![SourceConfig::new(self.corpus.clone())];
        config
    }
}

/// Everything that was reported but for times, and the final weights.
fn results(folder: &Path) -> (Vec<String>, Vec<u8>) {
    let events = read_events(folder).expect("events");
    let numbers = events.iter().filter_map(|event| match event {
        Event::Step(e) => {
            Some(format!("{} {:?} {:?} {}", e.step, e.loss, e.gradient_norm, e.tokens))
        }
        Event::Eval(e) => Some(format!("eval {} {:?} {}", e.step, e.loss, e.predicted)),
        Event::Layers(e) => Some(format!(
            "{} {:?} {:?} {:?} {:?}",
            e.step, e.stream_variance, e.branch_ratio, e.gradient_norm, e.update_ratio
        )),
        _ => None,
    });
    let weights = fs::read(folder.join("model/model.safetensors")).expect("a finished model");
    (numbers.collect(), weights)
}

fn notes(folder: &Path) -> String {
    let events = read_events(folder).expect("events");
    let notes = events.iter().filter_map(|event| match event {
        Event::Note { text, .. } => Some(text.as_str()),
        _ => None,
    });
    notes.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_run_repeats_to_the_bit_and_its_model_reloads_with_the_same_loss() {
    let place = Place::new();
    let config = place.config();
    let (a, b) = (place.run("a"), place.run("b"));
    let summary = go(&config, &a).expect("runs");
    go(&config, &b).expect("runs");
    assert_eq!(results(&a), results(&b));
    assert_eq!((summary.outcome, summary.step, summary.tokens), (Outcome::Finished, 12, 12 * 128));

    let checkpoint = Checkpoint::open(&a.join("model")).expect("a checkpoint");
    let model = Decoder::from_checkpoint(&checkpoint, &cpu_device()).expect("loads");
    let tokens = Corpus::open(&place.corpus).expect("a text");
    let held_out = tokens.tokens(Part::Validation);
    let layout = lns_corpus::Layout::Packed;
    let sequences = evaluation_sequences(held_out, layout, 32, Some(500), 0).expect("windows");
    let workers = Workers::new(2).expect("threads");
    assert_eq!(
        summary.loss,
        Some(evaluate_sequences(&model, &sequences, None, &workers).expect("evaluates").nll)
    );

    let again = go(&config, &a).expect("finds it finished");
    assert_eq!(again, summary);
}

#[test]
fn a_run_on_masked_documents_repeats_goes_on_and_learns_from_them_alone() {
    let place = Place::new();
    let mut config = place.config();
    let packed = go(&config, &place.run("packed")).expect("runs");
    config.data.layout = lns_corpus::Layout::PackedMasked;
    let (whole, stopped) = (place.run("whole"), place.run("stopped"));
    let summary = go(&config, &whole).expect("runs");
    assert_eq!(summary.tokens, packed.tokens, "the same targets");
    assert_ne!(summary.loss, packed.loss, "predicted from less");
    go_until(&config, &stopped, 7);
    go(&config, &stopped).expect("goes on");
    assert_eq!(results(&stopped), results(&whole));
}

#[test]
fn a_run_that_is_stopped_or_killed_goes_on_to_the_same_bits() {
    let place = Place::new();
    let config = place.config();
    let whole = place.run("whole");
    go(&config, &whole).expect("runs");
    let expected = results(&whole);

    let stopped = place.run("stopped");
    go_until(&config, &stopped, 6);
    assert!(stopped.join("snapshots/step-00000006/config.json").exists(), "stopping makes one");
    go(&config, &stopped).expect("goes on");
    assert_eq!(results(&stopped), expected);

    // As after kill -9 in the middle of writing: half a snapshot beside, half an event at the end, and
    // steps reported that no snapshot holds.
    let killed = place.run("killed");
    go_until(&config, &killed, 7);
    fs::remove_dir_all(killed.join("snapshots/step-00000007")).expect("removes");
    let half = killed.join("snapshots/.lns-x.partial");
    fs::create_dir(&half).expect("makes");
    fs::write(half.join("model.safetensors"), b"half").expect("writes");
    let log = killed.join(Event::FILE_NAME);
    let mut text = fs::read(&log).expect("events");
    text.extend(b"{\"event\":\"step\",\"st");
    fs::write(&log, text).expect("writes");
    go(&config, &killed).expect("goes on");
    assert_eq!(results(&killed), expected);
    assert!(!half.exists(), "what was half written is gone");

    // Killed after its last step, between the snapshot and the model: what was evaluated is not again.
    let last = place.run("last");
    go(&config, &last).expect("runs");
    fs::remove_dir_all(last.join("model")).expect("removes");
    let log = last.join(Event::FILE_NAME);
    let text = fs::read_to_string(&log).expect("events");
    let without_end: String = text
        .lines()
        .filter(|line| !line.contains("\"end\""))
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(&log, without_end).expect("writes");
    let again = go(&config, &last).expect("goes on");
    assert_eq!(again.loss, go(&config, &whole).expect("is finished").loss);
    assert_eq!(results(&last), expected);

    // Before its first snapshot a run begins anew.
    let early = place.run("early");
    go_until(&config, &early, 2);
    fs::remove_dir_all(early.join("snapshots")).expect("removes");
    go(&config, &early).expect("begins anew");
    assert_eq!(results(&early), expected);
}

#[test]
fn models_are_kept_along_the_way_and_are_those_of_shorter_runs_of_the_same_schedule() {
    let place = Place::new();
    let mut config = place.config();
    config.checkpoints.every = 5;
    let kept = |folder: &Path, step: u64| {
        fs::read(folder.join(RunConfig::checkpoint(step)).join("model.safetensors")).ok()
    };
    let whole = place.run("whole");
    go(&config, &whole).expect("runs");
    assert_eq!(
        (0..=12).filter(|step| kept(&whole, *step).is_some()).collect::<Vec<_>>(),
        [0, 5, 10]
    );
    let mut shorter = place.config();
    (shorter.steps, shorter.schedule.steps) = (5, Some(12));
    let short = place.run("short");
    go(&shorter, &short).expect("runs");
    assert_eq!(kept(&whole, 5), Some(results(&short).1));
    Checkpoint::open(&whole.join(RunConfig::checkpoint(10))).expect("a checkpoint of its own");

    // Killed after the snapshot of step 4 and while the model of step 5 was written.
    let killed = place.run("killed");
    go_until(&config, &killed, 6);
    fs::remove_dir_all(killed.join("snapshots/step-00000006")).expect("removes");
    fs::remove_dir_all(killed.join(RunConfig::CHECKPOINTS)).expect("removes");
    go(&config, &killed).expect("goes on");
    // What was there before the snapshot is not made again.
    for step in [5, 10] {
        assert_eq!(kept(&killed, step), kept(&whole, step));
    }
    config.checkpoints.every = 6;
    let error = go(&config, &whole).expect_err("another run");
    assert!(error.to_string().contains("checkpoints.every = 5 there, 6 asked for"), "{error}");
}

#[test]
fn a_damaged_snapshot_is_passed_over_for_the_one_before_and_that_is_said() {
    let place = Place::new();
    let config = place.config();
    let whole = place.run("whole");
    go(&config, &whole).expect("runs");
    for file in ["model.safetensors", "optimiser.safetensors", "state.json", "SHA256SUMS"] {
        let folder = place.run(file);
        go_until(&config, &folder, 9);
        let victim = folder.join("snapshots/step-00000009").join(file);
        let mut bytes = fs::read(&victim).expect("there");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&victim, bytes).expect("writes");
        go(&config, &folder).expect("falls back");
        assert_eq!(results(&folder), results(&whole), "{file}");
        let said = notes(&folder);
        assert!(said.contains("step-00000009") && said.contains("before it is used"), "{said}");
    }

    // Sums that list less than there must be vouch for nothing, whatever they do list.
    for (name, kept) in [("no-sums", 0), ("one-sum", 1), ("two-sums", 2)] {
        let folder = place.run(name);
        go_until(&config, &folder, 9);
        let sums = folder.join("snapshots/step-00000009/SHA256SUMS");
        let text = fs::read_to_string(&sums).expect("there");
        let lines: String = text.lines().take(kept).map(|line| format!("{line}\n")).collect();
        fs::write(&sums, lines).expect("writes");
        go(&config, &folder).expect("falls back");
        assert_eq!(results(&folder), results(&whole), "{name}");
        assert!(notes(&folder).contains("SHA256SUMS does not list"), "{}", notes(&folder));
    }

    let folder = place.run("all");
    go_until(&config, &folder, 9);
    for step in [8, 9] {
        let path = folder.join(format!("snapshots/step-{step:08}/state.json"));
        fs::write(path, b"{").expect("writes");
    }
    let error = go(&config, &folder).expect_err("nothing to go on from").to_string();
    assert!(error.contains("step-00000008") && error.contains("Delete the folder"), "{error}");
}

#[test]
fn a_snapshot_of_another_run_and_other_settings_are_refused() {
    let place = Place::new();
    let config = place.config();
    let (mine, other) = (place.run("mine"), place.run("other"));
    go_until(&config, &mine, 5);
    let mut changed = config.clone();
    changed.schedule.learning_rate = 1e-4;
    let error = go(&changed, &mine).expect_err("other settings").to_string();
    assert!(error.contains("schedule.learning_rate = 0.003 there, 0.0001 asked for"), "{error}");

    go_until(&changed, &other, 5);
    for step in [4, 5] {
        let name = format!("snapshots/step-{step:08}");
        fs::remove_dir_all(mine.join(&name)).expect("removes");
        fs::rename(other.join(&name), mine.join(&name)).expect("moves");
    }
    let error = go(&config, &mine).expect_err("not its snapshots").to_string();
    assert!(error.contains("belongs to another run: `schedule.learning_rate`"), "{error}");

    let mut threads = config.clone();
    threads.threads = 1;
    go_until(&config, &place.run("threads"), 5);
    go(&threads, &place.run("threads")).expect("the number of threads may change");
}

#[test]
fn a_run_is_taken_on_to_more_steps_with_the_schedule_it_was_begun_with() {
    let place = Place::new();
    let config = place.config();
    let (extended, planned) = (place.run("extended"), place.run("planned"));
    go(&config, &extended).expect("runs");
    let longer = config.extended(20).expect("settings");
    let summary = go(&longer, &extended).expect("goes on");
    assert_eq!((summary.outcome, summary.step), (Outcome::Finished, 20));
    // The same bits as a run of 20 steps whose schedule goes over 12.
    go(&longer, &planned).expect("runs");
    assert_eq!(results(&extended).1, results(&planned).1);
    let said = notes(&extended);
    assert!(
        said.contains("from 12 to 20 steps") && said.contains("schedule of 12 steps"),
        "{said}"
    );
    assert_eq!(
        RunConfig::read(&extended).expect("settings"),
        RunConfig::read(&planned).expect("too")
    );
    let events = read_events(&extended).expect("events");
    assert!(events.iter().any(|e| matches!(e, Event::Resume { step: 12, steps: Some(20), .. })));
    assert_eq!(go(&longer, &extended).expect("is finished"), summary);
    // And further, also from the middle.
    go_until(&longer.extended(30).expect("settings"), &extended, 25);
    let summary = go(&longer.extended(30).expect("settings"), &extended).expect("goes on");
    assert_eq!(summary.step, 30);

    // Fewer steps, or more with the schedule stretched over them, are another run.
    let error = go(&longer, &extended).expect_err("fewer").to_string();
    assert!(error.contains("steps = 30 there, 20 asked for"), "{error}");
    let stretched = RunConfig { steps: 40, ..config.clone() };
    let error = go(&stretched, &extended).expect_err("stretched").to_string();
    assert!(error.contains("schedule.steps"), "{error}");
    let mut constant = config.clone();
    constant.schedule.shape = lns_train::ScheduleShape::Constant;
    constant.schedule.floor = Schedule::default().floor;
    let (short, long) = (place.run("short"), place.run("long"));
    go(&constant, &short).expect("runs");
    go(&constant.extended(20).expect("settings"), &short).expect("goes on");
    go(&RunConfig { steps: 20, ..constant }, &long).expect("runs");
    assert_eq!(results(&short).1, results(&long).1, "a constant rate knows no end");
    assert!(notes(&short).contains("as if it had been planned"), "{}", notes(&short));
    let mut ended = config;
    ended.schedule.floor = 0.0;
    let error = ended.extended(20).expect_err("nothing would be learned").to_string();
    assert!(error.contains("come down to 0 at step 12") && error.contains("finetune"), "{error}");
}

#[test]
fn a_snapshot_that_cannot_be_written_is_said_and_the_run_goes_on() {
    let place = Place::new();
    let config = place.config();
    let folder = place.run("run");
    go_until(&config, &folder, 1);
    // A file where the folder of snapshots should be: like a full disk, nothing can be written there.
    fs::remove_dir_all(folder.join("snapshots")).expect("removes");
    fs::write(folder.join("snapshots"), b"").expect("writes");
    let summary = go(&config, &folder).expect("goes on");
    assert_eq!(summary.outcome, Outcome::Finished);
    let said = notes(&folder);
    assert!(said.contains("step-00000004 was not written") && said.contains("goes on"), "{said}");
}

#[test]
fn a_loss_that_is_not_a_number_stops_the_run_or_is_skipped_as_asked() {
    let place = Place::new();
    let mut config = place.config();
    config.schedule = Schedule { learning_rate: 1e30, warmup: 0, ..config.schedule };
    config.optimiser.clip = 0.0;
    let folder = place.run("stop");
    let summary = go(&config, &folder).expect("ends in order");
    assert_eq!(summary.outcome, Outcome::Diverged);
    assert!(summary.step >= 1 && summary.loss.is_none(), "{summary:?}");
    let said = notes(&folder);
    assert!(said.contains("NaN") || said.contains("inf"), "{said}");
    assert!(said.contains("Lower schedule.learning_rate"), "{said}");
    assert!(!folder.join("model").exists(), "there is no model of a diverged run");
    assert_eq!(go(&config, &folder).expect("is found so").outcome, Outcome::Diverged);

    config.guard = GuardConfig { not_finite: NotFinite::Skip, spike: 0.0 };
    let folder = place.run("skip");
    assert_eq!(go(&config, &folder).expect("ends in order").outcome, Outcome::Diverged);
    assert!(notes(&folder).contains("10th time in a row"), "{}", notes(&folder));
}

#[test]
fn what_is_wrong_with_the_text_is_said_before_anything_is_made() {
    let place = Place::new();
    let folder = place.run("run");
    let error = |change: &dyn Fn(&mut RunConfig)| {
        let mut config = place.config();
        change(&mut config);
        let error = go(&config, &folder).expect_err("refused").to_string();
        assert!(!folder.exists(), "{error}");
        error
    };
    let none = error(&|config| config.data.sources.clear());
    assert!(none.contains("no text"), "{none}");
    let absent = error(&|config| config.data.sources[0].corpus = "nowhere".into());
    assert!(absent.contains("nowhere"), "{absent}");
    let vocabulary = error(&|config| config.model.vocab_size = 5);
    assert!(
        vocabulary.contains("model.vocab_size") && vocabulary.contains("tokens"),
        "{vocabulary}"
    );
    let heads = error(&|config| config.model.num_attention_heads = 3);
    assert!(heads.contains("num_attention_heads"), "{heads}");

    let shard = place.corpus.join("train-00000.tokens");
    let mut bytes = fs::read(&shard).expect("a shard");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&shard, bytes).expect("writes");
    let damaged = error(&|_| ());
    assert!(damaged.contains("train-00000.tokens"), "{damaged}");
}

#[test]
fn settings_in_layers_name_what_is_wrong_with_them() {
    let layered = |toml: &str| {
        Settings::from_toml("run.toml", toml).and_then(|layer| RunConfig::default().with(&[layer]))
    };
    let error = |toml: &str| layered(toml).expect_err(toml).to_string();
    let misspelt = error("steps = 5\n[schedule]\nlearning_rat = 1");
    assert!(misspelt.contains("run.toml") && misspelt.contains("line 3"), "{misspelt}");
    assert!(misspelt.contains("learning_rate"), "it lists what there is: {misspelt}");
    assert!(error("[model]\nscheme = \"LNS\"").contains("LNS"));
    assert!(error("[model]\nscheme = { name = \"lns\", exponen = 1 }").contains("exponen"));
    let pass = error("batch = { sequences = 10, sequences_per_pass = 4 }");
    assert!(pass.contains("one of 1, 2, 5, 10"), "{pass}");
    assert!(error("steps = 0").contains("from 1 to"));
    assert!(error("steps = 1\ntokens = 1").contains("one of them"));
    assert!(error("optimiser = { name = \"adam\", weight_decay = 0.1 }").contains("adamw"));
    assert!(error("schedule = { floor = 2 }").contains("from 0 to 1"));
    let idle = error("optimiser = { name = \"muon\", beta2 = 0.99 }");
    assert!(idle.contains("muon updates") && idle.contains("0.95"), "{idle}");
    assert!(error("schedule = { decay = 0.5 }").contains("only warmup-stable-decay"));
    let held_out = error("evaluation = { tokens = 100 }");
    assert!(held_out.contains("`data.length` is 128"), "{held_out}");
    assert!(held_out.contains("evaluation.tokens"), "{held_out}");
    assert!(error("steps = 9999999999999").contains("from 1 to 1000000000"));

    let tokens = layered("tokens = 5000\nbatch = { sequences = 4 }").expect("settings");
    assert_eq!((tokens.steps, tokens.tokens), (10, None), "rounded up to whole steps of 512");
    let scheme = layered("[model.scheme]\nname = \"lns\"\nexponent = 0.25").expect("settings");
    let bare = Settings::from_toml("flags", "model = { scheme = \"pre\" }").expect("settings");
    let model = scheme.with(&[bare]).expect("settings").model;
    assert_eq!(model.scheme, lns_spec::NormScheme::pre(), "no option of the other scheme lingers");

    let resolved = layered("seed = 9\n[model]\nscheme = \"mix-ln\"").expect("settings");
    let again = layered(&resolved.to_toml()).expect("what was written reads");
    assert_eq!(resolved, again);
}

#[test]
fn updates_that_were_left_out_stay_left_out_after_a_resume() {
    let place = Place::new();
    let mut config = place.config();
    config.steps = 30;
    // The largest gradient after the guard has seen enough, taken as the smallest spike.
    let free = place.run("free");
    go(&config, &free).expect("runs");
    let events = read_events(&free).expect("events");
    let norms: Vec<f64> = events
        .iter()
        .filter_map(|event| match event {
            Event::Step(event) => event.gradient_norm,
            _ => None,
        })
        .collect();
    let ratio = |step: usize| {
        let mut before = norms[..step].to_vec();
        before.sort_by(f64::total_cmp);
        norms[step] / before[before.len() / 2]
    };
    let largest = (20..26).map(ratio).fold(0.0, f64::max);
    config.guard = GuardConfig { not_finite: NotFinite::Stop, spike: largest * 0.999 };
    let (whole, stopped) = (place.run("whole"), place.run("stopped"));
    let skipped = |folder: &Path| {
        let events = read_events(folder).expect("events");
        let skipped = |event: &&Event| matches!(event, Event::Step(event) if event.skipped);
        events.iter().filter(skipped).count()
    };
    go(&config, &whole).expect("runs");
    assert!(skipped(&whole) > 0, "otherwise the test shows nothing");
    go_until(&config, &stopped, 27);
    go(&config, &stopped).expect("goes on");
    assert_eq!(results(&stopped), results(&whole));
}

#[test]
fn a_folder_that_is_no_run_and_one_that_is_in_use_are_left_alone() {
    let place = Place::new();
    let config = place.config();
    let precious = place.run("precious");
    fs::create_dir_all(precious.join("model")).expect("makes");
    fs::write(precious.join("model/model.safetensors"), b"mine").expect("writes");
    let error = go(&config, &precious).expect_err("not ours").to_string();
    assert!(error.contains("not the folder of a run") && error.contains("model"), "{error}");
    assert_eq!(fs::read(precious.join("model/model.safetensors")).expect("there"), b"mine");
    assert!(!precious.join("config.toml").exists());

    let folder = place.run("run");
    fs::create_dir(&folder).expect("makes");
    // As after a kill between the lock and the settings.
    fs::write(folder.join(Event::FILE_NAME), b"").expect("writes");
    let mut refused = None;
    train(&config, &folder, &compute(), &AtomicBool::new(false), &mut |event| {
        if event.step() == 3 && refused.is_none() {
            refused = go(&config, &folder).err().map(|error| error.to_string());
        }
    })
    .expect("runs");
    let refused = refused.expect("a second one is refused");
    assert!(refused.contains("another lns is training"), "{refused}");
}

#[test]
fn a_text_is_what_it_holds_wherever_it_is() {
    let place = Place::new();
    let mut config = place.config();
    let folder = place.run("run");
    go_until(&config, &folder, 5);
    let moved = place.run("moved-text");
    fs::rename(&place.corpus, &moved).expect("moves");
    config.data.sources[0].corpus = moved;
    go_until(&config, &folder, 7);
    config.data.sources[0].corpus = corpus(place.dir.path(), 2);
    let error = go(&config, &folder).expect_err("other tokens").to_string();
    assert!(error.contains("holds other tokens"), "{error}");
}

#[test]
fn layernorm_scaling_with_a_scaled_initialisation_warns() {
    let place = Place::new();
    let mut config = place.config();
    assert!(config.warnings().is_empty());
    config.model.initialisation = lns_spec::Initialisation::Scaled;
    let folder = place.run("run");
    go_until(&config, &folder, 1);
    assert!(notes(&folder).contains("25.80"), "{}", notes(&folder));
}

#[test]
fn a_constant_model_has_the_loss_of_its_vocabulary_over_the_predicted_tokens() {
    struct Zero;
    impl ModuleMapper for Zero {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|tensor| tensor.zeros_like())
        }
    }
    let spec = ModelConfig::default();
    let spec = ModelConfig { hidden_size: 16, num_hidden_layers: 2, ..spec };
    let spec = spec.spec(1000, 8).expect("a model");
    let model = Decoder::new(&spec, 1, &cpu_device()).map(&mut Zero);
    let inputs: Vec<u32> = (0..7 * 8).map(|i| i * 37 % 1000).collect();
    let mut targets: Vec<u32> = inputs.iter().map(|id| (id + 1) % 1000).collect();
    for target in targets.iter_mut().step_by(3) {
        *target = IGNORED;
    }
    let expected = targets.iter().filter(|target| **target != IGNORED).count();
    let sequences = Sequences { inputs, targets, ..Sequences::new(8) };
    for threads in [1, 3] {
        let workers = Workers::new(threads).expect("threads");
        let HeldOut { nll: loss, predicted, .. } =
            evaluate_sequences(&model, &sequences, None, &workers).expect("evaluates");
        assert_eq!(predicted, expected as u64);
        // ln 1000 as f32 holds it: neither n + 1 batches nor padding are in the denominator.
        assert_eq!(loss as f32, 1000f32.ln(), "{threads} threads");
    }
}
