//! Progress where there is no terminal to draw a bar on: a line now and then, so that a log, or whoever reads the
//! other end of a pipe, sees that work goes on and when it will end.

use std::{
    io::{IsTerminal, Write},
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::FormattedDuration;
use lns_show::{clean, clean_lines, grouped};

/// Between two lines: seldom enough that hours of work stay a readable log.
const EVERY: Duration = Duration::from_secs(30);

/// When the next line is due.
pub(crate) struct Pulse {
    begun: Instant,
    last: Mutex<Instant>,
}

impl Pulse {
    /// For work that begins now; `None` where nobody wants lines, or a bar is drawn.
    pub(crate) fn begin(quiet: bool) -> Option<Self> {
        let wanted = !quiet && !std::io::stderr().is_terminal();
        wanted.then(|| Self::begun(Instant::now()))
    }

    fn begun(now: Instant) -> Self {
        Self { begun: now, last: Mutex::new(now) }
    }

    /// Writes the line that `line` makes of the time since the beginning, if one is due.
    pub(crate) fn beat(&self, line: impl FnOnce(Duration) -> String) {
        let now = Instant::now();
        if self.is_due(now) {
            let line = line(now.duration_since(self.begun));
            let _ = writeln!(std::io::stderr(), "{}", clean_lines(&line));
        }
    }

    /// Whether half a minute has passed since the last line; if so, that line is `now`'s. Of several threads that
    /// ask at once, one is told so.
    fn is_due(&self, now: Instant) -> bool {
        let Ok(mut last) = self.last.lock() else { return false };
        let due = now.saturating_duration_since(*last) >= EVERY;
        if due {
            *last = now;
        }
        due
    }
}

/// What there is to do, and in which unit it is counted.
pub(crate) struct Amount {
    what: String,
    unit: &'static str,
    /// 0 when it is not known before.
    total: u64,
}

impl Amount {
    pub(crate) fn new(what: &str, unit: &'static str, total: u64) -> Self {
        Self { what: clean(what), unit, total }
    }

    /// How far the work is: `Diagnosing: 40 %, 12 tokens/s, 00:01:30 left`.
    pub(crate) fn line(&self, done: u64, elapsed: Duration) -> String {
        let Self { what, unit, total } = self;
        let rate = done as f64 / elapsed.as_secs_f64().max(1e-9);
        let per_second = format!("{} {unit}/s", grouped(rate.round() as u64));
        if *total == 0 {
            return format!("{what}: {} {unit}, {per_second}", grouped(done));
        }
        let percent = 100 * u128::from(done.min(*total)) / u128::from(*total);
        if done == 0 {
            return format!("{what}: {percent} %");
        }
        let left = total.saturating_sub(done) as f64 / rate;
        // Days are enough to say that something is wrong with the estimate.
        let left = FormattedDuration(Duration::from_secs(left.min(1e8) as u64));
        format!("{what}: {percent} %, {per_second}, {left} left")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_due_every_half_minute_and_not_before() {
        let begun = Instant::now();
        let pulse = Pulse::begun(begun);
        let after = |seconds| pulse.is_due(begun + Duration::from_secs(seconds));
        assert!(!after(0));
        assert!(!after(29));
        assert!(after(31));
        assert!(!after(60), "the last line was at 31");
        assert!(after(61));
        assert!(after(600), "a long wait asks for one line, not for all that were missed");
        assert!(!after(601));
    }

    #[test]
    fn a_line_says_how_far_how_fast_and_how_long_still() {
        let amount = Amount::new("Diagnosing", "tokens", 1000);
        let minute = Duration::from_secs(60);
        assert_eq!(amount.line(0, minute), "Diagnosing: 0 %");
        assert_eq!(amount.line(600, minute), "Diagnosing: 60 %, 10 tokens/s, 00:00:40 left");
        assert_eq!(amount.line(1200, minute), "Diagnosing: 100 %, 20 tokens/s, 00:00:00 left");
    }

    #[test]
    fn work_of_unknown_length_is_counted() {
        let line = Amount::new("Tokenizing", "tokens", 0).line(120, Duration::from_secs(60));
        assert_eq!(line, "Tokenizing: 120 tokens, 2 tokens/s");
    }

    #[test]
    fn a_strangers_name_cannot_steer_the_terminal() {
        let line = Amount::new("a\u{1b}[2Jb", "choices", 0).line(1, Duration::from_secs(60));
        assert!(!line.contains('\u{1b}'), "{line:?}");
    }
}
