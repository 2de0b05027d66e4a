//! The fused operations without derivatives.

use super::*;
use rayon::prelude::*;

use crate::cpu::{self, Unwritten, filled, zeros};

/// A new tensor shaped as `x`, written by `f` from the contiguous elements of `x`.
fn mapped(x: &FlexTensor, f: impl FnOnce(&mut Unwritten, &[f32])) -> FlexTensor {
    let x = x.to_contiguous();
    let values = elements(&x);
    tensor(filled(values.len(), |y| f(y, values)), dims(&x))
}

/// Numbers below which an operation is not worth spreading over threads.
const SPREAD: usize = 1 << 15;

/// Rows of `width` that each thread of rayon's current pool takes of `numbers`: inside a worker, where
/// that pool has one thread, all of them.
pub(super) fn rows_per_thread(numbers: usize, width: usize) -> usize {
    let rows = numbers / width;
    match rayon::current_num_threads() {
        threads if threads > 1 && numbers >= SPREAD => rows.div_ceil(threads),
        _ => rows.max(1),
    }
}

/// Calls `f` for blocks of whole rows of y and x, and where each block starts.
fn by_rows(
    y: &mut Unwritten,
    x: &[f32],
    width: usize,
    f: impl Fn(&mut Unwritten, &[f32], usize) + Sync,
) {
    let block = rows_per_thread(x.len(), width) * width;
    y.par_chunks_mut(block)
        .zip(x.par_chunks(block))
        .enumerate()
        .for_each(|(index, (y, x))| f(y, x, index * block));
}

/// Attention, and log Σ e^score: sequences × heads × queries.
pub(super) fn attend(
    q: &FlexTensor,
    k: &FlexTensor,
    v: &FlexTensor,
    sinks: &FlexTensor,
    attention: &Attention,
) -> (FlexTensor, Vec<f32>) {
    let (sequences, queries) = (dims(q)[0], dims(q)[1]);
    // Of each query head as much as a value has.
    let width = dims(v)[2] / attention.shape.key_value_heads * attention.shape.heads;
    let (mut out, mut log_sums) = (
        zeros(sequences * queries * width),
        vec![0.0; sequences * queries * attention.shape.heads],
    );
    for (index, sequence) in self::sequences(q, k, v, sinks, attention).enumerate() {
        cpu::attention(
            &mut out[index * queries * width..][..queries * width],
            &mut log_sums[index * queries * attention.shape.heads..]
                [..queries * attention.shape.heads],
            &sequence,
        );
    }
    (tensor(out, vec![sequences, queries, width]), log_sums)
}

/// The parts of contiguous q, k and v that belong to each sequence.
pub(super) fn sequences<'a>(
    q: &'a FlexTensor,
    k: &'a FlexTensor,
    v: &'a FlexTensor,
    sinks: &'a FlexTensor,
    attention: &'a Attention,
) -> impl Iterator<Item = cpu::Sequence<'a>> {
    let (count, keys) = (dims(q)[0], dims(k)[1]);
    let part = move |tensor: &'a FlexTensor, index: usize| {
        let size = elements(tensor).len() / count;
        &elements(tensor)[index * size..][..size]
    };
    (0..count).map(move |index| cpu::Sequence {
        q: part(q, index),
        k: part(k, index),
        v: part(v, index),
        shape: &attention.shape,
        document_starts: attention
            .documents
            .as_ref()
            .map(|documents| &documents.starts()[index * keys..][..keys]),
        sinks: elements(sinks),
    })
}

/// The scalar loss and the loss of each row, as tensors.
pub(super) fn loss_tensors(
    losses: &[cpu::RowLoss],
    targets: &[u32],
    terms: LossTerms,
) -> [FlexTensor; 2] {
    let total: f64 = losses
        .iter()
        .zip(targets)
        .filter(|(_, target)| **target != crate::IGNORED)
        .map(|(row, _)| row.nll + terms.z_loss * row.log_sum * row.log_sum)
        .sum();
    let nll: Vec<f32> = losses.iter().map(|row| row.nll as f32).collect();
    let rows = nll.len();
    [tensor(vec![(total * terms.weight) as f32], vec![1]), tensor(nll, vec![rows])]
}

impl FusedOps for Flex {
    fn rms_norm(x: FlexTensor, gamma: FlexTensor, eps: f64, scale: f64) -> FlexTensor {
        let gamma = gamma.to_contiguous();
        let gamma = elements(&gamma);
        mapped(&x, |y, x| {
            by_rows(y, x, gamma.len(), |y, x, _| {
                cpu::rms_norm(y, x, gamma, eps as f32, scale as f32);
            });
        })
    }

    fn add_rms_norm(
        x: FlexTensor,
        branch: FlexTensor,
        gamma: FlexTensor,
        eps: f64,
        scale: f64,
    ) -> (FlexTensor, FlexTensor) {
        let (x, branch, gamma) = (x.to_contiguous(), branch.to_contiguous(), gamma.to_contiguous());
        let mut normed = Vec::new();
        let sum = filled(elements(&x).len(), |sum| {
            normed = filled(sum.len(), |normed| {
                let (x, branch, gamma) = (elements(&x), elements(&branch), elements(&gamma));
                let block = rows_per_thread(x.len(), gamma.len()) * gamma.len();
                sum.par_chunks_mut(block)
                    .zip(normed.par_chunks_mut(block))
                    .zip(x.par_chunks(block).zip(branch.par_chunks(block)))
                    .for_each(|((sum, normed), (x, branch))| {
                        let (eps, scale) = (eps as f32, scale as f32);
                        cpu::add_rms_norm(sum, normed, x, branch, gamma, eps, scale);
                    });
            });
        });
        (tensor(sum, dims(&x)), tensor(normed, dims(&x)))
    }

    fn layer_norm(
        x: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        eps: f64,
        scale: f64,
    ) -> FlexTensor {
        let (gamma, beta) = (gamma.to_contiguous(), beta.to_contiguous());
        mapped(&x, |y, x| {
            let (gamma, beta) = (elements(&gamma), elements(&beta));
            by_rows(y, x, gamma.len(), |y, x, _| {
                cpu::layer_norm(y, x, gamma, beta, eps as f32, scale as f32);
            });
        })
    }

    fn linear(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        let (mut shape, outputs) = (dims(&x), dims(&weight));
        let input = outputs[1];
        let y = filled(elements(&x).len() / input * outputs[0], |y| {
            cpu::linear(y, elements(&x), elements(&weight), input);
        });
        if let Some(last) = shape.last_mut() {
            *last = outputs[0];
        }
        tensor(y, shape)
    }

    fn add_bias(y: FlexTensor, bias: FlexTensor) -> FlexTensor {
        let bias = bias.to_contiguous();
        changed(y, |y| cpu::add_bias(y, elements(&bias)))
    }

    fn rotate(x: FlexTensor, table: RotaryTable, start: usize) -> FlexTensor {
        rotated(x, &table, start, 1.0)
    }

    fn attention(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        sinks: FlexTensor,
        attention: Attention,
    ) -> FlexTensor {
        let (q, k, v) = (q.to_contiguous(), k.to_contiguous(), v.to_contiguous());
        attend(&q, &k, &v, &sinks.to_contiguous(), &attention).0
    }

    fn gated(gate: FlexTensor, up: FlexTensor, kind: Gate) -> FlexTensor {
        let up = up.to_contiguous();
        let up = elements(&up);
        mapped(&gate, |y, gate| {
            by_rows(y, gate, 1, |y, gate, start| {
                cpu::gated(kind, y, gate, &up[start..start + gate.len()]);
            });
        })
    }

    fn clamped_swiglu(gate: FlexTensor, up: FlexTensor, clamp: GateClamp) -> FlexTensor {
        let up = up.to_contiguous();
        let up = elements(&up);
        mapped(&gate, |y, gate| {
            by_rows(y, gate, 1, |y, gate, start| {
                cpu::clamped_swiglu(clamp, y, gate, &up[start..start + gate.len()]);
            });
        })
    }

    fn activate(x: FlexTensor, kind: Gate) -> FlexTensor {
        mapped(&x, |y, x| by_rows(y, x, 1, |y, x, _| cpu::activate(kind, y, x)))
    }

    fn embedding(table: FlexTensor, ids: Arc<[u32]>, [rows, columns]: [usize; 2]) -> FlexTensor {
        let table = table.to_contiguous();
        let width = dims(&table)[1];
        let y = filled(ids.len() * width, |y| cpu::embedding(y, elements(&table), &ids, width));
        tensor(y, vec![rows, columns, width])
    }

    fn start_of_backward(_: FlexTensor, _: FlexTensor) -> FlexTensor {
        tensor(vec![0.0], vec![1])
    }

    fn next_token_loss(
        hidden: FlexTensor,
        head: FlexTensor,
        targets: Arc<[u32]>,
        terms: LossTerms,
        softcap: Option<f64>,
    ) -> (FlexTensor, FlexTensor) {
        let (hidden, head) = (hidden.to_contiguous(), head.to_contiguous());
        let width = dims(&hidden)[1];
        let losses = cpu::row_losses(elements(&hidden), elements(&head), &targets, width, softcap);
        let [total, nll] = loss_tensors(&losses, &targets, terms);
        (total, nll)
    }
}

impl PlainOps for Flex {
    fn next_token_nll(
        hidden: FlexTensor,
        head: FlexTensor,
        targets: Arc<[u32]>,
        softcap: Option<f64>,
    ) -> FlexTensor {
        Self::next_token_loss(hidden, head, targets, LossTerms::default(), softcap).1
    }
}

/// `x` turned by `direction` times each position's angle, in place where nothing else holds it.
pub(super) fn rotated(
    x: FlexTensor,
    table: &RotaryTable,
    start: usize,
    direction: f32,
) -> FlexTensor {
    let shape = dims(&x);
    let (sequences, tokens, width) = (shape[0], shape[1], shape[2]);
    // A block is several whole sequences, or some tokens of one.
    let rows = match sequences {
        1 => rows_per_thread(tokens * width, width),
        _ => tokens,
    };
    changed(x, |x| {
        x.par_chunks_mut((rows * width).max(1)).enumerate().for_each(|(index, x)| {
            let (first, count) = (index * rows % tokens, x.len() / width);
            let (cos, sin) = table.rows(start + first, count);
            let turn = if table.is_interleaved() { cpu::rotate_neighbours } else { cpu::rotate };
            let heads = (table.head_dim(), table.first_turned());
            turn(x, cos, sin, direction, width, heads, table.pairs(), count);
        });
    })
}
