//! `angular`: angular distance of every pair of points of the stream, arccos(cosine)/π per token
//! (arXiv 2403.17887; eq. 1 of arXiv 2502.05795), averaged over content tokens.
//!
//! Computed from the unit vectors u, v as 2·atan2(‖u − v‖, ‖u + v‖)/π: equal to the arccosine, but
//! accurate for small angles, exactly 0 for equal vectors and exactly 1 for opposite ones.

use std::f64::consts::PI;

use burn::tensor::Tensor;
use lns_kernels::{Workers, with_slices};
use lns_record::{Axis, BlockRecord, DiagnoseRecord, Group, Quantity};
use lns_show::{block_in_words, counted};

use super::{Course, Probe};
use crate::{
    observer::{AtEnd, Notes, Observer, Passed},
    words::number,
};

pub(crate) struct Angular;

impl Probe for Angular {
    fn name(&self) -> &'static str {
        "angular"
    }

    fn measures(&self) -> &'static str {
        "angular distance of every pair of layers, most redundant blocks"
    }

    fn is_default(&self) -> bool {
        true
    }

    fn price(&self, _layers: f64) -> f64 {
        0.0
    }

    fn group(&self) -> Group {
        Group::Stream
    }

    fn quantities(&self) -> Vec<Quantity> {
        vec![Quantity {
            field: "angular_distance[]".to_owned(),
            axis: Axis::Pair,
            label: "angular distance".to_owned(),
            unit: "half turns".to_owned(),
            ..Quantity::default()
        }]
    }

    fn course(&self) -> Course {
        Course::Shared(Box::new(Watch::default()))
    }

    fn evidence(&self, record: &DiagnoseRecord) -> Vec<String> {
        block_sentence(&record.blocks, record.layers.len()).into_iter().collect()
    }
}

/// Notes Σ over content tokens, \[i\]\[n − 1\], of each window.
#[derive(Default)]
struct Watch(Notes<Vec<Vec<f64>>>);

impl Observer for Watch {
    fn keeps_streams(&self) -> bool {
        true
    }

    fn at_end(&self, at: &AtEnd<'_>) -> Result<(), String> {
        let sums = angular_sums(at.streams, at.content, at.workers);
        let lost = |row: &Vec<f64>| row.iter().any(|sum| !sum.is_finite());
        if let Some(i) = sums.iter().position(lost) {
            return Err(format!("the angle of stream {i} to a later one"));
        }
        self.0.add(at.window, 0, sums);
        Ok(())
    }

    fn conclude(&self, passed: &Passed<'_>, record: &mut DiagnoseRecord) {
        let (notes, layers) = (self.0.read(), record.layers.len());
        let content = passed.content_tokens() as f64;
        let windows = passed.windows.len();
        let distance = |i: usize, n: usize| {
            let whole = notes.range(..(windows, 0));
            whole.map(|(_, window)| window[i][n]).sum::<f64>() / content
        };
        record.angular_distance =
            (0..layers).map(|i| (0..layers - i).map(|n| distance(i, n)).collect()).collect();
        record.blocks = most_redundant(&record.angular_distance);
    }
}

/// Reciprocal norm of each row; 0 for a row of zeros.
fn reciprocal_norms(stream: &[f32], width: usize) -> Vec<f64> {
    let norm = |row: &[f32]| row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    stream
        .chunks_exact(width)
        .map(|row| match norm(row) {
            norm if norm > 0.0 => 1.0 / norm,
            _ => 0.0,
        })
        .collect()
}

/// Σ over the tokens that count of the angular distance between two streams.
fn distance_sum(
    (a, a_norms): (&[f32], &[f64]),
    (b, b_norms): (&[f32], &[f64]),
    width: usize,
    counts: &[bool],
) -> f64 {
    let rows = a.chunks_exact(width).zip(b.chunks_exact(width)).zip(a_norms.iter().zip(b_norms));
    rows.zip(counts)
        .filter(|(_, counts)| **counts)
        .map(|(((a, b), (a_norm, b_norm)), _)| distance(a, b, *a_norm, *b_norm))
        .sum()
}

fn distance(a: &[f32], b: &[f32], a_norm: f64, b_norm: f64) -> f64 {
    if a_norm == 0.0 || b_norm == 0.0 {
        // Two zero vectors are equal; one is orthogonal to anything.
        return if a_norm == b_norm { 0.0 } else { 0.5 };
    }
    const LANES: usize = 8;
    let (mut difference, mut sum) = ([0f64; LANES], [0f64; LANES]);
    let (a_blocks, b_blocks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail = a_blocks.remainder().iter().zip(b_blocks.remainder());
    for (a, b) in a_blocks.zip(b_blocks) {
        for lane in 0..LANES {
            let (u, v) = (f64::from(a[lane]) * a_norm, f64::from(b[lane]) * b_norm);
            difference[lane] += (u - v) * (u - v);
            sum[lane] += (u + v) * (u + v);
        }
    }
    for (a, b) in tail {
        let (u, v) = (f64::from(*a) * a_norm, f64::from(*b) * b_norm);
        difference[0] += (u - v) * (u - v);
        sum[0] += (u + v) * (u + v);
    }
    let total = |lanes: [f64; LANES]| lanes.iter().sum::<f64>().sqrt();
    2.0 * total(difference).atan2(total(sum)) / PI
}

/// Σ over one window's content tokens of the angular distance of stream\[i\] and stream\[i + n\], at
/// \[i\]\[n − 1\].
fn angular_sums(streams: &[Tensor<3>], content: &[bool], workers: &Workers) -> Vec<Vec<f64>> {
    let hidden = streams[0].dims()[2];
    let norms = workers.map(streams.len(), |i| {
        with_slices([&streams[i]], |[stream]| reciprocal_norms(stream, hidden))
    });
    workers.map(streams.len() - 1, |i| {
        (i + 1..streams.len())
            .map(|j| {
                with_slices([&streams[i], &streams[j]], |[a, b]| {
                    distance_sum((a, &norms[i]), (b, &norms[j]), hidden, content)
                })
            })
            .collect()
    })
}

/// For each n, the block of n layers whose ends are closest (Gromov et al., arXiv 2403.17887):
/// argmin over i of d(stream\[i\], stream\[i + n\]), the first of equals.
fn most_redundant(angular: &[Vec<f64>]) -> Vec<BlockRecord> {
    (1..=angular.len())
        .filter_map(|n| {
            let distances =
                angular.iter().enumerate().filter_map(|(i, row)| Some((i, *row.get(n - 1)?)));
            let (start, distance) = distances.min_by(|a, b| a.1.total_cmp(&b.1))?;
            Some(BlockRecord { n, start, distance })
        })
        .collect()
}

fn block_sentence(blocks: &[BlockRecord], layers: usize) -> Option<String> {
    let quarter = blocks.iter().find(|block| block.n == (layers / 4).max(1))?;
    Some(format!(
        "The most redundant block of {} is {} (angular distance {} across it).",
        counted(quarter.n, "layer"),
        block_in_words(quarter.start, quarter.n),
        number(quarter.distance)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn between(a: &[f32], b: &[f32]) -> f64 {
        let norms = |x: &[f32]| reciprocal_norms(x, x.len());
        distance_sum((a, &norms(a)), (b, &norms(b)), a.len(), &[true])
    }

    #[test]
    fn a_vector_is_at_distance_zero_from_itself_and_one_from_its_opposite() {
        for scale in [1e-20f32, 1e-3, 1.0, 3e4, 1e18] {
            // 600 values, each representable in bf16.
            let a: Vec<f32> = (0..600).map(|i| ((i * 37 % 101) as f32 - 50.0) * scale).collect();
            let opposite: Vec<f32> = a.iter().map(|x| -x).collect();
            let longer: Vec<f32> = a.iter().map(|x| x * 2.0).collect();
            assert_eq!(between(&a, &a), 0.0);
            assert_eq!(between(&a, &longer), 0.0);
            assert_eq!(between(&a, &opposite), 1.0);
        }
    }

    #[test]
    fn known_angles_have_their_distance() {
        assert!((between(&[1.0, 0.0], &[0.0, 5.0]) - 0.5).abs() < 1e-15);
        assert!((between(&[1.0, 0.0], &[1.0, 1.0]) - 0.25).abs() < 1e-15);
        let tiny = between(&[1.0, 0.0], &[1.0, 1e-7]);
        assert!((tiny * PI / 1e-7 - 1.0).abs() < 1e-6, "arccos of a rounded cosine would give 0");
    }

    #[test]
    fn zero_vectors_give_a_number() {
        assert_eq!(between(&[0.0; 9], &[0.0; 9]), 0.0);
        assert_eq!(between(&[0.0; 9], &[1.0; 9]), 0.5);
    }

    #[test]
    fn the_most_redundant_block_is_the_closest_pair_of_its_length() {
        let angular = vec![vec![0.3, 0.5, 0.6], vec![0.1, 0.4], vec![0.1]];
        let blocks: Vec<_> =
            most_redundant(&angular).iter().map(|b| (b.n, b.start, b.distance)).collect();
        assert_eq!(blocks, [(1, 1, 0.1), (2, 1, 0.4), (3, 0, 0.6)]);
    }
}
