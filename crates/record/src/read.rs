//! One way to open a file that a stranger may have put there: it is a regular file, and a small one
//! is read up to a limit. A pipe would be waited for, and `/dev/zero` has no end.

use std::{
    fs::{File, OpenOptions},
    io::{Error, ErrorKind, Read, Result},
    path::Path,
};

/// No settings, record, plan or list of sums comes near this many bytes.
pub const SMALL_FILE: u64 = 64 << 20;

/// Opens a regular file, or a link to one, to read it.
///
/// # Errors
/// Whatever the operating system says; [`ErrorKind::IsADirectory`] for a folder and
/// [`ErrorKind::InvalidInput`] for a pipe, a socket or a device, without waiting for either.
pub fn open_regular(path: &Path) -> Result<File> {
    // The kind is asked of what was opened, so that nothing can be put in its place in between.
    regular(open_at_once(path)?)
}

/// Opens whatever is there: opening a pipe waits for its other end unless told not to.
pub(crate) fn open_at_once(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        &mut options,
        rustix::fs::OFlags::NONBLOCK.bits().cast_signed(),
    );
    options.open(path)
}

/// Gives an open file back if it is a regular one.
///
/// # Errors
/// As [`open_regular`].
pub fn regular(file: File) -> Result<File> {
    let kind = file.metadata()?.file_type();
    if kind.is_file() {
        Ok(file)
    } else if kind.is_dir() {
        Err(Error::new(ErrorKind::IsADirectory, "it is a folder, not a file"))
    } else {
        let what = "it is a pipe, a socket or a device, not a regular file";
        Err(Error::new(ErrorKind::InvalidInput, what))
    }
}

/// The bytes of a regular file of at most `limit` bytes.
///
/// # Errors
/// As [`open_regular`]; [`ErrorKind::FileTooLarge`] for a longer file, of which no more is read.
pub fn read_regular(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = open_regular(path)?;
    let too_large = || {
        let what = format!("larger than the {limit} bytes that such a file may have");
        Error::new(ErrorKind::FileTooLarge, what)
    };
    if file.metadata()?.len() > limit {
        return Err(too_large());
    }
    // `take`, because files of /proc have no length and others grow while they are read.
    let mut bytes = Vec::new();
    match file.take(limit.saturating_add(1)).read_to_end(&mut bytes)? as u64 > limit {
        true => Err(too_large()),
        false => Ok(bytes),
    }
}

/// The text of a regular file of at most `limit` bytes.
///
/// # Errors
/// As [`read_regular`]; [`ErrorKind::InvalidData`] for what is not UTF-8.
pub fn read_regular_text(path: &Path, limit: u64) -> Result<String> {
    let text = String::from_utf8(read_regular(path, limit)?);
    text.map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Error::new(ErrorKind::InvalidData, format!("not UTF-8 at byte {at}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind<T>(result: Result<T>) -> ErrorKind {
        result.err().expect("refused").kind()
    }

    #[test]
    fn a_file_is_read_up_to_its_limit() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("a");
        std::fs::write(&path, "four").expect("writes");
        assert_eq!(read_regular(&path, 4).expect("there"), b"four");
        assert_eq!(kind(read_regular(&path, 3)), ErrorKind::FileTooLarge);
        assert_eq!(read_regular_text(&path, u64::MAX).expect("there"), "four");
        std::fs::write(&path, b"ab\xff").expect("writes");
        let error = read_regular_text(&path, 9).expect_err("not text");
        assert_eq!(error.to_string(), "not UTF-8 at byte 2");
        assert_eq!(kind(read_regular(&folder.path().join("b"), 9)), ErrorKind::NotFound);
        assert_eq!(kind(read_regular(folder.path(), 9)), ErrorKind::IsADirectory);
    }

    #[test]
    fn no_byte_is_read_of_a_file_whose_length_is_beyond_the_limit() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("sparse");
        File::create(&path).and_then(|file| file.set_len(1 << 40)).expect("a file of holes");
        assert_eq!(kind(read_regular(&path, SMALL_FILE)), ErrorKind::FileTooLarge);
    }

    #[cfg(unix)]
    #[test]
    fn pipes_and_devices_are_refused_without_waiting() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let pipe = folder.path().join("pipe");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0)
            .expect("a pipe");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/dev/zero", &link).expect("a link");
        for path in [&*pipe, &link, Path::new("/dev/null")] {
            assert_eq!(kind(open_regular(path)), ErrorKind::InvalidInput, "{}", path.display());
            assert_eq!(kind(read_regular(path, 9)), ErrorKind::InvalidInput);
        }
        let file = folder.path().join("file");
        std::fs::write(&file, "x").expect("writes");
        std::fs::remove_file(&link).expect("there");
        std::os::unix::fs::symlink(&file, &link).expect("a link");
        assert_eq!(read_regular(&link, 1).expect("a link to a file is one"), b"x");
    }
}
