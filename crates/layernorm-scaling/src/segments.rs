//! Sequences that begin alike, in one pass: what each layer does token by token is done for all of their
//! tokens at once, and only the attention knows who follows whom.

use burn::tensor::Tensor;

use crate::LayerCache;

/// Tokens that stand next to each other in a row, \[1, sum of all segments, H\]: `sequences` times `tokens`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The earlier segment, of one sequence, that each of the sequences goes on from.
    pub after: Option<usize>,
    /// How many there are, of equal length.
    pub sequences: usize,
    /// Tokens of each.
    pub tokens: usize,
}

/// What stands before the tokens that enter a layer.
pub(crate) enum Before<'a> {
    Nothing,
    Cache(&'a mut LayerCache),
    /// The tokens are one row of segments.
    Segments(&'a [Segment]),
}

/// Each segment's part of a row, `rows(first, count, [sequences, tokens])`, through `mix` with the cache of
/// what it follows; the results as a row again.
pub(crate) fn through_segments<T>(
    segments: &[Segment],
    rows: impl Fn(usize, usize, [usize; 2]) -> T,
    mix: impl Fn(T, &mut LayerCache) -> Tensor<3>,
) -> Tensor<3> {
    let mut caches: Vec<LayerCache> = Vec::with_capacity(segments.len());
    let mut mixed = Vec::with_capacity(segments.len());
    let mut first = 0;
    for &Segment { after, sequences, tokens } in segments {
        let mut cache = match after {
            Some(before) => caches[before].for_sequences(sequences),
            None => LayerCache::default(),
        };
        let count = sequences * tokens;
        let own = mix(rows(first, count, [sequences, tokens]), &mut cache);
        let width = own.dims()[2];
        mixed.push(own.reshape([1, count, width]));
        caches.push(cache);
        first += count;
    }
    Tensor::cat(mixed, 1)
}
