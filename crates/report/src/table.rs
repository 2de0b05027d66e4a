//! The same numbers for a terminal: what has room, most telling first.

use std::fmt::Write;

use lns_record::{DiagnoseRecord, HeavyKind, HeavyToken, LayerRecord, Numbers, StreamRecord};
use lns_show::layers_in_words;
use unicode_width::UnicodeWidthStr;

use crate::charts::common_threshold;
use crate::columns;
use crate::comparable::incomparable;
use crate::number::{counted, figure, grouped, measured, number};
use crate::scale::Scale;
use crate::text::{clean, labels, quoted, shortened};

/// What the terminal can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableStyle {
    /// Columns; what does not fit beside the rest stands in a table below it.
    pub width: usize,
    /// Whether to use ANSI colours.
    pub color: bool,
    /// Whether to use characters beyond ASCII.
    pub unicode: bool,
}

/// Between columns.
const GAP: usize = 2;
/// A bar is worth its room from this width on, and takes no more than this.
const BAR: std::ops::RangeInclusive<usize> = 6..=24;

/// Places in the reading order: those that quantities ask for lie between, and the layers' names come
/// before all.
const NAMES: usize = 0;
const VARIANCE_BARS: usize = 20;
const REMOVAL_BARS: usize = 130;
const IDLE: usize = 140;

#[derive(Clone, Copy)]
pub(crate) enum Tone {
    Plain,
    Strong,
    Quiet,
    Idle,
}

impl TableStyle {
    fn paint(self, text: &str, tone: Tone) -> String {
        let code = match tone {
            Tone::Strong => "1",
            Tone::Quiet => "2",
            Tone::Idle => "33",
            Tone::Plain => return text.to_owned(),
        };
        if self.color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// `text` in the characters that the terminal has.
    pub(crate) fn spell(self, text: &str) -> String {
        if self.unicode {
            return text.to_owned();
        }
        let mut spelt = String::new();
        for c in text.chars() {
            match c {
                '−' | '–' | '─' => spelt.push('-'),
                '±' => spelt.push_str("+-"),
                'Δ' => spelt.push('d'),
                '×' => spelt.push('x'),
                '·' => spelt.push_str("--"),
                '…' => spelt.push_str(".."),
                '‖' => spelt.push_str("||"),
                '\u{202f}' => spelt.push(' '),
                c if c.is_ascii() => spelt.push(c),
                _ => spelt.push('?'),
            }
        }
        spelt
    }

    /// `share` of `width`, in eighths of a column.
    fn bar(self, share: f64, width: usize) -> String {
        let eighths = (share.clamp(0.0, 1.0) * width as f64 * 8.0).round() as usize;
        let (full, part) = (eighths / 8, eighths % 8);
        if !self.unicode {
            return "#".repeat(full + usize::from(part >= 4));
        }
        let end = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][part];
        "█".repeat(full) + end
    }

    /// Words of `text` in lines that fit.
    pub(crate) fn wrap(self, text: &str, tone: Tone, out: &mut String) {
        let mut line = String::new();
        for word in self.spell(text).split_whitespace() {
            if !line.is_empty() && line.width() + 1 + word.width() > self.width {
                let _ = writeln!(out, "{}", self.paint(&line, tone));
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        if !line.is_empty() {
            let _ = writeln!(out, "{}", self.paint(&line, tone));
        }
    }
}

#[derive(Clone)]
pub(crate) enum Cells {
    /// Set flush right.
    Text(Vec<String>),
    /// Set flush left.
    Words(Vec<String>),
    /// Shares of a full bar.
    Bars(Vec<Option<f64>>),
}

#[derive(Clone)]
pub(crate) struct Column {
    /// Columns of one group stay or go together; its name stands above them.
    pub(crate) group: &'static str,
    pub(crate) heading: String,
    pub(crate) cells: Cells,
}

impl Column {
    fn width(&self) -> usize {
        let cells = match &self.cells {
            Cells::Text(cells) | Cells::Words(cells) => {
                cells.iter().map(|cell| cell.width()).max().unwrap_or(0)
            }
            Cells::Bars(_) => *BAR.start(),
        };
        cells.max(self.heading.width())
    }

    /// A bar repeats its neighbour: alone it tells nothing.
    fn repeats(&self) -> bool {
        matches!(self.cells, Cells::Bars(_))
    }

    fn is_empty(&self) -> bool {
        match &self.cells {
            Cells::Text(cells) | Cells::Words(cells) => cells.iter().all(String::is_empty),
            Cells::Bars(shares) => shares.iter().all(Option::is_none),
        }
    }
}

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
    format!(
        "{} · {} · loss {} · perplexity {}",
        counted(record.layers.len() as u64, "layer"),
        counted(record.text.tokens, "token"),
        measured(record.baseline.nll, record.baseline.nll_stderr),
        number(record.baseline.perplexity)
    )
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

/// Columns that stand beside each other, with their places in the reading order.
pub(crate) type Table = Vec<(usize, Column)>;

/// Tables that fit in `width`, given the most telling columns first: what has no room stands in a table
/// below, whose rows have their names again. Each is in reading order; bars grow into what is left, and
/// those without room are left out.
pub(crate) fn fit(columns: Table, width: usize) -> Vec<Table> {
    let mut columns: Table = columns.into_iter().filter(|(_, column)| !column.is_empty()).collect();
    let names: Table =
        columns.iter().take_while(|(order, _)| *order == columns[0].0).cloned().collect();
    columns.drain(..names.len());
    let mut tables = Vec::new();
    loop {
        let (mut table, mut left) = (names.clone(), Table::new());
        let wide = |group: &[(usize, Column)]| -> usize {
            group.iter().map(|(_, column)| column.width() + GAP).sum()
        };
        let mut used = wide(&names);
        for group in columns.chunk_by(|a, b| a.0 == b.0) {
            // The first group is what the table is for: it stays in the narrowest terminal.
            if table.len() == names.len() || used + wide(group) <= width + GAP {
                used += wide(group);
                table.extend_from_slice(group);
            } else if !group.iter().all(|(_, column)| column.repeats()) {
                left.extend_from_slice(group);
            }
        }
        table.sort_by_key(|(order, _)| *order);
        tables.push(table);
        if left.is_empty() {
            return tables;
        }
        columns = left;
    }
}

/// Each with its rows named, a line between them.
pub(crate) fn write_tables(
    tables: &[Table],
    rows: usize,
    tone: impl Fn(usize) -> Tone,
    style: TableStyle,
    out: &mut String,
) {
    for (at, table) in tables.iter().enumerate() {
        if at > 0 {
            out.push('\n');
        }
        write_table(table, rows, &tone, style, out);
    }
}

fn write_table(
    columns: &[(usize, Column)],
    rows: usize,
    tone: impl Fn(usize) -> Tone,
    style: TableStyle,
    out: &mut String,
) {
    let columns: Vec<&Column> = columns.iter().map(|(_, column)| column).collect();
    let widths = widths(&columns, style.width);
    if columns.iter().any(|column| !column.group.is_empty()) {
        line(&group_line(&columns, &widths, style), Tone::Strong, style, out);
    }
    let headings: Vec<String> = columns.iter().map(|column| column.heading.clone()).collect();
    line(&joined(&headings, &columns, &widths), Tone::Strong, style, out);
    for row in 0..rows {
        let cell = |(column, width): (&&Column, &usize)| match &column.cells {
            Cells::Text(cells) | Cells::Words(cells) => cells.get(row).cloned().unwrap_or_default(),
            Cells::Bars(shares) => {
                shares.get(row).copied().flatten().map(|s| style.bar(s, *width)).unwrap_or_default()
            }
        };
        let cells: Vec<String> = columns.iter().zip(&widths).map(cell).collect();
        line(&joined(&cells, &columns, &widths), tone(row), style, out);
    }
}

fn line(text: &str, tone: Tone, style: TableStyle, out: &mut String) {
    let _ = writeln!(out, "{}", style.paint(text.trim_end(), tone));
}

/// The room that is left goes to the bars, in equal parts.
fn widths(columns: &[&Column], width: usize) -> Vec<usize> {
    let is_bar = |column: &&Column| matches!(column.cells, Cells::Bars(_));
    let used: usize = columns.iter().map(|column| column.width() + GAP).sum();
    let bars = columns.iter().filter(|column| is_bar(column)).count().max(1);
    let share = (width + GAP).saturating_sub(used) / bars;
    let widened = |column: &&Column| match is_bar(column) {
        true => (column.width() + share).min(*BAR.end()),
        false => column.width(),
    };
    columns.iter().map(widened).collect()
}

fn joined(cells: &[String], columns: &[&Column], widths: &[usize]) -> String {
    let mut text = String::new();
    for ((cell, column), width) in cells.iter().zip(columns).zip(widths) {
        let pad = " ".repeat(width.saturating_sub(cell.width()));
        match column.cells {
            Cells::Text(_) => text += &(pad + cell),
            Cells::Words(_) | Cells::Bars(_) => text += &(cell.clone() + &pad),
        }
        text += &" ".repeat(GAP);
    }
    text
}

/// Group names, each over its columns at the end of a rule.
fn group_line(columns: &[&Column], widths: &[usize], style: TableStyle) -> String {
    let mut text = String::new();
    let mut at = 0;
    for group in columns.chunk_by(|a, b| a.group == b.group) {
        let wide: usize = widths[at..at + group.len()].iter().map(|width| width + GAP).sum();
        let name = shortened(&style.spell(group[0].group), wide - GAP);
        let rule = if name.is_empty() { " " } else { "─" };
        let rule = rule.repeat((wide - GAP).saturating_sub(name.width() + 1));
        text += &format!("{} {name}{}", style.spell(&rule), " ".repeat(GAP));
        at += group.len();
    }
    text
}
