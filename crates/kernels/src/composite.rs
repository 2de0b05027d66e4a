//! Every operation as plain Burn operations: any device, any float dtype, differentiable.
//!
//! Same signatures as the crate's functions, which call these where the fused form does not apply.

use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData, activation, module};

use crate::{
    AttentionMask, AttentionShape, DistillationLoss, DistillationTerms, DocumentStarts, Gate,
    GateClamp, IGNORED, LossTerms, Projection, RotaryTable, TokenScore,
};

/// See [`crate::rms_norm`].
pub fn rms_norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, eps: f64, scale: f64) -> Tensor<D> {
    let rms = x.clone().square().mean_dim(D - 1).add_scalar(eps).sqrt();
    x / rms * gamma.mul_scalar(scale).unsqueeze()
}

/// See [`crate::add_rms_norm`].
pub fn add_rms_norm<const D: usize>(
    stream: Tensor<D>,
    branch: Tensor<D>,
    gamma: Tensor<1>,
    eps: f64,
    scale: f64,
) -> (Tensor<D>, Tensor<D>) {
    let sum = stream + branch;
    (sum.clone(), rms_norm(sum, gamma, eps, scale))
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
    let (head_dim, half, turned) = (table.head_dim(), table.pairs(), 2 * table.pairs());
    let (cos, sin) = table.rows(start, tokens);
    let constant = |values: &[f32]| {
        let data = TensorData::new(values.to_vec(), [1, tokens, 1, half]);
        Tensor::<4>::from_data(data, &x.device()).cast(x.dtype())
    };
    let (cos, sin) = (constant(cos), constant(sin));
    let heads = width / head_dim;
    let x = x.reshape([sequences, tokens, heads, head_dim]);
    let first = table.first_turned();
    let part = x.clone().narrow(3, first, turned);
    // Pairs along the last dimension but one or the last.
    let pairs = |x: Tensor<4>| match table.is_interleaved() {
        true => x.reshape([sequences, tokens, heads, half, 2]).swap_dims(3, 4),
        false => x.reshape([sequences, tokens, heads, 2, half]),
    };
    let member = |which: usize| {
        pairs(part.clone()).narrow(3, which, 1).reshape([sequences, tokens, heads, half])
    };
    let (left, right) = (member(0), member(1));
    let (a, b) =
        (left.clone() * cos.clone() - right.clone() * sin.clone(), right * cos + left * sin);
    let joined = match table.is_interleaved() {
        true => Tensor::stack::<5>(vec![a, b], 4).reshape([sequences, tokens, heads, turned]),
        false => Tensor::cat(vec![a, b], 3),
    };
    // The features before and after those that turn.
    let kept = |from: usize, to: usize| (to > from).then(|| x.clone().narrow(3, from, to - from));
    let (before, after) = (kept(0, first), kept(first + turned, head_dim));
    let joined = match (before, after) {
        (None, None) => joined,
        (before, after) => {
            Tensor::cat(before.into_iter().chain([joined]).chain(after).collect(), 3)
        }
    };
    joined.reshape([sequences, tokens, width])
}

/// See [`crate::attention`].
///
/// The heads of a group are stacked along the query dimension, so that keys and values are never
/// repeated and every product has equal batch dimensions (Burn 0.22's own attention returns garbage
/// under autodiff when the head counts differ).
pub fn attention(
    q: Tensor<3>,
    k: Tensor<3>,
    v: Tensor<3>,
    shape: &AttentionShape,
    sinks: Option<Tensor<1>>,
    documents: Option<&DocumentStarts>,
) -> Tensor<3> {
    let ([sequences, queries, _], keys) = (q.dims(), k.dims()[1]);
    let AttentionShape { heads, key_value_heads, head_dim, mask, window, scores } = *shape;
    let scale = scores.scale.unwrap_or_else(|| 1.0 / (head_dim as f64).sqrt());
    let group = heads / key_value_heads;
    let offset = keys - queries;
    // One mask for all sequences, or one for each.
    let masks = if documents.is_some() { sequences } else { 1 };
    let mut hidden = Vec::with_capacity(masks * queries * keys);
    for sequence in 0..masks {
        for position in offset..keys {
            let start = documents.map_or(0, |d| d.starts()[sequence * keys + position] as usize);
            hidden.extend((0..keys).map(|key| {
                (mask == AttentionMask::Causal && key > position)
                    || key < start
                    || window.is_some_and(|window| key + window <= position)
            }));
        }
    }
    let hidden = Tensor::<5, Bool>::from_data(
        TensorData::new(hidden, [masks, 1, 1, queries, keys]),
        &q.device(),
    );
    let value_dim = v.dims()[2] / key_value_heads;
    let split = |x: Tensor<3>, features: usize| {
        x.reshape([sequences, keys, key_value_heads, features]).permute([0, 2, 1, 3])
    };
    let (k, v) = (split(k, head_dim), split(v, value_dim));
    let q = q
        .reshape([sequences, queries, key_value_heads, group, head_dim])
        .permute([0, 2, 3, 1, 4])
        .reshape([sequences, key_value_heads, group * queries, head_dim]);
    let products = q.matmul(k.swap_dims(2, 3)).mul_scalar(scale);
    let scores = soft_capped(products, scores.softcap)
        .reshape([sequences, key_value_heads, group, queries, keys])
        .mask_fill(hidden, f32::NEG_INFINITY);
    let weights = match sinks {
        None => activation::softmax(scores, 4),
        Some(sinks) => {
            let sinks = sinks.reshape([1, key_value_heads, group, 1, 1]).expand([
                sequences,
                key_value_heads,
                group,
                queries,
                1,
            ]);
            activation::softmax(Tensor::cat(vec![scores, sinks], 4), 4).narrow(4, 0, keys)
        }
    };
    weights
        .reshape([sequences, key_value_heads, group * queries, keys])
        .matmul(v)
        .reshape([sequences, key_value_heads, group, queries, value_dim])
        .permute([0, 3, 1, 2, 4])
        .reshape([sequences, queries, heads * value_dim])
}

/// c·tanh(x/c) of every element, or x itself without a cap.
pub fn soft_capped<const D: usize>(x: Tensor<D>, cap: Option<f64>) -> Tensor<D> {
    match cap {
        Some(cap) => x.div_scalar(cap).tanh().mul_scalar(cap),
        None => x,
    }
}

/// See [`crate::gated`].
pub fn gated<const D: usize>(gate: Tensor<D>, up: Tensor<D>, kind: Gate) -> Tensor<D> {
    activate(gate, kind) * up
}

/// See [`crate::clamped_swiglu`].
pub fn clamped_swiglu<const D: usize>(
    gate: Tensor<D>,
    up: Tensor<D>,
    GateClamp { limit, alpha }: GateClamp,
) -> Tensor<D> {
    let (gate, up) = (gate.clamp_max(limit), up.clamp(-limit, limit));
    let glu = gate.clone() * activation::sigmoid(gate.mul_scalar(alpha));
    (up + 1.0) * glu
}

/// See [`crate::activate`].
pub fn activate<const D: usize>(x: Tensor<D>, kind: Gate) -> Tensor<D> {
    match kind {
        Gate::Silu => activation::silu(x),
        Gate::Gelu => {
            let inner = x.clone() + x.clone().powi_scalar(3).mul_scalar(0.044_715);
            let root = (2.0 / std::f64::consts::PI).sqrt();
            x.mul_scalar(0.5) * (inner.mul_scalar(root).tanh() + 1.0)
        }
        Gate::GeluErf => {
            let half = x.clone().mul_scalar(std::f64::consts::FRAC_1_SQRT_2).erf() + 1.0;
            x.mul_scalar(0.5) * half
        }
    }
}

/// See [`crate::embedding`].
pub fn embedding(table: Tensor<2>, ids: Tensor<2, Int>) -> Tensor<3> {
    module::embedding(table, ids)
}

/// See [`crate::next_token_nll`]. Holds rows × vocabulary.
pub fn next_token_nll(
    hidden: Tensor<2>,
    head: Tensor<2>,
    targets: &[u32],
    softcap: Option<f64>,
) -> Tensor<1> {
    row_losses(hidden, head, targets, softcap).0
}

/// See [`crate::next_token_loss`]. Holds rows × vocabulary.
pub fn next_token_loss(
    hidden: Tensor<2>,
    head: Tensor<2>,
    targets: &[u32],
    terms: LossTerms,
    softcap: Option<f64>,
) -> (Tensor<1>, Tensor<1>) {
    let (nll, log_sums) = row_losses(hidden, head, targets, softcap);
    let mut total = nll.clone();
    if terms.z_loss != 0.0 {
        total = total + log_sums.square().mul_scalar(terms.z_loss);
    }
    (total.sum().mul_scalar(terms.weight), nll.detach())
}

/// See [`crate::distillation_loss`]. Holds rows × both vocabularies.
pub fn distillation_loss(
    student: Projection,
    teacher: Projection,
    targets: &[u32],
    LossTerms { weight, z_loss }: LossTerms,
    DistillationTerms { weight: share, temperature }: DistillationTerms,
) -> DistillationLoss {
    let rows = targets.len();
    let own = logits(student.hidden, student.head, student.softcap);
    let other = logits(teacher.hidden, teacher.head, teacher.softcap).detach();
    let common = own.dims()[1].min(other.dims()[1]);
    let predicted = |logits: &Tensor<2>| {
        let logits = logits.clone().narrow(1, 0, common).cast(own.dtype());
        let logits = logits.div_scalar(temperature);
        logits.clone() - log_sums(&logits)
    };
    let (p, q) = (predicted(&other), predicted(&own));
    let divergence = (p.clone().exp() * (p - q)).sum_dim(1).reshape([rows]);
    let divergence = divergence.mask_fill(ignored(targets, &own.device()), 0.0);
    let (nll, log_sums) = losses_of(own, targets);
    let text = nll.clone() + log_sums.square().mul_scalar(z_loss);
    let taught = divergence.clone().mul_scalar(share * temperature * temperature);
    let objective = (text.mul_scalar(1.0 - share) + taught).sum().mul_scalar(weight);
    DistillationLoss { objective, nll: nll.detach(), divergence: divergence.detach() }
}

/// See [`crate::next_token_scores`]. Holds rows × vocabulary.
pub fn next_token_scores(
    hidden: Tensor<2>,
    head: Tensor<2>,
    targets: &[u32],
    softcap: Option<f64>,
) -> Vec<TokenScore> {
    let device = hidden.device();
    let logits = logits(hidden, head, softcap);
    let targets: Vec<i32> = targets.iter().map(|target| *target as i32).collect();
    let targets = TensorData::new(targets.clone(), [targets.len(), 1]);
    let numbers =
        |column: Tensor<2>| column.cast(DType::F64).into_data().iter::<f64>().collect::<Vec<_>>();
    let largest = numbers(logits.clone().max_dim(1));
    let own = numbers(logits.clone().gather(1, Tensor::from_data(targets, &device)));
    let sums = numbers(log_sums(&logits));
    let rows = own.into_iter().zip(largest).zip(sums);
    rows.map(|((own, largest), log_sum)| TokenScore {
        log_probability: own - log_sum,
        likeliest: (own - log_sum).is_finite() && own >= largest,
    })
    .collect()
}

/// Half precision is widened.
fn logits(hidden: Tensor<2>, head: Tensor<2>, softcap: Option<f64>) -> Tensor<2> {
    let logits = hidden.matmul(head.transpose());
    let logits = match logits.dtype() {
        DType::F16 | DType::BF16 => logits.cast(DType::F32),
        _ => logits,
    };
    soft_capped(logits, softcap)
}

/// log Σ e^logit of each row, \[rows, 1\].
fn log_sums(logits: &Tensor<2>) -> Tensor<2> {
    let largest = logits.clone().detach().max_dim(1);
    (logits.clone() - largest.clone()).exp().sum_dim(1).log() + largest
}

/// The loss and log Σ e^logit of each row, 0 where the target is ignored.
fn row_losses(
    hidden: Tensor<2>,
    head: Tensor<2>,
    targets: &[u32],
    softcap: Option<f64>,
) -> (Tensor<1>, Tensor<1>) {
    losses_of(logits(hidden, head, softcap), targets)
}

/// Which rows do not count.
fn ignored(targets: &[u32], device: &Device) -> Tensor<1, Bool> {
    let ignored: Vec<bool> = targets.iter().map(|target| *target == IGNORED).collect();
    Tensor::from_data(TensorData::new(ignored, [targets.len()]), device)
}

/// The loss and log Σ e^logit of each row of logits, 0 where the target is ignored.
fn losses_of(logits: Tensor<2>, targets: &[u32]) -> (Tensor<1>, Tensor<1>) {
    let (rows, device) = (targets.len(), logits.device());
    let ignored = ignored(targets, &device);
    let targets: Vec<i32> =
        targets.iter().map(|target| if *target == IGNORED { 0 } else { *target as i32 }).collect();
    let targets = Tensor::<2, Int>::from_data(TensorData::new(targets, [rows, 1]), &device);
    let log_sums = log_sums(&logits);
    let nll = (log_sums.clone() - logits.gather(1, targets)).reshape([rows]);
    let kept = |values: Tensor<1>| values.mask_fill(ignored.clone(), 0.0);
    (kept(nll), kept(log_sums.reshape([rows])))
}
