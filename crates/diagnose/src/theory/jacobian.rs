//! ‖∂y_L/∂x₁‖₂, the largest factor by which a small change of the stream that enters layer 0 grows
//! until it leaves the last layer, over all tokens of a sequence together.
//!
//! J is never formed. Jᵀu is a backward pass, layer by layer. Jv is a central difference, layer by
//! layer too, so that its error does not grow through the layers' curvature. From these Lanczos'
//! method finds the largest eigenvalue of JᵀJ: power iteration that keeps its vectors, and with them
//! needs a tenth of the products.

use burn::{
    module::Module,
    tensor::{Tensor, TensorData},
};
use layernorm_scaling::TransformerLayerWithScaling;
use lns_kernels::{RotaryTable, backward_from, with_slices};
use lns_model::{LayerSource, LoadError};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// Products with JᵀJ. This many come within 0.05 % of what forty give on models of 24 layers × 128: both
/// schemes drawn with embeddings of 0.02 and trained, and LNS, the slowest, drawn with 0.632.
const PRODUCTS: usize = 14;

/// Largest change of a token in a central difference, relative to the token: the cube root of f32's
/// precision balances rounding against curvature.
const RELATIVE_STEP: f64 = 4e-3;

/// The layers of a model at the streams of one sequence.
pub(super) struct Chain<'a> {
    pub(super) source: &'a dyn LayerSource,
    pub(super) rotary: &'a RotaryTable,
    /// stream\[0..L\], \[1, T, H\] each: what enters each layer.
    pub(super) streams: &'a [Tensor<3>],
}

impl Chain<'_> {
    /// ‖J‖₂, from below: the estimate rises to it with the number of products.
    pub(super) fn norm(&self) -> Result<f64, LoadError> {
        let (mut diagonal, mut off_diagonal) = (Vec::new(), Vec::new());
        let mut vectors = vec![unit(signs(&self.streams[0]))];
        let dimensions = self.streams[0].dims().iter().product();
        while diagonal.len() < PRODUCTS.min(dimensions) {
            let newest = &vectors[vectors.len() - 1];
            let mut product = self.pull(self.push(newest.clone())?)?;
            diagonal.push(dot(newest, &product));
            // Against every vector, twice: rounding would bring found directions back.
            for vector in vectors.iter().chain(&vectors) {
                let overlap = dot(vector, &product);
                product = product - vector.clone().mul_scalar(overlap);
            }
            let length = dot(&product, &product).sqrt();
            // What is left is rounding: the vectors span all that J does.
            if length <= 1e-6 * diagonal[0] {
                break;
            }
            off_diagonal.push(length);
            vectors.push(product.mul_scalar(1.0 / length));
        }
        Ok(largest_eigenvalue(&diagonal, &off_diagonal).max(0.0).sqrt())
    }

    /// Jv
    fn push(&self, mut v: Tensor<3>) -> Result<Tensor<3>, LoadError> {
        for (layer, stream) in self.source.spec().layers().zip(self.streams) {
            let step = step(stream, &v);
            let change = v.mul_scalar(step);
            let layer = self.source.layer(layer)?;
            let ahead = layer.forward(stream.clone() + change.clone(), self.rotary);
            let behind = layer.forward(stream.clone() - change, self.rotary);
            v = (ahead - behind).mul_scalar(0.5 / step);
        }
        Ok(v)
    }

    /// Jᵀu
    fn pull(&self, mut u: Tensor<3>) -> Result<Tensor<3>, LoadError> {
        let layers: Vec<_> = self.source.spec().layers().zip(self.streams).collect();
        for (layer, stream) in layers.into_iter().rev() {
            u = pull_through(self.source.layer(layer)?, stream, u, self.rotary);
        }
        Ok(u)
    }
}

/// Jᵀu of one layer at `stream`.
fn pull_through(
    layer: TransformerLayerWithScaling,
    stream: &Tensor<3>,
    u: Tensor<3>,
    rotary: &RotaryTable,
) -> Tensor<3> {
    let leaf = Tensor::from_inner(stream.clone()).require_grad();
    let out = layer.no_grad().train().forward(leaf.clone(), rotary);
    leaf.grad(&backward_from(out, u)).unwrap_or_else(|| stream.zeros_like())
}

/// The multiple of `v` that changes no token of `stream` by more than [`RELATIVE_STEP`] of itself.
fn step(stream: &Tensor<3>, v: &Tensor<3>) -> f64 {
    let width = stream.dims()[2];
    let square = |row: &[f32]| row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
    let largest = with_slices([stream, v], |[stream, v]| {
        let tokens = stream.chunks_exact(width).zip(v.chunks_exact(width));
        let ratios = tokens.map(|(x, v)| square(v) / square(x));
        ratios.filter(|ratio| ratio.is_finite()).fold(0.0, f64::max).sqrt()
    });
    if largest > 0.0 { RELATIVE_STEP / largest } else { RELATIVE_STEP }
}

fn dot(a: &Tensor<3>, b: &Tensor<3>) -> f64 {
    with_slices([a, b], |[a, b]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum())
}

fn unit(v: Tensor<3>) -> Tensor<3> {
    let length = dot(&v, &v).sqrt();
    v.mul_scalar(1.0 / length)
}

/// Random signs in the shape of `like`.
fn signs(like: &Tensor<3>) -> Tensor<3> {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let count = like.dims().iter().product();
    let sign = |_| if rng.next_u32() & 1 == 0 { -1f32 } else { 1.0 };
    let signs: Vec<f32> = (0..count).map(sign).collect();
    Tensor::from_data(TensorData::new(signs, like.dims()), &like.device())
}

/// Of a symmetric tridiagonal matrix, by bisection on the number of eigenvalues above a value
/// (Sylvester's law of inertia).
fn largest_eigenvalue(diagonal: &[f64], off_diagonal: &[f64]) -> f64 {
    let beside = |row: usize| off_diagonal.get(row).copied().unwrap_or(0.0);
    let any_above = |value: f64| {
        let mut pivot = 1.0;
        diagonal.iter().enumerate().any(|(row, entry)| {
            let before = if row == 0 { 0.0 } else { beside(row - 1) };
            pivot = entry - value - before * before / pivot;
            pivot >= 0.0
        })
    };
    let mut low = diagonal.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let widest = off_diagonal.iter().copied().fold(0.0, f64::max);
    let mut high = low + 2.0 * widest;
    // Each halves the interval; 60 exhaust f64.
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if any_above(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

#[cfg(test)]
mod tests {
    use layernorm_scaling::rotary_table;
    use lns_kernels::cpu_device;
    use lns_model::Decoder;
    use lns_spec::{Initialisation, NormScheme, Preset};

    use lns_testing::models::TINY;

    use super::*;

    #[test]
    fn the_largest_eigenvalue_of_a_tridiagonal_matrix_is_found() {
        // 2 on the diagonal, 1 beside it: 2 + 2·cos(π/(n + 1)).
        for count in [1usize, 2, 5, 14] {
            let expected = 2.0 + 2.0 * (std::f64::consts::PI / (count as f64 + 1.0)).cos();
            let found = largest_eigenvalue(&vec![2.0; count], &vec![1.0; count - 1]);
            assert!((found - expected).abs() < 1e-12, "{found}, {expected}");
        }
        assert!((largest_eigenvalue(&[-3.0, 1.0, 0.5], &[0.0, 0.0]) - 1.0).abs() < 1e-12);
    }

    /// ‖J‖₂ from every row of J, by power iteration on JᵀJ until it stands still.
    fn dense_norm(chain: &Chain<'_>) -> f64 {
        let shape = chain.streams[0].dims();
        let count: usize = shape.iter().product();
        let rows: Vec<Vec<f64>> = (0..count)
            .map(|row| {
                let mut basis = vec![0f32; count];
                basis[row] = 1.0;
                let device = chain.streams[0].device();
                let basis = Tensor::from_data(TensorData::new(basis, shape), &device);
                let row = chain.pull(basis).expect("in memory");
                with_slices([&row], |[row]| row.iter().map(|x| f64::from(*x)).collect())
            })
            .collect();
        let (mut v, mut norm) = (vec![1.0; count], 0.0);
        for _ in 0..5000 {
            let length = v.iter().map(|x| x * x).sum::<f64>().sqrt();
            norm = length.sqrt();
            v.iter_mut().for_each(|x| *x /= length);
            let pushed: Vec<f64> =
                rows.iter().map(|row| row.iter().zip(&v).map(|(a, b)| a * b).sum()).collect();
            v.fill(0.0);
            for (row, weight) in rows.iter().zip(pushed) {
                v.iter_mut().zip(row).for_each(|(v, a)| *v += a * weight);
            }
        }
        norm
    }

    #[test]
    fn the_norm_of_vector_products_is_that_of_the_dense_jacobian() {
        let preset = Preset { hidden_size: 8, vocab_size: 16, max_position_embeddings: 8, ..TINY };
        let rotary = rotary_table(&preset.spec(NormScheme::pre()), 5);
        for scheme in
            [NormScheme::pre(), NormScheme::lns(), NormScheme::Post(lns_spec::schemes::Post {})]
        {
            let spec = preset.spec(scheme);
            let normal = Initialisation::Normal;
            // Embeddings as small as the branches, so that J is far from the identity.
            let model = Decoder::initialised(&spec, normal, 1e-4, 1, &cpu_device());
            let mut streams = vec![model.embed_ids(&[3, 1, 4, 1, 5]).expect("in memory")];
            for layer in &model.layers {
                streams.push(layer.forward(streams[streams.len() - 1].clone(), &rotary));
            }
            streams.pop();
            let chain = Chain { source: &model, rotary: &rotary, streams: &streams };
            let (found, dense) = (chain.norm().expect("in memory"), dense_norm(&chain));
            assert!(dense > 1.05, "{}: {dense} tests nothing", spec.norm_scheme);
            let error = found / dense - 1.0;
            assert!(error.abs() < 1e-3, "{}: {found}, densely {dense}", spec.norm_scheme);
        }
    }
}
