//! The trainer: the same bits again, whatever is recomputed, and the same mathematics however the
//! batch is spread.

use std::num::NonZeroUsize;

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::Tensor,
};
use lns_kernels::{IGNORED, Precision, cpu_device, with_slices};
use lns_model::{Decoder, LoraConfig};
use lns_spec::{ModelSpec, NormScheme, Preset};
use lns_testing::models::TINY;
use lns_train::{
    Batch, BatchError, Compute, Estimate, FinetuneConfig, Optimiser, RunConfig, Step, Trainer,
    TrainingOptions,
};

fn spec(scheme: NormScheme) -> ModelSpec {
    let preset = Preset {
        hidden_size: 32,
        intermediate_size: 56,
        num_attention_heads: 4,
        num_hidden_layers: 4,
        vocab_size: 50,
        ..TINY
    };
    preset.spec(scheme)
}

fn batch(sequences: usize, seed: usize) -> Batch {
    let ids: Vec<u32> = (0..sequences * 18).map(|i| ((i * 31 + seed * 7) % 47) as u32).collect();
    Batch::from_windows(&ids, 17).expect("whole windows")
}

fn weights(model: &Decoder) -> Vec<f32> {
    struct All(Vec<f32>);
    impl ModuleVisitor for All {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            with_slices([&param.val()], |[values]| self.0.extend_from_slice(values));
        }
    }
    let mut all = All(Vec::new());
    model.visit(&mut all);
    all.0
}

/// Steps and final weights of a few steps on 5 sequences.
fn run(spec: &ModelSpec, options: TrainingOptions, threads: usize) -> (Vec<Step>, Vec<f32>) {
    let model = Decoder::new(spec, 3, &cpu_device());
    let compute = Compute::on_cpu(threads).expect("threads start");
    let mut trainer = Trainer::new(model, options, compute);
    let steps = (0..4).map(|seed| trainer.step(&batch(5, seed), 3e-3).expect("a step")).collect();
    (steps, weights(trainer.model()))
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).fold(0.0, |largest, (a, b)| largest.max((a - b).abs()))
}

fn schemes() -> Vec<ModelSpec> {
    let mut all: Vec<ModelSpec> =
        NormScheme::names().into_iter().map(|name| spec(name.parse().expect(name))).collect();
    let mut tied = spec(NormScheme::lns());
    tied.tie_word_embeddings = true;
    tied.qk_norm = lns_spec::QkNorm::PerHead;
    tied.qkv_bias = true;
    tied.num_key_value_heads = 2;
    all.push(tied);
    all
}

#[test]
fn a_repeat_and_recomputed_activations_give_the_same_bits_under_every_scheme() {
    for spec in schemes() {
        let stored = run(&spec, TrainingOptions::default(), 2);
        assert_eq!(stored, run(&spec, TrainingOptions::default(), 2), "{:?}", spec.norm_scheme);
        let recompute = TrainingOptions { recompute: true, ..TrainingOptions::default() };
        assert_eq!(stored, run(&spec, recompute, 2), "{:?}", spec.norm_scheme);
        assert!(stored.0.iter().all(|step| step.loss.is_finite() && step.gradient_norm > 0.0));
        assert!(stored.0[3].loss < stored.0[0].loss, "it learns: {:?}", stored.0);
    }
}

#[test]
fn workers_and_passes_change_the_order_of_sums_only() {
    let spec = spec(NormScheme::lns());
    let (steps, one) = run(&spec, TrainingOptions::default(), 1);
    let by_one =
        TrainingOptions { sequences_per_pass: NonZeroUsize::new(1), ..TrainingOptions::default() };
    for (options, threads) in [
        (TrainingOptions::default(), 2),
        (TrainingOptions::default(), 3),
        (TrainingOptions::default(), 9),
        (by_one, 2),
    ] {
        let (others, weights) = run(&spec, options, threads);
        for (a, b) in steps.iter().zip(&others) {
            assert!((a.loss - b.loss).abs() < 1e-5, "{threads} threads: {a:?} {b:?}");
            assert!((a.gradient_norm - b.gradient_norm).abs() < 1e-4 * a.gradient_norm);
        }
        assert!(largest_difference(&one, &weights) < 2e-3, "{threads} threads");
    }
}

#[test]
fn ignored_targets_count_nowhere() {
    let spec = spec(NormScheme::pre());
    let full: Vec<u32> = (0..34).map(|i| i * 7 % 50).collect();
    let first_only = Batch::new(full[..17].to_vec(), full[1..18].to_vec(), 17).expect("a batch");
    let mut targets = full[1..18].to_vec();
    targets.extend([IGNORED; 17]);
    let masked = Batch::new(full.clone(), targets, 17).expect("a batch");
    let step = |batch: &Batch| {
        let model = Decoder::new(&spec, 3, &cpu_device());
        let compute = Compute::on_cpu(1).expect("threads start");
        let mut trainer = Trainer::new(model, TrainingOptions::default(), compute);
        let step = trainer.step(batch, 1e-3).expect("a step");
        (step, weights(trainer.model()))
    };
    let ((a, a_weights), (b, b_weights)) = (step(&first_only), step(&masked));
    assert_eq!((a.tokens, b.tokens), (17, 17));
    assert!((a.loss - b.loss).abs() < 1e-6 && (a.gradient_norm - b.gradient_norm).abs() < 1e-5);
    assert!(largest_difference(&a_weights, &b_weights) < 2e-3);
}

#[test]
fn documents_that_share_a_sequence_do_not_see_each_other() {
    const LENGTH: usize = 17;
    for scheme in ["pre", "lns"] {
        let spec = spec(scheme.parse().expect("a scheme"));
        let ids: Vec<u32> = (0..2 * LENGTH + 1).map(|i| (i as u32 * 11 + 3) % 50).collect();
        let (inputs, targets) = (ids[..2 * LENGTH].to_vec(), ids[1..].to_vec());
        let packed = Batch::new(inputs, targets, LENGTH).expect("a batch");
        let documents = vec![vec![5, 8, 4], vec![LENGTH]];
        let apart = packed.clone().with_documents(documents.clone()).expect("whole sequences");
        // Each document with padding behind it.
        let (mut inputs, mut targets) = (Vec::new(), Vec::new());
        let mut start = 0;
        for tokens in documents.into_iter().flatten() {
            for (from, to, padding) in
                [(&ids[..], &mut inputs, 0), (&ids[1..], &mut targets, IGNORED)]
            {
                to.extend_from_slice(&from[start..start + tokens]);
                to.resize(to.len() + LENGTH - tokens, padding);
            }
            start += tokens;
        }
        let rows = Batch::new(inputs, targets, LENGTH).expect("a batch");
        let step = |batch: &Batch, recompute| {
            let compute = Compute::on_cpu(2).expect("threads start");
            let options = TrainingOptions { recompute, ..TrainingOptions::default() };
            let mut trainer = Trainer::new(Decoder::new(&spec, 3, &cpu_device()), options, compute);
            let step = trainer.step(batch, 1e-3).expect("a step");
            (step, weights(trainer.model()))
        };
        assert_eq!(step(&apart, false), step(&apart, true), "whatever is recomputed");
        let ((apart, moved), (rows, expected)) = (step(&apart, false), step(&rows, false));
        assert_eq!((apart.tokens, rows.tokens), (2 * LENGTH, 2 * LENGTH));
        assert!((apart.loss - rows.loss).abs() < 1e-6, "{} {}", apart.loss, rows.loss);
        assert!((apart.gradient_norm - rows.gradient_norm).abs() < 1e-5);
        assert!(largest_difference(&moved, &expected) < 2e-3);
        let (packed, _) = step(&packed, false);
        assert!((apart.loss - packed.loss).abs() > 1e-5, "they see each other without it");
    }
    let batch = || Batch::new(vec![1; 6], vec![2; 6], 3).expect("a batch");
    for wrong in [vec![vec![3]], vec![vec![1, 1], vec![3]], vec![vec![3, 0], vec![3]]] {
        assert!(batch().with_documents(wrong).is_err());
    }
    assert_eq!(batch().with_documents(Vec::new()), Ok(batch()));
}

#[test]
fn clipping_bounds_the_gradient_and_leaves_small_ones_alone() {
    let spec = spec(NormScheme::pre());
    // Plain momentum-free check through Muon's linear first step would be indirect; AdamW's first
    // step does not depend on the gradient's size but for eps, so compare the second moments' effect.
    let with = |clip| run(&spec, TrainingOptions { clip, ..TrainingOptions::default() }, 2);
    let (free, clipped, loose) = (with(None), with(Some(1e-9)), with(Some(1e9)));
    assert_eq!(free, loose);
    assert_eq!(free.0[0].gradient_norm, clipped.0[0].gradient_norm, "reported before clipping");
    // A gradient of norm 1e-9 is below eps = 1e-8: the weights hardly move.
    let start = weights(&Decoder::new(&spec, 3, &cpu_device()));
    let moved = |weights: &[f32]| largest_difference(&start, weights);
    assert!(moved(&clipped.1) < 0.2 * moved(&free.1));
}

#[test]
fn every_optimiser_trains_and_repeats_to_the_bit() {
    let spec = spec(NormScheme::lns());
    for optimiser in Optimiser::all() {
        let options = TrainingOptions { optimiser, ..TrainingOptions::default() };
        let (steps, found) = run(&spec, options, 2);
        assert!(steps[3].loss < steps[0].loss, "{} {steps:?}", optimiser.name());
        assert_eq!((steps, found), run(&spec, options, 2), "{}", optimiser.name());
    }
}

#[test]
fn ids_of_another_vocabulary_are_refused_before_anything_changes() {
    let spec = spec(NormScheme::pre());
    let model = Decoder::new(&spec, 3, &cpu_device());
    let before = weights(&model);
    let compute = Compute::on_cpu(2).expect("threads start");
    let mut trainer = Trainer::new(model, TrainingOptions::default(), compute);
    let bad = Batch::from_windows(&[1, 2, 50], 2).expect("a batch");
    let refused = BatchError::OutOfVocabulary { id: 50, vocabulary: 50 };
    assert_eq!(trainer.step(&bad, 1e-3), Err(refused));
    assert_eq!((weights(trainer.model()), trainer.steps()), (before, 0));
    assert!(Batch::from_windows(&[1, 2, 3], 3).is_err());
    assert!(Batch::new(vec![1, 2], vec![1], 2).is_err());
    assert!(Batch::new(vec![1], vec![IGNORED], 1).is_err());
}

#[test]
fn an_estimate_counts_what_is_asked_for() {
    let spec = Preset::named("130m").expect("a preset").spec(NormScheme::lns());
    let plain = Estimate::new(&spec, 8, 256, 2, &TrainingOptions::default());
    assert_eq!(plain.parameters, 134_105_856);
    assert_eq!((plain.weights, plain.moments), (4 * 134_105_856, 8 * 134_105_856));
    assert!((3.5e9..4.5e9).contains(&(plain.total() as f64)), "measured: 3.9 to 4.2 GB");
    let recompute = TrainingOptions { recompute: true, ..TrainingOptions::default() };
    let recomputed = Estimate::new(&spec, 8, 256, 2, &recompute);
    assert!(recomputed.activations * 5 < plain.activations);
    let single =
        TrainingOptions { sequences_per_pass: NonZeroUsize::new(1), ..TrainingOptions::default() };
    assert_eq!(Estimate::new(&spec, 8, 256, 2, &single).activations * 4, plain.activations);
    assert_eq!(Estimate::new(&spec, 1, 256, 2, &single).workers, 1);
}

#[test]
fn an_estimate_of_adapters_counts_their_moments_and_gradients_and_not_the_models() {
    let spec = Preset::named("9m").expect("a preset").spec(NormScheme::pre());
    let lora = LoraConfig { rank: 4, ..LoraConfig::default() };
    let tuned = |lora: Option<&LoraConfig>| {
        let from = FinetuneConfig { lora: lora.cloned(), ..FinetuneConfig::of("m".into()) };
        Estimate::of(&RunConfig { finetune: Some(from), ..RunConfig::default() }, &spec, None)
    };
    let (full, adapters) = (tuned(None), tuned(Some(&lora)));
    let model = Decoder::new(&spec, 1, &cpu_device()).with_lora(&lora, 1).expect("adapters");
    let trainer =
        Trainer::new(model, TrainingOptions::default(), Compute::on_cpu(1).expect("threads start"));
    assert_eq!(adapters.trained, trainer.trainable());
    assert_eq!(adapters.moments, 8 * trainer.trainable());
    assert_eq!(adapters.gradients, 4 * trainer.trainable());
    assert_eq!((full.trained, full.adapted), (full.parameters, 0));
    assert!(adapters.total() < full.total() && adapters.adapted > 0);
}

#[test]
fn bf16_products_over_f32_parameters_train_nearly_as_f32_does() {
    let spec = spec(NormScheme::lns());
    let losses = |precision| {
        let model = Decoder::new(&spec, 3, &cpu_device()).with_precision(precision);
        let compute = Compute::on_cpu(2).expect("threads start");
        let mut trainer = Trainer::new(model, TrainingOptions::default(), compute);
        let losses: Vec<f64> =
            (0..6).map(|seed| trainer.step(&batch(5, seed), 3e-3).expect("a step").loss).collect();
        let dtype = trainer.model().embed_tokens.val().dtype();
        assert_eq!(dtype, burn::tensor::DType::F32);
        losses
    };
    let (exact, rounded) = (losses(Precision::F32), losses(Precision::Bf16));
    for (a, b) in exact.iter().zip(&rounded) {
        // A rounding of 2⁻⁹ per factor; and not the same bits, or nothing was rounded.
        assert!((a - b).abs() < 1e-2 && a != b, "{exact:?} {rounded:?}");
    }
    assert!(rounded[5] < rounded[0]);
}
