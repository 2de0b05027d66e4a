//! The texts of a parquet file: its string column `text`, row by row, one page in memory at a time.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::vec;

use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::MAX_LINE_BYTES;
use crate::CorpusError;
use lns_tokenizer::guarded;

const COLUMN: &str = "text";
/// Rows decoded at a time; their bytes stay in the page they came in.
const BATCH_ROWS: usize = 64;

/// The texts of a file, in order. Ends at an error.
pub(crate) struct ParquetRows {
    path: PathBuf,
    file: SerializedFileReader<File>,
    /// The index of the column of texts.
    column: usize,
    /// Row groups that were begun.
    groups: usize,
    reader: Option<ColumnReaderImpl<ByteArrayType>>,
    /// `None` where there is no text.
    batch: vec::IntoIter<Option<ByteArray>>,
    row: u64,
}

impl ParquetRows {
    pub(crate) fn open(path: &Path, file: File) -> Result<Self, CorpusError> {
        let file = guarded(|| SerializedFileReader::new(file))
            .map_err(|reason| damaged(path.to_owned(), reason))?;
        let columns = file.metadata().file_metadata().schema_descr().columns();
        let is_text = |column: &parquet::schema::types::ColumnDescPtr| {
            column.path().parts() == [COLUMN]
                && column.physical_type() == Type::BYTE_ARRAY
                && column.max_rep_level() == 0
        };
        let Some(column) = columns.iter().position(is_text) else {
            let named = columns
                .iter()
                .map(|column| format!("{} ({})", column.path().string(), column.physical_type()));
            let columns = named.collect::<Vec<_>>().join(", ");
            return Err(CorpusError::NoTextColumn { path: path.to_owned(), columns });
        };
        let batch = Vec::new().into_iter();
        Ok(Self { path: path.to_owned(), file, column, groups: 0, reader: None, batch, row: 0 })
    }

    fn next_text(&mut self) -> Result<Option<String>, CorpusError> {
        while self.batch.len() == 0 {
            let batch = guarded(|| self.read_batch());
            match batch.map_err(|reason| damaged(self.path.clone(), reason))? {
                Some(batch) => self.batch = batch.into_iter(),
                None => return Ok(None),
            }
        }
        self.row += 1;
        let bad =
            |what: String| CorpusError::ParquetRow { path: self.path.clone(), row: self.row, what };
        let bytes = self.batch.next().flatten().ok_or_else(|| bad("it has no text".to_owned()))?;
        if bytes.len() as u64 > MAX_LINE_BYTES {
            let what =
                format!("longer than {MAX_LINE_BYTES} bytes; split it into several documents");
            return Err(bad(what));
        }
        let text = String::from_utf8(bytes.data().to_vec());
        text.map(Some).map_err(|error| bad(format!("not UTF-8: {error}")))
    }

    /// The next rows, which may be none; `None` at the end of the file.
    fn read_batch(&mut self) -> Result<Option<Vec<Option<ByteArray>>>, ParquetError> {
        let Some(reader) = &mut self.reader else { return self.next_group() };
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let (rows, ..) = reader.read_records(BATCH_ROWS, Some(&mut levels), None, &mut values)?;
        if rows == 0 {
            self.reader = None;
        }
        // Without levels every row has a value.
        let mut values = values.into_iter();
        let defined = |row: usize| levels.get(row).is_none_or(|&level| level > 0);
        Ok(Some((0..rows).map(|row| if defined(row) { values.next() } else { None }).collect()))
    }

    fn next_group(&mut self) -> Result<Option<Vec<Option<ByteArray>>>, ParquetError> {
        if self.groups >= self.file.num_row_groups() {
            return Ok(None);
        }
        let reader = self.file.get_row_group(self.groups)?.get_column_reader(self.column)?;
        self.groups += 1;
        let ColumnReader::ByteArrayColumnReader(reader) = reader else {
            return Err(ParquetError::General("the column has another type".to_owned()));
        };
        self.reader = Some(reader);
        Ok(Some(Vec::new()))
    }
}

fn damaged(path: PathBuf, reason: String) -> CorpusError {
    CorpusError::Damaged { path, format: "parquet", reason }
}

impl Iterator for ParquetRows {
    type Item = Result<String, CorpusError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_text().transpose()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;
    use std::sync::Arc;

    use parquet::basic::{Compression, ZstdLevel};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use proptest::prelude::*;

    use super::*;

    const SCHEMA: &str = "message m { required int64 id; optional group meta { optional binary text (UTF8); } \
         optional binary text (UTF8); }";

    /// A file of texts, in row groups of 300 rows, beside other columns.
    pub(crate) fn parquet(texts: &[&str]) -> Vec<u8> {
        let texts: Vec<_> = texts.iter().map(|&text| Some(text.as_bytes())).collect();
        write(&texts, Compression::SNAPPY)
    }

    fn write(texts: &[Option<&[u8]>], compression: Compression) -> Vec<u8> {
        let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
        let properties = WriterProperties::builder()
            .set_compression(compression)
            .set_data_page_row_count_limit(100)
            .set_write_batch_size(10)
            .build();
        let mut file = Vec::new();
        let mut writer =
            SerializedFileWriter::new(&mut file, schema, Arc::new(properties)).unwrap();
        for rows in texts.chunks(300) {
            let mut group = writer.next_row_group().unwrap();
            let mut column = group.next_column().unwrap().unwrap();
            let ids: Vec<i64> = (0..rows.len() as i64).collect();
            column.typed::<parquet::data_type::Int64Type>().write_batch(&ids, None, None).unwrap();
            column.close().unwrap();
            for levels in
                [vec![0; rows.len()], rows.iter().map(|row| row.is_some().into()).collect()]
            {
                let mut column = group.next_column().unwrap().unwrap();
                let values: Vec<ByteArray> = match levels.contains(&1) {
                    true => rows.iter().flatten().map(|&row| row.to_vec().into()).collect(),
                    false => Vec::new(),
                };
                let typed = column.typed::<ByteArrayType>();
                typed.write_batch(&values, Some(&levels), None).unwrap();
                column.close().unwrap();
            }
            group.close().unwrap();
        }
        writer.close().unwrap();
        file
    }

    fn read(bytes: &[u8]) -> Result<Vec<String>, CorpusError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        fs::write(&path, bytes).unwrap();
        ParquetRows::open(&path, File::open(&path).unwrap())?.collect()
    }

    fn refusal(bytes: &[u8]) -> String {
        read(bytes).unwrap_err().to_string()
    }

    #[test]
    fn usual_compressions_are_read() {
        let texts: Vec<Option<&[u8]>> = vec![Some(b"one"), Some(b"two"), Some(b"one")];
        for compression in [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::GZIP(Default::default()),
            Compression::ZSTD(ZstdLevel::default()),
        ] {
            assert_eq!(read(&write(&texts, compression)).unwrap(), ["one", "two", "one"]);
        }
        let message = refusal(&write(&texts, Compression::UNCOMPRESSED)[1..]);
        assert!(message.contains("a.parquet: damaged parquet data"), "{message}");
    }

    #[test]
    fn a_row_without_a_text_is_an_error_with_its_number() {
        let mut texts: Vec<Option<&[u8]>> = vec![Some(b"one"); 500];
        texts[400] = None;
        let message = refusal(&write(&texts, Compression::SNAPPY));
        assert!(message.contains("a.parquet, row 401: it has no text"), "{message}");
        texts[350] = Some(b"\xFF");
        let message = refusal(&write(&texts, Compression::SNAPPY));
        assert!(message.contains("a.parquet, row 351: not UTF-8"), "{message}");
    }

    #[test]
    fn a_file_without_a_column_of_texts_is_refused_with_its_columns() {
        let schema = "message m { required int64 text; optional binary content (UTF8); \
                      optional group list { repeated binary text (UTF8); } }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let mut file = Vec::new();
        let writer = SerializedFileWriter::new(&mut file, schema, Arc::default()).unwrap();
        writer.close().unwrap();
        let message = refusal(&file);
        let columns = "text (INT64), content (BYTE_ARRAY), list.text (BYTE_ARRAY)";
        assert!(message.contains(columns), "{message}");
    }

    proptest! {
        #[test]
        fn damage_gives_an_error_or_other_text_but_no_panic(
            places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            length in any::<prop::sample::Index>(),
        ) {
            let mut file = parquet(&["one", "two two two", "three"]);
            for (place, byte) in places {
                let place = place.index(file.len());
                file[place] = byte;
            }
            // Whatever it is.
            let _ = read(&file);
            file.truncate(length.index(file.len()));
            prop_assert!(read(&file).is_err());
        }
    }
}
