//! Libraries that panic.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a call into a library that may panic on input that its own checks let through, as that for
/// tokenizers does on some vocabularies.
///
/// # Errors
/// The text of the call's own error, or that the library panicked.
pub fn guarded<T, E: ToString>(call: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the library that reads it panicked".to_owned()),
    }
}
