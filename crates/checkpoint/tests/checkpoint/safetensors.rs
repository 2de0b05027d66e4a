//! What a sound safetensors folder gives.

use half::{bf16, f16};
use lns_checkpoint::{Checkpoint, CheckpointError, Format, StorageType, TokenizerSource};
use proptest::prelude::*;
use serde_json::json;

use crate::files::{Folder, Tensor, config, model_folder, safetensors, tensors};

#[test]
fn a_folder_and_its_file_open_as_the_same_model() {
    let folder = model_folder(&tensors());
    let file = folder.path().join("model.safetensors");
    for path in [folder.path(), &file] {
        let checkpoint = Checkpoint::open(path).expect("the folder is sound");
        assert_eq!(checkpoint.path(), path);
        assert_eq!(checkpoint.files(), std::slice::from_ref(&file));
        assert_eq!(checkpoint.format(), Format::Safetensors);
        assert_eq!(checkpoint.spec().hidden_size, 8);
        assert!(checkpoint.audit().is_clean(), "{}", checkpoint.audit());
        let up = checkpoint.tensor("model.layers.0.mlp.up_proj.weight").expect("it is there");
        assert_eq!((up.dtype, &up.shape[..], up.bytes()), (StorageType::F32, &[32, 8][..], 1024));
        assert!(checkpoint.tensors().map(|tensor| &tensor.name).is_sorted());
        for (i, tensor) in checkpoint.spec().tensors().iter().enumerate() {
            let numbers = checkpoint.read_f32(&tensor.name, &tensor.shape).expect("readable");
            let expected: Vec<_> = (0..numbers.len()).map(|j| i as f32 + j as f32 / 64.0).collect();
            assert_eq!(numbers, expected, "{}", tensor.name);
        }
    }
}

#[test]
fn the_tokenizer_is_the_one_beside_the_weights() {
    let folder = model_folder(&tensors());
    let open = || Checkpoint::open(folder.path()).expect("the folder is sound");
    assert_eq!(open().tokenizer(), TokenizerSource::None);
    let json = folder.write("tokenizer.json", "{}");
    assert_eq!(open().tokenizer(), TokenizerSource::Json(json));
}

#[test]
fn shards_read_as_one_model() {
    let folder = Folder::new();
    folder.write("config.json", config().to_string());
    let all = tensors();
    let (first, second) = all.split_at(4);
    folder.write("a.safetensors", safetensors(first));
    folder.write("part/b.safetensors", safetensors(second));
    let map: serde_json::Map<_, _> = all
        .iter()
        .enumerate()
        .map(|(i, tensor)| {
            (tensor.name.clone(), json!(if i < 4 { "a.safetensors" } else { "part/b.safetensors" }))
        })
        .collect();
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
    folder.write("model.safetensors.index.json", index.to_string());
    let checkpoint = Checkpoint::open(folder.path()).expect("the folder is sound");
    assert!(checkpoint.audit().is_clean(), "{}", checkpoint.audit());
    assert_eq!(checkpoint.files().len(), 2);
    for (i, tensor) in all.iter().enumerate() {
        let numbers = checkpoint.read_f32(&tensor.name, &tensor.shape).expect("readable");
        assert_eq!(numbers[0], i as f32, "{}", tensor.name);
    }
}

#[test]
fn rows_come_in_the_order_asked_for() {
    let folder = model_folder(&tensors());
    let checkpoint = Checkpoint::open(folder.path()).expect("the folder is sound");
    let name = "model.embed_tokens.weight";
    let all = checkpoint.read_f32(name, &[6, 8]).expect("readable");
    let rows = checkpoint.read_rows_f32(name, &[6, 8], &[5, 0, 5]).expect("readable");
    assert_eq!(rows, [&all[40..], &all[..8], &all[40..]].concat());
    assert!(checkpoint.read_rows_f32(name, &[6, 8], &[]).expect("no rows").is_empty());
    let beyond = checkpoint.read_rows_f32(name, &[6, 8], &[0, 6]);
    assert!(matches!(beyond, Err(CheckpointError::RowOutOfRange { row: 6, rows: 6, .. })));
    let vector = checkpoint.read_rows_f32("model.norm.weight", &[8], &[0]);
    assert!(matches!(vector, Err(CheckpointError::NotAMatrix { .. })));
}

#[test]
fn a_tensor_is_read_only_as_the_caller_expects_it() {
    let mut all = tensors();
    all[1].dtype = "I32";
    let folder = model_folder(&all);
    let checkpoint = Checkpoint::open(folder.path()).expect("types are checked on reading");
    let missing = checkpoint.read_f32("lm_head.weight", &[6, 8]).expect_err("not there");
    assert!(missing.to_string().contains("\"lm_head.weight\""), "{missing}");
    let shape = checkpoint.read_f32("model.embed_tokens.weight", &[8, 6]).expect_err("transposed");
    assert!(shape.to_string().contains("[6, 8]; the model needs [8, 6]"), "{shape}");
    let dtype = checkpoint.read_f32("model.norm.weight", &[8]).expect_err("integers");
    assert!(dtype.to_string().contains("\"model.norm.weight\" is I32"), "{dtype}");
    assert_eq!(
        checkpoint.audit().unreadable,
        [("model.norm.weight".into(), StorageType::Other("I32"))]
    );
}

#[test]
fn the_audit_lists_what_is_missing_unexpected_and_misshapen() {
    let mut all = tensors();
    all[2].name = "model.layers.0.extra".to_owned();
    all[3].shape = vec![4, 16];
    for name in ["lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"] {
        all.push(Tensor::f32(name, &[1], &[1.0]));
    }
    let folder = model_folder(&all);
    let audit = Checkpoint::open(folder.path()).expect("sound").audit();
    assert!(!audit.is_clean());
    assert_eq!(audit.missing.len(), 1);
    assert_eq!(audit.missing[0].name, "model.layers.0.input_layernorm.weight");
    assert_eq!(audit.unexpected, ["model.layers.0.extra"], "a tied head's copy is harmless");
    assert_eq!(audit.misshapen.len(), 1);
    let text = audit.to_string();
    for part in
        ["1 missing", "input_layernorm", "1 unexpected", "1 misshapen", "is [4, 16], needs [8, 8]"]
    {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_head_of_an_untied_model_is_expected() {
    let folder = model_folder(&tensors());
    let mut untied = config();
    untied["tie_word_embeddings"] = json!(false);
    folder.write("config.json", untied.to_string());
    let audit = Checkpoint::open(folder.path()).expect("sound").audit();
    assert_eq!(audit.missing.len(), 1);
    assert_eq!(audit.missing[0].name, "lm_head.weight");
}

#[test]
fn a_large_tensor_reads_the_same_again_and_from_several_threads() {
    let numbers: Vec<f32> = (0..1 << 19).map(|j| j as f32).collect();
    let mut all = tensors();
    all.push(Tensor::f32("large", &[1 << 10, 1 << 9], &numbers));
    let folder = model_folder(&all);
    let checkpoint = Checkpoint::open(folder.path()).expect("sound");
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..3 {
                    let read = checkpoint.read_f32("large", &[1 << 10, 1 << 9]).expect("readable");
                    assert!(read == numbers, "the pages that were handed back came back different");
                }
            });
        }
    });
}

fn read_back(dtype: &'static str, data: Vec<u8>, count: usize) -> Vec<f32> {
    let mut all = tensors();
    let name = "numbers".to_owned();
    all.push(Tensor { name, dtype, shape: vec![count], data });
    let folder = model_folder(&all);
    let checkpoint = Checkpoint::open(folder.path()).expect("sound");
    checkpoint.read_f32("numbers", &[count]).expect("readable")
}

proptest! {
    #[test]
    fn numbers_of_every_float_type_come_back(
        bits in proptest::collection::vec(any::<u64>(), 0..600)
    ) {
        let floats: Vec<_> = bits.iter().map(|bits| f32::from_bits(*bits as u32)).collect();
        let data = floats.iter().flat_map(|number| number.to_le_bytes()).collect();
        let read = read_back("F32", data, bits.len());
        for (read, float) in read.iter().zip(&floats) {
            prop_assert_eq!(read.to_bits(), float.to_bits());
        }

        let data = bits.iter().flat_map(|bits| (*bits as u16).to_le_bytes()).collect();
        let read = read_back("BF16", data, bits.len());
        for (read, bits) in read.iter().zip(&bits) {
            prop_assert_eq!(read.to_bits(), u32::from(*bits as u16) << 16);
            prop_assert_eq!(bf16::from_f32(*read).is_nan(), read.is_nan());
        }

        let halves: Vec<_> = bits.iter().map(|bits| f16::from_bits(*bits as u16)).collect();
        let data = halves.iter().flat_map(|number| number.to_le_bytes()).collect();
        let read = read_back("F16", data, bits.len());
        for (read, half) in read.iter().zip(&halves) {
            prop_assert!(read.is_nan() == half.is_nan());
            prop_assert!(half.is_nan() || f16::from_f32(*read).to_bits() == half.to_bits());
        }

        let doubles: Vec<_> = bits.iter().map(|bits| f64::from_bits(*bits)).collect();
        let data = doubles.iter().flat_map(|number| number.to_le_bytes()).collect();
        let read = read_back("F64", data, bits.len());
        for (read, double) in read.iter().zip(&doubles) {
            prop_assert!(double.is_nan() || *read == *double as f32);
        }
        prop_assert_eq!(read.len(), bits.len());
    }
}
