//! The flags of where, how exactly and with how many threads to compute.

use clap::Args;
use lns_kernels::{Compute, Device, Precision};
use lns_model::Layers;
use lns_train::ranges::THREADS;

use super::{names::any_of, numbers::whole};
use crate::model;

/// Where and how to compute, and whether the model is held in memory.
#[derive(Debug, Clone, Args)]
pub(crate) struct ComputeArgs {
    /// Worker threads; all cores if not given (1–1024)
    #[arg(long, value_name = "N", value_parser = whole::<usize>(THREADS))]
    pub(crate) threads: Option<usize>,

    #[command(flatten)]
    pub(crate) place: PlaceArgs,

    /// Read layers from disk one at a time, in memory for one layer; of a mixture's layer only the
    /// experts that tokens are sent to. Chosen by itself when the model would fill more than half of the
    /// free memory
    #[arg(long)]
    pub(crate) stream: bool,
}

impl ComputeArgs {
    /// Where and how the flags want to compute.
    pub(crate) fn compute(&self) -> anyhow::Result<Compute> {
        model::compute(self.threads, &self.place)
    }

    /// Where the flags want the layers.
    pub(crate) fn layers(&self) -> Layers {
        if self.stream { Layers::OnDisk } else { Layers::WhereTheyFit }
    }
}

/// On what device, and in which precision.
#[derive(Debug, Clone, Args)]
pub(crate) struct PlaceArgs {
    /// Where to compute: cpu, and cuda[:i] or wgpu[:i] in builds with that feature
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = device)]
    pub(crate) device: Device,

    /// What matrix products compute in; bf16 is for GPUs, parameters stay f32
    #[arg(long, value_name = "PRECISION", default_value = "f32", value_parser = precision)]
    pub(crate) precision: Precision,
}

/// The device that a name such as `cpu`, `cuda` or `cuda:1` stands for.
fn device(name: &str) -> Result<Device, String> {
    let (kind, index) = match name.split_once(':') {
        Some((kind, index)) => {
            (kind, index.parse().map_err(|_| format!("{index:?} is not a device's number"))?)
        }
        None => (name, 0usize),
    };
    match kind {
        "cpu" if index == 0 => Ok(lns_kernels::cpu_device()),
        #[cfg(feature = "cuda")]
        "cuda" => Ok(Device::cuda(index)),
        #[cfg(feature = "wgpu")]
        "wgpu" if !name.contains(':') => Ok(Device::wgpu(lns_kernels::DeviceKind::DefaultDevice)),
        #[cfg(feature = "wgpu")]
        "wgpu" => Ok(Device::wgpu(lns_kernels::DeviceKind::DiscreteGpu(index))),
        "cuda" | "wgpu" => {
            Err(format!("this build lacks {kind}; build lns with `--features {kind}`"))
        }
        _ => Err("expected cpu, cuda[:i] or wgpu[:i]".to_owned()),
    }
}

/// A precision by its name.
fn precision(name: &str) -> Result<Precision, String> {
    let found = Precision::ALL.into_iter().find(|precision| precision.name() == name);
    found.ok_or_else(|| format!("expected {}", any_of(Precision::ALL.map(Precision::name))))
}
