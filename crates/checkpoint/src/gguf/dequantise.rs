//! ggml's block formats → f32, with the same operations in the same order as ggml's reference
//! (`dequantize_row_*` in `ggml-quants.c`) and as the `gguf` Python package, so bit for bit the
//! same numbers.
//!
//! Formats of 32 elements: a scale `d` (f16; of MXFP4 a power of two), for `_1` a minimum `m` (f16),
//! for `5` the fifth bits (u32), then the low bits: low nibbles are elements 0..16, high ones 16..32.
//! Formats of 256 elements ("K" and IQ4_XS) have sub-blocks of 32 (Q2_K, Q3_K, Q6_K: of 16) with small
//! scales of their own. A function's arguments say how many bytes and elements a block has.

use half::f16;

fn float(low: u8, high: u8) -> f32 {
    f16::from_le_bytes([low, high]).to_f32()
}

pub(crate) fn q8_0([d0, d1, quants @ ..]: &[u8; 34], out: &mut [f32; 32]) {
    let d = float(*d0, *d1);
    for (out, quant) in out.iter_mut().zip(quants) {
        *out = f32::from(quant.cast_signed()) * d;
    }
}

pub(crate) fn q4_0([d0, d1, quants @ ..]: &[u8; 18], out: &mut [f32; 32]) {
    let d = float(*d0, *d1);
    let (first, second) = out.split_at_mut(16);
    for ((first, second), quant) in first.iter_mut().zip(second).zip(quants) {
        *first = d * (f32::from(quant & 15) - 8.0);
        *second = d * (f32::from(quant >> 4) - 8.0);
    }
}

pub(crate) fn q4_1([d0, d1, m0, m1, quants @ ..]: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (float(*d0, *d1), float(*m0, *m1));
    let (first, second) = out.split_at_mut(16);
    for ((first, second), quant) in first.iter_mut().zip(second).zip(quants) {
        *first = d * f32::from(quant & 15) + m;
        *second = d * f32::from(quant >> 4) + m;
    }
}

pub(crate) fn q5_0([d0, d1, h0, h1, h2, h3, quants @ ..]: &[u8; 22], out: &mut [f32; 32]) {
    let d = float(*d0, *d1);
    five_bits(u32::from_le_bytes([*h0, *h1, *h2, *h3]), quants, out, |quant| d * (quant - 16.0));
}

pub(crate) fn q5_1([d0, d1, m0, m1, h0, h1, h2, h3, quants @ ..]: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (float(*d0, *d1), float(*m0, *m1));
    five_bits(u32::from_le_bytes([*h0, *h1, *h2, *h3]), quants, out, |quant| d * quant + m);
}

fn five_bits(high: u32, quants: &[u8; 16], out: &mut [f32; 32], number: impl Fn(f32) -> f32) {
    let (first, second) = out.split_at_mut(16);
    for (j, quant) in quants.iter().enumerate() {
        let fifth = |element: usize| ((high >> element & 1) << 4) as u8;
        first[j] = number(f32::from(quant & 15 | fifth(j)));
        second[j] = number(f32::from(quant >> 4 | fifth(j + 16)));
    }
}

pub(crate) fn q2_k([rest @ .., d0, d1, m0, m1]: &[u8; 84], out: &mut [f32; 256]) {
    let (scales, quants) = rest.split_at(16);
    let (d, m) = (float(*d0, *d1), float(*m0, *m1));
    for (sub, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (scale, minimum) = (d * f32::from(scales[sub] & 15), m * f32::from(scales[sub] >> 4));
        let (quants, shift) = two_bits(quants, sub);
        for (out, quant) in out.iter_mut().zip(quants) {
            *out = scale * f32::from(quant >> shift & 3) - minimum;
        }
    }
}

pub(crate) fn q3_k([rest @ .., d0, d1]: &[u8; 110], out: &mut [f32; 256]) {
    let (third, rest) = rest.split_at(32);
    let (quants, scales) = rest.split_at(64);
    let d = float(*d0, *d1);
    for (sub, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        // 16 scales of six bits: the low four in the nibbles of bytes 0..8, the high two in bytes 8..12.
        let low = scales[sub % 8] >> (sub / 8 * 4) & 15;
        let high = scales[8 + sub % 4] >> (sub / 4 * 2) & 3;
        let scale = d * (f32::from(low | high << 4) - 32.0);
        let (quants, shift) = two_bits(quants, sub);
        let third = &third[sub % 2 * 16..][..16];
        for ((out, quant), third) in out.iter_mut().zip(quants).zip(third) {
            // The third bit is stored inverted: it is the one that subtracts four.
            let quant = f32::from(quant >> shift & 3) - f32::from(!third >> (sub / 2) & 1) * 4.0;
            *out = scale * quant;
        }
    }
}

/// The bytes that hold the bit pairs of the sub-block `sub` of 16, and where in each byte: 128 elements
/// share 32 bytes, which hold 32 of them in each pair of bits.
fn two_bits(quants: &[u8], sub: usize) -> (&[u8], usize) {
    (&quants[sub / 8 * 32 + sub % 2 * 16..][..16], sub % 8 / 2 * 2)
}

pub(crate) fn q4_k([d0, d1, m0, m1, rest @ ..]: &[u8; 144], out: &mut [f32; 256]) {
    let (scales, quants) = rest.split_at(12);
    let (d, m) = (float(*d0, *d1), float(*m0, *m1));
    for (sub, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = six_bits(scales, sub);
        let (scale, minimum) = (d * scale, m * minimum);
        let quants = &quants[sub / 2 * 32..][..32];
        for (out, quant) in out.iter_mut().zip(quants) {
            *out = scale * f32::from(quant >> (sub % 2 * 4) & 15) - minimum;
        }
    }
}

pub(crate) fn q5_k([d0, d1, m0, m1, rest @ ..]: &[u8; 176], out: &mut [f32; 256]) {
    let (scales, rest) = rest.split_at(12);
    let (high, quants) = rest.split_at(32);
    let (d, m) = (float(*d0, *d1), float(*m0, *m1));
    for (sub, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = six_bits(scales, sub);
        let (scale, minimum) = (d * scale, m * minimum);
        let quants = &quants[sub / 2 * 32..][..32];
        for ((out, quant), high) in out.iter_mut().zip(quants).zip(high) {
            let quant = quant >> (sub % 2 * 4) & 15 | (high >> sub & 1) << 4;
            *out = scale * f32::from(quant) - minimum;
        }
    }
}

/// Scale and minimum of a sub-block, from eight pairs of 6-bit numbers packed into 12 bytes: the
/// first four in the low bits of bytes 0..4 and 4..8, the last four in the nibbles of bytes 8..12
/// with their upper two bits in the upper bits of bytes 0..8.
fn six_bits(scales: &[u8], sub: usize) -> (f32, f32) {
    let (scale, minimum) = if sub < 4 {
        (scales[sub] & 63, scales[sub + 4] & 63)
    } else {
        let low = scales[sub + 4];
        (low & 15 | scales[sub - 4] >> 6 << 4, low >> 4 | scales[sub] >> 6 << 4)
    };
    (f32::from(scale), f32::from(minimum))
}

pub(crate) fn q6_k([rest @ .., d0, d1]: &[u8; 210], out: &mut [f32; 256]) {
    let (low, rest) = rest.split_at(128);
    let (high, scales) = rest.split_at(64);
    let d = float(*d0, *d1);
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        // 128 elements share 64 bytes of nibbles and 32 bytes of upper bit pairs.
        let (half, quarter) = (group / 4, group % 4);
        let low = &low[half * 64 + quarter % 2 * 32..][..32];
        let high = &high[half * 32..][..32];
        for (side, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let scale = d * f32::from(scales[group * 2 + side].cast_signed());
            let (low, high) = (&low[side * 16..][..16], &high[side * 16..][..16]);
            for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
                let quant = low >> (quarter / 2 * 4) & 15 | (high >> (quarter * 2) & 3) << 4;
                *out = scale * (f32::from(quant) - 32.0);
            }
        }
    }
}

/// The numbers that the four bits of IQ4_NL and IQ4_XS stand for.
const NOT_LINEAR: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0,
    89.0, 113.0,
];

pub(crate) fn iq4_nl([d0, d1, quants @ ..]: &[u8; 18], out: &mut [f32; 32]) {
    looked_up(&NOT_LINEAR, float(*d0, *d1), quants, out);
}

pub(crate) fn iq4_xs([d0, d1, h0, h1, rest @ ..]: &[u8; 136], out: &mut [f32; 256]) {
    let (low, quants) = rest.split_at(4);
    let (d, high) = (float(*d0, *d1), u16::from_le_bytes([*h0, *h1]));
    let quants = quants.as_chunks::<16>().0;
    for (sub, (out, quants)) in out.as_chunks_mut().0.iter_mut().zip(quants).enumerate() {
        // Eight scales of six bits: the low four in nibbles, the high two in a word of 16 bits.
        let low = low[sub / 2] >> (sub % 2 * 4) & 15;
        let high = (high >> (sub * 2) & 3) as u8;
        looked_up(&NOT_LINEAR, d * (f32::from(low | high << 4) - 32.0), quants, out);
    }
}

/// Twice the numbers that the four bits of MXFP4 (E2M1) stand for, without a negative zero.
pub(super) const DOUBLED_E2M1: [f32; 16] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0];

pub(crate) fn mxfp4([exponent, quants @ ..]: &[u8; 17], out: &mut [f32; 32]) {
    looked_up(&DOUBLED_E2M1, half_e8m0(*exponent), quants, out);
}

/// Half of 2^(exponent − 127), the two lowest of them below the smallest normal number.
pub(super) const fn half_e8m0(exponent: u8) -> f32 {
    match exponent {
        0 | 1 => f32::from_bits(0x0020_0000 << exponent),
        _ => f32::from_bits((exponent as u32 - 1) << 23),
    }
}

fn looked_up(numbers: &[f32; 16], scale: f32, quants: &[u8; 16], out: &mut [f32; 32]) {
    let (first, second) = out.split_at_mut(16);
    for ((first, second), quant) in first.iter_mut().zip(second).zip(quants) {
        *first = scale * numbers[usize::from(quant & 15)];
        *second = scale * numbers[usize::from(quant >> 4)];
    }
}
