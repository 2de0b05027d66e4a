//! What strangers may send: chat templates, files that are none, names that steer a terminal.
//!
//! The hostile corpus is made here: 4 ways to nest values times 6 things to do with them, 8 ways to
//! double a text, 14 single operations out of all proportion, one that panics, 3 that compute without
//! end: 50 templates, each in a process with little memory and a second of time; 7 small files times 2
//! kinds that have no end; 8 places in a model, settings and a command times 5 characters that act.

use std::{collections::BTreeMap, fs, path::Path, process::Command, time::Duration};

use lns_tokenizer::{ChatTemplate, Message, Rendering, RenderingLimits, TokenizerError};
use serde_json::json;

use crate::bench::Bench;

fn apart() -> Rendering {
    Rendering::Apart {
        program: env!("CARGO_BIN_EXE_lns").into(),
        arguments: vec!["__render-chat-template".into()],
        limits: RenderingLimits { memory: 384 << 20, seconds: 1 },
    }
}

fn compile(source: &str) -> Result<ChatTemplate, TokenizerError> {
    ChatTemplate::new("chat.jinja".into(), source, BTreeMap::new(), &apart())
}

fn said(content: &str) -> [Message; 1] {
    [Message { role: "user".to_owned(), content: content.to_owned() }]
}

/// What becomes of a template, in words.
fn outcome(source: &str) -> String {
    match compile(source).and_then(|template| template.render(&said("hi"))) {
        Ok(text) => format!("{} bytes", text.len()),
        Err(error) => error.to_string(),
    }
}

/// The outcomes of templates, two at a time; each is an answer or a reason in words.
fn outcomes(sources: &[String]) -> Vec<String> {
    let half = sources.len().div_ceil(2);
    let all = |sources: &[String]| sources.iter().map(|source| outcome(source)).collect::<Vec<_>>();
    let outcomes = std::thread::scope(|scope| {
        let halves: Vec<_> =
            sources.chunks(half).map(|part| scope.spawn(move || all(part))).collect();
        halves.into_iter().flat_map(|half| half.join().expect("no panic")).collect::<Vec<_>>()
    });
    for (source, outcome) in sources.iter().zip(&outcomes) {
        assert!(!outcome.contains("the process that renders it ended"), "{source}: {outcome}");
    }
    outcomes
}

#[test]
fn templates_that_nest_values_are_answered_or_refused() {
    let ways = ["[n.x]", "{'a': n.x}", "[n.x, n.x]", "(n.x,)"];
    let uses = [
        "",
        "{{ n.x }}",
        "{{ n.x | tojson }}",
        "{{ n.x == n.y }}",
        "{{ n.x in [n.y] }}",
        "{{ [n.x, n.y] | sort }}",
    ];
    let source = |way: &str, used: &str| {
        let other = way.replace("n.x", "n.y");
        format!(
            "{{% set n = namespace(x=[], y=[]) %}}{{% for i in range(90000) %}}\
             {{% set n.x = {way} %}}{{% set n.y = {other} %}}{{% endfor %}}{used}"
        )
    };
    let sources: Vec<_> = ways.iter().flat_map(|way| uses.map(|used| source(way, used))).collect();
    let outcomes = outcomes(&sources);
    assert_eq!(outcomes.len(), 24);
    let deep = "the chat template of chat.jinja does not render: it nests values too deeply";
    let refused = outcomes.iter().filter(|outcome| *outcome == deep).count();
    assert!(refused > 0, "{outcomes:#?}");
}

#[test]
fn templates_that_take_memory_without_end_are_refused() {
    let doublings = [
        "n.s ~ n.s",
        "n.s + n.s",
        "[n.s, n.s] | join",
        "n.s | replace('a', 'aa')",
        "n.s.replace('', n.s)",
        "n.s | replace('', n.s)",
        "(n.s, n.s) | join(n.s)",
        "n.s.replace('a', 'aa')",
    ];
    let doubled = doublings.map(|doubling| {
        format!(
            "{{% set n = namespace(s='aaaa') %}}{{% for i in range(60) %}}{{% set n.s = {doubling} \
             %}}{{% endfor %}}{{{{ n.s | length }}}}"
        )
    });
    let outcomes = outcomes(&doubled);
    let reason = "does not render: it takes more than 384 MiB of memory";
    let refused = outcomes.iter().filter(|outcome| outcome.ends_with(reason)).count();
    assert!(refused >= 6, "{outcomes:#?}");
}

#[test]
fn single_operations_out_of_all_proportion_are_answered_or_refused() {
    let operations = [
        "'%1000000000000d' | format(5)",
        "'{:>1000000000000}'.format(5)",
        "'a\nb' | indent(10000000000000)",
        "'a' * 99999999999",
        "'a' * 900000000",
        "[1] * 99999999999",
        "([1] * 99999999999) | list",
        "(range(99999) | list) * 99999 | length",
        "[1] | batch(99999999999, 0) | list",
        "[1] | slice(99999999999) | list",
        "'a' | center(99999999999)",
        "range(99999999999) | list",
        "2 ** 99999999999",
        "('a' * 90000000) | list | length",
    ];
    let sources = operations.map(|operation| format!("{{{{ {operation} }}}}"));
    for outcome in outcomes(&sources) {
        assert!(!outcome.ends_with(" bytes") || outcome.len() < 10, "{outcome}");
    }
    let cycle = outcome("{% for i in range(1) %}{{ loop.cycle() }}{% endfor %}");
    assert!(cycle.ends_with("does not render: the library that reads it panicked"), "{cycle}");
}

#[test]
fn templates_that_compute_without_end_inside_one_operation_are_refused() {
    let endless = |work: &str| {
        format!(
            "{{% set s = 'a' * 40000000 %}}{{% set l = [1] * 40000000 %}}\
             {{% for i in range(99999) %}}{{% if {work} %}}x{{% endif %}}{{% endfor %}}"
        )
    };
    let sources = ["'b' in s", "l | sum", "s.find('b') > 0"].map(endless);
    for outcome in outcomes(&sources) {
        assert!(
            outcome.ends_with("does not render: it takes more than 1 s of computing"),
            "{outcome}"
        );
    }
}

#[test]
fn a_process_that_ended_is_started_again() {
    let bomb = "{% set n = namespace(s='aaaa') %}{% if messages[0].content == 'bomb' %}\
                {% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}{% endif %}ok";
    let template = compile(bomb).expect("it compiles");
    for _ in 0..2 {
        assert_eq!(template.render(&said("hi")).expect("harmless"), "ok");
        template.render(&said("bomb")).expect_err("refused");
    }
    let error = compile("a\n{% for %}").expect_err("no Jinja").to_string();
    assert!(error.contains("chat.jinja: the chat template does not compile: line 2: "), "{error}");
    let nowhere = Rendering::Apart {
        program: "no/such/program".into(),
        arguments: Vec::new(),
        limits: RenderingLimits::default(),
    };
    let error = ChatTemplate::new("chat.jinja".into(), "", BTreeMap::new(), &nowhere)
        .expect_err("nothing renders")
        .to_string();
    assert!(error.contains("no/such/program cannot be started"), "{error}");
}

#[test]
fn finetune_lays_conversations_out_in_a_process_apart() {
    let bench = Bench::new("llama");
    let template = "{% for m in messages %}{{ m.content }} {% endfor %}";
    fs::write(bench.path("model/chat_template.jinja"), template).expect("writable");
    let line = |i: usize| {
        let answer = format!("w{i} w4 w5");
        let turns = json!([{"role": "user", "content": "w1 w2"},
            {"role": "assistant", "content": answer}]);
        format!("{}\n", json!({ "messages": turns }))
    };
    let lines: String = (6..40).map(line).collect();
    fs::write(bench.path("chats.jsonl"), lines).expect("writable");
    let arguments = [
        "finetune",
        "model",
        "--instructions",
        "chats.jsonl",
        "--out",
        "run",
        "--steps",
        "1",
        "--length",
        "16",
    ];
    let out = bench.lns(&arguments).output().expect("it runs");
    let error = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{error}");
    let bomb = "{{ '%1000000000000d' | format(5) }}";
    fs::write(bench.path("model/chat_template.jinja"), bomb).expect("writable");
    let mut arguments = arguments;
    arguments[5] = "other";
    let error = bench.fails(&arguments, 2);
    assert!(error.contains("chat_template.jinja does not render: it takes more than"), "{error}");
}

/// Puts a pipe without a writer, then an endless device, in the place of a file; what the program says
/// of both.
fn in_place_of(bench: &Bench, file: &str, arguments: &[&str]) {
    let path = bench.path(file);
    let _ = fs::remove_file(&path);
    let made = Command::new("mkfifo").arg(&path).status().expect("mkfifo");
    assert!(made.success());
    for kind in ["pipe", "device"] {
        if kind == "device" {
            fs::remove_file(&path).expect("a pipe");
            std::os::unix::fs::symlink("/dev/zero", &path).expect("a link");
        }
        let mut command = bench.lns(arguments);
        // Far above what it takes; it would wait for ever.
        command.timeout(Duration::from_secs(60)).env("COLUMNS", "400");
        let output = command.output().expect("it runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{file} as a {kind}: {output:?}");
        let name = Path::new(file).file_name().expect("a name").to_string_lossy();
        assert!(error.contains(&*name), "{file} as a {kind}: {error}");
        assert!(error.contains("regular file"), "{file} as a {kind}: {error}");
    }
}

#[test]
fn a_pipe_or_a_device_is_no_small_file() {
    let eval = ["eval", "model", "--text", "text.txt", "--window", "16"];
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        in_place_of(&Bench::new("llama"), &format!("model/{file}"), &eval);
    }
    let bench = Bench::new("llama");
    fs::create_dir_all(bench.path("run/text")).expect("writable");
    in_place_of(&bench, "run/events.jsonl", &["watch", "run"]);
    in_place_of(&bench, "run/text/corpus.json", &["train", "--corpus", "run/text", "--out", "new"]);
    in_place_of(&bench, "run/diagnose.json", &["report", "run"]);
    in_place_of(&bench, "run/my.toml", &["train", "--config", "run/my.toml", "--out", "new"]);
}

#[test]
fn names_from_files_do_not_steer_the_terminal() {
    for acting in ['\u{1b}', '\u{9b}', '\u{202e}', '\u{61c}', '\u{200b}'] {
        let name = format!("a{acting}[2Jb");
        let hostile = |output: std::process::Output| {
            let both = [output.stdout, output.stderr].concat();
            let both = String::from_utf8_lossy(&both).into_owned();
            assert!(!both.contains(acting), "{acting:?} came through: {both:?}");
            both
        };
        let inspect = |key: &str, value: serde_json::Value| {
            let bench = Bench::new("llama");
            bench.config(|config| config[key] = value);
            ["inspect model", "inspect model --json"].map(|line| {
                let arguments: Vec<_> = line.split(' ').collect();
                hostile(bench.lns(&arguments).output().expect("it runs"))
            })
        };
        inspect("model_type", json!(name));
        inspect("rope_scaling", json!({"rope_type": name, "factor": 2.0}));
        inspect("norm_scheme", json!({ "name": name }));
        inspect("torch_dtype", json!(name));
        inspect("hidden_act", json!(name));
        let bench = Bench::new("llama");
        fs::write(bench.path("my.toml"), format!("[\"{name}\"]\nx = 1\n")).expect("writable");
        let toml = ["train", "--config", "my.toml", "--out", "new"];
        let said = hostile(bench.lns(&toml).output().expect("it runs"));
        assert!(said.contains("a\u{fffd}[2Jb") || said.contains("a\\u"), "{said}");
        let missing = bench.lns(&["inspect", &name]).output().expect("it runs");
        assert!(hostile(missing).contains("a\u{fffd}[2Jb"));
        let refusing = format!("{{{{ raise_exception('{name}') }}}}");
        fs::write(bench.path("model/chat_template.jinja"), refusing).expect("writable");
        let line = json!({"prompt": "w1", "response": "w2"}).to_string() + "\n";
        fs::write(bench.path("chats.jsonl"), line).expect("writable");
        let arguments = ["finetune", "model", "--instructions", "chats.jsonl", "--out", "run"];
        let said = hostile(bench.lns(&arguments).output().expect("it runs"));
        assert!(said.contains("a\u{fffd}[2Jb"), "{said}");
    }
}

/// A folder whose model is not supported.
fn stranger(bench: &Bench, name: &str, config: &serde_json::Value, tensors: &[&str]) -> String {
    let folder = bench.path(name);
    fs::create_dir_all(&folder).expect("writable");
    fs::write(folder.join("config.json"), config.to_string()).expect("writable");
    let entry = |(place, name): (usize, &&str)| {
        let offsets = [8 * place, 8 * place + 8];
        ((*name).to_owned(), json!({"dtype": "F32", "shape": [2], "data_offsets": offsets}))
    };
    let header: serde_json::Map<_, _> = tensors.iter().enumerate().map(entry).collect();
    let header = serde_json::Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.resize(file.len() + 8 * tensors.len(), 0);
    fs::write(folder.join("model.safetensors"), file).expect("writable");
    folder.display().to_string()
}

#[test]
fn inspect_tells_everything_that_a_model_which_is_not_supported_would_take() {
    let bench = Bench::new("llama");
    let sizes = |model_type: &str, more: serde_json::Value| {
        let mut config = json!({
            "model_type": model_type, "vocab_size": 32, "hidden_size": 32, "intermediate_size": 24,
            "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
        });
        let keys = config.as_object_mut().expect("an object");
        keys.extend(more.as_object().expect("an object").clone());
        config
    };
    let llama = [
        "embed_tokens.weight",
        "norm.weight",
        "layers.0.input_layernorm.weight",
        "layers.0.post_attention_layernorm.weight",
        "layers.0.self_attn.q_proj.weight",
        "layers.0.self_attn.k_proj.weight",
        "layers.0.self_attn.v_proj.weight",
        "layers.0.self_attn.o_proj.weight",
        "layers.0.mlp.gate_proj.weight",
        "layers.0.mlp.up_proj.weight",
        "layers.0.mlp.down_proj.weight",
    ];
    let with = |more: &[&str], without: &str| -> Vec<String> {
        let of_model = llama.iter().chain(more).filter(|name| !name.contains(without));
        of_model.map(|name| format!("language_model.model.{name}")).collect()
    };
    let experts =
        ["layers.0.feed_forward.router.weight", "layers.0.feed_forward.experts.down_proj"];
    let scalar = [
        "layers.0.layer_scalar",
        "layers.0.pre_feedforward_layernorm.weight",
        "layers.0.post_feedforward_layernorm.weight",
        "layers.0.self_attn.q_norm.weight",
        "layers.0.self_attn.k_norm.weight",
    ];
    for (model_type, config, tensors, expected) in [
        (
            "gemma4",
            json!({"model_type": "gemma4", "text_config": sizes("gemma4_text", json!({
                "num_kv_shared_layers": 1, "attn_logit_softcapping": 5.0}))}),
            with(&scalar, "~"),
            vec![
                "nearest      gemma3_text: it has 15 of the model's 16 kinds of tensors",
                "unread keys  num_kv_shared_layers\n",
                "no role for  model.layers.N.layer_scalar\n",
            ],
        ),
        (
            "llama4",
            json!({"model_type": "llama4", "text_config": sizes("llama4_text", json!({
                "num_local_experts": 16, "attn_temperature_tuning": true}))}),
            with(&experts, "mlp"),
            vec![
                "it refuses   `num_local_experts` = 16",
                "attn_temperature_tuning",
                "no role for  model.layers.N.feed_forward.experts.down_proj, model.layers.N.feed_forward.router",
                "missing      model.layers.N.mlp.down_proj",
            ],
        ),
        (
            "nemotron_h",
            sizes("nemotron_h", json!({"ssm_state_size": 8})),
            ["A_log", "D", "in_proj.weight"]
                .map(|name| format!("backbone.layers.0.mixer.{name}"))
                .to_vec(),
            vec!["nearest      no supported family"],
        ),
        (
            "llama",
            sizes("llama", json!({"num_experts": 4, "alibi": true, "hidden_act": "relu"})),
            with(&[], "~"),
            vec![
                "family       \"llama\"\n",
                "`num_experts` = 4",
                "`alibi` = true",
                "`hidden_act` = relu",
            ],
        ),
    ] {
        let tensors: Vec<&str> = tensors.iter().map(String::as_str).collect();
        let folder = stranger(&bench, model_type, &config, &tensors);
        let (told, error) = bench.tells_and_fails(&["inspect", &folder], 2);
        assert!(told.contains(&format!("family       \"{model_type}\"")), "{told}");
        for part in expected {
            assert!(told.contains(part), "{told} lacks {part}");
        }
        assert!(error.starts_with("error: ") && error.contains("is not supported"), "{error}");
        let (json, _) = bench.tells_and_fails(&["inspect", &folder, "--json"], 2);
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(json["supported"], json!(false));
        assert_eq!(json["model_type"], json!(model_type));
    }
}
