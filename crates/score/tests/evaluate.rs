//! Evaluation: the mean and its denominator.

use std::sync::atomic::{AtomicU64, Ordering};

use burn::tensor::Device;
use lns_checkpoint::Checkpoint;
use lns_corpus::{Sequences, Window};
use lns_kernels::{IGNORED, Workers};
use lns_model::{Decoder, LayerSource, StreamingDecoder, ids_tensor};
use lns_score::{evaluate, evaluate_sequences};

fn checkpoint() -> Checkpoint {
    lns_testing::golden::tiny_checkpoint("llama")
}

fn model() -> Decoder {
    Decoder::from_checkpoint(&checkpoint(), &Device::flex()).expect("loads")
}

fn windows(count: u32, length: u32) -> Vec<Window> {
    (0..count)
        .map(|window| Window {
            ids: (0..length).map(|i| (i * 11 + window * 29 + 1) % 96).collect(),
            targets: None,
            text_bytes: Some((0..length).map(|i| i % 4).collect()),
        })
        .collect()
}

#[test]
fn a_model_of_constant_logits_has_a_loss_of_exactly_ln_vocabulary() {
    let mut model = model();
    let norm = model.norm.as_mut().expect("a decoder has one");
    norm.gamma = norm.gamma.clone().map(|gamma| gamma.zeros_like());
    let workers = Workers::new(2).expect("threads start");
    let found = evaluate(&model, &windows(3, 24), &workers, &|_| {}).expect("evaluates");
    let record = found.record("constant".to_owned(), 24);
    assert!((record.nll - f64::from((96f64).ln() as f32)).abs() < 1e-14);
    assert_eq!((record.tokens, record.windows), (3 * 23, 3), "all but the first of each window");
    assert!(record.nll_stderr.expect("three windows") < 1e-15);
    assert_eq!(record.bytes, 3 * (1..24).map(|i| i % 4).sum::<u64>());
}

#[test]
fn a_loss_that_is_no_number_and_a_text_without_a_window_are_errors() {
    let mut model = model();
    let norm = model.norm.as_mut().expect("a decoder has one");
    norm.gamma = norm.gamma.clone().map(|gamma| gamma.mul_scalar(f32::NAN));
    let workers = Workers::new(1).expect("threads start");
    let error = evaluate(&model, &windows(2, 8), &workers, &|_| {}).expect_err("NaN");
    assert!(error.to_string().contains("the loss of window 0"), "{error}");
    for nothing in [vec![], windows(2, 1)] {
        let error = evaluate(&model, &nothing, &workers, &|_| {}).expect_err("no window");
        assert!(matches!(error, lns_score::ScoreError::NoWindows));
    }
}

#[test]
fn memory_disk_and_thread_counts_give_the_same_bits() {
    let (model, windows) = (model(), windows(5, 17));
    let streaming = StreamingDecoder::new(checkpoint(), Device::flex()).expect("opens");
    let losses = |source: &dyn LayerSource, threads| {
        let workers = Workers::new(threads).expect("threads start");
        evaluate(source, &windows, &workers, &|_| {}).expect("evaluates").window_nll
    };
    let first = losses(&model, 1);
    assert_eq!(losses(&model, 3), first);
    assert_eq!(losses(&streaming, 2), first);
    assert!(first.iter().all(|loss| *loss > 1.0) && first[0] != first[1]);
}

#[test]
fn progress_counts_every_layer_pass() {
    let (model, windows) = (model(), windows(5, 8));
    let done = AtomicU64::new(0);
    let advance = |passes| {
        done.fetch_add(passes, Ordering::Relaxed);
    };
    let workers = Workers::new(2).expect("threads start");
    evaluate(&model, &windows, &workers, &advance).expect("evaluates");
    assert_eq!(done.into_inner(), lns_score::work(&model, &windows));
}

#[test]
fn held_out_sequences_are_scored_at_their_targets_however_they_are_padded_or_stored() {
    let workers = Workers::new(2).expect("threads start");
    // Five of 12 tokens: whole, masked at the front, padded at the end, without a target, one target.
    let inputs: Vec<u32> = (0..60).map(|i| (i * 11 + 1) % 96).collect();
    let masked = |i: usize| match i / 12 {
        0 => false,
        1 => i % 12 < 5,
        2 => i % 12 > 7,
        3 => true,
        _ => i % 12 != 6,
    };
    let target = |i: usize| if masked(i) { IGNORED } else { (i as u32 * 29 + 3) % 96 };
    let targets: Vec<u32> = (0..60).map(target).collect();
    let sequences = Sequences {
        inputs: inputs.clone(),
        targets: targets.clone(),
        length: 12,
        documents: Vec::new(),
    };
    // GPT-2 adds an embedding of each position, which begins anew with every sequence.
    for name in ["llama", "gpt2"] {
        let checkpoint = || lns_testing::golden::tiny_checkpoint(name);
        let model = Decoder::from_checkpoint(&checkpoint(), &Device::flex()).expect("loads");
        let found = evaluate_sequences(&model, &sequences, None, &workers).expect("evaluates");
        assert_eq!(found.predicted, 12 + 7 + 8 + 1);

        let mut sum = 0.0;
        for (inputs, targets) in inputs.chunks(12).zip(targets.chunks(12)) {
            let logits = model.forward(ids_tensor(inputs, &Device::flex())).squeeze_dim::<2>(0);
            let logits: Vec<f64> = logits.into_data().iter::<f64>().collect();
            for (row, target) in logits.chunks(96).zip(targets).filter(|(_, id)| **id != IGNORED) {
                let log_sum = row.iter().map(|logit| logit.exp()).sum::<f64>().ln();
                sum += log_sum - row[*target as usize];
            }
        }
        let expected = sum / found.predicted as f64;
        assert!((found.nll - expected).abs() < 1e-5, "{} {expected}", found.nll);

        let streaming = StreamingDecoder::new(checkpoint(), Device::flex()).expect("opens");
        let one = Workers::new(1).expect("a thread starts");
        assert_eq!(
            evaluate_sequences(&streaming, &sequences, None, &one).expect("evaluates"),
            found
        );
    }
}
