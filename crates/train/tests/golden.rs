//! Training against PyTorch: every norm scheme from the same weights on the same batches, one step and
//! twenty (golden/train_schemes.py).

use std::{borrow::Cow, collections::BTreeMap};

use lns_checkpoint::{Checkpoint, NamedTensor, write_tensors};
use lns_kernels::{IGNORED, cpu_device};
use lns_model::Decoder;
use lns_spec::{
    ModelSpec, NormScheme,
    schemes::{BranchRule, BranchScale, Progressive},
};
use lns_train::{Adam, AdamW, Batch, Compute, Decay, Muon, Optimiser, Trainer, TrainingOptions};
use safetensors::SafeTensors;
use serde::Deserialize;
use serde_json::{Map, Value, json};

const LENGTH: u64 = 12;
const SEQUENCES: u64 = 4;
const LEARNING_RATE: f64 = 3e-3;
/// Of four sequences: all by one, and one, one and two.
const THREADS: [usize; 2] = [1, 3];

#[derive(Deserialize)]
struct Golden {
    /// `config.json` but for the scheme.
    shape: Map<String, Value>,
    runs: BTreeMap<String, Run>,
}

#[derive(Deserialize)]
struct Run {
    norm_scheme: Value,
    recipe: String,
    losses: Vec<f64>,
    gradient_norms: Vec<f64>,
}

impl Golden {
    fn read() -> Self {
        serde_json::from_str(include_str!("golden/schemes.json")).expect("the golden file")
    }

    /// The run's model with its initial weights, loaded as any checkpoint is.
    fn model(&self, run: &Run) -> Decoder {
        let mut config = self.shape.clone();
        let pre = run.norm_scheme["name"] == "pre";
        config.insert("model_type".into(), json!(if pre { "llama" } else { "lns_llama" }));
        config.insert("norm_scheme".into(), run.norm_scheme.clone());
        let spec = ModelSpec::from_config(&Value::Object(config.clone())).expect("a config");
        let tensors: Vec<NamedTensor<'_>> = spec
            .tensors()
            .into_iter()
            .map(|tensor| {
                let values = Cow::Owned(initial(&tensor.name, tensor.shape.iter().product()));
                NamedTensor { name: tensor.name, shape: tensor.shape, values }
            })
            .collect();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path();
        std::fs::write(path.join("config.json"), Value::Object(config).to_string()).expect("write");
        write_tensors(&path.join("model.safetensors"), &tensors).expect("write");
        let checkpoint = Checkpoint::open(path).expect("a checkpoint");
        Decoder::from_checkpoint(&checkpoint, &cpu_device()).expect("a decoder")
    }

    fn trainer(&self, run: &Run, threads: usize) -> Trainer {
        let compute = Compute::on_cpu(threads).expect("threads start");
        Trainer::new(self.model(run), options(&run.recipe), compute)
    }
}

fn options(recipe: &str) -> TrainingOptions {
    let (eps, decay) = (1e-8, Decay::Projections);
    let weight_decay = 0.1;
    let adamw = Optimiser::AdamW(AdamW { beta1: 0.9, beta2: 0.95, eps, weight_decay, decay });
    let adam = Optimiser::Adam(Adam { beta1: 0.9, beta2: 0.999, eps });
    let muon = Optimiser::Muon(Muon { momentum: 0.95, weight_decay, decay });
    let (optimiser, clip, z_loss) = match recipe {
        "adamw" => (adamw, Some(1.0), 0.0),
        "z-loss" => (adamw, Some(1.0), 0.01),
        "adam" => (adam, None, 0.0),
        "muon" => (muon, Some(1.0), 0.0),
        other => panic!("the golden file has a recipe {other}, which this test lacks"),
    };
    TrainingOptions { optimiser, clip, z_loss, ..TrainingOptions::default() }
}

/// One step of splitmix64 (Steele et al., 2014).
fn splitmix(x: u64) -> u64 {
    let z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `fill` of golden/train_schemes.py.
fn initial(name: &str, count: usize) -> Vec<f32> {
    const SEED: u64 = 7;
    let start = name.bytes().fold(0xcbf2_9ce4_8422_2325 ^ SEED, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let (centre, radius) = if name.ends_with("norm.weight") {
        (1.0, 0.25)
    } else if name.ends_with("branch_scale") {
        (0.5, 0.25)
    } else {
        (0.0, 0.4375)
    };
    let unit = |i: u64| (splitmix(start.wrapping_add(i)) >> 40) as f64 / f64::from(1 << 23) - 1.0;
    (0..count as u64).map(|i| (centre + radius * unit(i)) as f32).collect()
}

/// `batch` of golden/train_schemes.py: sequences that weigh differently.
fn batch(step: u64) -> Batch {
    let (mut inputs, mut targets) = (Vec::new(), Vec::new());
    for sequence in 0..SEQUENCES {
        let start = ((step % 4) * SEQUENCES + sequence) * 1000 + 777_777;
        let id = |i: u64| (splitmix(start + i) % 16).min(splitmix(start + i + 5) % 16) as u32;
        for i in 0..LENGTH {
            let ignored = i < 3 * sequence || splitmix(start + 500 + i).is_multiple_of(5);
            inputs.push(id(i));
            targets.push(if ignored { IGNORED } else { id(i + 1) });
        }
    }
    Batch::new(inputs, targets, LENGTH as usize).expect("a batch")
}

#[test]
fn the_golden_file_has_every_scheme_under_its_name() {
    let golden = Golden::read();
    let mut expected: Vec<(&str, NormScheme)> = NormScheme::named();
    for rule in [BranchRule::SqrtDepth, BranchRule::SqrtLayers, BranchRule::Layers] {
        let name = match rule {
            BranchRule::SqrtDepth => "branch-scale",
            BranchRule::SqrtLayers => "branch-scale-sqrt-layers",
            BranchRule::Layers => "branch-scale-layers",
        };
        expected.push((name, NormScheme::BranchScale(BranchScale { rule })));
    }
    for (name, scheme) in expected {
        // Fast enough for its layers to join within the run.
        let scheme = match scheme {
            NormScheme::Progressive(slow) => {
                NormScheme::Progressive(Progressive { steps: 5, ..slow })
            }
            scheme => scheme,
        };
        let run = golden.runs.get(name).unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(run.recipe, "adamw", "{name}");
        assert_eq!(golden.model(run).spec().norm_scheme, scheme, "{name}");
    }
    for (name, recipe) in
        [("pre", "adam"), ("lns", "adam"), ("pre", "z-loss"), ("lns", "z-loss"), ("lns", "muon")]
    {
        assert_eq!(golden.runs[&format!("{name}-{recipe}")].recipe, recipe);
    }
}

#[test]
fn twenty_steps_of_every_scheme_have_the_losses_and_gradient_norms_of_pytorch() {
    let golden = Golden::read();
    let (mut losses, mut norms) = (Largest::default(), Largest::default());
    for (name, run) in &golden.runs {
        assert_eq!((run.losses.len(), run.gradient_norms.len()), (20, 20), "{name}");
        for threads in THREADS {
            let mut trainer = golden.trainer(run, threads);
            for (step, (loss, norm)) in run.losses.iter().zip(&run.gradient_norms).enumerate() {
                let found = trainer.step(&batch(step as u64), LEARNING_RATE).expect("a step");
                trainer.move_scheme(step as u64 + 1);
                let place = || format!("{name}, {threads} workers, step {step}");
                // PyTorch in f32 and in f64 differ by up to 2e-6 of a loss and 8e-5 of a norm: the
                // second norm of `peri` divides by the size of a branch that may be small.
                let bound = if step == 0 { 1e-5 } else { 1e-3 };
                losses.hold((found.loss - loss).abs(), 2e-5, place);
                norms.hold((found.gradient_norm - norm).abs() / norm, bound, place);
            }
        }
    }
    losses.show("loss");
    norms.show("gradient norm, relative");
}

#[test]
fn one_step_of_every_scheme_gives_the_weights_of_pytorch() {
    let golden = Golden::read();
    let file = SafeTensors::deserialize(include_bytes!("golden/first_step.safetensors"))
        .expect("a valid file");
    let mut weights = Largest::default();
    for (name, run) in &golden.runs {
        let expected: Vec<f32> = (file.tensor(name).expect(name).data().chunks_exact(4))
            .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes")))
            .collect();
        for threads in THREADS {
            let mut trainer = golden.trainer(run, threads);
            trainer.step(&batch(0), LEARNING_RATE).expect("a step");
            let mut tensors = trainer.model().tensors();
            tensors.sort_by(|a, b| a.name.cmp(&b.name));
            let mut rest = &expected[..];
            for tensor in &tensors {
                let (reference, after) = rest.split_at(tensor.values.len());
                let place = || format!("{name}, {threads} workers, {}", tensor.name);
                weights.hold(difference(&tensor.values, reference), 1e-5, place);
                rest = after;
            }
            assert!(rest.is_empty(), "{name}: PyTorch has {} weights more", rest.len());
        }
    }
    weights.show("weights, relative");
}

/// Largest difference, relative to the larger of the number and its tensor's root mean square: a weight
/// that happens to be near 0 is known to the tensor's rounding, not to its own.
fn difference(found: &[f32], expected: &[f32]) -> f64 {
    let square: f64 = expected.iter().map(|x| f64::from(*x).powi(2)).sum();
    let rms = (square / expected.len() as f64).sqrt();
    let relative = |(a, b): (&f32, &f32)| {
        let (a, b) = (f64::from(*a), f64::from(*b));
        (a - b).abs() / b.abs().max(rms)
    };
    // A NaN stays, and is below no bound.
    let differences = found.iter().zip(expected).map(relative);
    differences.fold(0.0, |a: f64, b| if a.is_nan() || b <= a { a } else { b })
}

/// The largest difference seen, and where.
#[derive(Default)]
struct Largest(f64, String);

impl Largest {
    fn hold(&mut self, difference: f64, bound: f64, place: impl Fn() -> String) {
        assert!(difference < bound, "{}: {difference:e} from PyTorch", place());
        if difference > self.0 {
            *self = Self(difference, place());
        }
    }

    #[expect(clippy::print_stderr, reason = "how close it is, for `--nocapture`")]
    fn show(&self, what: &str) {
        eprintln!("{what}: at most {:.1e} from PyTorch ({})", self.0, self.1);
    }
}
