//! Stored numbers → f32, and the table of how each type stores them. Block formats are in
//! [`gguf::dequantise`](crate::gguf::dequantise).

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::gguf::dequantise;
use crate::{StorageType, e4m3};

/// How a type stores numbers, and the function that reads them.
pub(crate) struct Layout {
    pub(crate) name: &'static str,
    /// The number by which ggml knows the type; `None` if GGUF files do not have it.
    pub(crate) ggml: Option<u32>,
    /// Numbers in a block; plain numbers are blocks of one.
    pub(crate) elements: usize,
    /// Bytes of a block.
    pub(crate) bytes: usize,
    /// Converts whole blocks to f32.
    decode: fn(&[u8], &mut [f32]),
}

/// A layout whose block is what the converting function takes and gives.
macro_rules! blocks_of {
    ($name:literal, $ggml:expr, $block:expr) => {{
        let (elements, bytes) = size_of_block($block);
        let decode = |stored: &[u8], out: &mut [f32]| blocks(stored, out, $block);
        Layout { name: $name, ggml: $ggml, elements, bytes, decode }
    }};
}

impl StorageType {
    /// Every type that GGUF files are read from.
    pub(crate) const GGML: [Self; 17] = [
        Self::F32,
        Self::F16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::IQ4NL,
        Self::IQ4XS,
        Self::F64,
        Self::BF16,
        Self::MXFP4,
    ];

    /// The number by which ggml knows the type; `None` if GGUF files do not have it.
    pub(crate) fn ggml(self) -> Option<u32> {
        self.layout()?.ggml
    }

    /// `None` for a type that is not read.
    pub(crate) fn layout(self) -> Option<Layout> {
        Some(match self {
            Self::F64 => blocks_of!("F64", Some(28), |stored, [out]| {
                *out = f64::from_le_bytes(*stored) as f32;
            }),
            Self::F32 => blocks_of!("F32", Some(0), |stored, [out]| {
                *out = f32::from_le_bytes(*stored);
            }),
            Self::F16 => {
                Layout { name: "F16", ggml: Some(1), elements: 1, bytes: 2, decode: decode_f16 }
            }
            Self::BF16 => blocks_of!("BF16", Some(30), |stored, [out]| {
                *out = f32::from_bits(u32::from(u16::from_le_bytes(*stored)) << 16);
            }),
            Self::Q8_0 => blocks_of!("Q8_0", Some(8), dequantise::q8_0),
            Self::Q4_0 => blocks_of!("Q4_0", Some(2), dequantise::q4_0),
            Self::Q4_1 => blocks_of!("Q4_1", Some(3), dequantise::q4_1),
            Self::Q5_0 => blocks_of!("Q5_0", Some(6), dequantise::q5_0),
            Self::Q5_1 => blocks_of!("Q5_1", Some(7), dequantise::q5_1),
            Self::Q2K => blocks_of!("Q2_K", Some(10), dequantise::q2_k),
            Self::Q3K => blocks_of!("Q3_K", Some(11), dequantise::q3_k),
            Self::Q4K => blocks_of!("Q4_K", Some(12), dequantise::q4_k),
            Self::Q5K => blocks_of!("Q5_K", Some(13), dequantise::q5_k),
            Self::Q6K => blocks_of!("Q6_K", Some(14), dequantise::q6_k),
            Self::IQ4NL => blocks_of!("IQ4_NL", Some(20), dequantise::iq4_nl),
            Self::IQ4XS => blocks_of!("IQ4_XS", Some(23), dequantise::iq4_xs),
            Self::MXFP4 => blocks_of!("MXFP4", Some(39), dequantise::mxfp4),
            Self::F8E4M3 => blocks_of!("F8_E4M3", None, e4m3::decode),
            Self::Other(_) => return None,
        })
    }
}

fn size_of_block<const BYTES: usize, const ELEMENTS: usize>(
    _: impl Fn(&[u8; BYTES], &mut [f32; ELEMENTS]),
) -> (usize, usize) {
    (ELEMENTS, BYTES)
}

/// Converts whole blocks. `stored` holds exactly `out.len()` elements of `dtype`, and `dtype` is
/// not [`StorageType::Other`].
pub(crate) fn decode(dtype: StorageType, stored: &[u8], out: &mut [f32]) {
    let Some(layout) = dtype.layout() else { return };
    debug_assert_eq!(out.len() / layout.elements * layout.bytes, stored.len());
    (layout.decode)(stored, out);
}

fn blocks<const BYTES: usize, const ELEMENTS: usize>(
    stored: &[u8],
    out: &mut [f32],
    block: impl Fn(&[u8; BYTES], &mut [f32; ELEMENTS]),
) {
    for (out, stored) in out.as_chunks_mut().0.iter_mut().zip(stored.as_chunks().0) {
        block(stored, out);
    }
}

/// Converts f16 through an aligned buffer, so that the processor's own instruction can be used.
fn decode_f16(stored: &[u8], out: &mut [f32]) {
    const CHUNK: usize = 256;
    let mut aligned = [f16::ZERO; CHUNK];
    for (out, stored) in out.chunks_mut(CHUNK).zip(stored.chunks(2 * CHUNK)) {
        let aligned = &mut aligned[..out.len()];
        for (number, bytes) in aligned.iter_mut().zip(stored.as_chunks().0) {
            *number = f16::from_le_bytes(*bytes);
        }
        aligned.convert_to_f32_slice(out);
    }
}
