//! From data as people have them to questions, and from scores to accuracies.

use std::fs;
use std::path::Path;

use lns_tasks::{
    AskOptions, Asked, ChoiceScore, Data, Metrics, Scored, Split, TaskError, ask, compare, sample,
    summary, tasks,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A row as the hub has it, and what is asked: contexts, choices, the right one.
type Case = (&'static str, Value, Vec<(&'static str, &'static str)>, usize);

fn cases() -> Vec<Case> {
    let choices = json!({"text": ["ice", "fire"], "label": ["A", "B"]});
    let science = "Question: What is hot?\nAnswer:";
    let lettered = "Question: What is hot?\nA. a\nB. b\nC. c\nD. d\nE. e\nAnswer:";
    let mmlu = "What is hot?\nA. a\nB. b\nC. c\nD. d\nAnswer:";
    let passage = "Fire is hot.\nQuestion: is fire hot?\nAnswer:";
    let support = "Fire burns.\nQuestion: What is hot?\nAnswer:";
    vec![
        (
            "arc_easy",
            json!({"question": "What is hot?", "choices": choices, "answerKey": "B"}),
            vec![(science, "ice"), (science, "fire")],
            1,
        ),
        (
            "arc_challenge",
            json!({"question": "What is hot?", "answerKey": "2",
                   "choices": {"text": ["ice", "fire"], "label": ["1", "2"]}}),
            vec![(science, "ice"), (science, "fire")],
            1,
        ),
        (
            "blimp",
            json!({"sentence_good": "He goes.", "sentence_bad": "He go.", "UID": "agreement"}),
            vec![("", "He goes."), ("", "He go.")],
            0,
        ),
        (
            "boolq",
            json!({"passage": "Fire is hot.", "question": "is fire hot", "answer": true}),
            vec![(passage, "no"), (passage, "yes")],
            1,
        ),
        (
            "commonsense_qa",
            json!({"question": " What is hot? ", "answerKey": "C",
                   "choices": {"text": ["a", "b", "c", "d", "e"],
                               "label": ["A", "B", "C", "D", "E"]}}),
            ["A", "B", "C", "D", "E"].map(|letter| (lettered, letter)).to_vec(),
            2,
        ),
        (
            "hellaswag",
            json!({"activity_label": "Cooking", "ctx_a": "A [step] pan.", "ctx_b": "then HE",
                   "endings": ["eats.", "sleeps [title] Rest."], "label": "1"}),
            vec![
                ("Cooking: A pan. Then he", "eats."),
                ("Cooking: A pan. Then he", "sleeps. Rest."),
            ],
            1,
        ),
        (
            "lambada",
            json!({"text": "He came and went home"}),
            vec![("He came and went", "home")],
            0,
        ),
        (
            "mmlu",
            json!({"question": "What is hot?\n", "subject": "high_school_physics",
                   "choices": ["a", "b", "c", "d"], "answer": 3}),
            ["A", "B", "C", "D"].map(|letter| (mmlu, letter)).to_vec(),
            3,
        ),
        (
            "openbookqa",
            json!({"question_stem": "Hot is", "choices": choices, "answerKey": " B"}),
            vec![("Hot is", "ice"), ("Hot is", "fire")],
            1,
        ),
        (
            "piqa",
            json!({"goal": "What is hot?", "sol1": "ice", "sol2": "fire", "label": 1}),
            vec![(science, "ice"), (science, "fire")],
            1,
        ),
        (
            "sciq",
            json!({"support": " Fire burns.", "question": "What is hot?", "distractor1": "ice",
                   "distractor2": "snow", "distractor3": "rain", "correct_answer": "fire"}),
            ["ice", "snow", "rain", "fire"].map(|choice| (support, choice)).to_vec(),
            3,
        ),
        (
            "siqa",
            json!({"context": "He fell.", "question": "How is he?", "answerA": "sad",
                   "answerB": "glad", "answerC": "tall", "label": "1"}),
            ["sad", "glad", "tall"].map(|choice| ("Q: He fell. How is he?\nA:", choice)).to_vec(),
            0,
        ),
        (
            "winogrande",
            json!({"sentence": "Ann saw Eve because _ looked up .", "option1": "Ann",
                   "option2": "Eve", "answer": "2"}),
            vec![
                ("Ann saw Eve because Ann", "looked up ."),
                ("Ann saw Eve because Eve", "looked up ."),
            ],
            1,
        ),
    ]
}

fn case(task: &str) -> Value {
    cases().into_iter().find(|case| case.0 == task).expect("every task has its case").1
}

fn write(folder: &Path, path: &str, rows: &[Value]) -> String {
    let path = folder.join(path);
    fs::create_dir_all(path.parent().expect("a folder")).expect("makes");
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    fs::write(&path, lines).expect("writes");
    path.display().to_string()
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn options(folder: &Path) -> AskOptions {
    let data = vec![Data { task: None, path: folder.to_owned() }];
    AskOptions { data, ..AskOptions::default() }
}

fn refusal(name: &str, options: &AskOptions) -> String {
    ask(name, options).expect_err("refused").to_string()
}

#[test]
fn every_task_asks_as_the_reference_does() {
    let cases = cases();
    assert_eq!(cases.len(), tasks().count());
    for task in tasks() {
        let (name, row, expected, gold) =
            cases.iter().find(|case| case.0 == task.name()).expect("every task has its case");
        let folder = folder();
        let split = if task.split() == Split::All { Split::Train } else { task.split() };
        let part = task.source().parts.first().unwrap_or(&"data");
        write(
            folder.path(),
            &format!("{name}/{part}/{split}-00000.jsonl"),
            std::slice::from_ref(row),
        );
        let asked = ask(name, &options(folder.path())).expect(name);
        let document = &asked.documents[0];
        let opening = task.opening(document.group.as_deref());
        let expected = expected
            .iter()
            .map(|(context, choice)| (format!("{opening}{context}"), format!(" {choice}")));
        let choices = document.question.choices.iter();
        let found = choices.map(|choice| (choice.context.clone(), choice.continuation.clone()));
        assert_eq!(found.collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "{name}");
        assert_eq!(document.question.gold, *gold, "{name}");
    }
}

#[test]
fn a_row_without_one_of_its_fields_is_refused_with_file_row_and_field() {
    for (name, row, ..) in cases() {
        let fields = row.as_object().expect("an object");
        for missing in fields.keys() {
            let mut damaged = fields.clone();
            damaged.remove(missing);
            let folder = folder();
            write(folder.path(), "rows.jsonl", &[row.clone(), Value::Object(damaged)]);
            let path = folder.path().join("rows.jsonl");
            let data = vec![Data { task: Some(name.to_owned()), path }];
            let message = refusal(name, &AskOptions { data, ..AskOptions::default() });
            let expected = format!("rows.jsonl, row 2, for {name}: no field \"{missing}");
            assert!(message.contains(&expected), "{name}, {missing}: {message}");
        }
    }
}

/// What is said of a row of a task's data.
fn refused_row(name: &str, row: &Value) -> String {
    let folder = folder();
    write(folder.path(), "rows.jsonl", std::slice::from_ref(row));
    let path = folder.path().join("rows.jsonl");
    let data = vec![Data { task: Some(name.to_owned()), path }];
    let message = refusal(name, &AskOptions { data, ..AskOptions::default() });
    assert!(message.contains(&format!("rows.jsonl, row 1, for {name}: ")), "{name}: {message}");
    message
}

#[test]
fn a_right_answer_that_is_none_of_the_choices_is_refused_with_its_row() {
    for (name, field, answer, expected) in [
        ("arc_easy", "answerKey", json!("E"), "none of [\"A\", \"B\"]"),
        ("arc_challenge", "answerKey", json!(""), "none of"),
        ("boolq", "answer", json!(2), "the right choice is number 2 (from 0), and there are 2"),
        ("commonsense_qa", "answerKey", json!("F"), "none of"),
        ("hellaswag", "label", json!("2"), "the right choice is number 2"),
        ("hellaswag", "label", json!(""), "which is no number"),
        ("mmlu", "answer", json!(4), "the right choice is number 4"),
        ("mmlu", "answer", json!("H"), "no letter"),
        ("openbookqa", "answerKey", json!("C"), "none of"),
        ("piqa", "label", json!(-1), "field \"label\" is -1"),
        ("piqa", "label", json!(2), "the right choice is number 2"),
        ("siqa", "label", json!("4"), "the right choice is number 3"),
        ("siqa", "label", json!("0"), "labels are 1 to 3"),
        ("winogrande", "answer", json!("3"), "the right choice is number 2"),
        ("winogrande", "answer", json!("0"), "answers are 1 and 2"),
    ] {
        let mut row = case(name);
        row[field] = answer;
        let message = refused_row(name, &row);
        assert!(message.contains(expected), "{name}: {message}");
    }
}

#[test]
fn an_empty_choice_of_a_data_set_is_refused_with_its_row() {
    let emptied = |name: &str, change: fn(&mut Value)| {
        let mut row = case(name);
        change(&mut row);
        refused_row(name, &row)
    };
    for message in [
        emptied("piqa", |row| row["sol2"] = json!("  ")),
        emptied("arc_easy", |row| row["choices"]["text"] = json!(["ice", ""])),
        emptied("hellaswag", |row| row["endings"] = json!(["eats.", "[step]"])),
    ] {
        assert!(message.contains("choice 1 is empty"), "{message}");
    }
    let message = emptied("openbookqa", |row| row["choices"]["text"] = json!([]));
    assert!(message.contains("there are no choices"), "{message}");
    let message = emptied("mmlu", |row| row["choices"] = json!(["a", "b"]));
    assert!(message.contains("2 choices, there are 4"), "{message}");
}

#[test]
fn a_nested_field_that_is_not_there_is_named_with_those_that_are() {
    for (name, inner) in [("arc_easy", "text"), ("openbookqa", "label"), ("commonsense_qa", "text")]
    {
        let mut row = case(name);
        row["choices"].as_object_mut().expect("a group").remove(inner);
        let message = refused_row(name, &row);
        let expected = format!("no field \"choices.{inner}\"; the row has ");
        assert!(message.contains(&expected), "{name}: {message}");
    }
    let mut row = case("winogrande");
    row["sentence"] = json!("Ann saw Eve because she looked up.");
    let message = refused_row("winogrande", &row);
    assert!(message.contains('_'), "the gap is asked for: {message}");
}

#[test]
fn data_are_found_as_the_hub_lays_them_out() {
    let cases: [(&str, bool); 9] = [
        ("ai2_arc/ARC-Easy/test-00000-of-00001.jsonl", true),
        ("allenai/ai2_arc/ARC-Easy/test/0000.jsonl", true),
        ("datasets--allenai--ai2_arc/snapshots/0a1b/ARC-Easy/test-00000-of-00001.jsonl", true),
        ("arc_easy/test.jsonl", true),
        ("ARC-Easy/ARC-Easy-Test.jsonl", true),
        ("ai2_arc/ARC-Challenge/test-00000-of-00001.jsonl", false),
        ("ai2_arc/test.jsonl", false),
        ("arc_easy/train.jsonl", false),
        ("other/test.jsonl", false),
    ];
    for (path, found) in cases {
        let folder = folder();
        write(folder.path(), path, &[case("arc_easy")]);
        let asked = ask("arc_easy", &options(folder.path()));
        assert_eq!(asked.is_ok(), found, "{path}: {:?}", asked.err());
    }
}

#[test]
fn data_that_are_nowhere_are_an_error_that_says_where_to_get_them() {
    let folder = folder();
    let message = refusal("piqa", &options(folder.path()));
    for expected in [
        "no data for piqa (validation)",
        &*folder.path().display().to_string(),
        "goal, sol1, sol2, label",
        "hf download --repo-type dataset baber/piqa",
        "validation-00000-of-00001.parquet",
    ] {
        assert!(message.contains(expected), "{expected} is not in: {message}");
    }
    assert!(refusal("piqa", &AskOptions::default()).contains("no --data was given"));
    let message = refusal("piqqa", &AskOptions::default());
    assert!(message.contains("no task \"piqqa\" (\"piqa\"?)"), "{message}");
}

#[test]
fn two_versions_of_one_split_are_not_read_as_one() {
    let folder = folder();
    write(folder.path(), "piqa/a/validation.jsonl", &[case("piqa")]);
    write(folder.path(), "piqa/b/validation.jsonl", &[case("piqa")]);
    let error = ask("piqa", &options(folder.path())).expect_err("refused");
    assert!(matches!(error, TaskError::SeveralFolders { .. }), "{error}");
    // The same in two formats is one version.
    fs::remove_dir_all(folder.path().join("piqa/b")).expect("removes");
    write(folder.path(), "piqa/a/validation.json", &[case("piqa")]);
    assert_eq!(ask("piqa", &options(folder.path())).expect("one").documents.len(), 1);
}

#[test]
fn examples_are_the_subjects_own_and_stand_before_the_question() {
    let row = |subject: &str, question: &str, answer: usize| {
        json!({"question": question, "subject": subject, "choices": ["w", "x", "y", "z"],
               "answer": answer})
    };
    let folder = folder();
    let dev = [row("law", "L1", 0), row("art", "A1", 1), row("law", "L2", 2), row("law", "L3", 3)];
    write(folder.path(), "mmlu/all/dev-00000-of-00001.jsonl", &dev);
    write(folder.path(), "mmlu/all/test-00000-of-00001.jsonl", &[row("law", "Q", 1)]);
    let shots = |shots| AskOptions { shots, ..options(folder.path()) };
    let asked = ask("mmlu", &shots(2)).expect("two examples");
    let block = |question: &str, answer: &str| {
        format!("{question}\nA. w\nB. x\nC. y\nD. z\nAnswer:{answer}")
    };
    let expected = format!(
        "The following are multiple choice questions (with answers) about law.\n\n{}\n\n{}\n\n{}",
        block("L1", " A"),
        block("L2", " C"),
        block("Q", "")
    );
    assert_eq!(asked.documents[0].question.choices[0].context, expected);
    let message = refusal("mmlu", &shots(5));
    assert!(message.contains("mmlu, law, has 3 examples, 5 were asked for"), "{message}");
    let message = refusal("blimp", &shots(1));
    assert!(message.contains("blimp has no examples"), "{message}");
}

#[test]
fn a_limit_takes_of_every_group_in_turn() {
    let row = |uid: &str| json!({"sentence_good": "a", "sentence_bad": "b", "UID": uid});
    let folder = folder();
    write(folder.path(), "blimp/data/a.jsonl", &vec![row("a"); 4]);
    write(folder.path(), "blimp/data/b.jsonl", &vec![row("b"); 2]);
    let limited = |limit| {
        let options = AskOptions { limit: Some(limit), ..options(folder.path()) };
        let asked = ask("blimp", &options).expect("asks");
        (asked.documents.iter().map(|document| document.id).collect::<Vec<_>>(), asked.of)
    };
    assert_eq!(limited(3), (vec![0, 1, 4], 6));
    assert_eq!(limited(5), (vec![0, 1, 2, 4, 5], 6));
    assert_eq!(limited(9).0.len(), 6);
}

#[test]
fn questions_of_ones_own_and_ready_requests_are_asked_as_they_stand() {
    let folder = folder();
    let of =
        |path: &str, rows: &[Value]| ask(&write(folder.path(), path, rows), &AskOptions::default());
    let own = json!({"context": "Hot is", "choices": ["ice", "fire"], "gold": 1});
    let asked = of("own.jsonl", &[own]).expect("asks");
    assert_eq!((asked.task.as_str(), asked.metrics), ("own", Metrics::AccAndNorm));
    assert_eq!(asked.documents[0].question.choices[1].continuation, " fire");

    let request = |doc: u64, continuation: &str, label: Value| {
        json!({"doc_id": doc, "label": label,
               "request": {"context": "Hot is", "continuation": continuation}})
    };
    let lines = [
        request(0, " ice", json!(1)),
        request(0, " fire", json!(1)),
        request(1_000_000, " ice", json!(1)),
    ];
    let asked = of("piqa/rc_0shot/requests.jsonl", &lines).expect("asks");
    assert_eq!((asked.task.as_str(), asked.documents.len()), ("piqa/rc_0shot", 1));
    assert_eq!(asked.documents[0].question.gold, 1);
    let word = [request(0, " ice", json!(" ice"))];
    let asked = of("word/0shot/requests.jsonl", &word).expect("asks");
    assert_eq!(asked.metrics, Metrics::Greedy, "one continuation is said or not said");

    for (row, expected) in [
        (json!({"context": "a", "choices": ["b", " "], "gold": 0}), "for bad: choice 1 is empty"),
        (json!({"context": "a", "choices": ["b"], "gold": 1}), "the right choice is number 1"),
        (json!({"context": "a", "choices": [], "gold": 0}), "there are no choices"),
        (json!({"context": "a", "choices": ["b"], "gold": -1}), "field \"gold\" is -1"),
        (
            json!({"context": "a", "answers": ["b"]}),
            "no field \"choices\"; the row has context, answers",
        ),
    ] {
        let message = of("bad.jsonl", &[row]).expect_err("refused").to_string();
        assert!(message.contains(expected) && message.contains("row 1"), "{message}");
    }
}

/// Questions of three choices, number n mod 3 being right in document n.
fn asked(documents: usize) -> Asked {
    let folder = folder();
    let row = |n: usize| json!({"context": "", "choices": ["a", "bb", "ccc"], "gold": n % 3});
    let rows: Vec<Value> = (0..documents).map(row).collect();
    ask(&write(folder.path(), "own.jsonl", &rows), &AskOptions::default()).expect("asks")
}

fn scores(sums: [f64; 3]) -> Scored {
    let score =
        |log_probability| ChoiceScore { log_probability, greedy: false, tokens: 1, dropped: 0 };
    sums.map(score).to_vec()
}

#[test]
fn accuracy_is_of_sums_and_of_sums_by_characters_with_the_errors_of_means() {
    let asked = asked(4);
    // By sum the first is best, by characters (1, 2, 3) the last.
    let found = summary(&asked, &vec![scores([-2.0, -3.5, -4.5]); 4]);
    assert_eq!((found.acc, found.acc_norm), (Some(0.5), Some(0.25)));
    let stderr = found.acc_stderr.expect("four documents");
    assert!((stderr - (0.25f64 / 3.0).sqrt()).abs() < 1e-12, "{stderr}");
    assert_eq!(found.always_first, Some(0.5));
    assert!((found.chance.expect("choices") - 1.0 / 3.0).abs() < 1e-12);
    assert_eq!((found.tied, found.tied_norm, found.not_finite), (0, 0, 0));
}

#[test]
fn groups_count_alike_in_their_mean_and_by_their_documents_in_the_accuracy() {
    let row = |uid: &str| json!({"sentence_good": "a", "sentence_bad": "b", "UID": uid});
    let folder = folder();
    write(folder.path(), "blimp/data/a.jsonl", &vec![row("a"); 3]);
    write(folder.path(), "blimp/data/b.jsonl", &[row("b")]);
    let asked = ask("blimp", &options(folder.path())).expect("asks");
    let pair = |good: f64, bad: f64| scores([good, bad, 0.0])[..2].to_vec();
    let mut found = vec![pair(-1.0, -2.0); 4];
    found[3] = pair(-2.0, -1.0);
    let record = summary(&asked, &found);
    assert_eq!((record.acc, record.acc_by_group), (Some(0.75), Some(0.5)));
    found[0] = pair(f64::NAN, -1.0);
    assert_eq!(summary(&asked, &found).acc_by_group, None, "a mean of what means nothing");
}

#[test]
fn a_model_that_gives_all_choices_one_score_or_no_number_gets_no_accuracy() {
    let asked = asked(300);
    let found = summary(&asked, &vec![scores([-2.0; 3]); 300]);
    assert_eq!((found.acc, found.tied), (None, 300));
    assert_eq!(found.acc_norm, Some(1.0 / 3.0), "by characters these differ");

    let mut one = vec![scores([-2.0, -3.5, -4.5]); 300];
    one[7] = scores([-2.0, f64::NAN, -4.0]);
    let found = summary(&asked, &one);
    assert_eq!((found.acc, found.acc_norm, found.not_finite), (None, None, 1));
    let line = sample(&asked, &one).nth(7).expect("a line");
    assert_eq!((line.acc, line.choices[1].logprob), (None, None));

    // One accident among many is counted and does not spoil the rest.
    one[7] = scores([-2.0, -2.0, -4.0]);
    let found = summary(&asked, &one);
    assert_eq!((found.acc, found.tied), (Some(1.0 / 3.0), 1));
}

#[test]
fn two_models_are_compared_document_by_document() {
    let asked = asked(3);
    let first: Vec<Scored> = vec![scores([-1.0, -9.0, -9.5]); 3];
    let right = |gold: usize| {
        let mut sums = [-9.0, -9.25, -9.5];
        sums[gold] = -1.0;
        scores(sums)
    };
    let second: Vec<Scored> = (0..3).map(right).collect();
    let records = [summary(&asked, &first), summary(&asked, &second)];
    let found = compare(&asked, (&records[0], &first), (&records[1], &second));
    let [acc, norm] = &found[..] else { panic!("{found:?}") };
    assert_eq!((acc.metric.as_str(), norm.metric.as_str()), ("acc", "acc_norm"));
    assert!((acc.difference - 2.0 / 3.0).abs() < 1e-12);
    assert_eq!((acc.only_first, acc.only_second), (0, 2));
    assert!((acc.mcnemar_p - 0.5).abs() < 1e-12, "{}", acc.mcnemar_p);
    let nothing = vec![scores([f64::NAN; 3]); 3];
    let nothing = (&summary(&asked, &nothing), &nothing[..]);
    assert!(compare(&asked, (&records[0], &first), nothing).is_empty());
}

#[test]
fn lm_evaluation_harness_asks_the_same_of_documents_written_for_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tasks.json");
    let golden: Value = serde_json::from_slice(&fs::read(path).expect("there")).expect("JSON");
    assert_eq!(golden.as_object().map(|tasks| tasks.len()), Some(tasks().count()));
    for task in tasks() {
        for of in golden[task.name()].as_array().expect("settings") {
            let folder = folder();
            let rows = |key: &str| of[key].as_array().expect("rows").clone();
            let place = |split: Split| {
                let part = task.source().parts.first().unwrap_or(&"data");
                format!("{}/{part}/{split}.jsonl", task.name())
            };
            write(folder.path(), &place(task.split()), &rows("rows"));
            if let Some(split) = task.examples() {
                write(folder.path(), &place(split), &rows("examples"));
            }
            let shots = of["shots"].as_u64().expect("a count") as usize;
            let asked = ask(task.name(), &AskOptions { shots, ..options(folder.path()) });
            let asked = asked.unwrap_or_else(|error| panic!("{}: {error}", task.name()));
            let text = |value: &Value| value.as_str().expect("a text").to_owned();
            for (document, expected) in asked.documents.iter().zip(rows("documents")) {
                let choices = expected["choices"].as_array().expect("choices").iter();
                let expected: Vec<_> = choices
                    .map(|choice| (text(&choice["context"]), text(&choice["continuation"])))
                    .collect();
                let choices = document.question.choices.iter();
                let found: Vec<_> = choices
                    .map(|choice| (choice.context.clone(), choice.continuation.clone()))
                    .collect();
                assert_eq!(found, expected, "{}, {shots} shots", task.name());
            }
            assert_eq!(asked.documents.len(), rows("documents").len());
        }
    }
}
