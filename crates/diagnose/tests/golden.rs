//! Every number of a diagnosis against a PyTorch reference computed in f64, with autograd gradients
//! and dense Jacobians (golden/diagnose_tiny.py).

use std::path::PathBuf;

use burn::tensor::Device;
use layernorm_scaling::{Decoder, LayerSource, StreamingDecoder};
use lns_checkpoint::Checkpoint;
use lns_data::Window;
use lns_diagnose::{Probes, diagnose};
use lns_kernels::Workers;
use lns_record::DiagnoseRecord;
use serde_json::Value;

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../golden/tiny").join(name)
}

fn expected(name: &str) -> Value {
    let text = std::fs::read_to_string(folder(name).join("diagnose_expected.json"));
    serde_json::from_str(&text.expect("in the repository")).expect("valid JSON")
}

fn windows(expected: &Value) -> Vec<Window> {
    let length = expected["text"]["window_len"].as_u64().expect("a number") as usize;
    let ids: Vec<u32> = flatten(&expected["ids"]).into_iter().map(|id| id as u32).collect();
    let window = |ids: &[u32]| Window { ids: ids.to_vec(), bytes: vec![1; length] };
    ids.chunks(length).map(window).collect()
}

fn flatten(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().flat_map(flatten).collect(),
        value => vec![value.as_f64().expect("a number")],
    }
}

fn run(
    source: &dyn LayerSource,
    windows: &[Window],
    probes: &str,
    threads: usize,
) -> DiagnoseRecord {
    let workers = Workers::new(threads).expect("threads start");
    let probes: Probes = probes.parse().expect("probes");
    let labels = ("tiny".to_owned(), Vec::new());
    diagnose(source, windows, &probes, &workers, &|_| {}, labels).expect("a diagnosis")
}

fn model(name: &str) -> Decoder {
    let checkpoint = Checkpoint::open(&folder(name)).expect(name);
    Decoder::from_checkpoint(&checkpoint, &Device::flex()).expect(name)
}

/// Compares `found` with `expected` for every number of the reference, noting each path.
fn compare(found: &Value, expected: &Value, path: &str, compared: &mut Vec<String>) {
    const NOT_OURS: [&str; 5] = ["ids", "text", "model", "window_nll", "removal_per_window"];
    match expected {
        Value::Object(map) => {
            for (key, expected) in map {
                if !NOT_OURS.contains(&key.as_str()) && !key.starts_with("jacobian") {
                    compare(&found[key], expected, &format!("{path}.{key}"), compared);
                }
            }
        }
        Value::Array(list) => {
            assert_eq!(found.as_array().map(Vec::len), Some(list.len()), "{path}");
            for (index, expected) in list.iter().enumerate() {
                compare(&found[index], expected, &format!("{path}[{index}]"), compared);
            }
        }
        Value::Number(expected) => {
            let expected = expected.as_f64().expect("a number");
            let found = found.as_f64().unwrap_or_else(|| panic!("{path} is missing: {found}"));
            let bound = 2e-5 * expected.abs().max(0.05);
            assert!((found - expected).abs() < bound, "{path}: {found}, expected {expected}");
            compared.push(path.to_owned());
        }
        _ => {}
    }
}

#[test]
fn every_number_equals_the_reference() {
    for name in ["llama", "scheme-lns"] {
        let expected = expected(name);
        let record = run(&model(name), &windows(&expected), "all", 2);
        let found = serde_json::to_value(&record).expect("serialises");
        let mut compared = Vec::new();
        compare(&found, &expected, name, &mut compared);
        for key in [
            "variance_without_first",
            "removal.stderr",
            "removal_attention.delta_nll",
            "removal_mlp.delta_nll",
            "gradient_norm",
            "stream_gradient_norm",
            "angular_distance",
            "branch_to_stream",
            "kl",
        ] {
            assert!(compared.iter().any(|path| path.contains(key)), "{name}: {key} not compared");
        }
    }
}

#[test]
fn the_random_vector_estimate_of_the_jacobian_is_within_its_error_of_the_dense_one() {
    for name in ["llama", "scheme-lns"] {
        let expected = expected(name);
        let record = run(&model(name), &windows(&expected), "jacobian", 2);
        let reference = expected["layers"].as_array().expect("layers");
        for (layer, reference) in record.layers.iter().zip(reference) {
            let exact = reference["jacobian_identity_distance"].as_f64().expect("a number");
            let found = layer.jacobian_identity_distance.expect("measured");
            let stderr = layer.jacobian_stderr.expect("several vectors");
            let what = format!("{name} {}: {found} ± {stderr}, exactly {exact}", layer.layer);
            assert!((found - exact).abs() < 3.0 * stderr, "{what}");
            assert!(stderr < 0.15 * exact, "the estimate says nothing: {what}");
        }
    }
}

#[test]
fn threads_streaming_and_repeats_give_the_same_bits() {
    let expected = expected("llama");
    let windows = windows(&expected);
    let without_times = |mut record: DiagnoseRecord| {
        record.probes.iter_mut().for_each(|probe| probe.seconds = 0.0);
        record
    };
    let first = without_times(run(&model("llama"), &windows, "all", 1));
    for threads in [1, 2, 3] {
        assert_eq!(without_times(run(&model("llama"), &windows, "all", threads)), first);
    }
    let checkpoint = Checkpoint::open(&folder("llama")).expect("llama");
    let streaming = StreamingDecoder::new(checkpoint, Device::flex()).expect("llama");
    assert_eq!(without_times(run(&streaming, &windows, "all", 2)), first);
}

#[test]
fn a_half_precision_checkpoint_gives_no_nan_anywhere() {
    let ids: Vec<u32> = (0..24).map(|i| i * 5 % 32).collect();
    let windows = [Window { ids, bytes: vec![1; 24] }];
    for name in ["llama-bf16-sharded", "qwen3-bf16-sharded", "llama-f16"] {
        let record = run(&model(name), &windows, "all", 1);
        let mut record_as_json = serde_json::to_value(&record).expect("serialises");
        record_as_json["model"].take();
        let nulls = record_as_json.to_string().matches("null").count();
        assert_eq!(nulls, 1, "{name}: NaN and infinity are written as null, as is the model here");
        assert!(record.angular_distance.iter().flatten().all(|d| (0.0..=1.0).contains(d)));
        assert!(record.stream.iter().all(|s| s.variance.is_finite() && s.rms.is_finite()));
    }
}

#[test]
fn a_model_that_yields_no_numbers_is_an_error_that_names_the_layer() {
    let mut model = model("llama");
    let down = &mut model.layers[1].mlp.as_mut().expect("whole").down_proj.weight;
    *down = down.clone().map(|weight| weight.mul_scalar(f32::INFINITY));
    let (workers, windows) = (Workers::new(1).expect("threads start"), windows(&expected("llama")));
    for probes in ["default", "stream", "all"] {
        let probes: Probes = probes.parse().expect("probes");
        let labels = (String::new(), Vec::new());
        let found = diagnose(&model, &windows, &probes, &workers, &|_| {}, labels);
        let error = found.expect_err("infinite weights").to_string();
        assert!(error.contains("after layer 1"), "{error}");
    }
}

#[test]
fn probes_that_were_not_asked_for_leave_nothing() {
    let expected = expected("llama");
    let record = run(&model("llama"), &windows(&expected), "stream", 1);
    assert!(record.angular_distance.is_empty() && record.blocks.is_empty());
    assert!(record.lens.is_empty());
    assert!(record.layers.iter().all(|layer| layer.removal.is_none() && layer.cosine.is_none()));
    assert_eq!(record.stream.len(), record.layers.len() + 1);
    // Without the angular matrix the earlier streams are not kept; the numbers are the same.
    let all = run(&model("llama"), &windows(&expected), "default", 1);
    assert_eq!(record.stream, all.stream);
    assert_eq!(record.baseline, all.baseline);
}
