//! Answers to tasks: a page and a table of models side by side.

#![allow(clippy::unwrap_used, reason = "what is missing fails the test")]

use lns_record::{TaskRecord, TasksRecord};
use lns_report::{tasks_page, tasks_table};
use serde_json::json;

fn task(name: &str, acc: Option<f64>, documents: u64) -> TaskRecord {
    let record = json!({
        "task": name, "documents": documents, "of": 1838, "shots": 0, "acc": acc, "acc_stderr": 0.021,
        "acc_norm": acc, "acc_norm_stderr": 0.02, "always_first": 0.495, "chance": 0.5, "tied": 0,
        "tied_norm": 0, "not_finite": u64::from(acc.is_none()), "truncated": 0
    });
    serde_json::from_value(record).unwrap()
}

fn model(name: &str, tasks: Vec<TaskRecord>) -> TasksRecord {
    TasksRecord { model: name.to_owned(), tasks, seconds: 1.0 }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Where the words stand, in this order.
fn in_order(page: &str, words: &[&str]) {
    let mut from = 0;
    for word in words {
        from +=
            page[from..].find(word).unwrap_or_else(|| panic!("{word} is not there, or earlier"));
    }
}

#[test]
fn models_stand_under_each_task_with_one_who_always_takes_the_first() {
    let mut other = model("b", vec![task("piqa", Some(0.71), 500)]);
    other.tasks[0].differences = serde_json::from_value(json!([{
        "metric": "acc", "difference": 0.06, "stderr": 0.01, "low": 0.04, "high": 0.08,
        "only_first": 10, "only_second": 40, "mcnemar_p": 0.0001
    }]))
    .unwrap();
    let first = model("a", vec![task("piqa", Some(0.65), 500), task("sciq", Some(0.9), 500)]);
    let page = tasks_page(&[vec![first, other]], &names(&["small", "large"]));
    in_order(
        &page,
        &[
            "piqa",
            "small",
            "65.00 ± 2.10",
            "large",
            "71.00 ± 2.10",
            "always the first",
            "49.50",
            "chance",
            "50.00",
            "sciq",
            "small",
            "90.00",
            "always the first",
            "Paired by document",
            "piqa acc: large +6.00 ± 1.00 points to small",
        ],
    );
    assert!(!page.contains("warning\""), "nothing stands out");
}

#[test]
fn what_was_asked_apart_has_no_paired_difference_and_other_documents_do_not_compare() {
    let records = [(0.65, 500), (0.71, 200)]
        .map(|(acc, of)| vec![model("m", vec![task("piqa", Some(acc), of)])]);
    let page = tasks_page(&records, &names(&["m #1", "m #2"]));
    assert!(page.contains("were asked one by one"));
    assert!(page.contains("were not asked the same documents"));
    assert!(!page.contains("always the first</td>"), "the floor of which of them?");
}

#[test]
fn a_model_without_numbers_has_no_accuracy_and_the_page_says_why() {
    let record = model("m", vec![task("piqa", None, 500)]);
    let page = tasks_page(&[vec![record.clone()]], &names(&["m"]));
    assert!(
        page.contains("piqa, m: no accuracy, because 1 document has a score that is not a finite")
    );
    let table = tasks_table(&[record], &names(&["m"]));
    assert!(
        table.contains("—") && table.contains("piqa: no accuracy, because 1 document"),
        "{table}"
    );
}

#[test]
fn names_of_strangers_are_shown_and_never_obeyed() {
    let hostile = "</title><script>alert(1)</script>\u{1b}[2J\u{202e}";
    let mut record = model(hostile, vec![task(hostile, Some(0.5), 9)]);
    record.tasks[0].groups = serde_json::from_value(
        json!([{"group": hostile, "documents": 9, "acc": 0.5, "acc_stderr": null}]),
    )
    .unwrap();
    let page = tasks_page(&[vec![record.clone()]], &names(&[hostile]));
    assert!(!page.contains("<script") && page.contains("&lt;script&gt;"));
    let table = tasks_table(&[record], &names(&[hostile]));
    assert!(!page.contains('\u{1b}') && !table.contains('\u{1b}'));
    assert!(!page.contains('\u{202e}') && !table.contains('\u{202e}'));
}

#[test]
fn subjects_are_averaged_beside_the_documents_and_listed() {
    let mut record = model("m", vec![task("mmlu", Some(0.25), 30)]);
    record.tasks[0].acc_by_group = Some(0.3125);
    record.tasks[0].groups = serde_json::from_value(
        json!([{"group": "law", "documents": 20, "acc": 0.2, "acc_stderr": 0.09}]),
    )
    .unwrap();
    let page = tasks_page(&[vec![record.clone()]], &names(&["m"]));
    in_order(&page, &["mean of groups", "31.25", "mmlu by group", "law", "20.00 ± 9.00"]);
    let table = tasks_table(&[record.clone()], &names(&["m"]));
    in_order(&table, &["by group", "31.25", "law"]);
    record.tasks[0].groups[0].documents = 2;
    let table = tasks_table(&[record], &names(&["m"]));
    assert!(
        !table.contains("law") && table.contains("1 groups of 2 documents, too few"),
        "{table}"
    );
}
