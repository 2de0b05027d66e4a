//! The log-likelihood of continuations: Σ log p of each token of a continuation given what precedes it,
//! and whether it is what the model would have said. The rule is that of lm-evaluation-harness: the
//! last `window` + 1 tokens of context and continuation count, all of them but the last are read, and
//! the continuation's are predicted.
//!
//! What requests begin with alike, the context of a question's choices or the examples before many
//! questions, is computed once: the sequences of a batch are a tree, and each layer takes all of the
//! tree's tokens as one row of segments. A layer's products are slow on the few tokens of one question,
//! and a cache lives no longer than its layer is at work, so that a model whose layers come from disk
//! shares beginnings like one in memory.

use std::collections::HashMap;

use burn::tensor::{Tensor, TensorData};
use layernorm_scaling::{Segment, TransformerLayerWithScaling, rotary_table};
use lns_kernels::{RotaryTable, Workers};
use lns_model::{Head, LayerSource, LoadError};
use lns_spec::ModelSpec;

use crate::{CountPasses, ScoreError, layers::Jobs};

/// Tokens of a batch, beside those that its next request shares with it: enough for the products, and few
/// enough that every worker has a batch.
const TOKENS_TOGETHER: usize = 512;

/// What to score.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Ids that are given, at least one.
    pub context: Vec<u32>,
    /// Ids whose likelihood after the context is asked for, at least one.
    pub continuation: Vec<u32>,
}

/// What a model gives a continuation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Likelihood {
    /// Σ log p, in nats. Not a finite number when the model computes none: such a score is to be
    /// counted, and never compared.
    pub log_probability: f64,
    /// Whether every token of the continuation is the likeliest where it stands (one of the likeliest,
    /// if several are).
    pub greedy: bool,
    /// Tokens of the context, from its beginning, that did not fit into the window.
    pub dropped: usize,
}

/// Scores each request by itself, at most `window` tokens being read for it. `progress` is told of a
/// layer pass for each request and layer.
///
/// # Errors
/// [`ScoreError`] when a request is empty, longer than the window without its context, or of another
/// vocabulary, each named by its place, or a layer cannot be read.
pub fn log_likelihoods(
    source: &dyn LayerSource,
    requests: &[Request],
    window: usize,
    workers: &Workers,
    progress: CountPasses<'_>,
) -> Result<Vec<Likelihood>, ScoreError> {
    let batches = checked(source, requests, window)?;
    let jobs = jobs(&batches, source, progress);
    Ok(jobs.run(source, workers)?.into_iter().flatten().collect())
}

/// What a model gives continuations, and what it gives them without each of its layers.
#[derive(Debug, Clone, PartialEq)]
pub struct WithoutLayers<T> {
    /// The whole model's.
    pub whole: Vec<T>,
    /// For each layer, what the model gives without it.
    pub without: Vec<Vec<T>>,
}

/// Scores each request as [`log_likelihoods`] does, and again without each of the model's layers, where
/// what enters layer i enters layer i + 1. The layers before the one that is left out are computed once.
/// `progress` is told of a layer pass for each request and layer that it passes, L · (L + 1) / 2 of a
/// model of L layers for each request.
///
/// # Errors
/// As [`log_likelihoods`].
pub fn log_likelihoods_without_layers(
    source: &dyn LayerSource,
    requests: &[Request],
    window: usize,
    workers: &Workers,
    progress: CountPasses<'_>,
) -> Result<WithoutLayers<Likelihood>, ScoreError> {
    let batches = checked(source, requests, window)?;
    let jobs = jobs(&batches, source, progress);
    let layers = source.spec().num_hidden_layers;
    let mut found: Vec<Vec<Likelihood>> = vec![Vec::new(); layers + 1];
    for of_batch in jobs.run_without_layers(source, workers)? {
        for (found, likelihoods) in found.iter_mut().zip(of_batch) {
            found.extend(likelihoods);
        }
    }
    let whole = found.pop().unwrap_or_default();
    Ok(WithoutLayers { whole, without: found })
}

/// The batches of requests that can be scored.
fn checked(
    source: &dyn LayerSource,
    requests: &[Request],
    window: usize,
) -> Result<Vec<Batch>, ScoreError> {
    let spec = source.spec();
    if spec.family.is_encoder() {
        return Err(ScoreError::Encoder);
    }
    for (index, request) in requests.iter().enumerate() {
        check(index, request, window, spec.vocab_size)?;
    }
    Ok(batches(requests, window, spec))
}

/// The batches' way through the layers.
#[expect(clippy::type_complexity, reason = "closures have no other names than their signatures")]
fn jobs<'a>(
    batches: &'a [Batch],
    source: &'a dyn LayerSource,
    progress: CountPasses<'a>,
) -> Jobs<
    impl Fn(usize) -> Result<Row, LoadError> + Sync + 'a,
    impl Fn(usize, &TransformerLayerWithScaling, Row) -> Row + Sync + 'a,
    impl Fn(usize, &Head, Row) -> Vec<Likelihood> + Sync + 'a,
> {
    let largest = batches.iter().map(|batch| batch.tree.nodes.len()).max().unwrap_or(0);
    Jobs {
        count: batches.len(),
        bytes_each: largest * source.spec().hidden_size * size_of::<f32>(),
        begin: |batch: usize| batches[batch].begin(source),
        step: |batch: usize, layer: &TransformerLayerWithScaling, Row { rotary, stream }: Row| {
            let batch = &batches[batch];
            progress(batch.asked.len() as u64);
            let stream = layer.forward_segments(stream, &rotary, &batch.segments);
            Row { rotary, stream }
        },
        end: |batch: usize, head: &Head, row: Row| batches[batch].scores(row.stream, head),
    }
}

fn check(
    index: usize,
    request: &Request,
    window: usize,
    vocabulary: usize,
) -> Result<(), ScoreError> {
    let Request { context, continuation } = request;
    for (ids, what) in [(context, "context"), (continuation, "continuation")] {
        if ids.is_empty() {
            return Err(ScoreError::EmptyRequest { request: index, what });
        }
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocabulary) {
            return Err(ScoreError::OutOfVocabulary { request: index, id: *id, vocabulary });
        }
    }
    if continuation.len() > window {
        let tokens = continuation.len();
        return Err(ScoreError::LongContinuation { request: index, tokens, window });
    }
    Ok(())
}

/// Whether sequences of `a` and of `b` tokens turn their positions alike: some ways of stretching a
/// context depend on how much of it is used.
fn positions_agree(spec: &ModelSpec, a: usize, b: usize) -> bool {
    let frequencies =
        |tokens| spec.rope.frequencies(spec.head_dim, tokens, spec.max_position_embeddings);
    a == b || frequencies(a) == frequencies(b)
}

/// Requests that go through the layers together.
#[derive(Default)]
struct Batch {
    tree: Tree,
    /// How the row's tokens follow each other, and the row's place of each of the tree's.
    segments: Vec<Segment>,
    places: Vec<usize>,
    /// A token of the tree, and the id after it whose probability is asked for.
    predictions: Vec<(usize, u32)>,
    asked: Vec<Asked>,
    /// Tokens of its longest sequence.
    length: usize,
}

/// A request in a batch.
struct Asked {
    /// Tokens of the context that are not left.
    dropped: usize,
    /// Which of the batch's predictions are those of its continuation.
    predictions: Vec<usize>,
}

/// The requests in their order, as many together as a batch takes.
fn batches(requests: &[Request], window: usize, spec: &ModelSpec) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    // Where each prediction of the newest batch stands in it.
    let mut standing = HashMap::new();
    for Request { context, continuation } in requests {
        let dropped = context.len().saturating_sub(window + 1 - continuation.len());
        // The last token of a continuation predicts nothing.
        let read = context[dropped..].iter().chain(&continuation[..continuation.len() - 1]);
        let sequence: Vec<u32> = read.copied().collect();
        let length = sequence.len();
        let joins = |batch: &&mut Batch| {
            let shared = batch.tree.shared(&sequence);
            batch.tree.nodes.len() + length <= TOKENS_TOGETHER + 2 * shared
                && positions_agree(spec, batch.length, length)
        };
        let batch = match batches.last_mut().filter(joins) {
            Some(batch) => batch,
            None => {
                standing.clear();
                batches.push_mut(Batch::default())
            }
        };
        let path = batch.tree.insert(&sequence);
        let asked = path[length - continuation.len()..].iter().zip(continuation);
        let place = |(node, id): (&usize, &u32)| {
            *standing.entry((*node, *id)).or_insert_with(|| {
                batch.predictions.push((*node, *id));
                batch.predictions.len() - 1
            })
        };
        let predictions = asked.map(place).collect();
        batch.asked.push(Asked { dropped, predictions });
        batch.length = batch.length.max(length);
    }
    for batch in &mut batches {
        (batch.segments, batch.places) = batch.tree.row();
    }
    batches
}

impl Batch {
    /// What enters the first layer.
    fn begin(&self, source: &dyn LayerSource) -> Result<Row, LoadError> {
        let count = self.places.len();
        let (mut ids, mut positions) = (vec![0; count], vec![0; count]);
        for (node, place) in self.tree.nodes.iter().zip(&self.places) {
            (ids[*place], positions[*place]) = (node.id, node.position);
        }
        let stream = source.embed_ids_at(&ids, &positions)?;
        Ok(Row { rotary: rotary_table(source.spec(), self.length), stream })
    }

    /// What each request is given.
    fn scores(&self, stream: Tensor<3>, head: &Head) -> Vec<Likelihood> {
        let rows = self.predictions.iter().map(|(node, _)| self.places[*node] as i64).collect();
        let rows = TensorData::new::<i64, _>(rows, [self.predictions.len()]);
        let rows =
            stream.clone().squeeze_dim::<2>(0).select(0, Tensor::from_data(rows, &stream.device()));
        let targets: Vec<u32> = self.predictions.iter().map(|(_, id)| *id).collect();
        let scores = head.scores(rows, &targets);
        let likelihood = |asked: &Asked| {
            let own = || asked.predictions.iter().map(|place| scores[*place]);
            Likelihood {
                log_probability: own().map(|token| token.log_probability).sum(),
                greedy: own().all(|token| token.likeliest),
                dropped: asked.dropped,
            }
        };
        self.asked.iter().map(likelihood).collect()
    }
}

/// Sequences that share what they begin with alike.
#[derive(Default)]
struct Tree {
    nodes: Vec<Node>,
    /// The tokens that begin a sequence.
    roots: Vec<usize>,
}

struct Node {
    id: u32,
    position: u32,
    /// The tokens that follow it.
    next: Vec<usize>,
}

impl Tree {
    /// The tokens of a sequence that are there already, from its beginning.
    fn path(&self, sequence: &[u32]) -> Vec<usize> {
        let mut path = Vec::with_capacity(sequence.len());
        let mut next = &self.roots;
        for id in sequence {
            let Some(found) = next.iter().find(|node| self.nodes[**node].id == *id) else { break };
            path.push(*found);
            next = &self.nodes[*found].next;
        }
        path
    }

    /// How many tokens of a sequence are there already.
    fn shared(&self, sequence: &[u32]) -> usize {
        self.path(sequence).len()
    }

    /// The tokens of a sequence, which is there afterwards.
    fn insert(&mut self, sequence: &[u32]) -> Vec<usize> {
        let mut path = self.path(sequence);
        for (position, id) in sequence.iter().enumerate().skip(path.len()) {
            let node = self.nodes.len();
            self.nodes.push(Node { id: *id, position: position as u32, next: Vec::new() });
            match path.last() {
                Some(before) => self.nodes[*before].next.push(node),
                None => self.roots.push(node),
            }
            path.push(node);
        }
        path
    }

    /// The tree as a row, each segment as long as nothing branches off; and each token's place in the row.
    fn row(&self) -> (Vec<Segment>, Vec<usize>) {
        let (mut segments, mut places) = (Vec::new(), vec![0; self.nodes.len()]);
        let mut place = 0;
        // First tokens of segments, and the segment that each follows.
        let mut open: Vec<(usize, Option<usize>)> =
            self.roots.iter().rev().map(|root| (*root, None)).collect();
        while let Some((mut node, after)) = open.pop() {
            let first = place;
            loop {
                places[node] = place;
                place += 1;
                match self.nodes[node].next[..] {
                    [only] => node = only,
                    _ => break,
                }
            }
            let segment = segments.len();
            segments.push(Segment { after, tokens: place - first });
            open.extend(self.nodes[node].next.iter().rev().map(|next| (*next, Some(segment))));
        }
        (segments, places)
    }
}

/// A batch on its way through the layers.
#[derive(Clone)]
struct Row {
    rotary: RotaryTable,
    /// \[1, tokens of all segments, H\]
    stream: Tensor<3>,
}
