//! Random damage: whatever the bytes, there is an answer or an error, never a panic.

use lns_checkpoint::Checkpoint;
use proptest::prelude::*;
use serde_json::json;

use crate::files::{
    Folder, Gguf, GgufTensor, config, model_folder, read_everything, safetensors, tensors,
};

/// Bytes to overwrite: where (as a share of the length), and with what.
pub(crate) fn damage() -> impl Strategy<Value = Vec<(u16, Vec<u8>)>> {
    let byte = any::<u8>().prop_map(|byte| vec![byte]);
    let number = prop_oneof![
        Just(0u64),
        Just(u64::MAX),
        Just(1 << 60),
        Just(1 << 63),
        Just(1 << 31),
        0u64..64,
        any::<u64>(),
    ]
    .prop_map(|number| number.to_le_bytes().to_vec());
    proptest::collection::vec((any::<u16>(), prop_oneof![byte, number]), 1..4)
}

pub(crate) fn apply(bytes: &mut [u8], from: usize, to: usize, damage: &[(u16, Vec<u8>)]) {
    for (place, with) in damage {
        let start = from + usize::from(*place) * (to - from) / (1 << 16);
        for (byte, with) in bytes[start..].iter_mut().zip(with) {
            *byte = *with;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_gguf_file_never_panics(damage in damage()) {
        let mut file = Gguf::model("llama");
        // A stack of three matrices of MXFP4.
        file.tensors.push(GgufTensor::new("experts", &[32, 2, 3], 39, vec![7; 3 * 2 * 17]));
        let mut bytes = file.bytes();
        // The header is a third of the file and worth all of the damage.
        let to = bytes.len() / 2;
        apply(&mut bytes, 0, to, &damage);
        let folder = Folder::new();
        read_everything(&folder.write("a.gguf", bytes));
    }

    #[test]
    fn a_damaged_file_of_a_mixture_never_panics(damage in damage()) {
        let mut bytes = Gguf::mixture().bytes();
        let to = bytes.len() / 3;
        apply(&mut bytes, 0, to, &damage);
        let folder = Folder::new();
        read_everything(&folder.write("a.gguf", bytes));
    }

    #[test]
    fn a_damaged_safetensors_file_never_panics(damage in damage()) {
        let mut bytes = safetensors(&tensors());
        let to = bytes.len() / 3;
        apply(&mut bytes, 0, to, &damage);
        let folder = Folder::new();
        folder.write("config.json", config().to_string());
        folder.write("model.safetensors", bytes);
        read_everything(folder.path());
    }

    #[test]
    fn a_damaged_config_never_panics(damage in damage()) {
        let mut config = config();
        config["quantization_config"] =
            json!({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [16, 16]});
        let mut bytes = config.to_string().into_bytes();
        let to = bytes.len();
        apply(&mut bytes, 0, to, &damage);
        let folder = Folder::new();
        folder.write("config.json", bytes);
        folder.write("model.safetensors", safetensors(&tensors()));
        read_everything(folder.path());
    }
}

#[test]
fn the_undamaged_files_open() {
    assert!(Gguf::model("llama").open().expect("sound").audit().is_clean());
    let folder = model_folder(&tensors());
    assert!(Checkpoint::open(folder.path()).expect("sound").audit().is_clean());
}
