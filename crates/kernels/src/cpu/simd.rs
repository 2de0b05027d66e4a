//! One loop, compiled for several instruction sets and chosen at run time.

/// Defines functions that run their body with the vectors of [`InstructionSet`](crate::InstructionSet) in use,
/// the widest the machine has if nothing else was asked for.
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
                match $crate::InstructionSet::in_use() {
                    // SAFETY: a set is in use only where the machine has every feature of it.
                    $crate::InstructionSet::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::InstructionSet::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::InstructionSet::Baseline => {}
                }
            }
            body($($arg),*)
        }
    )+};
}

pub(crate) use dispatch;

/// Independent partial sums of a reduction.
const LANES: usize = 32;

/// Σᵢ f(aᵢ, bᵢ, cᵢ), N sums at once, each over 32 lanes. The slices are equally long.
#[inline(always)]
pub(super) fn sums<const N: usize>(
    [a, b, c]: [&[f32]; 3],
    f: impl Fn(f32, f32, f32) -> [f32; N],
) -> [f32; N] {
    let mut lanes = [[0f32; LANES]; N];
    let ((a, a_tail), (b, b_tail), (c, c_tail)) =
        (a.as_chunks::<LANES>(), b.as_chunks::<LANES>(), c.as_chunks::<LANES>());
    for ((a, b), c) in a.iter().zip(b).zip(c) {
        for lane in 0..LANES {
            let terms = f(a[lane], b[lane], c[lane]);
            for n in 0..N {
                lanes[n][lane] += terms[n];
            }
        }
    }
    let mut totals = lanes.map(|lanes| lanes.iter().sum::<f32>());
    for ((a, b), c) in a_tail.iter().zip(b_tail).zip(c_tail) {
        let terms = f(*a, *b, *c);
        for n in 0..N {
            totals[n] += terms[n];
        }
    }
    totals
}

/// Σ aᵢbᵢ.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    sums([a, b, b], |a, b, _| [a * b])[0]
}

/// Σ aᵢ.
#[inline(always)]
pub(super) fn sum(a: &[f32]) -> f32 {
    sums([a, a, a], |a, _, _| [a])[0]
}

/// a ← a + b.
#[inline(always)]
pub(super) fn add_to(a: &mut [f32], b: &[f32]) {
    for (a, b) in a.iter_mut().zip(b) {
        *a += b;
    }
}

/// Largest element; −∞ for an empty slice. A NaN is passed over.
#[inline(always)]
pub(super) fn maximum(a: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (blocks, tail) = a.as_chunks::<LANES>();
    for x in blocks {
        for lane in 0..LANES {
            lanes[lane] = if x[lane] > lanes[lane] { x[lane] } else { lanes[lane] };
        }
    }
    lanes.iter().chain(tail).fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a })
}
