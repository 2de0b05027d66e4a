//! One way to write a file: beside its place, synced, renamed.

use std::{io::Write, path::Path};

use tempfile::Builder;

/// Replaces the file at `path`, or makes it: a reader finds the old bytes or the new ones.
///
/// # Errors
/// Whatever the operating system says; the file at `path` is then as it was.
pub fn replace_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut builder = Builder::new();
    builder.prefix(".lns-").suffix(".partial");
    // As readable as any other new file: temporary files are private by default.
    #[cfg(unix)]
    let mode: std::fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    #[cfg(unix)]
    builder.permissions(mode);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut file = builder.tempfile_in(folder.unwrap_or(Path::new(".")))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("a.json");
        replace_file(&path, b"old").expect("writes");
        replace_file(&path, b"new").expect("replaces");
        assert_eq!(std::fs::read(&path).expect("there"), b"new");
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 1);
        assert!(replace_file(&dir.path().join("gone/a.json"), b"x").is_err());
    }
}
