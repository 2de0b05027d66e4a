//! Grouped-query self-attention with rotary positions.
//!
//! Shapes: B sequences, T tokens, H = hidden_size, D = head_dim.

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};
use lns_kernels::{AttentionShape, RotaryTable, Scores, causal_attention, rotate};
use lns_spec::{LayerIndex, ModelSpec, Part, Role, RopeFrequencies, RopeSpec, Rotary};

use crate::{
    LayerCache, NormScaling, Projection,
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
    };
    of(&spec.rope).with_local(spec.local_rope.as_ref().map(of))
}

/// Causal grouped-query self-attention with rotary positions.
#[derive(Module, Debug)]
pub struct SelfAttention {
    /// H → heads · D
    pub q_proj: Projection,
    /// H → key_value_heads · D
    pub k_proj: Projection,
    /// H → key_value_heads · D
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
        Ok(Self {
            q_proj: Projection::build(builder, Role::Query)?,
            k_proj: Projection::build(builder, Role::Key)?,
            v_proj: Projection::build(builder, Role::Value)?,
            o_proj: Projection::build(builder, Role::AttentionOutput)?,
            q_norm: builder.norm(Role::QueryNorm, eps, 1.0)?,
            k_norm: builder.norm(Role::KeyNorm, eps, 1.0)?,
            sinks: builder.optional(Role::Sinks, Part::Weight)?.map(Param::from_tensor),
            shape: AttentionShape {
                heads: spec.num_attention_heads,
                key_value_heads: spec.num_key_value_heads,
                head_dim: spec.head_dim,
                window: spec.per_layer.get(layer.get()).and_then(|own| own.attention_window),
                scores: Scores { scale: spec.score_scale(layer), softcap: spec.attention_softcap },
            },
            rotary: spec.rotary(layer),
        })
    }

    /// \[B, T, H\] → \[B, T, H\]; with a cache, the T tokens follow those in it. The documents of a
    /// packed table do not see each other.
    pub(crate) fn forward(
        &self,
        x: Tensor<3>,
        rotary: &RotaryTable,
        cache: Option<&mut LayerCache>,
    ) -> Tensor<3> {
        let start = cache.as_ref().map_or(0, |cache| cache.len());
        let heads = |x: Tensor<3>, norm: &Option<NormScaling>| match norm {
            None => x,
            Some(norm) if norm.width() == x.dims()[2] => norm.forward(x),
            Some(norm) => {
                let [b, t, width] = x.dims();
                let per_head = x.reshape([b, t, width / self.shape.head_dim, self.shape.head_dim]);
                norm.forward(per_head).reshape([b, t, width])
            }
        };
        let turned = |x: Tensor<3>| match self.rotary {
            Rotary::Main => rotate(x, rotary, start),
            Rotary::Local => rotate(x, rotary.local(), start),
            Rotary::None => x,
        };
        let q = turned(heads(self.q_proj.forward(x.clone()), &self.q_norm));
        let k = turned(heads(self.k_proj.forward(x.clone()), &self.k_norm));
        let v = self.v_proj.forward(x);
        let (k, v) = match cache {
            Some(cache) => cache.append(k, v),
            None => (k, v),
        };
        self.o_proj.forward(causal_attention(
            q,
            k,
            v,
            &self.shape,
            self.sinks.as_ref().map(Param::val),
            rotary.documents(),
        ))
    }
}
