//! Rows of data files, whatever the file.

use std::fs;
use std::io::Write;
use std::sync::Arc;

use flate2::write::GzEncoder;
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::{Value, json};

use lns_corpus::{CorpusError, Row, Rows};
use proptest::prelude::*;

fn rows(name: &str, bytes: &[u8]) -> Result<Vec<Row>, CorpusError> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(name);
    fs::write(&path, bytes).expect("writes");
    Rows::open(&path)?.collect()
}

fn fields(rows: Vec<Row>) -> Vec<Value> {
    rows.into_iter().map(|row| Value::Object(row.fields)).collect()
}

#[test]
fn lines_an_array_and_compressed_lines_are_the_same_rows() {
    let expected = [json!({"a": 1, "b": ["x"]}), json!({"a": 2, "b": []})];
    let lines = format!("{}\n\n{}\n", expected[0], expected[1]);
    let array = format!(" [{},\n{}]", expected[0], expected[1]);
    let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(lines.as_bytes()).expect("compresses");
    let gzip = gzip.finish().expect("compresses");
    for (name, bytes) in [
        ("a.jsonl", lines.as_bytes()),
        ("a.json", lines.as_bytes()),
        ("a.json", array.as_bytes()),
        ("a.jsonl.gz", &gzip),
    ] {
        let found = rows(name, bytes).expect("reads");
        assert_eq!(fields(found), expected, "{name}");
    }
    let numbers: Vec<u64> =
        rows("a.jsonl", lines.as_bytes()).expect("reads").iter().map(|row| row.number).collect();
    assert_eq!(numbers, [1, 3], "blank lines count");
}

#[test]
fn lists_and_groups_of_parquet_are_those_of_the_rows() {
    let schema = "message m { required binary question (UTF8); optional group choices { \
                  optional group text (LIST) { repeated group list { optional binary element \
                  (UTF8); } } } required int64 answer; }";
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    let mut file = Vec::new();
    let mut writer =
        SerializedFileWriter::new(&mut file, schema, Arc::default()).expect("a writer");
    let mut group = writer.next_row_group().expect("a group");
    let texts = |texts: &[&str]| texts.iter().map(|text| ByteArray::from(*text)).collect();
    let mut columns = 0;
    while let Some(mut column) = group.next_column().expect("a column") {
        match (columns, column.untyped()) {
            (0, ColumnWriter::ByteArrayColumnWriter(column)) => {
                let values: Vec<ByteArray> = texts(&["one?", "two?"]);
                column.write_batch(&values, None, None).expect("writes");
            }
            (1, ColumnWriter::ByteArrayColumnWriter(column)) => {
                let values: Vec<ByteArray> = texts(&["a", "b", "c"]);
                column.write_batch(&values, Some(&[4, 4, 4]), Some(&[0, 1, 0])).expect("writes");
            }
            (_, ColumnWriter::Int64ColumnWriter(column)) => {
                column.write_batch(&[1, 0], None, None).expect("writes");
            }
            _ => panic!("another column"),
        }
        column.close().expect("closes");
        columns += 1;
    }
    group.close().expect("closes");
    writer.close().expect("closes");
    let found = rows("a.parquet", &file).expect("reads");
    let expected = [
        json!({"question": "one?", "choices": {"text": ["a", "b"]}, "answer": 1}),
        json!({"question": "two?", "choices": {"text": ["c"]}, "answer": 0}),
    ];
    assert_eq!(fields(found), expected);
    for length in [0, 4, file.len() / 2, file.len() - 1] {
        assert!(rows("a.parquet", &file[..length]).is_err(), "{length} bytes of it");
    }
}

#[test]
fn what_is_no_row_is_refused_with_its_place() {
    for (name, text, expected) in [
        ("a.jsonl", "{\"a\": 1}\n[1]\n", "a.jsonl, line 2: not a JSON object"),
        ("a.json", "[{\"a\": 1}, 2]", "a.json, element 2: not a JSON object"),
        ("a.json", "[{\"a\": 1}, ", "a.json: damaged JSON data"),
        ("a.csv", "a,b", "a.csv: rows are read from .parquet, .arrow, .jsonl"),
    ] {
        let message = rows(name, text.as_bytes()).expect_err("refused").to_string();
        assert!(message.contains(expected), "{message}");
    }
}

/// Made by `golden/tasks.py`: two batches as a stream, and one as a file.
const STREAM: &[u8] = include_bytes!("data/rows.arrow");
const FILE: &[u8] = include_bytes!("data/rows_file.arrow");

fn read(bytes: &[u8]) -> Result<Vec<Value>, CorpusError> {
    rows("a.arrow", bytes).map(fields)
}

#[test]
fn streams_and_files_are_the_rows_that_were_written() {
    let expected = [
        json!({"question": "one?", "choices": {"text": ["a", "b"], "label": ["A", "B"]},
               "answer": 1, "yes": true, "score": 0.5, "long": "x"}),
        json!({"question": "zwei ü", "choices": {"text": [], "label": []},
               "answer": 0, "yes": false, "score": 1.0, "long": ""}),
        json!({"question": null, "choices": {"text": ["c"], "label": ["A"]},
               "answer": 2, "yes": null, "score": 2.0, "long": "y"}),
    ];
    assert_eq!(read(STREAM).expect("a stream"), expected);
    assert_eq!(read(FILE).expect("a file"), expected);
}

#[test]
fn a_stream_that_ends_early_is_an_error_unless_a_message_has_ended() {
    let ends = (0..STREAM.len()).filter(|length| read(&STREAM[..*length]).is_ok()).count();
    assert_eq!(ends, 3, "after the schema and after each of the two batches");
    assert!(read(&[]).is_err());
}

#[test]
fn compressed_batches_and_dictionaries_are_refused_with_a_way_out() {
    for (name, bytes, expected) in [
        ("lz4.arrow", &include_bytes!("data/rows_lz4.arrow")[..], "a compressed batch"),
        ("zstd.arrow", include_bytes!("data/rows_zstd.arrow"), "a compressed batch"),
        (
            "dictionary.arrow",
            include_bytes!("data/rows_dictionary.arrow"),
            "column question is a dictionary",
        ),
    ] {
        let message = rows(name, bytes).expect_err("refused").to_string();
        let remedy = "write the data set as parquet";
        assert!(message.contains(expected) && message.contains(remedy), "{message}");
        assert!(message.contains(name), "{message}");
    }
}

proptest! {
    #[test]
    fn damage_gives_an_error_or_other_rows_but_no_panic(
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut stream = STREAM.to_vec();
        for (place, byte) in places {
            let place = place.index(stream.len());
            stream[place] = byte;
        }
        // Whatever it is.
        let _ = read(&stream);
    }
}
