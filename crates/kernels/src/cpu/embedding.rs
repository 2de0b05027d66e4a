//! Rows of a table by their ids, and the gradient that goes back to them.

use super::{buffer::Unwritten, dispatch, simd::add_to};

/// Row `ids[i]` of `table` becomes row i of `y`.
pub(crate) fn embedding(y: &mut Unwritten, table: &[f32], ids: &[u32], width: usize) {
    for (y, id) in y.chunks_exact_mut(width).zip(ids) {
        y.write_copy_of_slice(&table[*id as usize * width..][..width]);
    }
}

dispatch! {
    /// Adds row i of `dy` to row `ids[i]` of `dtable`, in the order of the ids.
    pub(crate) fn embedding_backward(dtable: &mut [f32], dy: &[f32], ids: &[u32], width: usize) {
        for (dy, id) in dy.chunks_exact(width).zip(ids) {
            add_to(&mut dtable[*id as usize * width..][..width], dy);
        }
    }
}
