//! Grouped-query self-attention with rotary positions, causal or in both directions, and multi-head latent
//! attention.
//!
//! Shapes: B sequences, T tokens, H = hidden_size, D = head_dim.

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};
use lns_kernels::{AttentionMask, AttentionShape, RotaryTable, Scores, attention, rotate};
use lns_spec::{LayerIndex, ModelSpec, Part, Role, RopeFrequencies, RopeSpec, Rotary};

use crate::{
    Latents, LayerCache, NormScaling, Projection,
    latent::Entering,
    segments::{Before, through_segments},
    weights::{Builder, Weights},
};

/// cos and sin for the first `positions` positions of a model.
pub fn rotary_table(spec: &ModelSpec, positions: usize) -> RotaryTable {
    table_of(spec, positions, |frequencies| RotaryTable::new(frequencies, positions))
}

/// The table of a sequence in which documents of these lengths are laid end to end, none longer than
/// `positions`; otherwise as [`rotary_table`]'s for so many positions.
pub fn packed_rotary_table(spec: &ModelSpec, positions: usize, lengths: &[usize]) -> RotaryTable {
    table_of(spec, positions, |frequencies| RotaryTable::packed(frequencies, lengths))
}

/// The model's table, and in it that of layers with a base of their own.
fn table_of(
    spec: &ModelSpec,
    positions: usize,
    make: impl Fn(&RopeFrequencies) -> RotaryTable,
) -> RotaryTable {
    let of = |rope: &RopeSpec| {
        let context = spec.max_position_embeddings;
        make(&rope.frequencies(spec.rotary_dim, positions, context))
            .for_heads_of(spec.head_dim)
            .interleaved(spec.rotary_interleaved)
            .turning_the_last(spec.latent.is_some())
    };
    of(&spec.rope).with_local(spec.local_rope.as_ref().map(of))
}

/// Grouped-query self-attention with rotary positions, causal or in both directions; with latents multi-head
/// latent attention.
#[derive(Module, Debug)]
pub struct SelfAttention {
    /// What queries, keys and values are made of, where it is not the stream itself.
    pub latents: Option<Latents>,
    /// H, or the queries' latent → heads · D
    pub q_proj: Projection,
    /// H → key_value_heads · D; with latents, theirs → the part of each head's key that is not turned
    pub k_proj: Projection,
    /// H, or the latent of keys and values → key_value_heads · features of a value
    pub v_proj: Projection,
    /// heads · D → H
    pub o_proj: Projection,
    /// Norm on each query head (Qwen 3), or on all together (OLMo 2).
    pub q_norm: Option<NormScaling>,
    /// Norm on each key head, or on all together.
    pub k_norm: Option<NormScaling>,
    /// \[heads\], the score of what every softmax has beside its keys and that has no value (gpt_oss).
    pub sinks: Option<Param<Tensor<1>>>,
    #[module(skip)]
    shape: AttentionShape,
    #[module(skip)]
    rotary: Rotary,
}

impl SelfAttention {
    pub(crate) fn build<W: Weights>(
        spec: &ModelSpec,
        layer: LayerIndex,
        builder: &mut Builder<'_, W>,
    ) -> Result<Self, W::Error> {
        let eps = spec.rms_norm_eps;
        let latents = match spec.latent {
            Some(_) => Some(Latents::build(builder)?),
            None => None,
        };
        Ok(Self {
            latents,
            q_proj: Projection::build(builder, Role::Query)?,
            k_proj: Projection::build(builder, Role::Key)?,
            v_proj: Projection::build(builder, Role::Value)?,
            o_proj: Projection::build(builder, Role::AttentionOutput)?,
            q_norm: builder.norm(Role::QueryNorm, eps, 1.0)?,
            k_norm: builder.norm(Role::KeyNorm, eps, 1.0)?,
            sinks: builder.optional(Role::Sinks, Part::Weight)?.map(Param::from_tensor),
            shape: AttentionShape {
                mask: match spec.prediction.sees_both_ways() {
                    true => AttentionMask::Full,
                    false => AttentionMask::Causal,
                },
                heads: spec.num_attention_heads,
                key_value_heads: spec.num_key_value_heads,
                head_dim: spec.head_dim,
                window: spec.per_layer.get(layer.get()).and_then(|own| own.attention_window),
                scores: Scores { scale: spec.score_scale(layer), softcap: spec.attention_softcap },
            },
            rotary: spec.rotary(layer),
        })
    }

    /// \[B, T, H\] → \[B, T, H\], the tokens standing after what `before` says. The documents of a packed
    /// table do not see each other.
    pub(crate) fn forward(
        &self,
        x: Tensor<3>,
        rotary: &RotaryTable,
        before: Before<'_>,
    ) -> Tensor<3> {
        let heads = |x: Tensor<3>, norm: &Option<NormScaling>| match norm {
            None => x,
            Some(norm) if norm.width() == x.dims()[2] => norm.forward(x),
            Some(norm) => {
                let [b, t, width] = x.dims();
                let per_head = x.reshape([b, t, width / self.shape.head_dim, self.shape.head_dim]);
                norm.forward(per_head).reshape([b, t, width])
            }
        };
        let Entering { queries, keys_and_values, rotary_keys } = match &self.latents {
            Some(latents) => latents.forward(x),
            None => Entering { queries: x.clone(), keys_and_values: x, rotary_keys: None },
        };
        let projected = Projected {
            q: heads(self.q_proj.forward(queries), &self.q_norm),
            k: heads(self.k_proj.forward(keys_and_values.clone()), &self.k_norm),
            v: self.v_proj.forward(keys_and_values),
            rotary_keys,
        };
        let mixed = match before {
            Before::Nothing => self.mix(projected, rotary, None),
            Before::Cache(cache) => self.mix(projected, rotary, Some(cache)),
            Before::Segments(segments) => through_segments(
                segments,
                |first, count| projected.rows(first, count),
                |own, cache| self.mix(own, rotary, Some(cache)),
            ),
        };
        self.o_proj.forward(mixed)
    }

    /// What each token takes from those it sees, \[B, T, heads · value width\].
    fn mix(
        &self,
        Projected { q, k, v, rotary_keys }: Projected,
        rotary: &RotaryTable,
        cache: Option<&mut LayerCache>,
    ) -> Tensor<3> {
        let start = cache.as_ref().map_or(0, |cache| cache.len());
        let turned = |x: Tensor<3>| match self.rotary {
            Rotary::Main => rotate(x, rotary, start),
            Rotary::Local => rotate(x, rotary.local(), start),
            Rotary::None => x,
        };
        let q = turned(q);
        let k = match rotary_keys {
            Some(part) => self.with_rotary_part(k, part, rotary, start),
            None => turned(k),
        };
        let (k, v) = match cache {
            Some(cache) => cache.append(k, v),
            None => (k, v),
        };
        let sinks = self.sinks.as_ref().map(Param::val);
        attention(q, k, v, &self.shape, sinks, rotary.documents())
    }

    /// Gives every head's key, \[B, T, heads · (D − R)\], the part that all of them share, \[B, T, R\], turned.
    fn with_rotary_part(
        &self,
        keys: Tensor<3>,
        part: Tensor<3>,
        rotary: &RotaryTable,
        start: usize,
    ) -> Tensor<3> {
        let ([b, t, width], [_, _, turned]) = (keys.dims(), part.dims());
        let (heads, head_dim) = (self.shape.heads, self.shape.head_dim);
        let part = rotate(part, &rotary.clone().for_heads_of(turned), start);
        let part = part.reshape([b, t, 1, turned]).expand([b, t, heads, turned]);
        let keys = keys.reshape([b, t, heads, width / heads]);
        Tensor::cat(vec![keys, part], 3).reshape([b, t, heads * head_dim])
    }

    /// Every matrix.
    pub(crate) fn projections(&mut self) -> impl Iterator<Item = &mut Projection> {
        let latents = self.latents.iter_mut().flat_map(|latents| {
            let queries = latents.queries.iter_mut().map(|latent| &mut latent.proj);
            queries.chain([&mut latents.keys_and_values.proj, &mut latents.rotary_keys])
        });
        latents.chain([&mut self.q_proj, &mut self.k_proj, &mut self.v_proj, &mut self.o_proj])
    }
}

/// Queries, keys and values before they are turned, each \[B, T, its width\].
struct Projected {
    q: Tensor<3>,
    k: Tensor<3>,
    v: Tensor<3>,
    /// The part of all heads' keys that is to be turned.
    rotary_keys: Option<Tensor<3>>,
}

impl Projected {
    /// `count` tokens from token `first` on.
    fn rows(&self, first: usize, count: usize) -> Self {
        let rows = |x: &Tensor<3>| x.clone().narrow(1, first, count);
        Self {
            q: rows(&self.q),
            k: rows(&self.k),
            v: rows(&self.v),
            rotary_keys: self.rotary_keys.as_ref().map(rows),
        }
    }
}
