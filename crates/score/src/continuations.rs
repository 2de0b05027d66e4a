//! The log-likelihood of continuations: Σ log p of each token of a continuation given what precedes it,
//! and whether it is what the model would have said. The rule is that of lm-evaluation-harness: the
//! last `window` + 1 tokens of context and continuation count, all of them but the last are read, and
//! the continuation's are predicted.
//!
//! Requests with one context are a group. In each layer the context's keys and values are computed once
//! and every continuation follows them, so that a cache lives no longer than its layer is at work, and
//! a model whose layers come from disk shares contexts like one in memory. The continuations of a group
//! go through the layer as one batch, the shorter ones padded behind: no token sees what comes after it.
//! Contexts that follow each other and begin alike, as those after the same examples do, are a family,
//! whose common beginning is computed once in the same way.

use std::collections::HashMap;

use burn::tensor::Tensor;
use layernorm_scaling::{LayerCache, TransformerLayerWithScaling, rotary_table};
use lns_kernels::{RotaryTable, TokenScore, Workers};
use lns_model::{Head, LayerSource, LoadError};
use lns_spec::ModelSpec;

use crate::{CountPasses, ScoreError, layers::Jobs};

/// Continuations that go through a layer as one batch at most: more of one context, be it only the token
/// that begins a sequence, are groups of their own, so that a batch fits into memory and every worker
/// has one.
const TOGETHER: usize = 16;

/// Contexts whose common beginning is computed once at most: what is held of them must fit into memory,
/// and every worker have some.
const CONTEXTS_TOGETHER: usize = 8;

/// Shorter beginnings, the words with which every question of a task opens, are not worth sharing.
const SHARED_AT_LEAST: usize = 32;

/// Stands behind a shorter continuation; which id it is changes nothing.
const PADDING: u32 = 0;

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
    let families = checked(source, requests, window)?;
    let jobs = jobs(&families, source, progress);
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
    let families = checked(source, requests, window)?;
    let jobs = jobs(&families, source, progress);
    let layers = source.spec().num_hidden_layers;
    let mut found: Vec<Vec<(usize, Likelihood)>> = vec![Vec::new(); layers + 1];
    for of_family in jobs.run_without_layers(source, workers)? {
        for (found, likelihoods) in found.iter_mut().zip(of_family) {
            found.extend(likelihoods);
        }
    }
    let mut found = found.into_iter().map(|found| in_order(requests.len(), found));
    let without = found.by_ref().take(layers).collect();
    Ok(WithoutLayers { whole: found.next().unwrap_or_default(), without })
}

/// The families of requests that can be scored.
fn checked<'a>(
    source: &dyn LayerSource,
    requests: &'a [Request],
    window: usize,
) -> Result<Vec<Family<'a>>, ScoreError> {
    let spec = source.spec();
    if spec.family.is_encoder() {
        return Err(ScoreError::Encoder);
    }
    for (index, request) in requests.iter().enumerate() {
        check(index, request, window, spec.vocab_size)?;
    }
    Ok(families(grouped(requests, window, spec), spec))
}

/// The families' way through the layers.
#[expect(clippy::type_complexity, reason = "closures have no other names than their signatures")]
fn jobs<'a>(
    families: &'a [Family<'a>],
    source: &'a dyn LayerSource,
    progress: CountPasses<'a>,
) -> Jobs<
    impl Fn(usize) -> Result<FamilyStreams, LoadError> + Sync + 'a,
    impl Fn(usize, &TransformerLayerWithScaling, FamilyStreams) -> FamilyStreams + Sync + 'a,
    impl Fn(usize, &Head, FamilyStreams) -> Vec<(usize, Likelihood)> + Sync + 'a,
> {
    let largest = families.iter().map(|family| family.tokens()).max().unwrap_or(0);
    Jobs {
        count: families.len(),
        bytes_each: largest * source.spec().hidden_size * size_of::<f32>(),
        begin: |family: usize| families[family].begin(source),
        step: |family: usize, layer: &TransformerLayerWithScaling, streams: FamilyStreams| {
            progress(families[family].groups.iter().map(|group| group.members.len() as u64).sum());
            streams.through(layer)
        },
        end: |family: usize, head: &Head, streams: FamilyStreams| {
            families[family].scores(streams, head)
        },
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
    /// Tokens that are read of the longest continuation: its last predicts nothing.
    longest: usize,
}

struct Member<'a> {
    /// Place in the caller's list.
    index: usize,
    continuation: &'a [u32],
    /// Tokens of the context that are not left.
    dropped: usize,
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

    fn begin(&self, source: &dyn LayerSource) -> Result<FamilyStreams, LoadError> {
        let first = self.shared.len();
        Ok(FamilyStreams {
            rotary: rotary_table(source.spec(), self.length()),
            shared: if first == 0 { None } else { Some(source.embed_ids(self.shared)?) },
            groups: self
                .groups
                .iter()
                .map(|group| group.begin(source, first))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Place and likelihood of each request.
    fn scores(&self, streams: FamilyStreams, head: &Head) -> Vec<(usize, Likelihood)> {
        let groups = self.groups.iter().zip(streams.groups);
        groups.flat_map(|(group, streams)| group.scores(streams, head)).collect()
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
        self.context.len() + self.members.len() * self.longest
    }

    /// What enters the first layer, the context from its token number `from` on.
    fn begin(&self, source: &dyn LayerSource, from: usize) -> Result<Streams, LoadError> {
        let padded = |member: &Member<'_>| {
            let read = &member.continuation[..member.continuation.len() - 1];
            let mut padded = read.to_vec();
            padded.resize(self.longest, PADDING);
            padded
        };
        let continuations = if self.longest == 0 {
            None
        } else {
            let ids: Vec<u32> = self.members.iter().flat_map(padded).collect();
            let first = self.context.len() as u32;
            let positions: Vec<u32> = (first..first + self.longest as u32).collect();
            let stream = source.embed_ids_at(&ids, &positions.repeat(self.members.len()))?;
            let hidden = stream.dims()[2];
            Some(stream.reshape([self.members.len(), self.longest, hidden]))
        };
        let positions: Vec<u32> = (from as u32..self.context.len() as u32).collect();
        let context = source.embed_ids_at(&self.context[from..], &positions)?;
        Ok(Streams { context, continuations })
    }

    /// Place and likelihood of each request.
    fn scores(&self, streams: Streams, head: &Head) -> Vec<(usize, Likelihood)> {
        let [_, length, hidden] = streams.context.dims();
        let last = streams.context.narrow(1, length - 1, 1).reshape([1, hidden]);
        let mut rows = Vec::new();
        for (sequence, member) in self.members.iter().enumerate() {
            rows.push(last.clone());
            if let (Some(stream), read @ 1..) =
                (&streams.continuations, member.continuation.len() - 1)
            {
                let own = stream.clone().narrow(0, sequence, 1).narrow(1, 0, read);
                rows.push(own.reshape([read, hidden]));
            }
        }
        let targets: Vec<u32> =
            self.members.iter().flat_map(|member| member.continuation.iter().copied()).collect();
        let scores = head.scores(Tensor::cat(rows, 0), &targets);
        let mut rest = &scores[..];
        let likelihood = |member: &Member<'_>| {
            let (own, after) = rest.split_at(member.continuation.len());
            rest = after;
            let likelihood = Likelihood {
                log_probability: own.iter().map(|token: &TokenScore| token.log_probability).sum(),
                greedy: own.iter().all(|token| token.likeliest),
                dropped: member.dropped,
            };
            (member.index, likelihood)
        };
        self.members.iter().map(likelihood).collect()
    }
}

/// A family on its way through the layers.
#[derive(Clone)]
struct FamilyStreams {
    rotary: RotaryTable,
    /// \[1, tokens of the common beginning, H\]
    shared: Option<Tensor<3>>,
    groups: Vec<Streams>,
}

/// A group on its way through the layers.
#[derive(Clone)]
struct Streams {
    /// \[1, tokens of the context after what its family shares, H\]
    context: Tensor<3>,
    /// \[requests, tokens of the longest continuation but its last, H\]; absent when every continuation
    /// is one token.
    continuations: Option<Tensor<3>>,
}

impl FamilyStreams {
    fn through(self, layer: &TransformerLayerWithScaling) -> Self {
        let rotary = self.rotary;
        let mut cache = LayerCache::default();
        let shared =
            self.shared.map(|stream| layer.forward_cached(stream, &rotary, Some(&mut cache)));
        let through = |streams: Streams| {
            let own = if shared.is_some() { cache.for_sequences(1) } else { LayerCache::default() };
            streams.through(layer, &rotary, own)
        };
        let groups = self.groups.into_iter().map(through).collect();
        Self { rotary, shared, groups }
    }
}

impl Streams {
    /// `cache` holds what stands before the context.
    fn through(
        self,
        layer: &TransformerLayerWithScaling,
        rotary: &RotaryTable,
        mut cache: LayerCache,
    ) -> Self {
        let context = layer.forward_cached(self.context, rotary, Some(&mut cache));
        let continuations = self.continuations.map(|stream| {
            let mut cache = cache.for_sequences(stream.dims()[0]);
            layer.forward_cached(stream, rotary, Some(&mut cache))
        });
        Self { context, continuations }
    }
}
