//! Ctrl-C and termination: the first asks for a snapshot and an orderly end, the second ends at once.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::Context;

use crate::printer::Printer;

/// A file that would grow beyond the limit that the system sets (`ulimit -f`) is an error of the write,
/// reported as a full disk is, instead of the program's end.
pub(crate) fn outlive_file_limits() -> std::io::Result<()> {
    #[cfg(unix)]
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    Ok(())
}

/// A flag that is set when the program is asked to stop.
pub(crate) fn flag(printer: &Printer) -> anyhow::Result<Arc<AtomicBool>> {
    let asked = Arc::new(AtomicBool::new(false));
    let (set, quiet) = (asked.clone(), printer.is_quiet());
    ctrlc::set_handler(move || {
        if set.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        if !quiet {
            Printer::new(false, false)
                .note("Stopping after this step, with a snapshot; once more to stop at once.");
        }
    })
    .context("the signals that stop a program cannot be caught")?;
    Ok(asked)
}
