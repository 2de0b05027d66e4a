//! Ctrl-C, termination and a terminal that hangs up: the first signal asks for a snapshot and an
//! orderly end, the second ends at once.

use std::{
    process::ExitCode,
    sync::{
        Arc,
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

/// Whether the program is asked to stop, and by which signal.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    pub(crate) asked: AtomicBool,
    signal: AtomicU8,
}

impl Stop {
    /// How soon a training ends.
    pub(crate) const AFTER_THIS_STEP: &str = "step, with a snapshot";
    /// How soon a diagnosis ends.
    pub(crate) const AFTER_THIS_LAYER: &str = "layer, with the windows that are whole";

    /// Listens from now on. Signals that were to be ignored when the program began, as `nohup` and
    /// scripts have it, stay ignored.
    /// `soon` says when the work will end.
    pub(crate) fn listen(printer: &Printer, soon: &'static str) -> anyhow::Result<Arc<Self>> {
        let stop = Arc::new(Self::default());
        let (told, quiet) = (stop.clone(), printer.is_quiet());
        on_signals(move |signal| {
            if told.asked.load(Ordering::Relaxed) {
                std::process::exit((BY_SIGNAL + signal).into());
            }
            told.signal.store(signal, Ordering::Relaxed);
            told.asked.store(true, Ordering::Relaxed);
            if !quiet {
                Printer::new(false, false)
                    .note(&format!("Stopping after this {soon}; once more to stop at once."));
            }
        })
        .context("the signals that stop a program cannot be caught")?;
        Ok(stop)
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
