//! Text that came with a record, made safe to show: the names in it come from strangers.
//!
//! Escaping for HTML and SVG is the template's work. What is left for here are characters that no
//! escape makes harmless: control characters (XML forbids them, terminals obey them) and marks that
//! reorder the text around them.

use lns_record::DiagnoseRecord;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// `text` with every character that would act instead of being shown replaced by �.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if acts(c) { '\u{fffd}' } else { c }).collect()
}

/// `text` with every character that would act on a terminal or a page instead of being shown replaced
/// by �, line breaks kept.
pub fn clean_lines(text: &str) -> String {
    text.split('\n').map(clean).collect::<Vec<_>>().join("\n")
}

fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        || matches!(c, '\u{fffe}' | '\u{ffff}')
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
    fn characters_that_act_are_replaced_and_others_kept() {
        assert_eq!(clean("a\u{1b}[31mb\u{202e}c\0d\n"), "a\u{fffd}[31mb\u{fffd}c\u{fffd}d\u{fffd}");
        assert_eq!(clean("naïve 模型 <b>"), "naïve 模型 <b>");
        assert_eq!(clean_lines("a\nb\u{1b}"), "a\nb\u{fffd}");
    }

    #[test]
    fn a_long_name_loses_its_middle_and_fits() {
        assert_eq!(shortened("short", 5), "short");
        assert_eq!(shortened("abcdefghij", 7), "abc…hij");
        assert!(shortened("模型模型模型模型", 7).width() <= 7);
        assert_eq!(shortened("abc", 0), "…");
    }
}
