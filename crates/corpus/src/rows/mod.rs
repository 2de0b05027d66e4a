//! The rows of data files as JSON objects, whatever the file: lines of JSON, one array of objects,
//! parquet, or Arrow as the `datasets` library keeps it.

mod arrow;

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use lns_tokenizer::guarded;
use parquet::file::reader::SerializedFileReader;
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row as ParquetRow};
use serde_json::{Map, Number, Value};

use self::arrow::ArrowRows;
use crate::CorpusError;
use crate::documents::{Compression, Format, Lines, object};

/// The largest file that is one JSON value: it is in memory as a whole.
const MAX_JSON_BYTES: u64 = 1 << 30;

/// The fields of a row, by their names.
pub type Fields = Map<String, Value>;

/// How the rows of a file are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowFormat {
    /// `.parquet`
    Parquet,
    /// `.arrow`, a stream or a file of record batches.
    Arrow,
    /// `.jsonl`, plain or compressed, and compressed `.json`, which is lines too.
    Lines,
    /// `.json`: one array of objects, or lines after all.
    Json,
}

impl RowFormat {
    /// By the end of the file's name; `None` where it says nothing that is read.
    pub fn of(path: &Path) -> Option<Self> {
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        match (&*extension, Format::of(path)) {
            ("arrow", _) => Some(Self::Arrow),
            ("json", _) => Some(Self::Json),
            (_, Ok(Format::Parquet)) => Some(Self::Parquet),
            (_, Ok(Format::Lines(_))) => Some(Self::Lines),
            _ => None,
        }
    }
}

/// A row and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its number in the file: a line's where the file has lines; the first is 1.
    pub number: u64,
    /// What it says.
    pub fields: Fields,
}

/// The rows of one file, in order. Ends at an error.
pub struct Rows {
    path: PathBuf,
    source: Source,
}

enum Source {
    Lines(Lines),
    Json(std::vec::IntoIter<Value>, u64),
    Parquet(RowIter<'static>, u64),
    Arrow(ArrowRows, u64),
    Ended,
}

impl Rows {
    /// Opens a file of rows.
    ///
    /// # Errors
    /// A file that cannot be read, is damaged, or has a name that says nothing that is read.
    pub fn open(path: &Path) -> Result<Self, CorpusError> {
        let failed = |source| CorpusError::Io { path: path.to_owned(), source };
        let Some(format) = RowFormat::of(path) else {
            return Err(CorpusError::NotRows { path: path.to_owned() });
        };
        let source = match format {
            RowFormat::Lines => Source::Lines(Lines::of_file(path)?),
            RowFormat::Json => json(path)?,
            RowFormat::Parquet => {
                let file = File::open(path).map_err(failed)?;
                let opened =
                    guarded(|| SerializedFileReader::new(file).map(|file| file.into_iter()));
                Source::Parquet(opened.map_err(|reason| damaged(path, "parquet", reason))?, 0)
            }
            RowFormat::Arrow => {
                let file = BufReader::new(File::open(path).map_err(failed)?);
                Source::Arrow(ArrowRows::new(Box::new(file)), 0)
            }
        };
        Ok(Self { path: path.to_owned(), source })
    }

    fn next_row(&mut self) -> Result<Option<Row>, CorpusError> {
        let path = &self.path;
        match &mut self.source {
            Source::Ended => Ok(None),
            Source::Lines(lines) => {
                let Some(line) = lines.next_line()? else { return Ok(None) };
                let number = lines.number();
                let fields =
                    object(&line).map_err(|reason| bad_row(path, "line", number, reason))?;
                Ok(Some(Row { number, fields }))
            }
            Source::Json(values, number) => {
                *number += 1;
                match values.next() {
                    Some(Value::Object(fields)) => Ok(Some(Row { number: *number, fields })),
                    Some(_) => {
                        Err(bad_row(path, "element", *number, "not a JSON object".to_owned()))
                    }
                    None => Ok(None),
                }
            }
            Source::Parquet(rows, number) => {
                *number += 1;
                let read = guarded(|| rows.next().transpose());
                let row = read.map_err(|reason| damaged(path, "parquet", reason))?;
                Ok(row.map(|row| Row { number: *number, fields: parquet_fields(&row) }))
            }
            Source::Arrow(rows, number) => {
                *number += 1;
                let row = rows.next_row().map_err(|reason| damaged(path, "Arrow", reason))?;
                Ok(row.map(|fields| Row { number: *number, fields }))
            }
        }
    }
}

impl Iterator for Rows {
    type Item = Result<Row, CorpusError>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.next_row();
        if !matches!(row, Ok(Some(_))) {
            self.source = Source::Ended;
        }
        row.transpose()
    }
}

fn damaged(path: &Path, format: &'static str, reason: String) -> CorpusError {
    CorpusError::Damaged { path: path.to_owned(), format, reason }
}

fn bad_row(path: &Path, what: &'static str, number: u64, reason: String) -> CorpusError {
    CorpusError::BadRow { path: path.to_owned(), what, number, reason }
}

/// An array of objects, or, as many call their lines `.json`, lines.
fn json(path: &Path) -> Result<Source, CorpusError> {
    let failed = |source| CorpusError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mut text = Vec::new();
    BufReader::new(file).take(MAX_JSON_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_JSON_BYTES {
        let reason = format!("longer than {MAX_JSON_BYTES} bytes; write it as .jsonl");
        return Err(damaged(path, "JSON", reason));
    }
    if text.trim_ascii_start().first() != Some(&b'[') {
        let file = File::open(path).map_err(failed)?;
        return Ok(Source::Lines(Lines::open(path, file, Compression::None).map_err(failed)?));
    }
    let values: Vec<Value> =
        serde_json::from_slice(&text).map_err(|error| damaged(path, "JSON", error.to_string()))?;
    Ok(Source::Json(values.into_iter(), 0))
}

fn parquet_fields(row: &ParquetRow) -> Fields {
    row.get_column_iter().map(|(name, field)| (name.clone(), parquet_value(field))).collect()
}

/// A field as JSON; null for what JSON has no form for.
fn parquet_value(field: &Field) -> Value {
    match field {
        Field::Bool(value) => Value::Bool(*value),
        Field::Byte(value) => Value::from(*value),
        Field::Short(value) => Value::from(*value),
        Field::Int(value) => Value::from(*value),
        Field::Long(value) => Value::from(*value),
        Field::UByte(value) => Value::from(*value),
        Field::UShort(value) => Value::from(*value),
        Field::UInt(value) => Value::from(*value),
        Field::ULong(value) => Value::from(*value),
        Field::Float(value) => number(f64::from(*value)),
        Field::Double(value) => number(*value),
        Field::Str(text) => Value::from(text.as_str()),
        Field::Group(row) => Value::Object(parquet_fields(row)),
        Field::ListInternal(list) => list.elements().iter().map(parquet_value).collect(),
        _ => Value::Null,
    }
}

pub(crate) fn number(value: f64) -> Value {
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}
