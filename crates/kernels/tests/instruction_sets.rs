//! What the operations compute with each instruction set of this machine. A process uses one set, so that each
//! is tried in a process of its own, this test's program again.

use std::process::Command;

use burn::tensor::{Device, Tensor};
use lns_kernels::{
    InstructionSet, LossTerms, linear_in, next_token_loss, next_token_nll, rms_norm, with_slices,
};

const ASKED: &str = "LNS_TEST_INSTRUCTION_SET";

fn tensor<const D: usize>(shape: [usize; D], seed: u64) -> Tensor<D> {
    let count: usize = shape.iter().product();
    let value = |i: u64| {
        let mixed = (i + seed * 1_000_003).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        mixed as f32 / (1u64 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..count as u64).map(value).collect();
    Tensor::<1>::from_floats(&values[..], &Device::flex()).reshape(shape)
}

/// Numbers of a product, a norm, losses and their gradients.
fn computed() -> Vec<f32> {
    let (x, weight) = (tensor([70, 96], 1), tensor([130, 96], 2));
    let targets: Vec<u32> = (0..70).map(|row| row * 7 % 130).collect();
    let product = linear_in(lns_kernels::Precision::F32, x.clone(), weight.clone(), None);
    let normed = rms_norm(x.clone(), tensor([96], 3), 1e-6, 1.0);
    let nll = next_token_nll(x.clone(), weight.clone(), &targets, None);
    let leaf = Tensor::from_inner(x).require_grad();
    let terms = LossTerms { weight: 1.0, z_loss: 0.0 };
    let (loss, _) =
        next_token_loss(leaf.clone(), Tensor::from_inner(weight), &targets, terms, None);
    let gradient = leaf.grad(&loss.backward()).expect("a leaf");
    let mut all = Vec::new();
    with_slices([&product, &normed, &gradient], |slices| {
        slices.into_iter().for_each(|values| all.extend_from_slice(values));
    });
    with_slices([&nll], |[values]| all.extend_from_slice(values));
    all
}

#[test]
#[ignore = "the other test runs it in processes of its own"]
fn of_the_set_that_is_asked_for() {
    let asked = std::env::var(ASKED).expect("the other test says which");
    let set: InstructionSet = asked.parse().expect("a set");
    set.force().expect("the machine has it");
    assert_eq!(InstructionSet::in_use(), set);
    let bits: Vec<String> = computed().iter().map(|x| format!("{:08x}", x.to_bits())).collect();
    println!("bits {}", bits.join(" "));
}

fn run(set: InstructionSet) -> Vec<f32> {
    let program = std::env::current_exe().expect("a program");
    let output = Command::new(program)
        .args(["--exact", "of_the_set_that_is_asked_for", "--ignored", "--nocapture"])
        .env(ASKED, set.name())
        .output()
        .expect("runs");
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{set}: {said}");
    let bits = said.split_once("bits ").expect("the numbers").1.lines().next().expect("a line");
    let number = |bits: &str| f32::from_bits(u32::from_str_radix(bits, 16).expect("hexadecimal"));
    bits.split(' ').map(number).collect()
}

#[test]
fn every_instruction_set_of_the_machine_computes_the_same_to_rounding() {
    let widest = InstructionSet::widest();
    let expected = run(widest);
    for set in InstructionSet::ALL.into_iter().filter(|set| *set < widest) {
        let found = run(set);
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            let bound = 2e-5 * expected.abs().max(1.0);
            assert!((found - expected).abs() <= bound, "{set}: {found}, {widest}: {expected}");
        }
        // AVX2 and AVX-512 add in the same order and may give the same bits. Without fused products they
        // differ, or the set was not used.
        if set < InstructionSet::Avx2 {
            assert!(found != expected, "{set} gave the bits of {widest}");
        }
    }
}
