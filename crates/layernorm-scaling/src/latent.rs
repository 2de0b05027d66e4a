//! Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, §2.1): queries, keys and values are made of a few
//! features of each token, and the part of the keys that is turned is made once for all heads.
//!
//! Shapes: B sequences, T tokens, H = hidden_size, R features of a head that are turned.

use burn::{module::Module, tensor::Tensor};
use lns_spec::{LatentSpec, Role};

use crate::{
    NormScaling, Projection,
    weights::{Builder, Weights},
};

/// What queries, keys and values are made of in latent attention. The norms on it are no norms of the branch: no
/// scheme scales them.
#[derive(Module, Debug)]
pub struct Latents {
    /// What queries are made of; `None` is the stream.
    pub queries: Option<Latent>,
    /// What keys and values are made of.
    pub keys_and_values: Latent,
    /// H → R
    pub rotary_keys: Projection,
}

/// A few features of each token, and the norm on them.
#[derive(Module, Debug)]
pub struct Latent {
    /// H → rank
    pub proj: Projection,
    /// \[rank\]
    pub norm: NormScaling,
}

/// What the projections to queries, keys and values read.
pub(crate) struct Entering {
    pub(crate) queries: Tensor<3>,
    pub(crate) keys_and_values: Tensor<3>,
    /// The part of all heads' keys that is to be turned, \[B, T, R\].
    pub(crate) rotary_keys: Option<Tensor<3>>,
}

impl Latents {
    pub(crate) fn build<W: Weights>(builder: &mut Builder<'_, W>) -> Result<Self, W::Error> {
        let queries = Latent::build(Role::QueryLatent, Role::QueryLatentNorm, builder)?;
        let keys_and_values =
            match Latent::build(Role::KeyValueLatent, Role::KeyValueLatentNorm, builder)? {
                Some(latent) => latent,
                None => unreachable!("latent attention has a latent of keys and values"),
            };
        let rotary_keys = Projection::build(builder, Role::RotaryKey)?;
        Ok(Self { queries, keys_and_values, rotary_keys })
    }

    pub(crate) fn forward(&self, x: Tensor<3>) -> Entering {
        Entering {
            queries: match &self.queries {
                Some(latent) => latent.forward(x.clone()),
                None => x.clone(),
            },
            keys_and_values: self.keys_and_values.forward(x.clone()),
            rotary_keys: Some(self.rotary_keys.forward(x)),
        }
    }
}

impl Latent {
    /// `None` if the model has no such norm.
    fn build<W: Weights>(
        proj: Role,
        norm: Role,
        builder: &mut Builder<'_, W>,
    ) -> Result<Option<Self>, W::Error> {
        let Some(norm) = builder.norm(norm, LatentSpec::NORM_EPS, 1.0)? else { return Ok(None) };
        Ok(Some(Self { proj: Projection::build(builder, proj)?, norm }))
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.norm.forward(self.proj.forward(x))
    }
}
