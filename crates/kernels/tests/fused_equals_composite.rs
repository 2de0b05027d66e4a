//! Every fused operation against its composite, computed in f64, over random and awkward shapes.

use burn::tensor::{DType, Device, Distribution, Tensor};
use lns_kernels::{
    AttentionMask, AttentionShape, DistillationTerms, DocumentStarts, Gate, GateClamp, IGNORED,
    LossTerms, Projection, RotaryTable, Scores, Workers, activate, add_rms_norm, attention,
    clamped_swiglu, composite, distillation_loss, divergence_to, embedding, gated, layer_norm,
    linear, next_token_nll, next_token_scores, rms_norm, rotate, with_slices, with_threads,
};
use lns_spec::{RopeScaling, RopeSpec};
use proptest::prelude::*;

fn random<const D: usize>(shape: [usize; D], scale: f64) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, scale), &Device::flex())
}

/// The tensor in f64, which only the composite form serves.
fn exact<const D: usize>(x: &Tensor<D>) -> Tensor<D> {
    x.clone().cast(DType::F64)
}

/// Largest difference of a fused result and its f64 reference, relative to the largest value.
fn difference<const D: usize>(fused: &Tensor<D>, reference: Tensor<D>) -> f64 {
    assert_eq!(fused.dtype(), DType::F32);
    assert_eq!(reference.dtype(), DType::F64, "the reference is computed in f64");
    assert_eq!(fused.dims(), reference.dims());
    let fused: Vec<f64> = fused.clone().into_data().iter::<f64>().collect();
    let reference: Vec<f64> = reference.into_data().iter::<f64>().collect();
    let largest = reference.iter().fold(1e-30f64, |a, b| a.max(b.abs()));
    fused.iter().zip(&reference).fold(0f64, |a, (x, y)| a.max((x - y).abs())) / largest
}

fn table(head_dim: usize, positions: usize) -> RotaryTable {
    let rope = RopeSpec { theta: 10_000.0, scaling: RopeScaling::Default };
    RotaryTable::new(&rope.frequencies(head_dim, positions, positions), positions)
}

fn projection(rows: usize, width: usize, vocabulary: usize, softcap: Option<f64>) -> Projection {
    Projection {
        hidden: random([rows, width], 1.0),
        head: random([vocabulary, width], 1.0),
        softcap,
    }
}

fn exact_projection(side: &Projection) -> Projection {
    Projection { hidden: exact(&side.hidden), head: exact(&side.head), softcap: side.softcap }
}

fn values<const D: usize>(x: &Tensor<D>) -> Vec<f32> {
    x.clone().into_data().iter::<f32>().collect()
}

/// Documents of `length` tokens, those of the second sequence a token shorter at the front.
fn documents(sequences: usize, keys: usize, length: usize) -> DocumentStarts {
    let start = |sequence: usize, key: usize| match key {
        key if key < sequence => 0,
        key => sequence + (key - sequence) / length * length,
    };
    let starts: Vec<u32> = (0..sequences)
        .flat_map(|sequence| (0..keys).map(move |key| start(sequence, key) as u32))
        .collect();
    DocumentStarts::new(&starts, keys)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn norms(rows in 1usize..9, width in 2usize..131, scale in 0.05f64..2.0, spread in 0.01f64..50.0) {
        let x = random([rows, width], spread);
        let (gamma, beta) = (random([width], 1.0), random([width], 1.0));
        let fused = rms_norm(x.clone(), gamma.clone(), 1e-5, scale);
        let reference = rms_norm(exact(&x), exact(&gamma), 1e-5, scale);
        prop_assert!(difference(&fused, reference) < 2e-6);

        let branch = random([rows, width], 1.0);
        let (sum, normed) = add_rms_norm(x.clone(), branch.clone(), gamma.clone(), 1e-5, scale);
        let (exact_sum, exact_normed) =
            add_rms_norm(exact(&x), exact(&branch), exact(&gamma), 1e-5, scale);
        prop_assert!(difference(&sum, exact_sum) < 1e-6);
        prop_assert!(difference(&normed, exact_normed) < 2e-6);

        for beta in [None, Some(beta)] {
            let fused = layer_norm(x.clone(), gamma.clone(), beta.clone(), 1e-5, scale);
            let beta = beta.as_ref().map(exact);
            let reference = layer_norm(exact(&x), exact(&gamma), beta, 1e-5, scale);
            // Two close features magnify the rounding of their mean.
            prop_assert!(difference(&fused, reference) < 1e-4);
        }
    }

    #[test]
    fn linear_products(rows in 1usize..70, input in 1usize..140, output in 1usize..90, biased: bool) {
        let (x, weight) = (random([1, rows, input], 1.0), random([output, input], 1.0));
        let bias = biased.then(|| random([output], 1.0));
        let fused = linear(x.clone(), weight.clone(), bias.clone());
        let reference = linear(exact(&x), exact(&weight), bias.as_ref().map(exact));
        prop_assert!(difference(&fused, reference) < 3e-6);
    }

    #[test]
    fn rotations(tokens in 1usize..40, heads in 1usize..4, half in 1usize..40, start in 0usize..7) {
        let x = random([2, tokens, heads * 2 * half], 1.0);
        let table = table(2 * half, start + tokens);
        let fused = rotate(x.clone(), &table, start);
        prop_assert!(difference(&fused, rotate(exact(&x), &table, start)) < 1e-6);
        // Neighbours, and heads of which only the first features turn.
        for (interleaved, rest) in [(true, 0), (false, 3), (true, 4)] {
            let head_dim = 2 * half + rest;
            let table = table.clone().for_heads_of(head_dim).interleaved(interleaved);
            let x = random([2, tokens, heads * head_dim], 1.0);
            let fused = rotate(x.clone(), &table, start);
            prop_assert!(difference(&fused, rotate(exact(&x), &table, start)) < 1e-6);
            // The last features instead: the same numbers turn, the others stay where they are.
            let last = table.turning_the_last(true);
            let turned = rotate(x.clone(), &last, start);
            prop_assert!(difference(&turned, rotate(exact(&x), &last, start)) < 1e-6);
            let heads_of = |x: Tensor<3>| x.reshape([2, tokens, heads, head_dim]);
            let moved = |x: Tensor<4>, from: usize| {
                let parts = [(from, head_dim - from), (0, from)];
                let parts = parts.into_iter().filter(|(_, length)| *length > 0);
                let parts = parts.map(|(start, length)| x.clone().narrow(3, start, length));
                Tensor::cat(parts.collect(), 3)
            };
            let first = moved(heads_of(x), rest).reshape([2, tokens, heads * head_dim]);
            let first = rotate(first, &last.turning_the_last(false), start);
            let back = moved(heads_of(first), head_dim - rest);
            prop_assert_eq!(back.into_data(), heads_of(turned).into_data());
        }
    }

    #[test]
    fn attentions(
        queries in 1usize..150, cached in 0usize..30, key_value_heads in 1usize..4, group in 1usize..4,
        half in 1usize..130, window in prop::option::of(1usize..80), spread in 0.1f64..4.0,
        document in 1usize..60, scale in prop::option::of(0.05f64..0.3),
        softcap in prop::option::of(0.5f64..20.0), value_dim in prop::option::of(1usize..200),
        sinks in prop::option::of(0.1f64..8.0),
    ) {
        let head_dim = 2 * half;
        let scores = Scores { scale, softcap };
        let heads = group * key_value_heads;
        let mask = AttentionMask::Causal;
        let shape = AttentionShape { heads, key_value_heads, head_dim, mask, window, scores };
        let q = random([2, queries, shape.heads * head_dim], spread);
        let k = random([2, queries + cached, key_value_heads * head_dim], 1.0);
        let value_dim = value_dim.unwrap_or(head_dim);
        let v = random([2, queries + cached, key_value_heads * value_dim], 1.0);
        let keys = queries + cached;
        let sinks = sinks.map(|spread| random([heads], spread));
        let exact_sinks = sinks.as_ref().map(exact);
        for documents in [None, Some(documents(2, keys, document))] {
            let documents = documents.as_ref();
            let inputs = (q.clone(), k.clone(), v.clone());
            let fused =
                attention(inputs.0, inputs.1, inputs.2, &shape, sinks.clone(), documents);
            let (q, k, v) = (exact(&q), exact(&k), exact(&v));
            let reference = attention(q, k, v, &shape, exact_sinks.clone(), documents);
            prop_assert_eq!(fused.dims(), [2, queries, heads * value_dim]);
            prop_assert!(difference(&fused, reference) < 2e-5);
        }
        let shape = AttentionShape { mask: AttentionMask::Full, window: None, ..shape };
        let (exact_q, exact_k, exact_v) = (exact(&q), exact(&k), exact(&v));
        let fused = attention(q, k, v, &shape, sinks, None);
        let reference = attention(exact_q, exact_k, exact_v, &shape, exact_sinks, None);
        prop_assert!(difference(&fused, reference) < 2e-5);
    }

    #[test]
    fn gated_units(count in 1usize..200, spread in 0.1f64..30.0) {
        // Beside a gate that is open, so that errors are relative to its value: a closed one's true
        // value may be smaller than any f32.
        let open = |x: Tensor<2>| Tensor::cat(vec![Tensor::ones([1, 1], &x.device()) * 3.0, x], 1);
        let (gate, up) = (open(random([1, count], spread)), open(random([1, count], 1.0)));
        for kind in [Gate::Silu, Gate::Gelu, Gate::GeluErf] {
            let fused = gated(gate.clone(), up.clone(), kind);
            prop_assert!(difference(&fused, gated(exact(&gate), exact(&up), kind)) < 1e-6);
            let fused = activate(gate.clone(), kind);
            prop_assert!(difference(&fused, activate(exact(&gate), kind)) < 1e-6);
        }
        let clamp = GateClamp { limit: 1.5, alpha: 1.702 };
        let fused = clamped_swiglu(gate.clone(), up.clone(), clamp);
        prop_assert!(difference(&fused, clamped_swiglu(exact(&gate), exact(&up), clamp)) < 1e-6);
    }

    #[test]
    fn losses(rows in 1usize..40, width in 1usize..40, vocabulary in 2usize..2600, spread in 0.1f64..5.0) {
        let (hidden, head) = (random([rows, width], spread), random([vocabulary, width], 1.0));
        let targets: Vec<u32> = (0..rows).map(|row| ((row * 7919) % vocabulary) as u32).collect();
        let fused = next_token_nll(hidden.clone(), head.clone(), &targets, None);
        let reference = next_token_nll(exact(&hidden), exact(&head), &targets, None);
        prop_assert!(difference(&fused, reference) < 1e-5);
        let cap = Some(2.0 * spread);
        let fused = next_token_nll(hidden.clone(), head.clone(), &targets, cap);
        let reference = next_token_nll(exact(&hidden), exact(&head), &targets, cap);
        prop_assert!(difference(&fused, reference) < 1e-5);
    }

    #[test]
    fn scores(rows in 1usize..40, width in 1usize..40, vocabulary in 2usize..2600, spread in 0.1f64..5.0) {
        let (hidden, head) = (random([rows, width], spread), random([vocabulary, width], 1.0));
        // Every other row's target is its likeliest entry, in f64.
        let logits = composite::linear(exact(&hidden), exact(&head), None);
        let best: Vec<i64> = logits.clone().argmax(1).into_data().iter::<i64>().collect();
        let targets: Vec<u32> = (0..rows)
            .map(|row| if row % 2 == 0 { best[row] as u32 } else { ((row * 7919) % vocabulary) as u32 })
            .collect();
        let logits: Vec<f64> = logits.into_data().iter::<f64>().collect();
        let largest = logits.iter().fold(0f64, |largest, logit| largest.max(logit.abs()));
        let fused = next_token_scores(hidden.clone(), head.clone(), &targets, None);
        let reference = next_token_scores(exact(&hidden), exact(&head), &targets, None);
        for (row, (fused, reference)) in fused.iter().zip(&reference).enumerate() {
            let difference = (fused.log_probability - reference.log_probability).abs();
            prop_assert!(difference < 1e-5 * (1.0 + largest), "{row}: {fused:?} {reference:?}");
            prop_assert!(row % 2 == 1 || reference.likeliest, "{row}");
            // f32 may see two close logits the other way round.
            let others = (0..vocabulary).filter(|entry| *entry != targets[row] as usize);
            let other = others.map(|entry| logits[row * vocabulary + entry]).fold(f64::MIN, f64::max);
            let own = logits[row * vocabulary + targets[row] as usize];
            if (own - other).abs() > 1e-5 * (1.0 + largest) {
                prop_assert_eq!(fused.likeliest, reference.likeliest, "row {}", row);
            }
        }
    }

    #[test]
    fn divergences(
        rows in 1usize..70, width in 1usize..20, vocabulary in 2usize..2600, temperature in 0.5f64..4.0,
    ) {
        // Two models: of other widths, caps, and one with entries that pad its embedding.
        let cap = (rows % 2 == 0).then_some(1.5);
        let p = projection(rows, width, vocabulary, cap);
        let q = projection(rows, width + 3, vocabulary + rows % 3, None);
        let found = divergence_to(&p, &q, temperature);
        prop_assert_eq!(found.len(), rows);
        let log = |side: &Projection| {
            let logits = composite::linear(exact(&side.hidden), exact(&side.head), None);
            let logits = composite::soft_capped(logits, side.softcap).narrow(1, 0, vocabulary);
            burn::tensor::activation::log_softmax(logits.div_scalar(temperature), 1)
        };
        let (p, q) = (log(&p), log(&q));
        let expected: Vec<f64> =
            (p.clone().exp() * (p - q)).sum_dim(1).into_data().iter::<f64>().collect();
        for ((found, _), expected) in found.iter().zip(&expected) {
            prop_assert!((found - expected).abs() < 1e-5 * (1.0 + expected), "{found} {expected}");
        }
    }

    #[test]
    fn divergences_of_rows_that_come_several_times_are_those_of_each_time(
        rows in 1usize..40, width in 1usize..20, vocabulary in 2usize..600, times in 1usize..4,
    ) {
        let p = projection(rows, width, vocabulary, None);
        let all = projection(rows * times, width, vocabulary, Some(2.0));
        let found = divergence_to(&p, &all, 1.0);
        prop_assert_eq!(found.len(), rows * times);
        for time in 0..times {
            let hidden = all.hidden.clone().narrow(0, time * rows, rows);
            let alone = divergence_to(&p, &Projection { hidden, ..all.clone() }, 1.0);
            for ((found, _), (alone, _)) in found[time * rows..].iter().zip(&alone) {
                prop_assert!((found - alone).abs() < 1e-6 * (1.0 + alone), "{found} {alone}");
            }
        }
    }

    #[test]
    fn distillations(
        rows in 1usize..40, width in 1usize..30, vocabulary in 2usize..2600, padding in 0usize..4,
        temperature in 0.5f64..4.0, share in 0.01f64..1.0, z_loss in 0.0f64..0.1,
    ) {
        let cap = (rows % 2 == 0).then_some(3.0);
        let student = projection(rows, width, vocabulary + padding % 2 * 3, cap);
        let teacher = projection(rows, width + 2, vocabulary + padding / 2, cap.map(|cap| 2.0 * cap));
        let target = |row: usize| if row % 4 == 3 { IGNORED } else { (row * 7919 % vocabulary) as u32 };
        let targets: Vec<u32> = (0..rows).map(target).collect();
        let terms = LossTerms { weight: 1.0 / rows as f64, z_loss };
        let distillation = DistillationTerms { weight: share, temperature };
        let exact = (exact_projection(&student), exact_projection(&teacher));
        let found = distillation_loss(student, &teacher, &targets, terms, distillation);
        let reference = distillation_loss(exact.0, &exact.1, &targets, terms, distillation);
        prop_assert!(difference(&found.objective, reference.objective) < 1e-5);
        prop_assert!(difference(&found.nll, reference.nll) < 1e-5);
        prop_assert!(difference(&found.divergence, reference.divergence) < 2e-5);
    }
}

#[test]
fn more_keys_than_one_block_of_the_attention_are_right() {
    // The largest scores come late, so that earlier blocks are shrunk.
    let shape = AttentionShape {
        heads: 2,
        key_value_heads: 1,
        head_dim: 8,
        mask: AttentionMask::Causal,
        window: None,
        scores: Scores::USUAL,
    };
    let (q, v) = (random([1, 1200, 16], 1.0), random([1, 1200, 8], 1.0));
    let ramp: Vec<f32> = (0..1200 * 8).map(|i| (i / 8) as f32 / 400.0).collect();
    let ramp = Tensor::<1>::from_floats(ramp.as_slice(), &Device::flex()).reshape([1, 1200, 8]);
    let k = random([1, 1200, 8], 1.0) * ramp;
    let fused = attention(q.clone(), k.clone(), v.clone(), &shape, None, None);
    let reference = attention(exact(&q), exact(&k), exact(&v), &shape, None, None);
    assert!(difference(&fused, reference) < 2e-5);
}

#[test]
fn a_document_that_begins_after_blocks_of_keys_that_it_does_not_see_is_attended() {
    // Rows of one block of queries: some see all keys from the first on, others only those after 1,100.
    let shape = AttentionShape {
        heads: 1,
        key_value_heads: 1,
        head_dim: 4,
        mask: AttentionMask::Causal,
        window: None,
        scores: Scores::USUAL,
    };
    let [q, k, v] = [(); 3].map(|()| random([1, 1130, 4], 1.0));
    let starts: Vec<u32> = (0..1130).map(|at| if at < 1100 { 0 } else { 1100 }).collect();
    let documents = DocumentStarts::new(&starts, 1130);
    let (exact_q, exact_k, exact_v) = (exact(&q), exact(&k), exact(&v));
    let fused = attention(q, k, v, &shape, None, Some(&documents));
    let reference = attention(exact_q, exact_k, exact_v, &shape, None, Some(&documents));
    assert!(difference(&fused, reference) < 2e-5);
}

#[test]
fn rows_of_an_embedding_are_the_tables() {
    let table = random([9, 5], 1.0);
    let ids = Tensor::from_ints([[3, 0, 8], [3, 3, 1]], &Device::flex());
    let fused = embedding(table.clone(), ids.clone());
    assert_eq!(values(&fused), values(&composite::embedding(table, ids)));
}

#[test]
fn more_rows_than_one_block_of_the_loss_are_right() {
    let (hidden, head) = (random([1100, 8], 1.0), random([1500, 8], 1.0));
    let targets: Vec<u32> = (0..1100).map(|row| (row * 13 % 1500) as u32).collect();
    let fused = next_token_nll(hidden.clone(), head.clone(), &targets, None);
    assert!(
        difference(&fused, next_token_nll(exact(&hidden), exact(&head), &targets, None)) < 1e-6
    );
}

#[test]
fn a_model_of_constant_logits_loses_exactly_the_logarithm_of_its_vocabulary() {
    for vocabulary in [1usize, 2, 1000, 1024, 1025, 49_152] {
        let head = Tensor::<2>::zeros([vocabulary, 4], &Device::flex());
        let loss = next_token_nll(random([3, 4], 1.0), head, &[0, 0, vocabulary as u32 - 1], None);
        assert_eq!(values(&loss), [(vocabulary as f64).ln() as f32; 3]);
    }
}

#[test]
fn a_teacher_that_says_the_same_is_no_distance_away_and_one_that_is_sure_is_as_far_as_its_surprise()
{
    let student = projection(3, 4, 1500, None);
    let own = DistillationTerms { weight: 0.5, temperature: 2.0 };
    let targets = [0, IGNORED, 1499];
    let found = distillation_loss(student.clone(), &student, &targets, LossTerms::default(), own);
    assert!(values(&found.divergence).iter().all(|kl| *kl < 1e-6));
    let total: f32 = values(&found.nll).iter().sum();
    assert!((values(&found.objective)[0] - 0.5 * total).abs() < 1e-4);
    // A teacher that gives entry 7 all of its probability: KL is the student's loss of 7, as it was at
    // that temperature; a soft-capped teacher cannot be sure.
    let hidden = Tensor::<2>::ones([3, 1], &Device::flex());
    let head: Vec<f32> = (0..1500).map(|entry| if entry == 7 { 1e4 } else { 0.0 }).collect();
    let head = Tensor::<1>::from_floats(head.as_slice(), &Device::flex()).reshape([1500, 1]);
    let sure = Projection { hidden, head, softcap: None };
    for temperature in [1.0, 2.0] {
        let halved = student.hidden.clone().div_scalar(temperature);
        let surprise = values(&next_token_nll(halved, student.head.clone(), &[7; 3], None));
        let distillation = DistillationTerms { weight: 1.0, temperature };
        let terms = LossTerms::default();
        let found = distillation_loss(student.clone(), &sure, &[1; 3], terms, distillation);
        for (found, expected) in values(&found.divergence).iter().zip(&surprise) {
            assert!((found - expected).abs() < 1e-4 * expected, "{found} {expected}");
        }
        let sum: f32 = surprise.iter().sum();
        let objective = values(&found.objective)[0];
        let expected = (temperature * temperature) as f32 * sum;
        assert!((objective - expected).abs() < 1e-4 * expected, "{objective} {expected}");
    }
}

#[test]
fn huge_logits_neither_overflow_nor_vanish() {
    let hidden = Tensor::<2>::from_floats([[1e4, 0.0], [-1e4, 0.0]], &Device::flex());
    let head = Tensor::<2>::from_floats([[1.0, 0.0], [-1.0, 0.0]], &Device::flex());
    let loss = values(&next_token_nll(hidden, head, &[0, 0], None));
    assert!(loss[0].abs() < 1e-6 && loss[1] == 2e4, "{loss:?}");
}

#[test]
fn views_and_transposes_are_read_where_they_lie() {
    let x = random([5, 64], 1.0);
    let gamma = random([64], 1.0);
    let view = x.clone().narrow(0, 2, 2);
    let fused = rms_norm(view.clone(), gamma.clone(), 1e-6, 1.0);
    assert!(difference(&fused, rms_norm(exact(&view), exact(&gamma), 1e-6, 1.0)) < 1e-6);
    let weight = random([64, 30], 1.0);
    let fused = linear(x.clone(), weight.clone().transpose(), None);
    assert!(difference(&fused, exact(&x).matmul(exact(&weight))) < 1e-6);
    let columns = random([7, 20], 1.0).transpose();
    with_slices([&columns], |[slice]| assert_eq!(slice, values(&columns)));
}

#[test]
fn an_operation_that_works_in_place_leaves_a_shared_input_alone() {
    let x = random([1, 4, 8], 1.0);
    let before = values(&x);
    let _ = rotate(x.clone(), &table(8, 4), 0);
    let _ = gated(x.clone(), x.clone(), Gate::Silu);
    assert_eq!(values(&x), before);
}

#[test]
fn results_are_the_same_bits_for_any_number_of_threads_and_every_repeat() {
    let shape = AttentionShape {
        heads: 6,
        key_value_heads: 2,
        head_dim: 16,
        mask: AttentionMask::Causal,
        window: None,
        scores: Scores::USUAL,
    };
    let q = random([1, 200, 96], 1.0);
    let (k, v) = (random([1, 200, 32], 1.0), random([1, 200, 32], 1.0));
    let (weight, token) = (random([500, 96], 1.0), random([1, 96], 1.0));
    let all = || {
        let attended = attention(q.clone(), k.clone(), v.clone(), &shape, None, None);
        let projected = linear(attended.clone(), weight.clone(), None);
        let one = linear(token.clone(), weight.clone(), None);
        let hidden = projected.clone().reshape([200, 500]).narrow(1, 0, 96);
        let nll = next_token_nll(hidden, weight.clone(), &[7; 200], None);
        [values(&attended), values(&projected), values(&one), values(&nll)]
    };
    let first = with_threads(1, all).expect("threads start");
    for threads in [1, 2, 3, 5] {
        assert_eq!(with_threads(threads, all).expect("threads start"), first, "{threads} threads");
    }
    let workers = Workers::new(3).expect("threads start");
    for found in workers.map(4, |_| all()) {
        assert_eq!(found, first);
    }
}

#[test]
fn bf16_tensors_go_through_the_composite_and_give_numbers() {
    let x = random([3, 32], 100.0).cast(DType::BF16);
    let gamma = Tensor::<1>::ones([32], &Device::flex()).cast(DType::BF16);
    let y = rms_norm(x, gamma, 1e-6, 0.5);
    assert_eq!(y.dtype(), DType::BF16);
    assert!(values(&y.cast(DType::F32)).iter().all(|y| y.is_finite()));
}

#[test]
fn gradients_flow_through_the_composites_and_equal_finite_differences() {
    let leaf = |x: &Tensor<3>| Tensor::<3>::from_inner(exact(x)).require_grad();
    let shape = AttentionShape {
        heads: 4,
        key_value_heads: 2,
        head_dim: 4,
        mask: AttentionMask::Causal,
        window: Some(3),
        scores: Scores::USUAL,
    };
    let inputs = [random([1, 5, 16], 1.0), random([1, 6, 8], 1.0), random([1, 6, 8], 1.0)];
    let probe = exact(&random([1, 5, 16], 1.0));
    let leaves = inputs.each_ref().map(leaf);
    let [q, k, v] = leaves.clone();
    let out = attention(rotate(q, &table(4, 9), 1), k, v, &shape, None, None);
    let gradients = (out * Tensor::from_inner(probe.clone())).sum().backward();
    let objective = |[q, k, v]: [Tensor<3>; 3]| -> f64 {
        let out = attention(rotate(q, &table(4, 9), 1), k, v, &shape, None, None);
        (out * probe.clone()).sum().into_data().iter::<f64>().next().expect("one number")
    };
    for which in 0..3 {
        let gradient: Vec<f64> = leaves[which]
            .grad(&gradients)
            .expect("a gradient for every input")
            .into_data()
            .iter::<f64>()
            .collect();
        for at in (0..gradient.len()).step_by(5) {
            let moved = |step: f64| {
                let mut inputs = inputs.each_ref().map(exact);
                let dims = inputs[which].dims();
                let mut values: Vec<f64> =
                    inputs[which].clone().into_data().iter::<f64>().collect();
                values[at] += step;
                let data = burn::tensor::TensorData::new(values, dims);
                inputs[which] = Tensor::from_data(data, (&Device::flex(), DType::F64));
                objective(inputs)
            };
            let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!((slope - gradient[at]).abs() < 1e-7, "{which} {at}: {slope} {}", gradient[at]);
        }
    }
}
