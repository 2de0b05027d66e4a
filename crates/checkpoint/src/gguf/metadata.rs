//! GGUF's primitive types and its key-value metadata
//! (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>).
//!
//! Strings and arrays are checked for extent when the file is opened but kept as ranges of the
//! file, so that metadata takes no more memory than its keys until somebody asks for a value.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use crate::CheckpointError;

/// The format's own limit for a key; tensor names are shorter still.
const MAX_NAME: u64 = 65_535;
/// How deep arrays may be nested; real files nest none.
const MAX_NESTING: usize = 4;

/// Reads the values of a file one after the other, never beyond its end.
pub(super) struct Reader<'a> {
    pub(super) path: &'a Path,
    bytes: &'a [u8],
    at: usize,
    /// The name of what is being read, for messages.
    pub(super) reading: String,
}

impl<'a> Reader<'a> {
    pub(super) fn new(path: &'a Path, bytes: &'a [u8]) -> Self {
        Self { path, bytes, at: 0, reading: "the header".to_owned() }
    }

    pub(super) fn offset(&self) -> usize {
        self.at
    }

    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn truncated(&self, needed: u64) -> CheckpointError {
        CheckpointError::GgufTruncated {
            path: self.path.to_owned(),
            offset: self.at,
            reading: self.reading.clone(),
            needed,
            remaining: self.remaining(),
        }
    }

    fn skip(&mut self, length: u64) -> Result<Range<usize>, CheckpointError> {
        if length > self.remaining() as u64 {
            return Err(self.truncated(length));
        }
        let start = self.at;
        // At most as long as what remains, so it fits a usize.
        self.at += length as usize;
        Ok(start..self.at)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], CheckpointError> {
        let Some(bytes) = self.bytes[self.at..].first_chunk() else {
            return Err(self.truncated(N as u64));
        };
        self.at += N;
        Ok(*bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, CheckpointError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, CheckpointError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count of things of at least `size` bytes each, which must fit into what remains.
    pub(super) fn count(&mut self, size: u64) -> Result<u64, CheckpointError> {
        let count = self.u64()?;
        let needed = count.saturating_mul(size);
        if needed > self.remaining() as u64 {
            return Err(self.truncated(needed));
        }
        Ok(count)
    }

    fn string_range(&mut self) -> Result<Range<usize>, CheckpointError> {
        let length = self.u64()?;
        self.skip(length)
    }

    /// A key or a tensor's name.
    pub(super) fn name(&mut self) -> Result<&'a str, CheckpointError> {
        let offset = self.at;
        let range = self.string_range()?;
        let (path, reading) = (self.path, &self.reading);
        let length = range.len() as u64;
        if length > MAX_NAME {
            return Err(CheckpointError::GgufNameTooLong {
                path: path.to_owned(),
                offset,
                reading: reading.clone(),
                length,
                limit: MAX_NAME,
            });
        }
        str::from_utf8(&self.bytes[range]).map_err(|_| CheckpointError::GgufNotUtf8 {
            path: path.to_owned(),
            offset,
            reading: reading.clone(),
        })
    }

    fn kind(&mut self) -> Result<Kind, CheckpointError> {
        let offset = self.at;
        let number = self.u32()?;
        Kind::from_number(number).ok_or_else(|| CheckpointError::GgufValueType {
            path: self.path.to_owned(),
            offset,
            reading: self.reading.clone(),
            number,
        })
    }

    fn value(&mut self, kind: Kind) -> Result<Value, CheckpointError> {
        Ok(match kind {
            Kind::U8 => Value::Unsigned(self.array::<1>()?[0].into()),
            Kind::U16 => Value::Unsigned(u16::from_le_bytes(self.array()?).into()),
            Kind::U32 => Value::Unsigned(self.u32()?.into()),
            Kind::U64 => Value::Unsigned(self.u64()?),
            Kind::I8 => Value::Signed(i8::from_le_bytes(self.array()?).into()),
            Kind::I16 => Value::Signed(i16::from_le_bytes(self.array()?).into()),
            Kind::I32 => Value::Signed(i32::from_le_bytes(self.array()?).into()),
            Kind::I64 => Value::Signed(i64::from_le_bytes(self.array()?)),
            Kind::F32 => Value::Float(shortest(f32::from_le_bytes(self.array()?))),
            Kind::F64 => Value::Float(f64::from_le_bytes(self.array()?)),
            Kind::Bool => Value::Bool(self.array::<1>()?[0] != 0),
            Kind::String => Value::String(self.string_range()?),
            Kind::Array => {
                let array = self.array_header()?;
                self.skip_elements(&array, 1)?;
                Value::Array(array)
            }
        })
    }

    fn array_header(&mut self) -> Result<Array, CheckpointError> {
        let kind = self.kind()?;
        let count = self.count(kind.least_bytes())?;
        Ok(Array { kind, count, start: self.at })
    }

    fn skip_elements(&mut self, array: &Array, depth: usize) -> Result<(), CheckpointError> {
        match array.kind {
            Kind::String => (0..array.count).try_for_each(|_| self.string_range().map(drop)),
            Kind::Array if depth >= MAX_NESTING => Err(CheckpointError::GgufNesting {
                path: self.path.to_owned(),
                offset: self.at,
                reading: self.reading.clone(),
                limit: MAX_NESTING,
            }),
            Kind::Array => (0..array.count).try_for_each(|_| {
                let inner = self.array_header()?;
                self.skip_elements(&inner, depth + 1)
            }),
            // Fits: `array_header` has compared it with what remains.
            kind => self.skip(array.count * kind.least_bytes()).map(drop),
        }
    }
}

/// The number that the writer of a file meant: the shortest decimal that rounds to this f32, so
/// that an epsilon of 1e-5 is 1e-5 and not 9.999999747378752e-6.
fn shortest(number: f32) -> f64 {
    number.to_string().parse().unwrap_or_else(|_| number.into())
}

/// Types of metadata values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    /// Every kind; its place in the list is the number it has in the format.
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::String,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    const fn least_bytes(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::String => 8,
            // Kind and count.
            Self::Array => 12,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    String(Range<usize>),
    Array(Array),
}

#[derive(Debug, Clone, PartialEq)]
struct Array {
    kind: Kind,
    count: u64,
    start: usize,
}

/// The metadata of one file, with typed access; every error names file and key.
pub(super) struct Metadata<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    values: HashMap<&'a str, Value>,
}

impl<'a> Metadata<'a> {
    pub(super) fn read(reader: &mut Reader<'a>, count: u64) -> Result<Self, CheckpointError> {
        let mut values = HashMap::new();
        for entry in 0..count {
            reader.reading = format!("metadata entry {entry}");
            let key = reader.name()?;
            reader.reading = format!("the value of metadata key {key:?}");
            let kind = reader.kind()?;
            let value = reader.value(kind)?;
            if values.insert(key, value).is_some() {
                return Err(CheckpointError::GgufDuplicateKey {
                    path: reader.path.to_owned(),
                    key: key.to_owned(),
                });
            }
        }
        Ok(Self { path: reader.path, bytes: reader.bytes, values })
    }

    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.values.keys().copied()
    }

    pub(super) fn wrong(&self, key: &str, expected: &'static str) -> CheckpointError {
        let found = self.found(key);
        CheckpointError::GgufKey {
            path: self.path.to_owned(),
            key: key.to_owned(),
            found,
            expected,
        }
    }

    fn shown(&self, value: &Value) -> String {
        match value {
            Value::Unsigned(number) => number.to_string(),
            Value::Signed(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Bool(flag) => flag.to_string(),
            Value::String(range) => {
                let text = String::from_utf8_lossy(
                    &self.bytes[range.start..range.end.min(range.start + 80)],
                );
                format!("{text:?}")
            }
            Value::Array(array) => format!("an array of {} {:?}", array.count, array.kind),
        }
    }

    pub(super) fn unsupported(&self, key: &str, why: &'static str) -> CheckpointError {
        let value = self.found(key);
        CheckpointError::GgufUnsupported {
            path: self.path.to_owned(),
            key: key.to_owned(),
            value,
            why,
        }
    }

    fn found(&self, key: &str) -> String {
        self.values.get(key).map_or_else(|| "absent".to_owned(), |value| self.shown(value))
    }

    /// Refuses the key unless it is absent or neutral: false, 0, or `neutral`.
    pub(super) fn refuse(
        &self,
        key: &str,
        neutral: f64,
        why: &'static str,
    ) -> Result<(), CheckpointError> {
        match self.values.get(key) {
            None | Some(Value::Bool(false) | Value::Unsigned(0) | Value::Signed(0)) => Ok(()),
            Some(Value::Float(number)) if *number == 0.0 || *number == neutral => Ok(()),
            Some(_) => Err(self.unsupported(key, why)),
        }
    }

    pub(super) fn missing(&self, key: &str) -> CheckpointError {
        CheckpointError::GgufMissingKey { path: self.path.to_owned(), key: key.to_owned() }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, CheckpointError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::String(range)) => match str::from_utf8(&self.bytes[range.clone()]) {
                Ok(text) => Ok(Some(text)),
                Err(_) => Err(self.wrong(key, "UTF-8 text")),
            },
            Some(_) => Err(self.wrong(key, "a string")),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, CheckpointError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, CheckpointError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Float(number)) if number.is_finite() => Ok(Some(*number)),
            Some(Value::Unsigned(number)) => Ok(Some(*number as f64)),
            Some(Value::Signed(number)) => Ok(Some(*number as f64)),
            Some(_) => Err(self.wrong(key, "a finite number")),
        }
    }

    pub(super) fn whole(&self, key: &str) -> Result<Option<u64>, CheckpointError> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        match whole(value) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(key, "a whole number")),
        }
    }

    /// The value of a key that is a whole number, or an array that holds the same number for each
    /// layer.
    pub(super) fn same_for_all_layers(&self, key: &str) -> Result<Option<u64>, CheckpointError> {
        let Some(Value::Array(array)) = self.values.get(key) else {
            return self.whole(key);
        };
        let mut first = None;
        let expected = "a whole number, or an array of them";
        for element in self.elements(array) {
            let number = whole(&element?).ok_or_else(|| self.wrong(key, expected))?;
            if *first.get_or_insert(number) != number {
                return Err(self.unsupported(key, "layers of different shape are not"));
            }
        }
        first.map(Some).ok_or_else(|| self.wrong(key, expected))
    }

    pub(super) fn texts(&self, key: &str) -> Result<Vec<String>, CheckpointError> {
        self.list(key, "an array of UTF-8 strings", |value| match value {
            Value::String(range) => {
                str::from_utf8(&self.bytes[range.clone()]).ok().map(str::to_owned)
            }
            _ => None,
        })
    }

    pub(super) fn numbers(&self, key: &str) -> Result<Vec<f32>, CheckpointError> {
        self.list(key, "an array of numbers", |value| match value {
            Value::Float(number) => Some(*number as f32),
            _ => None,
        })
    }

    pub(super) fn integers(&self, key: &str) -> Result<Vec<i32>, CheckpointError> {
        self.list(key, "an array of 32-bit integers", |value| match value {
            Value::Signed(number) => i32::try_from(*number).ok(),
            Value::Unsigned(number) => i32::try_from(*number).ok(),
            _ => None,
        })
    }

    /// All elements of an array; empty if the key is absent.
    fn list<T>(
        &self,
        key: &str,
        expected: &'static str,
        convert: impl Fn(&Value) -> Option<T>,
    ) -> Result<Vec<T>, CheckpointError> {
        match self.values.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(array)) => self
                .elements(array)
                .map(|value| convert(&value?).ok_or_else(|| self.wrong(key, expected)))
                .collect(),
            Some(_) => Err(self.wrong(key, expected)),
        }
    }

    /// Length of an array, 0 if the key is absent or something else.
    pub(super) fn length(&self, key: &str) -> u64 {
        match self.values.get(key) {
            Some(Value::Array(array)) => array.count,
            _ => 0,
        }
    }

    fn elements(&self, array: &Array) -> impl Iterator<Item = Result<Value, CheckpointError>> {
        let mut reader = Reader::new(self.path, self.bytes);
        reader.at = array.start;
        let kind = array.kind;
        (0..array.count).map(move |_| reader.value(kind))
    }
}

fn whole(value: &Value) -> Option<u64> {
    match value {
        Value::Unsigned(number) => Some(*number),
        Value::Signed(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}
