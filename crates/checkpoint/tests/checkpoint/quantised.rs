//! Safetensors whose weights are numbers of few bits and the scales of these, in two tensors.

use std::fs;

use lns_checkpoint::{Checkpoint, CheckpointError, Conversion, StorageType};
use proptest::prelude::*;
use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::files::{
    Folder, Tensor, config, model_folder, read_everything, refused, safetensors, tensors,
};

/// `golden/quantised.py`
const STORED: &[u8] = include_bytes!("../golden/quantised.safetensors");
const EXPECTED: &[u8] = include_bytes!("../golden/quantised_expected.safetensors");

/// [`config`] with the given `quantization_config`.
fn quantised_config(quantisation: Value) -> String {
    let mut config = config();
    config["quantization_config"] = quantisation;
    config.to_string()
}

fn fp8(block: Value) -> String {
    quantised_config(json!({"quant_method": "fp8", "weight_block_size": block}))
}

fn expected() -> Vec<(String, Vec<usize>, Vec<u32>)> {
    let file = SafeTensors::deserialize(EXPECTED).expect("a valid file");
    file.tensors()
        .into_iter()
        .map(|(name, view)| {
            let bits = view.data().as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
            (name, view.shape().to_vec(), bits.collect())
        })
        .collect()
}

fn golden() -> (Folder, Checkpoint) {
    let folder = Folder::new();
    folder.write("config.json", fp8(json!([16, 16])));
    folder.write("model.safetensors", STORED);
    let checkpoint = Checkpoint::open(folder.path()).expect("the file is sound");
    (folder, checkpoint)
}

/// Bits, of which every NaN has the same.
fn bits(numbers: &[f32]) -> Vec<u32> {
    let bits = |x: &f32| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() };
    numbers.iter().map(bits).collect()
}

fn bits_of(bits: &[u32]) -> Vec<u32> {
    let numbers: Vec<f32> = bits.iter().map(|bits| f32::from_bits(*bits)).collect();
    self::bits(&numbers)
}

#[test]
fn numbers_and_scales_give_the_bits_of_transformers() {
    let (_folder, checkpoint) = golden();
    let all = expected();
    assert_eq!((all.len(), checkpoint.tensors().len()), (5, 5), "a pair appears as one tensor");
    for (name, shape, expected) in all {
        let read = checkpoint.read_f32(&name, &shape).expect("readable");
        assert!(bits(&read) == bits_of(&expected), "{name} differs");
    }
}

#[test]
fn a_pair_says_how_it_is_stored_and_counts_all_of_its_bytes() {
    let (_folder, checkpoint) = golden();
    let of = |name: &str| {
        let tensor = checkpoint.tensor(name).expect("it is there");
        (tensor.dtype.name(), tensor.shape.clone(), tensor.bytes())
    };
    assert_eq!(of("ragged.weight"), ("F8_E4M3", vec![40, 36], 40 * 36 + 9 * 4));
    assert_eq!(of("stack.up_proj"), ("F8_E4M3", vec![3, 20, 32], 3 * 20 * 32 + 3 * 2 * 2));
    assert_eq!(of("experts.down_proj"), ("MXFP4", vec![3, 64, 10], 3 * 10 * 2 * 17));
}

#[test]
fn one_matrix_of_a_stack_is_read_without_the_others_and_either_way_round() {
    let (_folder, checkpoint) = golden();
    for (name, shape, expected) in expected().into_iter().filter(|(_, shape, _)| shape.len() == 3) {
        let [count, rows, columns] = shape[..] else { panic!("a stack has three dimensions") };
        for matrix in 0..count {
            let expected = &expected[matrix * rows * columns..][..rows * columns];
            let read = checkpoint.read_matrix(&name, &shape, matrix).expect("readable");
            assert_eq!(bits(&read), expected, "{name}, matrix {matrix}");
            let turned =
                checkpoint.read_matrix_transposed(&name, &shape, matrix).expect("readable");
            let turned = bits(&turned);
            for row in 0..rows {
                for column in 0..columns {
                    assert_eq!(turned[column * rows + row], expected[row * columns + column]);
                }
            }
        }
        let beyond = checkpoint.read_matrix(&name, &shape, count);
        assert!(
            matches!(beyond, Err(CheckpointError::MatrixOutOfRange { index: 3, count: 3, .. })),
            "{beyond:?}"
        );
    }
    let matrix = checkpoint.read_matrix("ragged.weight", &[40, 36], 0).expect_err("one matrix");
    assert!(matrix.to_string().contains("[40, 36] is not a stack"), "{matrix}");
    let shape = checkpoint.read_matrix("stack.up_proj", &[3, 32, 20], 0).expect_err("transposed");
    assert!(matches!(shape, CheckpointError::WrongShape { .. }), "{shape}");
}

/// `0x38` is 1, `0x40` 2, `0xc4` −3.
fn fp8_tensor(name: &str, shape: &[usize], numbers: &[u8]) -> Tensor {
    Tensor {
        name: name.to_owned(),
        dtype: "F8_E4M3",
        shape: shape.to_vec(),
        data: numbers.to_vec(),
    }
}

fn u8_tensor(name: &str, shape: &[usize], data: Vec<u8>) -> Tensor {
    Tensor { name: name.to_owned(), dtype: "U8", shape: shape.to_vec(), data }
}

const UP: &str = "model.layers.0.mlp.up_proj.weight";
const UP_SCALE: &str = "model.layers.0.mlp.up_proj.weight_scale_inv";

/// The model of [`config`] with one matrix, [32, 8], in FP8: all −3 times its scale.
fn with_fp8(scales: Tensor) -> Vec<Tensor> {
    let mut all: Vec<Tensor> = tensors().into_iter().filter(|tensor| tensor.name != UP).collect();
    all.push(fp8_tensor(UP, &[32, 8], &[0xc4; 256]));
    all.push(scales);
    all
}

#[test]
fn a_model_of_fp8_weights_is_complete_and_is_read_as_what_they_stand_for() {
    let scales = Tensor::f32(UP_SCALE, &[2, 2], &[1.0, 10.0, 100.0, 1000.0]);
    let folder = model_folder(&with_fp8(scales));
    folder.write("config.json", fp8(json!([24, 5])));
    let checkpoint = Checkpoint::open(folder.path()).expect("sound");
    assert!(checkpoint.audit().is_clean(), "{}", checkpoint.audit());
    let read = checkpoint.read_f32(UP, &[32, 8]).expect("readable");
    for (j, number) in read.iter().enumerate() {
        let block = j / 8 / 24 * 2 + j % 8 / 5;
        assert_eq!(*number, -3.0 * [1.0, 10.0, 100.0, 1000.0][block], "number {j}");
    }
    let rows = checkpoint.read_rows_f32(UP, &[32, 8], &[31, 0]).expect("readable");
    assert_eq!(rows, [&read[31 * 8..], &read[..8]].concat());
    assert!(!checkpoint.spec().other_keys.contains_key("quantization_config"));
}

#[test]
fn blocks_are_of_128_by_128_where_nothing_else_is_said() {
    let numbers = vec![0x38; 130 * 129];
    let scales: Vec<f32> = (1..=4).map(|scale| scale as f32).collect();
    let mut all = tensors();
    all.push(fp8_tensor("x.weight", &[130, 129], &numbers));
    all.push(Tensor::f32("x.weight_scale_inv", &[2, 2], &scales));
    // Without `quantization_config` the pair alone tells.
    let checkpoint = Checkpoint::open(model_folder(&all).path()).expect("sound");
    let read = checkpoint.read_f32("x.weight", &[130, 129]).expect("readable");
    assert_eq!([read[127 * 129 + 127], read[127 * 129 + 128]], [1.0, 2.0]);
    assert_eq!([read[128 * 129 + 127], read[129 * 129 + 128]], [3.0, 4.0]);
}

#[test]
fn a_whole_matrix_may_have_one_scale() {
    for shape in [&[][..], &[1], &[1, 1]] {
        let folder = model_folder(&with_fp8(Tensor::f32(UP_SCALE, shape, &[0.5])));
        folder.write("config.json", fp8(json!(null)));
        let checkpoint = Checkpoint::open(folder.path()).expect("sound");
        assert_eq!(checkpoint.read_f32(UP, &[32, 8]).expect("readable"), [-1.5; 256]);
    }
}

#[test]
fn scales_of_activations_belong_to_their_weight_and_change_nothing() {
    let mut all = with_fp8(Tensor::f32(UP_SCALE, &[], &[0.5]));
    all.push(Tensor::f32("model.layers.0.mlp.up_proj.activation_scale", &[], &[9.0]));
    let folder = model_folder(&all);
    folder.write("config.json", fp8(json!(null)));
    let checkpoint = Checkpoint::open(folder.path()).expect("sound");
    assert!(checkpoint.audit().is_clean(), "{}", checkpoint.audit());
    assert_eq!(checkpoint.read_f32(UP, &[32, 8]).expect("readable")[0], -1.5);
}

#[test]
fn numbers_and_scales_may_be_in_different_shards() {
    let mut all = with_fp8(Tensor::f32(UP_SCALE, &[1, 1], &[2.0]));
    let scales = all.pop().expect("the scales");
    let folder = Folder::new();
    folder.write("config.json", config().to_string());
    folder.write("a.safetensors", safetensors(std::slice::from_ref(&scales)));
    folder.write("b.safetensors", safetensors(&all));
    let names = all.iter().map(|tensor| (tensor.name.clone(), json!("b.safetensors")));
    let map: serde_json::Map<_, _> =
        names.chain([(UP_SCALE.to_owned(), json!("a.safetensors"))]).collect();
    folder.write("model.safetensors.index.json", json!({"weight_map": map}).to_string());
    let checkpoint = Checkpoint::open(folder.path()).expect("sound");
    assert!(checkpoint.audit().is_clean(), "{}", checkpoint.audit());
    assert_eq!(checkpoint.read_f32(UP, &[32, 8]).expect("readable"), [-6.0; 256]);
}

#[test]
fn what_is_made_of_a_quantised_model_is_plain() {
    let folder = model_folder(&with_fp8(Tensor::f32(UP_SCALE, &[1, 1], &[2.0])));
    folder.write("config.json", fp8(json!([128, 128])));
    let source = Checkpoint::open(folder.path()).expect("sound");
    let made = Folder::new();
    let conversion = Conversion::of(&source).expect("complete");
    conversion.write(made.path(), u64::MAX, &|_| {}).expect("written");
    let again = Checkpoint::open(made.path()).expect("sound");
    assert!(again.audit().is_clean(), "{}", again.audit());
    assert_eq!(again.tensor(UP).expect("it is there").dtype, StorageType::F32);
    assert_eq!(again.read_f32(UP, &[32, 8]).expect("readable"), [-6.0; 256]);
    let config = fs::read_to_string(made.path().join("config.json")).expect("it was written");
    assert!(!config.contains("quantization"), "{config}");
}

fn opening(tensors: &[Tensor]) -> CheckpointError {
    let folder = model_folder(tensors);
    folder.write("config.json", fp8(json!([16, 16])));
    read_everything(folder.path());
    refused(folder.path())
}

#[test]
fn half_a_pair_is_refused_by_what_is_missing() {
    let scale = |name: &str| Tensor::f32(name, &[1, 1], &[1.0]);
    for (tensor, missing) in [
        (u8_tensor("x_blocks", &[1, 1, 1, 16], vec![0; 16]), "x_scales"),
        (u8_tensor("x_scales", &[1, 1, 1], vec![0]), "x_blocks"),
        (scale("x.weight_scale_inv"), "x.weight"),
    ] {
        let name = tensor.name.clone();
        let message = opening(&[tensor]).to_string();
        let named =
            message.contains(&format!("{name:?}")) && message.contains(&format!("{missing:?}"));
        assert!(named && message.contains("model.safetensors"), "{message}");
    }
    // Numbers without scales are known by their type.
    let folder = model_folder(&[fp8_tensor("x.weight", &[1, 1], &[0])]);
    let checkpoint = Checkpoint::open(folder.path()).expect("types are checked on reading");
    let error = checkpoint.read_f32("x.weight", &[1, 1]).expect_err("no scales");
    assert!(error.to_string().contains("is F8_E4M3; weights are read"), "{error}");
}

#[test]
fn scales_that_are_not_one_for_each_block_are_refused() {
    for (shape, count) in [
        (&[][..], 1),
        (&[1], 1),
        (&[2], 2),
        (&[1, 1], 1),
        (&[1, 2], 2),
        (&[2, 2], 4),
        (&[2, 1, 1], 2),
        (&[0], 0),
    ] {
        let error = opening(&with_fp8(Tensor::f32(UP_SCALE, shape, &vec![1.0; count])));
        let message = error.to_string();
        assert!(matches!(error, CheckpointError::ScaleShape { .. }), "{message}");
        for part in [UP_SCALE, "16 × 16", "[2, 1]"] {
            assert!(message.contains(part), "{message}");
        }
    }
    let blocks = || u8_tensor("x_blocks", &[2, 3, 1, 16], vec![0; 96]);
    for shape in [&[2, 3][..], &[6], &[3, 2, 1], &[2, 3, 2]] {
        let count = shape.iter().product();
        let error = opening(&[blocks(), u8_tensor("x_scales", shape, vec![0; count])]);
        assert!(matches!(error, CheckpointError::ScaleShape { .. }), "{shape:?}: {error}");
    }
}

#[test]
fn pairs_of_impossible_types_and_shapes_are_refused() {
    let mut scales = Tensor::f32(UP_SCALE, &[2, 1], &[1.0; 2]);
    scales.dtype = "I32";
    let error = opening(&with_fp8(scales));
    assert!(error.to_string().contains(UP_SCALE), "{error}");
    assert!(matches!(error, CheckpointError::ScaleType { .. }), "{error}");

    let scale = || Tensor::f32("x.weight_scale_inv", &[1, 1], &[1.0]);
    for weight in [Tensor::f32("x.weight", &[1, 1], &[1.0]), fp8_tensor("x.weight", &[1], &[0])] {
        let error = opening(&[weight, scale()]);
        assert!(matches!(error, CheckpointError::NotScaled { .. }), "{error}");
        assert!(error.to_string().contains("x.weight_scale_inv"), "{error}");
    }
    let any = || u8_tensor("x_scales", &[1], vec![0]);
    for shape in [&[16][..], &[1, 1, 16], &[1, 1, 2, 8], &[1, 1, 1, 1, 16], &[]] {
        let count = shape.iter().product();
        let error = opening(&[u8_tensor("x_blocks", shape, vec![0; count]), any()]);
        assert!(matches!(error, CheckpointError::NotBlocks { .. }), "{shape:?}: {error}");
    }
    // A zero hides from the size in bytes what is then multiplied in another order.
    let huge = 1 << 60;
    for shape in [[0, huge, huge, 16], [0, 1, huge, 16], [1 << 40, 0, 1 << 40, 16]] {
        let error = opening(&[u8_tensor("x_blocks", &shape, vec![]), any()]);
        assert!(matches!(error, CheckpointError::NotBlocks { .. }), "{shape:?}: {error}");
    }
}

#[test]
fn numbers_of_experts_and_features_beyond_all_reason_cost_nothing() {
    for (experts, groups) in [(1 << 40, 1), (1, 1 << 55)] {
        let blocks = u8_tensor("x_blocks", &[experts, 0, groups, 16], vec![]);
        let folder = model_folder(&[blocks, u8_tensor("x_scales", &[experts, 0, groups], vec![])]);
        let checkpoint = Checkpoint::open(folder.path()).expect("odd but sound");
        let shape = [experts, 32 * groups, 0];
        assert!(checkpoint.read_f32("x", &shape).expect("nothing").is_empty());
        for matrix in [0, experts - 1] {
            assert!(checkpoint.read_matrix("x", &shape, matrix).expect("nothing").is_empty());
            let turned = checkpoint.read_matrix_transposed("x", &shape, matrix);
            assert!(turned.expect("nothing").is_empty());
        }
        assert!(checkpoint.read_matrix("x", &shape, experts).is_err());
    }
    for shape in [[0, 8], [8, 0]] {
        let scale = Tensor::f32("x.weight_scale_inv", &[], &[1.0]);
        let folder = model_folder(&[fp8_tensor("x.weight", &shape, &[]), scale]);
        folder.write("config.json", fp8(json!(null)));
        read_everything(folder.path());
    }
}

#[test]
fn a_scale_that_no_weight_can_have_had_is_an_error_where_it_is_read() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0, 0.0] {
        let folder = model_folder(&with_fp8(Tensor::f32(UP_SCALE, &[2, 2], &[1.0, 1.0, 1.0, bad])));
        folder.write("config.json", fp8(json!([16, 4])));
        let checkpoint =
            Checkpoint::open(folder.path()).expect("scales are read with their numbers");
        assert!(checkpoint.read_rows_f32(UP, &[32, 8], &[15]).is_ok());
        let error = checkpoint.read_f32(UP, &[32, 8]).expect_err("not a scale").to_string();
        for part in ["model.safetensors", UP, "row 16 and column 4", &format!("is {bad}")] {
            assert!(error.contains(part), "{error}");
        }
    }
    // One matrix of a stack does not suffer from another's.
    let mut scales = vec![127; 4];
    scales[3] = 255;
    let blocks = || u8_tensor("x_blocks", &[2, 2, 1, 16], vec![0; 64]);
    let folder = model_folder(&[blocks(), u8_tensor("x_scales", &[2, 2, 1], scales)]);
    let checkpoint = Checkpoint::open(folder.path()).expect("sound");
    assert!(checkpoint.read_matrix("x", &[2, 32, 2], 0).is_ok());
    assert!(checkpoint.read_matrix("x", &[2, 32, 2], 1).is_err());
    // 255 stands for NaN in a power of two.
    let blocks = u8_tensor("x_blocks", &[1, 2, 2, 16], vec![0; 64]);
    let folder =
        model_folder(&[blocks, u8_tensor("x_scales", &[1, 2, 2], vec![127, 127, 127, 255])]);
    let checkpoint = Checkpoint::open(folder.path()).expect("sound");
    let error = checkpoint.read_f32("x", &[1, 64, 2]).expect_err("not a scale").to_string();
    assert!(error.contains("row 1 and column 32 is NaN"), "{error}");
}

#[test]
fn a_block_of_zeros_may_have_a_scale_of_zero() {
    let mut all = with_fp8(Tensor::f32(UP_SCALE, &[2, 1], &[0.0, 1.0]));
    let numbers = &mut all.iter_mut().find(|tensor| tensor.name == UP).expect("it is there").data;
    numbers[..128].fill(0x80);
    let folder = model_folder(&all);
    folder.write("config.json", fp8(json!([16, 16])));
    let checkpoint = Checkpoint::open(folder.path()).expect("sound");
    let read = checkpoint.read_f32(UP, &[32, 8]).expect("readable");
    assert!(read[..128].iter().all(|number| *number == 0.0) && read[128] == -3.0);
}

#[test]
fn ways_of_quantising_that_are_not_read_are_named() {
    let folder = model_folder(&tensors());
    folder.write("config.json", quantised_config(json!({"quant_method": "gptq", "bits": 4})));
    let message = refused(folder.path()).to_string();
    assert!(
        message.contains("config.json") && message.contains("`quant_method` = \"gptq\""),
        "{message}"
    );
    // What the model is comes first.
    folder.write("config.json", r#"{"model_type": "mamba", "quantization_config": {}}"#);
    assert!(refused(folder.path()).to_string().contains("\"mamba\" is not supported"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn any_shapes_and_bytes_of_a_pair_give_an_answer_or_an_error(
        shape in proptest::collection::vec(prop_oneof![0usize..5, Just(16), Just(32)], 0..5),
        scales in proptest::collection::vec(0usize..5, 0..4),
        block in proptest::collection::vec(prop_oneof![0u64..40, Just(u64::MAX)], 2),
        seed in any::<u8>(),
    ) {
        let bytes = |shape: &[usize]| -> Vec<u8> {
            (0..shape.iter().product()).map(|j: usize| seed.wrapping_mul(j as u8 | 1)).collect()
        };
        let pairs = [
            [fp8_tensor("a", &shape, &bytes(&shape)), u8_tensor("a_scale_inv", &scales, bytes(&scales))],
            [u8_tensor("b_blocks", &shape, bytes(&shape)), u8_tensor("b_scales", &scales, bytes(&scales))],
        ];
        for pair in pairs {
            let folder = model_folder(&pair);
            folder.write("config.json", fp8(json!(block)));
            read_everything(folder.path());
        }
    }

    #[test]
    fn a_damaged_file_of_pairs_never_panics(damage in crate::mutation::damage()) {
        let mut bytes = STORED.to_vec();
        // The header is a fifth of the file and worth all of the damage.
        let to = bytes.len() / 5;
        crate::mutation::apply(&mut bytes, 0, to, &damage);
        let folder = Folder::new();
        folder.write("config.json", fp8(json!([16, 16])));
        folder.write("model.safetensors", bytes);
        read_everything(folder.path());
    }
}
