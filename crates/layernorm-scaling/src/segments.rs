//! Sequences that begin alike, in one pass: what each layer does token by token is done for all of their
//! tokens at once, and only the attention knows who follows whom.

use burn::tensor::Tensor;

use crate::LayerCache;

/// Tokens that follow each other, and stand next to each other in a row, \[1, tokens of all segments, H\].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The earlier segment that they go on from.
    pub after: Option<usize>,
    /// How many.
    pub tokens: usize,
}

/// What stands before the tokens that enter a layer.
pub(crate) enum Before<'a> {
    Nothing,
    Cache(&'a mut LayerCache),
    /// The tokens are one row of segments.
    Segments(&'a [Segment]),
}

/// Each segment's part of a row, `rows(first, count)`, through `mix` with the cache of what it follows; the
/// results as a row again.
pub(crate) fn through_segments<T>(
    segments: &[Segment],
    rows: impl Fn(usize, usize) -> T,
    mix: impl Fn(T, &mut LayerCache) -> Tensor<3>,
) -> Tensor<3> {
    let mut caches: Vec<LayerCache> = Vec::with_capacity(segments.len());
    let mut mixed = Vec::with_capacity(segments.len());
    let mut first = 0;
    for &Segment { after, tokens } in segments {
        let mut cache = after.map_or_else(LayerCache::default, |before| caches[before].clone());
        mixed.push(mix(rows(first, tokens), &mut cache));
        caches.push(cache);
        first += tokens;
    }
    Tensor::cat(mixed, 1)
}
