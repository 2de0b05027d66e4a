//! What conversions write, held against the tiny checkpoints of every family.

use std::path::Path;

use lns_checkpoint::{Checkpoint, CheckpointError, Conversion, StorageType};
use lns_spec::{
    Block, ConversionError, DepthScale, Family, Gains, LayerIndex, NormScheme, Removal, Role, Site,
    TensorId,
};
use lns_testing::golden::tiny_checkpoint;

use crate::files::{Folder, Gguf, Tensor, model_folder, tensors};

/// Each family has a golden checkpoint of its name.
fn families() -> impl Iterator<Item = &'static str> {
    Family::all().map(Family::model_type)
}

fn conversion(checkpoint: &Checkpoint) -> Conversion<'_> {
    Conversion::of(checkpoint).expect("the checkpoint is whole")
}

/// What a conversion writes, opened.
fn written(conversion: &Conversion<'_>, shard_bytes: u64) -> (Folder, Checkpoint) {
    let folder = Folder::new();
    conversion.write(folder.path(), shard_bytes, &|_| {}).expect("writes");
    let checkpoint = Checkpoint::open(folder.path()).expect("what was written opens");
    assert!(checkpoint.audit().is_clean(), "{}", checkpoint.audit());
    (folder, checkpoint)
}

fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let tensor = checkpoint.tensor(name).expect(name);
    checkpoint.read_f32(name, &tensor.shape).expect(name)
}

fn lns(checkpoint: &Checkpoint) -> Conversion<'_> {
    let scaled =
        conversion(checkpoint).with_layernorm_scaling(DepthScale::default(), Gains::Compensated);
    scaled.expect("a plain model takes the scale")
}

#[test]
fn a_model_that_is_only_copied_is_the_same_in_any_number_of_files() {
    for name in families().chain(["llama-bf16-sharded", "llama-f16"]) {
        let source = tiny_checkpoint(name);
        for shard_bytes in [u64::MAX, 20_000, 1] {
            let (_folder, copy) = written(&conversion(&source), shard_bytes);
            assert_eq!(copy.spec(), source.spec(), "{name}");
            let tensors = source.spec().stored_tensors();
            assert_eq!(copy.files().len() == 1, shard_bytes == u64::MAX);
            assert_eq!(copy.files().len() == tensors.len(), shard_bytes == 1);
            for tensor in tensors {
                let stored = |c: &Checkpoint| c.tensor(&tensor.name).expect("is there").dtype;
                assert_eq!(stored(&copy), stored(&source), "{name}: {}", tensor.name);
                assert_eq!(values(&copy, &tensor.name), values(&source, &tensor.name), "{name}");
            }
        }
    }
}

#[test]
fn the_gains_alone_change_and_change_back() {
    for name in families() {
        let source = tiny_checkpoint(name);
        let sandwich = match source.spec().norm_scheme {
            NormScheme::OutputNorm(_) => {
                let refused = conversion(&source)
                    .with_layernorm_scaling(DepthScale::default(), Gains::Compensated);
                assert!(matches!(refused, Err(ConversionError::NoInputNorm { .. })), "{name}");
                continue;
            }
            NormScheme::Post(_) => {
                let refused = conversion(&source)
                    .with_layernorm_scaling(DepthScale::default(), Gains::Compensated);
                assert!(matches!(refused, Err(ConversionError::NotPreNorm { .. })), "{name}");
                continue;
            }
            NormScheme::Sandwich(_) => true,
            _ => false,
        };
        let (_scaled_folder, scaled) = written(&lns(&source), u64::MAX);
        let block = if sandwich { Block::Sandwich } else { Block::Pre };
        let scheme = NormScheme::Lns(DepthScale { block, ..DepthScale::default() });
        assert_eq!(scaled.spec().norm_scheme, scheme, "{name}");
        for tensor in source.spec().stored_tensors() {
            let (before, after) = (values(&source, &tensor.name), values(&scaled, &tensor.name));
            let TensorId { layer, role, .. } = tensor.parts[0].id;
            let changes = match role {
                Role::InputNorm(_) => !sandwich,
                Role::OutputNorm(_) => sandwich,
                _ => false,
            };
            let factor = match layer {
                Some(layer) if changes => (layer.get() as f64 + 1.0).sqrt(),
                _ => 1.0,
            };
            // Gemma's gains are stored less 1; the scale stands on the gain and on the bias.
            let one = if name.starts_with("gemma") && role.is_gain() { 1.0 } else { 0.0 };
            for (before, after) in before.iter().zip(after) {
                let wanted = ((f64::from(*before) + one) * factor - one) as f32;
                assert_eq!(after, wanted, "{name}: {}", tensor.name);
            }
        }
        let folded = conversion(&scaled).folded().expect("folds");
        let (_folder, folded) = written(&folded, u64::MAX);
        assert_eq!(folded.spec(), source.spec(), "{name}");
        for tensor in source.spec().stored_tensors() {
            let (before, after) = (values(&source, &tensor.name), values(&folded, &tensor.name));
            for (before, after) in before.iter().zip(after) {
                // A gain that is stored less 1 is known to a rounding of 1.
                let close = (after - before).abs() < 2e-7 * before.abs().max(1.0);
                assert!(close, "{name}: {before} {after}");
            }
        }
    }
}

#[test]
fn gains_are_rounded_within_the_bound_of_their_type() {
    let source = tiny_checkpoint("llama");
    for (dtype, bound) in [
        (StorageType::F32, 2f64.powi(-24)),
        (StorageType::F16, 2f64.powi(-11)),
        (StorageType::BF16, 2f64.powi(-8)),
    ] {
        let conversion = lns(&source).cast(dtype);
        let rounding = conversion.rounding().expect("reads");
        // Layer 0 has the factor 1.
        assert_eq!(rounding.tensors, 2 * (source.spec().num_hidden_layers - 1));
        assert_eq!(rounding.bound, bound);
        assert!(rounding.measured > bound / 8.0 && rounding.measured <= bound, "{rounding:?}");
        let (_folder, written) = written(&conversion, u64::MAX);
        let gain = "model.layers.1.input_layernorm.weight";
        for (before, after) in values(&source, gain).iter().zip(values(&written, gain)) {
            let wanted = f64::from(*before) * 2f64.sqrt();
            assert!((f64::from(after) / wanted - 1.0).abs() <= bound, "{dtype}");
        }
    }
    assert_eq!(conversion(&source).rounding().expect("reads").tensors, 0);
}

#[test]
fn layers_move_up_and_branches_go_with_all_their_tensors() {
    for name in families() {
        let source = tiny_checkpoint(name);
        let last = source.spec().num_hidden_layers - 1;
        let layer = LayerIndex::new;
        let removals = [
            Removal { layer: layer(0), branch: None },
            Removal { layer: layer(last), branch: Some(Site::Attention) },
        ];
        let pruned = conversion(&source).without(&removals).expect("prunes");
        let (_folder, pruned) = written(&pruned, u64::MAX);
        assert_eq!(pruned.spec().num_hidden_layers, last, "{name}");
        assert_eq!(
            pruned.tensors().len(),
            pruned.spec().stored_tensors().len(),
            "nothing is left over"
        );
        for tensor in pruned.spec().stored_tensors() {
            let before = match tensor.parts[0].id.layer.map(LayerIndex::get) {
                None => tensor.name.clone(),
                Some(layer) => {
                    let attention =
                        tensor.name.contains("attn.") || tensor.name.contains("attention.");
                    // What is left of the last layer is its MLP and that one's norm.
                    let is_gone = attention && !tensor.name.contains("post_attention");
                    assert!(layer + 1 < last || !is_gone, "{}", tensor.name);
                    tensor.name.replacen(&format!(".{layer}."), &format!(".{}.", layer + 1), 1)
                }
            };
            assert_eq!(values(&pruned, &tensor.name), values(&source, &before), "{name}: {before}");
        }
        // What no other program knows is filled with zeros for them.
        assert!(
            pruned.spec().to_config()["model_type"].as_str().is_some_and(|t| t.starts_with("lns_"))
        );
        let stock = match conversion(&pruned).for_stock_runtimes() {
            Ok(stock) => stock,
            // A norm stands on the sum in any plain model, whatever is added.
            Err(refused) => {
                assert!(matches!(refused, ConversionError::NormGone { .. }), "{name}: {refused}");
                assert!(matches!(source.spec().norm_scheme, NormScheme::Post(_)), "{name}");
                continue;
            }
        };
        let (_folder, stock) = written(&stock, u64::MAX);
        assert!(stock.spec().is_stock());
        let id = TensorId::of_layer(layer(last - 1), Role::AttentionOutput);
        let zeros = values(&stock, &stock.spec().family.stored_name(id));
        assert!(zeros.iter().all(|value| *value == 0.0));
    }
}

#[test]
fn blocks_of_a_gguf_file_become_f32_with_rows_in_hugging_faces_order() {
    let source = tiny_checkpoint("llama");
    let folder = Folder::new();
    let path = folder.path().join("model.gguf");
    let options = lns_checkpoint::GgufOptions {
        name: "t",
        dtype: StorageType::Q8_0,
        tokenizer: None,
        provenance: None,
    };
    let mut read = |tensor: &lns_spec::ModelTensor| source.read(tensor);
    lns_checkpoint::write_gguf(&path, source.spec(), &options, &mut read, &|_| {}).expect("writes");
    let gguf = Checkpoint::open(&path).expect("opens");
    let (_folder, converted) = written(&lns(&gguf), u64::MAX);
    for tensor in source.spec().stored_tensors() {
        let stored = converted.tensor(&tensor.name).expect("is there");
        // Rows that are no whole blocks are F16 in the file.
        assert!(matches!(stored.dtype, StorageType::F32 | StorageType::F16));
        if tensor.shape.len() == 2 {
            assert_eq!(values(&converted, &tensor.name), values(&gguf, &tensor.name));
        }
    }
}

#[test]
fn mxfp4_becomes_bf16_and_loses_nothing() {
    let mut file = Gguf::model("llama");
    let down = file.tensor("blk.0.ffn_down.weight");
    // Exponents to both ends of what is finite, and every pair of numbers.
    let block = |exponent: u8| {
        std::iter::once(exponent).chain((0u8..16).map(move |j| j << 4 | (j ^ exponent & 15)))
    };
    (down.kind, down.data) =
        (39, [0, 1, 2, 100, 127, 128, 200, 252].into_iter().flat_map(block).collect());
    let (_file, path) = file.write();
    let source = Checkpoint::open(&path).expect("the file is sound");
    let (_folder, again) = written(&conversion(&source), u64::MAX);
    let name = "model.layers.0.mlp.down_proj.weight";
    assert_eq!(again.tensor(name).expect("it is there").dtype, StorageType::BF16);
    assert_eq!(values(&again, name), values(&source, name));
}

#[test]
fn casting_rounds_to_nearest_and_refuses_what_does_not_fit() {
    let source = tiny_checkpoint("llama");
    for dtype in [StorageType::BF16, StorageType::F16] {
        let (_folder, cast) = written(&conversion(&source).cast(dtype), u64::MAX);
        let name = "model.layers.0.mlp.up_proj.weight";
        assert_eq!(cast.tensor(name).expect("is there").dtype, dtype);
        for (before, after) in values(&source, name).iter().zip(values(&cast, name)) {
            let nearest = match dtype {
                StorageType::BF16 => half::bf16::from_f32(*before).to_f32(),
                _ => half::f16::from_f32(*before).to_f32(),
            };
            assert_eq!(after, nearest);
        }
    }
    let mut large = tensors();
    let (name, shape) = (large[3].name.clone(), large[3].shape.clone());
    let count = shape.iter().product();
    large[3] = Tensor::f32(&name, &shape, &vec![7e4; count]);
    let folder = model_folder(&large);
    let source = Checkpoint::open(folder.path()).expect("opens");
    let out = Folder::new();
    let error = conversion(&source).cast(StorageType::F16).write(out.path(), u64::MAX, &|_| {});
    let error = error.expect_err("70,000 is beyond f16");
    assert!(
        matches!(&error, CheckpointError::Unstorable { tensor, .. } if *tensor == name),
        "{error}"
    );
}

#[test]
fn a_checkpoint_that_is_not_whole_is_not_converted() {
    let mut some = tensors();
    let gone = some.pop().expect("there are tensors").name;
    let folder = model_folder(&some);
    let source = Checkpoint::open(folder.path()).expect("opens");
    let error = Conversion::of(&source).expect_err("a tensor is missing").to_string();
    assert!(error.contains(&gone), "{error}");
}

#[test]
fn a_model_is_known_by_what_it_holds_and_not_by_where_it_is() {
    let (a, b) = (model_folder(&tensors()), model_folder(&tensors()));
    let of = |path: &Path| Checkpoint::open(path).expect("opens").fingerprint().expect("reads");
    assert_eq!(of(a.path()), of(b.path()));
    let mut other = tensors();
    other[0].data[0] ^= 1;
    assert_ne!(of(a.path()), of(model_folder(&other).path()));
}
