//! What is particular to mixtures of experts; that they compute what transformers does is in `golden.rs`.

use burn::tensor::{Device, Distribution, Tensor};
use layernorm_scaling::rotary_table;
use lns_model::{Decoder, LayerSource, Pruned, ids_tensor};
use lns_spec::{DepthScale, LayerIndex, Removal, Site};
use lns_testing::golden::{golden, tiny_checkpoint};
use safetensors::SafeTensors;

fn load(folder: &str) -> Decoder {
    Decoder::from_checkpoint(&tiny_checkpoint(folder), &Device::flex()).expect(folder)
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

/// A tensor of what transformers computes on a folder.
fn expected(folder: &str, name: &str) -> Option<Vec<f32>> {
    let bytes = std::fs::read(golden("tiny").join(folder).join("expected.safetensors"));
    let bytes = bytes.expect("is there");
    let file = SafeTensors::deserialize(&bytes).expect("a valid file");
    let data = file.tensor(name).ok()?.data().to_vec();
    let numbers = data.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().expect("4")));
    Some(numbers.collect())
}

#[test]
fn each_token_goes_to_the_experts_that_transformers_sends_it_to() {
    let mut compared = 0;
    for folder in ["mixtral", "qwen3_moe", "gpt_oss", "deepseek_v2", "deepseek_v3"] {
        let model = load(folder);
        let ids = expected(folder, "input_ids").expect("every file has its ids");
        let length = ids.len() / 2;
        let rotary = rotary_table(model.spec(), length);
        let mut chosen = vec![Vec::new(); model.layers.len()];
        for row in ids.chunks_exact(length) {
            let row: Vec<u32> = row.iter().map(|id| *id as u32).collect();
            let mut stream = model.embed(ids_tensor(&row, &Device::flex()));
            for (layer, chosen) in model.layers.iter().zip(&mut chosen) {
                let attention = layer.branch(Site::Attention, stream.clone(), &rotary);
                let middle = layer.join(Site::Attention, stream.clone(), attention);
                let own = layer.chosen_experts(middle).unwrap_or_default();
                chosen.extend(own.into_iter().map(|expert| expert as f32));
                stream = layer.forward(stream, &rotary);
            }
        }
        for (layer, chosen) in chosen.into_iter().enumerate() {
            let reference = expected(folder, &format!("experts.{layer}"));
            compared += usize::from(reference.is_some());
            assert_eq!(chosen, reference.unwrap_or_default(), "{folder}, layer {layer}");
        }
    }
    assert_eq!(compared, 12);
}

#[test]
fn what_a_token_becomes_does_not_depend_on_the_tokens_beside_it() {
    let model = load("qwen3_moe");
    let experts = model.layers[0].experts.as_ref().expect("a mixture");
    let x = Tensor::<3>::random([2, 9, 32], Distribution::Normal(0.0, 1.0), &Device::flex());
    let all = experts.forward(x.clone());
    assert_eq!(all.dims(), [2, 9, 32]);
    for (sequence, token) in [(0, 0), (0, 8), (1, 4)] {
        let one = |x: &Tensor<3>| x.clone().narrow(0, sequence, 1).narrow(1, token, 1);
        let alone = values(experts.forward(one(&x)));
        let off = alone.iter().zip(values(one(&all))).map(|(a, b)| (a - b).abs());
        assert!(off.fold(0f32, f32::max) < 1e-5, "token {token} of sequence {sequence}");
    }
}

#[test]
fn an_expert_that_no_token_is_sent_to_has_no_part_in_the_sum() {
    let model = load("mixtral");
    let mut experts = model.layers[1].experts.clone().expect("a mixture");
    let x = Tensor::<3>::ones([1, 4, 32], &Device::flex());
    let (before, chosen) = (values(experts.forward(x.clone())), experts.chosen(x.clone()));
    assert_eq!(chosen.len(), 4 * 2);
    assert!(chosen.chunks(2).all(|own| own == &chosen[..2]), "equal tokens go the same way");
    for (expert, own) in experts.each.iter_mut().enumerate() {
        if !chosen.contains(&expert) {
            let down = &mut own.down_proj.weight;
            *down = burn::module::Param::from_tensor(down.val().mul_scalar(f32::NAN));
        }
    }
    assert_eq!(values(experts.forward(x)), before);
}

#[test]
fn a_mixture_without_a_layers_experts_is_the_model_that_adds_nothing_there() {
    let ids = [5, 17, 3, 9, 21, 30];
    let model = load("mixtral");
    let removal = Removal { layer: LayerIndex::new(1), branch: Some(Site::Mlp) };
    let pruned = Pruned::new(&model, &[removal]).expect("prunes");
    let mut zeroed = model.clone();
    for expert in &mut zeroed.layers[1].experts.as_mut().expect("a mixture").each {
        let down = &mut expert.down_proj.weight;
        *down = burn::module::Param::from_tensor(down.val().zeros_like());
    }
    let logits = |model: &dyn LayerSource| {
        let rotary = rotary_table(model.spec(), ids.len());
        let mut stream = model.embed_ids(&ids).expect("embeds");
        for layer in model.spec().layers() {
            stream = model.layer(layer).expect("is there").forward(stream, &rotary);
        }
        values(model.head().expect("is there").logits(stream))
    };
    assert_eq!(logits(&pruned), logits(&zeroed));
    assert_ne!(logits(&pruned), logits(&model));
}

#[test]
fn the_scale_goes_into_the_gain_before_router_and_experts_and_no_token_is_sent_elsewhere() {
    let model = load("qwen3_moe");
    let scaled = model.clone().with_layernorm_scaling(DepthScale::default()).expect("pre-LN");
    let stream = Tensor::<3>::random([1, 40, 32], Distribution::Normal(0.0, 1.0), &Device::flex());
    for (before, after) in model.layers.iter().zip(&scaled.layers) {
        assert_eq!(before.chosen_experts(stream.clone()), after.chosen_experts(stream.clone()));
        let of = |layer: &layernorm_scaling::TransformerLayerWithScaling| {
            let rotary = rotary_table(model.spec(), 40);
            values(layer.branch(Site::Mlp, stream.clone(), &rotary))
        };
        let off = of(before).into_iter().zip(of(after)).map(|(a, b)| (a - b).abs());
        assert!(off.fold(0f32, f32::max) < 1e-5);
    }
}
