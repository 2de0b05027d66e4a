//! Files of lines of JSON.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Compression, Format, MAX_LINE_BYTES};
use crate::CorpusError;

/// The lines of a file that are not blank; as an iterator, their texts.
pub(crate) struct Lines {
    path: PathBuf,
    reader: Box<dyn BufRead + Send>,
    compression: Compression,
    line: u64,
    /// Where in the text the next line begins.
    offset: u64,
}

/// One line of a jsonl file.
#[derive(Deserialize)]
struct Line {
    text: Option<String>,
}

impl Lines {
    /// Opens a file of lines.
    pub(crate) fn of_file(path: &Path) -> Result<Self, CorpusError> {
        let compression = Format::of_lines(path)?;
        let file = File::open(path).and_then(|file| Self::open(path, file, compression));
        file.map_err(|source| CorpusError::Io { path: path.to_owned(), source })
    }

    pub(crate) fn open(path: &Path, file: File, compression: Compression) -> io::Result<Self> {
        let reader = compression.reader(BufReader::new(file))?;
        Ok(Self { path: path.to_owned(), reader, compression, line: 0, offset: 0 })
    }

    /// The number of the line that was read last.
    pub(crate) fn number(&self) -> u64 {
        self.line
    }

    /// The next line that is not blank.
    pub(crate) fn next_line(&mut self) -> Result<Option<String>, CorpusError> {
        loop {
            let mut bytes = Vec::new();
            let read = (&mut self.reader).take(MAX_LINE_BYTES + 1).read_until(b'\n', &mut bytes);
            let read = read.map_err(|error| self.compression.read_error(&self.path, error))? as u64;
            if read == 0 {
                return Ok(None);
            }
            self.line += 1;
            let offset = self.offset;
            self.offset += read;
            if read > MAX_LINE_BYTES {
                return Err(CorpusError::LineTooLong {
                    path: self.path.clone(),
                    line: self.line,
                    limit: MAX_LINE_BYTES,
                });
            }
            let line = String::from_utf8(bytes).map_err(|error| CorpusError::InvalidUtf8 {
                path: self.path.clone(),
                offset: offset + error.utf8_error().valid_up_to() as u64,
            })?;
            if !line.trim().is_empty() {
                return Ok(Some(line));
            }
        }
    }

    fn text(&self, line: &str) -> Result<String, CorpusError> {
        let path = || self.path.clone();
        let bad = |reason| CorpusError::JsonLine { path: path(), line: self.line, reason };
        let parsed: Line = object(line).map_err(bad)?;
        parsed.text.ok_or_else(|| CorpusError::MissingText { path: path(), line: self.line })
    }
}

impl Iterator for Lines {
    type Item = Result<String, CorpusError>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = self.next_line().transpose()?;
        Some(line.and_then(|line| self.text(&line)))
    }
}

/// What a line says, if it is a JSON object.
pub(crate) fn object<T: DeserializeOwned>(line: &str) -> Result<T, String> {
    // serde would also take an array of the fields for an object.
    if !line.trim_start().starts_with('{') {
        return Err("not a JSON object".to_owned());
    }
    serde_json::from_str(line.trim_end()).map_err(|error| {
        let message = error.to_string();
        let what = message.rsplit_once(" at line ").map_or(&*message, |(what, _)| what);
        format!("column {}: {what}", error.column())
    })
}
