//! Read-only memory maps of weight files: opening is free, and pages that were read can be handed
//! back.
//!
//! A file that another process truncates while it is mapped kills this process (SIGBUS on Unix),
//! and one that is overwritten in place gives mixed values. Both are accepted: no reader of mapped
//! files can do better, and everything this project writes is renamed into place, never edited.

#![allow(unsafe_code)]

use std::ops::Range;
use std::path::Path;

use lns_record::open_regular;
use memmap2::Mmap;

use crate::CheckpointError;

/// Sixteen pages: below, a tensor is not worth a system call. Above, reading all of SmolLM2 (210
/// calls) takes as long as without.
const RELEASE_FROM: usize = 1 << 16;

#[derive(Debug)]
pub(crate) struct FileMap(Mmap);

impl FileMap {
    pub(crate) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let unreadable = |error| CheckpointError::of_reading(path, error);
        let file = open_regular(path).map_err(unreadable)?;
        // SAFETY: the map is never written through. That others leave the file alone while it is
        // mapped is the assumption that the module's documentation states; every access is checked
        // against the length at the time of mapping, and no bit pattern is invalid as `u8`.
        let map = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
        Ok(Self(map))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Tells the kernel that `range` will not be needed soon, if it is large: a checkpoint read
    /// tensor by tensor then never has more than one tensor of the file resident.
    pub(crate) fn release(&self, range: Range<usize>) {
        if range.len() < RELEASE_FROM {
            return;
        }
        #[cfg(unix)]
        {
            use memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the map is a shared, read-only map of a file, so a page that is dropped holds
            // the same bytes when it is read again, by this thread or another.
            let advised =
                unsafe { self.0.unchecked_advise_range(DontNeed, range.start, range.len()) };
            // Advice that was not taken costs memory, nothing else.
            drop(advised);
        }
    }
}
