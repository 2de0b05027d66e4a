//! Log-likelihoods of continuations, held against transformers and against the loss on windows.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};

use burn::tensor::Device;
use lns_corpus::Window;
use lns_kernels::Workers;
use lns_model::{Decoder, LayerSource, Pruned, StreamingDecoder};
use lns_score::{
    Likelihood, Request, ScoreError, evaluate, log_likelihoods, log_likelihoods_without_layers,
};
use lns_spec::{LayerIndex, Removal};
use lns_testing::golden::tiny_checkpoint;
use serde_json::Value;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn model(name: &str) -> Decoder {
    Decoder::from_checkpoint(&tiny_checkpoint(name), &Device::flex()).expect("loads")
}

/// A model, what was asked of it, and what transformers found.
type Witness = (String, Vec<Request>, Vec<Likelihood>);

/// The window, and what was found of each model.
fn golden() -> (usize, Vec<Witness>) {
    let path = folder().join("tests/golden/continuations.json");
    let text = std::fs::read_to_string(path).expect("in the repository");
    let golden: Value = serde_json::from_str(&text).expect("JSON");
    let ids = |value: &Value| -> Vec<u32> {
        let ids = value.as_array().expect("ids");
        ids.iter().map(|id| id.as_u64().expect("an id") as u32).collect()
    };
    let of_model = |(name, requests): (&String, &Value)| {
        let requests = requests.as_array().expect("requests");
        let asked = requests.iter().map(|request| Request {
            context: ids(&request["context"]),
            continuation: ids(&request["continuation"]),
        });
        let found = requests.iter().map(|request| Likelihood {
            log_probability: request["log_probability"].as_f64().expect("a number"),
            greedy: request["greedy"].as_bool().expect("a yes or no"),
            dropped: request["dropped"].as_u64().expect("a count") as usize,
        });
        (name.clone(), asked.collect(), found.collect())
    };
    let window = golden["window"].as_u64().expect("a count") as usize;
    let models = golden["models"].as_object().expect("models");
    (window, models.iter().map(of_model).collect())
}

fn found(source: &dyn LayerSource, requests: &[Request], window: usize) -> Vec<Likelihood> {
    let workers = Workers::new(2).expect("threads start");
    log_likelihoods(source, requests, window, &workers, &|_| {}).expect("scores")
}

fn request(context: &[u32], continuation: &[u32]) -> Request {
    Request { context: context.to_vec(), continuation: continuation.to_vec() }
}

#[test]
fn continuations_get_the_likelihoods_that_transformers_gives_them() {
    let (window, models) = golden();
    assert_eq!(models.len(), 8);
    for (name, requests, expected) in models {
        let found = found(&model(&name), &requests, window);
        assert_eq!(found.len(), expected.len());
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let difference = (found.log_probability - expected.log_probability).abs();
            assert!(difference < 1e-4, "{name}, request {index}: {found:?}, {expected:?}");
            assert_eq!(found.greedy, expected.greedy, "{name}, request {index}");
            assert_eq!(found.dropped, expected.dropped, "{name}, request {index}");
        }
        assert!(expected.iter().any(|request| request.greedy));
        assert!(expected.iter().any(|request| request.dropped > 0));
    }
}

#[test]
fn sharing_a_context_threads_and_the_place_of_the_layers_change_nothing() {
    let (window, models) = golden();
    let (name, requests, _) = &models[0];
    let model = model(name);
    let together = found(&model, requests, window);
    let alone: Vec<Likelihood> = requests
        .iter()
        .map(|request| found(&model, std::slice::from_ref(request), window)[0])
        .collect();
    for (together, alone) in together.iter().zip(&alone) {
        let difference = (together.log_probability - alone.log_probability).abs();
        assert!(difference < 1e-5, "{together:?} {alone:?}");
        assert_eq!((together.greedy, together.dropped), (alone.greedy, alone.dropped));
    }
    let streaming = StreamingDecoder::new(tiny_checkpoint(name), Device::flex()).expect("opens");
    assert_eq!(found(&streaming, requests, window), together);
    let one = Workers::new(1).expect("a thread starts");
    let found = log_likelihoods(&model, requests, window, &one, &|_| {}).expect("scores");
    assert_eq!(found, together);
}

#[test]
fn the_likelihood_after_a_windows_first_token_is_the_windows_loss() {
    let model = model("qwen3");
    let ids: Vec<u32> = (0..17).map(|i| (i * 11 + 1) % 96).collect();
    let windows = [Window { ids: ids.clone(), targets: None, text_bytes: Some(vec![1; 17]) }];
    let workers = Workers::new(1).expect("a thread starts");
    let nll = evaluate(&model, &windows, &workers, &|_| {}).expect("evaluates").nll();
    let found = found(&model, &[request(&ids[..1], &ids[1..])], 64)[0];
    assert!((found.log_probability + 16.0 * nll).abs() < 1e-4, "{found:?} {nll}");
}

#[test]
fn more_requests_of_one_context_than_a_batch_holds_are_all_scored_in_their_order() {
    let model = model("llama");
    let continuation = |index: u32| vec![index % 96, (index * 7) % 96];
    let requests: Vec<Request> = (0..40).map(|index| request(&[1], &continuation(index))).collect();
    let found = self::found(&model, &requests, 16);
    for (request, together) in requests.iter().zip(&found) {
        let alone = self::found(&model, std::slice::from_ref(request), 16)[0];
        assert!((together.log_probability - alone.log_probability).abs() < 1e-5);
    }
    assert_eq!(self::found(&model, &[], 16), []);
}

#[test]
fn progress_counts_each_requests_layer_passes() {
    let (window, models) = golden();
    let (name, requests, _) = &models[0];
    let (model, done) = (model(name), AtomicU64::new(0));
    let advance = |passes| {
        done.fetch_add(passes, Ordering::Relaxed);
    };
    let workers = Workers::new(2).expect("threads start");
    log_likelihoods(&model, requests, window, &workers, &advance).expect("scores");
    let layers = model.spec().num_hidden_layers;
    assert_eq!(done.into_inner(), (layers * requests.len()) as u64);
}

#[test]
fn what_cannot_be_scored_is_named() {
    let model = model("llama");
    let workers = Workers::new(1).expect("a thread starts");
    let error = |bad: Request| {
        let requests = [request(&[1], &[2]), bad];
        log_likelihoods(&model, &requests, 4, &workers, &|_| {}).expect_err("refused").to_string()
    };
    assert!(error(request(&[], &[2])).starts_with("request 1 has no context"));
    assert!(error(request(&[1], &[])).starts_with("request 1 has no continuation"));
    assert!(error(request(&[1], &[2; 5])).contains("of request 1 has 5 tokens and a window 4"));
    assert!(error(request(&[1], &[96])).starts_with("id 96 of request 1"));
    assert!(found(&model, &[request(&[1], &[2; 4])], 4)[0].log_probability.is_finite());
}

#[test]
fn a_damaged_model_gives_scores_that_are_no_numbers_and_nothing_greedy() {
    let mut model = model("llama");
    let norm = model.norm.as_mut().expect("a decoder has one");
    norm.gamma = norm.gamma.clone().map(|gamma| gamma.mul_scalar(f32::NAN));
    let found = found(&model, &[request(&[1], &[2, 3])], 8)[0];
    assert!(!found.log_probability.is_finite() && !found.greedy, "{found:?}");
    let workers = Workers::new(1).expect("a thread starts");
    let windows = [Window { ids: vec![1, 2, 3], targets: None, text_bytes: None }];
    let error = evaluate(&model, &windows, &workers, &|_| {}).expect_err("no loss either");
    assert!(matches!(error, ScoreError::NotFinite { .. }));
}

#[test]
fn contexts_that_begin_alike_get_the_likelihoods_that_each_gets_alone() {
    for name in ["llama", "mistral", "phi3-longrope", "gpt2", "gemma2"] {
        let model = model(name);
        let vocabulary = model.spec().vocab_size as u32;
        let ids = |seed: u32, count: u32| -> Vec<u32> {
            (0..count).map(|at| (seed * 31 + at * 17 + at * at) % vocabulary).collect()
        };
        // Ten contexts after 36 common tokens, two of which go on alike for longer, and one that is the
        // beginning alone; the last but one shares nothing.
        let mut requests = Vec::new();
        for question in 0..10 {
            let own = if question == 8 { ids(77, 9) } else { ids(question / 2, question) };
            let context = if question == 8 { own } else { [ids(5, 36), own].concat() };
            requests.push(request(&context, &ids(question + 3, 1)));
            requests.push(request(&context, &ids(question + 4, 3)));
        }
        let together = found(&model, &requests, 64);
        for (request, together) in requests.iter().zip(together) {
            let alone = found(&model, std::slice::from_ref(request), 64)[0];
            let difference = (alone.log_probability - together.log_probability).abs();
            assert!(difference < 2e-5, "{name}: {alone:?}, {together:?}");
            assert_eq!(alone.greedy, together.greedy);
        }
    }
}

#[test]
fn what_a_model_gives_without_a_layer_is_what_a_model_that_lacks_it_gives() {
    let (window, models) = golden();
    let workers = Workers::new(2).expect("threads start");
    for (name, requests, _) in &models {
        let whole = model(name);
        let layers = whole.spec().num_hidden_layers;
        let done = AtomicU64::new(0);
        let advance = |passes| {
            done.fetch_add(passes, Ordering::Relaxed);
        };
        let removed = log_likelihoods_without_layers(&whole, requests, window, &workers, &advance);
        let removed = removed.expect("scores");
        assert_eq!(removed.whole, found(&whole, requests, window), "{name}");
        assert_eq!(removed.without.len(), layers);
        for (layer, without) in removed.without.iter().enumerate() {
            let gone = Removal { layer: LayerIndex::new(layer), branch: None };
            let pruned = Pruned::new(&whole, &[gone]).expect("a model");
            assert_eq!(*without, found(&pruned, requests, window), "{name} without {layer}");
            assert_ne!(*without, removed.whole, "{name} without {layer}");
        }
        let passes = (layers * (layers + 1) / 2 * requests.len()) as u64;
        assert_eq!(done.into_inner(), passes, "what comes before a removed layer runs once");
        let streaming =
            StreamingDecoder::new(tiny_checkpoint(name), Device::flex()).expect("opens");
        let from_disk =
            log_likelihoods_without_layers(&streaming, requests, window, &workers, &|_| {});
        assert_eq!(from_disk.expect("scores"), removed, "{name}, from disk");
    }
}
