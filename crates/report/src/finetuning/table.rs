//! The table for a terminal, the finding first.

use lns_record::{CellRecord, FinetuningRecord};

use super::{FLOORS, headline, interval_words, label, number, points, share};
use crate::terminal::{Cells, Column, TableStyle, Tone, fit, write_tables};
use crate::text::{clean, shortened};

/// Schemes with their accuracies before and after, after sentences that say what they come to.
pub fn finetuning_table(record: &FinetuningRecord, style: TableStyle) -> String {
    let mut out = String::new();
    for (at, sentence) in headline(record).iter().enumerate() {
        let tone = if at == 0 { Tone::Strong } else { Tone::Plain };
        style.wrap(sentence, tone, &mut out);
    }
    if record.groups.is_empty() {
        return out;
    }
    out.push('\n');
    let rows = rows(record);
    let tables = fit(columns(record, &rows, style), style.width);
    let tone = |row: usize| match rows[row].strong {
        true => Tone::Strong,
        false => Tone::Plain,
    };
    write_tables(&tables, rows.len(), tone, style, &mut out);
    out.push('\n');
    style.wrap(
        "Accuracy (acc) in per cent; differences in percentage points, paired by document and seed.",
        Tone::Quiet,
        &mut out,
    );
    style.wrap(interval_words(record), Tone::Quiet, &mut out);
    out
}

/// A row of the table, in words.
struct Row {
    name: String,
    what: &'static str,
    cells: Vec<String>,
    strong: bool,
}

fn rows(record: &FinetuningRecord) -> Vec<Row> {
    let written = |cells: &[CellRecord], write| cells.iter().map(|c| number(c, write)).collect();
    let mut rows = Vec::new();
    for group in &record.groups {
        let row = |what, cells, strong| Row { name: label(&group.name), what, cells, strong };
        rows.push(row("before", written(&group.before, share), false));
        rows.push(row("after", written(&group.after, share), true));
        rows.push(row("difference", written(&group.difference, points), false));
    }
    for pair in &record.pairs {
        let name = format!("{} − {}", label(&pair.name), label(&record.baseline));
        let row = |what, cells| Row { name: name.clone(), what, cells, strong: false };
        rows.push(row("before", written(&pair.before, points)));
        rows.push(row("after", written(&pair.after, points)));
    }
    for floor in FLOORS {
        let cells = floor.cells(&record.columns).into_iter();
        let cells = cells.map(|cell| cell.map_or(String::new(), share)).collect();
        rows.push(Row { name: floor.name.to_owned(), what: "", cells, strong: false });
    }
    rows
}

/// The mean is the most telling, then the tasks in their order.
fn columns(record: &FinetuningRecord, rows: &[Row], style: TableStyle) -> Vec<(usize, Column)> {
    let words = |of: &dyn Fn(&Row) -> String| {
        Cells::Words(rows.iter().map(|row| style.spell(&of(row))).collect())
    };
    let column = |heading: &str, cells| Column { group: "", heading: style.spell(heading), cells };
    let text = |at: usize| {
        let cell = |row: &Row| style.spell(row.cells.get(at).map_or("", |cell| cell));
        Cells::Text(rows.iter().map(cell).collect())
    };
    let count = record.columns.len();
    let mut columns = vec![
        (0, column("scheme", words(&|row| shortened(&row.name, 30)))),
        (1, column("", words(&|row| row.what.to_owned()))),
        (2 + count, column("mean", text(count))),
    ];
    for (at, task) in record.columns.iter().enumerate() {
        columns.push((2 + at, column(&shortened(&clean(&task.task), 18), text(at))));
    }
    columns
}
