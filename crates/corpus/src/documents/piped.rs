//! Text from a pipe: kept in a file, because training reads its text more than once and a pipe can be
//! read only once.

use std::fs::{self, File};
use std::io::{Cursor, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::Compression;
use crate::CorpusError;

/// The most that is kept: a pipe may have no end.
const MAX_BYTES: u64 = 16 << 30;
/// What the kind of text is told by: enough for the first line of most texts.
const HEAD_BYTES: u64 = 1 << 20;

/// Keeps all of `reader` in a new file in `folder` and returns its path. The file is named `file`, the
/// beginning of its sha256, and the ending of its kind: `.parquet` by its first bytes, `.jsonl` if the
/// first line is a JSON object, `.txt` otherwise; with `.gz` or `.zst` behind it if that is compressed.
///
/// `name` is what errors call the pipe.
///
/// # Errors
/// A pipe that cannot be read or gives more than 16 GiB, or a file that cannot be written.
pub fn keep_piped_text(
    reader: &mut dyn Read,
    name: &str,
    file: &str,
    folder: &Path,
) -> Result<PathBuf, CorpusError> {
    keep(reader, name, file, folder, MAX_BYTES)
}

fn keep(
    reader: &mut dyn Read,
    name: &str,
    file: &str,
    folder: &Path,
    limit: u64,
) -> Result<PathBuf, CorpusError> {
    let unread = |source| CorpusError::Io { path: name.into(), source };
    let mut head = Vec::new();
    (&mut *reader).take(HEAD_BYTES.min(limit)).read_to_end(&mut head).map_err(unread)?;
    let unfinished = folder.join(format!("{file}.part"));
    let unwritten = |source| CorpusError::Write { path: unfinished.clone(), source };
    let mut kept = File::create_new(&unfinished).map_err(unwritten)?;
    let mut sha256 = Sha256::new();
    let mut bytes = 0;
    let mut chunk = head.clone();
    while !chunk.is_empty() {
        sha256.update(&chunk);
        kept.write_all(&chunk).map_err(unwritten)?;
        bytes += chunk.len() as u64;
        chunk.clear();
        // One more byte than is allowed tells that there is more.
        let most = HEAD_BYTES.min(limit + 1 - bytes);
        (&mut *reader).take(most).read_to_end(&mut chunk).map_err(unread)?;
        if bytes + chunk.len() as u64 > limit {
            return Err(CorpusError::PipeTooLong { name: name.to_owned(), limit });
        }
    }
    let sum: String = sha256.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let path = folder.join(format!("{file}-{sum}{}", ending(&head)));
    fs::rename(&unfinished, &path).map_err(unwritten)?;
    Ok(path)
}

fn ending(head: &[u8]) -> &'static str {
    let (compression, lines, text) = match head {
        [b'P', b'A', b'R', b'1', ..] => return ".parquet",
        [0x1f, 0x8b, ..] => (Compression::Gzip, ".jsonl.gz", ".txt.gz"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => (Compression::Zstd, ".jsonl.zst", ".txt.zst"),
        _ => (Compression::None, ".jsonl", ".txt"),
    };
    if begins_with_an_object(&decompressed(head, compression)) { lines } else { text }
}

/// The beginning of what the head holds. The head may end in the middle of compressed data; damage is
/// found when the file is read.
fn decompressed(head: &[u8], compression: Compression) -> Vec<u8> {
    let mut text = Vec::new();
    if let Ok(reader) = compression.reader(Cursor::new(head.to_vec())) {
        // What was read before an error is kept.
        let _ = reader.take(HEAD_BYTES).read_to_end(&mut text);
    }
    text
}

/// Whether the first line that is not blank is a JSON object, or begins as one and is longer than the
/// head.
fn begins_with_an_object(head: &[u8]) -> bool {
    let head = head.trim_ascii_start();
    match head.iter().position(|byte| *byte == b'\n') {
        None if head.len() as u64 * 2 >= HEAD_BYTES => head.starts_with(b"{\""),
        line => {
            let line = &head[..line.unwrap_or(head.len())];
            serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(line).is_ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tempfile::tempdir;

    use super::*;
    use crate::documents::parquet_rows::tests::parquet;
    use crate::documents::{Pieces, text_files};

    fn kept(bytes: &[u8]) -> (String, Vec<String>) {
        let folder = tempdir().unwrap();
        let path = keep_piped_text(&mut &*bytes, "a pipe", "pipe", folder.path()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), bytes);
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
        let files = text_files(std::slice::from_ref(&path)).unwrap();
        let pieces = Pieces::open(&files[0], None).unwrap();
        let texts = pieces.map(|piece| piece.unwrap().text).collect();
        (path.file_name().unwrap().to_string_lossy().into_owned(), texts)
    }

    #[test]
    fn what_comes_through_a_pipe_is_read_as_the_kind_of_text_that_it_is() {
        let lines = b"\n{\"text\": \"one\"}\n{\"text\": \"two\"}\n";
        let gzip = |bytes: &[u8]| {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        let gzipped = gzip(lines);
        let zstd = zstd::encode_all(&lines[..], 0).unwrap();
        let rows = parquet(&["one", "two"]);
        for (bytes, ending) in [
            (&lines[..], ".jsonl"),
            (&gzipped[..], ".jsonl.gz"),
            (&zstd[..], ".jsonl.zst"),
            (&rows[..], ".parquet"),
        ] {
            let (name, texts) = kept(bytes);
            assert!(name.starts_with("pipe-") && name.ends_with(ending), "{name}");
            assert_eq!(texts, ["one", "two"], "{name}");
        }
        let text = "The river rose.\n".repeat(200_000);
        let gzipped = gzip(text.as_bytes());
        let zstd = zstd::encode_all(text.as_bytes(), 0).unwrap();
        for (bytes, ending) in
            [(text.as_bytes(), ".txt"), (&gzipped[..], ".txt.gz"), (&zstd[..], ".txt.zst")]
        {
            let (name, texts) = kept(bytes);
            assert!(name.ends_with(ending), "{name}");
            assert_eq!(texts.concat(), text, "{name}");
        }
        for text in ["{ not JSON }", "{\n\"text\": \"of many lines\"}", "[1]", "7"] {
            let (name, texts) = kept(text.as_bytes());
            assert!(name.ends_with(".txt"), "{name}");
            assert_eq!(texts, [text]);
        }
        let long = serde_json::json!({ "text": "a ".repeat(HEAD_BYTES as usize) }).to_string();
        assert!(kept(long.as_bytes()).0.ends_with(".jsonl"));
        assert_eq!(kept(b"").1, [""; 0]);
    }

    #[test]
    fn the_same_text_has_the_same_name_and_another_text_another() {
        assert_eq!(kept(b"one").0, kept(b"one").0);
        assert_ne!(kept(b"one").0, kept(b"two").0);
    }

    #[test]
    fn a_pipe_without_an_end_is_refused() {
        let folder = tempdir().unwrap();
        let mut endless = io::repeat(b'a');
        let keep = |reader: &mut dyn Read, name: &str, limit| {
            keep(reader, name, "pipe", folder.path(), limit)
        };
        let error = keep(&mut endless, "standard input", 3 << 20).unwrap_err();
        assert!(error.to_string().contains("standard input gives more than 3 MiB"), "{error}");
        fs::remove_file(folder.path().join("pipe.part")).unwrap();
        let whole = keep(&mut &[b'a'; 9][..], "nine", 9).unwrap();
        assert_eq!(whole.metadata().unwrap().len(), 9);
        assert!(keep(&mut &[b'a'; 10][..], "ten", 9).is_err());
    }
}
