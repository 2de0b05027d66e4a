"""Random blocks of every GGUF type that is read, and the f32 bits that the `gguf` package makes of them.

    python golden/gguf_blocks.py [--out crates/checkpoint/tests/golden/gguf_blocks.bin]

Bytes are uniformly random except the scales: f16 numbers drawn over all finite bit patterns, so that
most magnitudes, both signs and denormals occur, with the extremes put into the first blocks. Written
for each type, little endian: u32 ggml number, u32 elements, u32 bytes, the blocks, the f32 numbers.
"""

import argparse
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type
from gguf.quants import dequantize

SEED = 20250
ELEMENTS = 1280
# Where the f16 numbers of a block are, in bytes.
SCALES = {
    Type.Q4_0: [0],
    Type.Q4_1: [0, 2],
    Type.Q5_0: [0],
    Type.Q5_1: [0, 2],
    Type.Q8_0: [0],
    Type.Q4_K: [0, 2],
    Type.Q5_K: [0, 2],
    Type.Q6_K: [208],
    Type.Q2_K: [80, 82],
    Type.Q3_K: [108],
    Type.IQ4_NL: [0],
    Type.IQ4_XS: [0],
    Type.MXFP4: [],
}
# Smallest and largest denormal, smallest normal, negative zero, largest, most negative.
EXTREMES = [0x0001, 0x03FF, 0x0400, 0x8000, 0x7BFF, 0xFBFF]


def finite(rng, count, exponent_bits, mantissa_bits):
    """Random finite 16-bit floats, uniform over their bit patterns."""
    bits = rng.integers(0, 1 << 16, count, dtype=np.uint16)
    exponent = ((1 << exponent_bits) - 1) << mantissa_bits
    return np.where(bits & exponent == exponent, bits ^ (1 << mantissa_bits), bits).astype("<u2")


def blocks(rng, kind):
    elements, size = GGML_QUANT_SIZES[kind]
    count = ELEMENTS // elements
    if kind == Type.F16:
        return finite(rng, count, 5, 10).view(np.uint8)
    if kind == Type.BF16:
        return finite(rng, count, 8, 7).view(np.uint8)
    data = rng.integers(0, 256, (count, size), dtype=np.uint8)
    for number, offset in enumerate(SCALES[kind]):
        scales = finite(rng, count, 5, 10)
        extremes = np.roll(EXTREMES, number)[: count // 2]
        scales[: len(extremes)] = extremes
        data[:, offset : offset + 2] = scales.view(np.uint8).reshape(count, 2)
    if kind == Type.MXFP4:
        data[:, 0] = rng.integers(0, 253, count)
        data[:4, 0] = [0, 1, 2, 252]
    return data.ravel()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).parent.parent / "crates/checkpoint/tests/golden/gguf_blocks.bin"
    parser.add_argument("--out", type=Path, default=default)
    out = parser.parse_args().out
    rng = np.random.default_rng(SEED)
    written = bytearray()
    for kind in [Type.F16, Type.BF16, *SCALES]:
        stored = blocks(rng, kind)
        expected = dequantize(stored, kind).ravel().astype("<f4", copy=False)
        assert expected.size == ELEMENTS and np.isfinite(expected).all(), kind
        written += np.array([kind, expected.size, stored.size], dtype="<u4").tobytes()
        written += stored.tobytes() + expected.tobytes()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(written)


if __name__ == "__main__":
    main()
