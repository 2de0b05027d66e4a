//! Memory that a kernel writes before anyone reads it, and that is used again.
//!
//! A training step makes and drops the same large tensors over and over. Given back to the system,
//! each would be cleared page by page at its next use: as much work as a norm, a tenth of training
//! the paper's 130M. Blocks of at least 256 KiB are kept instead, 2 GiB of them at most.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    mem::MaybeUninit,
    sync::{Mutex, PoisonError},
};

/// An output that holds nothing yet.
pub(crate) type Unwritten = [MaybeUninit<f32>];

/// Numbers in the smallest block that is kept.
const SMALLEST: usize = 1 << 16;

/// Numbers kept at most while nothing uses them.
const MOST: usize = 1 << 29;

/// Blocks that nothing uses, by capacity.
struct Idle {
    blocks: BTreeMap<usize, Vec<Vec<f32>>>,
    numbers: usize,
}

static IDLE: Mutex<Idle> = Mutex::new(Idle { blocks: BTreeMap::new(), numbers: 0 });

/// An empty vector with room for `length` numbers: the smallest idle block that is large enough and
/// at most twice as large, or a new one.
fn empty(length: usize) -> Vec<f32> {
    if length >= SMALLEST {
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        let found = idle.blocks.range(length..=2 * length).next().map(|(size, _)| *size);
        if let Some(capacity) = found
            && let Some(blocks) = idle.blocks.get_mut(&capacity)
        {
            let block = blocks.pop();
            if blocks.is_empty() {
                idle.blocks.remove(&capacity);
            }
            if let Some(block) = block {
                idle.numbers -= capacity;
                return block;
            }
        }
    }
    Vec::with_capacity(length)
}

/// Keeps a block that is no longer used, if it is worth it.
pub(crate) fn keep(mut block: Vec<f32>) {
    let capacity = block.capacity();
    if capacity < SMALLEST {
        return;
    }
    let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
    if idle.numbers + capacity <= MOST {
        block.clear();
        idle.numbers += capacity;
        idle.blocks.entry(capacity).or_default().push(block);
    }
}

/// A vector of `length` numbers, every one of which `fill` writes.
///
/// Clearing the memory first would cost a pass over it. Debug builds fill it with NaN, so that a
/// kernel which leaves something out is seen.
pub(crate) fn filled(length: usize, fill: impl FnOnce(&mut Unwritten)) -> Vec<f32> {
    let mut values = empty(length);
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

/// A vector of zeros.
pub(crate) fn zeros(length: usize) -> Vec<f32> {
    filled(length, |values| values.fill(MaybeUninit::new(0.0)))
}

/// Numbers that are to be written over.
pub(crate) fn over(values: &mut [f32]) -> &mut Unwritten {
    // SAFETY: `MaybeUninit<f32>` has the layout of `f32`; the kernels that take it only write
    // numbers, so the slice still holds numbers afterwards.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), values.len()) }
}

thread_local! {
    static SCRATCH: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with scratch of `length` numbers, whatever they are, kept by the thread for next time.
pub(crate) fn with_scratch<R>(length: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut scratch = SCRATCH.with_borrow_mut(Vec::pop).unwrap_or_default();
    if scratch.len() < length {
        scratch = vec![0.0; length];
    }
    let result = f(&mut scratch[..length]);
    SCRATCH.with_borrow_mut(|kept| kept.push(scratch));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_used_again_for_a_size_that_fits_and_no_other() {
        // Sizes of this test's own, because the idle blocks belong to the whole process.
        let length = (1 << 21) + 12_345;
        let first = zeros(length);
        let address = first.as_ptr();
        keep(first);
        let larger = zeros(length + 1);
        assert_ne!(larger.as_ptr(), address);
        let much_smaller = zeros(length / 3);
        assert_ne!(much_smaller.as_ptr(), address);
        let again = zeros(length - 7);
        assert_eq!(again.as_ptr(), address);
        assert!(again.iter().all(|x| *x == 0.0) && again.len() == length - 7);
    }
}
