//! Stored numbers → f32. Block formats are in [`gguf::dequantise`](crate::gguf::dequantise).

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::StorageType;
use crate::gguf::dequantise;

/// Converts whole blocks. `stored` holds exactly `out.len()` elements of `dtype`, and `dtype` is
/// not [`StorageType::Other`].
pub(crate) fn decode(dtype: StorageType, stored: &[u8], out: &mut [f32]) {
    debug_assert_eq!(
        dtype.block().map(|(elements, bytes)| out.len() / elements * bytes),
        Some(stored.len())
    );
    match dtype {
        StorageType::F64 => convert(stored, out, |bytes| f64::from_le_bytes(bytes) as f32),
        StorageType::F32 => convert(stored, out, f32::from_le_bytes),
        StorageType::F16 => decode_f16(stored, out),
        StorageType::BF16 => {
            convert(stored, out, |bytes| f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16))
        }
        StorageType::Q8_0 => blocks(stored, out, dequantise::q8_0),
        StorageType::Q4_0 => blocks(stored, out, dequantise::q4_0),
        StorageType::Q4_1 => blocks(stored, out, dequantise::q4_1),
        StorageType::Q5_0 => blocks(stored, out, dequantise::q5_0),
        StorageType::Q5_1 => blocks(stored, out, dequantise::q5_1),
        StorageType::Q4K => blocks(stored, out, dequantise::q4_k),
        StorageType::Q5K => blocks(stored, out, dequantise::q5_k),
        StorageType::Q6K => blocks(stored, out, dequantise::q6_k),
        StorageType::Other(_) => {}
    }
}

fn convert<const N: usize>(stored: &[u8], out: &mut [f32], number: impl Fn([u8; N]) -> f32) {
    for (out, bytes) in out.iter_mut().zip(stored.as_chunks::<N>().0) {
        *out = number(*bytes);
    }
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

/// Through an aligned buffer, so that the conversion can use the processor's own.
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
