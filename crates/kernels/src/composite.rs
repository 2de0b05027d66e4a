//! Every operation as plain Burn operations: any device, any float dtype, differentiable.
//!
//! Same signatures as the crate's functions, which call these where the fused form does not apply.

use burn::tensor::{Bool, Int, Tensor, TensorData, activation};

use crate::{AttentionShape, RotaryTable};

/// See [`crate::rms_norm`].
pub fn rms_norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, eps: f64, scale: f64) -> Tensor<D> {
    let rms = x.clone().square().mean_dim(D - 1).add_scalar(eps).sqrt();
    x / rms * gamma.mul_scalar(scale).unsqueeze()
}

/// See [`crate::layer_norm`].
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Option<Tensor<1>>,
    eps: f64,
    scale: f64,
) -> Tensor<D> {
    let centred = x.clone() - x.mean_dim(D - 1);
    let deviation = centred.clone().square().mean_dim(D - 1).add_scalar(eps).sqrt();
    let y = centred / deviation * gamma.unsqueeze();
    let y = match beta {
        Some(beta) => y + beta.unsqueeze(),
        None => y,
    };
    y.mul_scalar(scale)
}

/// See [`crate::linear`].
pub fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    let mut shape = x.dims();
    let (rows, [output, input]) = (shape[..D - 1].iter().product::<usize>(), weight.dims());
    shape[D - 1] = output;
    let y = x.reshape([rows, input]).matmul(weight.transpose());
    let y = match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    };
    y.reshape(shape)
}

/// See [`crate::rotate`].
pub fn rotate(x: Tensor<3>, table: &RotaryTable, start: usize) -> Tensor<3> {
    let [sequences, tokens, width] = x.dims();
    let (head_dim, half) = (table.head_dim(), table.head_dim() / 2);
    let (cos, sin) = table.rows(start, tokens);
    let constant = |values: &[f32]| {
        let data = TensorData::new(values.to_vec(), [1, tokens, 1, half]);
        Tensor::<4>::from_data(data, &x.device()).cast(x.dtype())
    };
    let (cos, sin) = (constant(cos), constant(sin));
    let x = x.reshape([sequences, tokens, width / head_dim, head_dim]);
    let (first, second) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
    let turned =
        [first.clone() * cos.clone() - second.clone() * sin.clone(), second * cos + first * sin];
    Tensor::cat(turned.to_vec(), 3).reshape([sequences, tokens, width])
}

/// See [`crate::causal_attention`].
///
/// The heads of a group are stacked along the query dimension, so that keys and values are never
/// repeated and every product has equal batch dimensions (Burn 0.22's own attention returns garbage
/// under autodiff when the head counts differ).
pub fn causal_attention(
    q: Tensor<3>,
    k: Tensor<3>,
    v: Tensor<3>,
    shape: &AttentionShape,
) -> Tensor<3> {
    let ([sequences, queries, width], keys) = (q.dims(), k.dims()[1]);
    let AttentionShape { heads, key_value_heads, head_dim, window } = *shape;
    let group = heads / key_value_heads;
    let offset = keys - queries;
    let hidden: Vec<bool> = (0..queries)
        .flat_map(|query| {
            let position = offset + query;
            (0..keys).map(move |key| {
                key > position || window.is_some_and(|window| key + window <= position)
            })
        })
        .collect();
    let hidden = Tensor::<5, Bool>::from_data(
        TensorData::new(hidden, [1, 1, 1, queries, keys]),
        &q.device(),
    );
    let split = |x: Tensor<3>| {
        x.reshape([sequences, keys, key_value_heads, head_dim]).permute([0, 2, 1, 3])
    };
    let (k, v) = (split(k), split(v));
    let q = q
        .reshape([sequences, queries, key_value_heads, group, head_dim])
        .permute([0, 2, 3, 1, 4])
        .reshape([sequences, key_value_heads, group * queries, head_dim]);
    let scores = q
        .matmul(k.swap_dims(2, 3))
        .mul_scalar(1.0 / (head_dim as f64).sqrt())
        .reshape([sequences, key_value_heads, group, queries, keys])
        .mask_fill(hidden, f32::NEG_INFINITY);
    let weights = activation::softmax(scores, 4);
    weights
        .reshape([sequences, key_value_heads, group * queries, keys])
        .matmul(v)
        .reshape([sequences, key_value_heads, group, queries, head_dim])
        .permute([0, 3, 1, 2, 4])
        .reshape([sequences, queries, width])
}

/// See [`crate::swiglu`].
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    activation::silu(gate) * up
}

/// See [`crate::next_token_nll`]. Holds rows × vocabulary.
pub fn next_token_nll(hidden: Tensor<2>, head: Tensor<2>, targets: &[u32]) -> Tensor<1> {
    let rows = targets.len();
    let targets: Vec<i32> = targets.iter().map(|target| *target as i32).collect();
    let targets =
        Tensor::<2, Int>::from_data(TensorData::new(targets, [rows, 1]), &hidden.device());
    let log_probabilities = activation::log_softmax(hidden.matmul(head.transpose()), 1);
    log_probabilities.gather(1, targets).reshape([rows]).neg()
}
