//! Numbers of eight bits, E4M3: sign, four bits of exponent with bias 7, three of mantissa; no
//! infinities, `0x7f` and `0xff` are NaN
//! (<https://www.opencompute.org/documents/ocp-microscaling-formats-mx-v1-0-spec-final-pdf>).

/// What the eight bits of an E4M3 stand for.
const E4M3: [f32; 256] = {
    let mut numbers = [0.0; 256];
    let mut bits = 0;
    while bits < 256 {
        numbers[bits] = e4m3(bits as u32);
        bits += 1;
    }
    numbers
};

const fn e4m3(bits: u32) -> f32 {
    let (sign, exponent, mantissa) = (bits >> 7 << 31, bits >> 3 & 15, bits & 7);
    let magnitude = match (exponent, mantissa) {
        (15, 7) => f32::NAN,
        // Below the smallest normal number, 2^-6: steps of 2^-9.
        (0, _) => mantissa as f32 / 512.0,
        _ => f32::from_bits((exponent + 127 - 7) << 23 | mantissa << 20),
    };
    f32::from_bits(sign | magnitude.to_bits())
}

/// Reads a number, which is still to be multiplied by the scale of its block.
pub(crate) fn decode([number]: &[u8; 1], [out]: &mut [f32; 1]) {
    *out = E4M3[usize::from(*number)];
}
