//! Surgery in memory: scales brought in, layers and branches left out, adapters beside frozen matrices.

use std::collections::HashMap;

use layernorm_scaling::rotary_table;
use lns_checkpoint::{Checkpoint, Conversion, NamedTensor};
use lns_kernels::Device;
use lns_model::{
    Decoder, LayerSource, LoraConfig, LoraError, Pruned, Retrofit, apply_curse_of_depth_mitigation,
    ids_tensor, visit_parameters,
};
use lns_spec::{
    ConversionError, DepthScale, Family, Gains, LayerIndex, ModelSpec, NormScheme, Preset, Removal,
    Site,
};
use lns_testing::golden::{golden, tiny_checkpoint};
use lns_testing::models::TINY;

fn spec(scheme: NormScheme) -> ModelSpec {
    let preset =
        Preset { num_hidden_layers: 5, vocab_size: 31, max_position_embeddings: 16, ..TINY };
    preset.spec(scheme)
}

fn model(scheme: NormScheme) -> Decoder {
    // Large enough that every branch matters.
    let device = Device::flex();
    Decoder::initialised(&spec(scheme), lns_spec::Initialisation::Normal, 0.5, 7, &device)
}

const IDS: [u32; 6] = [3, 1, 4, 1, 5, 9];

fn logits(model: &dyn LayerSource) -> Vec<f32> {
    let rotary = rotary_table(model.spec(), IDS.len());
    let stream = model.spec().layers().fold(model.embed_ids(&IDS).expect("embeds"), |x, layer| {
        model.layer(layer).expect("is there").forward(x, &rotary)
    });
    model.head().expect("is there").logits(stream).into_data().iter().collect()
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    let largest = a.iter().fold(f32::MIN_POSITIVE, |most, x| most.max(x.abs()));
    a.iter().zip(b).fold(0f32, |most, (a, b)| most.max((a - b).abs())) / largest
}

#[test]
fn an_annealed_model_begins_as_it_was_and_ends_as_a_replaced_one() {
    let plain = model(NormScheme::pre());
    let with = |mode| {
        apply_curse_of_depth_mitigation(plain.clone(), mode, DepthScale::default()).expect("fits")
    };
    let anneal = with(Retrofit::Anneal { steps: 4 });
    assert_eq!(logits(&anneal), logits(&plain));
    let replaced = logits(&with(Retrofit::Replace));
    assert!(difference(&replaced, &logits(&plain)) > 1e-3);
    let (half, end) = (anneal.clone().at_step(2), anneal.at_step(4));
    assert_ne!(logits(&half), replaced);
    assert_eq!(
        half.spec().norm_scheme.to_string(),
        "lns, exponent 0.25, to be annealed to 0.5 in 4 steps"
    );
    assert_eq!(logits(&end), replaced);
    assert_eq!(end.spec().norm_scheme, NormScheme::lns());
    assert_eq!(logits(&end.clone().at_step(9)), replaced, "and stays so");
    // A snapshot on the way goes on from where it is.
    assert_eq!(logits(&half.at_step(4)), replaced);
}

#[test]
fn the_mode_that_preserves_folds_back_to_the_gains_there_were() {
    let plain = model(NormScheme::pre());
    let scale = DepthScale { exponent: 1.0, first_layer: 2, ..DepthScale::default() };
    let scaled = plain.clone().with_layernorm_scaling(scale).expect("fits");
    assert!(difference(&logits(&scaled), &logits(&plain)) < 1e-5);
    let gain = |model: &Decoder, layer: usize| {
        let norm = model.layers[layer].input_layernorm.as_ref().expect("whole");
        norm.gamma.val().into_data().iter::<f32>().next().expect("has elements")
    };
    assert_eq!([gain(&scaled, 1), gain(&scaled, 2), gain(&scaled, 4)], [1.0, 3.0, 5.0]);
    let folded = scaled.fold().expect("folds");
    assert!(difference(&logits(&folded), &logits(&plain)) < 1e-5);
    assert_eq!(folded.spec(), plain.spec());
}

#[test]
fn a_pruned_view_is_the_model_that_never_had_what_was_removed() {
    let whole = model(NormScheme::lns());
    let layer = |index| LayerIndex::new(index);
    let removals = [
        Removal { layer: layer(1), branch: None },
        Removal { layer: layer(3), branch: Some(Site::Attention) },
        Removal { layer: layer(4), branch: Some(Site::Mlp) },
    ];
    let pruned = Pruned::new(&whole, &removals).expect("prunes");
    assert_eq!(pruned.spec().num_hidden_layers, 4);
    assert_eq!(pruned.original(layer(1)), layer(2));
    // By hand: only what is left is added, each layer with the scale of its own depth.
    let rotary = rotary_table(whole.spec(), IDS.len());
    let mut stream = whole.embed(ids_tensor(&IDS, &Device::flex()));
    for (index, layer) in whole.layers.iter().enumerate() {
        if index != 1 && index != 3 {
            stream = stream.clone() + layer.branch(Site::Attention, stream, &rotary);
        }
        if index != 1 && index != 4 {
            stream = stream.clone() + layer.branch(Site::Mlp, stream, &rotary);
        }
    }
    let expected: Vec<f32> = Decoder::head(&whole).logits(stream).into_data().iter().collect();
    assert!(difference(&expected, &logits(&pruned)) < 1e-6);
    // Nothing removed is nothing changed.
    assert_eq!(logits(&Pruned::new(&whole, &[]).expect("a view")), logits(&whole));
    assert!(Pruned::new(&whole, &[Removal { layer: layer(5), branch: None }]).is_err());
}

#[test]
fn generation_counts_tokens_though_the_first_layer_has_no_attention() {
    let mut model = model(NormScheme::pre());
    let first = &mut model.layers[0];
    (first.input_layernorm, first.self_attn) = (None, None);
    let greedy = lns_model::Sampling::default();
    let tokens: Vec<u32> = model.generate(&IDS, 4, greedy).collect();
    // As one pass over all tokens would have it.
    let mut ids = IDS.to_vec();
    for token in tokens {
        let logits = model.forward(ids_tensor(&ids, &Device::flex()));
        let vocabulary = model.spec().vocab_size;
        let all: Vec<f32> = logits.into_data().iter().collect();
        let last = &all[all.len() - vocabulary..];
        let best = (0..vocabulary).max_by(|a, b| last[*a].total_cmp(&last[*b])).expect("some");
        assert_eq!(best as u32, token);
        ids.push(token);
    }
}

#[test]
fn adapters_begin_as_nothing_and_merge_into_what_they_compute() {
    let plain = model(NormScheme::lns());
    let config = LoraConfig { rank: 3, alpha: 6.0, ..LoraConfig::default() };
    let adapted = plain.clone().with_lora(&config, 1).expect("fits");
    assert_eq!(logits(&adapted), logits(&plain));
    let adapters = adapted.adapters();
    assert_eq!(adapters.len(), 5 * 7 * 2);
    let a = &adapters.iter().find(|t| t.name.ends_with("layers.0.mlp.down_proj.lora_A.weight"));
    assert_eq!(a.expect("is there").shape, [3, 24]);

    // Other factors than zeros: W + alpha/rank · B·A, also once merged and in what is written.
    let mut saved = |name: &str, shape: &[usize]| {
        let count = shape.iter().product::<usize>();
        let at = name.len() as f32;
        Some((0..count).map(|i| 0.1 * ((i as f32 + at) * 0.7).sin()).collect::<Vec<f32>>())
    };
    let moved = plain.clone().with_saved_lora(&config, &mut saved).expect("fits");
    assert!(difference(&logits(&moved), &logits(&plain)) > 1e-2);
    assert!(difference(&logits(&moved), &logits(&moved.merged())) < 1e-6);
    let name = "model.layers.2.mlp.up_proj.weight";
    let of = |model: &Decoder| {
        model.tensors().into_iter().find(|t| t.name == name).expect("is there").values.into_owned()
    };
    let factor = |which: &str| {
        let path = format!("base_model.model.model.layers.2.mlp.up_proj.lora_{which}.weight");
        moved.adapters().into_iter().find(|t| t.name == path).expect("is there").values.into_owned()
    };
    let (w, merged, a, b) = (of(&plain), of(&moved), factor("A"), factor("B"));
    for (row, column) in [(0, 0), (5, 9), (23, 15)] {
        let product: f32 = (0..3).map(|r| b[row * 3 + r] * a[r * 16 + column]).sum();
        let expected = w[row * 16 + column] + 2.0 * product;
        assert!((merged[row * 16 + column] - expected).abs() < 1e-6);
    }
    assert_eq!(moved.tensors().len(), plain.tensors().len(), "adapters are no tensors of a model");
}

#[test]
fn a_seed_makes_the_same_adapters_and_another_seed_others() {
    let config = LoraConfig { rank: 2, ..LoraConfig::default() };
    let of = |seed| {
        let adapted = model(NormScheme::pre()).with_lora(&config, seed).expect("fits");
        let mut all = Vec::new();
        for tensor in adapted.adapters() {
            all.extend(tensor.values.into_owned());
        }
        all
    };
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
}

/// The tensors of an adapter file with numbers of some size in them, by name: shape and values.
type AdapterFile = HashMap<String, (Vec<usize>, Vec<f32>)>;

/// What a file of adapters of a model may hold. B is zero where a part of a module has no adapter of its own.
fn drawn(plain: &Decoder, config: &LoraConfig) -> AdapterFile {
    let ones = |_: &str, shape: &[usize]| Some(vec![1.0; shape.iter().product()]);
    let shown = plain.clone().with_saved_lora(config, ones).expect("fits").adapters();
    let mut number = 0.0_f32;
    let mut draw = |one: &f32| {
        number += 0.7;
        one * 0.1 * number.sin()
    };
    let draw = |tensor: NamedTensor<'_>| {
        let values = tensor.values.iter().map(&mut draw).collect();
        (tensor.name, (tensor.shape, values))
    };
    shown.into_iter().map(draw).collect()
}

/// As PEFT adds them: W + alpha/rank · B·A, or its transpose.
fn assert_added_as_peft_does(
    plain: &Decoder,
    moved: &Decoder,
    file: &AdapterFile,
    config: &LoraConfig,
) {
    let told = config.peft_modules(plain.spec());
    let before: HashMap<_, _> =
        plain.tensors().into_iter().map(|tensor| (tensor.name, tensor.values)).collect();
    let mut adapted = 0;
    for after in moved.tensors() {
        let module = after.name.strip_suffix(".weight").unwrap_or(&after.name);
        let of = |side| file.get(&format!("base_model.model.{module}.lora_{side}.weight"));
        let before = &before[&after.name];
        let (Some((_, a)), Some((shape, b))) = (of("A"), of("B")) else {
            assert_eq!(before, &after.values, "{}", after.name);
            continue;
        };
        adapted += 1;
        let (rows, rank, columns) = (shape[0], shape[1], a.len() / shape[1]);
        let ends = |end: &&String| module.ends_with(&format!(".{end}"));
        let target = told.target_modules.iter().find(ends).expect("a target");
        let alpha = told.alpha_pattern.get(target).copied().unwrap_or(config.alpha) as f32;
        assert_eq!(told.rank_pattern.get(target).copied().unwrap_or(config.rank), rank);
        for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |c| (row, c))) {
            let product: f32 = (0..rank).map(|r| b[row * rank + r] * a[r * columns + column]).sum();
            let at = if told.fan_in_fan_out { column * rows + row } else { row * columns + column };
            let expected = before[at] + alpha / rank as f32 * product;
            assert!((after.values[at] - expected).abs() < 1e-5, "{module} at {at}");
        }
    }
    assert_eq!(2 * adapted, file.len());
}

#[test]
fn adapters_in_files_are_beside_the_modules_that_the_family_stores() {
    let all = LoraConfig { rank: 2, alpha: 6.0, ..LoraConfig::default() };
    let some =
        LoraConfig { targets: vec!["v_proj".to_owned(), "o_proj".to_owned()], ..all.clone() };
    for (family, of_all, of_some, fused) in [
        ("gpt2", "c_attn c_fc c_proj", "attn.c_proj c_attn", "c_attn"),
        (
            "gpt_neox",
            "dense dense_4h_to_h dense_h_to_4h query_key_value",
            "dense query_key_value",
            "query_key_value",
        ),
        (
            "phi3",
            "down_proj gate_up_proj o_proj qkv_proj",
            "o_proj qkv_proj",
            "gate_up_proj qkv_proj",
        ),
        (
            "glm4",
            "down_proj gate_up_proj k_proj o_proj q_proj v_proj",
            "o_proj v_proj",
            "gate_up_proj",
        ),
        ("qwen3", "down_proj gate_proj k_proj o_proj q_proj up_proj v_proj", "o_proj v_proj", ""),
    ] {
        let plain =
            Decoder::from_checkpoint(&tiny_checkpoint(family), &Device::flex()).expect("loads");
        for (config, targets, fused) in [(&all, of_all, fused), (&some, of_some, "")] {
            let mut told = config.peft_modules(plain.spec());
            told.target_modules.sort_unstable();
            assert_eq!(told.target_modules.join(" "), targets, "{family}");
            let other_ranks: Vec<&str> = told.rank_pattern.keys().map(String::as_str).collect();
            assert_eq!(other_ranks.join(" "), fused, "{family}");
            assert_eq!(told.fan_in_fan_out, family == "gpt2");
            let file = drawn(&plain, config);
            let saved = |name: &str, shape: &[usize]| {
                file.get(name).filter(|(own, _)| own == shape).map(|(_, values)| values.clone())
            };
            let moved = plain.clone().with_saved_lora(config, saved).expect("fits");
            for tensor in moved.adapters() {
                assert_eq!(tensor.values, file[&tensor.name].1, "{family}: {}", tensor.name);
            }
            assert_added_as_peft_does(&plain, &moved, &file, config);
        }
    }
}

#[test]
fn only_targets_have_adapters() {
    let targets = vec!["q_proj".to_owned(), "down_proj".to_owned()];
    let config = LoraConfig { rank: 2, alpha: 4.0, targets };
    let adapted = model(NormScheme::pre()).with_lora(&config, 1).expect("fits");
    let mut paths = Vec::new();
    visit_parameters(&adapted, &mut |parameter| paths.push(parameter.path.to_owned()));
    let adapters: Vec<_> = paths.iter().filter(|path| path.contains(".lora.")).collect();
    assert_eq!(adapters.len(), 5 * 2 * 2);
    assert!(adapters.iter().all(|path| path.contains("q_proj") || path.contains("down_proj")));
}

#[test]
fn adapters_that_fit_no_matrix_are_refused() {
    let with = |config: LoraConfig| {
        model(NormScheme::pre()).with_lora(&config, 1).expect_err("does not fit")
    };
    let default = LoraConfig::default;
    for rank in [0, 17] {
        let error = with(LoraConfig { rank, ..default() });
        assert!(matches!(error, LoraError::Rank { rows: 16, columns: 16, .. }), "{error}");
        assert!(error.to_string().contains("model.layers.0.self_attn.q_proj.weight"), "{error}");
    }
    for alpha in [0.0, f64::NAN] {
        let error = with(LoraConfig { rank: 2, alpha, ..default() });
        assert!(matches!(error, LoraError::Alpha { .. }), "{error}");
    }
    let targets = vec!["lm_head".to_owned()];
    let error = with(LoraConfig { rank: 2, targets, ..default() });
    assert!(matches!(error, LoraError::Target { .. }), "{error}");
    let error = with(LoraConfig { rank: 2, targets: Vec::new(), ..default() });
    assert_eq!(error, LoraError::NoTarget);
    let config = LoraConfig { rank: 2, ..default() };
    let lost = model(NormScheme::pre()).with_saved_lora(&config, |_: &str, _: &[usize]| None);
    assert!(matches!(lost, Err(LoraError::Adapter { .. })));
}

/// Logits of a checkpoint that a conversion wrote.
fn written(conversion: &Conversion<'_>) -> Vec<f32> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    conversion.write(folder.path(), u64::MAX, &|_| {}).expect("writes");
    let checkpoint = Checkpoint::open(folder.path()).expect("opens");
    logits(&Decoder::from_checkpoint(&checkpoint, &Device::flex()).expect("loads"))
}

fn of_file(checkpoint: &Checkpoint) -> Vec<f32> {
    logits(&Decoder::from_checkpoint(checkpoint, &Device::flex()).expect("loads"))
}

#[test]
fn files_that_are_converted_compute_the_same_in_every_family_and_type() {
    for family in Family::all().map(Family::model_type) {
        for (suffix, noise) in [("", 1e-5), ("-f16", 0.0), ("-bf16-sharded", 0.0)] {
            let name = format!("{family}{suffix}");
            if !golden("tiny").join(&name).exists() {
                assert_eq!(suffix, "-f16", "{name}");
                continue;
            }
            let source = tiny_checkpoint(&name);
            let plain = Conversion::of(&source).expect("whole");
            let scaled =
                match plain.with_layernorm_scaling(DepthScale::default(), Gains::Compensated) {
                    // OLMo has no norm that could be scaled.
                    Err(ConversionError::NoInputNorm { .. }) => {
                        assert!(family.starts_with("olmo"), "{family}");
                        continue;
                    }
                    // A BERT's norms stand on the stream itself.
                    Err(ConversionError::NotPreNorm { .. }) => {
                        assert_eq!(family, "bert");
                        let copied = Conversion::of(&source).expect("whole");
                        assert_eq!(written(&copied), of_file(&source));
                        continue;
                    }
                    scaled => scaled.expect("takes the scale"),
                };
            let rounding = scaled.rounding().expect("reads");
            // What the program prints: the errors of the gains, independent, and the sums' own.
            let bound = ((rounding.tensors as f64).sqrt() * rounding.bound) as f32 + 1e-5;
            let bound = if suffix.is_empty() { noise } else { bound };
            let off = difference(&written(&scaled), &of_file(&source));
            assert!(off < bound, "{family}{suffix}: {off:e} of {bound:e}");
        }
    }
    for scheme in ["scheme-lns", "scheme-lns-quarter", "scheme-lns-mlp", "scheme-lns-pruned"] {
        let source = tiny_checkpoint(scheme);
        let folded = Conversion::of(&source).expect("whole").folded().expect("folds");
        let off = difference(&written(&folded), &of_file(&source));
        assert!(off < 1e-5, "{scheme}: {off:e}");
    }
}

#[test]
fn a_pruned_file_computes_what_the_view_does_and_so_do_the_zeros_for_other_programs() {
    for name in [
        "llama",
        "qwen3",
        "scheme-lns",
        "scheme-sandwich",
        "scheme-layerscale",
        "gemma3_text",
        "olmo2",
        "gpt2",
        "gpt2-small",
        "gpt_neox",
        "smollm3",
        "granite",
        "mixtral",
        "qwen3_moe",
        "scheme-post",
        "bert",
    ] {
        let source = tiny_checkpoint(name);
        let model = Decoder::from_checkpoint(&source, &Device::flex()).expect("loads");
        let removals = [
            Removal { layer: LayerIndex::new(0), branch: None },
            Removal { layer: LayerIndex::new(1), branch: Some(Site::Mlp) },
        ];
        let view = logits(&Pruned::new(&model, &removals).expect("prunes"));
        let pruned = Conversion::of(&source).expect("whole").without(&removals).expect("prunes");
        assert_eq!(written(&pruned), view, "{name}");
        if let Ok(stock) = pruned.for_stock_runtimes() {
            let off = difference(&written(&stock), &view);
            assert!(off < 1e-5, "{name}: {off:e}");
        }
    }
}
