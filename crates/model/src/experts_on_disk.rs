//! A mixture's experts left in the checkpoint's files until a token is sent to them.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use burn::tensor::Device;
use layernorm_scaling::{ExpertSource, Mlp, Weights};
use lns_checkpoint::Checkpoint;
use lns_spec::{LayerIndex, ModelTensor};

use crate::{
    LoadError,
    load::{Stored, audit},
};

/// The experts of a checkpoint, each read when the first token is sent to it.
///
/// What was read is kept as long as its layer is, at most [`room`](crate::room_for_experts) bytes of it: then the
/// expert that was not used for the longest time goes first.
#[derive(Debug)]
pub struct ExpertsOnDisk {
    checkpoint: Arc<Checkpoint>,
    device: Device,
    room: u64,
    held: Mutex<Held>,
    reads: AtomicU64,
    failure: Mutex<Option<LoadError>>,
}

/// An expert that someone reads or has read; none where that failed.
type Cell = Arc<OnceLock<Option<Mlp>>>;

/// What is kept, by layer and expert.
#[derive(Debug, Default)]
struct Held {
    experts: HashMap<(LayerIndex, usize), Kept>,
    bytes: u64,
    /// Counts uses, so that they can be told apart by their age.
    clock: u64,
}

#[derive(Debug)]
struct Kept {
    cell: Cell,
    bytes: u64,
    used: u64,
}

impl ExpertsOnDisk {
    /// Of a checkpoint whose tensors are all there; keeps at most `room` bytes of what it has read, and one
    /// expert in any case.
    ///
    /// # Errors
    /// [`LoadError::Audit`] when a tensor is missing, unexpected or misshapen.
    pub fn new(
        checkpoint: Arc<Checkpoint>,
        device: Device,
        room: u64,
    ) -> Result<Arc<Self>, LoadError> {
        audit(&checkpoint)?;
        Ok(Arc::new(Self {
            checkpoint,
            device,
            room,
            held: Mutex::default(),
            reads: AtomicU64::new(0),
            failure: Mutex::default(),
        }))
    }

    /// The files that hold them.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// How many experts were read so far, those that were read again counted again.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// What kept an expert from being read since the last call, if anything did: what a model computed
    /// without it is NaN.
    ///
    /// # Errors
    /// The first such failure.
    pub fn failure(&self) -> Result<(), LoadError> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        failure.map_or(Ok(()), Err)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, layer: LayerIndex, expert: usize) -> Option<Mlp> {
        let (spec, weights) = (self.checkpoint.spec(), &mut Stored(&self.checkpoint));
        self.reads.fetch_add(1, Ordering::Relaxed);
        match Mlp::of_expert(spec, layer, expert, weights, &self.device) {
            Ok(read) => Some(read),
            Err(error) => {
                let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
                failure.get_or_insert(error);
                None
            }
        }
    }
}

impl Held {
    /// The place of an expert of `bytes`, for which older ones make room where it is new.
    fn place(&mut self, key: (LayerIndex, usize), bytes: u64, room: u64) -> Cell {
        self.clock += 1;
        if let Some(kept) = self.experts.get_mut(&key) {
            kept.used = self.clock;
            return kept.cell.clone();
        }
        while self.bytes + bytes > room
            && let Some(oldest) = self.experts.iter().min_by_key(|(_, kept)| kept.used)
        {
            let oldest = *oldest.0;
            self.forget(oldest);
        }
        let cell = Cell::default();
        self.bytes += bytes;
        self.experts.insert(key, Kept { cell: cell.clone(), bytes, used: self.clock });
        cell
    }

    fn forget(&mut self, key: (LayerIndex, usize)) {
        if let Some(kept) = self.experts.remove(&key) {
            self.bytes -= kept.bytes;
        }
    }
}

/// The experts of one layer.
#[derive(Debug)]
struct OfLayer {
    experts: Arc<ExpertsOnDisk>,
    layer: LayerIndex,
    /// Of an expert in memory.
    bytes_each: u64,
}

impl ExpertSource for OfLayer {
    fn expert(&self, expert: usize) -> Option<Mlp> {
        let (experts, key) = (&self.experts, (self.layer, expert));
        let cell = experts.held().place(key, self.bytes_each, experts.room);
        // Whoever comes second waits for the first, so that none is read twice at once.
        cell.get_or_init(|| experts.read(self.layer, expert)).clone()
    }
}

impl Drop for OfLayer {
    fn drop(&mut self) {
        let mut held = self.experts.held();
        let own: Vec<_> =
            held.experts.keys().filter(|(layer, _)| *layer == self.layer).copied().collect();
        own.into_iter().for_each(|key| held.forget(key));
    }
}

/// All weights of a checkpoint but its experts'.
pub(crate) struct ButExperts<'a>(pub(crate) &'a Arc<ExpertsOnDisk>);

impl Weights for ButExperts<'_> {
    type Error = LoadError;

    fn fetch(&mut self, tensor: &ModelTensor) -> Result<Vec<f32>, LoadError> {
        Stored(&self.0.checkpoint).fetch(tensor)
    }

    fn experts(&mut self, layer: LayerIndex) -> Option<Arc<dyn ExpertSource>> {
        let tensors = self.0.checkpoint.spec().layer_tensors(layer);
        let first = tensors.iter().filter(|tensor| tensor.id.expert == Some(0));
        let bytes_each = first.map(|tensor| 4 * tensor.elements()).sum();
        Some(Arc::new(OfLayer { experts: self.0.clone(), layer, bytes_each }))
    }
}
