//! Conversions as a program that uses the library makes them.

use std::{fs, path::Path};

use lns_checkpoint::{Checkpoint, StorageType};
use lns_convert::{
    ConvertError, Existing, Job, PlaceError, Tolerance, chosen_plan, effect, export_gguf, fold,
    folded_from, given_plan, prune, read_plan, retrofit, unfold,
};
use lns_corpus::{Window, Windows};
use lns_diagnose::{Choice, PruneRule, choose};
use lns_kernels::{Compute, Workers};
use lns_model::{LayerSource, Layers, Pruned, Retrofit, open_layers};
use lns_record::{ProvenanceRecord, pretty_json};
use lns_score::{Comparison, evaluate};
use lns_spec::{DepthScale, LayerIndex, Part, Removal};
use lns_testing::golden::tiny_checkpoint;
use tempfile::TempDir;

fn text(windows: u32) -> Windows {
    let window = |window: u32| Window {
        ids: (0..24).map(|i| (i * 11 + window * 29 + 1) % 96).collect(),
        targets: None,
        text_bytes: None,
    };
    let windows = (0..windows).map(window).collect();
    Windows { window: 24, windows, files: Vec::new(), separators: Vec::new(), masking: None }
}

fn compute() -> Compute {
    Compute::on_cpu(1).expect("a thread starts")
}

/// Writes a job and measures it; what is then done with it is `finish`'s.
fn compared(job: &Job<'_>, place: &Path) -> (Comparison, ProvenanceRecord) {
    let mut written = job.write(place, Existing::Kept, &|_| {}).expect("writes");
    assert!(!place.exists(), "nothing is in place before it is committed");
    let found = written.compare(&text(2), &compute(), Layers::InMemory, &|_| {}).expect("measures");
    (found, written.commit().expect("commits"))
}

#[test]
fn a_retrofit_and_its_folding_hold_the_tolerance_that_their_rounding_explains() {
    let dir = TempDir::new().expect("a temporary folder");
    let (scaled, folded) = (dir.path().join("scaled"), dir.path().join("folded"));
    for name in ["llama", "llama-bf16-sharded"] {
        let source = tiny_checkpoint(name);
        let job = retrofit(&source, Retrofit::Preserve, DepthScale::default()).expect("a job");
        let tolerance = Tolerance::of(&job.conversion.rounding().expect("reads"));
        let (found, record) = compared(&job, &scaled);
        tolerance.require(&found).expect("the same function");
        let measured = record.measured.expect("measured");
        assert_eq!(measured["nll_after"], found.nll[1]);

        let between = Checkpoint::open(&scaled).expect("a checkpoint");
        let job = fold(&between).expect("a job");
        let tolerance = Tolerance::of(&job.conversion.rounding().expect("reads"));
        tolerance.require(&compared(&job, &folded).0).expect("the same function");
        let plain = Checkpoint::open(&folded).expect("a checkpoint");
        assert_eq!(folded_from(&plain), Some(DepthScale::default()));
        let again = unfold(&plain, DepthScale::default()).expect("a job");
        assert_eq!(again.conversion.spec().norm_scheme, between.spec().norm_scheme);
        for folder in [&scaled, &folded] {
            fs::remove_dir_all(folder).expect("removes");
        }
    }
}

#[test]
fn a_result_that_differs_by_more_is_told_and_what_is_not_committed_was_never_there() {
    let dir = TempDir::new().expect("a temporary folder");
    let place = dir.path().join("replaced");
    let source = tiny_checkpoint("llama");
    let job = retrofit(&source, Retrofit::Replace, DepthScale::default()).expect("a job");
    let tolerance = Tolerance::of(&job.conversion.rounding().expect("reads"));
    let mut written = job.write(&place, Existing::Kept, &|_| {}).expect("writes");
    let passes = std::sync::atomic::AtomicU64::new(0);
    let count = |more| {
        passes.fetch_add(more, std::sync::atomic::Ordering::Relaxed);
    };
    let text = text(2);
    let found = written.compare(&text, &compute(), Layers::OnDisk, &count).expect("measures");
    assert_eq!(passes.into_inner(), written.work(&text));
    let error = tolerance.require(&found).expect_err("another function");
    assert!(!ConvertError::from(error).is_input());
    drop(written);
    assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 0);
}

#[test]
fn a_place_that_holds_something_else_is_refused_before_anything_is_written() {
    let dir = TempDir::new().expect("a temporary folder");
    let model = dir.path().join("model");
    fs::create_dir(&model).expect("makes");
    let golden = tiny_checkpoint("llama");
    for file in golden.all_files() {
        fs::copy(&file, model.join(file.file_name().expect("named"))).expect("copies");
    }
    let source = Checkpoint::open(&model).expect("a checkpoint");
    let job = retrofit(&source, Retrofit::Preserve, DepthScale::default()).expect("a job");
    let refused = |place: &Path, existing| match job.write(place, existing, &|_| {}) {
        Err(ConvertError::Place(error)) => error,
        other => panic!("{other:?}"),
    };
    let both = [Existing::Kept, Existing::Replaced];
    for existing in both {
        assert!(matches!(refused(&model, existing), PlaceError::HoldsSource { .. }));
        assert!(matches!(refused(dir.path(), existing), PlaceError::HoldsSource { .. }));
        let other = dir.path().join("other");
        fs::create_dir_all(&other).expect("makes");
        fs::write(other.join("letters.txt"), "dear").expect("writes");
        assert!(matches!(refused(&other, existing), PlaceError::NoModel { .. }));
        let file = other.join("letters.txt");
        assert!(matches!(refused(&file, existing), PlaceError::File { .. }));
        assert_eq!(fs::read(file).expect("there"), b"dear");
    }
    let place = dir.path().join("scaled");
    job.write(&place, Existing::Kept, &|_| {}).expect("writes").commit().expect("commits");
    assert!(matches!(refused(&place, Existing::Kept), PlaceError::Taken { .. }));
    job.write(&place, Existing::Replaced, &|_| {}).expect("writes").commit().expect("commits");
    let gguf = export_gguf(&source, None).expect("a job");
    let error = gguf.write(&place, Existing::Replaced, "tiny", None, &|_| {}).expect_err("refused");
    assert!(matches!(error, ConvertError::Place(PlaceError::Folder { .. })), "{error}");
}

#[test]
fn experts_of_four_bits_stay_so_in_a_gguf_file_unless_it_is_asked_for_more() {
    let source = tiny_checkpoint("gpt_oss-mxfp4");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("experts.gguf");
    for (asked, experts) in [(None, StorageType::MXFP4), (Some(StorageType::F32), StorageType::F32)]
    {
        let export = export_gguf(&source, asked).expect("a job");
        export.write(&path, Existing::Replaced, "tiny", None, &|_| {}).expect("writes");
        let file = Checkpoint::open(&path).expect("opens");
        assert!(file.audit().is_clean(), "{}", file.audit());
        for tensor in source.spec().tensors() {
            let stored = file.holder(&tensor).expect("is there");
            let is_matrix = tensor.id.expert.is_some() && tensor.id.part == Part::Weight;
            assert_eq!(stored.dtype == experts, is_matrix || asked.is_some(), "{}", stored.name);
            let (before, after) = (source.read(&tensor), file.read(&tensor));
            assert_eq!(after.expect("readable"), before.expect("readable"), "{}", tensor.name);
        }
    }
    let dense = tiny_checkpoint("llama");
    let refused = export_gguf(&dense, Some(StorageType::MXFP4));
    assert!(refused.expect_err("no experts").to_string().contains("MXFP4"));
}

#[test]
fn what_a_choice_measured_is_what_measuring_again_finds() {
    let source = tiny_checkpoint("llama");
    let (text, workers) = (text(4), Workers::new(1).expect("a thread starts"));
    let compute = compute();
    let model =
        open_layers(tiny_checkpoint("llama"), Layers::InMemory, &compute.device, compute.precision)
            .expect("loads");
    for (rule, count, branches) in [
        (PruneRule::Removal, 2, false),
        (PruneRule::Deepest, 1, false),
        (PruneRule::Removal, 3, true),
    ] {
        let rounds = if rule == PruneRule::Removal { count } else { 1 };
        let choice = Choice { rule, count, rounds, branches, max_increase: None, costs: &[] };
        let chosen = choose(&*model, &text, &choice, &workers, &mut |_, _| {}).expect("chooses");
        let plan = chosen_plan(&source, rule, &chosen).expect("a plan");
        assert_eq!(plan.removals().len(), count);
        let pruned = chosen.pruned.as_ref().expect("measured");
        let known = [&chosen.baseline, pruned];
        let removals = plan.removals();
        let known =
            effect(&*model, &removals, &text, Some(known), &workers).expect("measures speed");
        let anew = effect(&*model, &removals, &text, None, &workers).expect("measures");
        assert_eq!((known.nll, known.rise_stderr), (anew.nll, anew.rise_stderr), "{rule}");
        assert_eq!(plan.steps[count - 1].nll, Some(known.nll[1]));
        assert!(known.tokens_per_second.iter().all(|speed| *speed > 0.0));
    }
    // Nothing goes within no rise at all: there is nothing to measure either.
    let choice = Choice {
        rule: PruneRule::Removal,
        count: 1,
        rounds: 1,
        branches: false,
        max_increase: Some(-10.0),
        costs: &[],
    };
    let chosen = choose(&*model, &text, &choice, &workers, &mut |_, _| {}).expect("chooses");
    assert!(chosen.refused.is_some() && chosen.pruned.is_none() && chosen.steps.is_empty());
}

#[test]
fn a_plan_is_done_again_on_its_model_and_refused_on_another() {
    let dir = TempDir::new().expect("a temporary folder");
    let source = tiny_checkpoint("llama");
    let removals = vec![Removal { layer: LayerIndex::new(1), branch: None }];
    let plan = given_plan(&source, removals.clone()).expect("a plan");
    let job = prune(&source, &plan).expect("a job");
    let place = dir.path().join("pruned");
    let record = job.write(&place, Existing::Kept, &|_| {}).expect("writes").commit();
    assert_eq!(record.expect("commits").verb, "prune");
    // The file that is written beside the model is the plan.
    let path = place.join("prune.json");
    assert_eq!(fs::read(&path).expect("there"), pretty_json(&plan).expect("JSON"));
    assert_eq!(read_plan(&path, &source).expect("its model"), plan);
    let pruned = Checkpoint::open(&place).expect("a checkpoint");
    let error = read_plan(&path, &pruned).expect_err("another model");
    assert!(matches!(error, ConvertError::OtherPlan { .. }) && error.is_input(), "{error}");

    let (compute, text) = (compute(), text(1));
    let load = |checkpoint| {
        open_layers(checkpoint, Layers::OnDisk, &compute.device, compute.precision).expect("loads")
    };
    let whole = load(tiny_checkpoint("llama"));
    let view = Pruned::new(&*whole, &removals).expect("a view");
    let written = load(Checkpoint::open(&place).expect("a checkpoint"));
    let losses = [&view as &dyn LayerSource, &*written].map(|model| {
        evaluate(model, &text.windows, &compute.workers, &|_| {}).expect("evaluates").nll()
    });
    assert_eq!(losses[0], losses[1]);
}

#[test]
fn the_source_of_a_pruning_is_hashed_once() {
    let dir = TempDir::new().expect("a temporary folder");
    for file in tiny_checkpoint("llama").all_files() {
        fs::copy(&file, dir.path().join(file.file_name().expect("named"))).expect("copies");
    }
    let source = Checkpoint::open(dir.path()).expect("a checkpoint");
    let fingerprint = source.fingerprint().expect("hashes");
    let provenance = |source: &Checkpoint| {
        source.provenance("prune", source.spec(), serde_json::Value::Null).expect("hashes")
    };
    let expected = provenance(&tiny_checkpoint("llama"));
    // What is opened is what counts, and not what is put in its place; reading it again would tell.
    let weights = dir.path().join("model.safetensors");
    let other = dir.path().join("other");
    fs::write(&other, b"of another length").expect("writes");
    fs::rename(&other, &weights).expect("replaces");
    assert_eq!(source.fingerprint().expect("known"), fingerprint);
    let weights = |record: ProvenanceRecord| {
        let file = record.source_files.into_iter().find(|file| file.name == "model.safetensors");
        file.expect("the weights").sha256
    };
    assert_eq!(weights(provenance(&source)), weights(expected));
}
