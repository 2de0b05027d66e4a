//! An expert's MLP on the tokens that are sent to it: few for each matrix, so that laying the matrix out anew,
//! as products usually begin, would cost as much as a third of the product itself.
//!
//! Matrices are read here as they are stored, once for all tokens. It is the tokens that are laid out: a panel
//! has the same feature of neighbouring tokens side by side, and what some rows of a matrix make of it is a
//! part of the panel that the next matrix reads. A token's sums are taken in the same order whatever the tokens
//! beside it.

use std::mem::MaybeUninit;

use super::{
    Unwritten, activate,
    buffer::{over, with_scratch},
    clamped_swiglu, dispatch, gated,
    instructions::InstructionSet,
    simd::dot,
};
use crate::{Gate, GateClamp};

/// Tokens side by side.
const LANES: usize = 16;
type Lanes = [f32; LANES];

/// Most lanes of tokens in a panel.
const PANEL: usize = 3;

/// Rows of a matrix that are multiplied at once. With three lanes of tokens their sums fill AVX-512's registers:
/// on 512 × 1024 that reaches 98 % of the speed of the largest products, 6 rows × 4 lanes and 12 × 2 95 %.
const ROWS: usize = 8;

/// Rows at once where there are fewer or narrower registers, one lane of tokens at a time.
const FEW_ROWS: usize = 4;

/// Features that are summed at once over a token's experts.
const BLOCK: usize = 128;

/// A matrix \[out, in\] and what is added to its product, \[out\].
#[derive(Clone, Copy)]
pub(crate) struct Affine<'a> {
    pub(crate) weight: &'a [f32],
    pub(crate) bias: Option<&'a [f32]>,
}

/// What stands between an MLP's matrices.
#[derive(Clone, Copy)]
pub(crate) enum Middle<'a> {
    /// act(up(x))
    Plain(Gate),
    /// act(gate(x)) · up(x)
    Gated(Gate, Affine<'a>),
    /// The same, clamped as gpt_oss does.
    Clamped(GateClamp, Affine<'a>),
}

/// down(middle(up(x)))
#[derive(Clone, Copy)]
pub(crate) struct ExpertMlp<'a> {
    pub(crate) up: Affine<'a>,
    pub(crate) middle: Middle<'a>,
    pub(crate) down: Affine<'a>,
}

impl<'a> ExpertMlp<'a> {
    fn gate(&self) -> Option<Affine<'a>> {
        match self.middle {
            Middle::Plain(_) => None,
            Middle::Gated(_, gate) | Middle::Clamped(_, gate) => Some(gate),
        }
    }

    /// What the last matrix reads; `gate` is empty where there is none.
    fn middle(&self, y: &mut Unwritten, gate: &[f32], up: &[f32]) {
        match self.middle {
            Middle::Plain(kind) => activate(kind, y, up),
            Middle::Gated(kind, _) => gated(kind, y, gate, up),
            Middle::Clamped(clamp, _) => clamped_swiglu(clamp, y, gate, up),
        }
    }
}

/// Whether there are the registers and the instruction that the sums here are made of.
pub(crate) fn has_fused_multiply_add() -> bool {
    InstructionSet::in_use() >= InstructionSet::Avx2
}

/// Whether there are 32 registers of a whole lane.
fn has_wide_registers() -> bool {
    InstructionSet::in_use() == InstructionSet::Avx512
}

/// What an expert makes of some rows of `tokens`, \[N, width\]: \[rows, width\].
pub(crate) fn expert(
    out: &mut Unwritten,
    tokens: &[f32],
    rows: &[u32],
    width: usize,
    mlp: &ExpertMlp<'_>,
) {
    expert_with(has_wide_registers(), out, tokens, rows, width, mlp);
}

/// As [`expert`], with AVX-512's registers or AVX2's.
fn expert_with(
    wide: bool,
    out: &mut Unwritten,
    tokens: &[f32],
    rows: &[u32],
    width: usize,
    mlp: &ExpertMlp<'_>,
) {
    let tokens: Vec<&[f32]> =
        rows.iter().map(|row| &tokens[*row as usize * width..][..width]).collect();
    if let [token] = tokens[..] {
        one_token(out, token, mlp);
        return;
    }
    let panels = panels(&tokens, if wide { PANEL } else { 1 });
    let inner = mlp.up.weight.len() / width;
    let lanes: usize = panels.iter().map(|panel| panel.lanes).sum();
    with_scratch(lanes * LANES * (width + inner), |scratch| {
        let (x, h) = scratch.split_at_mut(lanes * LANES * width);
        let (x, h) = (x.as_chunks_mut().0, h.as_chunks_mut().0);
        let mut start = 0;
        for panel in &panels {
            lay_out(&mut x[start * width..][..panel.lanes * width], panel);
            start += panel.lanes;
        }
        first_matrices(h, x, &panels, width, mlp, wide);
        last_matrix(out, h, &panels, width, &mlp.down, wide);
    });
}

/// Tokens that are multiplied together.
struct Panel<'a> {
    tokens: &'a [&'a [f32]],
    lanes: usize,
}

/// All tokens in as few panels of at most `most` lanes as there can be, each about as large as the others:
/// they go through a matrix side by side, so that it comes from memory once.
fn panels<'a>(mut tokens: &'a [&'a [f32]], most: usize) -> Vec<Panel<'a>> {
    let mut panels = Vec::new();
    while !tokens.is_empty() {
        let left = tokens.len().div_ceil(LANES);
        let lanes = left.div_ceil(left.div_ceil(most));
        let (own, rest) = tokens.split_at(tokens.len().min(lanes * LANES));
        panels.push(Panel { tokens: own, lanes });
        tokens = rest;
    }
    panels
}

/// \[features, tokens\] from tokens that stand one after the other, zeros where a lane has no token.
fn lay_out(x: &mut [Lanes], panel: &Panel<'_>) {
    for (lane, tokens) in panel.tokens.chunks(LANES).enumerate() {
        let column = x[lane..].iter_mut().step_by(panel.lanes);
        match <&[&[f32]; LANES]>::try_from(tokens) {
            Ok(tokens) => turn(x, tokens, lane, panel.lanes),
            Err(_) => {
                for (feature, place) in column.enumerate() {
                    *place = std::array::from_fn(|at| tokens.get(at).map_or(0.0, |x| x[feature]));
                }
            }
        }
    }
}

/// The middle of the MLP, as the panels that the last matrix reads.
fn first_matrices(
    h: &mut [Lanes],
    x: &[Lanes],
    panels: &[Panel<'_>],
    width: usize,
    mlp: &ExpertMlp<'_>,
    wide: bool,
) {
    let inner = mlp.up.weight.len() / width;
    let (mut gate, mut up) = ([[0.0; LANES]; ROWS * PANEL], [[0.0; LANES]; ROWS * PANEL]);
    for row in (0..inner).step_by(ROWS) {
        let rows = row..inner.min(row + ROWS);
        let mut start = 0;
        for &Panel { lanes, .. } in panels {
            let x = &x[start * width..][..lanes * width];
            let length = rows.len() * lanes;
            product(&mut up[..length], &mlp.up, rows.clone(), x, lanes, wide);
            let gate: &[Lanes] = match mlp.gate() {
                None => &[],
                Some(matrix) => {
                    product(&mut gate[..length], &matrix, rows.clone(), x, lanes, wide);
                    &gate[..length]
                }
            };
            let h = &mut h[start * inner + row * lanes..][..length];
            mlp.middle(
                over(h.as_flattened_mut()),
                gate.as_flattened(),
                up[..length].as_flattened(),
            );
            start += lanes;
        }
    }
}

/// out\[tokens, width\] of panels \[features, tokens\].
fn last_matrix(
    out: &mut Unwritten,
    h: &[Lanes],
    panels: &[Panel<'_>],
    width: usize,
    down: &Affine<'_>,
    wide: bool,
) {
    let inner = down.weight.len() / width;
    let mut sums = [[0.0; LANES]; ROWS * PANEL];
    for row in (0..width).step_by(ROWS) {
        let rows = row..width.min(row + ROWS);
        let (mut start, mut token) = (0, 0);
        for &Panel { lanes, tokens } in panels {
            let sums = &mut sums[..rows.len() * lanes];
            product(sums, down, rows.clone(), &h[start * inner..][..lanes * inner], lanes, wide);
            let out = &mut out[token * width..][..tokens.len() * width];
            match rows.len() {
                ROWS => put(out, sums.as_flattened(), row, lanes, width),
                _ => {
                    for (at, out) in out.chunks_exact_mut(width).enumerate() {
                        for (own, row) in rows.clone().enumerate() {
                            out[row].write(sums.as_flattened()[own * lanes * LANES + at]);
                        }
                    }
                }
            }
            start += lanes;
            token += tokens.len();
        }
    }
}

/// sums\[rows, tokens\] of some rows of a matrix and a panel \[in, tokens\].
fn product(
    sums: &mut [Lanes],
    matrix: &Affine<'_>,
    rows: std::ops::Range<usize>,
    panel: &[Lanes],
    lanes: usize,
    wide: bool,
) {
    let input = panel.len() / lanes;
    let weight = &matrix.weight[rows.start * input..rows.end * input];
    let done = tiles(sums, weight, panel, lanes, wide);
    let left = weight[done * input..].chunks_exact(input);
    for (sums, weight) in sums[done * lanes..].chunks_exact_mut(lanes).zip(left) {
        one_row(sums, weight, panel);
    }
    if let Some(bias) = matrix.bias {
        for (sums, bias) in sums.chunks_exact_mut(lanes).zip(&bias[rows]) {
            sums.as_flattened_mut().iter_mut().for_each(|sum| *sum += bias);
        }
    }
}

/// Multiplies some rows of a matrix, \[rows, in\], with a panel, \[in, tokens\].
#[cfg(target_arch = "x86_64")]
type Tile = unsafe fn(&mut [Lanes], &[f32], &[Lanes]);

/// The first rows of a product, as many as are whole tiles; how many that are.
#[cfg(target_arch = "x86_64")]
fn tiles(sums: &mut [Lanes], weight: &[f32], panel: &[Lanes], lanes: usize, wide: bool) -> usize {
    let (of_tile, multiply): (usize, Tile) = match (wide, lanes) {
        (true, 1) => (ROWS, tile::avx512::<ROWS, 1>),
        (true, 2) => (ROWS, tile::avx512::<ROWS, 2>),
        (true, 3) => (ROWS, tile::avx512::<ROWS, 3>),
        (false, 1) if has_fused_multiply_add() => (FEW_ROWS, tile::avx2::<FEW_ROWS, 1>),
        _ => return 0,
    };
    let input = panel.len() / lanes;
    let tiles = sums.chunks_exact_mut(of_tile * lanes).zip(weight.chunks_exact(of_tile * input));
    let mut done = 0;
    for (sums, weight) in tiles {
        // SAFETY: `wide` says that the machine has AVX-512, and the other arm asks for AVX2 and FMA.
        unsafe { multiply(sums, weight, panel) };
        done += of_tile;
    }
    done
}

/// There are tiles for x86 only; elsewhere mixtures are not computed here.
#[cfg(not(target_arch = "x86_64"))]
fn tiles(_: &mut [Lanes], _: &[f32], _: &[Lanes], _: usize, _: bool) -> usize {
    0
}

/// Tiles of sums, all of them in registers: Σ over the features of `weight`, \[R, in\], times `panel`, \[in, V\]
/// lanes. Written with intrinsics, because the compiler keeps the sums of plain loops in registers for some R
/// and V and not for others, where it is thirty times slower.
#[cfg(target_arch = "x86_64")]
mod tile {
    use std::arch::x86_64::{
        _MM_HINT_T0, _mm_prefetch, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps,
        _mm256_setzero_ps, _mm256_storeu_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps,
        _mm512_setzero_ps, _mm512_storeu_ps,
    };

    use super::{LANES, Lanes};

    /// Defines a tile whose lanes are `$vectors` registers of `$width` numbers each.
    macro_rules! tile {
        ($name:ident, $features:literal, $vectors:literal, $width:literal, $zero:ident, $load:ident,
         $same:ident, $multiply_add:ident, $store:ident) => {
            #[target_feature(enable = $features)]
            pub(super) fn $name<const R: usize, const V: usize>(
                sums: &mut [Lanes],
                weight: &[f32],
                panel: &[Lanes],
            ) {
                let (panel, _) = panel.as_chunks::<V>();
                let input = panel.len();
                assert!(weight.len() >= R * input && sums.len() >= R * V, "whole rows");
                let mut acc = [[[$zero(); $vectors]; V]; R];
                for (feature, x) in panel.iter().enumerate() {
                    if feature % LANES == 0 {
                        for row in R..2 * R {
                            let next = weight.as_ptr().wrapping_add(row * input + feature);
                            _mm_prefetch::<_MM_HINT_T0>(next.cast());
                        }
                    }
                    let mut own = [[$zero(); $vectors]; V];
                    for lane in 0..V {
                        for part in 0..$vectors {
                            // SAFETY: a lane has `$vectors` times `$width` numbers.
                            own[lane][part] = unsafe { $load(x[lane].as_ptr().add(part * $width)) };
                        }
                    }
                    for row in 0..R {
                        // SAFETY: `row` < R and `feature` < `input`, so the place is below R · `input`, which
                        // the assertion above holds the slice to.
                        let factor = $same(unsafe { *weight.get_unchecked(row * input + feature) });
                        for lane in 0..V {
                            for part in 0..$vectors {
                                acc[row][lane][part] =
                                    $multiply_add(factor, own[lane][part], acc[row][lane][part]);
                            }
                        }
                    }
                }
                for row in 0..R {
                    for lane in 0..V {
                        let sums: &mut Lanes = &mut sums[row * V + lane];
                        for part in 0..$vectors {
                            // SAFETY: as where the lanes are loaded.
                            unsafe {
                                $store(sums.as_mut_ptr().add(part * $width), acc[row][lane][part]);
                            }
                        }
                    }
                }
                const { assert!($vectors * $width == LANES) };
            }
        };
    }

    tile!(
        avx512,
        "avx512f",
        1,
        16,
        _mm512_setzero_ps,
        _mm512_loadu_ps,
        _mm512_set1_ps,
        _mm512_fmadd_ps,
        _mm512_storeu_ps
    );
    tile!(
        avx2,
        "avx2,fma",
        2,
        8,
        _mm256_setzero_ps,
        _mm256_loadu_ps,
        _mm256_set1_ps,
        _mm256_fmadd_ps,
        _mm256_storeu_ps
    );
}

/// A lone token, for which the matrices are waited for: each row is read once.
fn one_token(out: &mut Unwritten, token: &[f32], mlp: &ExpertMlp<'_>) {
    let inner = mlp.up.weight.len() / token.len();
    with_scratch(3 * inner, |scratch| {
        let (up, rest) = scratch.split_at_mut(inner);
        let (gate, h) = rest.split_at_mut(inner);
        each_row(over(up), token, mlp.up.weight, mlp.up.bias);
        let gate: &[f32] = match mlp.gate() {
            None => &[],
            Some(matrix) => {
                each_row(over(gate), token, matrix.weight, matrix.bias);
                gate
            }
        };
        mlp.middle(over(h), gate, up);
        each_row(out, h, mlp.down.weight, mlp.down.bias);
    });
}

dispatch! {
    fn one_row(sums: &mut [Lanes], weight: &[f32], panel: &[Lanes]) {
        let lanes = sums.len();
        for (lane, sums) in sums.iter_mut().enumerate() {
            let mut acc = [0f32; LANES];
            for (factor, x) in weight.iter().zip(panel[lane..].iter().step_by(lanes)) {
                for (acc, x) in acc.iter_mut().zip(x) {
                    *acc = x.mul_add(*factor, *acc);
                }
            }
            *sums = acc;
        }
    }

    /// The features of 16 tokens side by side, in a column of lanes.
    fn turn(x: &mut [Lanes], tokens: &[&[f32]; LANES], lane: usize, lanes: usize) {
        let width = x.len() / lanes;
        let blocks: [&[[f32; LANES]]; LANES] =
            std::array::from_fn(|token| tokens[token][..width].as_chunks().0);
        for block in 0..width / LANES {
            let rows: [&[f32; LANES]; LANES] = std::array::from_fn(|token| &blocks[token][block]);
            for feature in 0..LANES {
                x[(block * LANES + feature) * lanes + lane] =
                    std::array::from_fn(|token| rows[token][feature]);
            }
        }
        for feature in width / LANES * LANES..width {
            x[feature * lanes + lane] = std::array::from_fn(|token| tokens[token][feature]);
        }
    }

    /// Eight neighbouring features of each token from rows of sums.
    fn put(out: &mut [MaybeUninit<f32>], sums: &[f32], first: usize, lanes: usize, width: usize) {
        let of_row = lanes * LANES;
        let rows: [&[f32]; ROWS] = std::array::from_fn(|row| &sums[row * of_row..][..of_row]);
        for (token, out) in out.chunks_exact_mut(width).enumerate().take(of_row) {
            let own: [f32; ROWS] = std::array::from_fn(|row| rows[row][token]);
            for (out, own) in out[first..][..ROWS].iter_mut().zip(own) {
                out.write(own);
            }
        }
    }

    fn each_row(y: &mut [MaybeUninit<f32>], x: &[f32], weight: &[f32], bias: Option<&[f32]>) {
        for (row, (y, weight)) in y.iter_mut().zip(weight.chunks_exact(x.len())).enumerate() {
            y.write(dot(x, weight) + bias.map_or(0.0, |bias| bias[row]));
        }
    }

    /// For each token Σ weight · row, in the order of its ranks. `weights`, `rows`: \[tokens, ranks\].
    pub(crate) fn weighted_rows(
        sums: &mut [MaybeUninit<f32>], outputs: &[f32], weights: &[f32], rows: &[u32], width: usize,
    ) {
        let tokens = sums.len() / width;
        let ranks = rows.len() / tokens.max(1);
        for token in 0..tokens {
            let places = token * ranks..(token + 1) * ranks;
            let (weights, rows) = (&weights[places.clone()], &rows[places]);
            for first in (0..width).step_by(BLOCK) {
                let columns = first..width.min(first + BLOCK);
                let mut sum = [0f32; BLOCK];
                for (weight, row) in weights.iter().zip(rows) {
                    let row = &outputs[*row as usize * width..][columns.clone()];
                    for (sum, x) in sum.iter_mut().zip(row) {
                        *sum += weight * x;
                    }
                }
                for (out, sum) in sums[token * width..][columns].iter_mut().zip(sum) {
                    out.write(sum);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::filled;

    /// Numbers between −1 and 1 without a pattern that sums could hide behind.
    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let number =
            |at: usize| ((at as f32 * 12.9898 + seed as f32 * 78.233).sin() * 437.5).fract();
        (0..count).map(number).collect()
    }

    fn exact(x: &[f64], matrix: &Affine<'_>) -> Vec<f64> {
        let rows = matrix.weight.chunks_exact(x.len()).enumerate();
        rows.map(|(row, weight)| {
            let sum: f64 = weight.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum();
            sum + matrix.bias.map_or(0.0, |bias| f64::from(bias[row]))
        })
        .collect()
    }

    #[test]
    fn an_expert_computes_its_formula_on_its_rows_with_every_register_width() {
        let widths = [Some(false), has_wide_registers().then_some(true)];
        for wide in widths.into_iter().flatten().filter(|_| has_fused_multiply_add()) {
            for (width, inner, count) in [(33, 20, 1), (16, 9, 2), (40, 24, 17), (32, 21, 150)] {
                let tokens = numbers(width * 160, 1);
                let rows: Vec<u32> = (0..count).map(|row| row * 7 % 160).collect();
                let [up, gate] = [2, 3].map(|seed| numbers(inner * width, seed));
                let (down, bias) = (numbers(width * inner, 4), numbers(width.max(inner), 5));
                let of = |weight, bias| Affine { weight, bias };
                let gate = of(&gate, Some(&bias[..inner]));
                let mlp = ExpertMlp {
                    up: of(&up, None),
                    middle: Middle::Gated(Gate::Silu, gate),
                    down: of(&down, Some(&bias[..width])),
                };
                let found = filled(count as usize * width, |out| {
                    expert_with(wide, out, &tokens, &rows, width, &mlp);
                });
                for (found, row) in found.chunks_exact(width).zip(&rows) {
                    let x = &tokens[*row as usize * width..][..width];
                    let x: Vec<f64> = x.iter().copied().map(f64::from).collect();
                    let gated = exact(&x, &gate).into_iter().zip(exact(&x, &mlp.up));
                    let h: Vec<f64> = gated.map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                    for (found, expected) in found.iter().zip(exact(&h, &mlp.down)) {
                        let off = (f64::from(*found) - expected).abs();
                        assert!(off < 1e-4, "{wide}, {width} × {inner}, {count}: {off:e}");
                    }
                }
            }
        }
    }
}
