//! Accuracies as a person reads them.

use lns_record::{TaskDifferenceRecord, TaskGroupRecord, TaskRecord, TasksRecord};
use lns_show::{counted, grouped, signed};

use crate::model;

/// A row for each task and model, what stands out in words, then groups and differences.
pub(super) fn accuracies(records: &[TasksRecord]) -> String {
    let several = records.len() > 1;
    let names = names(records);
    let mut rows: Vec<Vec<String>> = vec![
        [
            "task",
            "model",
            "documents",
            "acc %",
            "acc_norm %",
            "perplexity",
            "always first",
            "chance",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    let mut remarks = String::new();
    let tasks = records.first().map_or(0, |record| record.tasks.len());
    for task in 0..tasks {
        for (record, name) in records.iter().zip(&names) {
            let found = &record.tasks[task];
            rows.push(row(found, name));
            let whose =
                if several { format!("{}, {name}", found.task) } else { found.task.clone() };
            remarks += &remarks_on(found, &whose);
        }
    }
    let mut out = laid_out(&rows) + &remarks;
    for task in 0..tasks {
        out += &by_group(task, records, &names);
    }
    for (record, name) in records.iter().zip(&names).skip(1) {
        for task in &record.tasks {
            for difference in &task.differences {
                out += &in_words(difference, &task.task, [&names[0], name]);
            }
        }
    }
    out
}

/// Short names, told apart by the place in the list where two are the same.
fn names(records: &[TasksRecord]) -> Vec<String> {
    let short: Vec<String> =
        records.iter().map(|record| model::short_name(record.model.as_ref())).collect();
    let twice = |name: &String| short.iter().filter(|other| *other == name).count() > 1;
    let numbered = |(at, name): (usize, &String)| match twice(name) {
        true => format!("{name} #{}", at + 1),
        false => name.clone(),
    };
    short.iter().enumerate().map(numbered).collect()
}

fn row(found: &TaskRecord, name: &str) -> Vec<String> {
    let documents = match found.of == found.documents {
        true => grouped(found.documents),
        false => format!("{} of {}", grouped(found.documents), grouped(found.of)),
    };
    let shots =
        if found.shots > 0 { format!(", {}", counted(found.shots, "shot")) } else { String::new() };
    let plain =
        |value: Option<f64>| value.map_or(String::new(), |value| format!("{:.2}", 100.0 * value));
    let has_choices = found.chance.is_some();
    let norm = match found.acc_norm {
        None if has_choices && found.tied_norm > 0 => "—".to_owned(),
        value => value.map_or(String::new(), |_| share(value, found.acc_norm_stderr)),
    };
    vec![
        format!("{}{shots}", found.task),
        name.to_owned(),
        documents,
        share(found.acc, found.acc_stderr),
        norm,
        found.perplexity.map_or(String::new(), |value| format!("{value:.3}")),
        plain(found.always_first),
        plain(found.chance),
    ]
}

/// `69.00 ± 4.65`, in per cent.
fn share(value: Option<f64>, stderr: Option<f64>) -> String {
    let Some(value) = value else { return "—".to_owned() };
    let stderr = stderr.map_or(String::new(), |stderr| format!(" ± {:.2}", 100.0 * stderr));
    format!("{:.2}{stderr}", 100.0 * value)
}

fn remarks_on(found: &TaskRecord, whose: &str) -> String {
    let mut remarks = String::new();
    if found.not_finite > 0 {
        remarks += &format!(
            "{whose}: no accuracy, because {} a score that is not a finite number; the weights are damaged \
             or their values leave the range of f32\n",
            having(found.not_finite)
        );
    }
    for (tied, acc, what) in
        [(found.tied, found.acc, "acc"), (found.tied_norm, found.acc_norm, "acc_norm")]
    {
        if tied == 0 || found.not_finite > 0 || what == "acc_norm" && found.chance.is_none() {
            continue;
        }
        let meaning = match acc {
            None => "which says nothing of the model: always taking the first would",
            Some(_) => "of which the first was taken",
        };
        let what = if acc.is_none() { format!("no {what}") } else { what.to_owned() };
        remarks += &format!("{whose}: {what}: {} two best choices, {meaning}\n", having(tied));
    }
    if found.truncated > 0 {
        remarks += &format!(
            "{whose}: {} a context longer than the window, of which the end was read\n",
            having(found.truncated)
        );
    }
    remarks
}

/// `1 document has`, `2 documents have`.
fn having(documents: u64) -> String {
    let verb = if documents == 1 { "has" } else { "have" };
    format!("{} {verb}", counted(documents, "document"))
}

/// A row for each subject or phenomenon, where the task has them.
fn by_group(task: usize, records: &[TasksRecord], names: &[String]) -> String {
    let Some(first) = records.first().map(|record| &record.tasks[task]) else {
        return String::new();
    };
    if first.groups.is_empty() {
        return String::new();
    }
    let mut rows = vec![vec![first.task.clone(), "documents".to_owned()]];
    rows[0].extend(names.iter().map(|name| format!("{name}, acc %")));
    for (at, group) in first.groups.iter().enumerate() {
        let mut row = vec![group.group.clone(), grouped(group.documents)];
        let of = |record: &TasksRecord| {
            let group: &TaskGroupRecord = &record.tasks[task].groups[at];
            share(group.acc, group.acc_stderr)
        };
        row.extend(records.iter().map(of));
        rows.push(row);
    }
    format!("\n{}", laid_out(&rows))
}

/// `piqa acc: B +2.00 ± 1.10 points to A, paired (95 %: −0.20 to +4.20); right only in A 12, only in B
/// 34; McNemar p = 0.002`
fn in_words(difference: &TaskDifferenceRecord, task: &str, names: [&str; 2]) -> String {
    let points = |value: f64| signed(100.0 * value, 2);
    let [first, own] = names;
    let error = difference.stderr.map_or(String::new(), |error| format!(" ± {:.2}", 100.0 * error));
    let interval = match (difference.low, difference.high) {
        (Some(low), Some(high)) => format!(" (95 %: {} to {})", points(low), points(high)),
        _ => String::new(),
    };
    format!(
        "{task} {}: {own} {}{error} points to {first}, paired{interval}; right only in {first} {}, only \
         in {own} {}; McNemar p = {:.3}\n",
        difference.metric,
        points(difference.difference),
        grouped(difference.only_first),
        grouped(difference.only_second),
        difference.mcnemar_p,
    )
}

/// Columns as wide as what stands in them; those without content are left out.
fn laid_out(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let used = |column: &usize| rows.iter().skip(1).any(|row| !row[*column].is_empty());
    let columns: Vec<usize> = (0..columns).filter(used).collect();
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (at, column) in columns.iter().enumerate() {
            let (cell, width) = (&row[*column], width(*column));
            let pad = " ".repeat(width - cell.chars().count());
            // Names to the left, numbers to the right.
            match at {
                0 => line += &format!("{cell}{pad}"),
                _ if rows[0][*column] == "model" => line += &format!("  {cell}{pad}"),
                _ => line += &format!("  {pad}{cell}"),
            }
        }
        out += line.trim_end();
        out.push('\n');
    }
    out
}
