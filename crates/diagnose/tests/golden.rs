//! Every number of a diagnosis against a PyTorch reference computed in f64, with autograd gradients
//! and dense Jacobians (golden/diagnose_tiny.py).

use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{Device, Gradients, Tensor, TensorData},
};
use lns_checkpoint::Checkpoint;
use lns_corpus::{Window, Windows};
use lns_diagnose::{Control, Labels, Probes, diagnose};
use lns_kernels::{IGNORED, LossTerms, Workers};
use lns_model::{Decoder, LayerSource, Pruned, StreamingDecoder};
use lns_record::{Axis, DiagnoseRecord, MaskingRecord, Numbers, ProbeDescription};
use lns_score::ScoreError;
use lns_spec::{LayerIndex, Removal, Site};
use serde_json::Value;

fn folder(name: &str) -> PathBuf {
    lns_testing::golden::golden("tiny").join(name)
}

fn expected(name: &str) -> Value {
    let text = std::fs::read_to_string(folder(name).join("diagnose_expected.json"));
    serde_json::from_str(&text.expect("in the repository")).expect("valid JSON")
}

fn text(expected: &Value) -> Windows {
    let length = expected["text"]["window_len"].as_u64().expect("a number") as usize;
    let ids: Vec<u32> = flatten(&expected["ids"]).into_iter().map(|id| id as u32).collect();
    if let Some(targets) = expected.get("targets") {
        return masked_text(expected, &ids, &flatten(targets));
    }
    let window = |ids: &[u32]| Window {
        ids: ids.to_vec(),
        targets: None,
        text_bytes: Some(vec![1; length]),
    };
    let separators = flatten(&expected["separators"]).into_iter().map(|id| id as u32).collect();
    let windows = ids.chunks(length).map(window).collect();
    Windows { window: length, windows, files: Vec::new(), separators, masking: None }
}

/// As [`text`], with the tokens that an encoder is to predict; −1 where there is none.
fn masked_text(expected: &Value, ids: &[u32], targets: &[f64]) -> Windows {
    let length = expected["text"]["window_len"].as_u64().expect("a number") as usize;
    let targets: Vec<u32> =
        targets.iter().map(|id| if *id < 0.0 { IGNORED } else { *id as u32 }).collect();
    let windows = ids.chunks(length).zip(targets.chunks(length));
    let window = |(ids, targets): (&[u32], &[u32])| Window {
        ids: ids.to_vec(),
        targets: Some(targets.to_vec()),
        text_bytes: None,
    };
    let separators = flatten(&expected["separators"]).into_iter().map(|id| id as u32).collect();
    Windows {
        window: length,
        windows: windows.map(window).collect(),
        files: Vec::new(),
        separators,
        masking: Some(MaskingRecord { share: 0.15, seed: 0 }),
    }
}

fn flatten(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().flat_map(flatten).collect(),
        value => vec![value.as_f64().expect("a number")],
    }
}

fn run(source: &dyn LayerSource, text: &Windows, probes: &str, threads: usize) -> DiagnoseRecord {
    try_run(source, text, probes, threads).expect("a diagnosis")
}

fn try_run(
    source: &dyn LayerSource,
    text: &Windows,
    probes: &str,
    threads: usize,
) -> Result<DiagnoseRecord, ScoreError> {
    let control = Control { progress: &|_| {}, stop: &AtomicBool::new(false) };
    let found = controlled(source, text, probes, threads, control)?;
    Ok(found.expect("nobody stopped it"))
}

fn controlled(
    source: &dyn LayerSource,
    text: &Windows,
    probes: &str,
    threads: usize,
    control: Control<'_>,
) -> Result<Option<DiagnoseRecord>, ScoreError> {
    let workers = Workers::new(threads).expect("threads start");
    let probes: Probes = probes.parse().expect("probes");
    let labels =
        Labels { name: "tiny".to_owned(), files: Vec::new(), spell: &|id| format!("t{id}") };
    diagnose(source, text, &probes, &workers, control, labels)
}

fn model(name: &str) -> Decoder {
    let checkpoint = Checkpoint::open(&folder(name)).expect(name);
    Decoder::from_checkpoint(&checkpoint, &Device::flex()).expect(name)
}

/// Compares `found` with `expected` for every number of the reference, noting each path.
fn compare(found: &Value, expected: &Value, path: &str, compared: &mut Vec<String>) {
    const NOT_OURS: [&str; 7] =
        ["ids", "targets", "separators", "text", "model", "window_nll", "removal_per_window"];
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
    for name in ["llama", "scheme-lns", "llama-heavy"] {
        let expected = expected(name);
        let record = run(&model(name), &text(&expected), "all", 2);
        let found = serde_json::to_value(&record).expect("serialises");
        let mut compared = Vec::new();
        compare(&found, &expected, name, &mut compared);
        for key in [
            "variance_without_first",
            "variance_content",
            "variance_median",
            "mlp_variance_median",
            "attention_to_stream",
            "removal.stderr",
            "removal.margin",
            "removal_attention.delta_nll",
            "removal_mlp.delta_nll",
            "representation.cosine_distance.mean",
            "representation_mlp.mean_vector_cosine_distance.margin",
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
        let record = run(&model(name), &text(&expected), "jacobian", 2);
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
    let text = text(&expected);
    let without_times = |mut record: DiagnoseRecord| {
        record.probes.iter_mut().for_each(|probe| probe.seconds = 0.0);
        record
    };
    let first = without_times(run(&model("llama"), &text, "all", 1));
    for threads in [1, 2, 3] {
        assert_eq!(without_times(run(&model("llama"), &text, "all", threads)), first);
    }
    let checkpoint = Checkpoint::open(&folder("llama")).expect("llama");
    let streaming = StreamingDecoder::new(checkpoint, Device::flex()).expect("llama");
    assert_eq!(without_times(run(&streaming, &text, "all", 2)), first);
}

#[test]
fn a_half_precision_checkpoint_gives_no_nan_anywhere() {
    let ids: Vec<u32> = (0..24).map(|i| i * 5 % 32).collect();
    let window = Window { ids, targets: None, text_bytes: Some(vec![1; 24]) };
    let text = Windows {
        window: 24,
        windows: vec![window],
        files: Vec::new(),
        separators: Vec::new(),
        masking: None,
    };
    for name in ["llama-bf16-sharded", "qwen3-bf16-sharded", "llama-f16"] {
        let record = run(&model(name), &text, "all", 1);
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
    let text = text(&expected("llama"));
    for probes in ["default", "stream", "all"] {
        let found = try_run(&model, &text, probes, 1);
        let error = found.expect_err("infinite weights").to_string();
        assert!(error.contains("layer 1"), "{error}");
    }
}

#[test]
fn probes_that_were_not_asked_for_leave_nothing() {
    let expected = expected("llama");
    let record = run(&model("llama"), &text(&expected), "stream", 1);
    assert!(record.angular_distance.is_empty() && record.blocks.is_empty());
    assert!(record.lens.is_empty());
    assert!(record.layers.iter().all(|layer| layer.removal.is_none() && layer.cosine.is_none()));
    assert_eq!(record.stream.len(), record.layers.len() + 1);
    // Without the angular matrix the earlier streams are not kept; the numbers are the same.
    let all = run(&model("llama"), &text(&expected), "default", 1);
    assert_eq!(record.stream, all.stream);
    assert_eq!(record.baseline, all.baseline);
}

#[test]
fn heavy_tokens_are_named_and_move_means_but_not_medians() {
    let expected = expected("llama-heavy");
    let record = run(&model("llama-heavy"), &text(&expected), "default", 1);
    let found: Vec<_> = record
        .heavy_tokens
        .iter()
        .map(|heavy| (heavy.window, heavy.position, &*heavy.text, heavy.layer))
        .collect();
    // Token 7 is a separator that layer 1 blows up, token 11 has a large embedding.
    let named =
        [(0, 5, "t7", Some(1)), (0, 11, "t11", None), (1, 9, "t11", None), (2, 0, "t7", Some(1))];
    assert_eq!(found, named);
    let after = &record.stream[2];
    let (all, content, median) =
        (after.variance, after.content(), after.variance_median.expect("measured"));
    assert!(all > 2.0 * content && content > 2.0 * median, "{all}, {content}, {median}");
}

#[test]
fn the_numbers_of_every_probe_are_where_their_descriptions_say() {
    let text = text(&expected("llama"));
    let record = run(&model("llama"), &text, "all", 1);
    let numbers = Numbers::of(&record);
    for quantity in record.quantities().filter(|quantity| quantity.axis != Axis::Pair) {
        let fields = [&quantity.stderr, &quantity.margin, &quantity.stand_in].into_iter().flatten();
        for field in fields.chain([&quantity.field]) {
            let found = numbers.column(field);
            let places = record.layers.len() + usize::from(quantity.axis == Axis::Stream);
            assert_eq!(found.iter().flatten().count(), places, "{field}");
        }
    }
    // What was not asked for is named, and nothing more is said of it.
    let alone = run(&model("llama"), &text, "stream", 1);
    let without: Vec<_> = alone.described.iter().filter(|p| p.quantities.is_empty()).collect();
    assert_eq!(without.len(), alone.described.len() - 1);
    assert!(without.iter().all(|p| p.charts.is_empty() && !p.measures.is_empty()));
}

#[test]
fn the_reports_tests_draw_the_probes_as_they_describe_themselves() {
    let record = run(&model("llama"), &text(&expected("llama")), "all", 1);
    let drawn = concat!(env!("CARGO_MANIFEST_DIR"), "/../report/tests/sample/described.json");
    let text = std::fs::read_to_string(drawn).expect("in the repository");
    let sample: Vec<ProbeDescription> = serde_json::from_str(&text).expect("descriptions");
    for probe in sample {
        let own = record.described.iter().find(|own| own.name == probe.name);
        let now = serde_json::to_string_pretty(&own).expect("serialises");
        assert_eq!(own, Some(&probe), "in {drawn} it should be {now}");
    }
}

#[test]
fn a_diagnosis_of_an_earlier_version_is_described_when_it_is_read() {
    let mut record = run(&model("llama"), &text(&expected("llama")), "default", 1);
    let described = std::mem::take(&mut record.described);
    let folder = tempfile::tempdir().expect("a folder");
    let json = serde_json::to_string(&record).expect("serialises");
    std::fs::write(folder.path().join(DiagnoseRecord::FILE_NAME), json).expect("written");
    let read = lns_diagnose::read(folder.path()).expect("read again");
    assert_eq!(read.described, described);
    assert_eq!(DiagnoseRecord { described: Vec::new(), ..read }, record);
}

/// The same text `times` over.
fn repeated(text: &Windows, times: usize) -> Windows {
    let windows = text.windows.iter().cycle().take(times * text.windows.len()).cloned().collect();
    Windows { windows, ..text.clone() }
}

#[test]
fn a_stopped_diagnosis_keeps_exactly_the_windows_that_were_whole() {
    let text = repeated(&text(&expected("llama")), 3);
    let model = model("llama");
    let probes = "default".parse().expect("probes");
    let (passes, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    // Somewhere in the second batch.
    let enough = lns_diagnose::work(model.spec(), 5, &probes);
    let progress = |done: u64| {
        let all = passes.fetch_add(done, Ordering::Relaxed) + done;
        stop.fetch_or(all > enough, Ordering::Relaxed);
    };
    let control = Control { progress: &progress, stop: &stop };
    let stopped = controlled(&model, &text, "default", 1, control).expect("no error");
    let mut stopped = stopped.expect("a batch was whole");
    let whole = stopped.text.windows as usize;
    assert!((1..text.windows.len()).contains(&whole), "{whole} of {}", text.windows.len());
    let alone = Windows { windows: text.windows[..whole].to_vec(), ..text.clone() };
    let mut alone = run(&model, &alone, "default", 1);
    for record in [&mut stopped, &mut alone] {
        record.probes.clear();
    }
    assert_eq!(stopped, alone);

    stop.store(true, Ordering::Relaxed);
    let control = Control { progress: &|_| {}, stop: &stop };
    let nothing = controlled(&model, &text, "all", 1, control).expect("no error");
    assert_eq!(nothing, None, "no window was whole");
}

/// Diagnosed until costs are known to ±`error`.
fn run_until(
    source: &dyn LayerSource,
    text: &Windows,
    probes: &str,
    error: f64,
    control: Control<'_>,
) -> Option<DiagnoseRecord> {
    let probes: Probes = probes.parse().expect("probes");
    let probes = probes.with_removal_error(Some(error));
    let labels =
        Labels { name: "tiny".to_owned(), files: Vec::new(), spell: &|id| format!("t{id}") };
    let workers = Workers::new(2).expect("threads start");
    diagnose(source, text, &probes, &workers, control, labels).expect("no error")
}

/// Eighteen windows: three of the reference, one after the other.
fn eighteen_windows() -> Windows {
    let text = repeated(&text(&expected("llama")), 6);
    assert_eq!(text.windows.len(), 18);
    text
}

#[test]
fn a_removal_that_is_known_early_is_that_of_the_first_windows_and_tells_how_many() {
    let (text, model) = (eighteen_windows(), model("llama"));
    let control = Control { progress: &|_| {}, stop: &AtomicBool::new(false) };
    let probes = "default,sublayers";
    let record = run_until(&model, &text, probes, 0.02, control).expect("nobody stopped it");
    let full = run(&model, &text, probes, 1);
    // Everything that is not left out is measured on every window, as ever.
    assert_eq!((&record.baseline, &record.stream), (&full.baseline, &full.stream));
    assert_eq!(record.angular_distance, full.angular_distance);
    assert_eq!(record.removal_error, Some(0.02));
    let mut seen = Vec::new();
    for (layer, full) in record.layers.iter().zip(&full.layers) {
        let parts = [
            (layer.removal, full.removal, "representation"),
            (layer.removal_attention, full.removal_attention, "representation_attention"),
            (layer.removal_mlp, full.removal_mlp, "representation_mlp"),
        ];
        for (found, full, representation) in parts {
            let (found, full) = (found.expect("measured"), full.expect("measured"));
            assert_eq!(full.windows, Some(18));
            let windows = found.windows.expect("counted") as usize;
            assert!([4, 8, 16, 18].contains(&windows), "{windows}");
            seen.push(windows);
            let first = Windows { windows: text.windows[..windows].to_vec(), ..text.clone() };
            let first = run(&model, &first, probes, 1);
            let first = &first.layers[layer.layer];
            let alone = match representation {
                "representation" => first.removal,
                "representation_attention" => first.removal_attention,
                _ => first.removal_mlp,
            };
            let alone = alone.expect("measured");
            // To rounding: other variants stand beside it in the products.
            let close = |a: Option<f64>, b: Option<f64>| (a.unwrap() - b.unwrap()).abs() < 1e-6;
            assert!(close(Some(found.delta_nll), Some(alone.delta_nll)), "{found:?} {alone:?}");
            assert!(close(found.stderr, alone.stderr), "{found:?} {alone:?}");
            assert!(found.margin > alone.margin, "the looks are allowed for");
            let change = |layer: &lns_record::LayerRecord| {
                layer.more[representation]["cosine_distance"]["mean"].as_f64()
            };
            assert!(close(change(layer), change(first)));
        }
    }
    assert!(seen.contains(&4) && seen.iter().any(|windows| *windows > 4), "{seen:?}");
    let said = record.verdict.evidence.join(" ");
    assert!(said.contains("of 18, ") && said.contains("% of the work of all"), "{said}");
    // The table and the page are told to say it.
    let numbers = Numbers::of(&record);
    let windows: Vec<_> = record.quantities().filter(|q| q.field.ends_with(".windows")).collect();
    assert_eq!(windows.len(), 3);
    assert!(windows.iter().all(|quantity| numbers.has(quantity)));
    assert!(full.quantities().all(|quantity| !quantity.field.ends_with(".windows")));
}

#[test]
fn a_diagnosis_that_ends_removals_early_and_is_stopped_is_that_of_the_windows_it_kept() {
    let (text, model) = (eighteen_windows(), model("llama"));
    let work = lns_diagnose::work(model.spec(), 18, &"default".parse().expect("probes"));
    for share in [3, 5, 8] {
        let (passes, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        let progress = |done: u64| {
            let all = passes.fetch_add(done, Ordering::Relaxed) + done;
            stop.fetch_or(all > work * share / 10, Ordering::Relaxed);
        };
        let control = Control { progress: &progress, stop: &stop };
        let mut stopped =
            run_until(&model, &text, "default", 1e-9, control).expect("four at least");
        let whole = stopped.text.windows as usize;
        assert!((4..18).contains(&whole), "{whole}");
        let alone = Windows { windows: text.windows[..whole].to_vec(), ..text.clone() };
        let control = Control { progress: &|_| {}, stop: &AtomicBool::new(false) };
        let mut alone = run_until(&model, &alone, "default", 1e-9, control).expect("whole");
        for record in [&mut stopped, &mut alone] {
            record.probes.clear();
        }
        assert_eq!(stopped, alone);
    }
}

#[test]
fn the_work_of_removals_that_end_early_is_at_most_what_was_announced_and_adds_up_to_it() {
    let (text, model) = (eighteen_windows(), model("llama"));
    for (probes, error) in [("default", 0.02), ("removal,sublayers", 1e-9), ("all", 1.0)] {
        let passes = AtomicU64::new(0);
        let progress = |done: u64| {
            passes.fetch_add(done, Ordering::Relaxed);
        };
        let control = Control { progress: &progress, stop: &AtomicBool::new(false) };
        run_until(&model, &text, probes, error, control).expect("nobody stopped it");
        let announced = lns_diagnose::work(model.spec(), 18, &probes.parse().expect("probes"));
        assert_eq!(passes.into_inner(), announced, "{probes}");
    }
}

#[test]
fn a_diagnosis_from_disk_ends_removals_where_one_in_memory_does() {
    let text = eighteen_windows();
    let without_times = |record: Option<DiagnoseRecord>| {
        let mut record = record.expect("nobody stopped it");
        record.probes.clear();
        record
    };
    let checkpoint = Checkpoint::open(&folder("llama")).expect("llama");
    let streaming = StreamingDecoder::new(checkpoint, Device::flex()).expect("llama");
    let control = Control { progress: &|_| {}, stop: &AtomicBool::new(false) };
    assert_eq!(
        without_times(run_until(&streaming, &text, "all", 0.02, control)),
        without_times(run_until(&model("llama"), &text, "all", 0.02, control))
    );
}

#[test]
fn a_probe_that_was_stopped_leaves_no_number() {
    let text = text(&expected("llama"));
    let model = model("llama");
    let shared = "default".parse().expect("probes");
    let (passes, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let enough = lns_diagnose::work(model.spec(), text.windows.len(), &shared);
    let progress = |done: u64| {
        let all = passes.fetch_add(done, Ordering::Relaxed) + done;
        stop.fetch_or(all > enough, Ordering::Relaxed);
    };
    let control = Control { progress: &progress, stop: &stop };
    let found = controlled(&model, &text, "default,gradients,jacobian", 1, control);
    let record = found.expect("no error").expect("every window was whole");
    assert_eq!(record.text.windows as usize, text.windows.len());
    assert!(record.layers.iter().all(|layer| layer.removal.is_some()));
    assert!(record.layers.iter().all(|layer| layer.gradient_norm.is_none()));
    assert!(record.layers.iter().all(|layer| layer.jacobian_identity_distance.is_none()));
}

#[test]
fn weights_beyond_the_range_of_f32_are_an_error_in_every_probe() {
    let text = text(&expected("llama"));
    let scale = 1e20;
    let mut model = model("llama");
    for layer in &mut model.layers {
        let down = &mut layer.mlp.as_mut().expect("whole").down_proj.weight;
        *down = down.clone().map(|weight| weight.mul_scalar(scale));
        let out = &mut layer.self_attn.as_mut().expect("whole").o_proj.weight;
        *out = out.clone().map(|weight| weight.mul_scalar(scale));
    }
    for probes in ["stream", "default", "gradients", "jacobian", "all"] {
        match try_run(&model, &text, probes, 1) {
            Err(error) => assert!(error.to_string().contains("not a finite number"), "{error}"),
            Ok(record) => {
                let mut json = serde_json::to_value(&record).expect("serialises");
                json["model"].take();
                assert_eq!(json.to_string().matches("null").count(), 1, "{probes}: {json}");
            }
        }
    }
    let error = try_run(&model, &text, "jacobian", 1).expect_err("no Jacobian of such weights");
    assert!(error.to_string().contains("the Jacobian of layer 1"), "{error}");
}

#[test]
fn removals_cost_what_models_without_the_part_lose_in_families_that_join_branches_otherwise() {
    for name in
        ["gpt_neox", "gpt2", "gemma3_text", "olmo2", "granite", "mixtral", "qwen3_moe", "gpt_oss"]
    {
        let model = model(name);
        let ids: Vec<u32> = (0..48).map(|i| (i * i * 7 + 3) % 96).collect();
        let windows: Vec<Window> = ids
            .chunks(16)
            .map(|ids| Window {
                ids: ids.to_vec(),
                targets: None,
                text_bytes: Some(vec![1; ids.len()]),
            })
            .collect();
        let text = Windows {
            window: 16,
            windows,
            files: Vec::new(),
            separators: Vec::new(),
            masking: None,
        };
        let loss = |source: &dyn LayerSource| {
            run(source, &text, "stream", 1).baseline.expect("a loss").nll
        };
        let whole = loss(&model);
        let record = run(&model, &text, "removal,sublayers", 1);
        for (index, layer) in record.layers.iter().enumerate() {
            for (branch, found) in [
                (None, &layer.removal),
                (Some(Site::Attention), &layer.removal_attention),
                (Some(Site::Mlp), &layer.removal_mlp),
            ] {
                let removal = Removal { layer: LayerIndex::new(index), branch };
                let view = Pruned::new(&model, &[removal]).expect("prunes");
                let wanted = loss(&view) - whole;
                let found = found.as_ref().expect("measured").delta_nll;
                assert!((found - wanted).abs() < 1e-5, "{name} {removal}: {found} {wanted}");
            }
        }
    }
}

/// Σ of the squares of each layer's gradients.
struct Squares<'a> {
    gradients: &'a Gradients,
    layer: Option<usize>,
    path: Vec<String>,
    sums: Vec<f64>,
}

impl ModuleVisitor for Squares<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
        if let [layers, layer] = &self.path[..]
            && layers == "layers"
        {
            self.layer = layer.parse().ok();
        }
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
        self.layer = self.layer.filter(|_| self.path.len() > 1);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let (Some(layer), Some(gradient)) = (self.layer, param.val().grad(self.gradients)) else {
            return;
        };
        self.sums[layer] +=
            gradient.into_data().iter::<f32>().map(|x| f64::from(x).powi(2)).sum::<f64>();
    }
}

#[test]
fn gradients_of_experts_are_added_up_though_each_window_meets_others() {
    // Three tokens go to two or three experts each, of four or six; a window need not meet them all.
    let ids: Vec<u32> = (0..24).map(|i| (i * i * 7 + 3) % 96).collect();
    let windows = ids
        .chunks(3)
        .map(|ids| Window {
            ids: ids.to_vec(),
            targets: None,
            text_bytes: Some(vec![1; ids.len()]),
        })
        .collect();
    let text =
        Windows { window: 3, windows, files: Vec::new(), separators: Vec::new(), masking: None };
    for name in ["mixtral", "gpt_oss"] {
        let model = model(name);
        let record = run(&model, &text, "gradients", 1);

        let model = Module::train(model);
        let rows: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
        let data = TensorData::new(rows, [8, 3]);
        let tokens = Tensor::from_data(data, &model.device());
        let targets: Vec<u32> =
            ids.chunks(3).flat_map(|row| [row[1], row[2], lns_spec::IGNORED]).collect();
        let terms = LossTerms { weight: 1.0 / 16.0, z_loss: 0.0 };
        let (loss, _) = model.loss(tokens, &targets, terms);
        let gradients = loss.backward();
        let mut squares =
            Squares { gradients: &gradients, layer: None, path: Vec::new(), sums: vec![0.0; 3] };
        model.visit(&mut squares);
        for (layer, sum) in record.layers.iter().zip(squares.sums) {
            let (found, wanted) = (layer.gradient_norm.expect("measured"), sum.sqrt());
            assert!((found / wanted - 1.0).abs() < 1e-4, "{name}, layer {}: {found}", layer.layer);
        }
    }
}

#[test]
fn the_share_of_tokens_of_each_expert_is_what_transformers_sends_there() {
    let model = model("qwen3_moe");
    let bytes = std::fs::read(folder("qwen3_moe").join("expected.safetensors")).expect("is there");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a valid file");
    let numbers = |name: &str| -> Option<Vec<usize>> {
        let data = file.tensor(name).ok()?.data().to_vec();
        let of = |four: &[u8]| f32::from_le_bytes(four.try_into().expect("four bytes")) as usize;
        Some(data.chunks_exact(4).map(of).collect())
    };
    let ids: Vec<u32> =
        numbers("input_ids").expect("ids").into_iter().map(|id| id as u32).collect();
    let length = ids.len() / 2;
    let windows = ids
        .chunks(length)
        .map(|ids| Window { ids: ids.to_vec(), targets: None, text_bytes: Some(vec![1; length]) })
        .collect();
    let text = Windows {
        window: length,
        windows,
        files: Vec::new(),
        separators: Vec::new(),
        masking: None,
    };
    let record = run(&model, &text, "experts", 1);
    for layer in &record.layers {
        let Some(chosen) = numbers(&format!("experts.{}", layer.layer)) else {
            assert_eq!(layer.layer, 1, "only that layer has an MLP");
            assert!(!layer.more.contains_key("experts"));
            continue;
        };
        // The first token of a window is no content.
        let content = chosen.chunks(3).enumerate().filter(|(token, _)| token % length != 0);
        let mut counts = [0.0; 6];
        content.flat_map(|(_, own)| own).for_each(|expert| counts[*expert] += 1.0);
        let found = flatten(&layer.more["experts"]["load"]);
        let wanted = counts.map(|count| count / (2 * (length - 1)) as f64);
        assert_eq!(found, wanted, "layer {}", layer.layer);
    }
    let said = &record.verdict.evidence;
    assert!(said.iter().any(|s| s.starts_with("Tokens are spread least evenly")), "{said:?}");
}

#[test]
fn a_probe_that_means_nothing_for_a_model_is_left_out_or_refused_by_name() {
    let dense = model("llama").spec().clone();
    let probes = |text: &str| text.parse::<Probes>().expect("probes").for_model(&dense);
    let all = probes("all").expect("what suits").to_string();
    assert!(all.contains("angular,removal") && !all.contains("experts"), "{all}");
    let error = probes("stream,experts").expect_err("there are none").to_string();
    assert!(error.contains("\"experts\" measures") && error.contains("leave it out"), "{error}");
    let mixture = model("mixtral").spec().clone();
    let suits = "all".parse::<Probes>().expect("probes").for_model(&mixture);
    assert!(suits.expect("all suit").to_string().contains("experts"));
    // Nobody is told to measure what there is not.
    let record = run(&model("llama"), &text(&expected("llama")), "stream", 1);
    assert!(record.described.iter().all(|probe| probe.name != "experts"));
}

#[test]
fn an_encoder_is_measured_by_masked_tokens_and_without_a_head_by_its_output_alone() {
    for (name, has_head) in [("bert", true), ("bert-headless", false)] {
        let (expected, model) = (expected(name), model(name));
        let (text, probes) = (text(&expected), if has_head { "all" } else { "default,sublayers" });
        let text = if has_head { text } else { Windows { masking: None, ..text } };
        let record = run(&model, &text, probes, 2);
        let found = serde_json::to_value(&record).expect("serialises");
        let mut compared = Vec::new();
        compare(&found, &expected, name, &mut compared);
        assert!(compared.iter().any(|path| path.ends_with("representation_mlp.relative_l2.mean")));
        assert_eq!(compared.iter().any(|path| path.contains("gradient_norm")), has_head);
        assert_eq!(record.baseline.is_some(), has_head);
        let said = format!("{} {}", record.verdict.text, record.verdict.evidence.join(" "));
        assert_eq!(said.contains("nats"), has_head, "{said}");
        assert_eq!(said.contains("per masked token"), has_head, "{said}");
        assert_eq!(said.contains("no head"), !has_head, "{said}");
        assert!(said.contains("turns the last hidden state"), "{said}");
        // What is described is measured, and nothing else is.
        let numbers = Numbers::of(&record);
        for quantity in record.quantities() {
            assert!(numbers.has(quantity), "{name}: {}", quantity.field);
        }
    }
}

#[test]
fn probes_that_take_a_loss_are_refused_by_name_without_one_and_left_out_of_all() {
    let headless = model("bert-headless").spec().clone();
    let probes = |text: &str| text.parse::<Probes>().expect("probes").for_model(&headless);
    for name in ["gradients", "lens", "attribution"] {
        let error = probes(name).expect_err(name).to_string();
        assert!(error.contains("no head and so no loss"), "{error}");
    }
    let all = probes("all").expect("what suits").to_string();
    assert_eq!(all, "stream,branches,angular,removal,sublayers,jacobian");
}
