//! GGUF files that lie.

use std::fs;

use lns_checkpoint::{Checkpoint, CheckpointError};
use lns_spec::{LayerIndex, Role};

use crate::files::{Folder, Gguf, GgufTensor, Meta, refused};

#[test]
fn every_proper_prefix_of_a_file_is_refused() {
    let bytes = Gguf::model("llama").bytes();
    let (_folder, path) = Gguf::model("llama").write();
    let file = fs::OpenOptions::new().write(true).open(&path).expect("it was just written");
    assert!(Checkpoint::open(&path).is_ok());
    for length in (0..bytes.len()).rev() {
        file.set_len(length as u64).expect("files can be cut");
        let message = refused(&path).to_string();
        assert!(message.contains("tiny.gguf"), "{message}");
    }
}

#[test]
fn experts_that_are_not_as_many_as_the_metadata_says_are_named_and_not_read() {
    let experts = |checkpoint: &Checkpoint| {
        let tensors = checkpoint.spec().layer_tensors(LayerIndex::new(0));
        tensors.into_iter().filter(|tensor| tensor.id.expert.is_some()).collect::<Vec<_>>()
    };
    let sound = Gguf::mixture().write();
    let sound = Checkpoint::open(&sound.1).expect("sound");
    assert!(sound.audit().is_clean(), "{}", sound.audit());
    let (all, stack) = (experts(&sound), 8 * 32);
    assert_eq!(all.len(), 3 * 3);
    let third = sound.read(&all[6]).expect("readable");
    assert_eq!(third, (2 * stack..3 * stack).map(|at| at as f32 / 64.0).collect::<Vec<_>>());

    for dims in [
        &[8, 32, 2][..],
        &[8, 32, 4],
        &[8, 96],
        &[8, 16, 3],
        &[32, 8, 3],
        &[8, 32, 3, 1],
        &[0, 32, 3],
    ] {
        let mut file = Gguf::mixture();
        let elements: u64 = dims.iter().product();
        let name = "blk.0.ffn_gate_exps.weight";
        *file.tensor(name) = GgufTensor::f32(name, dims, (0..elements).map(|_| 1.0));
        let (_folder, path) = file.write();
        let checkpoint = Checkpoint::open(&path).expect("headers are sound");
        let audit = checkpoint.audit().to_string();
        assert!(audit.contains(name) && audit.contains("[3, 32, 8]"), "{audit}");
        for tensor in experts(&checkpoint).iter().filter(|tensor| tensor.id.role == Role::MlpGate) {
            let error = checkpoint.read(tensor).expect_err("another shape").to_string();
            assert!(error.contains(name) && error.contains("tiny.gguf"), "{error}");
        }
    }
    let mut file = Gguf::mixture();
    file.tensors.retain(|tensor| !tensor.name.contains("ffn_up_exps"));
    let (_folder, path) = file.write();
    let checkpoint = Checkpoint::open(&path).expect("headers are sound");
    assert!(checkpoint.audit().to_string().contains("blk.0.ffn_up_exps.weight"));
    let error = checkpoint.read(&experts(&checkpoint)[1]).expect_err("it is not there");
    assert!(matches!(error, CheckpointError::MissingTensor { .. }), "{error}");
}

#[test]
fn counts_of_experts_that_no_model_has_are_refused() {
    for (key, value, part) in [
        ("expert_count", Meta::U64(1 << 40), "experts"),
        ("expert_count", Meta::U32(4097), "4097 experts"),
        ("expert_count", Meta::I32(-3), "expert_count"),
        ("expert_count", Meta::Text("many"), "expert_count"),
        ("expert_count", Meta::U32s(vec![3, 5]), "expert_count"),
        ("expert_used_count", Meta::U32(4), "4 of 3 experts"),
        ("expert_used_count", Meta::U32(0), "num_experts_per_tok"),
        ("expert_gating_func", Meta::U32(2), "only softmax"),
        ("expert_shared_count", Meta::U32(1), "every token"),
    ] {
        let message = Gguf::mixture().set(&format!("llama.{key}"), value).refused();
        assert!(message.contains(part), "{key}: {message}");
    }
}

#[test]
fn other_files_and_versions_are_refused_by_name() {
    let folder = Folder::new();
    let not = refused(&folder.write("a.gguf", b"GGML\x03\0\0\0"));
    assert!(matches!(not, CheckpointError::NotGguf { .. }), "{not}");
    let mut file = Gguf::model("llama");
    for version in [0, 1, 4, 0x0004_0000] {
        file.version = version;
        let message = file.refused();
        assert!(message.contains(&format!("GGUF version {version};")), "{message}");
    }
    for version in [2u32, 3] {
        file.version = version.swap_bytes();
        assert!(file.refused().contains("big-endian"));
    }
}

#[test]
fn counts_and_lengths_beyond_the_file_are_refused_before_anything_is_allocated() {
    let huge = (1u64 << 60).to_le_bytes();
    let bytes = Gguf::model("llama").bytes();
    let folder = Folder::new();
    // Tensor count, entry count, the first key's length.
    for place in [8, 16, 24] {
        let mut bytes = bytes.clone();
        bytes[place..place + 8].copy_from_slice(&huge);
        let error = refused(&folder.write("a.gguf", bytes));
        assert!(matches!(error, CheckpointError::GgufTruncated { .. }), "{error}");
    }
    let string = Meta::Raw(8, huge.to_vec());
    let array = Meta::Raw(9, [&4u32.to_le_bytes()[..], &huge].concat());
    let strings = Meta::Raw(9, [&8u32.to_le_bytes()[..], &1u64.to_le_bytes(), &huge].concat());
    let overflowing = Meta::Raw(9, [&10u32.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat());
    for value in [string, array, strings, overflowing] {
        let mut file = Gguf::model("llama");
        let message = file.set("some.key", value).refused();
        assert!(message.contains("some.key") && message.contains("are left"), "{message}");
    }
}

#[test]
fn arrays_nested_too_deeply_are_refused() {
    let nested = |depth: usize| {
        let level = [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat();
        let innermost = [&0u32.to_le_bytes()[..], &1u64.to_le_bytes(), &[7]].concat();
        Meta::Raw(9, [level.repeat(depth - 1), innermost].concat())
    };
    let mut file = Gguf::model("llama");
    assert!(file.set("some.key", nested(4)).open().is_ok());
    for depth in [5, 100_000] {
        let message = file.set("some.key", nested(depth)).refused();
        assert!(message.contains("some.key") && message.contains("nests"), "{message}");
    }
}

#[test]
fn impossible_names_and_types_in_the_metadata_are_refused() {
    let mut file = Gguf::model("llama");
    let message = file.set("some.key", Meta::Raw(13, vec![0; 8])).refused();
    assert!(message.contains("some.key") && message.contains("type 13"), "{message}");
    let array = Meta::Raw(9, [&77u32.to_le_bytes()[..], &[0; 8]].concat());
    assert!(file.set("some.key", array).refused().contains("type 77"));

    let mut file = Gguf::model("llama");
    file.metadata.push(("k".repeat(65_536), Meta::U32(1)));
    assert!(file.refused().contains("65536 bytes"));

    let folder = Folder::new();
    let mut bytes = Gguf::model("llama").bytes();
    bytes[32] = 0xff;
    let error = refused(&folder.write("a.gguf", bytes));
    assert!(matches!(error, CheckpointError::GgufNotUtf8 { offset: 24, .. }), "{error}");

    let mut file = Gguf::model("llama");
    file.metadata.push(("general.name".to_owned(), Meta::Text("again")));
    assert!(file.refused().contains("\"general.name\" is there twice"));
}

#[test]
fn an_alignment_that_is_no_power_of_two_or_too_large_is_refused() {
    for alignment in [Meta::U32(0), Meta::U32(24), Meta::U64(1 << 63), Meta::U32(1 << 17)] {
        let mut file = Gguf::model("llama");
        let message = file.set("general.alignment", alignment).refused();
        assert!(message.contains("general.alignment"), "{message}");
    }
}

#[test]
fn two_tensors_of_one_name_are_refused() {
    let mut file = Gguf::model("llama");
    file.tensors.push(GgufTensor::f32("output_norm.weight", &[1], [1.0]));
    assert!(file.refused().contains("\"model.norm.weight\" is twice"));
    // One that already has the name the other is given.
    let mut file = Gguf::model("llama");
    file.tensors.push(GgufTensor::f32("model.norm.weight", &[1], [1.0]));
    assert!(file.refused().contains("\"model.norm.weight\" is twice"));
}

#[test]
fn types_that_are_not_read_are_named() {
    for (kind, name) in
        [(16, "16 (IQ2_XXS)"), (40, "40 (NVFP4)"), (4, "type 4;"), (u32::MAX, "4294967295")]
    {
        let mut file = Gguf::model("llama");
        file.tensor("output_norm.weight").kind = kind;
        let message = file.refused();
        assert!(message.contains(name) && message.contains("output_norm.weight"), "{message}");
        assert!(message.contains("Q2_K, Q3_K, Q4_K"), "{message} does not list what is read");
    }
}

#[test]
fn impossible_shapes_are_refused() {
    for (dims, part) in [
        (vec![1, 1, 1, 1, 8], "5 dimensions"),
        (vec![1 << 40, 1 << 40], "more elements than can be counted"),
        (vec![u64::MAX], "more elements than can be counted"),
        (vec![1 << 62], "more elements than can be counted"),
        (vec![1 << 50], "end at byte"),
        // Stacks of more matrices than there are.
        (vec![8, 4, 1 << 32], "end at byte"),
        (vec![8, 1 << 31, 1 << 32], "more elements than can be counted"),
    ] {
        let mut file = Gguf::model("llama");
        file.tensor("output_norm.weight").dims = dims;
        let message = file.refused();
        assert!(message.contains(part) && message.contains("output_norm.weight"), "{message}");
    }
    let mut file = Gguf::model("llama");
    file.tensor("blk.0.ffn_down.weight").dims = vec![8, 32];
    assert!(file.refused().contains("rows of 8 elements"));
}

#[test]
fn data_out_of_place_are_refused() {
    for (offset, part) in [
        (33, "not a multiple of 32"),
        (1 << 20, "end at byte"),
        (!31, "end at byte"),
        (0, "overlap"),
    ] {
        let mut file = Gguf::model("llama");
        file.tensor("output_norm.weight").offset = Some(offset);
        let message = file.refused();
        assert!(message.contains(part) && message.contains("output_norm.weight"), "{message}");
    }
}

#[test]
fn a_query_matrix_that_is_not_whole_heads_is_not_read() {
    let mut file = Gguf::model("llama");
    file.tensor("blk.0.attn_q.weight").dims = vec![8, 6];
    let checkpoint = file.open().expect("the audit tells");
    assert_eq!(checkpoint.audit().misshapen.len(), 1);
    let read = checkpoint.read_f32("model.layers.0.self_attn.q_proj.weight", &[6, 8]);
    assert!(matches!(read, Err(CheckpointError::NotWholeHeads { rows: 6, head_dim: 4, .. })));
}

#[test]
fn empty_tensors_can_be_read() {
    let mut file = Gguf::model("llama");
    file.tensors.push(GgufTensor::f32("none", &[0], []));
    file.tensors.push(GgufTensor::f32("no_rows", &[4, 0], []));
    file.tensors.push(GgufTensor::f32("no_columns", &[0, 4], []));
    file.tensors.push(GgufTensor::f32("no_rows_in_many", &[4, 0, 1 << 40], []));
    file.tensors.push(GgufTensor::f32("scalar", &[], [2.5]));
    let checkpoint = file.open().expect("odd but sound");
    for (name, shape, expected) in [
        ("none", &[0][..], vec![]),
        ("no_rows", &[0, 4], vec![]),
        ("no_columns", &[4, 0], vec![]),
        ("scalar", &[], vec![2.5]),
    ] {
        assert_eq!(checkpoint.read_f32(name, shape).expect("readable"), expected);
    }
    assert!(checkpoint.read_rows_f32("no_columns", &[4, 0], &[3]).expect("readable").is_empty());
    assert!(checkpoint.read_rows_f32("no_rows", &[0, 4], &[0]).is_err());
    let many = [1 << 40, 0, 4];
    assert!(checkpoint.read_f32("no_rows_in_many", &many).expect("readable").is_empty());
    assert!(
        checkpoint.read_matrix("no_rows_in_many", &many, 1 << 39).expect("readable").is_empty()
    );
    assert!(checkpoint.read_matrix("no_rows_in_many", &many, 1 << 40).is_err());
}
