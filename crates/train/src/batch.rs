//! Sequences of tokens and what follows each.

use lns_kernels::IGNORED;
use lns_score::{Sequence, counted};

/// Why ids make no batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message names its fields")]
pub enum BatchError {
    #[error("a batch of {ids} ids is not whole sequences of {length} tokens")]
    NotWhole { ids: usize, length: usize },
    #[error(
        "a batch has {inputs} inputs and {targets} targets; there must be one target per input"
    )]
    Unpaired { inputs: usize, targets: usize },
    #[error(
        "the documents of {sequences} sequences of {length} tokens must be {sequences} lists of lengths \
         from 1 on whose sum is {length}"
    )]
    NotDocuments { sequences: usize, length: usize },
    #[error("a batch needs at least one token whose successor is known")]
    NothingToPredict,
    #[error("id {id} is not in the vocabulary of {vocabulary}: text of another tokenizer?")]
    OutOfVocabulary { id: u32, vocabulary: usize },
}

/// B sequences of T tokens, and for each token the one to predict, or [`IGNORED`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    inputs: Vec<u32>,
    targets: Vec<u32>,
    length: usize,
    /// The lengths of each sequence's documents, which do not see each other; empty if all tokens see
    /// all before them.
    documents: Vec<Vec<usize>>,
}

impl Batch {
    /// `inputs` and `targets`: B × T, row-major, T = `length`.
    ///
    /// # Errors
    /// [`BatchError`] when they are not whole sequences, do not pair up, or nothing is to be
    /// predicted.
    pub fn new(inputs: Vec<u32>, targets: Vec<u32>, length: usize) -> Result<Self, BatchError> {
        if inputs.len() != targets.len() {
            return Err(BatchError::Unpaired { inputs: inputs.len(), targets: targets.len() });
        }
        if length == 0 || !inputs.len().is_multiple_of(length) {
            return Err(BatchError::NotWhole { ids: inputs.len(), length });
        }
        let batch = Self { inputs, targets, length, documents: Vec::new() };
        if batch.predicted() == 0 {
            return Err(BatchError::NothingToPredict);
        }
        Ok(batch)
    }

    /// The same batch with the lengths of each sequence's documents, which are not to see each other. An
    /// empty list leaves every token all before it to see.
    ///
    /// # Errors
    /// [`BatchError::NotDocuments`] when they do not make up the sequences.
    pub fn with_documents(self, documents: Vec<Vec<usize>>) -> Result<Self, BatchError> {
        let (sequences, length) = (self.sequences(), self.length);
        let whole = |documents: &Vec<usize>| {
            documents.iter().sum::<usize>() == length && !documents.contains(&0)
        };
        let counted = documents.is_empty() || documents.len() == sequences;
        if !counted || !documents.iter().all(whole) {
            return Err(BatchError::NotDocuments { sequences, length });
        }
        Ok(Self { documents, ..self })
    }

    /// From B windows of T + 1 ids each, row-major: every id but the last is an input, every one but
    /// the first a target.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn from_windows(ids: &[u32], length: usize) -> Result<Self, BatchError> {
        if !ids.len().is_multiple_of(length + 1) {
            return Err(BatchError::NotWhole { ids: ids.len(), length: length + 1 });
        }
        let windows = || ids.chunks_exact(length + 1);
        let inputs = windows().flat_map(|window| &window[..length]).copied().collect();
        let targets = windows().flat_map(|window| &window[1..]).copied().collect();
        Self::new(inputs, targets, length)
    }

    /// Sequences.
    pub fn sequences(&self) -> usize {
        self.inputs.len() / self.length
    }

    /// Tokens of a sequence.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Tokens of all sequences, without the padding behind them: what follows a sequence's last target
    /// changes nothing and is not computed.
    pub fn tokens(&self) -> usize {
        self.counted().iter().sum()
    }

    /// Tokens of each sequence, without the padding behind them.
    pub(crate) fn counted(&self) -> Vec<usize> {
        self.targets.chunks(self.length).map(counted).collect()
    }

    /// Tokens whose successor is predicted: the loss's denominator.
    pub fn predicted(&self) -> usize {
        self.targets.iter().filter(|target| **target != IGNORED).count()
    }

    /// Refuses ids that a model of `vocabulary` tokens does not have.
    pub(crate) fn check(&self, vocabulary: usize) -> Result<(), BatchError> {
        let targets = self.targets.iter().filter(|target| **target != IGNORED);
        match self.inputs.iter().chain(targets).find(|id| **id as usize >= vocabulary) {
            Some(id) => Err(BatchError::OutOfVocabulary { id: *id, vocabulary }),
            None => Ok(()),
        }
    }

    /// One of its sequences.
    ///
    /// # Panics
    /// If the batch has fewer sequences.
    pub fn sequence(&self, index: usize) -> Sequence<'_> {
        let (inputs, targets) = self.part(index..index + 1);
        let documents = self.documents.get(index).map_or(&[][..], Vec::as_slice);
        Sequence { inputs, targets, documents }
    }

    /// Inputs and targets of some sequences, row-major.
    ///
    /// # Panics
    /// If the batch has fewer sequences.
    pub fn part(&self, sequences: std::ops::Range<usize>) -> (&[u32], &[u32]) {
        let range = sequences.start * self.length..sequences.end * self.length;
        (&self.inputs[range.clone()], &self.targets[range])
    }
}
