//! What is particular to mixtures of experts; that they compute what transformers does is in `golden.rs`.

use std::{borrow::Cow, collections::BTreeSet, path::Path, sync::Arc};

use burn::{
    module::Module,
    tensor::{Device, Distribution, Tensor},
};
use layernorm_scaling::rotary_table;
use lns_checkpoint::{Checkpoint, GgufOptions, StorageType, write_gguf};
use lns_model::{
    Decoder, ExpertsOnDisk, LayerSource, Pruned, Sampling, StreamingDecoder, ids_tensor,
};
use lns_spec::{DepthScale, LayerIndex, ModelTensor, Removal, Site};
use lns_testing::golden::{golden, tiny_checkpoint};
use safetensors::{Dtype, SafeTensors, View};

fn load(folder: &str) -> Decoder {
    Decoder::from_checkpoint(&tiny_checkpoint(folder), &Device::flex()).expect(folder)
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

/// A tensor of what transformers computes on a folder.
fn expected(folder: &str, name: &str) -> Option<Vec<f32>> {
    expected_in(&golden("tiny").join(folder).join("expected.safetensors"), name)
}

fn expected_in(path: &Path, name: &str) -> Option<Vec<f32>> {
    let bytes = std::fs::read(path).expect("is there");
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
fn files_that_llama_cpps_converter_would_make_compute_what_transformers_does_on_the_folders() {
    for (name, family, dtype) in [
        ("mixtral", "mixtral", StorageType::F32),
        ("qwen3_moe", "qwen3_moe", StorageType::F32),
        ("gpt_oss", "gpt_oss", StorageType::MXFP4),
    ] {
        let path = golden("gguf").join(format!("{name}.gguf"));
        let file = Checkpoint::open(&path).expect("opens");
        assert!(file.audit().is_clean(), "{name}: {}", file.audit());
        assert_eq!(file.spec().family.model_type(), family);
        let experts = file.tensors().filter(|tensor| tensor.name.ends_with("_exps.weight"));
        assert!(experts.map(|tensor| tensor.dtype).all(|stored| stored == dtype), "{name}");
        let values_of = path.with_extension("safetensors");
        let ids = expected_in(&values_of, "input_ids").expect("every file has its ids");
        let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
        let logits = expected_in(&values_of, "logits").expect("and logits");
        let model = Decoder::from_checkpoint(&file, &Device::flex()).expect("loads");
        let found = values(model.forward(ids_tensor(&ids, &Device::flex())));
        assert_eq!(found.len(), logits.len());
        let off = found.iter().zip(&logits).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(off < 1e-4, "{name}: {off:e}");
    }
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
fn experts_side_by_side_compute_what_they_do_one_by_one() {
    let mut compared = 0;
    for folder in ["mixtral", "qwen3_moe", "gpt_oss", "deepseek_v3"] {
        let model = load(folder);
        for experts in model.layers.iter().filter_map(|layer| layer.experts.as_ref()) {
            for length in [1, 2, 17, 60, 140] {
                let shape = [1, length, model.spec().hidden_size];
                let x = Tensor::<3>::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex());
                // Where gradients may be taken they are computed one by one.
                let one_by_one = experts.clone().train().forward(Tensor::from_inner(x.clone()));
                let (found, expected) = (values(experts.forward(x)), values(one_by_one));
                let largest = expected.iter().fold(0f32, |a, b| a.max(b.abs()));
                let off = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
                let off = off.fold(0f32, f32::max) / largest;
                assert!(off < 1e-5, "{folder}, {length} tokens: {off:e}");
                compared += 1;
            }
        }
    }
    assert!(compared >= 40, "only {compared}");
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

const PROMPT: [u32; 3] = [5, 17, 3];

/// Tiny mixtures as folders, one of them in shards, and as GGUF files, whose experts are stacks.
fn containers(folder: &Path) -> Vec<(String, Checkpoint)> {
    let folders = ["mixtral", "qwen3_moe", "qwen3_moe-bf16-sharded", "gpt_oss", "deepseek_v3"];
    let mut all: Vec<_> =
        folders.map(|name| (name.to_owned(), tiny_checkpoint(name))).into_iter().collect();
    for name in ["mixtral", "gpt_oss"] {
        let source = tiny_checkpoint(name);
        let path = folder.join(format!("{name}.gguf"));
        let options = GgufOptions {
            name: "tiny",
            dtype: StorageType::F32,
            tokenizer: None,
            provenance: None,
        };
        let mut read = |tensor: &ModelTensor| source.read(tensor);
        write_gguf(&path, source.spec(), &options, &mut read, &|_| {}).expect(name);
        all.push((format!("{name}.gguf"), Checkpoint::open(&path).expect(name)));
    }
    all
}

/// The logits of a pass that takes one layer after another, and what each layer chose for the tokens.
fn pass(source: &dyn LayerSource, ids: &[u32]) -> (Vec<f32>, Vec<BTreeSet<usize>>) {
    let rotary = rotary_table(source.spec(), ids.len());
    let mut stream = source.embed_ids(ids).expect("embeds");
    let mut chosen = Vec::new();
    for index in source.spec().layers() {
        let layer = source.layer(index).expect("is there");
        let attention = layer.branch(Site::Attention, stream.clone(), &rotary);
        let middle = layer.join(Site::Attention, stream.clone(), attention);
        chosen.push(layer.chosen_experts(middle).unwrap_or_default().into_iter().collect());
        stream = layer.forward(stream, &rotary);
    }
    (values(source.head().expect("is there").logits(stream)), chosen)
}

#[test]
fn a_pass_from_disk_reads_the_experts_that_tokens_are_sent_to_once_and_gives_the_same_bits() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, checkpoint) in containers(folder.path()) {
        let resident = Decoder::from_checkpoint(&checkpoint, &Device::flex()).expect(&name);
        let streaming = StreamingDecoder::new(checkpoint, Device::flex()).expect(&name);
        let (logits, chosen) = pass(&streaming, &PROMPT);
        assert_eq!(logits, pass(&resident, &PROMPT).0, "{name}");
        let active: usize = chosen.iter().map(BTreeSet::len).sum();
        let all: usize =
            resident.layers.iter().flat_map(|layer| &layer.experts).map(|own| own.each.len()).sum();
        assert_eq!(streaming.experts().reads(), active as u64, "{name}");
        assert!(active < all, "{name}: {active} of {all}");
    }
}

#[test]
fn a_layer_from_disk_keeps_what_it_has_read_and_lets_the_oldest_go_where_room_is_short() {
    let open = |room| {
        let checkpoint = Arc::new(tiny_checkpoint("qwen3_moe"));
        let experts = ExpertsOnDisk::new(checkpoint, Device::flex(), room).expect("whole");
        let model = Decoder::with_experts_on_disk(&experts, &Device::flex()).expect("loads");
        (experts, model)
    };
    let x = Tensor::<3>::random([1, 5, 32], Distribution::Normal(0.0, 1.0), &Device::flex());
    let resident = load("qwen3_moe");
    let whole = resident.layers[0].experts.as_ref().expect("a mixture");
    let active = whole.chosen(x.clone()).into_iter().collect::<BTreeSet<_>>().len() as u64;
    let expected = values(whole.forward(x.clone()));
    for (room, reads_of_the_second_pass) in [(1 << 20, 0), (0, active)] {
        let (experts, model) = open(room);
        let layer = model.layers[0].experts.as_ref().expect("a mixture");
        assert!(layer.each.is_empty());
        assert_eq!(values(layer.forward(x.clone())), expected);
        assert_eq!(experts.reads(), active);
        assert_eq!(values(layer.forward(x.clone())), expected);
        assert_eq!(experts.reads(), active + reads_of_the_second_pass, "room {room}");
    }
}

#[test]
fn a_mixture_with_its_experts_on_disk_generates_what_it_does_in_memory() {
    for name in ["mixtral", "qwen3_moe"] {
        let checkpoint = Arc::new(tiny_checkpoint(name));
        let experts = ExpertsOnDisk::new(checkpoint, Device::flex(), 1 << 30).expect(name);
        let model = Decoder::with_experts_on_disk(&experts, &Device::flex()).expect(name);
        assert_eq!(experts.reads(), 0, "{name}");
        let of = |model: &Decoder| -> Vec<u32> {
            model.generate(&PROMPT, 8, Sampling::default()).collect()
        };
        assert_eq!(of(&model), of(&load(name)), "{name}");
        experts.failure().expect(name);
        let spec = model.spec();
        let all: usize =
            spec.layers().filter_map(|layer| spec.experts(layer)).map(|own| own.count).sum();
        assert!(experts.reads() <= all as u64, "{name}: none is read twice");
    }
}

#[test]
fn gradients_of_the_stream_pass_through_experts_on_disk() {
    let streaming = StreamingDecoder::new(tiny_checkpoint("qwen3_moe"), Device::flex());
    let streaming = streaming.expect("whole");
    let first = LayerIndex::new(0);
    let layers = [
        load("qwen3_moe").layers[0].clone(),
        streaming.layer(first).expect("is there"),
        streaming.whole_layer(first).expect("is there"),
    ];
    let x = Tensor::<3>::random([1, 5, 32], Distribution::Normal(0.0, 1.0), &Device::flex());
    let gradients = layers.map(|layer| {
        let (layer, leaf) = (layer.train(), Tensor::from_inner(x.clone()).require_grad());
        let rotary = rotary_table(streaming.spec(), 5);
        let loss = layer.forward(leaf.clone(), &rotary).powi_scalar(2).sum();
        values(leaf.grad(&loss.backward()).expect("a gradient"))
    });
    assert_eq!(gradients[0], gradients[1]);
    assert_eq!(gradients[0], gradients[2]);
}

/// A tensor of a safetensors file.
struct Raw(Dtype, Vec<usize>, Vec<u8>);

impl View for &Raw {
    fn dtype(&self) -> Dtype {
        self.0
    }

    fn shape(&self) -> &[usize] {
        &self.1
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.2)
    }

    fn data_len(&self) -> usize {
        self.2.len()
    }
}

/// `mixtral` with output matrices that have no scale: those of layer 1's experts for which `broken` says so.
fn with_broken_experts(folder: &Path, broken: impl Fn(usize) -> bool) -> Checkpoint {
    std::fs::create_dir(folder).expect("writable");
    let source = golden("tiny").join("mixtral");
    std::fs::copy(source.join("config.json"), folder.join("config.json")).expect("copies");
    let bytes = std::fs::read(source.join("model.safetensors")).expect("is there");
    let file = SafeTensors::deserialize(&bytes).expect("a valid file");
    let mut tensors: Vec<(String, Raw)> = Vec::new();
    for (name, view) in file.tensors() {
        let expert = name
            .strip_prefix("model.layers.1.block_sparse_moe.experts.")
            .and_then(|rest| rest.strip_suffix(".w2.weight"));
        if expert.is_some_and(|expert| broken(expert.parse().expect("a number"))) {
            let ones = vec![0x38; view.shape().iter().product()];
            let scale = f32::NAN.to_le_bytes().to_vec();
            tensors.push((format!("{name}_scale_inv"), Raw(Dtype::F32, vec![1, 1], scale)));
            tensors.push((name, Raw(Dtype::F8_E4M3, view.shape().to_vec(), ones)));
        } else {
            tensors.push((name, Raw(view.dtype(), view.shape().to_vec(), view.data().to_vec())));
        }
    }
    let named = tensors.iter().map(|(name, raw)| (name, raw));
    safetensors::serialize_to_file(named, None, &folder.join("model.safetensors")).expect("writes");
    Checkpoint::open(folder).expect("opens")
}

#[test]
fn an_expert_that_cannot_be_read_is_an_error_when_a_token_needs_it_and_none_before() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (logits, chosen) = pass(&load("mixtral"), &PROMPT);
    let unused = with_broken_experts(&folder.path().join("unused"), |e| !chosen[1].contains(&e));
    assert!(Decoder::from_checkpoint(&unused, &Device::flex()).is_err());
    let streaming = StreamingDecoder::new(unused, Device::flex()).expect("whole");
    assert_eq!(pass(&streaming, &PROMPT).0, logits);

    let used = with_broken_experts(&folder.path().join("used"), |e| chosen[1].contains(&e));
    let streaming = StreamingDecoder::new(used, Device::flex()).expect("whole");
    let rotary = rotary_table(streaming.spec(), PROMPT.len());
    let stream = streaming.embed_ids(&PROMPT).expect("embeds");
    let forward = |index, stream| {
        streaming.layer(LayerIndex::new(index)).expect("is there").forward(stream, &rotary)
    };
    let stream = forward(1, forward(0, stream));
    assert!(values(stream).iter().any(|x| x.is_nan()));
    let error = streaming.head().expect_err("an expert was missing").to_string();
    assert!(error.contains("layers.1.block_sparse_moe.experts."), "{error}");
}
