//! Folders and safetensors files that lie, and what is said about them.

use std::fs;

use lns_checkpoint::CheckpointError;
use serde_json::json;

use crate::files::{
    Folder, Tensor, config, model_folder, raw_safetensors, read_everything, refused, safetensors,
    tensors,
};

#[test]
fn what_was_looked_for_and_not_found_is_named() {
    let folder = Folder::new();
    let nowhere = refused(&folder.path().join("nowhere")).to_string();
    assert!(nowhere.contains("nowhere does not exist"), "{nowhere}");
    let empty = refused(folder.path()).to_string();
    assert!(empty.starts_with("no config.json in "), "{empty}");
    folder.write("config.json", config().to_string());
    let no_weights = refused(folder.path()).to_string();
    assert!(
        no_weights.contains("no model.safetensors or model.safetensors.index.json in"),
        "{no_weights}"
    );
    let text = refused(&folder.write("notes.txt", "Hello")).to_string();
    assert!(text.contains("notes.txt is not a model"), "{text}");
    fs::create_dir(folder.path().join("model.safetensors")).expect("a folder");
    assert!(matches!(refused(folder.path()), CheckpointError::NotAFile { .. }));
}

#[test]
fn a_config_that_is_not_one_is_refused_with_its_path() {
    let folder = model_folder(&tensors());
    for (text, part) in [
        ("", "not a JSON object"),
        ("[]", "not a JSON object"),
        ("{\"model_type\": \"llama\"", "not a JSON object"),
        ("{}", "`model_type` is missing"),
        ("{\"model_type\": \"mamba\"}", "\"mamba\" is not supported"),
    ] {
        folder.write("config.json", text);
        let message = refused(folder.path()).to_string();
        assert!(message.contains("config.json") && message.contains(part), "{message}");
    }
    folder.write("config.json", [0xff, 0xfe]);
    assert!(refused(folder.path()).to_string().contains("utf-8"));
    folder.write("config.json", "[".repeat(100_000));
    assert!(refused(folder.path()).to_string().contains("recursion"));
}

#[test]
fn a_config_of_absurd_size_is_not_read() {
    let folder = model_folder(&tensors());
    let file = fs::File::create(folder.path().join("config.json")).expect("a file");
    file.set_len((64 << 20) + 1).expect("a sparse file");
    assert!(matches!(refused(folder.path()), CheckpointError::JsonTooLarge { .. }));
}

#[test]
fn a_truncated_file_is_refused_wherever_it_is_cut() {
    let folder = model_folder(&tensors());
    let path = folder.path().join("model.safetensors");
    let file = fs::OpenOptions::new().write(true).open(&path).expect("it was just written");
    let length = file.metadata().expect("its size").len();
    for length in (0..length).rev().step_by(7).chain([8, 7, 0]) {
        file.set_len(length).expect("files can be cut");
        let message = refused(folder.path()).to_string();
        assert!(message.contains("model.safetensors"), "{message}");
    }
}

#[test]
fn bytes_after_the_data_are_refused() {
    let folder = model_folder(&tensors());
    let mut bytes = safetensors(&tensors());
    bytes.push(0);
    folder.write("model.safetensors", bytes);
    assert!(matches!(refused(folder.path()), CheckpointError::DataLength { .. }));
}

fn refused_header(header: &str, data: usize) -> CheckpointError {
    let folder = model_folder(&[]);
    folder.write("model.safetensors", raw_safetensors(header, &vec![0; data]));
    read_everything(folder.path());
    let error = refused(folder.path());
    assert!(error.to_string().contains("model.safetensors"), "{error}");
    error
}

#[test]
fn a_header_longer_than_the_file_or_the_limit_is_refused() {
    let folder = model_folder(&[]);
    for length in [100u64, u64::MAX, 1 << 60] {
        folder.write("model.safetensors", [&length.to_le_bytes()[..], b"{}"].concat());
        let error = refused(folder.path());
        assert!(matches!(error, CheckpointError::HeaderLength { size: 10, .. }), "{error}");
    }
    let path = folder.write("model.safetensors", 100_000_001u64.to_le_bytes());
    let file = fs::OpenOptions::new().write(true).open(path).expect("it was just written");
    file.set_len(200_000_000).expect("a sparse file");
    assert!(matches!(refused(folder.path()), CheckpointError::HeaderTooLarge { .. }));
}

#[test]
fn a_header_that_is_not_the_formats_is_refused() {
    for (header, part) in [
        ("", "EOF"),
        ("[]", "an object"),
        ("{\"a\": 1}", "tensor \"a\""),
        ("{\"a\": {\"dtype\": \"F31\", \"shape\": [], \"data_offsets\": [0, 4]}}", "F31"),
        ("{\"a\": {\"dtype\": \"F32\", \"shape\": [-1], \"data_offsets\": [0, 4]}}", "-1"),
        ("{\"a\": {\"dtype\": \"F32\", \"shape\": [1]}}", "data_offsets"),
        ("{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0]}}", "tensor \"a\""),
        ("{} {}", "trailing"),
    ] {
        let message = refused_header(header, 4).to_string();
        assert!(message.contains(part), "{header}: {message}");
    }
    let twice = "{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}, \
                  \"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [4, 8]}}";
    assert!(refused_header(twice, 8).to_string().contains("\"a\" is there twice"));
}

#[test]
fn offsets_that_overlap_leave_a_gap_or_leave_the_file_are_refused() {
    let two = |first: [u64; 2], second: [u64; 2]| {
        let entry = |offsets| json!({"dtype": "F32", "shape": [1], "data_offsets": offsets});
        refused_header(&json!({"a": entry(first), "b": entry(second)}).to_string(), 8)
    };
    for (first, second) in
        [([0, 4], [0, 4]), ([0, 4], [2, 6]), ([0, 4], [5, 9]), ([4, 8], [8, 12]), ([4, 0], [4, 8])]
    {
        let error = two(first, second);
        assert!(matches!(error, CheckpointError::Offsets { .. }), "{first:?} {second:?}: {error}");
    }
    assert!(matches!(two([0, 4], [4, 12]), CheckpointError::TensorSize { found: 8, .. }));
    let one = |shape: &str, end: u64| {
        refused_header(
            &format!(
                "{{\"a\": {{\"dtype\": \"U8\", \"shape\": {shape}, \"data_offsets\": [0, {end}]}}}}"
            ),
            8,
        )
    };
    assert!(matches!(one("[12]", 12), CheckpointError::DataLength { .. }));
    assert!(matches!(one("[4]", 4), CheckpointError::DataLength { .. }));
    // The data's end and the header's length overflow when they are added.
    let bits = (u64::MAX / 8).to_string();
    assert!(matches!(one(&format!("[{bits}]"), u64::MAX / 8), CheckpointError::DataLength { .. }));
}

#[test]
fn shapes_beyond_any_file_are_refused() {
    for shape in [vec![1u64 << 32, 1 << 32], vec![u64::MAX], vec![1 << 62], vec![1 << 63, 2, 0]] {
        let header = json!({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}});
        let error = refused_header(&header.to_string(), 4);
        assert!(matches!(error, CheckpointError::ShapeOverflow { .. }), "{error}");
    }
}

/// A folder of two shards with the given index.
fn sharded(index: &serde_json::Value) -> Folder {
    let folder = Folder::new();
    folder.write("config.json", config().to_string());
    folder.write("a.safetensors", safetensors(&[Tensor::f32("one", &[1], &[1.0])]));
    folder.write("b.safetensors", safetensors(&[Tensor::f32("two", &[1], &[2.0])]));
    folder.write("model.safetensors.index.json", index.to_string());
    folder
}

#[test]
fn an_index_that_is_not_one_is_refused() {
    for index in
        [json!({}), json!([]), json!({"weight_map": ["a"]}), json!({"weight_map": {"one": 1}})]
    {
        let error = refused(sharded(&index).path());
        assert!(matches!(error, CheckpointError::Index { .. }), "{error}");
    }
    let folder = sharded(&json!({}));
    let twice = "{\"weight_map\": {\"one\": \"a.safetensors\", \"one\": \"b.safetensors\"}}";
    folder.write("model.safetensors.index.json", twice);
    assert!(refused(folder.path()).to_string().contains("\"one\" is there twice"));
}

#[test]
fn a_shard_outside_the_folder_is_refused() {
    let outside = Folder::new();
    let target = outside.write("a.safetensors", safetensors(&[Tensor::f32("one", &[1], &[1.0])]));
    let absolute = target.to_str().expect("a plain path").to_owned();
    for shard in ["../a.safetensors", "x/../../a.safetensors", &absolute, "", "."] {
        let folder = sharded(&json!({"weight_map": {"one": shard}}));
        let error = refused(folder.path());
        assert!(matches!(error, CheckpointError::ShardPath { .. }), "{shard}: {error}");
        assert!(error.to_string().contains("\"one\""), "{error}");
    }
}

#[test]
fn an_index_that_does_not_match_its_shards_is_refused() {
    let missing = sharded(&json!({"weight_map": {"one": "a.safetensors", "two": "c.safetensors"}}));
    let error = refused(missing.path());
    assert!(matches!(error, CheckpointError::MissingShard { .. }), "{error}");
    assert!(error.to_string().contains("c.safetensors"), "{error}");

    for map in [
        json!({"one": "a.safetensors", "two": "a.safetensors"}),
        json!({"one": "b.safetensors", "two": "a.safetensors"}),
        json!({"one": "a.safetensors", "three": "b.safetensors"}),
    ] {
        let folder = sharded(&json!({"weight_map": map}));
        let error = refused(folder.path());
        assert!(matches!(error, CheckpointError::NotInShard { .. }), "{error}");
    }

    let twice = sharded(&json!({"weight_map": {"one": "a.safetensors", "two": "b.safetensors"}}));
    let both = [Tensor::f32("one", &[1], &[1.0]), Tensor::f32("two", &[1], &[2.0])];
    twice.write("b.safetensors", safetensors(&both));
    let error = refused(twice.path());
    assert!(matches!(error, CheckpointError::DuplicateTensor { .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains("a.safetensors") && message.contains("b.safetensors"), "{message}");
}

#[test]
fn a_broken_shard_is_named() {
    let folder = sharded(&json!({"weight_map": {"one": "a.safetensors", "two": "b.safetensors"}}));
    folder.write("b.safetensors", [1, 2, 3]);
    let message = refused(folder.path()).to_string();
    assert!(message.contains("b.safetensors has 3 bytes"), "{message}");
}
