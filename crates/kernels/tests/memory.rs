//! What a tape of gradients leaves behind. The test reads the memory of its process, so it is alone in
//! its program: a neighbour's tensors would count as its own.

use burn::tensor::{Device, Tensor};
use lns_kernels::{backward_from, linear};

#[test]
fn a_tape_that_is_dropped_or_used_leaves_no_memory_behind() {
    let resident = || -> Option<u64> {
        let status = std::fs::read_to_string("/proc/self/statm").ok()?;
        status.split_whitespace().nth(1)?.parse().ok()
    };
    let step = |backward: bool| {
        let plain = || Tensor::<2>::ones([256, 256], &Device::flex());
        let leaf = || Tensor::from_inner(plain()).require_grad();
        let (x, weight) = (leaf(), leaf());
        let out = linear(x, weight, None);
        if backward {
            let upstream = out.clone().inner().ones_like();
            let _ = backward_from(out, upstream);
        }
    };
    (0..20).for_each(|i| step(i % 2 == 0));
    let before = resident();
    (0..400).for_each(|i| step(i % 2 == 0));
    // 400 steps of 1 MiB would be 102,400 pages of 4 KiB.
    if let (Some(before), Some(after)) = (before, resident()) {
        assert!(after < before + 25_000, "{before} pages became {after}");
    }
}
