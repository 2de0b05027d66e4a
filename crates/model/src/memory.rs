//! Whether a model's layers are held in memory, or read from disk while it computes.

use burn::tensor::Device;
use lns_checkpoint::Checkpoint;
use lns_kernels::Precision;
use lns_spec::ModelSpec;

use crate::{Decoder, LayerSource, LoadError, StreamingDecoder};

/// Memory that can be had now, in bytes, where the system says.
pub fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Bytes of a model's weights once they are f32 in memory.
pub fn f32_bytes(spec: &ModelSpec) -> u64 {
    spec.parameter_count().total() * 4
}

/// As [`f32_bytes`], without the experts that a mixture may leave on disk.
pub fn f32_bytes_without_experts(spec: &ModelSpec) -> u64 {
    f32_bytes(spec) - spec.expert_parameters() * 4
}

/// Whether a model's weights leave at least half of the free memory to what is computed.
pub fn fits(spec: &ModelSpec) -> bool {
    leave_half(f32_bytes(spec))
}

/// Whether those of a mixture do without its experts.
pub fn fits_without_experts(spec: &ModelSpec) -> bool {
    leave_half(f32_bytes_without_experts(spec))
}

fn leave_half(bytes: u64) -> bool {
    available_memory().is_none_or(|available| bytes <= available / 2)
}

/// Bytes that experts which were read from disk may take together until the oldest are let go: a quarter of the
/// free memory, half of what a model that [`fits`] may take.
pub fn room_for_experts() -> u64 {
    /// Where the system does not say what is free.
    const USUAL: u64 = 1 << 30;
    available_memory().map_or(USUAL, |available| available / 4)
}

/// Where a model's layers are while it computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layers {
    /// All in memory if the model [`fits`], else on disk.
    #[default]
    WhereTheyFit,
    /// All in memory.
    InMemory,
    /// On disk, read one at a time.
    OnDisk,
}

impl Layers {
    /// Whether the layers of this model stay on disk.
    pub fn are_on_disk(self, spec: &ModelSpec) -> bool {
        match self {
            Self::WhereTheyFit => !fits(spec),
            Self::InMemory => false,
            Self::OnDisk => true,
        }
    }
}

/// A checkpoint's layers: all loaded, or to be read one at a time.
///
/// # Errors
/// [`LoadError`] when a tensor is missing, unexpected or misshapen, or one that is loaded cannot be
/// read.
pub fn open_layers(
    checkpoint: Checkpoint,
    layers: Layers,
    device: &Device,
    precision: Precision,
) -> Result<Box<dyn LayerSource>, LoadError> {
    Ok(if layers.are_on_disk(checkpoint.spec()) {
        let decoder = StreamingDecoder::new(checkpoint, device.clone())?;
        Box::new(decoder.with_precision(precision))
    } else {
        let decoder = Decoder::from_checkpoint(&checkpoint, device)?;
        Box::new(decoder.with_precision(precision))
    })
}
