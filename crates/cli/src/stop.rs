//! Ctrl-C, termination and a terminal that hangs up: the first signal asks for a snapshot and an
//! orderly end, the second ends at once.

use std::{
    ops::ControlFlow,
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};

use anyhow::Context;

use crate::printer::Printer;

/// Ctrl-C's signal.
const INTERRUPT: u8 = 2;
/// A program that a signal ended exits with this and the signal's number, as shells say it.
const BY_SIGNAL: u8 = 128;

/// A file that would grow beyond the limit that the system sets (`ulimit -f`) is an error of the write,
/// reported as a full disk is, instead of the program's end.
pub(crate) fn outlive_file_limits() -> std::io::Result<()> {
    #[cfg(unix)]
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    Ok(())
}

/// A signal came while there was nothing yet that could be kept.
#[derive(Debug)]
pub(crate) struct Stopped {
    code: u8,
}

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(
            "Stopped before the text was prepared; nothing is kept, and the same command begins again.",
        )
    }
}

impl std::error::Error for Stopped {}

impl Stopped {
    /// How the program ends.
    pub(crate) fn exit_code(&self) -> ExitCode {
        self.code.into()
    }
}

/// Whether the program is asked to stop, and by which signal.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    pub(crate) asked: AtomicBool,
    signal: AtomicU8,
    soon: Mutex<&'static str>,
}

impl Stop {
    /// How soon a training ends.
    pub(crate) const AFTER_THIS_STEP: &str = "step, with a snapshot";
    /// How soon the preparation of a text ends.
    pub(crate) const AFTER_THESE_TOKENS: &str = "piece of text, of which nothing is kept";
    /// How soon a diagnosis ends.
    pub(crate) const AFTER_THIS_LAYER: &str = "layer, with the windows that are whole";

    /// Listens from now on; `soon` says when the work will end after a signal. Signals that were to
    /// be ignored when the program began, as `nohup` and scripts have it, stay ignored.
    pub(crate) fn listen(printer: &Printer, soon: &'static str) -> anyhow::Result<Arc<Self>> {
        let stop = Arc::new(Self::default());
        stop.ends_after(soon);
        let (told, quiet) = (stop.clone(), printer.is_quiet());
        on_signals(move |signal| {
            if told.asked.load(Ordering::Relaxed) {
                std::process::exit((BY_SIGNAL + signal).into());
            }
            told.signal.store(signal, Ordering::Relaxed);
            told.asked.store(true, Ordering::Relaxed);
            if !quiet {
                let soon = *told.soon.lock().unwrap_or_else(PoisonError::into_inner);
                Printer { quiet: false, json: false }
                    .note(&format!("Stopping after this {soon}; once more to stop at once."));
            }
        })
        .context("the signals that stop a program cannot be caught")?;
        Ok(stop)
    }

    /// What is told from now on of when the work will end.
    pub(crate) fn ends_after(&self, soon: &'static str) {
        *self.soon.lock().unwrap_or_else(PoisonError::into_inner) = soon;
    }

    /// An error if the program is asked to stop: what is at work has nothing to keep.
    pub(crate) fn check(&self) -> Result<(), Stopped> {
        match self.asked.load(Ordering::Relaxed) {
            true => Err(Stopped { code: BY_SIGNAL + self.signal.load(Ordering::Relaxed) }),
            false => Ok(()),
        }
    }

    /// How text is prepared on: not, once the program is asked to stop.
    pub(crate) fn flow(&self) -> ControlFlow<()> {
        match self.asked.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    /// How the program ends that was stopped: 130 after Ctrl-C, 143 after SIGTERM, so that what was to
    /// come after it does not.
    pub(crate) fn exit_code(&self) -> ExitCode {
        (BY_SIGNAL + self.signal.load(Ordering::Relaxed)).into()
    }
}

#[cfg(unix)]
fn on_signals(mut act: impl FnMut(u8) + Send + 'static) -> anyhow::Result<()> {
    use signal_hook::{
        consts::{SIGHUP, SIGINT, SIGTERM},
        iterator::Signals,
    };
    const _: () = assert!(SIGINT == INTERRUPT as i32);
    let ignored = ignored();
    let wanted = [SIGINT, SIGTERM, SIGHUP];
    let wanted = wanted.into_iter().filter(|signal| ignored & (1 << (signal - 1)) == 0);
    let mut signals = Signals::new(wanted)?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            // The three have small numbers everywhere.
            act(u8::try_from(signal).unwrap_or(INTERRUPT));
        }
    })?;
    Ok(())
}

/// The signals that are ignored: bit n − 1 for signal n. Only Linux says so without an unsafe call.
#[cfg(unix)]
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(not(unix))]
fn on_signals(mut act: impl FnMut(u8) + Send + 'static) -> anyhow::Result<()> {
    Ok(ctrlc::set_handler(move || act(INTERRUPT))?)
}
