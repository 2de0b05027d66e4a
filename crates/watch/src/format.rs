//! Numbers, times and strangers' text as a person reads them on a terminal.

use lns_show::{clean, with_minus, with_prefix};
pub(crate) use lns_show::{counted, grouped};

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

/// A count in three digits and the prefix that fits: `4.91 M`.
pub(crate) fn compact(number: u64) -> String {
    with_prefix(number as f64, "")
}

/// Three significant digits: `0.0123`, `4.91`, `340`, `12345`, `3.00e-4`, `1.20e7`. Longer numbers than
/// [`lns_show::figure`] writes stay plain, because axes and columns have room for five digits.
pub(crate) fn significant(number: f64) -> String {
    let size = number.abs();
    if !number.is_finite() {
        NONE.to_owned()
    } else if number == 0.0 {
        "0".to_owned()
    } else if (0.00995..99_999.5).contains(&size) {
        // 9.995 is shown as 10.0, so its decimals are those of 10.
        let exponent = (size * 1.0005).log10().floor();
        with_minus(&format!("{number:.*}", (2.0 - exponent).max(0.0) as usize))
    } else {
        with_minus(&format!("{number:.2e}"))
    }
}

/// A number as [`significant`] writes it, or the sign for none.
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

/// The perplexity e^loss.
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
    fn numbers_have_three_digits() {
        assert_eq!([999, 1000, 4_912_640].map(compact), ["999", "1.00 k", "4.91 M"]);
        assert_eq!([999_600, 134_515_008].map(compact), ["1.00 M", "135 M"]);
        let shown = [0.0, 0.0123, 9.996, 340.2, 12345.6, 3e-4, -2.5, 1.2e7, f64::NAN];
        let expected = ["0", "0.0123", "10.0", "340", "12346", "3.00e-4", "−2.50", "1.20e7", NONE];
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
