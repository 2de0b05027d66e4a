use std::fs;
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use lns_tokenizer::Cut;
use tempfile::{TempDir, tempdir};

use super::parquet_rows::tests::parquet;
use super::pieces::PIECE_BYTES;
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
        let pieces = Pieces::open(&folder.path().join(name), SPLIT).unwrap().with_ids().unwrap();
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
    let many: Vec<String> = (0..1000).map(|row| format!("row {row} {}", "x".repeat(row))).collect();
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
        let pieces = Pieces::open(&folder.path().join(name), SPLIT).unwrap().with_ids().unwrap();
        let pieces: Vec<Piece> = pieces.map(Result::unwrap).collect();
        assert!(pieces.iter().all(|piece| piece.id.is_none() == piece.continues));
        pieces.into_iter().filter_map(|piece| piece.id).collect::<Vec<_>>()
    };
    let of = |text: &str| DocumentId::of(text.as_bytes());
    assert_eq!(ids("a.txt", long.as_bytes()), [of(&long)]);
    assert_eq!(ids("a.parquet", &parquet(&[&long, "b", &long])), [of(&long), of("b"), of(&long)]);
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
    let folder = folder_with(&[("a.json.bz2", b""), ("a.md", b""), ("a.json", b""), ("txt", b"")]);
    let message = |name: &str| text_files(&[folder.path().join(name)]).unwrap_err().to_string();
    for name in ["a.json.bz2", "a.md", "a.json", "txt"] {
        assert!(message(name).contains("ends in none of .txt, .jsonl"), "{name}");
    }
    assert!(message("absent.txt").contains("absent.txt: cannot be read"));
    assert!(message("").contains("no .txt, .jsonl, .parquet"));
}
