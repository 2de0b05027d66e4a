//! Tensors whose memory is used again when the last of them is gone.

use std::mem::MaybeUninit;

use burn::{
    backend::flex::{FlexTensor, Layout},
    tensor::{Bytes, DType, Shape},
};
use burn_std::{AccessError, AccessPolicy, AllocationController, AllocationProperty};

use crate::cpu;

/// A tensor of these numbers.
pub(super) fn tensor(values: Vec<f32>, shape: Vec<usize>) -> FlexTensor {
    let bytes = size_of_val(&values[..]);
    // SAFETY: the controller's memory is the vector's elements, all of them initialised, and `bytes`
    // is their size.
    let bytes = unsafe { Bytes::from_controller(Box::new(Recycled(values)), bytes) };
    FlexTensor::new(bytes, Layout::contiguous(Shape::from(shape)), DType::F32)
}

/// Numbers owned by a tensor.
struct Recycled(Vec<f32>);

impl Drop for Recycled {
    fn drop(&mut self) {
        cpu::keep(std::mem::take(&mut self.0));
    }
}

impl AllocationController for Recycled {
    fn alloc_align(&self) -> usize {
        align_of::<f32>()
    }

    fn property(&self) -> AllocationProperty {
        AllocationProperty::Other
    }

    unsafe fn memory_mut(
        &mut self,
        _: AccessPolicy,
    ) -> Result<&mut [MaybeUninit<u8>], AccessError> {
        let length = size_of_val(&self.0[..]);
        // SAFETY: the bytes of the vector's elements, borrowed as the vector is; the caller writes
        // initialised bytes only, and any bytes are an f32.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), length) })
    }

    fn memory(&self, _: AccessPolicy) -> Result<&[MaybeUninit<u8>], AccessError> {
        let length = size_of_val(&self.0[..]);
        // SAFETY: as in `memory_mut`.
        Ok(unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), length) })
    }
}
