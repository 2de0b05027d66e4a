//! Where words go: results to standard output, everything else to standard error.
//!
//! Messages quote what strangers wrote into files: names, settings, reasons. They are made harmless
//! here, once, whatever they came through (`lns_show`).

use std::{
    io::{ErrorKind, IsTerminal, Write},
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use lns_report::TableStyle;
use lns_show::{clean, clean_coloured, clean_json, clean_lines, clean_prose};
use serde::Serialize;

use crate::pulse::{Amount, Pulse};

/// Writes what a verb has to say.
pub(crate) struct Printer {
    /// Whether notes and progress are left out.
    pub(crate) quiet: bool,
    /// Whether standard output is for a program, so that it gets JSON and nothing else.
    pub(crate) json: bool,
}

impl Printer {
    /// A result for a person; nothing under `--json`.
    pub(crate) fn result(&self, text: &str) -> anyhow::Result<()> {
        if self.json { Ok(()) } else { write_stdout(&clean_lines(text)) }
    }

    /// A table in [`Self::table_style`], as [`Self::result`].
    pub(crate) fn table(&self, text: &str) -> anyhow::Result<()> {
        if self.json { Ok(()) } else { write_stdout(&clean_coloured(text)) }
    }

    /// A result for a program; nothing without `--json`.
    pub(crate) fn json(&self, value: &impl Serialize) -> anyhow::Result<()> {
        if !self.json {
            return Ok(());
        }
        write_stdout(&clean_json(&(serde_json::to_string_pretty(value)? + "\n")))
    }

    /// Text as a model makes it; nothing under `--json`.
    pub(crate) fn stream(&self, text: &str) -> anyhow::Result<()> {
        if self.json { Ok(()) } else { write_stdout(&clean_prose(text)) }
    }

    /// What stands before a line that a person is to type.
    pub(crate) fn ask(&self, text: &str) {
        let mut out = std::io::stderr().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    /// What is happening, for a person who waits.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            let _ = writeln!(std::io::stderr(), "{}", clean_lines(text));
        }
    }

    pub(crate) fn error(&self, error: &anyhow::Error) {
        self.error_with(error, &str::to_owned);
    }

    /// Prints an error after `words` has put it in other words.
    pub(crate) fn error_with(&self, error: &anyhow::Error, words: &dyn Fn(&str) -> String) {
        let said = words(&described(error));
        let _ = writeln!(std::io::stderr(), "error: {}", clean_lines(&said));
    }

    /// How wide and how plain a table on standard output should be.
    pub(crate) fn table_style(&self) -> TableStyle {
        let terminal = std::io::stdout().is_terminal();
        let width = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
        let terminal_width = || terminal_size::terminal_size().map_or(100, |size| size.0.0.into());
        let width = width.unwrap_or_else(terminal_width);
        let color = terminal && std::env::var_os("NO_COLOR").is_none();
        TableStyle { width, color, unicode: speaks_unicode() }
    }

    /// Whether notes are left out.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// A bar of `length` steps, on a terminal.
    pub(crate) fn bar(&self, length: u64, template: &str) -> ProgressBar {
        let shown = !self.quiet && std::io::stderr().is_terminal();
        let bar = if shown { ProgressBar::new(length) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar
    }

    /// A count of tokens that goes up; how far is not known before.
    pub(crate) fn count(&self, what: &str) -> Count {
        let bar = self.bar(0, "{msg} {human_pos} tokens, {per_sec}");
        bar.set_message(clean(what));
        self.counted(bar, Amount::new(what, "tokens", 0))
    }

    /// A bar of bytes that are written.
    pub(crate) fn bytes(&self, what: &str, total: u64) -> Count {
        let template =
            "{msg} {wide_bar:.cyan/dim} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left";
        let bar = self.bar(total, template);
        bar.set_message(clean(what));
        self.counted(bar, Amount::new(what, "bytes", total))
    }

    fn counted(&self, bar: ProgressBar, amount: Amount) -> Count {
        Count { bar, pulse: Pulse::begin(self.quiet), amount }
    }

    /// A bar for `passes` layer passes, each of which is so many tokens through the whole model.
    pub(crate) fn progress(&self, what: &str, passes: u64, tokens_per_pass: f64) -> Progress {
        self.progress_in("tokens", what, passes, tokens_per_pass)
    }

    /// The same in another unit than tokens.
    pub(crate) fn progress_in(
        &self,
        unit: &'static str,
        what: &str,
        passes: u64,
        units_per_pass: f64,
    ) -> Progress {
        let shown = !self.quiet && std::io::stderr().is_terminal();
        let total = (passes as f64 * units_per_pass) as u64;
        let bar = if shown { ProgressBar::new(total) } else { ProgressBar::hidden() };
        let template = "{msg} {wide_bar:.cyan/dim} {percent:>3} %  {per_sec}  {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            let style = style.with_key(
                "per_sec",
                move |state: &indicatif::ProgressState, out: &mut dyn std::fmt::Write| {
                    let _ = write!(out, "{:.0} {unit}/s", state.per_sec());
                },
            );
            bar.set_style(style);
        }
        bar.set_message(clean(what));
        bar.enable_steady_tick(Duration::from_millis(200));
        let (pulse, amount) = (Pulse::begin(self.quiet), Amount::new(what, unit, total));
        Progress { bar, pulse, amount, done: AtomicU64::new(0), units_per_pass }
    }
}

/// The error and those causes that its text does not already hold.
fn described(error: &anyhow::Error) -> String {
    error.chain().skip(1).fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}

/// Whether the locale says that the terminal shows Unicode; so does no locale at all.
fn speaks_unicode() -> bool {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG"));
    locale.is_none_or(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}

/// A progress bar, or lines, counted in tokens, or whatever its unit is, through the whole model.
pub(crate) struct Progress {
    bar: ProgressBar,
    pulse: Option<Pulse>,
    amount: Amount,
    done: AtomicU64,
    units_per_pass: f64,
}

impl Progress {
    pub(crate) fn advance(&self, passes: u64) {
        let done = self.done.fetch_add(passes, Ordering::Relaxed) + passes;
        let done = (done as f64 * self.units_per_pass) as u64;
        self.bar.set_position(done);
        if let Some(pulse) = &self.pulse {
            pulse.beat(|elapsed| self.amount.line(done, elapsed));
        }
    }
}

/// A count that goes up.
pub(crate) struct Count {
    bar: ProgressBar,
    pulse: Option<Pulse>,
    amount: Amount,
}

impl Count {
    pub(crate) fn set(&self, count: u64) {
        self.bar.set_position(count);
        if let Some(pulse) = &self.pulse {
            pulse.beat(|elapsed| self.amount.line(count, elapsed));
        }
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Says what is wrong with what was typed, or the help or version that was asked for.
pub(crate) fn answer(answer: &clap::Error) -> ExitCode {
    let printed = answer.print().and_then(|()| std::io::stdout().flush());
    match printed {
        Err(error) if !answer.use_stderr() && error.kind() != ErrorKind::BrokenPipe => {
            Printer { quiet: false, json: false }.error(&unwritable(error));
            ExitCode::FAILURE
        }
        // What is wrong is the same wherever it could not be said.
        _ => ExitCode::from(answer.exit_code() as u8),
    }
}

fn unwritable(error: std::io::Error) -> anyhow::Error {
    anyhow::Error::new(error).context("standard output cannot be written to")
}

/// Writes to standard output; a reader that went away is not an error.
fn write_stdout(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.map_err(unwritable),
    }
}
