//! Read-only memory maps of token shards: a text larger than memory can be trained on.
//!
//! A file that another process truncates while it is mapped kills this process (SIGBUS on Unix),
//! and one that is overwritten in place gives mixed values. Both are accepted: no reader of mapped
//! files can do better, and everything this project writes is renamed into place, never edited.

#![allow(unsafe_code)]

use std::io;
use std::path::Path;

use lns_record::open_regular;
use memmap2::Mmap;

/// Maps a whole file.
pub(crate) fn map(path: &Path) -> io::Result<Mmap> {
    let file = open_regular(path)?;
    // SAFETY: the map is never written through. That others leave the file alone while it is mapped
    // is the assumption that the module's documentation states; every access is checked against the
    // length at the time of mapping, and no bit pattern is invalid as `u8`.
    unsafe { Mmap::map(&file) }
}
