//! What is written as GGUF comes back.

use std::cell::Cell;
use std::path::PathBuf;

use half::{bf16, f16};
use lns_checkpoint::{
    Checkpoint, CheckpointError, GgufOptions, GgufTensor, GgufTokenizer, StorageType,
    TokenizerSource, gguf_tensors, write_gguf,
};
use lns_record::ProvenanceRecord;
use lns_spec::{Family, LayerSpec, ModelSpec, ModelTensor, NormScheme, RopeScaling, StoredTensor};
use serde_json::{Value, json};

use crate::files::Folder;

const TYPES: [StorageType; 4] =
    [StorageType::F32, StorageType::F16, StorageType::BF16, StorageType::Q8_0];

/// A model of two layers with whole blocks of 32, two query heads for each key head.
fn spec(family: &str, changes: Value) -> ModelSpec {
    let mut config = json!({
        "model_type": family, "vocab_size": 40, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 16, "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "rope_theta": 5e5,
        "sliding_window": null, "tie_word_embeddings": false, "_name_or_path": "Tiny",
        "bos_token_id": 1, "eos_token_id": 2,
    });
    let changes = changes.as_object().expect("an object").clone();
    config.as_object_mut().expect("an object").extend(changes);
    ModelSpec::from_config(&config).expect("a valid config")
}

/// Numbers of all sizes and signs, which follow from the tensor's name.
fn numbers(tensor: &StoredTensor) -> Vec<f32> {
    let mut state =
        tensor.name.bytes().fold(7u64, |hash, byte| hash.wrapping_mul(31) ^ u64::from(byte));
    let number = |_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mantissa = (state >> 40) as f32 / (1 << 23) as f32 - 1.0;
        mantissa * [1.0, 0.02, 3.0][(state >> 33) as usize % 3]
    };
    (0..tensor.shape.iter().product()).map(number).collect()
}

/// Those of them that are a part of a stored tensor.
fn part_of(spec: &ModelSpec, part: &ModelTensor) -> Vec<f32> {
    let stored = spec.stored_tensors().into_iter().find(|stored| stored.name == part.name);
    part.taken_from(&numbers(&stored.expect("it is one of the model's")))
}

fn tokenizer(tokens: usize) -> GgufTokenizer {
    GgufTokenizer {
        model: "llama".to_owned(),
        pre: Some("default".to_owned()),
        tokens: (0..tokens).map(|id| format!("▁{id}")).collect(),
        token_types: vec![1; tokens],
        scores: (0..tokens).map(|id| -(id as f32)).collect(),
        merges: vec!["▁ 1".to_owned()],
        bos_token_id: Some(1),
        eos_token_id: Some(2),
        unknown_token_id: Some(0),
        add_bos_token: Some(true),
        add_space_prefix: Some(false),
        chat_template: Some("{{ messages }}\n".to_owned()),
    }
}

fn write(
    spec: &ModelSpec,
    options: &GgufOptions<'_>,
) -> Result<(Folder, PathBuf), CheckpointError> {
    let folder = Folder::new();
    let path = folder.path().join("tiny.gguf");
    let read = &mut |part: &ModelTensor| Ok(part_of(spec, part));
    write_gguf(&path, spec, options, read, &|_| ()).map(|()| (folder, path))
}

#[test]
fn a_file_says_where_it_came_from_and_no_record_beside_it_speaks_for_it() {
    let spec = spec("llama", json!({}));
    let options =
        GgufOptions { name: "Tiny", dtype: StorageType::F32, tokenizer: None, provenance: None };
    let (_source, path) = write(&spec, &options).expect("the model can be written");
    let source = Checkpoint::open(&path).expect("and read");
    let record =
        |verb: &str| source.provenance(verb, &spec, json!({"dtype": "F16"})).expect("described");
    let own = record("export");
    let json = serde_json::to_string(&own).expect("JSON");
    for (inside, beside, found) in [
        (Some(&*json), None, Some("export")),
        (Some(&*json), Some("prune"), Some("export")),
        // As earlier versions wrote it.
        (None, Some("prune"), Some("prune")),
        (Some("[1, 2]"), None, None),
        (None, None, None),
    ] {
        let dtype = StorageType::F16;
        let options = GgufOptions { name: "Tiny", dtype, tokenizer: None, provenance: inside };
        let (_folder, path) = write(&spec, &options).expect("the model can be written");
        if let Some(verb) = beside {
            let json = serde_json::to_string(&record(verb)).expect("JSON");
            std::fs::write(ProvenanceRecord::beside(&path), json).expect("writes");
        }
        let read = Checkpoint::open(&path).expect("and read").own_provenance();
        assert_eq!(read.as_ref().map(|record| &*record.verb), found);
        if found == Some("export") {
            assert_eq!(read.as_ref(), Some(&own));
        }
    }
}

/// Writes the model without a tokenizer and opens it.
fn written(spec: &ModelSpec, dtype: StorageType) -> Checkpoint {
    let options = GgufOptions { name: "Tiny", dtype, tokenizer: None, provenance: None };
    let (_folder, path) = write(spec, &options).expect("the model can be written");
    Checkpoint::open(&path).expect("and read")
}

fn refused(spec: &ModelSpec, dtype: StorageType) -> String {
    gguf_tensors(spec, dtype).expect_err("the model was accepted").to_string()
}

/// What a number becomes when it is stored.
fn stored(dtype: StorageType, number: f32) -> f32 {
    match dtype {
        StorageType::F16 => f16::from_f32(number).to_f32(),
        StorageType::BF16 => bf16::from_f32(number).to_f32(),
        _ => number,
    }
}

fn assert_same_numbers(checkpoint: &Checkpoint, tensor: &StoredTensor) {
    let found = checkpoint.tensor(&tensor.name).expect("it was written");
    let got = checkpoint.read_f32(&tensor.name, &tensor.shape).expect("and can be read");
    let wanted = numbers(tensor);
    if found.dtype != StorageType::Q8_0 {
        let wanted: Vec<_> = wanted.into_iter().map(|number| stored(found.dtype, number)).collect();
        assert_eq!(got, wanted, "{} as {}", tensor.name, found.dtype);
        return;
    }
    for (got, wanted) in got.chunks(32).zip(wanted.chunks(32)) {
        let step = wanted.iter().fold(0.0, |most: f32, x| most.max(x.abs())) / 127.0;
        for (got, wanted) in got.iter().zip(wanted) {
            // Half a step, and what the scale loses as f16.
            let most = step / 2.0 + got.abs() / 2048.0;
            assert!((got - wanted).abs() <= most, "{}: {got} for {wanted}", tensor.name);
        }
    }
}

#[test]
fn every_family_and_type_comes_back_as_it_was() {
    for (family, changes) in [
        ("llama", json!({})),
        ("llama", json!({"tie_word_embeddings": true, "head_dim": 8})),
        ("llama", json!({"attention_bias": true, "mlp_bias": true})),
        ("qwen2", json!({})),
        ("qwen2", json!({"tie_word_embeddings": true, "rope_theta": 1e6})),
        ("qwen3", json!({"head_dim": 32})),
        ("llama", json!({"rope_scaling": {"rope_type": "linear", "factor": 2.5}})),
        (
            "qwen2",
            json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0,
            "original_max_position_embeddings": 32}}),
        ),
        (
            "llama",
            json!({"max_position_embeddings": 131_072, "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192}}),
        ),
        // Numbers that f32 holds, so that what is read is what was written.
        (
            "phi3",
            json!({"original_max_position_embeddings": 32, "rope_scaling": {
            "type": "longrope", "attention_factor": 1.25,
            "short_factor": [1, 1, 1.5, 1.5, 2, 2, 2, 2.5],
            "long_factor": [1, 2, 4, 8, 16, 24, 32, 40.5]}}),
        ),
    ] {
        let spec = spec(family, changes);
        for dtype in TYPES {
            let checkpoint = written(&spec, dtype);
            let mut found = checkpoint.spec().clone();
            // The ids are the tokenizer's, and there is none.
            found.other_keys.clone_from(&spec.other_keys);
            assert_eq!(found, spec);
            assert_eq!(checkpoint.spec().other_keys["_name_or_path"], "Tiny");
            assert!(checkpoint.audit().is_clean(), "{}", checkpoint.audit());
            assert_eq!(checkpoint.tensors().len(), spec.stored_tensors().len());
            assert_eq!(checkpoint.tokenizer(), TokenizerSource::None);
            for tensor in spec.stored_tensors() {
                let is_matrix = tensor.shape.len() == 2;
                let found = checkpoint.tensor(&tensor.name).expect("the audit is clean");
                assert_eq!(found.dtype, if is_matrix { dtype } else { StorageType::F32 });
                assert_same_numbers(&checkpoint, &tensor);
            }
        }
    }
}

#[test]
fn mistral_is_written_as_the_llama_it_is() {
    for changes in [json!({}), json!({"sliding_window": 128})] {
        let mistral = spec("mistral", changes);
        let checkpoint = written(&mistral, StorageType::F32);
        let expected = spec("llama", json!({}));
        let mut found = checkpoint.spec().clone();
        found.other_keys.clone_from(&expected.other_keys);
        assert_eq!(found, expected);
        mistral.stored_tensors().iter().for_each(|tensor| assert_same_numbers(&checkpoint, tensor));
    }
}

#[test]
fn no_file_is_named_what_transformers_takes_for_an_architecture() {
    let options =
        GgufOptions { name: "mistral", dtype: StorageType::F16, tokenizer: None, provenance: None };
    let (_folder, path) = write(&spec("mistral", json!({})), &options).expect("written");
    let checkpoint = Checkpoint::open(&path).expect("and read");
    assert_eq!(checkpoint.spec().other_keys["_name_or_path"], "Mistral");
}

#[test]
fn a_pruned_model_keeps_the_layers_it_has() {
    let mut pruned = spec("llama", json!({"layer_depths": [2, 7], "trained_layers": 8}));
    let checkpoint = written(&pruned, StorageType::BF16);
    (pruned.per_layer, pruned.trained_layers) = (LayerSpec::unpruned(2), 2);
    let mut found = checkpoint.spec().clone();
    found.other_keys.clone_from(&pruned.other_keys);
    assert_eq!(found, pruned);
}

#[test]
fn the_tokenizer_comes_back_as_it_was() {
    let spec = spec("llama", json!({}));
    let write = |tokenizer: &GgufTokenizer| {
        let dtype = StorageType::F16;
        write(
            &spec,
            &GgufOptions { name: "Tiny", dtype, tokenizer: Some(tokenizer), provenance: None },
        )
    };
    let sparse = GgufTokenizer {
        model: "gpt2".to_owned(),
        tokens: tokenizer(40).tokens,
        ..GgufTokenizer::default()
    };
    for tokenizer in [tokenizer(40), sparse] {
        let (_folder, path) = write(&tokenizer).expect("written");
        let checkpoint = Checkpoint::open(&path).expect("and read");
        let bos = tokenizer.bos_token_id;
        assert_eq!(checkpoint.spec().bos_token_id(), bos);
        assert_eq!(checkpoint.tokenizer(), TokenizerSource::Gguf(Box::new(tokenizer)));
    }
    let error = write(&tokenizer(39)).expect_err("39 tokens of 40");
    let message = error.to_string();
    assert!(message.contains("has 39 tokens") && message.contains("for 40"), "{message}");
}

#[test]
fn progress_ends_at_the_size_of_the_file_and_never_falls() {
    let spec = spec("qwen3", json!({}));
    let folder = Folder::new();
    let path = folder.path().join("tiny.gguf");
    let options =
        GgufOptions { name: "Tiny", dtype: StorageType::Q8_0, tokenizer: None, provenance: None };
    let last = Cell::new(0);
    let progress = |bytes| assert!(last.replace(bytes) <= bytes);
    write_gguf(&path, &spec, &options, &mut |part| Ok(part_of(&spec, part)), &progress)
        .expect("written");
    assert_eq!(last.get(), std::fs::metadata(&path).expect("it is there").len());
}

#[test]
fn the_plan_names_every_tensor_with_its_type_and_size() {
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
    let spec = spec("llama", json!({"rope_scaling": llama3, "attention_bias": true}));
    let plan = gguf_tensors(&spec, StorageType::Q8_0).expect("can be written");
    assert_eq!(plan.len(), spec.tensors().len() + 1);
    let tensor = |name: &str| plan.iter().find(|tensor| tensor.name == name).expect(name);
    let summary = |tensor: &GgufTensor| {
        let source = tensor.source.as_ref().map_or("", |source| &source.name).to_owned();
        (source, tensor.dtype, tensor.shape.clone(), tensor.bytes())
    };
    assert_eq!(
        summary(tensor("rope_freqs.weight")),
        (String::new(), StorageType::F32, vec![8], 32)
    );
    assert_eq!(
        summary(tensor("blk.1.attn_k.bias")),
        ("model.layers.1.self_attn.k_proj.bias".to_owned(), StorageType::F32, vec![32], 128)
    );
    assert_eq!(
        summary(tensor("blk.0.ffn_down.weight")),
        ("model.layers.0.mlp.down_proj.weight".to_owned(), StorageType::Q8_0, vec![64, 96], 6528)
    );
}

#[test]
fn rows_that_are_no_whole_blocks_are_f16_as_the_plan_says() {
    let spec = spec("llama", json!({"intermediate_size": 72}));
    let checkpoint = written(&spec, StorageType::Q8_0);
    for tensor in gguf_tensors(&spec, StorageType::Q8_0).expect("can be written") {
        let source = tensor.source.expect("there is no table");
        let down = source.name.ends_with("down_proj.weight");
        assert_eq!(tensor.dtype == StorageType::F16, down, "{}", tensor.name);
        let found = checkpoint.tensor(&source.name).expect("it was written");
        assert_eq!(found.dtype, tensor.dtype);
        assert_same_numbers(&checkpoint, &source);
    }
}

#[test]
fn a_value_that_the_type_cannot_hold_is_named() {
    let spec = spec("llama", json!({}));
    for (dtype, value) in
        [(StorageType::F16, 65_520.0), (StorageType::Q8_0, f32::NAN), (StorageType::BF16, f32::MAX)]
    {
        let folder = Folder::new();
        let mut read = |part: &ModelTensor| {
            let mut numbers = part_of(&spec, part);
            if part.name == "model.layers.1.mlp.up_proj.weight" {
                numbers[77] = value;
            }
            Ok(numbers)
        };
        let options = GgufOptions { name: "Tiny", dtype, tokenizer: None, provenance: None };
        let path = folder.path().join("tiny.gguf");
        let error = write_gguf(&path, &spec, &options, &mut read, &|_| ()).expect_err("lost");
        let message = error.to_string();
        let tensor = "\"model.layers.1.mlp.up_proj.weight\"";
        assert!(message.contains(tensor) && message.contains("F32"), "{message}");
        assert!(message.contains(&value.to_string()), "{message}");
    }
}

#[test]
fn what_a_file_cannot_say_is_refused() {
    let f16 = StorageType::F16;
    let yarn = |change: Value| {
        let mut scaling = json!({"rope_type": "yarn", "factor": 4.0,
            "original_max_position_embeddings": 32});
        scaling.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        spec("llama", json!({ "rope_scaling": scaling }))
    };
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
    let mut lns = spec("llama", json!({}));
    lns.norm_scheme = NormScheme::lns();
    for (spec, expected) in [
        (lns, "lns fold"),
        (spec("mistral", json!({"sliding_window": 127})), "127 tokens back in a context of 128"),
        (
            spec(
                "qwen2",
                json!({"sliding_window": 64, "use_sliding_window": true,
                "max_window_layers": 1}),
            ),
            "64 tokens back",
        ),
        (spec("phi3", json!({"sliding_window": 127})), "127 tokens back"),
        (spec("qwen3", json!({"attention_bias": true})), "biases"),
        (spec("qwen2", json!({"head_dim": 32})), "128 features together"),
        (spec("phi3", json!({"head_dim": 32})), "128 features together"),
        (spec("olmo2", json!({"head_dim": 8})), "32 features together"),
        (spec("qwen3", json!({"rope_scaling": llama3})), "\"llama3\""),
        (spec("llama", json!({"rope_scaling": {"type": "dynamic", "factor": 2}})), "\"dynamic\""),
        (yarn(json!({"attention_factor": 1.0})), "attention factor"),
        (yarn(json!({"truncate": false})), "truncate"),
        (yarn(json!({"beta_slow": 2.0})), "beta_slow"),
        (yarn(json!({"original_max_position_embeddings": 32.5})), "whole number"),
    ] {
        let message = refused(&spec, f16);
        assert!(message.contains(expected), "{message} lacks {expected}");
        let options = GgufOptions { name: "Tiny", dtype: f16, tokenizer: None, provenance: None };
        assert_eq!(write(&spec, &options).expect_err("refused").to_string(), message);
    }
    assert!(matches!(yarn(json!({})).rope.scaling, RopeScaling::Yarn { .. }));
    assert!(gguf_tensors(&yarn(json!({})), f16).is_ok());
    let message = refused(&spec("llama", json!({})), StorageType::Q4K);
    assert!(message.contains("Q4_K"), "{message}");
    assert_eq!(spec("mistral", json!({})).family, Family::MISTRAL);
}

#[test]
fn what_the_reader_says_and_a_wrong_length_stop_the_writing() {
    let spec = spec("llama", json!({}));
    let folder = Folder::new();
    let path = folder.path().join("tiny.gguf");
    let options =
        GgufOptions { name: "Tiny", dtype: StorageType::F16, tokenizer: None, provenance: None };
    let mut short = |part: &ModelTensor| Ok(part_of(&spec, part)[1..].to_vec());
    let error = write_gguf(&path, &spec, &options, &mut short, &|_| ()).expect_err("too few");
    assert!(matches!(error, CheckpointError::WrongShape { .. }), "{error}");
    let mut missing = |tensor: &ModelTensor| {
        let (path, tensor) = (PathBuf::from("source"), tensor.name.clone());
        Err(CheckpointError::MissingTensor { path, tensor })
    };
    let error = write_gguf(&path, &spec, &options, &mut missing, &|_| ()).expect_err("missing");
    assert!(error.to_string().starts_with("source: there is no tensor"), "{error}");
    let nowhere = folder.path().join("no/such/folder.gguf");
    let error = write_gguf(&nowhere, &spec, &options, &mut missing, &|_| ()).expect_err("nowhere");
    assert!(error.to_string().contains("cannot be written"), "{error}");
}
