//! Rows of Arrow record batches (arrow.apache.org/docs/format/Columnar.html, "IPC"), as far as the
//! `datasets` library writes them for texts: strings, numbers, truth values, lists and structs,
//! uncompressed. A message is a length, a FlatBuffers table, and the bytes of its columns. Nothing in
//! it is trusted: every offset is looked up in the bytes that are there.

use std::io::Read;
use std::vec;

use serde_json::Value;

use super::{Fields, number};

/// What every message of a stream begins with.
const CONTINUATION: u32 = 0xffff_ffff;
/// What a file of record batches begins with; a stream follows.
const MAGIC: &[u8; 8] = b"ARROW1\0\0";
/// The longest message without its columns.
const MAX_METADATA: u32 = 16 << 20;
/// The longest columns of one batch.
const MAX_BODY: u64 = 2 << 30;
/// What is wrong with a stream that was cut.
const CUT: &str = "it ends in the middle of a message";
/// How deep types may be nested.
const MAX_DEPTH: usize = 8;

/// The rows of a stream, one batch in memory at a time.
pub(crate) struct ArrowRows {
    reader: Box<dyn Read + Send>,
    begun: bool,
    schema: Option<Vec<Column>>,
    batch: vec::IntoIter<Fields>,
}

/// A column's name and type.
#[derive(Debug, Clone)]
struct Column {
    name: String,
    kind: Kind,
    children: Vec<Column>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Null,
    Integer { bytes: usize, signed: bool },
    Single,
    Double,
    Text { wide: bool },
    Bool,
    List { wide: bool },
    Struct,
}

impl ArrowRows {
    pub(crate) fn new(reader: Box<dyn Read + Send>) -> Self {
        Self { reader, begun: false, schema: None, batch: Vec::new().into_iter() }
    }

    /// The next row; the message is what is wrong.
    pub(crate) fn next_row(&mut self) -> Result<Option<Fields>, String> {
        loop {
            if let Some(row) = self.batch.next() {
                return Ok(Some(row));
            }
            if !self.next_message()? {
                return Ok(None);
            }
        }
    }

    /// Reads a message; whether there was one.
    fn next_message(&mut self) -> Result<bool, String> {
        let Some(length) = self.next_length()? else { return Ok(false) };
        let metadata = self.bytes(u64::from(length))?;
        let message = Table::root(&metadata)?;
        let body = message.i64(3)?.unwrap_or(0);
        let body = u64::try_from(body).ok().filter(|length| *length <= MAX_BODY);
        let body = body.ok_or("a batch of absurd length")?;
        let body = self.bytes(body)?;
        let header = message.table(2)?.ok_or("a message without content")?;
        match (message.u8(1)?, &self.schema) {
            (Some(1), _) => {
                let fields = header.tables(1)?;
                self.schema = Some(columns(&fields, 0)?);
            }
            (Some(3), Some(schema)) => {
                self.batch = batch(schema, &header, &body)?.into_iter();
            }
            (Some(3), None) => return Err("a batch before the schema".to_owned()),
            _ => return Err("a message that is neither schema nor rows (a dictionary?)".to_owned()),
        }
        Ok(true)
    }

    /// The length of the next message's table, if there is one.
    fn next_length(&mut self) -> Result<Option<u32>, String> {
        let Some(mut first) = self.word()? else { return self.ended() };
        if !self.begun && first.to_le_bytes() == MAGIC[..4] {
            let rest = self.bytes(4)?;
            if rest != MAGIC[4..] {
                return Err("it does not begin as Arrow does".to_owned());
            }
            let Some(word) = self.word()? else { return self.ended() };
            first = word;
        }
        self.begun = true;
        // Streams before version 0.15 have no mark.
        let length = if first == CONTINUATION { self.word()?.ok_or(CUT)? } else { first };
        match length {
            0 => self.ended(),
            length if length > MAX_METADATA => Err("a message of absurd length".to_owned()),
            length => Ok(Some(length)),
        }
    }

    fn ended(&self) -> Result<Option<u32>, String> {
        if self.schema.is_some() { Ok(None) } else { Err("it ends before its schema".to_owned()) }
    }

    /// Four bytes, unless the stream has ended before them.
    fn word(&mut self) -> Result<Option<u32>, String> {
        let mut word = Vec::new();
        let read = (&mut self.reader).take(4).read_to_end(&mut word);
        read.map_err(|error| error.to_string())?;
        match <[u8; 4]>::try_from(word) {
            Ok(word) => Ok(Some(u32::from_le_bytes(word))),
            Err(word) if word.is_empty() => Ok(None),
            Err(_) => Err(CUT.to_owned()),
        }
    }

    /// That many bytes, allocated as they come.
    fn bytes(&mut self, count: u64) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let read = (&mut self.reader).take(count).read_to_end(&mut bytes);
        read.map_err(|error| error.to_string())?;
        if (bytes.len() as u64) < count {
            return Err(CUT.to_owned());
        }
        Ok(bytes)
    }
}

fn columns(fields: &[Table<'_>], depth: usize) -> Result<Vec<Column>, String> {
    if depth > MAX_DEPTH {
        return Err(format!("columns nested more than {MAX_DEPTH} deep"));
    }
    fields.iter().map(|field| column(field, depth)).collect()
}

/// A schema's `Field`.
fn column(field: &Table<'_>, depth: usize) -> Result<Column, String> {
    let name = field.text(0)?.unwrap_or_default().to_owned();
    if field.table(4)?.is_some() {
        return Err(format!("column {name} is a dictionary; write the data set as parquet"));
    }
    let unread = |what: &str| format!("column {name} {what}; write the data set as parquet");
    let details = field.table(3)?.ok_or_else(|| unread("has no type"))?;
    let kind = match field.u8(2)? {
        Some(1) => Kind::Null,
        Some(2) => {
            let signed = details.u8(1)? == Some(1);
            match details.i32(0)? {
                Some(bits @ (8 | 16 | 32 | 64)) => {
                    Kind::Integer { bytes: bits as usize / 8, signed }
                }
                _ => return Err(unread("has integers of odd width")),
            }
        }
        Some(3) => match details.i16(0)? {
            Some(1) => Kind::Single,
            Some(2) => Kind::Double,
            _ => return Err(unread("has numbers of 16 bits")),
        },
        Some(5) => Kind::Text { wide: false },
        Some(6) => Kind::Bool,
        Some(12) => Kind::List { wide: false },
        Some(13) => Kind::Struct,
        Some(20) => Kind::Text { wide: true },
        Some(21) => Kind::List { wide: true },
        other => return Err(unread(&format!("has a type that is not read ({other:?})"))),
    };
    let children = columns(&field.tables(5)?, depth + 1)?;
    if matches!(kind, Kind::List { .. }) && children.len() != 1 {
        return Err(unread("is a list of no one type"));
    }
    Ok(Column { name, kind, children })
}

/// A `RecordBatch` as rows.
fn batch(schema: &[Column], header: &Table<'_>, body: &[u8]) -> Result<Vec<Fields>, String> {
    if header.table(3)?.is_some() {
        return Err("a compressed batch; write the data set as parquet".to_owned());
    }
    let rows = length(header.i64(0)?.unwrap_or(0))?;
    let mut parts = Parts {
        nodes: header.pairs(1)?.into_iter(),
        buffers: header.pairs(2)?.into_iter(),
        body,
        values_left: body.len() + 1024,
    };
    let mut table: Vec<Fields> = Vec::new();
    for column in schema {
        let values = parts.column(column)?;
        if values.len() != rows {
            return Err(format!("column {} has {} rows of {rows}", column.name, values.len()));
        }
        table.resize_with(rows, Fields::new);
        for (row, value) in table.iter_mut().zip(values) {
            row.insert(column.name.clone(), value);
        }
    }
    Ok(table)
}

fn length(value: i64) -> Result<usize, String> {
    usize::try_from(value).map_err(|_| "a negative length".to_owned())
}

/// What is left of a batch: its columns' parts come one after another.
struct Parts<'a> {
    /// Lengths and counts of nulls.
    nodes: vec::IntoIter<[i64; 2]>,
    /// Offsets and lengths in the body.
    buffers: vec::IntoIter<[i64; 2]>,
    body: &'a [u8],
    /// How many values may still come: more than there are bytes is a trick to fill the memory.
    values_left: usize,
}

impl<'a> Parts<'a> {
    fn column(&mut self, column: &Column) -> Result<Vec<Value>, String> {
        let count = length(self.nodes.next().ok_or("a column is missing")?[0])?;
        let left = self.values_left.checked_sub(count);
        self.values_left = left.ok_or("more values than bytes")?;
        if column.kind == Kind::Null {
            return Ok(vec![Value::Null; count]);
        }
        let validity = self.buffer()?;
        let mut values = self.values(column, count)?;
        if !validity.is_empty() {
            for (index, value) in values.iter_mut().enumerate() {
                if !bit(validity, index)? {
                    *value = Value::Null;
                }
            }
        }
        Ok(values)
    }

    fn values(&mut self, column: &Column, count: usize) -> Result<Vec<Value>, String> {
        match column.kind {
            Kind::Null => Ok(vec![Value::Null; count]),
            Kind::Integer { bytes, signed } => {
                let buffer = self.buffer()?;
                (0..count).map(|index| integer(buffer, index, bytes, signed)).collect()
            }
            Kind::Single => {
                let buffer = self.buffer()?;
                let single =
                    |index| Ok(number(f64::from(f32::from_le_bytes(item(buffer, index)?))));
                (0..count).map(single).collect()
            }
            Kind::Double => {
                let buffer = self.buffer()?;
                (0..count)
                    .map(|index| Ok(number(f64::from_le_bytes(item(buffer, index)?))))
                    .collect()
            }
            Kind::Bool => {
                let buffer = self.buffer()?;
                (0..count).map(|index| bit(buffer, index).map(Value::Bool)).collect()
            }
            Kind::Text { wide } => {
                let bounds = self.bounds(count, wide)?;
                let buffer = self.buffer()?;
                let text = |bounds: &[usize]| {
                    let bytes =
                        buffer.get(bounds[0]..bounds[1]).ok_or("a text beyond its buffer")?;
                    let text = str::from_utf8(bytes).map_err(|_| "a text that is not UTF-8")?;
                    Ok(Value::from(text))
                };
                bounds.windows(2).map(text).collect()
            }
            Kind::List { wide } => {
                let bounds = self.bounds(count, wide)?;
                let items = self.column(&column.children[0])?;
                let mut left = self.values_left;
                let mut list = |bounds: &[usize]| {
                    let items = items.get(bounds[0]..bounds[1]).ok_or("a list beyond its items")?;
                    left = left.checked_sub(items.len()).ok_or("more values than bytes")?;
                    Ok(Value::from(items))
                };
                let lists = bounds.windows(2).map(&mut list).collect();
                self.values_left = left;
                lists
            }
            Kind::Struct => {
                let mut rows = vec![Fields::new(); count];
                for child in &column.children {
                    let values = self.column(child)?;
                    if values.len() != count {
                        return Err(format!("column {} has parts of two lengths", column.name));
                    }
                    for (row, value) in rows.iter_mut().zip(values) {
                        row.insert(child.name.clone(), value);
                    }
                }
                Ok(rows.into_iter().map(Value::Object).collect())
            }
        }
    }

    fn buffer(&mut self) -> Result<&'a [u8], String> {
        let [offset, count] = self.buffers.next().ok_or("a buffer is missing")?;
        let (start, count) = (length(offset)?, length(count)?);
        let end = start.checked_add(count).ok_or("a buffer beyond the batch")?;
        Ok(self.body.get(start..end).ok_or("a buffer beyond the batch")?)
    }

    /// Where `count` texts or lists begin, and where the last one ends.
    fn bounds(&mut self, count: usize, wide: bool) -> Result<Vec<usize>, String> {
        let buffer = self.buffer()?;
        if count == 0 {
            return Ok(Vec::new());
        }
        let bound = |index| match wide {
            true => length(i64::from_le_bytes(item(buffer, index)?)),
            false => length(i32::from_le_bytes(item(buffer, index)?).into()),
        };
        let bounds: Vec<usize> = (0..=count).map(bound).collect::<Result<_, String>>()?;
        if !bounds.is_sorted() {
            return Err("a text or list of negative length".to_owned());
        }
        Ok(bounds)
    }
}

fn item<const N: usize>(buffer: &[u8], index: usize) -> Result<[u8; N], String> {
    let (items, _) = buffer.as_chunks::<N>();
    items.get(index).copied().ok_or_else(|| "a value beyond its buffer".to_owned())
}

fn bit(buffer: &[u8], index: usize) -> Result<bool, String> {
    let byte = buffer.get(index / 8).ok_or("a bit beyond its buffer")?;
    Ok(byte >> (index % 8) & 1 == 1)
}

fn integer(buffer: &[u8], index: usize, bytes: usize, signed: bool) -> Result<Value, String> {
    Ok(match (bytes, signed) {
        (1, true) => Value::from(i8::from_le_bytes(item(buffer, index)?)),
        (1, false) => Value::from(u8::from_le_bytes(item(buffer, index)?)),
        (2, true) => Value::from(i16::from_le_bytes(item(buffer, index)?)),
        (2, false) => Value::from(u16::from_le_bytes(item(buffer, index)?)),
        (4, true) => Value::from(i32::from_le_bytes(item(buffer, index)?)),
        (4, false) => Value::from(u32::from_le_bytes(item(buffer, index)?)),
        (_, true) => Value::from(i64::from_le_bytes(item(buffer, index)?)),
        (_, false) => Value::from(u64::from_le_bytes(item(buffer, index)?)),
    })
}

/// A FlatBuffers table: at `place` stands how far back its list of fields is, which says how far into
/// the table each field stands; 0 is a field that is absent.
#[derive(Clone, Copy)]
struct Table<'a> {
    buffer: &'a [u8],
    place: usize,
}

impl<'a> Table<'a> {
    fn root(buffer: &'a [u8]) -> Result<Self, String> {
        let place = u32::from_le_bytes(at(buffer, 0)?) as usize;
        Ok(Self { buffer, place })
    }

    /// Where a field stands, if it is there.
    fn field(&self, index: usize) -> Result<Option<usize>, String> {
        let back = i64::from(i32::from_le_bytes(at(self.buffer, self.place)?));
        let list =
            usize::try_from(self.place as i64 - back).map_err(|_| "a field before the table")?;
        let size = usize::from(u16::from_le_bytes(at(self.buffer, list)?));
        let entry = 4 + 2 * index;
        if entry + 2 > size {
            return Ok(None);
        }
        let offset = usize::from(u16::from_le_bytes(at(self.buffer, list + entry)?));
        Ok((offset > 0).then_some(self.place + offset))
    }

    fn scalar<const N: usize>(&self, index: usize) -> Result<Option<[u8; N]>, String> {
        self.field(index)?.map(|place| at(self.buffer, place)).transpose()
    }

    fn u8(&self, index: usize) -> Result<Option<u8>, String> {
        Ok(self.scalar(index)?.map(u8::from_le_bytes))
    }

    fn i16(&self, index: usize) -> Result<Option<i16>, String> {
        Ok(self.scalar(index)?.map(i16::from_le_bytes))
    }

    fn i32(&self, index: usize) -> Result<Option<i32>, String> {
        Ok(self.scalar(index)?.map(i32::from_le_bytes))
    }

    fn i64(&self, index: usize) -> Result<Option<i64>, String> {
        Ok(self.scalar(index)?.map(i64::from_le_bytes))
    }

    /// Where what a field refers to stands.
    fn referred(&self, index: usize) -> Result<Option<usize>, String> {
        self.field(index)?.map(|place| follow(self.buffer, place)).transpose()
    }

    fn table(&self, index: usize) -> Result<Option<Self>, String> {
        Ok(self.referred(index)?.map(|place| Self { place, ..*self }))
    }

    /// Where the items of a list stand, and how many there are.
    fn list(&self, index: usize, size: usize) -> Result<(usize, usize), String> {
        let Some(place) = self.referred(index)? else { return Ok((0, 0)) };
        let count = u32::from_le_bytes(at(self.buffer, place)?) as usize;
        let fits = count.checked_mul(size).is_some_and(|bytes| bytes <= self.buffer.len());
        if fits { Ok((place + 4, count)) } else { Err("a list beyond its message".to_owned()) }
    }

    fn text(&self, index: usize) -> Result<Option<&'a str>, String> {
        let (place, count) = self.list(index, 1)?;
        let bytes = self.buffer.get(place..place + count).ok_or("a name beyond its message")?;
        let text = str::from_utf8(bytes).map_err(|_| "a name that is not UTF-8")?;
        Ok(Some(text))
    }

    fn tables(&self, index: usize) -> Result<Vec<Self>, String> {
        let (first, count) = self.list(index, 4)?;
        let table = |item| Ok(Self { place: follow(self.buffer, first + 4 * item)?, ..*self });
        (0..count).map(table).collect()
    }

    /// A list of structs of two numbers.
    fn pairs(&self, index: usize) -> Result<Vec<[i64; 2]>, String> {
        let (first, count) = self.list(index, 16)?;
        let number = |place| Ok::<_, String>(i64::from_le_bytes(at(self.buffer, place)?));
        let pair = |item| Ok([number(first + 16 * item)?, number(first + 16 * item + 8)?]);
        (0..count).map(pair).collect()
    }
}

fn at<const N: usize>(buffer: &[u8], place: usize) -> Result<[u8; N], String> {
    let found = buffer.get(place..).and_then(|rest| rest.first_chunk::<N>());
    found.copied().ok_or_else(|| "an offset beyond its message".to_owned())
}

fn follow(buffer: &[u8], place: usize) -> Result<usize, String> {
    let offset = u32::from_le_bytes(at(buffer, place)?) as usize;
    Ok(place + offset)
}
