//! The page and the table of a study that fine-tunes.

use lns_record::FinetuningRecord;
use lns_report::{TableStyle, finetuning_page, finetuning_table};
use serde_json::{Value, json};

fn cell(mean: f64, at_floor: bool) -> Value {
    json!({"value": {"mean": mean, "low": mean - 0.02, "high": mean + 0.02, "count": 200},
           "over": "documents", "at_floor": at_floor})
}

fn record() -> Value {
    let none = json!({"over": "seeds", "reason": "ties"});
    let group = |name: &str, shift: f64| {
        json!({"name": name, "runs": [{"seed": 1, "model": "m", "folder": "runs/x", "outcome": "finished",
            "steps": 5, "before": [null, null], "after": [null, null], "changes": [null, null]}],
            "before": [cell(0.5, true), none, none], "after": [cell(0.6 + shift, false), none, none],
            "difference": [cell(0.1 + shift, false), none, none]})
    };
    json!({"name": "circle", "settings": [["trained", "the whole model"]], "baseline": "pre",
        "format": "generating", "asked": "continuation",
        "data": {"sets": [{"set": "boolq", "documents": 12345, "duplicates": 67, "asked": 8, "train": 90,
                           "held_out": 9, "commonsense170k": 9427}],
                 "train": 90, "held_out": 9, "sha256": "abc"},
        "columns": [{"task": "boolq", "documents": 200, "of": 3270, "shots": 0, "always_first": 0.3783,
                     "always_same": 0.6217, "chance": 0.5},
                    {"task": "blimp", "documents": 200, "of": 67000, "shots": 0, "chance": 0.5}],
        "groups": [group("pre", 0.0), group("lns", 0.03)],
        "pairs": [{"name": "lns", "before": [cell(0.0, false), none, none],
                   "after": [cell(0.03, false), none, cell(0.03, false)],
                   "seeds": [{"seed": 1, "before": [null, null], "after": [{"metric": "acc",
                     "difference": 0.03, "stderr": 0.01, "low": 0.01, "high": 0.05, "only_first": 3,
                     "only_second": 9, "mcnemar_p": 0.146}, null]}]}],
        "missing_runs": 0})
}

fn read(value: Value) -> FinetuningRecord {
    serde_json::from_value(value).expect("a record")
}

#[test]
fn the_page_has_the_table_the_floor_the_marks_and_the_counts() {
    let page = finetuning_page(&read(record()));
    for expected in [
        "Mean accuracy of lns minus that of pre after fine-tuning: +3.00 points (95 %: +1.00 to +5.00), higher",
        "Of 2 accuracies before fine-tuning, 2 are not distinguishable",
        "Of 2 accuracies after fine-tuning, none is not distinguishable",
        "50.00†",
        "63.00<small>± 2.00</small>",
        "+13.00",
        ">ties<",
        "always the first",
        "37.83",
        "62.17",
        "generating: an instruction",
        "12\u{202f}345",
        ">67<",
        ">0.146<",
        "because there is one seed",
    ] {
        assert!(page.contains(expected), "{expected} is not on the page");
    }
    assert!(!page.contains("<script"));
}

#[test]
fn the_table_fits_a_terminal_and_has_the_same_numbers() {
    let style = TableStyle { width: 72, color: false, unicode: true };
    let table = finetuning_table(&read(record()), style);
    for expected in
        ["50.00†", "63.00", "ties", "lns − pre", "always the same, the luckiest", "62.17"]
    {
        assert!(table.contains(expected), "{expected} is not in\n{table}");
    }
    assert!(table.lines().all(|line| line.chars().count() <= 72), "{table}");
}

#[test]
fn what_strangers_write_stays_text_and_what_is_missing_leaves_no_hole() {
    let mut hostile = record();
    for place in
        ["/name", "/baseline", "/format", "/groups/0/name", "/columns/0/task", "/data/sha256"]
    {
        *hostile.pointer_mut(place).expect(place) = json!("<script>\u{1b}[31m</script>");
    }
    hostile["groups"][0]["before"][0]["value"]["mean"] = json!(1e300);
    let hostile = read(hostile);
    let page = finetuning_page(&hostile);
    assert!(!page.contains("<script") && !page.contains('\u{1b}'));
    let style = TableStyle { width: 100, color: false, unicode: false };
    assert!(finetuning_table(&hostile, style).is_ascii());
    let empty = json!({"name": "", "settings": [], "baseline": "", "format": "", "asked": "",
        "columns": [], "groups": [], "pairs": [], "missing_runs": 3});
    let empty = read(empty);
    assert!(finetuning_page(&empty).contains("3 models to come"));
    assert!(finetuning_table(&empty, style).contains("3 models to come"));
}

#[test]
fn seeds_that_agree_to_the_last_digit_decide_nothing() {
    let mut agreeing = record();
    for end in ["low", "high"] {
        agreeing["pairs"][0]["after"][2]["value"][end] = json!(0.03);
    }
    let page = finetuning_page(&read(agreeing));
    assert!(page.contains("(95 %: +3.00 to +3.00), undecided"));
}
