//! Text files as documents, in pieces that are small enough to tokenise.
//!
//! A `.txt` file is one document. In a `.jsonl` file, or its gzip, each line is one: an object with
//! a `text`, as in C4.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use serde::Deserialize;

use crate::DataError;
use crate::cut::Cut;

/// Text is tokenised in pieces of about this many bytes.
const PIECE_BYTES: usize = 64 << 10;
/// The longest text that is tokenised in one piece where it cannot be cut. The tokenizers library
/// was seen to take 400 bytes for each byte of text.
const MAX_PIECE_BYTES: usize = 8 << 20;
/// The longest line of a jsonl file.
const MAX_LINE_BYTES: u64 = 64 << 20;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Format {
    Text,
    Lines,
    GzipLines,
}

impl Format {
    /// By the end of the file's name, whatever its case.
    fn of(path: &Path) -> Result<Self, DataError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let ends = |ending: &str| name.ends_with(ending);
        let unsupported =
            |format, remedy| DataError::UnsupportedFormat { path: path.to_owned(), format, remedy };
        if ends(".txt") {
            Ok(Self::Text)
        } else if ends(".jsonl") {
            Ok(Self::Lines)
        } else if ends(".jsonl.gz") || ends(".json.gz") {
            Ok(Self::GzipLines)
        } else if ends(".zst") {
            Err(unsupported("zstd", "decompress it with `zstd -d`"))
        } else if ends(".parquet") {
            Err(unsupported("parquet", "write its text column as jsonl"))
        } else {
            Err(DataError::UnknownExtension { path: path.to_owned() })
        }
    }
}

/// The files to read: a folder stands for the texts directly in it, in the order of their names.
pub(crate) fn expand(paths: &[PathBuf]) -> Result<Vec<PathBuf>, DataError> {
    let mut files = Vec::new();
    for path in paths {
        let failed = |source| DataError::Io { path: path.clone(), source };
        if !path.metadata().map_err(failed)?.is_dir() {
            Format::of(path)?;
            files.push(path.clone());
            continue;
        }
        let first = files.len();
        for entry in path.read_dir().map_err(failed)? {
            let entry = entry.map_err(failed)?.path();
            if entry.is_file() && Format::of(&entry).is_ok() {
                files.push(entry);
            }
        }
        if files.len() == first {
            return Err(DataError::EmptyFolder { path: path.clone() });
        }
        files[first..].sort();
    }
    Ok(files)
}

/// A part of a document that is tokenised by itself.
#[derive(Debug, PartialEq)]
pub(crate) struct Piece {
    pub(crate) text: String,
    /// It goes on with the document of the piece before it.
    pub(crate) continues: bool,
}

/// The pieces of one file's documents, in order; empty documents are left out. Ends at an error.
pub(crate) struct Pieces {
    path: PathBuf,
    cut: Option<Cut>,
    source: Source,
}

enum Source {
    Text(TextSource),
    Lines(LineSource),
    Ended,
}

struct TextSource {
    file: File,
    /// Bytes read that are in no piece yet.
    buffer: Vec<u8>,
    /// Where in the file the buffer begins.
    offset: u64,
}

struct LineSource {
    reader: Box<dyn BufRead>,
    gzip: bool,
    line: u64,
    /// Where in the text the next line begins.
    offset: u64,
    document: String,
    /// How much of the document is in pieces.
    position: usize,
}

/// One line of a jsonl file.
#[derive(Deserialize)]
struct Line {
    text: Option<String>,
}

impl Pieces {
    pub(crate) fn open(path: &Path, cut: Option<Cut>) -> Result<Self, DataError> {
        let format = Format::of(path)?;
        let file =
            File::open(path).map_err(|source| DataError::Io { path: path.to_owned(), source })?;
        let lines = |reader, gzip| {
            Source::Lines(LineSource {
                reader,
                gzip,
                line: 0,
                offset: 0,
                document: String::new(),
                position: 0,
            })
        };
        let source = match format {
            Format::Text => Source::Text(TextSource { file, buffer: Vec::new(), offset: 0 }),
            Format::Lines => lines(Box::new(BufReader::new(file)), false),
            Format::GzipLines => {
                let decoder = MultiGzDecoder::new(BufReader::new(file));
                lines(Box::new(BufReader::new(decoder)), true)
            }
        };
        Ok(Self { path: path.to_owned(), cut, source })
    }
}

impl Iterator for Pieces {
    type Item = Result<Piece, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let piece = match &mut self.source {
            Source::Text(text) => text.next_piece(&self.path, self.cut),
            Source::Lines(lines) => lines.next_piece(&self.path, self.cut),
            Source::Ended => return None,
        };
        match piece {
            Ok(Some(piece)) => Some(Ok(piece)),
            Ok(None) => {
                self.source = Source::Ended;
                None
            }
            Err(error) => {
                self.source = Source::Ended;
                Some(Err(error))
            }
        }
    }
}

impl TextSource {
    fn next_piece(&mut self, path: &Path, cut: Option<Cut>) -> Result<Option<Piece>, DataError> {
        let mut wanted = PIECE_BYTES;
        loop {
            let missing = wanted.saturating_sub(self.buffer.len()) as u64;
            let read = (&mut self.file).take(missing).read_to_end(&mut self.buffer);
            read.map_err(|source| DataError::Io { path: path.to_owned(), source })?;
            let ended = self.buffer.len() < wanted;
            let text = self.valid_text(path, ended)?;
            let end = if ended { Some(text.len()) } else { cut.and_then(|cut| cut.last_in(text)) };
            if let Some(end) = end {
                let piece = Piece { text: text[..end].to_owned(), continues: self.offset > 0 };
                self.buffer.drain(..end);
                self.offset += end as u64;
                return Ok((end > 0).then_some(piece));
            }
            if wanted >= MAX_PIECE_BYTES {
                return Err(DataError::DocumentTooLong {
                    path: path.to_owned(),
                    limit: MAX_PIECE_BYTES,
                });
            }
            wanted *= 2;
        }
    }

    /// The buffer as text, without the character that its end may have cut in two.
    fn valid_text(&self, path: &Path, ended: bool) -> Result<&str, DataError> {
        let invalid = |valid_up_to: usize| DataError::InvalidUtf8 {
            path: path.to_owned(),
            offset: self.offset + valid_up_to as u64,
        };
        match str::from_utf8(&self.buffer) {
            Ok(text) => Ok(text),
            Err(error) if error.error_len().is_some() || ended => Err(invalid(error.valid_up_to())),
            Err(error) => str::from_utf8(&self.buffer[..error.valid_up_to()])
                .map_err(|error| invalid(error.valid_up_to())),
        }
    }
}

impl LineSource {
    fn next_piece(&mut self, path: &Path, cut: Option<Cut>) -> Result<Option<Piece>, DataError> {
        while self.position == self.document.len() {
            match self.next_document(path)? {
                Some(document) => (self.document, self.position) = (document, 0),
                None => return Ok(None),
            }
        }
        let rest = &self.document[self.position..];
        let end = piece_end(rest, cut).ok_or_else(|| DataError::DocumentTooLong {
            path: path.to_owned(),
            limit: MAX_PIECE_BYTES,
        })?;
        let piece = Piece { text: rest[..end].to_owned(), continues: self.position > 0 };
        self.position += end;
        Ok(Some(piece))
    }

    /// The text of the next line that is not blank.
    fn next_document(&mut self, path: &Path) -> Result<Option<String>, DataError> {
        loop {
            let mut bytes = Vec::new();
            let read = (&mut self.reader).take(MAX_LINE_BYTES + 1).read_until(b'\n', &mut bytes);
            let read = read.map_err(|error| self.read_error(error, path))? as u64;
            if read == 0 {
                return Ok(None);
            }
            self.line += 1;
            let offset = self.offset;
            self.offset += read;
            if read > MAX_LINE_BYTES {
                return Err(DataError::LineTooLong {
                    path: path.to_owned(),
                    line: self.line,
                    limit: MAX_LINE_BYTES,
                });
            }
            let line = str::from_utf8(&bytes).map_err(|error| DataError::InvalidUtf8 {
                path: path.to_owned(),
                offset: offset + error.valid_up_to() as u64,
            })?;
            if !line.trim().is_empty() {
                return self.text(line, path).map(Some);
            }
        }
    }

    fn text(&self, line: &str, path: &Path) -> Result<String, DataError> {
        let bad = |reason| DataError::JsonLine { path: path.to_owned(), line: self.line, reason };
        // serde would also take an array of the fields for an object.
        if !line.trim_start().starts_with('{') {
            return Err(bad("not a JSON object".to_owned()));
        }
        let parsed: Line = serde_json::from_str(line.trim_end()).map_err(|error| {
            let message = error.to_string();
            let what = message.rsplit_once(" at line ").map_or(&*message, |(what, _)| what);
            bad(format!("column {}: {what}", error.column()))
        })?;
        parsed.text.ok_or_else(|| DataError::MissingText { path: path.to_owned(), line: self.line })
    }

    fn read_error(&self, error: io::Error, path: &Path) -> DataError {
        let damaged =
            [io::ErrorKind::InvalidInput, io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof];
        if self.gzip && damaged.contains(&error.kind()) {
            DataError::Gzip { path: path.to_owned(), reason: error.to_string() }
        } else {
            DataError::Io { path: path.to_owned(), source: error }
        }
    }
}

/// Where the first piece of a text ends, if it has a place to cut or need not be cut.
fn piece_end(text: &str, cut: Option<Cut>) -> Option<usize> {
    let mut wanted = PIECE_BYTES;
    while wanted < text.len() {
        let part = &text[..text.floor_char_boundary(wanted)];
        if let Some(end) = cut.and_then(|cut| cut.last_in(part)) {
            return Some(end);
        }
        if wanted >= MAX_PIECE_BYTES {
            return None;
        }
        wanted *= 2;
    }
    Some(text.len())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use tempfile::{TempDir, tempdir};

    use super::*;

    const SPLIT: Option<Cut> = Some(Cut::Split);

    fn folder_with(files: &[(&str, &[u8])]) -> TempDir {
        let folder = tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        folder
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read(name: &str, bytes: &[u8], cut: Option<Cut>) -> Result<Vec<Piece>, DataError> {
        let folder = folder_with(&[(name, bytes)]);
        Pieces::open(&folder.path().join(name), cut)?.collect()
    }

    fn documents(name: &str, bytes: &[u8]) -> Vec<String> {
        let pieces = read(name, bytes, SPLIT).unwrap();
        assert!(!pieces.iter().any(|piece| piece.continues));
        pieces.into_iter().map(|piece| piece.text).collect()
    }

    fn refusal(name: &str, bytes: &[u8]) -> String {
        read(name, bytes, SPLIT).unwrap_err().to_string()
    }

    #[test]
    fn a_txt_file_is_one_document() {
        assert_eq!(documents("a.txt", "one\ntwo\r\n é".as_bytes()), ["one\ntwo\r\n é"]);
        assert_eq!(documents("A.TXT", b"one"), ["one"]);
        assert_eq!(documents("a.txt", b""), [""; 0]);
    }

    #[test]
    fn a_line_of_jsonl_is_a_document() {
        let lines = b"{\"text\": \"one\\ntwo\", \"url\": {\"deep\": [1]}}\r\n\n{\"id\": 1, \"text\": \"\"}\n {\"text\": \"last\"}";
        let expected = ["one\ntwo", "last"];
        assert_eq!(documents("a.jsonl", lines), expected);
        assert_eq!(documents("a.jsonl.gz", &gzip(lines)), expected);
        assert_eq!(documents("c4-train.00000.json.gz", &gzip(lines)), expected);
    }

    #[test]
    fn a_gzip_file_of_several_members_is_read_to_its_end() {
        let two = [gzip(b"{\"text\": \"one\"}\n"), gzip(b"{\"text\": \"two\"}\n")].concat();
        assert_eq!(documents("a.json.gz", &two), ["one", "two"]);
    }

    #[test]
    fn a_long_document_comes_in_pieces_that_make_it_up() {
        let text = "wörd, wort! ".repeat(30_000);
        let json = serde_json::json!({ "text": text }).to_string();
        for (name, bytes) in [("a.txt", text.as_bytes()), ("a.jsonl", json.as_bytes())] {
            let pieces = read(name, bytes, SPLIT).unwrap();
            assert!(pieces.len() >= 5, "{} pieces", pieces.len());
            assert!(pieces.iter().all(|piece| piece.text.len() <= PIECE_BYTES));
            assert!(pieces[1..].iter().all(|piece| piece.text.starts_with(' ')));
            let continues: Vec<_> = pieces.iter().map(|piece| piece.continues).collect();
            assert!(!continues[0] && continues[1..].iter().all(|&continues| continues));
            assert_eq!(pieces.iter().map(|piece| &*piece.text).collect::<String>(), text);

            let whole = read(name, bytes, None).unwrap();
            assert_eq!(whole, [Piece { text: text.clone(), continues: false }]);
        }
    }

    #[test]
    fn a_piece_grows_until_it_can_be_cut() {
        let text = format!("{} b", "é".repeat(PIECE_BYTES));
        let json = serde_json::json!({ "text": text }).to_string();
        for (name, bytes) in [("a.txt", text.as_bytes()), ("a.jsonl", json.as_bytes())] {
            let pieces = read(name, bytes, SPLIT).unwrap();
            assert_eq!(pieces.iter().map(|piece| &*piece.text).collect::<String>(), text);
        }
    }

    #[test]
    fn text_that_ends_where_a_piece_does_is_read_once() {
        for length in [PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1] {
            let text = format!("{} b", "a".repeat(length - 2));
            let pieces = read("a.txt", text.as_bytes(), SPLIT).unwrap();
            assert_eq!(pieces.iter().map(|piece| &*piece.text).collect::<String>(), text);
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_are_an_error_with_their_place() {
        assert!(refusal("a.txt", b"abc\xFF").contains("a.txt: not UTF-8 at byte 3"));
        assert!(refusal("a.txt", b"abc\xE4\xBD").contains("byte 3"), "a character cut short");
        let mut late = "a b".repeat(PIECE_BYTES).into_bytes();
        late.push(0xFF);
        assert!(refusal("a.txt", &late).contains(&format!("byte {}", late.len() - 1)));
        let lines = b"{\"text\": \"a\"}\n{\"text\": \"\xFF\"}\n";
        assert!(refusal("a.jsonl", lines).contains("not UTF-8 at byte 24"));
        assert!(refusal("a.json.gz", &gzip(lines)).contains("not UTF-8 at byte 24"));
    }

    #[test]
    fn a_bad_line_is_an_error_with_its_number() {
        let second =
            |line: &str| refusal("a.jsonl", format!("{{\"text\": \"a\"}}\n{line}\n").as_bytes());
        for line in ["\"text\"", "[\"text\"]", "text"] {
            let message = second(line);
            assert!(message.contains("a.jsonl, line 2: not a JSON object"), "{message}");
        }
        let message = second("{\"text\": 5}");
        assert!(message.contains("line 2: column 10: invalid type: integer `5`"), "{message}");
        assert!(second("{\"text\": \"a\"").contains("line 2: column 12: EOF"));
        assert!(second("{\"text\": \"a\"} b").contains("line 2: column 15: trailing"));
        assert!(second("{\"Text\": \"a\"}").contains("line 2: the object has no \"text\""));
        assert!(second("{\"text\": null}").contains("line 2: the object has no \"text\""));
        assert!(second(&"{\"a\":".repeat(100_000)).contains("EOF"), "depth costs no stack");
    }

    #[test]
    fn damaged_gzip_is_an_error_after_the_documents_before_it() {
        assert!(refusal("a.json.gz", b"plain").contains("a.json.gz: damaged gzip data"));
        let line = "{\"text\": \"abcdefghij\"}\n".repeat(20_000);
        let mut damaged = gzip(line.as_bytes());
        damaged.truncate(damaged.len() - 10);
        let folder = folder_with(&[("a.json.gz", &damaged)]);
        let mut pieces = Pieces::open(&folder.path().join("a.json.gz"), SPLIT).unwrap();
        assert_eq!(pieces.next().unwrap().unwrap().text, "abcdefghij");
        let error = pieces.find_map(Result::err).unwrap();
        assert!(matches!(error, DataError::Gzip { .. }), "{error}");
        assert!(pieces.next().is_none());
    }

    #[test]
    fn a_gzip_bomb_is_stopped_at_the_line_limit() {
        let bomb = gzip(&vec![b' '; MAX_LINE_BYTES as usize + 2]);
        assert!(bomb.len() < 1 << 20);
        assert!(refusal("a.json.gz", &bomb).contains("line 1: longer than 67108864 bytes"));
    }

    #[test]
    fn a_document_without_a_place_to_cut_has_a_limit() {
        let text = "a".repeat(MAX_PIECE_BYTES + 1);
        let json = serde_json::json!({ "text": text }).to_string();
        for (name, bytes) in [("a.txt", text.as_bytes()), ("a.jsonl", json.as_bytes())] {
            let error = read(name, bytes, SPLIT).unwrap_err();
            assert!(matches!(error, DataError::DocumentTooLong { .. }), "{error}");
        }
    }

    #[test]
    fn a_folder_stands_for_its_texts_in_name_order() {
        let folder =
            folder_with(&[("b.txt", b"b"), ("a.jsonl", b""), ("c.json.gz", b""), ("d.md", b"")]);
        fs::create_dir(folder.path().join("e.txt")).unwrap();
        let single = folder.path().join("b.txt");
        let files = expand(&[single.clone(), folder.path().to_owned()]).unwrap();
        let names: Vec<_> = files.iter().map(|file| file.file_name().unwrap()).collect();
        assert_eq!(names, ["b.txt", "a.jsonl", "b.txt", "c.json.gz"]);
    }

    #[test]
    fn what_cannot_be_read_is_refused_before_anything_is() {
        let folder = folder_with(&[
            ("a.parquet", b""),
            ("a.json.zst", b""),
            ("a.md", b""),
            ("a.json", b""),
            ("txt", b""),
        ]);
        let message = |name: &str| expand(&[folder.path().join(name)]).unwrap_err().to_string();
        assert!(message("a.parquet").contains("parquet is not read yet"));
        assert!(message("a.json.zst").contains("`zstd -d`"));
        for name in ["a.md", "a.json", "txt"] {
            assert!(message(name).contains("ends in none of .txt, .jsonl"), "{name}");
        }
        assert!(message("absent.txt").contains("absent.txt: cannot be read"));
        assert!(message("").contains("no .txt, .jsonl"));
    }
}
