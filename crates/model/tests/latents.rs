//! What is particular to latent attention and shared experts; that they compute what transformers does is in
//! `golden.rs`.

use burn::tensor::{Device, Distribution, Tensor};
use layernorm_scaling::{NormScaling, TransformerLayerWithScaling, rotary_table};
use lns_checkpoint::Checkpoint;
use lns_model::{Decoder, Retrofit, apply_curse_of_depth_mitigation, ids_tensor};
use lns_spec::{DepthScale, LayerIndex, ModelSpec, Removal, Role, Site};
use lns_testing::golden::{golden, tiny_checkpoint};

const FOLDERS: [&str; 4] = ["deepseek_v2", "deepseek_v2-small", "deepseek_v3", "deepseek_v3-small"];

fn load(folder: &str) -> Decoder {
    Decoder::from_checkpoint(&tiny_checkpoint(folder), &Device::flex()).expect(folder)
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

fn off(found: &[f32], expected: &[f32]) -> f32 {
    let largest = expected.iter().fold(0f32, |a, b| a.max(b.abs()));
    found.iter().zip(expected).fold(0f32, |a, (x, y)| a.max((x - y).abs())) / largest
}

/// The norms on the latents of a layer.
fn latent_norms(layer: &TransformerLayerWithScaling) -> Vec<&NormScaling> {
    let latents = layer.self_attn.as_ref().and_then(|attention| attention.latents.as_ref());
    let latents = latents.expect("latent attention");
    latents.queries.iter().chain([&latents.keys_and_values]).map(|latent| &latent.norm).collect()
}

#[test]
fn norms_on_latents_are_never_scaled_and_a_retrofit_leaves_their_gains_as_they_are() {
    for folder in FOLDERS {
        let model = load(folder);
        let ids = ids_tensor(&[5, 17, 3, 9, 21, 30, 2, 8], &Device::flex());
        let before = values(model.forward(ids.clone()));
        let gains: Vec<_> = model
            .layers
            .iter()
            .flat_map(latent_norms)
            .map(|norm| values(norm.gamma.val()))
            .collect();
        let scaled =
            apply_curse_of_depth_mitigation(model, Retrofit::Preserve, DepthScale::default());
        let scaled = scaled.expect(folder);
        let mut after = Vec::new();
        for (index, layer) in scaled.layers.iter().enumerate() {
            let block = layer.input_layernorm.as_ref().expect("pre-norm");
            assert!((block.scale() - 1.0 / (index as f64 + 1.0).sqrt()).abs() < 1e-12, "{folder}");
            for norm in latent_norms(layer) {
                assert_eq!(norm.scale(), 1.0, "{folder}, layer {index}");
                after.push(values(norm.gamma.val()));
            }
        }
        assert_eq!(after, gains, "{folder}");
        assert!(off(&values(scaled.forward(ids)), &before) < 1e-5, "{folder}");
    }
}

#[test]
fn a_scale_on_the_attentions_input_reaches_the_turned_part_of_the_keys_alone() {
    let model = load("deepseek_v3");
    let attention = model.layers[2].self_attn.as_ref().expect("whole");
    let latents = attention.latents.as_ref().expect("latent attention");
    let x = Tensor::<3>::random([1, 6, 32], Distribution::Normal(0.0, 1.0), &Device::flex());
    let scaled = x.clone() * (1.0 / 3f64.sqrt());
    let queries = latents.queries.as_ref().expect("queries have a latent");
    let value = |x: &Tensor<3>| {
        let latent = &latents.keys_and_values;
        values(attention.v_proj.forward(latent.norm.forward(latent.proj.forward(x.clone()))))
    };
    let query = |x: &Tensor<3>| values(queries.norm.forward(queries.proj.forward(x.clone())));
    let turned = |x: &Tensor<3>| values(latents.rotary_keys.forward(x.clone()));
    assert!(off(&value(&scaled), &value(&x)) < 1e-4);
    assert!(off(&query(&scaled), &query(&x)) < 1e-4);
    let shrunk: Vec<f32> = turned(&x).iter().map(|key| key / 3f32.sqrt()).collect();
    assert!(off(&turned(&scaled), &shrunk) < 1e-5);
}

#[test]
fn shared_experts_are_added_unweighted_and_not_among_those_that_are_chosen() {
    let model = load("deepseek_v3");
    let experts = model.layers[1].experts.clone().expect("a mixture");
    let x = Tensor::<3>::random([1, 5, 32], Distribution::Normal(0.0, 1.0), &Device::flex());
    let shared = experts.shared.as_ref().expect("there are shared ones");
    let beside = values(shared.forward(x.clone()));
    let all = values(experts.forward(x.clone()));
    let chosen = experts.chosen(x.clone());
    assert!(chosen.len() == 5 * 3 && chosen.iter().all(|expert| *expert < experts.count()));
    let mut alone = experts.clone();
    alone.shared = None;
    let sum: Vec<f32> =
        values(alone.forward(x)).iter().zip(&beside).map(|(own, shared)| own + shared).collect();
    assert!(off(&sum, &all) < 1e-6);
}

#[test]
fn a_pruned_model_says_how_many_layers_before_the_first_experts_are_left() {
    let spec = load("deepseek_v2").spec().clone();
    let removed = |layer, branch| Removal { layer: LayerIndex::new(layer), branch };
    let (without_dense, _) = spec.without(&[removed(0, None)]).expect("only added");
    assert_eq!(without_dense.to_config()["first_k_dense_replace"], 0);
    let (without_mlp, _) = spec.without(&[removed(1, Some(Site::Mlp))]).expect("only added");
    assert_eq!(without_mlp.to_config()["first_k_dense_replace"], 1);
    for pruned in [without_dense, without_mlp] {
        assert_eq!(pruned.check_config(), Ok(()));
        let again = ModelSpec::from_config(&pruned.to_config()).expect("reads");
        assert_eq!(again.tensors(), pruned.tensors());
    }
}

#[test]
fn layers_that_predict_tokens_after_the_next_are_passed_over_where_the_config_names_them() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let own = tiny_checkpoint("deepseek_v3-small");
    let mut tensors: Vec<_> = load("deepseek_v3-small").tensors();
    let mut extra = tensors[0].clone();
    for name in ["model.layers.2.eh_proj.weight", "model.layers.2.mlp.gate.weight"] {
        extra.name = name.to_owned();
        tensors.push(extra.clone());
    }
    lns_checkpoint::write_model(folder.path(), own.spec(), &tensors).expect("writes");
    let audit = Checkpoint::open(folder.path()).expect("opens").audit();
    assert!(audit.is_clean(), "{audit}");
    let mut spec = own.spec().clone();
    spec.other_keys.insert("num_nextn_predict_layers".to_owned(), serde_json::json!(0));
    lns_checkpoint::write_model(folder.path(), &spec, &tensors).expect("writes");
    let audit = Checkpoint::open(folder.path()).expect("opens").audit();
    assert_eq!(audit.unexpected.len(), 2, "{audit}");
}

#[test]
fn random_weights_differ_from_tensor_to_tensor() {
    let model = Decoder::new(load("deepseek_v3").spec(), 7, &Device::flex());
    let tensors = model.spec().tensors();
    let matrices = tensors.iter().filter(|tensor| tensor.shape.len() == 2);
    let mut starts: Vec<String> = matrices.map(|tensor| tensor.id.to_string()).collect();
    let count = starts.len();
    starts.sort();
    starts.dedup();
    assert_eq!(starts.len(), count);
    let correction = tensors.iter().find(|tensor| tensor.id.role == Role::RouterCorrection);
    assert_eq!(correction.expect("V3 has one").shape, [6]);
    let layer = rotary_table(model.spec(), 4);
    assert_eq!((layer.head_dim(), layer.pairs(), layer.first_turned()), (10, 2, 6));
}

#[test]
fn gguf_files_with_and_without_absorbed_heads_compute_what_the_folder_does() {
    let folder = "deepseek_v3-bf16-sharded";
    let source = tiny_checkpoint(folder);
    let model = Decoder::from_checkpoint(&source, &Device::flex()).expect(folder);
    let ids = ids_tensor(&[5, 17, 3, 9, 21, 30, 2, 8, 90, 41, 63], &Device::flex());
    let expected = values(model.forward(ids.clone()));
    for name in ["earlier", "absorbed"] {
        let path = golden("gguf").join(format!("deepseek_v3-{name}.gguf"));
        let file = Checkpoint::open(&path).expect(name);
        assert_eq!(file.spec().family.model_type(), "deepseek_v3");
        assert!(file.audit().is_clean(), "{name}: {}", file.audit());
        for tensor in source.spec().tensors() {
            let read = |checkpoint: &Checkpoint| checkpoint.read(&tensor).expect(&tensor.name);
            assert_eq!(read(&file), read(&source), "{name}: {}", tensor.id);
        }
        let found = Decoder::from_checkpoint(&file, &Device::flex()).expect(name);
        assert!(off(&values(found.forward(ids.clone())), &expected) < 1e-6, "{name}");
    }
}
