//! Memory that a kernel writes before anyone reads it.

use std::{cell::RefCell, mem::MaybeUninit};

/// An output that holds nothing yet.
pub(crate) type Unwritten = [MaybeUninit<f32>];

/// A new vector of `length` numbers, every one of which `fill` writes.
///
/// Clearing the memory first would cost a pass over it: as much as a norm or a gate itself. Debug
/// builds fill it with NaN, so that a kernel which leaves something out is seen.
pub(crate) fn filled(length: usize, fill: impl FnOnce(&mut Unwritten)) -> Vec<f32> {
    let mut values = Vec::<f32>::with_capacity(length);
    let unwritten = &mut values.spare_capacity_mut()[..length];
    if cfg!(debug_assertions) {
        unwritten.fill(MaybeUninit::new(f32::NAN));
    }
    fill(unwritten);
    // SAFETY: the capacity is at least `length`, and `fill` is one of this crate's kernels, each of
    // which writes every element of its output.
    unsafe { values.set_len(length) };
    values
}

/// Numbers that are to be written over.
pub(crate) fn over(values: &mut [f32]) -> &mut Unwritten {
    // SAFETY: `MaybeUninit<f32>` has the layout of `f32`; the kernels that take it only write
    // numbers, so the slice still holds numbers afterwards.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), values.len()) }
}

thread_local! {
    static SPARE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with scratch of `length` numbers, whatever they are, kept by the thread for next time.
pub(crate) fn with_scratch<R>(length: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut scratch = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
    if scratch.len() < length {
        scratch = vec![0.0; length];
    }
    let result = f(&mut scratch[..length]);
    SPARE.with_borrow_mut(|spare| spare.push(scratch));
    result
}
