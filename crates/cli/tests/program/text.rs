//! Text as people have it: one file, a pipe, a conversation.

use std::{fs, io::Write};

use serde_json::{Value, json};

use super::{bench::Bench, with};

fn book(bench: &Bench) -> String {
    let text: String = (0..3000).map(|number| format!("The river rose {number} times. ")).collect();
    fs::write(bench.path("book.txt"), &text).expect("writable");
    text
}

#[test]
fn one_text_file_trains_and_its_end_is_held_out() {
    let bench = Bench::new("llama");
    let text = book(&bench);
    fs::write(bench.path("second.txt"), text.replace("rose", "fell")).expect("writable");
    for (out, files) in [("one", &["book.txt"][..]), ("two", &["book.txt", "second.txt"])] {
        let text = [&["--text"][..], files, &["--vocab", "300", "--steps", "2"]].concat();
        let run = bench.lns(&with(&["train", "--out", out], &text)).assert().success();
        let notes = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
        let said = if out == "one" { "1 document" } else { "each of 2 documents" };
        assert!(notes.contains(&format!("% of {said} held out")), "{notes}");
    }
}

#[test]
fn text_comes_through_a_pipe_wherever_a_file_of_it_is_taken() {
    let bench = Bench::new("llama");
    let text = fs::read_to_string(bench.path("text.txt")).expect("there");
    let piped = |arguments: &[&str], text: &str| {
        let run = bench.lns(arguments).write_stdin(text).assert().success();
        String::from_utf8(run.get_output().stdout.clone()).expect("UTF-8")
    };
    let eval = |file, text: &str| -> Value {
        let arguments = ["eval", "model", "--text", file, "--window", "16", "--json"];
        serde_json::from_str(&piped(&arguments, text)).expect("only JSON")
    };
    let of_file = eval("text.txt", "");
    let lines = json!({ "text": text }).to_string() + "\n";
    let mut names = vec!["-"];
    if cfg!(unix) {
        names.push("/dev/stdin");
    }
    for name in names {
        for text in [&text, &lines] {
            assert_eq!(eval(name, text)["nll"], of_file["nll"], "{name}");
        }
    }
    let diagnose = ["diagnose", "model", "--text", "-", "--window", "16", "--json"];
    let record: Value = serde_json::from_str(&piped(&diagnose, &text)).expect("only JSON");
    let name = record["text"]["files"][0].as_str().expect("a name");
    assert!(name.starts_with("standard-input-") && name.ends_with(".txt"), "{name}");

    // A text that is read several times, by a run that can be asked for again.
    let book = book(&bench);
    let train =
        with(&["train", "--out", "run"], &["--text", "-", "--vocab", "300", "--steps", "2"]);
    assert_eq!(piped(&train, &book), piped(&train, &book));
    let other = bench.lns(&train).write_stdin("Another text.").assert().code(2);
    let other = String::from_utf8_lossy(&other.get_output().stderr).into_owned();
    assert!(other.contains("prepared from something else"), "{other}");
    let twice = ["tokenize", "--text", "-", "--validation", "-", "--out", "twice"];
    let twice = bench.lns(&twice).write_stdin(book).assert().code(2);
    let twice = String::from_utf8_lossy(&twice.get_output().stderr).into_owned();
    assert!(twice.contains("standard input can be read only once"), "{twice}");
}

#[cfg(unix)]
#[test]
fn text_comes_from_a_process_substitution_and_a_named_pipe() {
    let bench = Bench::new("llama");
    let script = "mkfifo pipe.txt && (cat text.txt > pipe.txt &) && \
        for text in <(cat text.txt) pipe.txt text.txt; do \
        \"$0\" eval model --text \"$text\" --window 16 --json; done";
    let mut bash = assert_cmd::Command::new("bash");
    bash.current_dir(bench.dir.path()).args(["-c", script]).arg(env!("CARGO_BIN_EXE_lns"));
    let run = bash.assert().success();
    let text = String::from_utf8_lossy(&run.get_output().stdout).into_owned();
    let nll: Vec<f64> = serde_json::Deserializer::from_str(&text)
        .into_iter::<Value>()
        .map(|record| record.expect("only JSON")["nll"].as_f64().expect("a number"))
        .collect();
    assert_eq!(nll.len(), 3);
    assert!(nll.iter().all(|each| *each == nll[2]), "{nll:?}");
}

const GENERATE: [&str; 4] = ["generate", "model", "--max-new-tokens", "6"];

fn generated(bench: &Bench, more: &[&str], input: &str) -> Value {
    let arguments = [&GENERATE[..], more, &["--json"]].concat();
    let run = bench.lns(&arguments).write_stdin(input).assert().success();
    serde_json::from_slice(&run.get_output().stdout).expect("only JSON")
}

#[test]
fn a_prompt_comes_from_standard_input_and_the_result_is_json() {
    let bench = Bench::new("mistral");
    let named = generated(&bench, &["--prompt", "w3 w1"], "");
    assert_eq!((&named["prompt"], &named["chat"]), (&json!("w3 w1"), &json!(false)));
    assert_eq!((&named["prompt_tokens"], &named["tokens"]), (&json!(2), &json!(6)));
    assert_eq!((&named["stop"], &named["stop_string"]), (&json!("max_new_tokens"), &Value::Null));
    for more in [&["--prompt", "-"][..], &[]] {
        assert_eq!(generated(&bench, more, "w3 w1\n")["text"], named["text"]);
    }
    let empty = bench.lns(&GENERATE).write_stdin("").assert().code(2);
    let empty = String::from_utf8_lossy(&empty.get_output().stderr).into_owned();
    assert!(empty.contains("give --prompt TEXT, or --chat"), "{empty}");
}

#[test]
fn a_text_ends_before_the_first_stop_string() {
    let bench = Bench::new("mistral");
    let whole = generated(&bench, &["--prompt", "w3 w1"], "");
    let text = whole["text"].as_str().expect("text");
    let (before, stop) = text.rsplit_once(' ').expect("several words");
    let stopped = generated(&bench, &["--prompt", "w3 w1", "--stop", stop, "--stop", "none"], "");
    let place = text.find(stop).expect("it is there");
    assert_eq!(stopped["text"], text[..place], "{before}");
    assert_eq!((&stopped["stop"], &stopped["stop_string"]), (&json!("stop_string"), &json!(stop)));
    let bare = bench.succeeds(&[&GENERATE[..], &["--prompt", "w3 w1", "--stop", stop]].concat());
    assert_eq!(bare.trim_end(), format!("w3 w1{}", &text[..place]).trim_end());
}

#[test]
fn chat_puts_what_is_asked_into_the_models_template() {
    let bench = Bench::new("mistral");
    let without = bench.fails(&["generate", "model", "--chat", "--prompt", "w3"], 2);
    assert!(without.contains("has no chat template"), "{without}");
    let template = "{% for m in messages %}w5 {{ m.content }} w95 {% endfor %}\
                    {% if add_generation_prompt %}w7{% endif %}";
    fs::write(bench.path("model/chat_template.jinja"), template).expect("writable");
    let chat = generated(&bench, &["--chat", "--prompt", "w3"], "");
    assert_eq!((&chat["prompt"], &chat["chat"]), (&json!("w3"), &json!(true)));
    assert_eq!(chat["prompt_tokens"], 4, "w5 w3 w95 w7");
    let bare = generated(&bench, &["--prompt", "w5 w3 w95 w7"], "");
    assert_eq!(chat["text"].as_str().map(str::trim), bare["text"].as_str().map(str::trim));
    // One answer to what is piped, and nothing but the answer.
    let arguments = [&GENERATE[..], &["--chat"]].concat();
    let run = bench.lns(&arguments).write_stdin("w3\n").assert().success();
    let answer = String::from_utf8_lossy(&run.get_output().stdout).into_owned();
    assert_eq!(Some(answer.trim()), chat["text"].as_str().map(str::trim));
}

#[test]
fn a_model_that_ends_at_once_says_what_to_do() {
    let bench = Bench::new("mistral");
    let asked = ["generate", "model", "--prompt", "w3 w1"];
    let text = generated(&bench, &["--prompt", "w3 w1"], "");
    let first = text["text"].as_str().and_then(|text| text.split_whitespace().next());
    let token: u32 = first.and_then(|word| word[1..].parse().ok()).expect("w and a number");
    bench.config(|config| config["eos_token_id"] = json!(token));
    let notes = || {
        let run = bench.lns(&asked).assert().success();
        String::from_utf8_lossy(&run.get_output().stderr).into_owned()
    };
    assert!(notes().contains("takes the prompt for a whole text"), "{}", notes());
    fs::write(bench.path("model/chat_template.jinja"), "{{ messages[0].content }}")
        .expect("writable");
    assert!(notes().contains("Ask it with --chat"), "{}", notes());
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).expect("memory");
    encoder.finish().expect("memory")
}

#[test]
fn compressed_text_is_read_from_a_pipe_and_a_file_and_messages_name_the_pipe() {
    let bench = Bench::new("llama");
    let text = fs::read_to_string(bench.path("text.txt")).expect("there");
    fs::write(bench.path("text.txt.gz"), gzip(&text)).expect("writable");
    let eval = |file: &str, input: Vec<u8>| {
        let arguments = ["eval", "model", "--text", file, "--window", "16", "--json"];
        let run = bench.lns(&arguments).write_stdin(input).assert().success();
        let record: Value = serde_json::from_slice(&run.get_output().stdout).expect("only JSON");
        record["nll"].clone()
    };
    let of_text = eval("text.txt", Vec::new());
    assert_eq!(eval("-", gzip(&text)), of_text);
    assert_eq!(eval("text.txt.gz", Vec::new()), of_text);

    for (input, said) in [
        (Vec::new(), "no text in standard input"),
        (gzip("{\"text\": \"w1\"}\nw2\n"), "standard input, line 2: not a JSON object"),
        (gzip(&text)[..20].to_vec(), "standard input: damaged gzip data"),
    ] {
        let arguments = ["eval", "model", "--text", "-", "--window", "16"];
        let run = bench.lns(&arguments).write_stdin(input).assert().code(2);
        let error = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
        assert!(error.contains(said) && !error.contains("lns-piped-text"), "{error}");
    }
}

#[test]
fn what_is_no_text_to_train_on_is_said_in_words_that_help() {
    let bench = Bench::new("llama");
    book(&bench);
    fs::write(bench.path("empty.txt"), "").expect("writable");
    fs::write(bench.path("two.txt"), "a\n").expect("writable");
    let refused = |arguments: &[&str]| bench.fails(arguments, 2);
    let train = |more: &[&str]| refused(&[&["train", "--out", "run"], more].concat());
    let error = train(&["--text", "empty.txt"]);
    assert!(error.contains("error: no text in empty.txt"), "{error}");
    let error = train(&["--text", "two.txt", "--vocab", "257"]);
    assert!(error.contains("2 bytes, too few") && error.contains("give 32 KiB or more"), "{error}");
    let both = ["tokenize", "--text", "book.txt", "--validation", "book.txt", "--vocab", "300"];
    let error = refused(&[&both[..], &["--out", "text"]].concat());
    assert!(error.contains("every document of book.txt is also held out"), "{error}");
    for estimated in [&["train"][..], &["study", "smoke"], &["finetune", "model"]] {
        let error = refused(&[estimated, &["--estimate", "--text", "nope.txt"]].concat());
        assert!(error.contains("nope.txt: "), "{error}");
    }
}

#[test]
fn a_run_of_the_built_in_language_says_what_its_words_and_its_text_are() {
    let bench = Bench::new("llama");
    let made = bench.lns(&with(&["train", "--out", "run"], &["--steps", "2"])).assert().success();
    let notes = String::from_utf8_lossy(&made.get_output().stderr).into_owned();
    assert!(notes.contains("Preparing") && notes.contains("tokens of it …"), "{notes}");
    book(&bench);
    for verb in ["diagnose", "eval"] {
        let error = bench.fails(&[verb, "run", "--text", "book.txt"], 2);
        assert!(error.contains("reads only its words; \"The\" is none of them"), "{error}");
    }
    // What the error says to feed it does.
    let write = ["generate", "run", "--prompt", "anna leads", "--temperature", "1"];
    fs::write(bench.path("own.txt"), bench.succeeds(&write)).expect("writable");
    bench.succeeds(&["eval", "run", "--text", "own.txt", "--window", "8"]);

    let corpus = |name| bench.fails(&["train", "--out", "other", "--corpus", name], 2);
    let error = corpus("nope");
    assert!(error.contains("--corpus nope does not exist"), "{error}");
    let error = corpus("run");
    assert!(error.contains("give --corpus run/text"), "{error}");
}
