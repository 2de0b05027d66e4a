//! Truths of the norm layers.

use burn::{
    module::Module,
    tensor::{Device, Distribution, Tensor},
};
use layernorm_scaling::{
    LayerNormScalingConfig, RmsNormScaling, RmsNormScalingConfig, layer_norm_scaling,
    rms_norm_scaling,
};

#[test]
fn the_scale_survives_a_reload_and_a_device_move_because_it_is_no_tensor() {
    let device = Device::flex();
    let norm = RmsNormScalingConfig::new(8, 3).init(&device);
    let record = norm.clone().into_record();
    let other = RmsNormScalingConfig::new(8, 3).init(&device).load_record(record);
    assert_eq!(other.scale(), 0.5);
    assert_eq!(other.to_device(&device.clone().autodiff()).scale(), 0.5);
    assert_eq!(norm.num_params(), 8, "the scale is not a parameter");
}

#[test]
fn norm_modules_equal_their_functions_and_the_formula() {
    let device = Device::flex();
    let x = Tensor::<3>::random([2, 3, 10], Distribution::Normal(1.0, 2.0), &device);
    let gamma = Tensor::<1>::random([10], Distribution::Normal(1.0, 0.3), &device);
    let beta = Tensor::<1>::random([10], Distribution::Normal(0.0, 0.3), &device);

    let norm = RmsNormScaling::new(gamma.clone(), 1e-6, 1.0 / 5f64.sqrt());
    let by_function = rms_norm_scaling(x.clone(), gamma.clone(), 1e-6, 4);
    assert_eq!(norm.forward(x.clone()).into_data(), by_function.clone().into_data());
    let rows: Vec<f32> = x.clone().into_data().iter::<f32>().collect();
    let (g, b): (Vec<f32>, Vec<f32>) = (
        gamma.clone().into_data().iter::<f32>().collect(),
        beta.clone().into_data().iter::<f32>().collect(),
    );
    let found: Vec<f32> = by_function.into_data().iter::<f32>().collect();
    for (row, found) in rows.chunks(10).zip(found.chunks(10)) {
        let square = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / 10.0;
        for i in 0..10 {
            let exact = f64::from(row[i]) / (square + 1e-6).sqrt() * f64::from(g[i]) / 5f64.sqrt();
            assert!((f64::from(found[i]) - exact).abs() < 1e-6);
        }
    }

    let mut module = LayerNormScalingConfig::new(10, 4).init(&device);
    assert_eq!(module.scale(), 1.0 / 5f64.sqrt());
    module.gamma = module.gamma.map(|_| gamma.clone());
    module.beta = module.beta.map(|b| b.map(|_| beta.clone()));
    let by_function = layer_norm_scaling(x.clone(), gamma, Some(beta), 1e-5, 4);
    assert_eq!(module.forward(x).into_data(), by_function.clone().into_data());
    let found: Vec<f32> = by_function.into_data().iter::<f32>().collect();
    for (row, found) in rows.chunks(10).zip(found.chunks(10)) {
        let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / 10.0;
        let variance = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / 10.0;
        for i in 0..10 {
            let normed = (f64::from(row[i]) - mean) / (variance + 1e-5).sqrt();
            let exact = (normed * f64::from(g[i]) + f64::from(b[i])) / 5f64.sqrt();
            assert!((f64::from(found[i]) - exact).abs() < 1e-6, "β is scaled with the rest");
        }
    }
    let unbiased = LayerNormScalingConfig::new(10, 4).with_bias(false).init(&device);
    assert!(unbiased.beta.is_none());
}

/// What `golden/torch_norms.py` wrote, which the Python package's tests hold its PyTorch layers against.
#[derive(serde::Deserialize)]
struct TorchNorms {
    x: Vec<Vec<f32>>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    cases: Vec<TorchCase>,
}

#[derive(serde::Deserialize)]
struct TorchCase {
    layer_idx: usize,
    exponent: f64,
    rms: Vec<Vec<f32>>,
    layer: Vec<Vec<f32>>,
}

#[test]
fn norms_give_the_values_that_the_pytorch_layers_are_held_against() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../golden/torch_norms.json");
    let text = std::fs::read_to_string(path).expect("golden/torch_norms.json");
    let golden: TorchNorms = serde_json::from_str(&text).expect("values of norms");
    let device = Device::flex();
    let rows = golden.x.concat();
    let x = Tensor::<1>::from_floats(rows.as_slice(), &device)
        .reshape([golden.x.len(), golden.gamma.len()]);
    let row = |values: &[f32]| Tensor::<1>::from_floats(values, &device);
    let near = |found: Tensor<2>, expected: &[Vec<f32>]| {
        for (found, expected) in found.into_data().iter::<f32>().zip(expected.concat()) {
            assert!((found - expected).abs() < 1e-6, "{found} instead of {expected}");
        }
    };
    assert_eq!(golden.cases.len(), 4);
    for case in &golden.cases {
        let features = golden.gamma.len();
        let config =
            RmsNormScalingConfig::new(features, case.layer_idx).with_exponent(case.exponent);
        let mut norm = config.init(&device);
        norm.gamma = norm.gamma.map(|_| row(&golden.gamma));
        near(norm.forward(x.clone()), &case.rms);
        let config =
            LayerNormScalingConfig::new(features, case.layer_idx).with_exponent(case.exponent);
        let mut norm = config.init(&device);
        norm.gamma = norm.gamma.map(|_| row(&golden.gamma));
        norm.beta = norm.beta.map(|beta| beta.map(|_| row(&golden.beta)));
        near(norm.forward(x.clone()), &case.layer);
    }
}
