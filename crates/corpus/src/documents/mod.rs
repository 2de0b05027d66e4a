//! Text files as documents.
//!
//! A `.txt` file is one document. In a `.jsonl` file each line is one: an object with a `text`, as in C4.
//! Both may be compressed, with gzip or zstd. In a `.parquet` file each row is one, in its column `text`.

mod compression;
mod lines;
mod parquet_rows;
mod pieces;
mod piped;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub(crate) use self::compression::Compression;
pub(crate) use self::lines::{Lines, object};
pub(crate) use self::pieces::{MAX_PIECE_BYTES, Piece, Pieces, Whole};
pub use self::piped::keep_piped_text;
use crate::CorpusError;

/// The longest line of a jsonl file, and the longest text of a parquet file.
pub(crate) const MAX_LINE_BYTES: u64 = 64 << 20;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Format {
    Text(Compression),
    Lines(Compression),
    Parquet,
}

impl Format {
    /// Known by the end of the file's name, whatever its case.
    pub(crate) fn of(path: &Path) -> Result<Self, CorpusError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
        if ends(&[".txt"]) {
            Ok(Self::Text(Compression::None))
        } else if ends(&[".txt.gz"]) {
            Ok(Self::Text(Compression::Gzip))
        } else if ends(&[".txt.zst", ".txt.zstd"]) {
            Ok(Self::Text(Compression::Zstd))
        } else if ends(&[".jsonl"]) {
            Ok(Self::Lines(Compression::None))
        } else if ends(&[".jsonl.gz", ".json.gz"]) {
            Ok(Self::Lines(Compression::Gzip))
        } else if ends(&[".jsonl.zst", ".json.zst", ".jsonl.zstd", ".json.zstd"]) {
            Ok(Self::Lines(Compression::Zstd))
        } else if ends(&[".parquet"]) {
            Ok(Self::Parquet)
        } else {
            Err(CorpusError::UnknownExtension { path: path.to_owned() })
        }
    }

    /// The compression of a file that must hold lines of JSON.
    fn of_lines(path: &Path) -> Result<Compression, CorpusError> {
        match Self::of(path) {
            Ok(Self::Lines(compression)) => Ok(compression),
            _ => Err(CorpusError::NotInstructions { path: path.to_owned() }),
        }
    }
}

/// The texts to read: a folder stands for those directly in it, in the order of their names.
///
/// # Errors
/// What is not there, has a name that says nothing that is read, or is a folder without texts.
pub fn text_files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, CorpusError> {
    expand_to(paths, Format::of)
}

/// Does what [`text_files`] does where only files of lines of JSON will do.
pub(crate) fn expand_lines(paths: &[PathBuf]) -> Result<Vec<PathBuf>, CorpusError> {
    expand_to(paths, Format::of_lines)
}

fn expand_to<T>(
    paths: &[PathBuf],
    format: fn(&Path) -> Result<T, CorpusError>,
) -> Result<Vec<PathBuf>, CorpusError> {
    let mut files = Vec::new();
    for path in paths {
        let failed = |source| CorpusError::Io { path: path.clone(), source };
        if !path.metadata().map_err(failed)?.is_dir() {
            format(path)?;
            files.push(path.clone());
            continue;
        }
        let first = files.len();
        for entry in path.read_dir().map_err(failed)? {
            let entry = entry.map_err(failed)?.path();
            if entry.is_file() && format(&entry).is_ok() {
                files.push(entry);
            }
        }
        if files.len() == first {
            return Err(CorpusError::EmptyFolder { path: path.clone() });
        }
        files[first..].sort();
    }
    Ok(files)
}

/// What tells documents apart: the beginning of the sha256 of a document's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct DocumentId(u128);

impl DocumentId {
    pub(crate) fn of(text: &[u8]) -> Self {
        Self::from_sha256(Sha256::digest(text).into())
    }

    fn from_sha256(sha256: [u8; 32]) -> Self {
        let [.., first] = sha256.as_chunks().0 else { return Self(0) };
        Self(u128::from_be_bytes(*first))
    }

    /// A number from 0 up to 1: over documents, uniform.
    pub(crate) fn place(self) -> f64 {
        // As many bits as an f64 holds.
        (self.0 >> (128 - 53)) as f64 / (1u64 << 53) as f64
    }
}
