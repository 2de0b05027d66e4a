//! ggml's block formats → f32, with the same operations in the same order as ggml's reference
//! (`dequantize_row_*` in `ggml-quants.c`) and as the `gguf` Python package, so bit for bit the
//! same numbers.
//!
//! Formats of 32 elements: a scale `d` (f16), for `_1` a minimum `m` (f16), for `5` the fifth bits
//! (u32), then the low bits: low nibbles are elements 0..16, high ones 16..32. Formats of 256
//! elements ("K") have sub-blocks of 32 (Q6_K: of 16) with small scales of their own.

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
