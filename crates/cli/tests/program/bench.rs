//! A folder with a tiny model and a text, and the program to run in it.

use std::{fs, path::PathBuf};

use assert_cmd::Command;
use lns_kernels::cpu_device;
use lns_model::Decoder;
use lns_spec::{ModelSpec, NormScheme, Preset};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The program, which heeds signals also where the tests were started by something that ignores them
/// (`nohup`, a script's `&`), and would hand that down.
#[cfg(unix)]
pub(crate) fn heeding_signals() -> std::process::Command {
    let program = assert_cmd::cargo::cargo_bin("lns");
    let env = || std::process::Command::new("env");
    let default = "--default-signal=HUP,INT,TERM";
    let known = env().args([default, "true"]).output().is_ok_and(|ran| ran.status.success());
    if !known {
        return std::process::Command::new(program);
    }
    let mut command = env();
    command.arg(default).arg(program);
    command
}

/// A copy of a golden checkpoint with a tokenizer of words w0, w1, … and a text of 200 of them.
pub(crate) struct Bench {
    pub(crate) dir: TempDir,
}

impl Bench {
    pub(crate) fn new(golden: &str) -> Self {
        let dir = TempDir::new().expect("a temporary folder");
        let from = lns_testing::golden::golden("tiny").join(golden);
        let model = dir.path().join("model");
        fs::create_dir(&model).expect("writable");
        for entry in fs::read_dir(from).expect("in the repository") {
            let entry = entry.expect("readable");
            fs::copy(entry.path(), model.join(entry.file_name())).expect("copies");
        }
        let bench = Self { dir };
        bench.tokenizer(96);
        let words: Vec<String> = (0..200).map(|i| format!("w{}", i * 7 % 96)).collect();
        fs::write(bench.path("text.txt"), words.join(" ")).expect("writable");
        bench
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn tokenizer(&self, words: usize) {
        let vocab: serde_json::Map<String, Value> =
            (0..words).map(|i| (format!("w{i}"), json!(i))).collect();
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null,
            "decoder": null, "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w0"},
        });
        fs::write(self.path("model/tokenizer.json"), tokenizer.to_string()).expect("writable");
    }

    /// Writes an LNS model of this size into `large`.
    pub(crate) fn large_model(&self, size: &Preset) {
        let folder = self.path("large");
        fs::create_dir(&folder).expect("makes");
        let model = Decoder::new(&size.spec(NormScheme::lns()), 1, &cpu_device());
        model.write(&folder).expect("writes");
    }

    /// Writes a mixture of some megabytes, with random weights, into `large`; `family` is a golden one, whose
    /// settings it has.
    pub(crate) fn large_mixture(&self, family: &str) {
        let golden = lns_testing::golden::golden("tiny").join(family).join("config.json");
        let text = fs::read_to_string(golden).expect("in the repository");
        let mut config: Value = serde_json::from_str(&text).expect("JSON");
        let sizes = [
            ("hidden_size", 128),
            ("vocab_size", 4000),
            ("num_hidden_layers", 4),
            ("num_local_experts", 16),
            ("num_experts", 16),
            ("intermediate_size", 96),
            ("moe_intermediate_size", 96),
        ];
        for (key, size) in sizes {
            if let Some(value) = config.get_mut(key) {
                *value = json!(size);
            }
        }
        let spec = ModelSpec::from_config(&config).expect("a mixture");
        let folder = self.path("large");
        fs::create_dir(&folder).expect("makes");
        Decoder::new(&spec, 1, &cpu_device()).write(&folder).expect("writes");
    }

    pub(crate) fn config(&self, change: impl FnOnce(&mut Value)) {
        let path = self.path("model/config.json");
        let text = fs::read_to_string(&path).expect("there");
        let mut config = serde_json::from_str(&text).expect("JSON");
        change(&mut config);
        fs::write(path, config.to_string()).expect("writable");
    }

    pub(crate) fn lns(&self, arguments: &[&str]) -> Command {
        let mut command = Command::cargo_bin("lns").expect("the program is built");
        command.current_dir(self.dir.path()).args(arguments);
        command
    }

    /// Runs a command that must succeed; its standard output.
    pub(crate) fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.lns(arguments).assert().success().get_output().clone();
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Runs a command that tells something before it fails with `code`; both.
    pub(crate) fn tells_and_fails(&self, arguments: &[&str], code: i32) -> (String, String) {
        let output = self.lns(arguments).assert().code(code).get_output().clone();
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (text(output.stdout), text(output.stderr))
    }

    /// Runs a command that must fail with `code`; its error.
    pub(crate) fn fails(&self, arguments: &[&str], code: i32) -> String {
        let output = self.lns(arguments).assert().code(code).get_output().clone();
        let error = String::from_utf8(output.stderr).expect("UTF-8");
        assert!(error.contains("error: "), "{error}");
        assert!(!error.contains("panicked"), "{error}");
        assert!(output.stdout.is_empty(), "results on standard output beside an error");
        error
    }
}
