//! f32 → the types that GGUF files are written with. Q8_0 and MXFP4 are ggml's (`quantize_row_q8_0_ref` and
//! `quantize_row_mxfp4_ref` in `ggml-quants.c`), bit for bit.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::dequantise::{DOUBLED_E2M1, half_e8m0};
use crate::StorageType;

/// Appends `values`, whole blocks, to `out`. Fails with the first value that the type cannot hold.
///
/// `dtype` is F32, F16, BF16, Q8_0 or MXFP4.
pub(crate) fn encode(dtype: StorageType, values: &[f32], out: &mut Vec<u8>) -> Result<(), f32> {
    match dtype {
        StorageType::F16 => encode_f16(values, out),
        StorageType::BF16 => each(values, out, |value| {
            let near = bf16::from_f32(value);
            (near.is_finite() || !value.is_finite()).then(|| near.to_le_bytes())
        }),
        StorageType::MXFP4 => each(values.as_chunks().0, out, mxfp4).map_err(|block| {
            block.into_iter().find(|value| !value.is_finite()).unwrap_or_default()
        }),
        StorageType::Q8_0 => each(values.as_chunks().0, out, q8_0).map_err(|block| {
            let larger = |a: f32, b: f32| if b.abs() > a.abs() { b } else { a };
            let not_finite = block.into_iter().find(|value| !value.is_finite());
            not_finite.unwrap_or_else(|| block.into_iter().fold(0.0, larger))
        }),
        _ => each(values, out, |value| Some(value.to_le_bytes())),
    }
}

fn each<T: Copy, const N: usize>(
    values: &[T],
    out: &mut Vec<u8>,
    encode: impl Fn(T) -> Option<[u8; N]>,
) -> Result<(), T> {
    for value in values {
        out.extend(encode(*value).ok_or(*value)?);
    }
    Ok(())
}

/// Converts to f16 slice by slice, so that the processor's own instruction can be used.
fn encode_f16(values: &[f32], out: &mut Vec<u8>) -> Result<(), f32> {
    const CHUNK: usize = 256;
    let mut chunk = [f16::ZERO; CHUNK];
    for values in values.chunks(CHUNK) {
        let chunk = &mut chunk[..values.len()];
        chunk.convert_from_f32_slice(values);
        for (near, value) in chunk.iter().zip(values) {
            if !near.is_finite() && value.is_finite() {
                return Err(*value);
            }
            out.extend(near.to_le_bytes());
        }
    }
    Ok(())
}

/// A block as its scale d = max|x|/127 (f16) and round(x/d), halves rounded away from zero.
fn q8_0(block: [f32; 32]) -> Option<[u8; 34]> {
    let largest = block.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
    let d = largest / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let scale = f16::from_f32(d);
    if !scale.is_finite() || block.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let mut stored = [0; 34];
    stored[..2].copy_from_slice(&scale.to_le_bytes());
    for (quant, value) in stored[2..].iter_mut().zip(block) {
        *quant = ((value * inverse).round() as i8).cast_unsigned();
    }
    Some(stored)
}

/// A block as the power of two by which its largest number becomes one from 4 to 8 (6 is the largest that
/// is stored), and the nearest E2M1 of each; numbers that MXFP4 holds exactly stay what they are.
fn mxfp4(block: [f32; 32]) -> Option<[u8; 17]> {
    if block.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let largest = block.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
    let exponent = if largest > 0.0 { (largest.log2().floor() + 125.0).max(0.0) as u8 } else { 0 };
    let half = half_e8m0(exponent);
    let nearest = |value: f32| {
        let off = |stored: usize| (half * DOUBLED_E2M1[stored] - value).abs();
        // The first of equally near ones.
        let closer = |best, stored| if off(stored) < off(best) { stored } else { best };
        (1..DOUBLED_E2M1.len()).fold(0, closer) as u8
    };
    let mut stored = [exponent; 17];
    let (first, second) = block.split_at(16);
    for ((quants, first), second) in stored[1..].iter_mut().zip(first).zip(second) {
        *quants = nearest(*first) | (nearest(*second) << 4);
    }
    Some(stored)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::dequantise;

    fn encoded(dtype: StorageType, values: &[f32]) -> Result<Vec<u8>, f32> {
        let mut out = Vec::new();
        encode(dtype, values, &mut out).map(|()| out)
    }

    #[test]
    fn half_types_round_to_the_nearest_and_halves_to_even() {
        // 2048 + 1 and 2048 + 3 lie between two f16, 256 + 1 and 256 + 3 between two bf16.
        let f16s = encoded(StorageType::F16, &[2049.0, 2051.0, -0.0]).unwrap();
        let expected = [2048.0, 2052.0, -0.0].map(|x| f16::from_f32(x).to_le_bytes());
        assert_eq!(f16s, expected.concat());
        let bf16s = encoded(StorageType::BF16, &[257.0, 259.0]).unwrap();
        assert_eq!(bf16s, [256.0, 260.0].map(|x| bf16::from_f32(x).to_le_bytes()).concat());
    }

    #[test]
    fn a_value_beyond_the_type_is_an_error_that_names_it() {
        assert_eq!(encoded(StorageType::F16, &[1.0, 65519.0, -65520.0]), Err(-65520.0));
        assert!(encoded(StorageType::F16, &[65519.0, f32::INFINITY]).is_ok());
        assert_eq!(encoded(StorageType::BF16, &[f32::MAX]), Err(f32::MAX));
        let mut block = [1.0; 64];
        block[40] = 9e6;
        assert_eq!(encoded(StorageType::Q8_0, &block), Err(9e6));
        block[40] = f32::NEG_INFINITY;
        assert_eq!(encoded(StorageType::Q8_0, &block), Err(f32::NEG_INFINITY));
        block[40] = f32::NAN;
        assert!(encoded(StorageType::Q8_0, &block).is_err_and(f32::is_nan));
        assert!(encoded(StorageType::F32, &block).is_ok());
    }

    #[test]
    fn four_bits_are_those_of_the_gguf_package() {
        // gguf.quants.quantize(values, MXFP4), gguf 0.19.
        let mut values: Vec<f32> = (0..64).map(|i| ((i * 37 % 64) as f32 - 31.5) * 0.113).collect();
        values[32..].iter_mut().for_each(|value| *value *= 0.001);
        values[40] = 0.0;
        let expected = [
            126, 239, 98, 174, 118, 45, 247, 89, 223, 116, 158, 246, 60, 231, 97, 207, 117, 116,
            96, 207, 116, 14, 246, 75, 231, 98, 176, 117, 29, 247, 90, 223, 115, 174,
        ];
        // The second block's scale, of numbers a thousand times smaller, is ten powers of two below.
        assert_eq!(expected[17], expected[0] - 10);
        assert_eq!(encoded(StorageType::MXFP4, &values).unwrap(), expected);
        values[50] = f32::INFINITY;
        assert_eq!(encoded(StorageType::MXFP4, &values), Err(f32::INFINITY));
    }

    #[test]
    fn numbers_that_four_bits_hold_stay_what_they_are() {
        for exponent in [0, 1, 2, 5, 100, 127, 200, 252] {
            for most in 1..8u8 {
                let quant = |at: u8| ((at * 7 + 3) % (most + 1)) | ((at % 2) << 3);
                let mut block = [exponent; 17];
                for (at, quants) in block[1..].iter_mut().enumerate() {
                    let at = at as u8;
                    *quants = quant(2 * at) | quant(2 * at + 1) << 4;
                }
                let (mut before, mut after) = ([0.0; 32], [0.0; 32]);
                dequantise::mxfp4(&block, &mut before);
                let stored = encoded(StorageType::MXFP4, &before).unwrap();
                dequantise::mxfp4(stored[..].first_chunk().unwrap(), &mut after);
                assert_eq!(before, after, "2^({exponent} - 127), {most}");
            }
        }
    }

    #[test]
    fn a_block_of_zeros_stays_zero_and_halves_are_rounded_away_from_zero() {
        assert_eq!(encoded(StorageType::Q8_0, &[0.0; 32]).unwrap(), [0; 34]);
        let mut block = [0.0; 32];
        block[..5].copy_from_slice(&[127.0, 0.5, -0.5, 2.5, -127.0]);
        let stored = encoded(StorageType::Q8_0, &block).unwrap();
        assert_eq!(stored[..2], f16::ONE.to_le_bytes());
        assert_eq!(
            stored[2..8].iter().map(|q| q.cast_signed()).collect::<Vec<_>>(),
            [127, 1, -1, 3, -127, 0]
        );
    }
}
