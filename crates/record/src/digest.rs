//! What tells one file from another.

use std::{io::Read, path::Path};

use sha2::{Digest, Sha256};

use crate::open_regular;

/// The sha256 of a file, in hexadecimal digits, read in blocks.
///
/// # Errors
/// Whatever the operating system says, and what is not a regular file: a pipe or a device may have no
/// end.
pub fn file_sha256(path: &Path) -> std::io::Result<String> {
    let mut file = open_regular(path)?;
    let mut hasher = Sha256::new();
    let mut block = vec![0; 1 << 20];
    loop {
        match file.read(&mut block)? {
            0 => return Ok(hex(&hasher.finalize())),
            read => hasher.update(&block[..read]),
        }
    }
}

/// The sha256 of some bytes, in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
