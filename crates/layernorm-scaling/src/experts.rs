//! Experts in the place of an MLP: a router chooses some of them for each token (Shazeer et al., arXiv
//! 1701.06538; Mixtral, arXiv 2401.04088), perhaps beside one that computes all (DeepSeek-V2, arXiv
//! 2405.04434, §2.2).
//!
//! Shapes: N tokens, E experts, k of them for each token, H = hidden_size.

use std::{fmt::Debug, sync::Arc};

use burn::{
    module::{Module, Param},
    tensor::{
        Int, Tensor, TensorData,
        activation::{sigmoid, softmax},
    },
};
use lns_kernels::{Precision, mixture};
use lns_spec::{ExpertsSpec, ModelSpec, Part, Role, Router};

use crate::{
    Mlp, Projection,
    weights::{Builder, Weights},
};

/// The experts of a layer where they are not all held in memory: each is asked for when a token is sent to
/// it, from several threads at once.
pub trait ExpertSource: Debug + Send + Sync {
    /// One expert, or `None` where it cannot be had. What it would have computed is NaN then; it is for the
    /// source to say why to those that run the model.
    fn expert(&self, expert: usize) -> Option<Mlp>;
}

/// Σ weight · MLP(x) over the k experts that the router chooses for x, and what the shared experts make of it.
#[derive(Module, Debug)]
pub struct Experts {
    /// H → a score for each expert
    pub router: Projection,
    /// What is added to the experts' shares to choose, \[E\]; it has no gradient.
    pub correction: Option<Param<Tensor<1>>>,
    /// The experts; none where they come from a source.
    pub each: Vec<Mlp>,
    /// The experts that compute every token, side by side as one MLP.
    pub shared: Option<Mlp>,
    #[module(skip)]
    source: Option<Arc<dyn ExpertSource>>,
    #[module(skip)]
    precision: Precision,
    #[module(skip)]
    spec: ExpertsSpec,
}

/// Who computes which token.
struct Routing {
    /// The weights of a token's experts, the largest first. \[N, k\]
    weights: Tensor<2>,
    /// Those experts: rank r of token n at n · k + r.
    chosen: Vec<usize>,
}

impl Experts {
    pub(crate) fn build<W: Weights>(
        spec: &ModelSpec,
        experts: ExpertsSpec,
        builder: &mut Builder<'_, W>,
    ) -> Result<Self, W::Error> {
        let router = Projection::build(builder, Role::Router)?;
        let source = builder.expert_source();
        let held = if source.is_some() { 0 } else { experts.count };
        let each = (0..held)
            .map(|expert| builder.of_expert(expert, |builder| Mlp::build(spec, Role::MLP, builder)))
            .collect::<Result<_, _>>()?;
        let correction = builder.optional(Role::RouterCorrection, Part::Bias)?;
        let shared = match experts.shared_intermediate_size {
            Some(_) => Some(Mlp::build(spec, Role::SHARED_MLP, builder)?),
            None => None,
        };
        let correction = correction.map(|added| Param::from_tensor(added).set_require_grad(false));
        let precision = Precision::F32;
        Ok(Self { router, correction, each, shared, source, precision, spec: experts })
    }

    /// \[B, T, H\] → \[B, T, H\]. Each expert computes its own tokens only; a token's sum is taken in the
    /// order of its experts' weights, so that it does not depend on the tokens beside it.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let shape = x.dims();
        let [b, t, hidden] = shape;
        let tokens = x.clone().reshape([b * t, hidden]);
        let Routing { weights, chosen } = self.route(tokens.clone());
        let expert = |expert| Some(self.expert(expert, false)?.tensors());
        let fused = match self.precision {
            Precision::F32 => mixture(&tokens, &weights, &chosen, &expert),
            Precision::Bf16 => None,
        };
        let sum = fused.unwrap_or_else(|| self.one_by_one(tokens, weights, &chosen)).reshape(shape);
        match &self.shared {
            Some(shared) => sum + shared.forward(x),
            None => sum,
        }
    }

    /// The sums over the tokens' experts, \[N, H\], one expert after another.
    fn one_by_one(&self, tokens: Tensor<2>, weights: Tensor<2>, chosen: &[usize]) -> Tensor<2> {
        let ([n, hidden], k) = (tokens.dims(), self.spec.per_token);
        let device = tokens.device();
        let indices = |list: Vec<i32>| {
            let length = list.len();
            Tensor::<1, Int>::from_data(TensorData::new(list, [length]), &device)
        };
        let mut outputs = Vec::new();
        // Where in `outputs` what an expert made of a token is, by rank and token as in `chosen`.
        let mut places = vec![0; chosen.len()];
        let mut filled = 0;
        for (expert, own) in self.of_each(chosen).into_iter().enumerate() {
            if own.is_empty() {
                continue;
            }
            for place in &own {
                places[*place] = filled;
                filled += 1;
            }
            let rows = indices(own.iter().map(|place| (place / k) as i32).collect());
            let own = tokens.clone().select(0, rows);
            outputs.push(match self.expert(expert, device.is_autodiff()) {
                Some(expert) => expert.forward(own),
                None => own.full_like(f32::NAN),
            });
        }
        let by_token = Tensor::cat(outputs, 0).select(0, indices(places));
        (by_token.reshape([n, k, hidden]) * weights.unsqueeze_dim(2)).sum_dim(1).squeeze_dim(1)
    }

    /// Who computes which token of \[B, T, H\]: k experts for each, that of the largest weight first.
    pub fn chosen(&self, x: Tensor<3>) -> Vec<usize> {
        let [b, t, hidden] = x.dims();
        self.route(x.reshape([b * t, hidden])).chosen
    }

    /// How many there are.
    pub const fn count(&self) -> usize {
        self.spec.count
    }

    /// The experts with the products of their projections in another precision.
    pub(crate) fn with_precision(self, precision: Precision) -> Self {
        let each = self.each.into_iter().map(|expert| expert.with_precision(precision)).collect();
        let shared = self.shared.map(|shared| shared.with_precision(precision));
        Self { each, shared, precision, ..self }
    }

    /// One of them, of a source as constants where gradients are taken.
    fn expert(&self, expert: usize, autodiff: bool) -> Option<Mlp> {
        let Some(source) = &self.source else { return self.each.get(expert).cloned() };
        let found = source.expert(expert)?.with_precision(self.precision);
        Some(if autodiff { found.no_grad().train() } else { found })
    }

    fn route(&self, tokens: Tensor<2>) -> Routing {
        let ([n, _], k) = (tokens.dims(), self.spec.per_token);
        let scores = self.router.forward(tokens);
        let shares = match self.spec.router {
            Router::Softmax | Router::SoftmaxRenormalised => softmax(scores, 1),
            Router::Sigmoid | Router::SigmoidRenormalised => sigmoid(scores),
        };
        let plain = |x: Tensor<1>| x.detach().into_data().iter::<f32>().collect::<Vec<_>>();
        let values = plain(shares.clone().flatten(0, 1));
        let correction = self.correction.as_ref().map(|added| plain(added.val()));
        let mut chosen = Vec::with_capacity(n * k);
        for row in values.chunks_exact(self.spec.count) {
            chosen.extend(self.spec.choose(row, correction.as_deref()));
        }
        let list: Vec<i32> = chosen.iter().map(|expert| *expert as i32).collect();
        let indices = Tensor::<2, Int>::from_data(TensorData::new(list, [n, k]), &shares.device());
        let weights = shares.gather(1, indices);
        let weights = match self.spec.router {
            Router::Softmax | Router::Sigmoid => weights,
            Router::SoftmaxRenormalised => weights.clone() / weights.sum_dim(1),
            // A sigmoid may be so small that the sum is 0; the reference adds the same.
            Router::SigmoidRenormalised => weights.clone() / weights.sum_dim(1).add_scalar(1e-20),
        };
        let weights = match self.spec.scale {
            1.0 => weights,
            scale => weights.mul_scalar(scale),
        };
        Routing { weights, chosen }
    }

    /// For each expert, where in `chosen` it stands, in order.
    fn of_each(&self, chosen: &[usize]) -> Vec<Vec<usize>> {
        let mut of_each = vec![Vec::new(); self.spec.count];
        for (place, expert) in chosen.iter().enumerate() {
            of_each[*expert].push(place);
        }
        of_each
    }
}
