//! Where a tensor of two or more dimensions has its rows, and how a row becomes f32.

use lns_spec::StoredRows;

use crate::decode::decode;
use crate::map::FileMap;
use crate::scales::{BadScale, Scales};
use crate::tensor::OfHeads;
use crate::{StorageType, TensorInfo};

/// A tensor as the file has it: one row after the other, a row being what lies along the last dimension.
pub(crate) struct Rows<'a> {
    /// How many one matrix has.
    pub(crate) of_matrix: usize,
    /// Elements of a row.
    pub(crate) length: usize,
    /// Bytes of a row.
    pub(crate) bytes: usize,
    dtype: StorageType,
    stored: &'a [u8],
    scales: Option<(&'a Scales, &'a [u8])>,
    interleaved_heads_of: Option<usize>,
    among: Option<StoredRows>,
}

impl<'a> Rows<'a> {
    pub(crate) fn of(tensor: &'a TensorInfo, maps: &'a [FileMap]) -> Self {
        let (of_matrix, length) = match *tensor.shape {
            [rows, columns] if let Some(OfHeads::Transposed(heads)) = tensor.of_heads => {
                (columns, rows / heads.max(1))
            }
            [.., rows, columns] if tensor.transposed => (columns, rows),
            [.., rows, columns] => (rows, columns),
            _ => (1, tensor.elements()),
        };
        let count = tensor.elements().checked_div(length).unwrap_or(0);
        let among = match tensor.of_heads {
            Some(OfHeads::Rows(rows)) => Some(rows),
            _ => None,
        };
        let count = among.map_or(count, |rows| count / rows.run.max(1) * rows.stride);
        let stored = &maps[tensor.file].bytes()[tensor.range.clone()];
        let of_scales =
            |scales: &'a Scales| (scales, &maps[scales.file].bytes()[scales.range.clone()]);
        Self {
            of_matrix,
            length,
            bytes: stored.len().checked_div(count).unwrap_or(0),
            dtype: tensor.dtype,
            stored,
            scales: tensor.scales.as_ref().map(of_scales),
            interleaved_heads_of: tensor.interleaved_heads_of,
            among,
        }
    }

    /// Converts row `row` into `out`, which has its length.
    pub(crate) fn decode(&self, row: usize, out: &mut [f32]) -> Result<(), BadScale> {
        let row = self.interleaved_heads_of.map_or(row, |head_dim| interleaved(row, head_dim));
        let row = self.among.map_or(row, |rows| rows.of(row));
        let stored = &self.stored[row * self.bytes..][..self.bytes];
        match self.scales {
            None => {
                decode(self.dtype, stored, out);
                Ok(())
            }
            Some((scales, bytes)) => {
                scales.decode_row(self.dtype, stored, bytes, (row, self.of_matrix), out)
            }
        }
    }
}

/// Where llama.cpp puts a row of q or k: it rotates neighbouring rows, Hugging Face rotates row j
/// of a head with row j + head_dim/2, so rows j and j + head_dim/2 become 2j and 2j + 1.
pub(crate) fn interleaved(row: usize, head_dim: usize) -> usize {
    let (head, feature, half) = (row / head_dim, row % head_dim, head_dim / 2);
    head * head_dim + feature % half * 2 + feature / half
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaving_pairs_the_halves_of_each_head() {
        // Two heads of 4: the file has rows 0 2 1 3 of each.
        let rows: Vec<_> = (0..8).map(|row| interleaved(row, 4)).collect();
        assert_eq!(rows, [0, 2, 1, 3, 4, 6, 5, 7]);
        let rows: Vec<_> = (0..6).map(|row| interleaved(row, 6)).collect();
        assert_eq!(rows, [0, 2, 4, 1, 3, 5]);
    }
}
