//! What a terminal can show, and tables that fit in it.

use std::fmt::Write;

use unicode_width::UnicodeWidthStr;

use crate::text::shortened;

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

    /// Words of `text` in lines that fit. The narrow space inside a number does not break a line.
    pub(crate) fn wrap(self, text: &str, tone: Tone, out: &mut String) {
        let mut line = String::new();
        for word in self.spell(text).split_ascii_whitespace() {
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
