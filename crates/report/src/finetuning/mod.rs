//! The report of a study that fine-tunes: the paper's Table 2 in form, with intervals, the rows of those who
//! do not read the questions, and the schemes against each other. The page and the terminal's table.

mod page;
mod table;

use lns_record::{
    CellRecord, FinetunedGroupRecord, FinetunedPairRecord, FinetuningRecord, TaskColumnRecord,
};
use lns_show::{counted, signed, with_minus};

use crate::text::{clean, shortened};

pub use page::finetuning_page;
pub use table::finetuning_table;

/// Behind an accuracy that is not above what is reached without reading the questions.
const AT_FLOOR: &str = "†";

/// A name, made safe to show.
fn label(name: &str) -> String {
    match shortened(&clean(name), 48) {
        name if name.trim().is_empty() => "unnamed".to_owned(),
        name => name,
    }
}

/// `63.42`, in per cent.
fn share(value: f64) -> String {
    with_minus(&format!("{:.2}", 100.0 * value))
}

/// `+1.20`, in percentage points.
fn points(value: f64) -> String {
    signed(100.0 * value, 2)
}

/// A cell's number, or why there is none.
fn number(cell: &CellRecord, write: fn(f64) -> String) -> String {
    match (cell.value, &cell.reason) {
        (Some(value), _) if value.mean.is_finite() => {
            let mark = if cell.at_floor { AT_FLOOR } else { "" };
            format!("{}{mark}", write(value.mean))
        }
        (_, Some(reason)) => clean(reason),
        _ => "—".to_owned(),
    }
}

/// `60.1 to 66.7`: a cell's interval.
fn interval(cell: &CellRecord, write: fn(f64) -> String) -> Option<String> {
    let value = cell.value?;
    let (low, high) = (value.low?, value.high?);
    (low.is_finite() && high.is_finite()).then(|| format!("{} to {}", write(low), write(high)))
}

/// `± 3.30`: half of a cell's interval, which is the same to both sides.
fn margin(cell: &CellRecord) -> Option<String> {
    let value = cell.value?;
    let margin = value.high? - value.mean;
    margin.is_finite().then(|| format!("± {:.2}", 100.0 * margin))
}

/// A row of those who do not read the questions.
struct Floor {
    name: &'static str,
    of: fn(&TaskColumnRecord) -> Option<f64>,
}

const FLOORS: [Floor; 3] = [
    Floor { name: "always the first", of: |column| column.always_first },
    Floor { name: "always the same, the luckiest", of: |column| column.always_same },
    Floor { name: "guessing", of: |column| column.chance },
];

impl Floor {
    /// For each column, and last the mean where every column has it.
    fn cells(&self, columns: &[TaskColumnRecord]) -> Vec<Option<f64>> {
        let mut cells: Vec<Option<f64>> = columns.iter().map(|column| (self.of)(column)).collect();
        let all: Option<Vec<f64>> = cells.iter().copied().collect();
        let mean = all.filter(|all| !all.is_empty());
        cells.push(mean.map(|all| all.iter().sum::<f64>() / all.len() as f64));
        cells
    }
}

/// What a difference between groups allows to say.
fn told(cell: &CellRecord) -> &'static str {
    let ends = cell.value.and_then(|value| Some((value.low?, value.high?)));
    match ends {
        // Accuracies are steps of a document: that seeds agree to the last digit is chance, not certainty.
        Some((low, high)) if low == high => "undecided",
        Some((low, _)) if low > 0.0 => "higher",
        Some((_, high)) if high < 0.0 => "lower",
        Some(_) => "undecided",
        None => "no interval",
    }
}

/// Accuracies after tuning, and how many of them are not above the floor.
fn at_floor(
    record: &FinetuningRecord,
    of: fn(&FinetunedGroupRecord) -> &[CellRecord],
) -> (u64, u64) {
    let columns = record.columns.len();
    let cells = record.groups.iter().flat_map(|group| of(group).iter().take(columns));
    let cells: Vec<&CellRecord> = cells.filter(|cell| cell.value.is_some()).collect();
    (cells.iter().filter(|cell| cell.at_floor).count() as u64, cells.len() as u64)
}

/// The finding, in sentences.
fn headline(record: &FinetuningRecord) -> Vec<String> {
    let mut said = Vec::new();
    for pair in &record.pairs {
        said.extend(against_baseline(record, pair));
    }
    if record.pairs.is_empty() {
        said.push("One group alone: there is nothing to compare it with.".to_owned());
    }
    for (when, of) in [
        ("before", (|group| &group.before[..]) as fn(&FinetunedGroupRecord) -> &[CellRecord]),
        ("after", |group| &group.after[..]),
    ] {
        let (floor, all) = at_floor(record, of);
        if all > 0 {
            said.push(format!(
                "Of {} {when} fine-tuning, {} not distinguishable from answering without reading the \
                 question ({AT_FLOOR}).",
                counted(all, "accuracy").replace("accuracys", "accuracies"),
                match floor {
                    0 => "none is".to_owned(),
                    1 => "1 is".to_owned(),
                    more => format!("{more} are"),
                }
            ));
        }
    }
    if record.missing_runs > 0 {
        said.push(format!(
            "{} to come: these numbers are not the last.",
            counted(record.missing_runs, "model")
        ));
    }
    said
}

/// `After fine-tuning, lns answers 0.40 points more of its questions right than pre on average (95 %: …):
/// undecided; before it was …`
fn against_baseline(record: &FinetuningRecord, pair: &FinetunedPairRecord) -> Option<String> {
    let (before, after) = (pair.before.last()?, pair.after.last()?);
    let (name, baseline) = (label(&pair.name), label(&record.baseline));
    let said = |cell: &CellRecord| {
        let value = cell.value?;
        let interval = interval(cell, points);
        let interval = interval.map_or(String::new(), |ends| format!(" (95 %: {ends})"));
        Some(format!("{} points{interval}, {}", points(value.mean), told(cell)))
    };
    let Some(after) = said(after) else {
        return Some(format!("{name} and {baseline}: no mean over all tasks after fine-tuning."));
    };
    let before = said(before).map_or(String::new(), |before| format!("; before it: {before}"));
    Some(format!(
        "Mean accuracy of {name} minus that of {baseline} after fine-tuning: {after}{before}."
    ))
}

/// What the intervals are over.
fn interval_words(record: &FinetuningRecord) -> &'static str {
    let cells = record.groups.iter().flat_map(|group| &group.after);
    let over = |what: &str| cells.clone().any(|cell| cell.over == what && cell.value.is_some());
    match (over("documents"), over("seeds")) {
        (_, false) => {
            "Intervals (95 %) are over the tasks' documents, because there is one seed: another seed may \
             give more than they allow."
        }
        (false, true) => {
            "Intervals (95 %) are Student's t over seeds: of two or three seeds they are wide, and where \
             seeds happen to agree they are too narrow."
        }
        (true, true) => {
            "Intervals (95 %) are Student's t over seeds; of a group with one seed over the tasks' \
             documents."
        }
    }
}

/// How examples are put, in words.
fn format_words(format: &str) -> &'static str {
    match format {
        "continuation" => {
            "continuation: the context as lm-evaluation-harness words it, and the right choice, which is \
             learned"
        }
        "generating" => {
            "generating: an instruction that lists the choices as LLM-Adapters words it, and a sentence \
             that names the right one, which is learned"
        }
        _ => "unknown",
    }
}

/// How tasks are asked, in words.
fn asked_words(asked: &str) -> &'static str {
    match asked {
        "continuation" => {
            "as lm-evaluation-harness asks: the choice with the largest log-likelihood after the context \
             counts (acc)"
        }
        "generating" => {
            "as the instruction of the training data: the answer sentence with the largest log-likelihood \
             counts; LLM-Adapters generates one and reads it instead"
        }
        _ => "unknown",
    }
}
