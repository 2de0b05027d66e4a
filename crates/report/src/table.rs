//! The same numbers for a terminal: what has room, most telling first.

use std::fmt::Write;

use lns_record::{
    DiagnoseRecord, HeavyKind, HeavyToken, LayerRecord, Numbers, StreamRecord, TasksRecord,
};
use lns_show::layers_in_words;

use crate::charts::common_threshold;
use crate::columns;
use crate::comparable::incomparable;
use crate::number::{counted, figure, grouped, measured, number};
use crate::scale::Scale;
use crate::tasks::tasks_table;
use crate::terminal::{Cells, Column, Table, TableStyle, Tone, fit, write_tables};
use crate::text::{clean, labels, quoted, shortened};

/// Places in the reading order: those that quantities ask for lie between, and the layers' names come
/// before all.
const NAMES: usize = 0;
const VARIANCE_BARS: usize = 20;
const REMOVAL_BARS: usize = 130;
const IDLE: usize = 140;

/// One model's numbers by layer, with its verdict.
pub fn diagnosis_table(record: &DiagnoseRecord, style: TableStyle) -> String {
    let mut out = String::new();
    let label = labels(std::slice::from_ref(record)).concat();
    style.wrap(&format!("{label} · {}", summary(record)), Tone::Strong, &mut out);
    out.push('\n');
    let tables = fit(diagnosis_columns(record, style), style.width);
    let tone = |row: usize| match record.verdict.idle_layers.contains(&row) {
        true => Tone::Idle,
        false => Tone::Plain,
    };
    write_tables(&tables, columns::rows(record), tone, style, &mut out);
    out.push('\n');
    for note in notes(record, &tables) {
        style.wrap(&note, Tone::Quiet, &mut out);
    }
    if !record.tasks.is_empty() {
        let tasks = record.tasks.iter().map(|task| task.answers.clone()).collect();
        let answers = TasksRecord { model: record.name.clone(), tasks, seconds: 0.0 };
        out += &format!("\n{}", style.spell(&tasks_table(&[answers], &[label])));
    }
    let heavy = heavy_table(record, style);
    if !heavy.is_empty() {
        out.push('\n');
        out += &heavy;
    }
    out.push('\n');
    style.wrap(&clean(&record.verdict.text), Tone::Plain, &mut out);
    out.trim_end().to_owned() + "\n"
}

/// `30 layers · 2 048 tokens · loss 3.11 ± 0.05 · perplexity 22.4`
fn summary(record: &DiagnoseRecord) -> String {
    let loss = match (&record.baseline, record.text.masking) {
        (None, _) => "no head, no loss".to_owned(),
        (Some(loss), Some(_)) => {
            format!("loss {} per masked token", measured(loss.nll, loss.nll_stderr))
        }
        (Some(loss), None) => format!(
            "loss {} · perplexity {}",
            measured(loss.nll, loss.nll_stderr),
            number(loss.perplexity)
        ),
    };
    let layers = counted(record.layers.len() as u64, "layer");
    format!("{layers} · {} · {loss}", counted(record.text.tokens, "token"))
}

/// Most telling first, so that [`fit`] leaves the end for a later table; the numbers give the reading order, and
/// columns with the same number stay or go together. What is measured says itself how telling it is and
/// where it stands.
fn diagnosis_columns(record: &DiagnoseRecord, style: TableStyle) -> Vec<(usize, Column)> {
    let text = |place, heading: &str, cells: Vec<String>| {
        let cells = cells.iter().map(|cell| style.spell(cell)).collect();
        let heading = style.spell(&shortened(&clean(heading), 24));
        (place, Column { group: "", heading, cells: Cells::Text(cells) })
    };
    let bars = |place, shares: Vec<Option<f64>>| {
        (place, Column { group: "", heading: String::new(), cells: Cells::Bars(shares) })
    };
    let depth = record.layers.len();
    let name = |i: usize| if i < depth { i.to_string() } else { "out".to_owned() };
    let idle = |i: usize| if record.verdict.idle_layers.contains(&i) { "idle" } else { "" };
    let rows = || 0..columns::rows(record);
    let numbers = Numbers::of(record);
    let mut ranked = vec![
        (11, text(IDLE, "", rows().map(|i| idle(i).to_owned()).collect())),
        (12, bars(REMOVAL_BARS, removal_shares(record))),
        (110, bars(VARIANCE_BARS, variance_shares(record))),
    ];
    for quantity in record.quantities() {
        if let Some(column) = &quantity.column {
            let place = (column.place as usize).max(NAMES + 1);
            let cells = columns::in_terminal(record, &numbers, quantity);
            ranked.push((column.rank, text(place, &column.heading, cells)));
        }
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    let names = text(NAMES, "layer", rows().map(name).collect());
    std::iter::once(names).chain(ranked.into_iter().map(|(_, column)| column)).collect()
}

fn removal_scale(record: &DiagnoseRecord) -> Scale {
    let costs = record.layers.iter().filter_map(|l| l.removal.map(|r| r.delta_nll));
    Scale::removal(costs, common_threshold([record]))
}

fn variance_scale(record: &DiagnoseRecord) -> Scale {
    Scale::positive(record.stream.iter().map(StreamRecord::typical))
}

fn removal_shares(record: &DiagnoseRecord) -> Vec<Option<f64>> {
    let scale = removal_scale(record);
    let zero = scale.baseline();
    let share = |layer: &LayerRecord| {
        Some((scale.place(layer.removal?.delta_nll)? - zero) / (1.0 - zero).max(f64::MIN_POSITIVE))
    };
    record.layers.iter().map(share).collect()
}

fn variance_shares(record: &DiagnoseRecord) -> Vec<Option<f64>> {
    let scale = variance_scale(record);
    record.stream.iter().map(|s| scale.place(s.typical())).collect()
}

fn notes(record: &DiagnoseRecord, tables: &[Table]) -> Vec<String> {
    let mut notes = Vec::new();
    let bars = |order, scale: Scale| -> String {
        let shown = tables.iter().flatten().any(|(found, _)| *found == order);
        scale.note().filter(|_| shown).map(|note| format!(" Bars: {note}.")).unwrap_or_default()
    };
    if !record.stream.is_empty() {
        notes.push(format!(
            "variance: of the stream entering the layer, {}.{}",
            whose_variance(std::slice::from_ref(record)),
            bars(VARIANCE_BARS, variance_scale(record))
        ));
    }
    if record.layers.iter().any(|layer| layer.removal.is_some()) {
        notes.push(format!(
            "Δ loss: nats per token lost without the layer, ± one standard error.{}",
            bars(REMOVAL_BARS, removal_scale(record))
        ));
    }
    if !record.tasks.is_empty() {
        notes.push(
            "log p: nats of the right answer's log-probability lost per document without the layer; acc, \
             acc_norm: percentage points of accuracy lost; ± one standard error, paired by document."
                .to_owned(),
        );
    }
    for estimate in &record.estimates {
        notes.push(format!(
            "Rank correlation (Spearman) over {}: {} between \"{}\" and \"{}\".",
            counted(estimate.entries as u64, "layer"),
            number(estimate.rank_correlation),
            clean(record.label(&estimate.quantity)),
            clean(record.label(&estimate.of))
        ));
    }
    let numbers = Numbers::of(record);
    let missing = record.described.iter().filter(|probe| !probe.is_in(&numbers));
    let missing: Vec<String> = missing.map(|probe| clean(&probe.name)).collect();
    if !missing.is_empty() {
        notes.push(format!("Not measured: --probes {} would.", missing.join(",")));
    }
    notes
}

/// Whose variance stands in the column of that name, which files of earlier versions do not all have.
fn whose_variance(records: &[DiagnoseRecord]) -> &'static str {
    match records.iter().flat_map(|r| &r.stream).all(|s| s.variance_median.is_some()) {
        true => {
            "the median token's; mean: over the same tokens, those that are neither a window's first nor a \
             separator; all tokens: the mean with those"
        }
        false => {
            "the median token's, or in the file of an earlier version the mean without each window's first \
             token"
        }
    }
}

/// The tokens that carry massive activations; nothing when there are none.
fn heavy_table(record: &DiagnoseRecord, style: TableStyle) -> String {
    /// Kinds that are shown; diagnose.json has every token.
    const SHOWN: usize = 6;
    let kinds = HeavyToken::kinds(&record.heavy_tokens);
    if kinds.is_empty() {
        return String::new();
    }
    let mut out = String::new();
    style.wrap(
        &format!(
            "Massive activations: {} of {} carry more than {} times the median token's variance.",
            grouped(record.heavy_tokens.len() as u64),
            counted(record.text.tokens, "token"),
            HeavyToken::FACTOR
        ),
        Tone::Plain,
        &mut out,
    );
    let shown = &kinds[..kinds.len().min(SHOWN)];
    let column = |order, heading: &str, cells: fn(&HeavyKind) -> String| {
        let cells = shown.iter().map(|kind| style.spell(&cells(kind))).collect();
        let heading = style.spell(heading);
        (order, Column { group: "", heading, cells: Cells::Text(cells) })
    };
    let texts = shown.iter().map(|kind| shortened(&style.spell(&quoted(&kind.text)), 24)).collect();
    let token = Column { group: "", heading: "token".to_owned(), cells: Cells::Words(texts) };
    let columns = vec![
        (0, token),
        column(1, "id", |kind| kind.id.to_string()),
        column(2, "times", |kind| kind.count.to_string()),
        column(3, "window's first", |kind| kind.first.to_string()),
        column(4, "from layer", |kind| {
            kind.layer.map_or_else(|| "embedding".to_owned(), |layer| layer.to_string())
        }),
        column(5, "× median", |kind| figure(kind.ratio)),
    ];
    write_tables(&fit(columns, style.width), shown.len(), |_| Tone::Plain, style, &mut out);
    if kinds.len() > shown.len() {
        let more = (kinds.len() - shown.len()) as u64;
        let more = format!("and {} more", counted(more, "kind"));
        style.wrap(&more, Tone::Quiet, &mut out);
    }
    out
}

/// Several models side by side, layer by layer.
pub fn comparison_table(records: &[DiagnoseRecord], style: TableStyle) -> String {
    let mut out = String::new();
    for (at, (record, label)) in records.iter().zip(labels(records)).enumerate() {
        let mut line = format!("#{} {label} · {}", at + 1, summary(record));
        if let Some(depth) = record.verdict.effective_depth {
            let _ = write!(line, " · effective depth {}", number(depth));
        }
        style.wrap(&line, Tone::Strong, &mut out);
        if !record.verdict.idle_layers.is_empty() {
            let idle = layers_in_words(&record.verdict.idle_layers);
            style.wrap(&format!("#{} idle layers: {idle}", at + 1), Tone::Idle, &mut out);
        }
    }
    if let Some(found) = incomparable(records) {
        style.wrap(&found.sentence, Tone::Strong, &mut out);
    }
    out.push('\n');
    let rows = records.iter().map(columns::rows).max().unwrap_or(0);
    let tables = fit(comparison_columns(records, rows, style), style.width);
    write_tables(&tables, rows, |_| Tone::Plain, style, &mut out);
    out.push('\n');
    let note = format!(
        "variance: of the stream entering the layer (the row after a model's last layer: leaving it), \
         {}. Δ loss: nats per token lost without the layer, ± one standard error.",
        whose_variance(records).split(';').next().unwrap_or_default()
    );
    style.wrap(&note, Tone::Quiet, &mut out);
    // A line of its own: a mark and what it means are not torn apart.
    if records.iter().any(|record| !record.verdict.idle_layers.is_empty()) {
        style.wrap("*: an idle layer", Tone::Quiet, &mut out);
    }
    out
}

fn comparison_columns(
    records: &[DiagnoseRecord],
    rows: usize,
    style: TableStyle,
) -> Vec<(usize, Column)> {
    type Fill = fn(&DiagnoseRecord) -> Vec<String>;
    let groups: [(usize, &str, Fill); 3] = [
        (3, "Δ loss", marked_removals),
        (1, "variance", |record| columns::stream(record, StreamRecord::typical)),
        (2, "influence", |record| columns::layers(record, |l| l.block_influence)),
    ];
    let names = (0..rows).map(|i| i.to_string()).collect();
    let layer = Column { group: "", heading: "layer".to_owned(), cells: Cells::Text(names) };
    let mut columns = vec![(0, layer)];
    for (order, group, fill) in groups {
        for (at, record) in records.iter().enumerate() {
            let cells = Cells::Text(fill(record).iter().map(|cell| style.spell(cell)).collect());
            columns.push((order, Column { group, heading: format!("#{}", at + 1), cells }));
        }
    }
    columns
}

/// With a star on idle layers.
fn marked_removals(record: &DiagnoseRecord) -> Vec<String> {
    let mark = |i: usize| if record.verdict.idle_layers.contains(&i) { "*" } else { " " };
    let cells = columns::removals(record, |l| l.removal).into_iter().enumerate();
    cells.map(|(i, cell)| if cell.is_empty() { cell } else { cell + mark(i) }).collect()
}
