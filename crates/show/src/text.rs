//! Text that came from a stranger, made safe to show on a terminal or a page.
//!
//! Names, messages and settings in files are written by strangers. Escaping for HTML and SVG is the
//! template's work; what is left for here are characters that no escape makes harmless: control
//! characters (XML forbids them, terminals obey them), marks that reorder the text around them, and
//! characters without any width, by which two different names look the same.
//!
//! This is the one rule: whatever prints, prints what one of these functions gives.

/// What stands in the place of a character that would act.
const REPLACEMENT: char = '\u{fffd}';

/// One line of text: every character that would act instead of being shown is replaced by �, line
/// breaks too.
///
/// ```
/// assert_eq!(lns_show::clean("a\u{1b}[31mb\nc"), "a\u{fffd}[31mb\u{fffd}c");
/// ```
pub fn clean(text: &str) -> String {
    replaced(text, acts)
}

/// As [`clean`], with line breaks and tabs kept.
pub fn clean_lines(text: &str) -> String {
    replaced(text, |c| acts(c) && !is_layout(c))
}

/// As [`clean_lines`], with the colours kept that a table was given: sequences `ESC [ digits m`. The
/// strangers' text in it was [`clean`]ed when the table was made.
pub fn clean_coloured(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let mut shown = clean_lines(parts.next().unwrap_or_default());
    for part in parts {
        let end = part.find(|c: char| !c.is_ascii_digit() && c != ';').unwrap_or(part.len());
        shown.push(if part[end..].starts_with('m') { '\u{1b}' } else { REPLACEMENT });
        shown.push('[');
        shown += &clean_lines(part);
    }
    shown
}

/// What a model wrote, as it is: only what would steer the terminal or reorder the text is replaced.
/// Joiners and direction marks stay, for Persian, Hindi and emoji are written with them.
pub fn clean_prose(text: &str) -> String {
    let steers =
        |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    replaced(text, |c| steers(c) && !is_layout(c))
}

/// JSON that says the same without a character that would act: it is spelt `\u....`, as JSON's own
/// writer spells some of them. Such characters stand only inside strings, except line breaks.
pub fn clean_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for c in json.chars() {
        if acts(c) && !is_layout(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                shown += &format!("\\u{unit:04x}");
            }
        } else {
            shown.push(c);
        }
    }
    shown
}

fn replaced(text: &str, acts: impl Fn(char) -> bool) -> String {
    text.chars().map(|c| if acts(c) { REPLACEMENT } else { c }).collect()
}

fn is_layout(c: char) -> bool {
    matches!(c, '\n' | '\t')
}

/// Whether a character acts instead of being shown.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{fffe}'
                | '\u{ffff}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every character that Unicode 16 calls bidirectional control, and others without a width.
    const ACTING: [char; 26] = [
        '\0',
        '\u{7}',
        '\u{8}',
        '\r',
        '\u{1b}',
        '\u{7f}',
        '\u{85}',
        '\u{9b}',
        '\u{ad}',
        '\u{61c}',
        '\u{180e}',
        '\u{200b}',
        '\u{200d}',
        '\u{200e}',
        '\u{200f}',
        '\u{2028}',
        '\u{202a}',
        '\u{202e}',
        '\u{2060}',
        '\u{2066}',
        '\u{2069}',
        '\u{feff}',
        '\u{fffa}',
        '\u{fffe}',
        '\u{e0001}',
        '\u{e007f}',
    ];

    #[test]
    fn characters_that_act_are_replaced_and_others_kept() {
        for c in ACTING {
            let text = format!("a{c}b");
            assert_eq!(clean(&text), "a\u{fffd}b", "{c:?}");
            assert_eq!(clean_lines(&text), "a\u{fffd}b", "{c:?}");
            assert_eq!(clean_coloured(&text), "a\u{fffd}b", "{c:?}");
        }
        let harmless = "naïve 模型 <b> ÷√ℓ, − … é";
        assert_eq!(clean(harmless), harmless);
        assert_eq!(clean("a\nb\tc"), "a\u{fffd}b\u{fffd}c");
        assert_eq!(clean_lines("a\nb\tc"), "a\nb\tc");
    }

    #[test]
    fn only_whole_colours_stay_in_a_coloured_table() {
        let table = "\u{1b}[1;31mred\u{1b}[0m \u{1b}[m\n";
        assert_eq!(clean_coloured(table), table);
        for text in ["\u{1b}[2J", "\u{1b}[1;31", "\u{1b}]0;x\u{7}", "\u{1b}[31\u{1b}[K", "\u{1b}"] {
            assert!(!clean_coloured(text).contains('\u{1b}'), "{text:?}");
        }
    }

    #[test]
    fn prose_keeps_the_marks_that_languages_are_written_with() {
        let text = "می\u{200c}خواهم क्\u{200d}ष \u{1f469}\u{200d}\u{1f52c}\u{200f}!\n";
        assert_eq!(clean_prose(text), text);
        assert_eq!(clean_prose("\u{1b}[2J\u{202e}a\r"), "\u{fffd}[2J\u{fffd}a\u{fffd}");
    }

    #[test]
    fn json_says_the_same_in_characters_that_do_not_act() {
        assert_eq!(
            clean_json("{\n \"a\u{9b}\": \"\u{202e}é\u{e0001}\"\n}"),
            "{\n \"a\\u009b\": \"\\u202eé\\udb40\\udc01\"\n}"
        );
    }
}
