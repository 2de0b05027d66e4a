//! Numbers, times and strangers' text as a person reads them on a terminal.

use lns_show::clean;

/// What stands where there is no number.
pub(crate) const NONE: &str = "–";

/// Strings longer than this are cut: a line of a terminal shows no more.
const LONGEST: usize = 300;

/// `text` in one line, without anything that moves the cursor, rings, colours, hides or turns around
/// what follows.
pub(crate) fn plain(text: &str) -> String {
    let line = text.chars().take(LONGEST).map(|c| if "\t\n\r".contains(c) { ' ' } else { c });
    clean(&line.collect::<String>())
}

/// 1234567 → `1,234,567`
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// 4912640 → `4.91 M`
pub(crate) fn compact(number: u64) -> String {
    let value = number as f64;
    // The bounds are where two decimals would round up to the next unit.
    match value {
        v if v < 999.5 => number.to_string(),
        v if v < 999.5e3 => format!("{} k", significant(v / 1e3)),
        v if v < 999.5e6 => format!("{} M", significant(v / 1e6)),
        v if v < 999.5e9 => format!("{} G", significant(v / 1e9)),
        v => format!("{} T", significant(v / 1e12)),
    }
}

/// Three significant digits: `0.0123`, `4.91`, `340`, `12345`, `3.00e-4`, `1.20e7`.
pub(crate) fn significant(number: f64) -> String {
    let size = number.abs();
    if !number.is_finite() {
        NONE.to_owned()
    } else if number == 0.0 {
        "0".to_owned()
    } else if (0.00995..99_999.5).contains(&size) {
        // 9.995 is shown as 10.0, so its decimals are those of 10.
        let exponent = (size * 1.0005).log10().floor();
        format!("{number:.*}", (2.0 - exponent).max(0.0) as usize)
    } else {
        format!("{number:.2e}")
    }
}

/// A number that may be missing, by [`significant`].
pub(crate) fn significant_or_none(number: Option<f64>) -> String {
    number.map_or(NONE.to_owned(), significant)
}

/// A loss: four decimals, where differences between schemes show.
pub(crate) fn loss(loss: Option<f64>) -> String {
    match loss {
        Some(loss) if loss.abs() < 1e5 => format!("{loss:.4}"),
        other => significant_or_none(other),
    }
}

/// e^loss
pub(crate) fn perplexity(loss: Option<f64>) -> String {
    significant_or_none(loss.map(f64::exp))
}

/// `45 s`, `12 min 31 s`, `1 h 02 min`, `3 d 04 h`
pub(crate) fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {:02} s", seconds % 60),
        3600..86_400 => format!("{hours} h {:02} min", minutes % 60),
        _ => format!("{} d {:02} h", grouped(days), hours % 24),
    }
}

/// `1 run`, `3 runs`
pub(crate) fn counted(count: usize, what: &str) -> String {
    format!("{} {}", grouped(count as u64), lns_record::noun(count, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_keeps_its_letters_and_loses_what_steers_a_terminal() {
        assert_eq!(plain("LNS ÷√ℓ, 模型"), "LNS ÷√ℓ, 模型");
        assert_eq!(plain("\u{1b}[2Ja\u{7}\u{9b}b\nc"), "\u{fffd}[2Ja\u{fffd}\u{fffd}b c");
        assert_eq!(plain("a\u{202e}b\u{200b}c"), "a\u{fffd}b\u{fffd}c");
        assert_eq!(plain(&"x".repeat(10_000)).len(), LONGEST);
    }

    #[test]
    fn numbers_are_grouped_and_have_three_digits() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([999, 1000, 4_912_640].map(compact), ["999", "1.00 k", "4.91 M"]);
        assert_eq!([999_600, 134_515_008].map(compact), ["1.00 M", "135 M"]);
        let shown = [0.0, 0.0123, 9.996, 340.2, 12345.6, 3e-4, -2.5, 1.2e7, f64::NAN];
        let expected = ["0", "0.0123", "10.0", "340", "12346", "3.00e-4", "-2.50", "1.20e7", NONE];
        assert_eq!(shown.map(significant), expected);
        assert_eq!(loss(Some(4.02519)), "4.0252");
        assert_eq!(perplexity(Some(1e6)), NONE);
    }

    #[test]
    fn durations_have_two_units() {
        assert_eq!(duration(45.9), "45 s");
        assert_eq!(duration(751.0), "12 min 31 s");
        assert_eq!(duration(3720.0), "1 h 02 min");
        assert_eq!(duration(273_600.0), "3 d 04 h");
        assert_eq!([f64::NAN, -5.0].map(duration), ["0 s", "0 s"]);
        assert!(duration(f64::INFINITY).ends_with(" h"));
    }
}
