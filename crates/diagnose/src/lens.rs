//! Logit lens: the final norm and head applied to an earlier point of the stream.

use burn::tensor::Tensor;
use lns_kernels::divergence_to;
use lns_model::Head;

/// Σ over tokens of KL(final prediction ‖ prediction from `stream`), and how many tokens agree on the
/// most likely next one. Streams \[1, T, H\].
pub(crate) fn sums(head: &Head, stream: &Tensor<3>, last: &Tensor<3>) -> (f64, usize) {
    let normed = |stream: &Tensor<3>| {
        let [_, length, hidden] = stream.dims();
        head.norm.forward(stream.clone().reshape([length, hidden]))
    };
    let rows = divergence_to(&normed(last), &normed(stream), &head.weight);
    (rows.iter().map(|row| row.0).sum(), rows.iter().filter(|row| row.1).count())
}
