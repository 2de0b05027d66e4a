//! Text as files hold it: as it is, with gzip or with zstd.

use std::io::{self, BufRead, BufReader};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use crate::CorpusError;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// A buffered reader of what the file holds.
    pub(crate) fn reader<R: BufRead + Send + 'static>(
        self,
        file: R,
    ) -> io::Result<Box<dyn BufRead + Send>> {
        let reader: Box<dyn BufRead + Send> = match self {
            Self::None => Box::new(file),
            Self::Gzip => Box::new(BufReader::new(MultiGzDecoder::new(file))),
            // The library refuses frames that want more than 128 MiB to look back on.
            Self::Zstd => Box::new(BufReader::new(zstd::stream::read::Decoder::with_buffer(file)?)),
        };
        Ok(reader)
    }

    /// What a failed read of the file at `path` means.
    pub(super) fn read_error(self, path: &Path, error: io::Error) -> CorpusError {
        let path = path.to_owned();
        let format = match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::None => return CorpusError::Io { path, source: error },
        };
        // What the operating system has a number for is not the data's fault.
        match error.raw_os_error() {
            None => CorpusError::Damaged { path, format, reason: error.to_string() },
            Some(_) => CorpusError::Io { path, source: error },
        }
    }
}
