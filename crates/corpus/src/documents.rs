//! Text files as documents, in pieces that are small enough to tokenise.
//!
//! A `.txt` file is one document. In a `.jsonl` file each line is one: an object with a `text`, as in C4.
//! Both may be compressed, with gzip or zstd. In a `.parquet` file each row is one, in its column `text`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use lns_tokenizer::{Cut, Tokenizer};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::CorpusError;
use crate::parquet_rows::ParquetRows;

/// Text is tokenised in pieces of about this many bytes.
const PIECE_BYTES: usize = 64 << 10;
/// The longest text that is tokenised in one piece where it cannot be cut.
pub(crate) const MAX_PIECE_BYTES: usize = Tokenizer::MAX_PIECE_BYTES;
/// The longest line of a jsonl file, and the longest text of a parquet file.
pub(crate) const MAX_LINE_BYTES: u64 = 64 << 20;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Format {
    Text(Compression),
    Lines(Compression),
    Parquet,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// Reads what the file holds; buffered.
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
    fn read_error(self, path: &Path, error: io::Error) -> CorpusError {
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

impl Format {
    /// By the end of the file's name, whatever its case.
    fn of(path: &Path) -> Result<Self, CorpusError> {
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

    /// The same where only lines of JSON will do.
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

/// The same for files of lines of JSON.
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

/// A part of a document that is tokenised by itself.
#[derive(Debug, PartialEq)]
pub(crate) struct Piece {
    pub(crate) text: String,
    /// It goes on with the document of the piece before it.
    pub(crate) continues: bool,
    /// The whole document's, with its first piece, if ids were asked for.
    pub(crate) id: Option<DocumentId>,
    /// The bytes that are learned, if not all are: an example, which is one piece.
    pub(crate) learned: Option<Vec<Range<usize>>>,
}

/// A document that is in memory, coming in pieces.
#[derive(Debug, Default)]
pub(crate) struct Whole {
    text: String,
    /// How much is in pieces.
    position: usize,
}

impl Whole {
    pub(crate) fn new(text: String) -> Self {
        Self { text, position: 0 }
    }

    pub(crate) fn next_piece(
        &mut self,
        path: &Path,
        cut: Option<Cut>,
    ) -> Result<Option<Piece>, CorpusError> {
        let rest = &self.text[self.position..];
        if rest.is_empty() {
            return Ok(None);
        }
        let end = piece_end(rest, cut).ok_or_else(|| CorpusError::DocumentTooLong {
            path: path.to_owned(),
            limit: MAX_PIECE_BYTES,
        })?;
        let piece = Piece {
            text: rest[..end].to_owned(),
            continues: self.position > 0,
            id: None,
            learned: None,
        };
        self.position += end;
        Ok(Some(piece))
    }
}

/// The pieces of one file's documents, in order; empty documents are left out. Ends at an error.
pub(crate) struct Pieces {
    path: PathBuf,
    cut: Option<Cut>,
    ids: bool,
    source: Source,
}

enum Source {
    Text(TextSource),
    Documents { documents: Documents, current: Whole },
    Ended,
}

/// Documents one after another.
type Documents = Box<dyn Iterator<Item = Result<String, CorpusError>> + Send>;

struct TextSource {
    reader: Box<dyn BufRead + Send>,
    compression: Compression,
    /// Bytes read that are in no piece yet.
    buffer: Vec<u8>,
    /// Where in the text the buffer begins.
    offset: u64,
    /// To be given with the first piece.
    id: Option<DocumentId>,
}

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

impl Pieces {
    pub(crate) fn open(path: &Path, cut: Option<Cut>) -> Result<Self, CorpusError> {
        let format = Format::of(path)?;
        let failed = |source| CorpusError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let documents = |documents| Source::Documents { documents, current: Whole::default() };
        let source = match format {
            Format::Text(compression) => {
                let reader = compression.reader(BufReader::new(file)).map_err(failed)?;
                Source::Text(TextSource {
                    reader,
                    compression,
                    buffer: vec![],
                    offset: 0,
                    id: None,
                })
            }
            Format::Lines(compression) => {
                documents(Box::new(Lines::open(path, file, compression).map_err(failed)?))
            }
            Format::Parquet => documents(Box::new(ParquetRows::open(path, file)?)),
        };
        Ok(Self { path: path.to_owned(), cut, ids: false, source })
    }

    /// The same with the id of each document. A `.txt` file is read once more for it.
    pub(crate) fn with_ids(mut self) -> Result<Self, CorpusError> {
        self.ids = true;
        if let Source::Text(text) = &mut self.source {
            let id = read_id(&self.path, text.compression);
            text.id = Some(id.map_err(|error| text.compression.read_error(&self.path, error))?);
        }
        Ok(self)
    }
}

impl Iterator for Pieces {
    type Item = Result<Piece, CorpusError>;

    fn next(&mut self) -> Option<Self::Item> {
        let piece = match &mut self.source {
            Source::Text(text) => text.next_piece(&self.path, self.cut),
            Source::Documents { documents, current } => {
                next_piece(documents, current, &self.path, self.cut, self.ids)
            }
            Source::Ended => return None,
        };
        if !matches!(piece, Ok(Some(_))) {
            self.source = Source::Ended;
        }
        piece.transpose()
    }
}

fn next_piece(
    documents: &mut Documents,
    current: &mut Whole,
    path: &Path,
    cut: Option<Cut>,
    ids: bool,
) -> Result<Option<Piece>, CorpusError> {
    loop {
        if let Some(mut piece) = current.next_piece(path, cut)? {
            if ids && !piece.continues {
                piece.id = Some(DocumentId::of(current.text.as_bytes()));
            }
            return Ok(Some(piece));
        }
        match documents.next().transpose()? {
            Some(text) => *current = Whole::new(text),
            None => return Ok(None),
        }
    }
}

/// The id of a file that is one document.
fn read_id(path: &Path, compression: Compression) -> io::Result<DocumentId> {
    let mut sha256 = Sha256::new();
    io::copy(&mut compression.reader(BufReader::new(File::open(path)?))?, &mut sha256)?;
    Ok(DocumentId::from_sha256(sha256.finalize().into()))
}

impl TextSource {
    fn next_piece(&mut self, path: &Path, cut: Option<Cut>) -> Result<Option<Piece>, CorpusError> {
        let mut wanted = PIECE_BYTES;
        loop {
            let missing = wanted.saturating_sub(self.buffer.len()) as u64;
            let read = (&mut self.reader).take(missing).read_to_end(&mut self.buffer);
            read.map_err(|error| self.compression.read_error(path, error))?;
            let ended = self.buffer.len() < wanted;
            let text = self.valid_text(path, ended)?;
            let end = if ended { Some(text.len()) } else { cut.and_then(|cut| cut.last_in(text)) };
            if let Some(end) = end {
                let piece = Piece {
                    text: text[..end].to_owned(),
                    continues: self.offset > 0,
                    id: self.id.take(),
                    learned: None,
                };
                self.buffer.drain(..end);
                self.offset += end as u64;
                return Ok((end > 0).then_some(piece));
            }
            if wanted >= MAX_PIECE_BYTES {
                return Err(CorpusError::DocumentTooLong {
                    path: path.to_owned(),
                    limit: MAX_PIECE_BYTES,
                });
            }
            wanted *= 2;
        }
    }

    /// The buffer as text, without the character that its end may have cut in two.
    fn valid_text(&self, path: &Path, ended: bool) -> Result<&str, CorpusError> {
        let invalid = |valid_up_to: usize| CorpusError::InvalidUtf8 {
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

impl Lines {
    /// Opens a file of lines.
    pub(crate) fn of_file(path: &Path) -> Result<Self, CorpusError> {
        let compression = Format::of_lines(path)?;
        let file = File::open(path).and_then(|file| Self::open(path, file, compression));
        file.map_err(|source| CorpusError::Io { path: path.to_owned(), source })
    }

    fn open(path: &Path, file: File, compression: Compression) -> io::Result<Self> {
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
    use crate::parquet_rows::tests::parquet;

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

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 0).unwrap()
    }

    fn read(name: &str, bytes: &[u8], cut: Option<Cut>) -> Result<Vec<Piece>, CorpusError> {
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
    fn a_compressed_txt_file_is_the_same_document() {
        let text = "w\u{f6}rd, wort! ".repeat(30_000);
        let of = |name: &str, bytes: &[u8]| {
            let folder = folder_with(&[(name, bytes)]);
            assert_eq!(text_files(&[folder.path().to_owned()]).unwrap().len(), 1, "{name}");
            let pieces =
                Pieces::open(&folder.path().join(name), SPLIT).unwrap().with_ids().unwrap();
            pieces.map(Result::unwrap).collect::<Vec<_>>()
        };
        let expected = of("a.txt", text.as_bytes());
        assert_eq!(of("a.txt.gz", &gzip(text.as_bytes())), expected);
        for name in ["a.txt.zst", "A.TXT.ZSTD"] {
            assert_eq!(of(name, &zstd(text.as_bytes())), expected, "{name}");
        }
        let damaged = &gzip(text.as_bytes())[..100];
        assert!(refusal("a.txt.gz", damaged).contains("a.txt.gz: damaged gzip data"));
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
    fn zstd_and_parquet_hold_the_same_documents_as_jsonl() {
        let texts = ["one\ntwo", "", "é 😀", "last"];
        let lines: Vec<_> =
            texts.iter().map(|text| serde_json::json!({ "text": text }).to_string()).collect();
        let lines = lines.join("\n");
        let expected = ["one\ntwo", "é 😀", "last"];
        assert_eq!(documents("a.jsonl", lines.as_bytes()), expected);
        for name in ["a.jsonl.zst", "a.json.zst", "A.JSON.ZSTD"] {
            assert_eq!(documents(name, &zstd(lines.as_bytes())), expected, "{name}");
        }
        assert_eq!(documents("a.parquet", &parquet(&texts)), expected);
        let many: Vec<String> =
            (0..1000).map(|row| format!("row {row} {}", "x".repeat(row))).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(documents("a.parquet", &parquet(&many)), many);
    }

    #[test]
    fn a_zstd_file_of_several_frames_is_read_to_its_end() {
        let two = [zstd(b"{\"text\": \"one\"}\n"), zstd(b"{\"text\": \"two\"}\n")].concat();
        assert_eq!(documents("a.json.zst", &two), ["one", "two"]);
    }

    #[test]
    fn damaged_zstd_is_an_error() {
        assert!(refusal("a.json.zst", b"plain").contains("a.json.zst: damaged zstd data"));
        let whole = zstd("{\"text\": \"abcdefghij\"}\n".repeat(100).as_bytes());
        for length in 1..whole.len() {
            let message = refusal("a.json.zst", &whole[..length]);
            assert!(message.contains("a.json.zst: damaged zstd data"), "{length}: {message}");
        }
    }

    #[test]
    fn a_zstd_bomb_is_stopped_at_the_line_limit() {
        let bomb = zstd(&vec![b' '; MAX_LINE_BYTES as usize + 2]);
        assert!(bomb.len() < 1 << 20);
        assert!(refusal("a.json.zst", &bomb).contains("line 1: longer than 67108864 bytes"));
    }

    #[test]
    fn an_id_is_of_the_whole_text_and_comes_with_the_first_piece() {
        let long = "wörd, wort! ".repeat(30_000);
        let ids = |name: &str, bytes: &[u8]| {
            let folder = folder_with(&[(name, bytes)]);
            let pieces =
                Pieces::open(&folder.path().join(name), SPLIT).unwrap().with_ids().unwrap();
            let pieces: Vec<Piece> = pieces.map(Result::unwrap).collect();
            assert!(pieces.iter().all(|piece| piece.id.is_none() == piece.continues));
            pieces.into_iter().filter_map(|piece| piece.id).collect::<Vec<_>>()
        };
        let of = |text: &str| DocumentId::of(text.as_bytes());
        assert_eq!(ids("a.txt", long.as_bytes()), [of(&long)]);
        assert_eq!(
            ids("a.parquet", &parquet(&[&long, "b", &long])),
            [of(&long), of("b"), of(&long)]
        );
        assert!((0.0..1.0).contains(&of("b").place()) && of("b").place() != of("c").place());
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
            let piece = Piece { text: text.clone(), continues: false, id: None, learned: None };
            assert_eq!(whole, [piece]);
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
        assert!(matches!(error, CorpusError::Damaged { format: "gzip", .. }), "{error}");
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
            assert!(matches!(error, CorpusError::DocumentTooLong { .. }), "{error}");
        }
    }

    #[test]
    fn a_folder_stands_for_its_texts_in_name_order() {
        let folder =
            folder_with(&[("b.txt", b"b"), ("a.jsonl", b""), ("c.json.gz", b""), ("d.md", b"")]);
        fs::create_dir(folder.path().join("e.txt")).unwrap();
        let single = folder.path().join("b.txt");
        let files = text_files(&[single.clone(), folder.path().to_owned()]).unwrap();
        let names: Vec<_> = files.iter().map(|file| file.file_name().unwrap()).collect();
        assert_eq!(names, ["b.txt", "a.jsonl", "b.txt", "c.json.gz"]);
    }

    #[test]
    fn what_cannot_be_read_is_refused_before_anything_is() {
        let folder =
            folder_with(&[("a.json.bz2", b""), ("a.md", b""), ("a.json", b""), ("txt", b"")]);
        let message = |name: &str| text_files(&[folder.path().join(name)]).unwrap_err().to_string();
        for name in ["a.json.bz2", "a.md", "a.json", "txt"] {
            assert!(message(name).contains("ends in none of .txt, .jsonl"), "{name}");
        }
        assert!(message("absent.txt").contains("absent.txt: cannot be read"));
        assert!(message("").contains("no .txt, .jsonl, .parquet"));
    }
}
