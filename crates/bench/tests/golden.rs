//! Training against PyTorch: the losses of 20 steps (golden/train_tiny.py).

use std::collections::BTreeMap;

use lns_bench::{Workload, training_options};
use lns_kernels::Compute;
use lns_spec::{NormScheme, Preset};
use lns_testing::models::TINY;
use lns_train::Trainer;

fn tiny(scheme: NormScheme, key_value_heads: usize) -> Workload {
    let preset = Preset {
        hidden_size: 48,
        intermediate_size: 80,
        num_attention_heads: 4,
        vocab_size: 96,
        max_position_embeddings: 1024,
        ..TINY
    };
    let mut spec = preset.spec(scheme);
    spec.rms_norm_eps = 1e-5;
    spec.num_key_value_heads = key_value_heads;
    Workload { name: "tiny", title: "", spec, length: 24, sequences: 5 }
}

#[test]
fn twenty_steps_have_the_losses_of_pytorch() {
    let golden: BTreeMap<String, Vec<f64>> =
        serde_json::from_str(include_str!("losses.json")).expect("the golden file");
    for (name, workload) in
        [("pre", tiny(NormScheme::pre(), 4)), ("lns", tiny(NormScheme::lns(), 2))]
    {
        // Five sequences on one, two, three and more workers than sequences.
        for threads in [1, 2, 3, 7] {
            let compute = Compute::on_cpu(threads).expect("threads start");
            let mut trainer = Trainer::new(workload.model(&compute), training_options(), compute);
            for (step, expected) in golden[name].iter().enumerate() {
                let batch = workload.batch(step as u64).expect("a batch");
                let loss = trainer.step(&batch, 1e-3).expect("a step").loss;
                let difference = (loss - expected).abs();
                assert!(difference < 1e-4, "{name}, step {step}: {loss}, PyTorch {expected}");
            }
        }
    }
}

#[test]
fn work_is_counted_as_the_contract_says() {
    let a = &Workload::all()[0];
    // 6 · (8 · (4 · 256² + 3 · 256 · 688 + 2 · 256) + 256 + 4096 · 256) + 12 · 8 · 256 · 256
    assert_eq!(a.flops_per_token(), 50_554_368.0);
    assert_eq!(a.tokens(), 2048);
}
