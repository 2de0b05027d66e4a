//! The decoder against PyTorch: golden/tiny holds tiny random checkpoints of every family, number
//! format, RoPE variant and norm scheme, with what the reference computes on them.

use std::path::PathBuf;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use lns_checkpoint::{Checkpoint, Conversion, GgufOptions, StorageType, write_gguf};
use lns_kernels::{IGNORED, LossTerms};
use lns_model::{Decoder, LayerSource, Sampling, StreamingDecoder, tensor_id};
use lns_spec::{Family, ModelSpec, ModelTensor, Role, TensorId};
use safetensors::SafeTensors;
use serde_json::json;

fn tiny() -> PathBuf {
    lns_testing::golden::golden("tiny")
}

fn folders() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(tiny())
        .expect("the golden folder is in the repository")
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert!(names.len() >= 40, "golden/tiny is not whole: {names:?}");
    names
}

struct Expected(Vec<u8>);

impl Expected {
    fn of(folder: &str) -> Self {
        let path = tiny().join(folder).join("expected.safetensors");
        Self(std::fs::read(path).expect("expected values are in the repository"))
    }

    fn tensor(&self, name: &str) -> Option<(Vec<usize>, Vec<f32>)> {
        let file = SafeTensors::deserialize(&self.0).expect("a valid file");
        let view = file.tensor(name).ok()?;
        let values = view
            .data()
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes")))
            .collect();
        Some((view.shape().to_vec(), values))
    }

    /// The token to predict at each place: the one that follows, or what an encoder's file says.
    fn targets(&self) -> Vec<u32> {
        let ([_, length], ids) = self.ids();
        match self.tensor("targets") {
            Some((_, targets)) => {
                targets.into_iter().map(|id| if id < 0.0 { IGNORED } else { id as u32 }).collect()
            }
            None => ids
                .chunks(length)
                .flat_map(|row| row[1..].iter().map(|id| *id as u32).chain([IGNORED]))
                .collect(),
        }
    }

    fn ids(&self) -> ([usize; 2], Vec<i32>) {
        let (shape, values) = self.tensor("input_ids").expect("every file has its ids");
        ([shape[0], shape[1]], values.into_iter().map(|id| id as i32).collect())
    }
}

fn load(folder: &str) -> Decoder {
    let checkpoint = Checkpoint::open(&tiny().join(folder)).expect(folder);
    Decoder::from_checkpoint(&checkpoint, &Device::flex()).expect(folder)
}

fn tokens(expected: &Expected) -> Tensor<2, Int> {
    let (shape, ids) = expected.ids();
    Tensor::from_data(TensorData::new(ids, shape), &Device::flex())
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

/// Largest difference, relative to the largest expected value.
fn relative(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f32, |a, b| a.max(b.abs()));
    let difference = found.iter().zip(expected).fold(0f32, |a, (x, y)| a.max((x - y).abs()));
    assert!(!found.iter().any(|x| x.is_nan()), "NaN");
    difference / largest
}

#[test]
fn logits_equal_pytorchs_for_every_family_format_rope_variant_and_scheme() {
    for folder in folders() {
        let (expected, model) = (Expected::of(&folder), load(&folder));
        let Some((_, logits)) = expected.tensor("logits") else {
            assert!(!model.spec().has_head(), "{folder} lacks logits");
            continue;
        };
        let found = values(model.forward(tokens(&expected)));
        let worst = found.iter().zip(&logits).fold(0f32, |a, (x, y)| a.max((x - y).abs()));
        assert!(worst < 1e-4 && relative(&found, &logits) < 1e-4, "{folder}: {worst:e}");
    }
}

#[test]
fn every_stream_equals_pytorchs_the_last_one_before_the_final_norm() {
    let mut compared = 0;
    for folder in folders() {
        let expected = Expected::of(&folder);
        let streams = load(&folder).streams(tokens(&expected));
        for (index, stream) in streams.into_iter().enumerate() {
            let Some((_, reference)) = expected.tensor(&format!("stream.{index}")) else {
                continue;
            };
            let difference = relative(&values(stream), &reference);
            assert!(difference < 1e-4, "{folder}, stream {index}: {difference:e}");
            compared += 1;
        }
    }
    assert!(compared > 80, "only {compared} streams were compared");
}

#[test]
fn losses_equal_pytorchs() {
    for folder in Family::all().map(Family::model_type) {
        let expected = Expected::of(folder);
        let (_, reference) = expected.tensor("nll").expect("these have losses");
        let (model, targets) = (load(folder), expected.targets());
        let last = model.stream(tokens(&expected));
        let hidden = last.dims()[2];
        let losses = Decoder::head(&model).nll(last.reshape([targets.len(), hidden]), &targets);
        let counted = values(losses).into_iter().zip(targets);
        let found: Vec<f32> =
            counted.filter(|(_, target)| *target != IGNORED).map(|(loss, _)| loss).collect();
        let difference = relative(&found, &reference);
        assert!(difference < 1e-5, "{folder}: {difference:e}");
    }
}

#[test]
fn layers_read_from_disk_one_at_a_time_compute_the_same_bits() {
    for folder in [
        "llama-bf16-sharded",
        "qwen3",
        "scheme-peri",
        "gpt2",
        "gemma3",
        "qwen3_moe",
        "gpt_oss-mxfp4",
        "bert",
    ] {
        let checkpoint = Checkpoint::open(&tiny().join(folder)).expect(folder);
        let streaming = StreamingDecoder::new(checkpoint, Device::flex()).expect(folder);
        let model = load(folder);
        let ids = [3u32, 1, 4, 1, 5, 9, 2, 6];
        let rotary = layernorm_scaling::rotary_table(model.spec(), ids.len());
        let mut results = Vec::new();
        for source in [&model as &dyn LayerSource, &streaming] {
            let mut stream = source.embed_ids(&ids).expect(folder);
            for layer in source.spec().layers() {
                stream = source.layer(layer).expect(folder).forward(stream, &rotary);
            }
            let head = source.head().expect(folder);
            results.push(values(head.logits(stream)));
        }
        assert_eq!(results[0], results[1], "{folder}");
    }
}

#[test]
fn generation_with_a_cache_equals_recomputing_every_prefix() {
    let schemes =
        ["scheme-lns", "scheme-deepnorm", "scheme-keel", "scheme-gpas", "scheme-output-norm"];
    let decoders = Family::all().filter(|family| !family.is_encoder());
    for folder in decoders.map(Family::model_type).chain(schemes) {
        let model = load(folder);
        let prompt = vec![5u32, 17, 3];
        let generated: Vec<u32> = model.generate(&prompt, 12, Sampling::default()).collect();
        let mut ids = prompt;
        for expected in &generated {
            let tokens = lns_model::ids_tensor(&ids, &Device::flex());
            let logits = model.forward(tokens);
            let last = values(logits.narrow(1, ids.len() - 1, 1));
            let best =
                (0..last.len()).max_by(|a, b| last[*a].total_cmp(&last[*b])).expect("logits");
            assert_eq!(best as u32, *expected, "{folder} after {} tokens", ids.len());
            ids.push(*expected);
        }
        assert_eq!(generated.len(), 12);
        assert_eq!(model.generate(&ids, 0, Sampling::default()).count(), 0);
    }
}

/// Gradients of every parameter, by what it is.
struct Gradients<'a> {
    path: Vec<String>,
    found: &'a mut burn::tensor::Gradients,
    by_id: Vec<(TensorId, Vec<f32>)>,
}

impl ModuleVisitor for Gradients<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = self.path.join(".");
        let id = tensor_id(&path).expect("every parameter is a tensor of the model");
        // PyTorch's has none either.
        if id.role == Role::RouterCorrection {
            return;
        }
        // An expert that no token is sent to has none, and in PyTorch's stack zeros.
        let nothing = || vec![0.0; param.val().dims().iter().product()];
        let gradient = param.val().grad_remove(self.found).map_or_else(nothing, values);
        self.by_id.push((id, gradient));
    }
}

#[test]
fn gradients_equal_pytorchs_for_every_parameter_of_every_family() {
    let mut families = std::collections::BTreeSet::new();
    for folder in folders() {
        let expected = Expected::of(&folder);
        let file = SafeTensors::deserialize(&expected.0).expect("a valid file");
        if !file.names().iter().any(|name| name.starts_with("gradient.")) {
            continue;
        }
        let model = load(&folder).train();
        let (shape, ids) = expected.ids();
        let tokens = Tensor::from_data(TensorData::new(ids, shape), &model.device());
        let targets = expected.targets();
        let predicted = targets.iter().filter(|target| **target != IGNORED).count();
        let terms = LossTerms { weight: 1.0 / predicted as f64, z_loss: 0.0 };
        let (loss, _) = model.loss(tokens, &targets, terms);
        let mut found = loss.backward();
        let mut gradients = Gradients { path: Vec::new(), found: &mut found, by_id: Vec::new() };
        model.visit(&mut gradients);
        let mut parts = model.spec().tensors();
        parts.retain(|part| part.id.role != Role::RouterCorrection);
        let all = gradients.by_id.iter().flat_map(|(_, gradient)| gradient);
        let overall = all.fold(0f32, |a, b| a.max(b.abs()));
        assert_eq!(gradients.by_id.len(), parts.len(), "{folder}");
        for (id, gradient) in gradients.by_id {
            // The norm on a Post-LN sum stands where the site's usual norm does.
            let on_the_sum = match id.role {
                Role::InputNorm(site) => TensorId { role: Role::JoinNorm(site), ..id },
                _ => id,
            };
            let part = parts.iter().find(|part| [id, on_the_sum].contains(&part.id));
            let part = part.expect("the model has it");
            let name = format!("gradient.{}", part.name);
            let (_, stored) =
                expected.tensor(&name).unwrap_or_else(|| panic!("{folder} lacks {name}"));
            // What a gain is stored as has the gain's own gradient.
            let reference = ModelTensor { offset: 0.0, ..part.clone() }.taken_from(&stored);
            // The softmax makes nothing of a bias of all keys, so that its gradient is rounding alone.
            let largest = stored.iter().fold(1e-3 * overall, |a, b| a.max(b.abs()));
            let off = gradient.iter().zip(&reference).fold(0f32, |a, (x, y)| a.max((x - y).abs()));
            let off = off / largest;
            assert!(off < 1e-4, "{folder}, {name}: {off:e}");
        }
        families.insert(model.spec().family.model_type());
    }
    let own = ["llama", "mistral", "qwen2", "qwen3"];
    let without: Vec<&str> = Family::all()
        .map(Family::model_type)
        .filter(|family| !families.contains(family) && !own.contains(family))
        .collect();
    assert!(without.is_empty(), "no gradients are held against PyTorch's: {without:?}");
}

#[test]
fn greedy_decoding_with_a_cache_says_what_transformers_says() {
    let mut compared = 0;
    for folder in Family::all().map(Family::model_type) {
        let Some((_, generated)) = Expected::of(folder).tensor("generated") else { continue };
        let expected: Vec<u32> = generated.into_iter().map(|id| id as u32).collect();
        let (prompt, rest) = expected.split_at(3);
        let found: Vec<u32> =
            load(folder).generate(prompt, rest.len(), Sampling::default()).collect();
        assert_eq!(found, rest, "{folder}");
        compared += 1;
    }
    assert!(compared >= 11, "only {compared} families have generated ids");
}

#[test]
fn a_gguf_file_of_every_family_computes_what_its_folder_does() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut refused = Vec::new();
    for name in Family::all().map(Family::model_type).flat_map(|family| {
        let small = format!("{family}-small");
        [Some(family.to_owned()), Some(small).filter(|small| tiny().join(small).exists())]
    }) {
        let Some(name) = name else { continue };
        let source = Checkpoint::open(&tiny().join(&name)).expect("opens");
        let path = folder.path().join(format!("{name}.gguf"));
        let options = GgufOptions {
            name: "tiny",
            dtype: StorageType::F32,
            tokenizer: None,
            provenance: None,
        };
        let mut read = |tensor: &ModelTensor| source.read(tensor);
        let written = write_gguf(&path, source.spec(), &options, &mut read, &|_| {});
        if written.is_err() {
            refused.push(name);
            continue;
        }
        let file = Checkpoint::open(&path).expect("opens again");
        assert!(file.audit().is_clean(), "{name}: {}", file.audit());
        let ids = lns_model::ids_tensor(&[5, 17, 3, 9, 21, 30, 2, 8, 4, 11, 6, 1], &Device::flex());
        let of = |checkpoint: &Checkpoint| {
            let model = Decoder::from_checkpoint(checkpoint, &Device::flex()).expect("loads");
            values(model.forward(ids.clone()))
        };
        let off = relative(&of(&file), &of(&source));
        assert!(off < 1e-6, "{name}: {off:e}");
        // And back into a folder of the family.
        let back = folder.path().join(&name);
        std::fs::create_dir(&back).expect("writable");
        let conversion = Conversion::of(&file).expect("whole");
        conversion.write(&back, u64::MAX, &|_| {}).expect("writes");
        let back = Checkpoint::open(&back).expect("opens");
        for tensor in source.spec().stored_tensors() {
            let of = |checkpoint: &Checkpoint| checkpoint.read_stored(&tensor).expect("readable");
            let (found, wanted) = (of(&back), of(&source));
            assert!(relative(&found, &wanted) < 1e-6, "{name}: {}", tensor.name);
        }
    }
    // What the architecture has no word for: other windows, scales, biases, activations, rotary layers
    // than llama.cpp takes for granted.
    let unsaid = [
        "mistral",
        "qwen2",
        "phi3",
        "gemma2",
        "gemma2-small",
        "gemma3_text",
        "gemma3_text-small",
        "olmo2-small",
        "olmo3",
        "olmo3-small",
        "gpt2-small",
        "gpt_neox-small",
        "smollm3",
        "smollm3-small",
        "mixtral-small",
        "qwen3_moe",
        "qwen3_moe-small",
        "gpt_oss-small",
        "deepseek_v2",
        "deepseek_v2-small",
        "deepseek_v3-small",
        // Encoders are not written.
        "bert",
        "bert-small",
    ];
    assert_eq!(refused, unsaid);
}

#[test]
fn a_gguf_file_has_what_llama_cpp_takes_for_granted_of_each_family() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let sizes = json!({
        "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 8,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "sliding_window": 5,
        "max_position_embeddings": 64,
    });
    let yarn = json!({
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16,
    });
    for (family, more) in [
        ("gemma2", json!({"query_pre_attn_scalar": 8})),
        ("gemma3_text", json!({"query_pre_attn_scalar": 8, "final_logit_softcapping": 5.0})),
        (
            "gemma3_text",
            json!({
                "query_pre_attn_scalar": 8, "rope_scaling": {"rope_type": "linear", "factor": 8.0},
                "rope_local_base_freq": 2e4,
            }),
        ),
        ("olmo3", json!({"rope_scaling": yarn})),
        ("smollm3", json!({"tie_word_embeddings": false})),
        (
            "phi3",
            json!({
                "partial_rotary_factor": 0.75, "tie_word_embeddings": true, "sliding_window": null,
                "original_max_position_embeddings": 8,
                "rope_scaling": {
                    "type": "longrope", "short_factor": [1.0, 1.5, 2.0], "long_factor": [2.0, 4.0, 6.5],
                },
            }),
        ),
        ("glm4", json!({"attention_bias": false})),
        ("granite", json!({"attention_multiplier": 0.3, "logits_scaling": 8.0})),
        ("mixtral", json!({"num_experts_per_tok": 3, "sliding_window": null})),
        // Queries have no latent in models of so many layers.
        (
            "deepseek_v2",
            json!({
                "num_hidden_layers": 26, "head_dim": null, "num_key_value_heads": 2, "q_lora_rank": null,
                "kv_lora_rank": 6, "qk_nope_head_dim": 4, "qk_rope_head_dim": 2, "v_head_dim": 5,
                "first_k_dense_replace": 24, "n_routed_experts": 4, "num_experts_per_tok": 2,
                "moe_intermediate_size": 8, "n_shared_experts": 1,
            }),
        ),
        (
            "qwen3_moe",
            json!({
                "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 12,
                "norm_topk_prob": true,
            }),
        ),
    ] {
        let mut config = sizes.clone();
        let keys = config.as_object_mut().expect("an object");
        keys.insert("model_type".to_owned(), json!(family));
        keys.extend(more.as_object().expect("an object").clone());
        let spec = ModelSpec::from_config(&config).expect(family);
        let model =
            Decoder::initialised(&spec, lns_spec::Initialisation::Normal, 0.5, 3, &Device::flex());
        let (path, own) = (folder.path().join("model.gguf"), model.tensors());
        let options = GgufOptions {
            name: "tiny",
            dtype: StorageType::F32,
            tokenizer: None,
            provenance: None,
        };
        let mut read = |wanted: &ModelTensor| {
            let found = own.iter().find(|tensor| tensor.name == wanted.name);
            Ok(wanted.taken_from(&found.expect("the model has it").values))
        };
        write_gguf(&path, &spec, &options, &mut read, &|_| {}).expect(family);
        let file = Checkpoint::open(&path).expect(family);
        assert_eq!(file.spec().family, spec.family);
        let ids: Vec<u32> = (0..24).map(|i| (i * 7 + 3) % 32).collect();
        let ids = lns_model::ids_tensor(&ids, &Device::flex());
        let again = Decoder::from_checkpoint(&file, &Device::flex()).expect(family);
        let off = relative(&values(again.forward(ids.clone())), &values(model.forward(ids)));
        assert!(off < 1e-6, "{family}: {off:e}");
    }
}

#[test]
fn tensors_of_other_heads_are_left_out_and_older_names_are_read() {
    for (folder, left_out) in [("bert-older", 4), ("bert-headless", 2), ("bert", 0)] {
        let checkpoint = Checkpoint::open(&tiny().join(folder)).expect(folder);
        assert!(checkpoint.audit().is_clean(), "{folder}: {}", checkpoint.audit());
        assert_eq!(checkpoint.left_out().len(), left_out, "{folder}: {:?}", checkpoint.left_out());
    }
}

#[test]
fn a_model_without_a_head_gives_hidden_states_and_no_head() {
    let model = load("bert-headless");
    let error = LayerSource::head(&model).expect_err("there is none").to_string();
    assert!(error.contains("no head"), "{error}");
    assert_eq!(model.spec().prediction, lns_spec::Prediction::Nothing);
}

#[test]
fn what_an_encoder_reads_later_changes_what_it_makes_of_earlier_tokens() {
    let ids = |last| lns_model::ids_tensor(&[5, 17, 3, last], &Device::flex());
    for (folder, both_ways) in [("bert", true), ("llama", false)] {
        let model = load(folder);
        let first = |last| values(model.stream(ids(last)).narrow(1, 0, 1));
        assert_eq!(first(9) != first(21), both_ways, "{folder}");
    }
}

#[test]
#[ignore = "needs golden/minilm, which golden/minilm.py makes of a download"]
fn the_hidden_states_of_minilm_are_those_of_transformers() {
    let folder = lns_testing::golden::golden("minilm");
    let checkpoint = Checkpoint::open(&folder).expect("golden/minilm.py made it");
    let model = Decoder::from_checkpoint(&checkpoint, &Device::flex()).expect("loads");
    let expected =
        Expected(std::fs::read(folder.join("expected.safetensors")).expect("golden/minilm.py"));
    let (mut worst, mut sentences) = (0f32, 0);
    while let Some((shape, ids)) = expected.tensor(&format!("input_ids.{sentences}")) {
        let ids: Vec<i32> = ids.into_iter().map(|id| id as i32).collect();
        let tokens = Tensor::from_data(TensorData::new(ids, [1, shape[1]]), &Device::flex());
        for (index, stream) in model.streams(tokens).into_iter().enumerate() {
            let name = format!("stream.{sentences}.{index}");
            let (_, reference) = expected.tensor(&name).expect("every stream");
            let off =
                values(stream).iter().zip(&reference).fold(0f32, |a, (x, y)| a.max((x - y).abs()));
            println!("{name}: {off:e}");
            worst = worst.max(off);
        }
        sentences += 1;
    }
    println!("worst of {sentences} sentences: {worst:e}");
    assert!(sentences >= 5 && worst < 1e-4, "{worst:e}");
}
