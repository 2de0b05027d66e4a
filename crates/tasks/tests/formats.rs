//! The same rows asked in both formats, and from OLMo's ready requests.

use std::fs;
use std::path::Path;

use lns_tasks::{AskOptions, Asked, Data, Question, Split, TaskError, TaskFormat, ask};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A task, a row of the hub's, and the right example in the two formats: context and continuation, and
/// the request and its answer.
struct Case {
    task: &'static str,
    row: Value,
    continuation: (&'static str, &'static str),
    generating: (&'static str, &'static str),
}

fn cases() -> Vec<Case> {
    let choices = json!({"text": ["ice", "fire"], "label": ["A", "B"]});
    let choose = "Please choose the correct answer to the question: What is hot?\n\nAnswer1: ice \
                  Answer2: fire\n\nAnswer format: answer1/answer2";
    vec![
        Case {
            task: "arc_easy",
            row: json!({"question": "What is hot?", "choices": choices, "answerKey": "B"}),
            continuation: ("Question: What is hot?\nAnswer:", " fire"),
            generating: (choose, "answer2"),
        },
        Case {
            task: "arc_challenge",
            row: json!({"question": "What is hot?", "choices": choices, "answerKey": "A"}),
            continuation: ("Question: What is hot?\nAnswer:", " ice"),
            generating: (choose, "answer1"),
        },
        Case {
            task: "openbookqa",
            row: json!({"question_stem": "What is hot?", "choices": choices, "answerKey": "B"}),
            continuation: ("What is hot?", " fire"),
            generating: (choose, "answer2"),
        },
        Case {
            task: "boolq",
            row: json!({"passage": "Fire is hot.", "question": "is fire hot", "answer": true}),
            continuation: ("Fire is hot.\nQuestion: is fire hot?\nAnswer:", " yes"),
            generating: (
                "Please answer the following question with true or false, question: is fire hot?\n\n\
                 Answer format: true/false",
                "true",
            ),
        },
        Case {
            task: "piqa",
            row: json!({"goal": "make fire", "sol1": "rub sticks", "sol2": "wet them", "label": 0}),
            continuation: ("Question: make fire\nAnswer:", " rub sticks"),
            generating: (
                "Please choose the correct solution to the question: make fire\n\nSolution1: rub \
                 sticks\n\nSolution2: wet them\n\nAnswer format: solution1/solution2",
                "solution1",
            ),
        },
        Case {
            task: "siqa",
            row: json!({"context": "Kim fell.", "question": "How is Kim?", "answerA": "glad",
                        "answerB": "hurt", "answerC": "rich", "label": "2"}),
            continuation: ("Q: Kim fell. How is Kim?\nA:", " hurt"),
            generating: (
                "Please choose the correct answer to the question: Kim fell. How is Kim?\n\nAnswer1: \
                 glad Answer2: hurt Answer3: rich\n\nAnswer format: answer1/answer2/answer3",
                "answer2",
            ),
        },
        Case {
            task: "hellaswag",
            row: json!({"activity_label": "Cooking", "ctx_a": "A pan.", "ctx_b": "then he",
                        "endings": ["sleeps.", "eats."], "label": "1"}),
            continuation: ("Cooking: A pan. Then he", " eats."),
            generating: (
                "Please choose the correct ending to complete the given sentence: Cooking: A pan. Then \
                 he\n\nEnding1: sleeps. Ending2: eats.\n\nAnswer format: ending1/ending2",
                "ending2",
            ),
        },
        Case {
            task: "winogrande",
            row: json!({"sentence": "Ann hit Bo because _ was mad.", "option1": "Ann",
                        "option2": "Bo", "answer": "1"}),
            continuation: ("Ann hit Bo because Ann", " was mad."),
            generating: (
                "Please choose the correct answer to fill in the blank to complete the given sentence: \
                 Ann hit Bo because _ was mad.\n\nOption1: Ann Option2: Bo Answer format: \
                 option1/option2",
                "option1",
            ),
        },
    ]
}

fn trained_on(folder: &Path, task: &str, format: TaskFormat) -> Result<Asked, TaskError> {
    let data = vec![Data { task: None, path: folder.to_owned() }];
    ask(task, &AskOptions { data, split: Some(Split::Train), format, ..AskOptions::default() })
}

fn right(question: &Question) -> (&str, &str) {
    let choice = &question.choices[question.gold];
    (&choice.context, &choice.continuation)
}

#[test]
fn training_documents_are_worded_as_lm_evaluation_harness_and_as_llm_adapters_word_them() {
    let folder = TempDir::new().expect("a folder");
    for Case { task, row, continuation, generating } in cases() {
        let place = folder.path().join(task);
        fs::create_dir(&place).expect("writable");
        fs::write(place.join("train.jsonl"), row.to_string()).expect("writable");
        let asked = trained_on(folder.path(), task, TaskFormat::Continuation).expect(task);
        assert_eq!(right(&asked.documents[0].question), continuation, "{task}");
        let asked = trained_on(folder.path(), task, TaskFormat::Generating).expect(task);
        let (request, answer) = generating;
        let context = format!(
            "Below is an instruction that describes a task. Write a response that appropriately \
             completes the request.\n\n### Instruction:\n{request}\n\n### Response:\n"
        );
        let answer = format!("the correct answer is {answer}");
        assert_eq!(right(&asked.documents[0].question), (&*context, &*answer), "{task}");
    }
}

/// The lines that OLMo writes for a document of the task.
fn requests(id: u64, document: &Value, choices: usize) -> String {
    let line = |choice: usize| {
        json!({"request_type": "loglikelihood", "doc": document, "doc_id": id, "idx": choice,
               "label": 0, "request": {"context": "five examples", "continuation": " x"}})
        .to_string()
    };
    (0..choices).map(|choice| line(choice) + "\n").collect()
}

#[test]
fn olmos_ready_requests_are_read_as_the_hubs_rows() {
    let folder = TempDir::new().expect("a folder");
    for Case { task, row, continuation, generating } in cases() {
        let document = match task {
            "boolq" => json!({"query": "Fire is hot.\nQuestion: is fire hot?\nAnswer:",
                              "choices": ["yes", "no"], "gold": 0}),
            "hellaswag" => json!({"query": "Cooking: A pan. Then he",
                                  "choices": ["sleeps.", "eats."], "gold": 1}),
            "arc_challenge" => json!({"query": "Question: What is hot?\nAnswer:",
                                      "choices": ["ice", "fire"], "gold": 0}),
            "arc_easy" | "openbookqa" => json!({"query": "Question: What is hot?\nAnswer:",
                                                "choices": ["ice", "fire"], "gold": 1}),
            _ => row,
        };
        let named = if task == "siqa" { "socialiqa" } else { task };
        // Two documents of two requests each, one without its context, and the lettered form beside it.
        for (form, lines) in [
            (
                "train_rc_5shot",
                requests(0, &document, 2)
                    + &requests(1, &document, 2)
                    + &requests(1_000_000, &document, 2),
            ),
            ("train_mc_5shot", requests(0, &json!({"query": "A. B."}), 2)),
        ] {
            let place = folder.path().join(named).join(form);
            fs::create_dir_all(&place).expect("writable");
            fs::write(place.join("requests.jsonl"), lines).expect("writable");
            fs::write(place.join("config.json"), "{}").expect("writable");
        }
        let asked = trained_on(folder.path(), task, TaskFormat::Continuation).expect(task);
        assert_eq!(asked.documents.len(), 2, "{task}");
        assert_eq!(right(&asked.documents[1].question), continuation, "{task}");
        let asked = trained_on(folder.path(), task, TaskFormat::Generating).expect(task);
        assert!(right(&asked.documents[1].question).1.ends_with(generating.1), "{task}");
    }
}

#[test]
fn what_is_no_instruction_and_what_is_no_request_of_olmos_is_said() {
    let folder = TempDir::new().expect("a folder");
    let place = folder.path().join("sciq");
    fs::create_dir(&place).expect("writable");
    let row = json!({"support": "", "question": "q", "distractor1": "a", "distractor2": "b",
                     "distractor3": "c", "correct_answer": "d"});
    fs::write(place.join("train.jsonl"), row.to_string()).expect("writable");
    let error = trained_on(folder.path(), "sciq", TaskFormat::Generating).expect_err("refused");
    assert!(error.to_string().contains("sciq is not put as an instruction"), "{error}");
    let place = folder.path().join("boolq").join("train_rc_5shot");
    fs::create_dir_all(&place).expect("writable");
    let odd = json!({"query": "no question here", "choices": ["yes", "no"], "gold": 0});
    fs::write(place.join("requests.jsonl"), requests(0, &odd, 2)).expect("writable");
    let error = trained_on(folder.path(), "boolq", TaskFormat::Continuation).expect_err("refused");
    assert!(error.to_string().contains("row 1, for boolq: \"query\" is not as OLMo"), "{error}");
}
