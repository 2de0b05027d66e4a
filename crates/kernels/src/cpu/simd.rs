//! One loop, compiled for several instruction sets and chosen at run time.

/// Defines functions that run their body with the widest vectors the machine has.
///
/// The body is inlined into one copy per instruction set, so everything it calls must be
/// `#[inline(always)]` to be vectorised with it. AVX-512 (F, VL, DQ, BW), AVX2 with FMA, and the
/// target's baseline (which is NEON on AArch64).
macro_rules! dispatch {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)+) => {$(
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                {
                    // SAFETY: every feature the function enables was just detected.
                    return unsafe { avx512($($arg),*) };
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: every feature the function enables was just detected.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body($($arg),*)
        }
    )+};
}

pub(crate) use dispatch;

/// Σ aᵢbᵢ over 32 lanes.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 32];
    let (a_blocks, b_blocks) = (a.chunks_exact(32), b.chunks_exact(32));
    let tail: f32 = a_blocks.remainder().iter().zip(b_blocks.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_blocks.zip(b_blocks) {
        for lane in 0..32 {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    tail + lanes.iter().sum::<f32>()
}

/// Σ aᵢ over 32 lanes.
#[inline(always)]
pub(super) fn sum(a: &[f32]) -> f32 {
    let mut lanes = [0f32; 32];
    let blocks = a.chunks_exact(32);
    let tail: f32 = blocks.remainder().iter().sum();
    for x in blocks {
        for lane in 0..32 {
            lanes[lane] += x[lane];
        }
    }
    tail + lanes.iter().sum::<f32>()
}

/// Largest element; −∞ for an empty slice. A NaN is passed over.
#[inline(always)]
pub(super) fn maximum(a: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 32];
    let blocks = a.chunks_exact(32);
    let mut largest = f32::NEG_INFINITY;
    for &x in blocks.remainder() {
        largest = if x > largest { x } else { largest };
    }
    for x in blocks {
        for lane in 0..32 {
            lanes[lane] = if x[lane] > lanes[lane] { x[lane] } else { lanes[lane] };
        }
    }
    lanes.iter().fold(largest, |a, &b| if b > a { b } else { a })
}
