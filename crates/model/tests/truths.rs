//! Truths of LayerNorm Scaling that need no training.

use burn::tensor::{Device, Distribution, Int, Tensor};
use lns_model::{ConversionError, Decoder};
use lns_spec::{Block, DepthScale, Family, ModelSpec, NormScheme, Placement, Preset, Site, Sites};
use lns_testing::golden::tiny_checkpoint;
use lns_testing::models::TINY;

fn spec(scheme: NormScheme) -> ModelSpec {
    let preset = Preset {
        hidden_size: 32,
        intermediate_size: 48,
        num_attention_heads: 4,
        num_hidden_layers: 6,
        vocab_size: 64,
        ..TINY
    };
    preset.spec(scheme)
}

fn tokens() -> Tensor<2, Int> {
    let ids: Vec<i32> = (0..32).map(|i| (i * 7 + 3) % 64).collect();
    Tensor::from_data(burn::tensor::TensorData::new(ids, [2, 16]), &Device::flex())
}

fn logits(model: &Decoder) -> Vec<f32> {
    model.forward(tokens()).into_data().iter::<f32>().collect()
}

fn relative(a: &[f32], b: &[f32]) -> f32 {
    let largest = b.iter().fold(0f32, |m, x| m.max(x.abs()));
    a.iter().zip(b).fold(0f32, |m, (x, y)| m.max((x - y).abs())) / largest
}

fn golden(folder: &str) -> Decoder {
    Decoder::from_checkpoint(&tiny_checkpoint(folder), &Device::flex()).expect(folder)
}

#[test]
fn folding_the_scale_into_the_gain_gives_a_pre_ln_model_of_the_same_function() {
    // Trained-like weights: large, with gains away from 1.
    for folder in ["scheme-lns", "scheme-lns-quarter", "scheme-lns-mlp", "scheme-lns-pruned"] {
        let model = golden(folder);
        let before = logits_of(&model);
        let folded = model.fold().expect(folder);
        assert_eq!(folded.spec().norm_scheme, NormScheme::pre());
        let difference = relative(&logits_of(&folded), &before);
        assert!(difference < 1e-5, "{folder}: {difference:e}");
    }
}

fn logits_of(model: &Decoder) -> Vec<f32> {
    let ids: Vec<u32> = (0..16).map(|i| (i * 5 + 1) % model.spec().vocab_size as u32).collect();
    let tokens = lns_model::ids_tensor(&ids, &Device::flex());
    model.forward(tokens).into_data().iter::<f32>().collect()
}

#[test]
fn taking_on_the_scale_with_larger_gains_keeps_the_function_of_every_family() {
    for folder in Family::all().map(Family::model_type) {
        let model = golden(folder);
        let (before, own) = (logits_of(&model), model.spec().norm_scheme.clone());
        let blocks = match own {
            NormScheme::Pre(_) => vec![Block::Pre],
            NormScheme::Sandwich(_) => vec![Block::Sandwich, Block::SandwichInput],
            _ => {
                let refused = model.with_layernorm_scaling(DepthScale::default());
                let reason = matches!(
                    refused,
                    Err(ConversionError::NoInputNorm { .. } | ConversionError::NotPreNorm { .. })
                );
                assert!(reason, "{folder}");
                continue;
            }
        };
        for block in blocks {
            let scale = DepthScale { block, ..DepthScale::default() };
            let scaled = model.clone().with_layernorm_scaling(scale).expect(folder);
            assert_eq!(scaled.spec().norm_scheme, NormScheme::Lns(scale));
            let norm = scaled.layers[2].input_layernorm.as_ref().expect("whole");
            let on_input = if block == Block::Sandwich { 1.0 } else { 1.0 / 3f64.sqrt() };
            assert_eq!(norm.scale(), on_input, "{folder}");
            let difference = relative(&logits_of(&scaled), &before);
            assert!(difference < 1e-5, "{folder}: {difference:e}");
            let folded = scaled.fold().expect(folder);
            assert_eq!(folded.spec().norm_scheme, own);
            let difference = relative(&logits_of(&folded), &before);
            assert!(difference < 1e-5, "{folder} folded: {difference:e}");
        }
    }
}

#[test]
fn conversions_refuse_schemes_they_would_break() {
    let lns = Decoder::new(&spec(NormScheme::lns()), 1, &Device::flex());
    let refused = lns.clone().with_layernorm_scaling(DepthScale::default());
    assert!(matches!(refused, Err(ConversionError::AlreadyScaled { .. })));
    let post =
        Decoder::new(&spec(NormScheme::Post(lns_spec::schemes::Post {})), 1, &Device::flex());
    let refused = post.with_layernorm_scaling(DepthScale::default());
    assert!(matches!(refused, Err(ConversionError::NotPreNorm { .. })));
    let pre = Decoder::new(&spec(NormScheme::pre()), 1, &Device::flex());
    assert!(matches!(pre.fold(), Err(ConversionError::NotScaled { .. })));
}

#[test]
fn the_scale_changes_the_function_and_the_branch_scale_is_another_function() {
    let of = |scheme| logits(&Decoder::new(&spec(scheme), 1, &Device::flex()));
    let (pre, lns) = (of(NormScheme::pre()), of(NormScheme::lns()));
    let branch = of("branch-scale".parse().expect("a scheme"));
    assert!(relative(&lns, &pre) > 1e-3);
    assert!(relative(&branch, &lns) > 1e-3, "LNS is not a scale on the branch's output");
}

#[test]
fn scaling_before_the_norm_changes_nothing() {
    let scale = DepthScale { placement: Placement::Input, ..DepthScale::default() };
    // A wide embedding, so that epsilon is negligible beside the stream's mean square.
    let of = |scheme| {
        let spec = spec(scheme);
        let initialisation = lns_spec::Initialisation::Normal;
        let std = lns_spec::Initialisation::LARGE_EMBEDDING_STD;
        logits(&Decoder::initialised(&spec, initialisation, std, 1, &Device::flex()))
    };
    let (pre, before) = (of(NormScheme::pre()), of(NormScheme::Lns(scale)));
    assert!(relative(&before, &pre) < 1e-5, "{:e}", relative(&before, &pre));
}

#[test]
fn layer_zero_and_the_final_norm_are_not_scaled() {
    let model = Decoder::new(&spec(NormScheme::lns()), 1, &Device::flex());
    for layer in 0..6 {
        let expected = 1.0 / ((layer + 1) as f64).sqrt();
        assert_eq!(model.layers[layer].input_layernorm.as_ref().expect("whole").scale(), expected);
        assert_eq!(
            model.layers[layer].post_attention_layernorm.as_ref().expect("whole").scale(),
            expected
        );
    }
    assert_eq!(
        model.layers[0].input_layernorm.as_ref().expect("whole").scale().to_bits(),
        1f64.to_bits()
    );
    let norm = model.norm.as_ref().expect("a decoder has one");
    assert_eq!(norm.scale().to_bits(), 1f64.to_bits());
    let first = model.streams(tokens())[1].clone().into_data();
    let plain = Decoder::new(&spec(NormScheme::pre()), 1, &Device::flex());
    let first_plain = plain.streams(tokens())[1].clone().into_data();
    assert_eq!(first, first_plain, "layer 0 of LNS is layer 0 of Pre-LN, bit for bit");
}

#[test]
fn learned_branch_scales_start_where_their_scheme_says() {
    let device = Device::flex();
    for (scheme, width, init) in [
        (NormScheme::LayerScale(lns_spec::schemes::LayerScale { init: 1e-4 }), 32, 1e-4),
        (NormScheme::SkipInit(lns_spec::schemes::SkipInit {}), 1, 1.0 / 6f64.sqrt()),
    ] {
        let model = Decoder::new(&spec(scheme), 1, &device);
        for end in [&model.layers[2].attention_output, &model.layers[5].mlp_output] {
            let scale = end.scale.as_ref().expect("a learned scale").val().into_data();
            assert_eq!(scale.iter::<f32>().collect::<Vec<_>>(), vec![init as f32; width]);
        }
    }
}

#[test]
fn initial_weights_depend_on_seed_and_name_not_on_the_scheme() {
    let device = Device::flex();
    let weight = |scheme, seed| {
        let model = Decoder::new(&spec(scheme), seed, &device);
        model.layers[3].mlp.as_ref().expect("whole").up_proj.weight.val().into_data()
    };
    assert_eq!(weight(NormScheme::pre(), 5), weight(NormScheme::lns(), 5));
    assert_eq!(
        weight(NormScheme::pre(), 5),
        weight(NormScheme::Sandwich(lns_spec::schemes::Sandwich {}), 5)
    );
    assert_ne!(weight(NormScheme::pre(), 5), weight(NormScheme::pre(), 6));
}

#[test]
fn the_scale_reaches_attention_once_and_a_gated_mlp_twice() {
    // Values carry 1/√ℓ, so the attention branch's variance falls as 1/ℓ; silu(gate)·up is of degree
    // two in a small input, so the MLP branch's falls as 1/ℓ². The same stream enters every layer.
    let device = Device::flex();
    let preset = Preset {
        hidden_size: 128,
        intermediate_size: 352,
        num_hidden_layers: 24,
        ..Preset::named("9m").expect("a preset")
    };
    let model = Decoder::new(&preset.spec(NormScheme::lns()), 3, &device);
    let stream = Tensor::<3>::random([1, 24, 128], Distribution::Normal(0.0, 1.0), &device);
    let rotary = layernorm_scaling::rotary_table(model.spec(), 24);
    for (site, expected) in [(Site::Attention, -1.0), (Site::Mlp, -2.0)] {
        let points: Vec<(f64, f64)> = (1..=24)
            .map(|depth| {
                let branch = model.layers[depth - 1].branch(site, stream.clone(), &rotary);
                let square = branch.square().mean().into_data().iter::<f64>().next();
                ((depth as f64).ln(), square.expect("one number").ln())
            })
            .collect();
        let mean = |f: fn(&(f64, f64)) -> f64| points.iter().map(f).sum::<f64>() / 24.0;
        let (x, y) = (mean(|p| p.0), mean(|p| p.1));
        let slope = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>()
            / points.iter().map(|p| (p.0 - x).powi(2)).sum::<f64>();
        assert!((slope - expected).abs() < 0.08, "{site:?}: exponent {slope}");
    }
}

#[test]
fn sites_of_the_scale_reach_the_norms_they_name() {
    let attention_only = Sites { attention: true, mlp: false };
    let scheme = NormScheme::Lns(DepthScale { sites: attention_only, ..DepthScale::default() });
    let model = Decoder::new(&spec(scheme), 1, &Device::flex());
    assert_eq!(model.layers[3].input_layernorm.as_ref().expect("whole").scale(), 0.5);
    assert_eq!(model.layers[3].post_attention_layernorm.as_ref().expect("whole").scale(), 1.0);
    let index = lns_spec::LayerIndex::new(3);
    assert_eq!(model.spec().branch(index, Site::Mlp).output_scale(), 1.0);
}
