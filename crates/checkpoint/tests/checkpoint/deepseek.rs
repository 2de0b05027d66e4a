//! DeepSeek's files with something wrong: latents, groups and experts in GGUF metadata, and blocks of FP8.

use std::fs;

use lns_checkpoint::{Checkpoint, Conversion};
use lns_testing::golden::golden;
use proptest::prelude::*;
use serde_json::json;

use crate::files::{Folder, read_everything, refused};
use crate::mutation::{apply, damage};

fn gguf(name: &str) -> Vec<u8> {
    fs::read(golden("gguf").join(format!("deepseek_v3-{name}"))).expect("it is in the repository")
}

/// The file with another whole number for a key.
fn with(name: &str, key: &str, value: u32) -> Vec<u8> {
    let mut bytes = gguf(name);
    let key = format!("deepseek2.{key}");
    let long = [&(key.len() as u64).to_le_bytes()[..], key.as_bytes()].concat();
    let place = bytes.windows(long.len()).position(|some| some == long).expect("the file has it");
    // After the key its type, and that is a u32.
    let start = place + long.len();
    assert_eq!(bytes[start..start + 4], 4u32.to_le_bytes(), "{key}");
    bytes[start + 4..start + 8].copy_from_slice(&value.to_le_bytes());
    bytes
}

#[test]
fn metadata_that_fit_no_model_are_refused_by_key() {
    for (key, value, part) in [
        ("rope.dimension_count", 10, "attention.key_length_mla"),
        ("rope.dimension_count", 3, "turn"),
        ("attention.kv_lora_rank", 0, "kv_lora_rank"),
        ("attention.kv_lora_rank", 1 << 31, "kv_lora_rank"),
        ("attention.q_lora_rank", 1 << 31, "q_lora_rank"),
        ("attention.value_length_mla", 1 << 31, "v_head_dim"),
        ("attention.key_length_mla", u32::MAX, "head_dim"),
        ("attention.head_count", 1 << 31, "num_attention_heads"),
        ("expert_count", 1 << 31, "2147483648 experts"),
        ("expert_used_count", 7, "7 of 6 experts"),
        ("expert_group_count", 4, "4 groups"),
        ("expert_group_used_count", 4, "4 of 3 groups"),
        ("expert_group_used_count", 1, "goes to 3 experts of 1 groups"),
        ("expert_shared_count", u32::MAX, "shared experts"),
        ("expert_gating_func", 7, "expert_gating_func"),
        ("expert_feed_forward_length", 0, "moe_intermediate_size"),
    ] {
        let folder = Folder::new();
        let path = folder.write("tiny.gguf", with("absorbed.gguf", key, value));
        let message = refused(&path).to_string();
        assert!(message.contains("tiny.gguf") && message.contains(part), "{key}: {message}");
    }
}

#[test]
fn stacks_of_other_sizes_are_told_and_not_read() {
    for (name, key, value) in [
        ("absorbed.gguf", "attention.value_length_mla", 4),
        ("absorbed.gguf", "attention.key_length_mla", 12),
        ("absorbed.gguf", "attention.kv_lora_rank", 9),
        ("earlier.gguf", "attention.value_length", 6),
        ("earlier.gguf", "attention.head_count", 2),
    ] {
        let folder = Folder::new();
        let path = folder.write("tiny.gguf", with(name, key, value));
        read_everything(&path);
        let file = Checkpoint::open(&path).expect("the metadata fit together");
        let audit = file.audit();
        assert!(!audit.is_clean(), "{name}, {key}");
        assert!(Conversion::of(&file).is_err(), "{name}, {key}");
    }
}

#[test]
fn scales_that_are_not_one_for_each_block_are_refused_by_name_and_number() {
    let folder = Folder::new();
    for entry in fs::read_dir(golden("tiny/deepseek_v3-fp8")).expect("a folder") {
        let path = entry.expect("readable").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("plain");
        folder.write(name, fs::read(&path).expect("readable"));
    }
    let sound = Checkpoint::open(folder.path()).expect("as transformers wrote it");
    assert!(sound.audit().is_clean(), "{}", sound.audit());
    let path = folder.path().join("config.json");
    let mut config: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&path).expect("readable")).expect("JSON");
    config["quantization_config"]["weight_block_size"] = json!([64, 128]);
    folder.write("config.json", config.to_string());
    let message = refused(folder.path()).to_string();
    assert!(message.contains("_scale_inv") && message.contains("64"), "{message}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_of_latent_attention_never_panic(
        damage in damage(), name in prop::sample::select(vec!["earlier.gguf", "absorbed.gguf"]),
    ) {
        let mut bytes = gguf(name);
        // The metadata and the list of tensors.
        apply(&mut bytes, 0, 6000, &damage);
        let folder = Folder::new();
        let path = folder.write("a.gguf", bytes);
        read_everything(&path);
        if let Ok(file) = Checkpoint::open(&path) {
            for tensor in file.spec().tensors().iter().take(64) {
                let _ = file.read(tensor);
            }
        }
    }
}
