//! Accuracies in a terminal.

use lns_record::{TaskGroupRecord, TaskRecord, TasksRecord};
use lns_show::grouped;

use crate::text::clean_lines;

use super::words::{asked, difference, norm, plain, remarks, share};

/// A row for each task and model, what stands out in words, then groups and differences. The models were
/// asked the same tasks at once, and have `names` that tell them apart.
pub fn tasks_table(records: &[TasksRecord], names: &[String]) -> String {
    let several = records.len() > 1;
    let mut rows: Vec<Vec<String>> = vec![
        [
            "task",
            "model",
            "documents",
            "acc %",
            "acc_norm %",
            "by group",
            "perplexity",
            "always first",
            "chance",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    let mut said = String::new();
    let tasks = records.first().map_or(0, |record| record.tasks.len());
    for task in 0..tasks {
        for (record, name) in records.iter().zip(names) {
            let found = &record.tasks[task];
            rows.push(row(found, name));
            let whose =
                if several { format!("{}, {name}", found.task) } else { found.task.clone() };
            for remark in remarks(found) {
                said += &format!("{whose}: {remark}\n");
            }
        }
    }
    let mut out = laid_out(&rows) + &said;
    for task in 0..tasks {
        out += &by_group(task, records, names);
    }
    for (record, name) in records.iter().zip(names).skip(1) {
        for task in &record.tasks {
            for found in &task.differences {
                out += &format!("{}\n", difference(found, &task.task, [&names[0], name]));
            }
        }
    }
    // Names come from strangers.
    clean_lines(&out)
}

fn row(found: &TaskRecord, name: &str) -> Vec<String> {
    vec![
        found.task.clone(),
        name.to_owned(),
        asked(found),
        share(found.acc, found.acc_stderr),
        norm(found),
        plain(found.acc_by_group),
        found.perplexity.map_or(String::new(), |value| format!("{value:.3}")),
        plain(found.always_first),
        plain(found.chance),
    ]
}

/// Subjects of fewer documents say nothing by themselves: 0 of 2 looks like a sure 0.
const LISTED_FROM: u64 = 10;

/// A row for each subject or phenomenon, where the task has them, or why there is none.
fn by_group(task: usize, records: &[TasksRecord], names: &[String]) -> String {
    let Some(first) = records.first().map(|record| &record.tasks[task]) else {
        return String::new();
    };
    if first.groups.is_empty() {
        return String::new();
    }
    let documents = || first.groups.iter().map(|group| group.documents);
    if let (Some(least), Some(most)) = (documents().min(), documents().max())
        && least < LISTED_FROM
    {
        let range = if least == most { format!("{most}") } else { format!("{least} to {most}") };
        let (task, count) = (&first.task, first.groups.len());
        return format!(
            "\n{task}: {count} groups of {range} documents, too few to be listed (--json has them).\n"
        );
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
