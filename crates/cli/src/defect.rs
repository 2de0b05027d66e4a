//! Panics. Libraries that read what strangers wrote may panic where it is caught and answered
//! (`lns_tokenizer::guarded`): then nothing is said of it. One that nobody catches is a defect of this program, and is
//! reported as one.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind, set_hook},
    process::ExitCode,
    sync::{Arc, Mutex},
};

/// What Rust programs return that panicked.
const PANICKED: u8 = 101;

/// Runs the program.
pub(crate) fn reported(program: impl FnOnce() -> ExitCode) -> ExitCode {
    let latest = Arc::new(Mutex::new(String::new()));
    let noted = latest.clone();
    set_hook(Box::new(move |panic| {
        let trace = Backtrace::capture();
        let trace = match trace.status() {
            BacktraceStatus::Captured => format!("\n{trace}"),
            _ => String::new(),
        };
        if let Ok(mut noted) = noted.lock() {
            *noted = format!("{panic}{trace}");
        }
    }));
    catch_unwind(AssertUnwindSafe(program)).unwrap_or_else(|_| {
        let panic = latest.lock().map(|noted| noted.clone()).unwrap_or_default();
        let _ = writeln!(
            std::io::stderr(),
            "error: lns {panic}\nThis is a defect of lns, not of what was typed; please report it with \
             the command."
        );
        ExitCode::from(PANICKED)
    })
}
