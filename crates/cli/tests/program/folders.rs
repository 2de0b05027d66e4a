//! What is written where: which folder a verb may fill, what a refusal leaves, and what kills, signals
//! and concurrent starts do to it.

use std::{collections::BTreeMap, fs, path::Path};

use lns_record::FolderMarker;
use serde_json::Value;

use crate::{TINY, bench::Bench, with};

/// Every file below a folder, with its bytes.
fn tree(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(inner) = folders.pop() {
        for entry in fs::read_dir(inner).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).expect("inside").display().to_string();
                files.insert(name, fs::read(&path).expect("readable"));
            }
        }
    }
    files
}

/// No unfinished file or folder is anywhere.
fn assert_no_leftovers(bench: &Bench) {
    let names = tree(bench.dir.path()).into_keys();
    let left: Vec<_> = names.filter(|name| name.contains(".partial")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Documents of words, enough to train on and to hold out; another `seed`, another text.
fn write_text(bench: &Bench, name: &str, documents: usize, seed: usize) {
    let line = |document: usize| {
        let word = |i: usize| format!("w{}", (i * i + seed * document) % 61);
        serde_json::json!({"text": (0..40).map(word).collect::<Vec<_>>().join(" ")}).to_string()
    };
    let lines: Vec<_> = (0..documents).map(line).collect();
    fs::write(bench.path(name), lines.join("\n") + "\n").expect("writable");
}

/// A study of a Pre-LN and an LNS model, without what takes long.
fn small_study<'a>(bench: &Bench, steps: &'a str) -> Vec<&'a str> {
    let toml = "name = \"small\"\nbaseline = \"pre\"\nseeds = [1]\ntheory = false\n\
        [diagnosis]\ntokens = 64\n[[groups]]\nscheme = \"pre\"\n[[groups]]\nscheme = \"lns\"\n";
    fs::write(bench.path("small.toml"), toml).expect("writable");
    let more = ["--set", "evaluation.tokens=64", "--steps", steps];
    [&["study", "small.toml", "--out", "study"][..], &TINY, &more].concat()
}

#[test]
fn a_refused_resume_writes_nothing_and_names_only_what_was_typed() {
    let bench = Bench::new("llama");
    write_text(&bench, "a.jsonl", 200, 1);
    bench.succeeds(&["tokenize", "--text", "a.jsonl", "--vocab", "300", "--out", "corpus"]);
    let run = with(&["train", "--corpus", "corpus", "--out", "run"], &["--steps", "4"]);
    bench.succeeds(&run);
    let before = tree(bench.dir.path());
    let error = bench.fails(&["train", "--lr", "1e-2", "--out", "run"], 2);
    assert!(error.contains("schedule.learning_rate = 0.003 there, 0.01 asked for"), "{error}");
    assert_eq!(error.matches("asked for").count(), 1, "only what was typed: {error}");
    for more in [&["--text", "a.jsonl"][..], &["--steps", "3"], &["--scheme", "lns", "--seed", "9"]]
    {
        let error = bench.fails(&[&["train", "--out", "run"], more].concat(), 2);
        assert!(error.contains("another folder"), "{error}");
    }
    bench.fails(&["study", "smoke", "--out", "run"], 2);
    assert_eq!(tree(bench.dir.path()), before);
    // What was typed and is so already is no difference.
    bench.succeeds(&["train", "--out", "run", "--batch", "2", "--length", "16"]);
    for refused in [
        &["train", "--out", "new/deep", "--set", "model.num_attention_heads=7"][..],
        &["train", "--out", "new/deep", "--text", "gone.txt"],
        &["train", "--out", "new/deep", "--corpus", "gone"],
        &["study", "nothing", "--out", "new/deep"],
        &["finetune", "model", "--out", "new/deep"],
        &["finetune", "gone", "--text", "a.jsonl", "--out", "new/deep"],
    ] {
        bench.fails(refused, 2);
        assert!(!bench.path("new").exists(), "{refused:?}");
    }
}

#[test]
fn each_verb_fills_only_its_own_kind_of_folder() {
    let bench = Bench::new("llama");
    let cut = ["--text", "text.txt", "--window", "16"];
    bench.succeeds(&with(&["train", "--out", "run"], &["--steps", "2"]));
    bench.succeeds(&[&["diagnose", "model", "--out", "diagnosis"], &cut[..]].concat());
    // As these leave them that take longer.
    for (folder, kind) in [("study", "study"), ("start", "quickstart")] {
        fs::create_dir(bench.path(folder)).expect("makes");
        let marker = format!("{{\"kind\": \"{kind}\", \"version\": \"0\"}}");
        fs::write(bench.path(folder).join(FolderMarker::FILE_NAME), marker).expect("writes");
    }
    fs::create_dir(bench.path("letters")).expect("makes");
    fs::write(bench.path("letters/one.txt"), "dear").expect("writes");
    for (folder, kind) in
        [("run", "run"), ("study", "study"), ("diagnosis", "diagnosis"), ("start", "quickstart")]
    {
        let marker = fs::read(bench.path(folder).join(FolderMarker::FILE_NAME)).expect("a marker");
        let marker: Value = serde_json::from_slice(&marker).expect("JSON");
        assert_eq!(marker["kind"], kind);
    }
    let verbs: [(&str, Vec<&str>); 6] = [
        ("run", with(&["train"], &["--steps", "2"])),
        ("study", with(&["study", "laptop"], &["--steps", "2"])),
        ("diagnosis", [&["diagnose", "model"], &cut[..]].concat()),
        ("start", vec!["quickstart", "--offline", "--steps", "2"]),
        ("", vec!["tokenize", "--text", "text.txt", "--vocab", "300"]),
        ("run", vec!["finetune", "model", "--text", "text.txt"]),
    ];
    let places = [
        "run",
        "study",
        "diagnosis",
        "start",
        "letters",
        "model",
        "model/new",
        "run/text",
        "run/text/new",
        "run/model/new",
        "text.txt",
        "text.txt/new",
    ];
    let before = tree(bench.dir.path());
    for (own, verb) in &verbs {
        for place in places.iter().filter(|place| *place != own) {
            let error = bench.fails(&[verb, &["--out", place][..]].concat(), 2);
            assert!(error.contains(place), "{verb:?} {place}: {error}");
        }
    }
    assert_eq!(tree(bench.dir.path()), before);
    // A folder of an earlier version, which made no markers, is known by what it holds.
    for folder in ["run", "diagnosis"] {
        fs::remove_file(bench.path(folder).join(FolderMarker::FILE_NAME)).expect("removes");
    }
    bench.fails(&["study", "smoke", "--out", "run"], 2);
    bench.fails(&["train", "--out", "diagnosis"], 2);
    bench.succeeds(&["train", "--out", "run"]);
    bench.succeeds(&[&["diagnose", "model", "--out", "diagnosis"], &cut[..]].concat());
}

#[test]
fn a_diagnosis_is_called_by_its_model_and_overwrites_no_others() {
    let bench = Bench::new("llama");
    for folder in ["a", "b", "c/a"] {
        fs::create_dir_all(bench.path(folder).join("model")).expect("makes");
        for (name, bytes) in tree(&bench.path("model")) {
            fs::write(bench.path(folder).join("model").join(name), bytes).expect("writes");
        }
    }
    let diagnose = |model: &str, more: &[&str]| {
        let cut = ["--text", "text.txt", "--window", "16", "--probes", "stream"];
        let model = format!("{model}/model");
        bench.lns(&[&["diagnose", &model], &cut[..], more].concat())
    };
    let of = |folder: &str| {
        let json = fs::read(bench.path(folder).join("diagnose.json")).expect(folder);
        serde_json::from_slice::<Value>(&json).expect("JSON")["name"].clone()
    };
    for model in ["a", "b", "c/a", "a", "c/a"] {
        diagnose(model, &[]).assert().success();
    }
    assert_eq!(of("diagnosis-a"), "a/model");
    assert_eq!(of("diagnosis-b"), "b/model");
    assert_eq!(of("diagnosis-a-2"), "c/a/model");
    assert!(!bench.path("diagnosis-a-3").exists(), "one's own is written again");
    for _ in 0..2 {
        let refused = diagnose("b", &["--out", "diagnosis-a"]).assert().code(2);
        let error = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
        assert!(error.contains("not overwritten"), "{error}");
        // The second time as if an earlier version had made it.
        let _ = fs::remove_file(bench.path("diagnosis-a").join(FolderMarker::FILE_NAME));
    }
    assert_eq!(of("diagnosis-a"), "a/model");
}

#[test]
fn a_runs_folder_names_its_model_and_a_studys_its_models() {
    let bench = Bench::new("llama");
    write_text(&bench, "a.jsonl", 100, 1);
    bench.succeeds(&with(
        &["train", "--text", "a.jsonl", "--vocab", "300", "--out", "run"],
        &["--steps", "2"],
    ));
    let inspected = bench.succeeds(&["inspect", "run/model"]);
    assert_eq!(bench.succeeds(&["inspect", "run"]), inspected);
    bench.succeeds(&["eval", "run", "--text", "a.jsonl", "--window", "16"]);
    bench.succeeds(&["retrofit", "run", "--out", "scaled"]);
    bench.succeeds(&small_study(&bench, "2"));
    let models = bench.succeeds(&["inspect", "study", "--json"]);
    let models: Value = serde_json::from_str(&models).expect("JSON");
    assert_eq!(models.as_array().map(Vec::len), Some(2));
    let error = bench.fails(&["fold", "study", "--out", "x"], 2);
    for part in ["name one", "study/runs/lns-seed1/model", "study/runs/pre-seed1/model"] {
        assert!(error.contains(part), "{error}");
    }
    fs::remove_dir_all(bench.path("study/runs/pre-seed1/model")).expect("removes");
    bench.succeeds(&["fold", "study", "--out", "folded"]);
    fs::remove_dir_all(bench.path("run/model")).expect("removes");
    let error = bench.fails(&["inspect", "run"], 2);
    assert!(error.contains("not finished") && error.contains("step-00000002"), "{error}");
}

/// A run's folder as a kill during the preparation of its text leaves it.
fn claimed_only(bench: &Bench, folder: &str) {
    fs::create_dir(bench.path(folder)).expect("makes");
    let marker = "{\"kind\": \"run\", \"version\": \"0\"}";
    fs::write(bench.path(folder).join(FolderMarker::FILE_NAME), marker).expect("writes");
}

#[test]
fn a_run_that_ended_before_it_had_settings_is_not_begun_with_others() {
    let bench = Bench::new("llama");
    claimed_only(&bench, "run");
    let before = tree(bench.dir.path());
    let error = bench.fails(&["train", "--out", "run"], 2);
    assert!(error.contains("nothing to continue") && error.contains("whole command"), "{error}");
    let error = bench.fails(&["watch", "run"], 2);
    assert!(error.contains("no step was taken yet"), "{error}");
    assert!(bench.fails(&["watch", "nope"], 2).contains("nope does not exist"));
    for verb in [&["inspect", "run"][..], &["eval", "run", "--text", "text.txt"]] {
        let error = bench.fails(verb, 2);
        assert!(error.contains("holds a run that is not finished"), "{error}");
    }
    assert_eq!(tree(bench.dir.path()), before);
    bench.succeeds(&with(&["train", "--out", "run"], &["--steps", "2"]));
}

#[cfg(unix)]
#[test]
fn a_signal_while_text_is_prepared_is_answered_and_leaves_nothing() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    let bench = Bench::new("llama");
    write_text(&bench, "long.jsonl", 60_000, 1);
    let train = with(&["train", "--out", "run"], &["--text", "long.jsonl", "--vocab", "300"]);
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let mut child = crate::bench::heeding_signals()
            .current_dir(bench.dir.path())
            .args(&train)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let begun = |line: &String| line.starts_with("Training a BPE");
        assert!(lines.any(|line| line.as_ref().is_ok_and(begun)), "it ended");
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(sent.expect("kill is there").success());
        let said: Vec<String> = lines.map_while(Result::ok).collect();
        assert_eq!(child.wait().expect("ends").code(), Some(code), "{said:?}");
        assert!(said.iter().any(|line| line.starts_with("Stopped before")), "{said:?}");
        assert!(!bench.path("run").exists());
    }
}

#[test]
fn a_missing_text_is_said_before_a_tokenizer_is_trained() {
    let bench = Bench::new("llama");
    for more in [&["--text", "gone.txt"][..], &["--text", "text.txt", "--validation", "gone.txt"]] {
        let error = bench.fails(&[&["train", "--out", "run"], more].concat(), 2);
        assert!(error.contains("gone.txt") && !error.contains("Training a BPE"), "{error}");
    }
}

#[test]
fn a_finished_run_says_so_and_keeps_its_text() {
    let bench = Bench::new("llama");
    write_text(&bench, "a.jsonl", 200, 1);
    write_text(&bench, "b.jsonl", 200, 2);
    let of = ["--text", "a.jsonl", "--vocab", "300", "--steps", "2"];
    bench.succeeds(&with(&["train", "--out", "run"], &of));
    let again = bench.lns(&["train", "--out", "run"]).assert().success().get_output().clone();
    let said = String::from_utf8(again.stderr).expect("UTF-8");
    assert!(said.contains("run is already finished after 2 steps; --steps"), "{said}");
    let other = ["train", "--out", "run", "--text", "b.jsonl", "--vocab", "300"];
    let error = bench.fails(&other, 2);
    assert!(error.contains("a.jsonl") && error.contains("b.jsonl"), "{error}");
    assert!(!error.contains("vocab") && !error.contains("delete"), "{error}");
}

#[test]
fn a_fine_tune_too_short_for_its_annealing_is_refused_before_its_text_is_prepared() {
    let bench = Bench::new("llama");
    write_text(&bench, "a.jsonl", 200, 1);
    let anneal = ["--mode", "anneal", "--steps", "5", "--out", "an"];
    bench.succeeds(&[&["retrofit", "model"][..], &anneal].concat());
    let tune = ["finetune", "an", "--text", "a.jsonl", "--length", "16", "--steps", "3"];
    let error = bench.fails(&[&tune[..], &["--out", "anf"]].concat(), 2);
    assert!(error.contains("--steps 5 or more"), "{error}");
    assert!(!bench.path("anf").exists());
}

#[test]
fn a_study_is_not_taken_for_another() {
    let bench = Bench::new("llama");
    fs::create_dir(bench.path("study")).expect("makes");
    let toml = "name = \"small\"\nbaseline = \"pre\"\nseeds = [1]\n\
        [[groups]]\nscheme = \"pre\"\n[[groups]]\nscheme = \"lns\"\n";
    fs::write(bench.path("study/study.toml"), toml).expect("writes");
    let error = bench.fails(&["study", "smoke", "--out", "study"], 2);
    assert!(error.contains("holds the study small, not smoke"), "{error}");
}

#[test]
fn a_report_is_made_again_of_the_same_and_replaced_by_no_others() {
    let bench = Bench::new("llama");
    let of = ["diagnose", "model", "--text", "text.txt", "--window", "16"];
    bench.succeeds(&[&of[..], &["--out", "pair", "--against", "model"]].concat());
    let page = fs::read(bench.path("pair/report.html")).expect("a page");
    bench.succeeds(&["report", "pair"]);
    assert!(fs::read(bench.path("pair/report.html")).expect("again") == page, "both models again");
    bench.succeeds(&[&of[..], &["--out", "one"]].concat());
    for _ in 0..2 {
        bench.succeeds(&["report", "one", "pair", "--out", "page"]);
    }
    let error = bench.fails(&["report", "one", "--out", "page"], 2);
    assert!(error.contains("which is not overwritten"), "{error}");
}

#[test]
fn more_steps_take_a_finished_run_on() {
    let bench = Bench::new("llama");
    bench.succeeds(&with(&["train", "--out", "run"], &["--steps", "4"]));
    let output = bench.lns(&["train", "--out", "run", "--steps", "6"]).assert().success();
    let said = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    assert!(said.contains("from 4 to 6 steps") && said.contains("schedule of 4 steps"), "{said}");
    let again = bench.succeeds(&["train", "--out", "run", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&again).expect("JSON")["steps"], 6);
    let summary = bench.succeeds(&["watch", "run"]);
    assert!(summary.contains("6"), "{summary}");
    let error = bench.fails(&["train", "--out", "run", "--steps", "4"], 2);
    assert!(error.contains("steps = 6 there, 4 asked for"), "{error}");
    bench.succeeds(&with(
        &["train", "--out", "ended"],
        &["--steps", "4", "--set", "schedule.floor=0", "--set", "schedule.warmup=1"],
    ));
    let error = bench.fails(&["train", "--out", "ended", "--steps", "6"], 2);
    assert!(error.contains("come down to 0") && error.contains("finetune"), "{error}");
    // A study's runs are not taken on in passing.
    bench.succeeds(&small_study(&bench, "2"));
    assert!(bench.fails(&small_study(&bench, "3"), 2).contains("steps = 2 there"));
}

#[cfg(unix)]
mod processes {
    use std::process::{Child, Command, Output, Stdio};

    use lns_checkpoint::Checkpoint;
    use lns_record::{Event, read_events};
    use lns_testing::models::LARGE;

    use super::*;
    use crate::bench::heeding_signals;

    fn program() -> std::path::PathBuf {
        assert_cmd::cargo::cargo_bin("lns")
    }

    fn start(bench: &Bench, mut command: Command, arguments: &[&str]) -> Child {
        command
            .current_dir(bench.dir.path())
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts")
    }

    fn lns(bench: &Bench, arguments: &[&str]) -> Child {
        start(bench, heeding_signals(), arguments)
    }

    fn end(child: Child) -> (Option<i32>, String) {
        let Output { status, stderr, .. } = child.wait_with_output().expect("ends");
        (status.code(), String::from_utf8_lossy(&stderr).into_owned())
    }

    /// Looks until it is so; the child must live meanwhile.
    fn wait(child: &mut Child, so: impl Fn() -> bool) {
        while !so() {
            assert!(child.try_wait().expect("asks").is_none(), "it ended");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    fn steps(run: &Path) -> u64 {
        read_events(run).ok().and_then(|events| events.last().map(Event::step)).unwrap_or(0)
    }

    fn send(child: &Child, signal: &str) {
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(sent.expect("kill is there").success());
    }

    const LONG: [&str; 4] = ["--steps", "20000", "--set", "schedule.shape=constant"];

    #[test]
    fn what_a_signal_stopped_says_so_by_its_exit_code_and_goes_on() {
        let bench = Bench::new("llama");
        for (signal, code) in [("-INT", 130), ("-TERM", 143), ("-HUP", 129)] {
            let mut child = lns(&bench, &with(&["train", "--out", "run"], &LONG));
            let run = bench.path("run");
            let before = steps(&run);
            wait(&mut child, || steps(&run) > before);
            send(&child, signal);
            let (ended, said) = end(child);
            assert_eq!(ended, Some(code), "{said}");
            assert!(said.contains("can be continued"), "{said}");
        }
        let mut child =
            lns(&bench, &with(&["study", "laptop", "--seeds", "1", "--out", "study"], &LONG));
        let run = bench.path("study/runs/pre-seed1");
        wait(&mut child, || steps(&run) > 0);
        send(&child, "-INT");
        assert_eq!(end(child).0, Some(130));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_signal_that_was_to_be_ignored_stays_ignored() {
        let bench = Bench::new("llama");
        let train = with(&["train", "--out", "run"], &LONG).join(" ");
        let script = format!("trap '' HUP INT; exec '{}' {train}", program().display());
        let mut child = start(&bench, Command::new("sh"), &["-c", &script]);
        let run = bench.path("run");
        wait(&mut child, || steps(&run) > 0);
        for signal in ["-HUP", "-INT", "-HUP"] {
            let before = steps(&run);
            send(&child, signal);
            wait(&mut child, || steps(&run) > before + 3);
        }
        send(&child, "-TERM");
        assert_eq!(end(child).0, Some(143));
    }

    /// Two start in one folder with two texts, again and again: one of them gets it, and whatever is
    /// there in the end is of the text that it says. Neither is ever trained on the other's.
    #[test]
    fn of_two_who_start_with_two_texts_one_is_refused_and_stays_refused() {
        const ROUNDS: usize = 8;
        let bench = Bench::new("llama");
        write_text(&bench, "a.jsonl", 60, 1);
        write_text(&bench, "b.jsonl", 400, 2);
        let train = |text: &'static str, out: &str| {
            let begin = ["train", "--text", text, "--vocab", "300", "--out", out, "--threads", "1"];
            with(&begin, &["--steps", "2"]).into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        let words = |arguments: &[String]| {
            arguments.iter().map(String::as_str).collect::<Vec<_>>().join(" ")
        };
        let run = |arguments: &[String]| {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            lns(&bench, &arguments)
        };
        let mut weights = BTreeMap::new();
        for text in ["a.jsonl", "b.jsonl"] {
            let alone = format!("alone-{}", text.trim_end_matches(".jsonl"));
            assert_eq!(end(run(&train(text, &alone))).0, Some(0));
            let model = bench.path(&alone).join("model/model.safetensors");
            weights.insert(text, fs::read(model).expect("a model"));
        }
        for round in 0..ROUNDS {
            let out = format!("run-{round}");
            let texts =
                if round % 2 == 0 { ["a.jsonl", "b.jsonl"] } else { ["b.jsonl", "a.jsonl"] };
            let commands = texts.map(|text| train(text, &out));
            let children = [run(&commands[0]), run(&commands[1])];
            let ended = children.map(end);
            for (code, said) in &ended {
                assert!(matches!(code, Some(0 | 2)), "round {round}: {said}");
            }
            assert!(ended.iter().any(|(code, _)| *code == Some(0)), "round {round}: {ended:?}");
            // Each again, unchanged: what is there is the one's alone.
            let again = commands.each_ref().map(|command| end(run(command)));
            let winners: Vec<_> =
                texts.iter().zip(&again).filter(|(_, (code, _))| *code == Some(0)).collect();
            let [(winner, _)] = winners[..] else { panic!("round {round}: {again:?}") };
            let model =
                fs::read(bench.path(&out).join("model/model.safetensors")).expect("a model");
            assert!(model == weights[winner], "round {round}: {}", words(&commands[0]));
            let loser = again.iter().find(|(code, _)| *code == Some(2)).expect("refused");
            assert!(loser.1.contains("prepared from something else"), "round {round}: {}", loser.1);
        }
        assert_no_leftovers(&bench);
    }

    /// Kills with SIGKILL wherever a run happens to be, from preparing its text to writing its model.
    #[test]
    fn whatever_a_kill_interrupts_the_same_command_ends_with_the_same_bits_and_no_leftovers() {
        const KILLS: u64 = 24;
        let bench = Bench::new("llama");
        write_text(&bench, "a.jsonl", 300, 1);
        let train = |out| {
            let begin = ["train", "--text", "a.jsonl", "--vocab", "300", "--out", out];
            with(&begin, &["--steps", "12", "--threads", "1", "--set", "snapshots.every=2"])
        };
        bench.succeeds(&train("whole"));
        for kill in 0..KILLS {
            let mut child = lns(&bench, &train("killed"));
            std::thread::sleep(std::time::Duration::from_millis(15 * kill));
            child.kill().expect("kills");
            child.wait().expect("ends");
        }
        bench.succeeds(&train("killed"));
        let weights =
            |run: &str| fs::read(bench.path(run).join("model/model.safetensors")).expect("a model");
        assert!(weights("killed") == weights("whole"));
        let text =
            |run: &str| fs::read(bench.path(run).join("text/text.from")).expect("its origin");
        assert_eq!(text("killed"), text("whole"));
        let evaluations = |run: &str| {
            let events = read_events(&bench.path(run)).expect("events");
            let evaluated = events.iter().filter(|event| matches!(event, Event::Eval(_)));
            evaluated.map(Event::step).collect::<Vec<_>>()
        };
        assert_eq!(evaluations("killed"), evaluations("whole"), "each once");
        // What a kill left goes with the next command in the folder.
        bench.succeeds(&["train", "--out", "killed"]);
        assert_no_leftovers(&bench);
    }

    #[test]
    fn of_three_surgeries_at_once_none_fails_and_one_whole_result_is_left() {
        const ROUNDS: usize = 12;
        let bench = Bench::new("llama");
        bench.large_model(&LARGE);
        let commands = [
            &["fold", "large", "--out", "out", "--force"][..],
            &["prune", "large", "--layers", "2..5", "--out", "out", "--force"],
            &["export", "large", "--out", "out", "--dtype", "bf16", "--force"],
        ];
        let alone = commands.map(|command| {
            bench.succeeds(command);
            tree(&bench.path("out"))
        });
        for round in 0..ROUNDS {
            if round % 2 == 0 {
                fs::remove_dir_all(bench.path("out")).expect("removes");
            }
            let children = commands.map(|command| lns(&bench, command));
            for (code, said) in children.map(end) {
                assert_eq!(code, Some(0), "round {round}: {said}");
            }
            let left = tree(&bench.path("out"));
            assert!(alone.contains(&left), "round {round}: {:?}", left.keys());
        }
        assert_no_leftovers(&bench);
    }

    #[test]
    fn a_gguf_file_is_never_with_anothers_record() {
        const ROUNDS: u64 = 12;
        let bench = Bench::new("llama");
        bench.large_model(&LARGE);
        let export = |dtype| ["export", "large", "--out", "m.gguf", "--force", "--dtype", dtype];
        let check = |what: &str| {
            let file = Checkpoint::open(&bench.path("m.gguf")).expect("whole");
            let told = file.own_provenance().expect("a record").options["dtype"].clone();
            let stored = file.tensor("model.layers.0.mlp.up_proj.weight").expect("there").dtype;
            assert_eq!(told, stored.name(), "{what}");
        };
        // As an earlier version left it: a record beside.
        let beside = bench.path("m.gguf.lns-provenance.json");
        bench.succeeds(&["retrofit", "model", "--out", "scaled"]);
        fs::copy(bench.path("scaled/lns-provenance.json"), &beside).expect("copies");
        bench.succeeds(&export("f16"));
        assert!(!beside.exists(), "it was another's");
        for round in 0..ROUNDS {
            let children = ["f16", "q8_0"].map(|dtype| lns(&bench, &export(dtype)));
            for (code, said) in children.map(end) {
                assert_eq!(code, Some(0), "pair {round}: {said}");
            }
            check(&format!("pair {round}"));
            let mut child = lns(&bench, &export(if round % 2 == 0 { "f16" } else { "q8_0" }));
            std::thread::sleep(std::time::Duration::from_millis(10 * round));
            child.kill().expect("kills");
            child.wait().expect("ends");
            check(&format!("kill {round}"));
        }
        bench.succeeds(&export("f16"));
        assert_no_leftovers(&bench);
    }
}
