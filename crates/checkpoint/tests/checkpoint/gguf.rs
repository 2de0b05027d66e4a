//! What a sound GGUF file gives.

use std::fs;

use lns_checkpoint::{Checkpoint, Format, StorageType, TokenizerSource};
use lns_spec::Family;

use crate::files::{Gguf, GgufTensor, Meta};

/// `golden/gguf_blocks.py`
const BLOCKS: &[u8] = include_bytes!("../golden/gguf_blocks.bin");

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (head, tail) = bytes.split_at(count);
    *bytes = tail;
    head
}

fn take_u32(bytes: &mut &[u8]) -> u32 {
    u32::from_le_bytes(take(bytes, 4).try_into().expect("four bytes"))
}

#[test]
fn every_block_type_gives_the_bits_of_the_reference() {
    let mut file = Gguf::model("llama");
    let mut expected = Vec::new();
    let mut golden = BLOCKS;
    while !golden.is_empty() {
        let (kind, elements, size) =
            (take_u32(&mut golden), take_u32(&mut golden), take_u32(&mut golden));
        let stored = take(&mut golden, size as usize).to_vec();
        let bits: Vec<u32> = (0..elements).map(|_| take_u32(&mut golden)).collect();
        let name = format!("blocks.{kind}");
        // As a matrix and as a vector: they are read in different ways.
        let vector = format!("{name}.vector");
        file.tensors.push(GgufTensor::new(
            &name,
            &[256, u64::from(elements) / 256],
            kind,
            stored.clone(),
        ));
        file.tensors.push(GgufTensor::new(&vector, &[u64::from(elements)], kind, stored));
        expected.push((name, bits.clone()));
        expected.push((vector, bits));
    }
    assert_eq!(expected.len(), 2 * 15);
    let checkpoint = file.open().expect("the file is sound");
    for (name, expected) in expected {
        let tensor = checkpoint.tensor(&name).expect("it was written");
        let got = checkpoint.read_f32(&name, &tensor.shape).expect("and can be read");
        let got: Vec<_> = got.into_iter().map(f32::to_bits).collect();
        assert!(got == expected, "{name} ({}) differs", tensor.dtype);
    }
}

/// A stack of matrices as experts are stored: `dims` innermost first, as in the file.
fn stack(kind: u32, dims: [u64; 3]) -> (Checkpoint, Vec<f32>, [usize; 3]) {
    let mut golden = BLOCKS;
    let stored = loop {
        let (found, elements, size) =
            (take_u32(&mut golden), take_u32(&mut golden), take_u32(&mut golden));
        let stored = take(&mut golden, size as usize);
        take(&mut golden, elements as usize * 4);
        if found == kind {
            break stored;
        }
    };
    let mut file = Gguf::model("llama");
    file.tensors.push(GgufTensor::new("blk.0.ffn_up_exps.weight", &dims, kind, stored.to_vec()));
    let checkpoint = file.open().expect("the file is sound");
    let shape = [dims[2], dims[1], dims[0]].map(|n| n as usize);
    let all = checkpoint.read_f32("blk.0.ffn_up_exps.weight", &shape).expect("readable");
    (checkpoint, all, shape)
}

#[test]
fn one_matrix_of_a_stack_is_what_it_is_in_the_whole() {
    // Q4_K, MXFP4 and F16, each of 1280 elements.
    for (kind, dims) in [(12, [256, 1, 5]), (39, [64, 4, 5]), (1, [16, 16, 5])] {
        let (checkpoint, all, shape) = stack(kind, dims);
        let [count, rows, columns] = shape;
        for matrix in 0..count {
            let read = |transposed: bool| {
                let name = "blk.0.ffn_up_exps.weight";
                if transposed {
                    checkpoint.read_matrix_transposed(name, &shape, matrix).expect("readable")
                } else {
                    checkpoint.read_matrix(name, &shape, matrix).expect("readable")
                }
            };
            let expected = &all[matrix * rows * columns..][..rows * columns];
            assert_eq!(read(false), expected);
            let turned: Vec<f32> = (0..columns)
                .flat_map(|column| (0..rows).map(move |row| expected[row * columns + column]))
                .collect();
            assert_eq!(read(true), turned);
        }
    }
}

#[test]
fn one_expert_is_read_without_the_others() {
    // 4096 experts of 16 MB are 64 GB, in a sparse file.
    let (experts, rows, columns) = (1u64 << 12, 2048, 2048);
    let mut file = Gguf::model("llama");
    file.tensors.push(GgufTensor::f32("experts", &[columns, rows, experts], []));
    let (_folder, path) = file.write();
    let open = fs::OpenOptions::new().append(true).open(&path).expect("it was just written");
    let data = open.metadata().expect("its size").len();
    open.set_len(data + experts * rows * columns * 4).expect("a sparse file");
    let checkpoint = Checkpoint::open(&path).expect("sparse but sound");
    let shape = [experts, rows, columns].map(|n| n as usize);
    for expert in [0, shape[0] - 1] {
        let read = checkpoint.read_matrix("experts", &shape, expert).expect("readable");
        assert!(read.len() == 2048 * 2048 && read.iter().all(|number| *number == 0.0));
    }
}

#[test]
fn a_file_opens_as_the_model_it_holds() {
    for version in [2, 3] {
        let mut file = Gguf::model("llama");
        file.version = version;
        let checkpoint = file.open().expect("the file is sound");
        let spec = checkpoint.spec();
        assert_eq!(spec.family, Family::LLAMA);
        assert_eq!((spec.hidden_size, spec.head_dim, spec.vocab_size), (8, 4, 6));
        assert_eq!((spec.num_attention_heads, spec.num_key_value_heads), (2, 1));
        assert_eq!((spec.num_hidden_layers, spec.intermediate_size), (1, 32));
        assert_eq!(spec.max_position_embeddings, 16);
        assert_eq!(spec.rms_norm_eps, 1e-5, "the number that was meant, not the nearest f32");
        assert_eq!(spec.rope.theta, 1e4);
        assert!(spec.tie_word_embeddings && !spec.qkv_bias);
        assert_eq!((spec.eos_token_ids(), spec.bos_token_id()), (vec![5], None));
        assert_eq!(spec.other_keys["_name_or_path"], "Tiny");
        assert_eq!(checkpoint.format(), Format::Gguf);
        assert!(checkpoint.audit().is_clean(), "{}", checkpoint.audit());
        let down = checkpoint.tensor("model.layers.0.mlp.down_proj.weight").expect("named");
        assert_eq!(
            (down.dtype, &down.shape[..], down.bytes()),
            (StorageType::Q8_0, &[8, 32][..], 272)
        );
        let names: Vec<_> = checkpoint.tensors().map(|tensor| &tensor.name).collect();
        assert!(names.is_sorted() && names.len() == 11);
    }
}

#[test]
fn a_file_without_the_extension_is_known_by_its_first_bytes() {
    let folder = crate::files::Folder::new();
    let path = folder.write("sha256-0123", Gguf::model("llama").bytes());
    assert_eq!(Checkpoint::open(&path).expect("it is GGUF").format(), Format::Gguf);
}

#[test]
fn the_tokenizer_comes_out_of_the_metadata() {
    let checkpoint = Gguf::model("llama").open().expect("the file is sound");
    let TokenizerSource::Gguf(tokenizer) = checkpoint.tokenizer() else {
        panic!("the file has a tokenizer")
    };
    assert_eq!((tokenizer.model.as_str(), tokenizer.pre), ("gpt2", None));
    assert_eq!(tokenizer.tokens, ["a", "b", "c", "ab", "Ġ", "<|end|>"]);
    assert_eq!(tokenizer.token_types, [1, 1, 1, 1, 1, 3]);
    assert_eq!((tokenizer.merges, tokenizer.scores), (vec!["a b".to_owned()], Vec::new()));
    assert_eq!((tokenizer.bos_token_id, tokenizer.eos_token_id), (None, Some(5)));
    assert_eq!((tokenizer.add_bos_token, tokenizer.add_space_prefix), (Some(false), None));
}

#[test]
fn a_file_without_a_tokenizer_takes_the_one_beside_it() {
    let mut file = Gguf::model("llama");
    file.unset("tokenizer.ggml.model");
    let (folder, path) = file.write();
    assert_eq!(Checkpoint::open(&path).expect("sound").tokenizer(), TokenizerSource::None);
    let json = folder.write("tokenizer.json", "{}");
    assert_eq!(Checkpoint::open(&path).expect("sound").tokenizer(), TokenizerSource::Json(json));
}

/// Where llama.cpp's converter puts row `row` of a head of `head_dim`:
/// `reshape(heads, 2, head_dim/2).swapaxes(1, 2)`.
fn row_in_file(row: usize, head_dim: usize) -> usize {
    let (head, half, pair) =
        (row / head_dim, row % head_dim / (head_dim / 2), row % (head_dim / 2));
    head * head_dim + pair * 2 + half
}

#[test]
fn query_and_key_rows_of_a_llama_file_come_back_in_rotate_half_order() {
    let mut file = Gguf::model("llama");
    for (name, rows) in [("q", 8u64), ("k", 4)] {
        let bias = (0..rows).map(|row| row as f32);
        file.tensors.push(GgufTensor::f32(&format!("blk.0.attn_{name}.bias"), &[rows], bias));
    }
    let checkpoint = file.open().expect("the file is sound");
    let query = "model.layers.0.self_attn.q_proj";
    let weight = checkpoint.read_f32(&format!("{query}.weight"), &[8, 8]).expect("readable");
    for row in 0..8 {
        let stored = row_in_file(row, 4);
        let expected: Vec<_> = (0..8).map(|j| 3.0 + (stored * 8 + j) as f32 / 64.0).collect();
        assert_eq!(weight[row * 8..][..8], expected, "row {row}");
    }
    let gathered = checkpoint.read_rows_f32(&format!("{query}.weight"), &[8, 8], &[6, 1]);
    assert_eq!(gathered.expect("readable"), [&weight[48..56], &weight[8..16]].concat());
    let bias = checkpoint.read_f32(&format!("{query}.bias"), &[8]).expect("readable");
    let expected: Vec<_> = (0..8).map(|row| row_in_file(row, 4) as f32).collect();
    assert_eq!(bias, expected);
    let key = checkpoint.read_f32("model.layers.0.self_attn.k_proj.weight", &[4, 8]);
    assert_eq!(key.expect("readable")[8], 4.0 + 16.0 / 64.0, "row 1 is the file's row 2");
    let value = checkpoint.read_f32("model.layers.0.self_attn.v_proj.weight", &[4, 8]);
    assert_eq!(value.expect("readable")[8], 5.0 + 8.0 / 64.0, "values are not rotated");
}

#[test]
fn rows_of_other_architectures_are_left_where_they_are() {
    for architecture in ["qwen2", "qwen3"] {
        let checkpoint = Gguf::model(architecture).open().expect("the file is sound");
        let query = checkpoint.read_f32("model.layers.0.self_attn.q_proj.weight", &[8, 8]);
        let expected: Vec<_> = (0..64).map(|j| 3.0 + j as f32 / 64.0).collect();
        assert_eq!(query.expect("readable"), expected);
    }
}

#[test]
fn the_qwen_families_have_their_biases_and_norms() {
    let qwen2 = Gguf::model("qwen2").open().expect("the file is sound");
    assert!(qwen2.spec().qkv_bias && qwen2.audit().is_clean(), "{}", qwen2.audit());
    let mut file = Gguf::model("qwen3");
    for part in ["q", "k"] {
        file.tensors.push(GgufTensor::f32(
            &format!("blk.0.attn_{part}_norm.weight"),
            &[4],
            [1.0; 4],
        ));
    }
    let qwen3 = file.open().expect("the file is sound");
    assert!(
        qwen3.spec().qk_norm == lns_spec::QkNorm::PerHead && qwen3.audit().is_clean(),
        "{}",
        qwen3.audit()
    );
}

#[test]
fn an_output_tensor_is_an_untied_head() {
    let mut file = Gguf::model("llama");
    file.tensors.push(GgufTensor::f32("output.weight", &[8, 6], (0..48).map(|j| j as f32)));
    let checkpoint = file.open().expect("the file is sound");
    assert!(!checkpoint.spec().tie_word_embeddings);
    assert!(checkpoint.audit().is_clean(), "{}", checkpoint.audit());
    let rows = checkpoint.read_rows_f32("lm_head.weight", &[6, 8], &[5]).expect("readable");
    assert_eq!(rows, (40..48).map(|j| j as f32).collect::<Vec<_>>());
}

#[test]
fn a_tensor_without_a_place_in_the_model_keeps_its_name_and_is_unexpected() {
    let mut file = Gguf::model("llama");
    for name in ["blk.0.attn_qkv.weight", "blk.x.attn_q.weight", "token_embd.scale", "output"] {
        file.tensors.push(GgufTensor::f32(name, &[1], [1.0]));
    }
    let audit = file.open().expect("the file is sound").audit();
    let names = ["blk.0.attn_qkv.weight", "blk.x.attn_q.weight", "output", "token_embd.scale"];
    assert_eq!(audit.unexpected, names);
}

#[test]
fn another_alignment_moves_the_data() {
    let mut file = Gguf::model("llama");
    file.alignment = 256;
    file.set("general.alignment", Meta::U32(256));
    let checkpoint = file.open().expect("the file is sound");
    let norm = checkpoint.read_f32("model.norm.weight", &[8]).expect("readable");
    assert_eq!(norm[..2], [1.0, 1.0 + 1.0 / 64.0]);
}
