//! A mixture's experts, each on its own tokens, several experts at once.

use burn::{
    backend::Flex,
    tensor::{Float, Tensor},
};
use rayon::prelude::*;

use super::{forward::rows_per_thread, memory::tensor, with_slices};
use crate::{
    ExpertTensors,
    cpu::{self, Unwritten, filled},
};

/// See [`crate::mixture`].
pub(crate) fn mixture(
    tokens: &Tensor<2>,
    weights: &Tensor<2>,
    chosen: &[usize],
    expert: &(dyn Fn(usize) -> Option<ExpertTensors> + Sync),
) -> Tensor<2> {
    let ([count, width], [_, ranks]) = (tokens.dims(), weights.dims());
    // Places in `chosen`, those of one expert together, in order.
    let mut order: Vec<u32> = (0..chosen.len() as u32).collect();
    order.sort_by_key(|place| chosen[*place as usize]);
    let mut rows = vec![0; chosen.len()];
    for (row, place) in order.iter().enumerate() {
        rows[*place as usize] = row as u32;
    }
    let sums = with_slices([tokens, weights], |[tokens, weights]| {
        let outputs = filled(order.len() * width, |mut left| {
            let mut jobs = Vec::new();
            for places in order.chunk_by(|a, b| chosen[*a as usize] == chosen[*b as usize]) {
                let (own, rest) = left.split_at_mut(places.len() * width);
                jobs.push((places, own));
                left = rest;
            }
            jobs.into_par_iter().with_max_len(1).for_each(|(places, out)| {
                let own: Vec<u32> = places.iter().map(|place| place / ranks as u32).collect();
                compute(out, tokens, &own, width, expert(chosen[places[0] as usize]).as_ref());
            });
        });
        let sums = filled(count * width, |sums| {
            let block = rows_per_thread(sums.len(), width);
            sums.par_chunks_mut(block * width)
                .zip(weights.par_chunks(block * ranks).zip(rows.par_chunks(block * ranks)))
                .for_each(|(sums, (weights, rows))| {
                    cpu::weighted_rows(sums, &outputs, weights, rows, width);
                });
        });
        cpu::keep(outputs);
        sums
    });
    Tensor::<2, Float>::from_primitive::<Flex>(tensor(sums, vec![count, width]))
}

/// What one expert makes of its rows of `tokens`.
fn compute(
    out: &mut Unwritten,
    tokens: &[f32],
    rows: &[u32],
    width: usize,
    expert: Option<&ExpertTensors>,
) {
    let Some(ExpertTensors { gate, up, down, activation, clamp }) = expert else {
        out.iter_mut().for_each(|number| {
            number.write(f32::NAN);
        });
        return;
    };
    let (gate_weight, gate_bias) = gate.as_ref().unwrap_or(up);
    let of = |bias: &Option<Tensor<1>>| {
        bias.clone().unwrap_or_else(|| Tensor::zeros([1], &up.0.device()))
    };
    let biases = [gate_bias, &up.1, &down.1].map(of);
    with_slices([gate_weight, &up.0, &down.0], |[gate_weight, up_weight, down_weight]| {
        with_slices([&biases[0], &biases[1], &biases[2]], |biases| {
            let given = |bias: &Option<Tensor<1>>, values| bias.as_ref().map(|_| values);
            let matrix = cpu::Affine { weight: gate_weight, bias: given(gate_bias, biases[0]) };
            let middle = match (gate, clamp) {
                (None, _) => cpu::Middle::Plain(*activation),
                (Some(_), None) => cpu::Middle::Gated(*activation, matrix),
                (Some(_), Some(clamp)) => cpu::Middle::Clamped(*clamp, matrix),
            };
            let mlp = cpu::ExpertMlp {
                up: cpu::Affine { weight: up_weight, bias: given(&up.1, biases[1]) },
                middle,
                down: cpu::Affine { weight: down_weight, bias: given(&down.1, biases[2]) },
            };
            cpu::expert(out, tokens, rows, width, &mlp);
        });
    });
}
