//! What a probe sees of the one pass that every diagnosis makes.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use burn::tensor::Tensor;
use layernorm_scaling::TransformerLayerWithScaling;
use lns_corpus::Window;
use lns_kernels::{RotaryTable, Workers};
use lns_model::Head;
use lns_record::{DiagnoseRecord, RemovalRecord, StreamRecord};
use lns_score::CountPasses;
use lns_spec::LayerIndex;
use lns_statistics::{margin, margin_at, mean, standard_error};

use crate::{elimination::level, statistics::StreamSums};

/// A probe that watches the one pass: it is shown every layer and the end of every window, by several
/// workers at once, and writes its numbers when the pass is over.
pub trait Observer: Send + Sync {
    /// Whether [`AtEnd::streams`] must hold the stream before every layer.
    fn keeps_streams(&self) -> bool {
        false
    }

    /// How many variants begin in each layer: as many as [`without`](Self::without) gives.
    fn variants(&self) -> usize {
        0
    }

    /// Heads computed at the end of a window of a model of `layers` layers.
    fn heads(&self, _layers: u64) -> u64 {
        0
    }

    /// Notes what a layer does to a window.
    ///
    /// # Errors
    /// What is not a finite number, in words.
    fn at_layer(&self, _at: &AtLayer<'_>) -> Result<(), String> {
        Ok(())
    }

    /// The stream that would leave the layer without a part of it, for each of the parts; the model
    /// goes on from there, where more windows are wanted, and [`Passed::removal`] tells what that costs.
    fn without(&self, _at: &AtLayer<'_>) -> Vec<Tensor<3>> {
        Vec::new()
    }

    /// Notes what a window's streams come to.
    ///
    /// # Errors
    /// What is not a finite number, in words.
    fn at_end(&self, _at: &AtEnd<'_>) -> Result<(), String> {
        Ok(())
    }

    /// Notes what the model without one of the observer's parts makes of a window.
    fn at_end_without(&self, _at: &AtEndWithout<'_>) {}

    /// Writes the numbers of the windows that were whole into the record, which has an entry for
    /// every layer.
    fn conclude(&self, passed: &Passed<'_>, record: &mut DiagnoseRecord);
}

/// The observers of a pass, those of the first probe first.
pub type Observers = [Box<dyn Observer>];

/// One window in one layer. Tensors are \[1, T, H\].
pub struct AtLayer<'a> {
    /// Index of the window in the text.
    pub window: usize,
    /// Which of its tokens are content.
    pub content: &'a [bool],
    /// The layer that was run.
    pub layer: LayerIndex,
    /// Its weights.
    pub weights: &'a TransformerLayerWithScaling,
    /// Rotations of queries and keys.
    pub rotary: &'a RotaryTable,
    /// What enters the layer.
    pub stream: &'a Tensor<3>,
    /// What attention adds.
    pub attention: &'a Tensor<3>,
    /// The stream between attention and MLP.
    pub middle: &'a Tensor<3>,
    /// What the MLP adds.
    pub mlp: &'a Tensor<3>,
    /// What leaves the layer.
    pub out: &'a Tensor<3>,
}

/// One window after the last layer.
pub struct AtEnd<'a> {
    /// Index of the window in the text.
    pub window: usize,
    /// Which of its tokens are content.
    pub content: &'a [bool],
    /// stream\[0\] to stream\[L\], \[1, T, H\] each, where an observer keeps them; else the last alone.
    pub streams: &'a [Tensor<3>],
    /// The final norm and the head, where the model has them.
    pub head: Option<&'a Head>,
    /// Who computes.
    pub workers: &'a Workers,
    /// Is told of every head that is computed.
    pub progress: CountPasses<'a>,
}

impl AtEnd<'_> {
    /// What leaves the last layer.
    pub fn last(&self) -> &Tensor<3> {
        &self.streams[self.streams.len() - 1]
    }
}

/// The last hidden states of one window, \[1, T, H\]: the stream after the last layer, in a decoder after the
/// final norm.
pub struct AtEndWithout<'a> {
    /// Index of the window in the text.
    pub window: usize,
    /// Which of its tokens are content.
    pub content: &'a [bool],
    /// The layer that lacks the part.
    pub layer: usize,
    /// Which of the observer's parts, in the order of [`Observer::without`].
    pub part: usize,
    /// Of the untouched model.
    pub whole: &'a Tensor<3>,
    /// Of the model without the part.
    pub without: &'a Tensor<3>,
}

/// What workers note by window and place, and find in that order again whoever came first.
#[derive(Debug)]
pub(crate) struct Notes<T>(Mutex<BTreeMap<(usize, usize), T>>);

impl<T> Default for Notes<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Notes<T> {
    pub(crate) fn add(&self, window: usize, place: usize, note: T) {
        self.read().insert((window, place), note);
    }

    pub(crate) fn read(&self) -> MutexGuard<'_, BTreeMap<(usize, usize), T>> {
        // A worker that panicked has ended the pass.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a variant lacks: which part of which observer's, in which layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lacks {
    pub(crate) observer: usize,
    pub(crate) part: usize,
    pub(crate) layer: usize,
}

/// What one window gave; whole once it has left the head.
#[derive(Default)]
pub(crate) struct Measured {
    pub(crate) streams: Vec<StreamSums>,
    /// Its loss, where the model has a head.
    pub(crate) baseline: Option<f64>,
    /// Loss of each variant.
    pub(crate) losses: Vec<(Lacks, f64)>,
}

/// What it costs to lack a part, in each window that tells: the loss without it, minus the loss with it.
pub(crate) fn differences(measured: &[Measured], wanted: Lacks) -> Vec<f64> {
    let of = |window: &Measured| {
        let own = window.losses.iter().find(|(lacks, _)| *lacks == wanted)?;
        Some(own.1 - window.baseline?)
    };
    measured.iter().filter_map(of).collect()
}

/// A pass that is over, as one observer sees it.
pub struct Passed<'a> {
    /// The windows that were whole.
    pub windows: &'a [Window],
    /// Which of their tokens are content.
    pub content: &'a [Vec<bool>],
    /// Variances of stream\[0\] to stream\[L\].
    pub streams: &'a [StreamRecord],
    /// The text of a token.
    pub spell: &'a dyn Fn(u32) -> String,
    pub(crate) measured: &'a [Measured],
    pub(crate) observer: usize,
    /// Whether variants were measured on as many windows as they needed.
    pub(crate) as_needed: bool,
}

impl Passed<'_> {
    /// Tokens of the windows.
    pub fn tokens(&self) -> usize {
        self.windows.iter().map(|window| window.ids.len()).sum()
    }

    /// How many of them are content.
    pub fn content_tokens(&self) -> usize {
        self.content.iter().flatten().filter(|is_content| **is_content).count()
    }

    /// Variance over features of each token of a window at stream\[`index`\].
    pub fn variances(&self, window: usize, index: usize) -> &[f64] {
        &self.measured[window].streams[index].variances
    }

    /// Half the 95 % confidence interval of a mean over the windows of a variant; `None` with fewer than
    /// two of them.
    pub fn margin(&self, windows: &[f64]) -> Option<f64> {
        match self.as_needed {
            true => margin_at(windows, level(windows.len(), self.windows.len())),
            false => margin(windows),
        }
    }

    /// What it costs that `layer` lacks the observer's `part`, in the order of
    /// [`Observer::without`]: the mean paired difference over windows. `None` when it was not run.
    pub fn removal(&self, part: usize, layer: usize) -> Option<RemovalRecord> {
        let lacks = Lacks { observer: self.observer, part, layer };
        let differences = differences(self.measured, lacks);
        (!differences.is_empty()).then(|| RemovalRecord {
            delta_nll: mean(&differences),
            stderr: standard_error(&differences),
            margin: self.margin(&differences),
            windows: Some(differences.len() as u64),
        })
    }
}
