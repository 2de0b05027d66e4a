//! Numbers of eight and four bits whose scales are a tensor of their own.
//!
//! * FP8: a number of a matrix is an [`e4m3`](crate::e4m3), multiplied by the scale of its block of so
//!   many rows and columns.
//! * MXFP4: a number is an E2M1 (±0, ½, 1, 1½, 2, 3, 4, 6), two in a byte, the lower four bits first, and
//!   32 neighbours of a row share a power of two (E8M0: 2^(byte − 127), 255 is NaN).
//!
//! Formats: <https://www.opencompute.org/documents/ocp-microscaling-formats-mx-v1-0-spec-final-pdf>.
//! Layout and arithmetic, in f32, are those of transformers (`finegrained_fp8.py`, `mxfp4.py`).

use std::ops::Range;

use half::{bf16, f16};

use crate::StorageType;
use crate::decode::decode;

/// The scales of a tensor's blocks, stored as a tensor of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scales {
    /// Which of the checkpoint's files holds them.
    pub(crate) file: usize,
    /// Where in that file.
    pub(crate) range: Range<usize>,
    pub(crate) dtype: ScaleType,
    /// Rows and columns of a block, at least one of each. The last block of a row or column may be less.
    pub(crate) block: [usize; 2],
}

/// How a scale is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScaleType {
    F32,
    F16,
    BF16,
    /// A power of two in a byte.
    E8M0,
}

/// A scale that no weight can have been divided by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct BadScale {
    /// The row that it stands for, in the tensor as it is stored.
    pub(crate) row: usize,
    /// The column at which its block begins.
    pub(crate) column: usize,
    pub(crate) value: f32,
}

impl ScaleType {
    /// `None` if scales are not stored like this.
    pub(crate) fn of(dtype: StorageType) -> Option<Self> {
        Some(match dtype {
            StorageType::F32 => Self::F32,
            StorageType::F16 => Self::F16,
            StorageType::BF16 => Self::BF16,
            StorageType::Other("F8_E8M0" | "U8") => Self::E8M0,
            _ => return None,
        })
    }

    /// Scale number `place` of those in `bytes`; NaN where there is none.
    fn read(self, bytes: &[u8], place: usize) -> f32 {
        let four = || bytes.as_chunks().0.get(place).copied().map(f32::from_le_bytes);
        let two = || bytes.as_chunks().0.get(place).copied();
        match self {
            Self::F32 => four(),
            Self::F16 => two().map(|bytes| f16::from_le_bytes(bytes).to_f32()),
            Self::BF16 => two().map(|bytes| bf16::from_le_bytes(bytes).to_f32()),
            Self::E8M0 => bytes.get(place).map(|exponent| e8m0(*exponent)),
        }
        .unwrap_or(f32::NAN)
    }
}

impl Scales {
    /// Converts a row of a stack of matrices. `numbers` is the row as stored, `bytes` are all scales, and
    /// `(row, of_matrix)` is which row of how many that each matrix has.
    ///
    /// A scale must be finite and above zero; a zero is let pass where every number of its block is one.
    pub(crate) fn decode_row(
        &self,
        dtype: StorageType,
        numbers: &[u8],
        bytes: &[u8],
        (row, of_matrix): (usize, usize),
        out: &mut [f32],
    ) -> Result<(), BadScale> {
        if dtype == StorageType::MXFP4 {
            e2m1_pairs(numbers, out);
        } else {
            decode(dtype, numbers, out);
        }
        let [block_rows, block_columns] = self.block;
        let (matrix, row_in_matrix) = (row / of_matrix, row % of_matrix);
        let row_of_scales = matrix * of_matrix.div_ceil(block_rows) + row_in_matrix / block_rows;
        let first = row_of_scales * out.len().div_ceil(block_columns);
        for (block, out) in out.chunks_mut(block_columns).enumerate() {
            let scale = self.dtype.read(bytes, first + block);
            let nothing = scale == 0.0 && out.iter().all(|number| *number == 0.0);
            if !(scale > 0.0 && scale.is_finite() || nothing) {
                return Err(BadScale { row, column: block * block_columns, value: scale });
            }
            for number in out {
                *number *= scale;
            }
        }
        Ok(())
    }
}

const fn e8m0(exponent: u8) -> f32 {
    match exponent {
        // 2^-127 is below the smallest normal number.
        0 => f32::from_bits(0x0040_0000),
        255 => f32::NAN,
        _ => f32::from_bits((exponent as u32) << 23),
    }
}

/// What the four bits of an E2M1 stand for.
const E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

fn e2m1_pairs(numbers: &[u8], out: &mut [f32]) {
    for ([first, second], pair) in out.as_chunks_mut().0.iter_mut().zip(numbers) {
        *first = E2M1[usize::from(pair & 15)];
        *second = E2M1[usize::from(pair >> 4)];
    }
}
