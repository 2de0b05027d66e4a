//! LayerNorm Scaling in a model of one's own: a residual network of 32 blocks, each reading the stream through
//! an RMS norm, with the norm's output scaled by 1/√ℓ and without. The variance of the stream that enters each
//! block is printed: without the scale it grows with every block, with it with the harmonic series.
//!
//! `cargo run --example own_model`

#![expect(clippy::print_stdout, reason = "what an example shows")]

use burn::{
    module::Module,
    nn::{Linear, LinearConfig},
    tensor::{Device, Distribution, Tensor},
};
use layernorm_scaling::{RmsNormScaling, RmsNormScalingConfig};

const WIDTH: usize = 64;

#[derive(Module, Debug)]
struct Block {
    norm: RmsNormScaling,
    mix: Linear,
}

impl Block {
    fn new(layer: usize, with_scale: bool, device: &Device) -> Self {
        // Layers count from 0, and the scale of the first is exactly 1: a block 0 is not scaled.
        let scaled_as = if with_scale { layer } else { 0 };
        Self {
            norm: RmsNormScalingConfig::new(WIDTH, scaled_as).init(device),
            mix: LinearConfig::new(WIDTH, WIDTH).with_bias(false).init(device),
        }
    }

    /// \[tokens, WIDTH\] → the same
    fn forward(&self, stream: Tensor<2>) -> Tensor<2> {
        stream.clone() + self.mix.forward(self.norm.forward(stream))
    }
}

fn main() {
    let device = Device::flex();
    let entered = Tensor::<2>::random([256, WIDTH], Distribution::Normal(0.0, 1.0), &device);
    let variances = |with_scale: bool| -> Vec<f32> {
        let mut stream = entered.clone();
        let blocks = (0..32).map(|layer| Block::new(layer, with_scale, &device));
        let through = |block: Block| {
            let variance = stream.clone().powi_scalar(2).mean().into_scalar::<f32>();
            stream = block.forward(stream.clone());
            variance
        };
        blocks.map(through).collect()
    };
    let (plain, scaled) = (variances(false), variances(true));
    println!("block  variance without scaling  with 1/√ℓ");
    for (block, (plain, scaled)) in plain.iter().zip(&scaled).enumerate().step_by(4) {
        println!("{block:5}  {plain:24.3}  {scaled:9.3}");
    }
}
