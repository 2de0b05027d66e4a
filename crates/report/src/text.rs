//! Text that came with a record, made safe to show and short enough: the names in it come from
//! strangers.

use lns_record::DiagnoseRecord;
pub(crate) use lns_show::{clean, clean_lines};
use maud::{Markup, html};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// A token's text with its ends visible, and what would act on a terminal written out.
pub(crate) fn quoted(text: &str) -> String {
    clean(&format!("{text:?}"))
}

/// A sentence with what it puts between backticks set as code.
pub(crate) fn prose(text: &str) -> Markup {
    let text = clean(text);
    let parts: Vec<&str> = text.split('`').collect();
    // One without a partner is a character like others.
    let paired = parts.len() % 2 == 1;
    html! {
        @if paired {
            @for (at, part) in parts.iter().enumerate() {
                @if at % 2 == 1 { code { (part) } } @else { (part) }
            }
        } @else { (text) }
    }
}

/// `text` in at most `columns` columns, its middle left out: both ends of a path tell more.
pub(crate) fn shortened(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let room = columns.saturating_sub(1);
    let tail = fitting(text.chars().rev(), room / 2).into_iter().rev();
    let head = fitting(text.chars(), room - room / 2);
    head.into_iter().chain(['…']).chain(tail).collect()
}

fn fitting(text: impl Iterator<Item = char>, columns: usize) -> Vec<char> {
    let mut used = 0;
    text.take_while(|c| {
        used += c.width().unwrap_or(0);
        used <= columns
    })
    .collect()
}

/// A short name for each record: the last part of its path, or the whole where that is not enough
/// to tell two apart.
pub(crate) fn labels(records: &[DiagnoseRecord]) -> Vec<String> {
    let last = |record: &DiagnoseRecord| -> String {
        let parts = record.name.split(['/', '\\']).rev();
        clean(parts.into_iter().find(|part| !part.is_empty()).unwrap_or("unnamed"))
    };
    let short: Vec<String> = records.iter().map(last).collect();
    let shared = |name: &String| short.iter().filter(|other| *other == name).count() > 1;
    let whole = |(name, record): (&String, &DiagnoseRecord)| match shared(name) {
        true => shortened(&clean(&record.name), 48),
        false => shortened(name, 48),
    };
    short.iter().zip(records).map(whole).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_between_backticks_is_set_as_code() {
        assert_eq!(prose("give `a <b>` here").into_string(), "give <code>a &lt;b&gt;</code> here");
        assert_eq!(prose("a ` alone").into_string(), "a ` alone");
    }

    #[test]
    fn a_long_name_loses_its_middle_and_fits() {
        assert_eq!(shortened("short", 5), "short");
        assert_eq!(shortened("abcdefghij", 7), "abc…hij");
        assert!(shortened("模型模型模型模型", 7).width() <= 7);
        assert_eq!(shortened("abc", 0), "…");
    }
}
