//! Distillation against PyTorch, in f64: the objective, what its rows are made of, and its gradients.

use burn::tensor::{DType, Device, Tensor, TensorData};
use lns_kernels::{DistillationTerms, IGNORED, LossTerms, Projection, distillation_loss};
use serde_json::Value;

fn numbers(case: &Value, name: &str) -> Vec<f64> {
    let values = case[name].as_array().expect(name).iter();
    values.map(|value| value.as_f64().expect(name)).collect()
}

/// The numbers as a matrix of `dtype`.
fn matrix(case: &Value, name: &str, rows: usize, dtype: DType) -> Tensor<2> {
    let values = numbers(case, name);
    let shape = [rows, values.len() / rows];
    Tensor::from_data(TensorData::new(values, shape), (&Device::flex(), dtype))
}

fn close<const D: usize>(what: &str, found: Tensor<D>, expected: &[f64], tolerance: f64) {
    let found: Vec<f64> = found.into_data().iter::<f64>().collect();
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() < tolerance, "{what}, {at}: {found} not {expected}");
    }
}

#[test]
fn the_objective_its_parts_and_its_gradients_are_those_of_pytorch() {
    let cases: Vec<Value> =
        serde_json::from_str(include_str!("golden/distillation.json")).expect("the golden file");
    assert_eq!(cases.len(), 4);
    for case in &cases {
        let number = |name: &str| case[name].as_f64();
        let targets: Vec<u32> =
            numbers(case, "targets").into_iter().map(|target| target as u32).collect();
        let counted = targets.iter().filter(|target| **target != IGNORED).count();
        let terms =
            LossTerms { weight: 1.0 / counted as f64, z_loss: number("z_loss").expect("a number") };
        let distillation = DistillationTerms {
            weight: number("weight").expect("a number"),
            temperature: number("temperature").expect("a number"),
        };
        let softcap = number("softcap");
        // The composite to rounding in f64, the fused form to that of f32.
        // Burn's own derivatives in f64 were seen to be off by 3e-8.
        for (dtype, tolerance, of_gradients) in
            [(DType::F64, 1e-12, 1e-7), (DType::F32, 2e-6, 2e-6)]
        {
            let leaf = |name: &str, rows| {
                Tensor::from_inner(matrix(case, name, rows, dtype)).require_grad()
            };
            let (hidden, head) = (leaf("hidden", 5), leaf("head", 12));
            let student = Projection { hidden: hidden.clone(), head: head.clone(), softcap };
            let teacher = Projection {
                hidden: matrix(case, "teacher_hidden", 5, dtype),
                head: matrix(case, "teacher_head", 11, dtype),
                softcap: softcap.map(|cap| 2.0 * cap),
            };
            let found = distillation_loss(student, &teacher, &targets, terms, distillation);
            let objective = found.objective.clone().inner();
            close("objective", objective, &[number("objective").expect("a number")], tolerance);
            close("nll", found.nll.inner(), &numbers(case, "nll"), 4.0 * tolerance);
            let divergence = numbers(case, "divergence");
            close("divergence", found.divergence.inner(), &divergence, 4.0 * tolerance);
            let gradients = found.objective.backward();
            for (name, leaf) in [("hidden_gradient", hidden), ("head_gradient", head)] {
                let gradient = leaf.grad(&gradients).expect("a gradient");
                close(name, gradient, &numbers(case, name), of_gradients);
            }
        }
    }
}
