//! The log-likelihood of continuations: Σ log p of each token of a continuation given what precedes it,
//! and whether it is what the model would have said. The rule is that of lm-evaluation-harness: the
//! last `window` + 1 tokens of context and continuation count, all of them but the last are read, and
//! the continuation's are predicted.
//!
//! Requests with one context are a group. In each layer the context's keys and values are computed once
//! and every continuation follows them, so that a cache lives no longer than its layer is at work, and
//! a model whose layers come from disk shares contexts like one in memory. Contexts that follow each
//! other and begin alike, as those after the same examples do, are a family, whose common beginning is
//! computed once in the same way. Families go through the layers as one row of segments, because a
//! layer's products are slow on the few tokens of one question.

use std::collections::HashMap;

use burn::tensor::{Tensor, TensorData};
use layernorm_scaling::{Segment, TransformerLayerWithScaling, rotary_table};
use lns_kernels::{RotaryTable, TokenScore, Workers};
use lns_model::{Head, LayerSource, LoadError};
use lns_spec::ModelSpec;

use crate::{CountPasses, ScoreError, layers::Jobs};

/// Tokens of one row of families at most, unless one family alone has more: enough for the products, and
/// few enough that every worker has a row.
const TOKENS_TOGETHER: usize = 512;

/// Continuations of one group at most: more of one context, be it only the token
/// that begins a sequence, are groups of their own, so that a row fits into memory.
const TOGETHER: usize = 16;

/// Contexts whose common beginning is computed once at most: what is held of them must fit into memory,
/// and every worker have some.
const CONTEXTS_TOGETHER: usize = 8;

/// Shorter beginnings, the words with which every question of a task opens, are not worth sharing.
const SHARED_AT_LEAST: usize = 32;

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
    Ok(in_order(requests.len(), jobs.run(source, workers)?.into_iter().flatten()))
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
    let mut found: Vec<Vec<(usize, Likelihood)>> = vec![Vec::new(); layers + 1];
    for of_batch in jobs.run_without_layers(source, workers)? {
        for (found, likelihoods) in found.iter_mut().zip(of_batch) {
            found.extend(likelihoods);
        }
    }
    let mut found = found.into_iter().map(|found| in_order(requests.len(), found));
    let without = found.by_ref().take(layers).collect();
    Ok(WithoutLayers { whole: found.next().unwrap_or_default(), without })
}

/// The batches of requests that can be scored.
fn checked<'a>(
    source: &dyn LayerSource,
    requests: &'a [Request],
    window: usize,
) -> Result<Vec<Batch<'a>>, ScoreError> {
    let spec = source.spec();
    if spec.family.is_encoder() {
        return Err(ScoreError::Encoder);
    }
    for (index, request) in requests.iter().enumerate() {
        check(index, request, window, spec.vocab_size)?;
    }
    Ok(batches(families(grouped(requests, window, spec), spec), spec))
}

/// The batches' way through the layers.
#[expect(clippy::type_complexity, reason = "closures have no other names than their signatures")]
fn jobs<'a>(
    batches: &'a [Batch<'a>],
    source: &'a dyn LayerSource,
    progress: CountPasses<'a>,
) -> Jobs<
    impl Fn(usize) -> Result<Row, LoadError> + Sync + 'a,
    impl Fn(usize, &TransformerLayerWithScaling, Row) -> Row + Sync + 'a,
    impl Fn(usize, &Head, Row) -> Vec<(usize, Likelihood)> + Sync + 'a,
> {
    let largest = batches.iter().map(|batch| batch.ids.len()).max().unwrap_or(0);
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

/// Likelihoods by the places of their requests, each of which is in one group.
fn in_order(
    requests: usize,
    likelihoods: impl IntoIterator<Item = (usize, Likelihood)>,
) -> Vec<Likelihood> {
    let mut found: Vec<Option<Likelihood>> = vec![None; requests];
    for (index, likelihood) in likelihoods {
        found[index] = Some(likelihood);
    }
    found.into_iter().flatten().collect()
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

/// Requests that share a context.
struct Group<'a> {
    /// What is left of it, at least one token.
    context: &'a [u32],
    members: Vec<Member<'a>>,
    /// Tokens that are read of the longest continuation.
    longest: usize,
}

struct Member<'a> {
    /// Place in the caller's list.
    index: usize,
    continuation: &'a [u32],
    /// Tokens of the context that are not left.
    dropped: usize,
}

impl<'a> Member<'a> {
    /// What is read of the continuation: its last token predicts nothing.
    fn read(&self) -> &'a [u32] {
        &self.continuation[..self.continuation.len() - 1]
    }
}

/// The groups in the order in which their first requests come.
fn grouped<'a>(requests: &'a [Request], window: usize, spec: &ModelSpec) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    // The newest group of each context.
    let mut places: HashMap<&'a [u32], usize> = HashMap::new();
    for (index, Request { context, continuation }) in requests.iter().enumerate() {
        let dropped = context.len().saturating_sub(window + 1 - continuation.len());
        let (context, read) = (&context[dropped..], continuation.len() - 1);
        let joins = |group: &Group<'_>| {
            let (theirs, own) = (context.len() + group.longest, context.len() + read);
            group.members.len() < TOGETHER && positions_agree(spec, theirs, own)
        };
        let place = match places.get(context) {
            Some(place) if joins(&groups[*place]) => *place,
            _ => {
                groups.push(Group { context, members: Vec::new(), longest: 0 });
                groups.len() - 1
            }
        };
        places.insert(context, place);
        let group = &mut groups[place];
        group.members.push(Member { index, continuation, dropped });
        group.longest = group.longest.max(read);
    }
    groups
}

/// Groups whose contexts begin alike.
struct Family<'a> {
    /// What all contexts begin with; none of them ends there. Empty where a group is alone.
    shared: &'a [u32],
    groups: Vec<Group<'a>>,
}

/// The groups in their order, neighbours that share a beginning together.
fn families<'a>(groups: Vec<Group<'a>>, spec: &ModelSpec) -> Vec<Family<'a>> {
    let mut families: Vec<Family<'a>> = Vec::new();
    for group in groups {
        match families.last_mut() {
            Some(family) if let Some(shared) = family.shared_with(&group, spec) => {
                family.shared = &group.context[..shared];
                family.groups.push(group);
            }
            _ => families.push(Family { shared: &[], groups: vec![group] }),
        }
    }
    families
}

impl Family<'_> {
    /// How many tokens it would share if the group joined; `None` if it should not.
    fn shared_with(&self, group: &Group<'_>, spec: &ModelSpec) -> Option<usize> {
        let before = match &self.groups[..] {
            [alone] => &alone.context[..alone.context.len() - 1],
            _ => self.shared,
        };
        let own = &group.context[..group.context.len() - 1];
        let common = before.iter().zip(own).take_while(|(a, b)| a == b).count();
        // A group that shares much less than the others would cost them more than it saves.
        let worth = common >= SHARED_AT_LEAST && 4 * common >= 3 * self.shared.len();
        let fits = self.groups.len() < CONTEXTS_TOGETHER
            && positions_agree(spec, self.length(), group.length());
        (worth && fits).then_some(common)
    }

    /// Tokens of its longest sequence.
    fn length(&self) -> usize {
        self.groups.iter().map(Group::length).max().unwrap_or(0)
    }

    /// Tokens of all its streams.
    fn tokens(&self) -> usize {
        let shared = self.shared.len();
        shared + self.groups.iter().map(|group| group.tokens() - shared).sum::<usize>()
    }
}

/// Whether sequences of `a` and of `b` tokens turn their positions alike: some ways of stretching a
/// context depend on how much of it is used.
fn positions_agree(spec: &ModelSpec, a: usize, b: usize) -> bool {
    let frequencies =
        |tokens| spec.rope.frequencies(spec.head_dim, tokens, spec.max_position_embeddings);
    a == b || frequencies(a) == frequencies(b)
}

impl Group<'_> {
    /// Tokens of its longest sequence.
    fn length(&self) -> usize {
        self.context.len() + self.longest
    }

    /// Tokens of all its streams.
    fn tokens(&self) -> usize {
        self.context.len() + self.members.iter().map(|member| member.read().len()).sum::<usize>()
    }
}

/// Families that go through the layers together.
#[derive(Default)]
struct Batch<'a> {
    /// How the row's tokens follow each other.
    segments: Vec<Segment>,
    /// The row's tokens, and where each stands in its sequence.
    ids: Vec<u32>,
    positions: Vec<u32>,
    asked: Vec<Asked<'a>>,
    /// Tokens of its longest sequence.
    length: usize,
}

/// A request in a row.
struct Asked<'a> {
    member: Member<'a>,
    /// The row's token that predicts the continuation's first, and the one that predicts its second; the
    /// others follow that.
    predicting: [usize; 2],
}

/// The families in their order, as many together as a row takes.
fn batches<'a>(families: Vec<Family<'a>>, spec: &ModelSpec) -> Vec<Batch<'a>> {
    let mut batches: Vec<Batch<'a>> = Vec::new();
    for family in families {
        match batches.last_mut() {
            Some(batch)
                if batch.ids.len() + family.tokens() <= TOKENS_TOGETHER
                    && positions_agree(spec, batch.length, family.length()) =>
            {
                batch.add(family);
            }
            _ => {
                let mut batch = Batch::default();
                batch.add(family);
                batches.push(batch);
            }
        }
    }
    batches
}

impl<'a> Batch<'a> {
    fn add(&mut self, family: Family<'a>) {
        self.length = self.length.max(family.length());
        let shared = family.shared.len();
        let beginning = (shared > 0).then(|| self.push(None, family.shared, 0));
        for group in family.groups {
            let context = self.push(beginning, &group.context[shared..], shared);
            let last = self.ids.len() - 1;
            for member in group.members {
                let predicting = [last, self.ids.len()];
                if !member.read().is_empty() {
                    self.push(Some(context), member.read(), group.context.len());
                }
                self.asked.push(Asked { member, predicting });
            }
        }
    }

    /// Adds tokens that go on from segment `after` at position `from`; the number of their segment.
    fn push(&mut self, after: Option<usize>, tokens: &[u32], from: usize) -> usize {
        self.ids.extend(tokens);
        self.positions.extend(from as u32..(from + tokens.len()) as u32);
        self.segments.push(Segment { after, tokens: tokens.len() });
        self.segments.len() - 1
    }

    /// What enters the first layer.
    fn begin(&self, source: &dyn LayerSource) -> Result<Row, LoadError> {
        let stream = source.embed_ids_at(&self.ids, &self.positions)?;
        Ok(Row { rotary: rotary_table(source.spec(), self.length), stream })
    }

    /// Place and likelihood of each request.
    fn scores(&self, stream: Tensor<3>, head: &Head) -> Vec<(usize, Likelihood)> {
        let rows: Vec<i64> = self.asked.iter().flat_map(Asked::rows).collect();
        let count = rows.len();
        let rows = Tensor::from_data(TensorData::new(rows, [count]), &stream.device());
        let continuations = self.asked.iter().map(|asked| asked.member.continuation);
        let targets: Vec<u32> = continuations.flatten().copied().collect();
        let scores = head.scores(stream.squeeze_dim::<2>(0).select(0, rows), &targets);
        let mut rest = &scores[..];
        let likelihood = |Asked { member, .. }: &Asked<'_>| {
            let (own, after) = rest.split_at(member.continuation.len());
            rest = after;
            let likelihood = Likelihood {
                log_probability: own.iter().map(|token: &TokenScore| token.log_probability).sum(),
                greedy: own.iter().all(|token| token.likeliest),
                dropped: member.dropped,
            };
            (member.index, likelihood)
        };
        self.asked.iter().map(likelihood).collect()
    }
}

impl Asked<'_> {
    /// The row's tokens that predict the continuation's.
    fn rows(&self) -> impl Iterator<Item = i64> {
        let [first, second] = self.predicting.map(|row| row as i64);
        std::iter::once(first).chain(second..second + self.member.read().len() as i64)
    }
}

/// A batch on its way through the layers.
#[derive(Clone)]
struct Row {
    rotary: RotaryTable,
    /// \[1, tokens of all segments, H\]
    stream: Tensor<3>,
}
