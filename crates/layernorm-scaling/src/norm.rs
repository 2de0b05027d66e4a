//! The norm layers: drop-in replacements for Burn's `RmsNorm` and `LayerNorm` whose output is
//! multiplied by ℓ^(-exponent) (arXiv 2502.05795, eq. 12).
//!
//! The scale is a constant of the layer. It is not a tensor, so no reload, re-initialisation or
//! device move can lose it, and it is no part of a saved record.

use burn::{
    config::Config,
    module::{Module, Param},
    tensor::{Device, Tensor},
};
use lns_kernels::{add_rms_norm, layer_norm, rms_norm};
use lns_spec::{DepthScale, LayerIndex, NormKind};

/// Builds an [`RmsNormScaling`].
///
/// `layer_idx` is 0-based: layer 0 is scaled by exactly 1, layer 3 by 1/√4.
#[derive(Config, Debug)]
pub struct RmsNormScalingConfig {
    /// Features of the input.
    pub d_model: usize,
    /// 0-based index of the layer the norm belongs to.
    pub layer_idx: usize,
    /// Added to the mean square.
    #[config(default = 1e-6)]
    pub epsilon: f64,
    /// Power of ℓ; ½ in the paper, 0 for a plain norm.
    #[config(default = 0.5)]
    pub exponent: f64,
}

impl RmsNormScalingConfig {
    /// A norm with gain 1.
    pub fn init(&self, device: &Device) -> RmsNormScaling {
        let gamma = Tensor::ones([self.d_model], device);
        RmsNormScaling::new(gamma, self.epsilon, scale(self.layer_idx, self.exponent))
    }
}

/// Builds a [`LayerNormScaling`].
#[derive(Config, Debug)]
pub struct LayerNormScalingConfig {
    /// Features of the input.
    pub d_model: usize,
    /// 0-based index of the layer the norm belongs to.
    pub layer_idx: usize,
    /// Added to the variance.
    #[config(default = 1e-5)]
    pub epsilon: f64,
    /// Power of ℓ; ½ in the paper, 0 for a plain norm.
    #[config(default = 0.5)]
    pub exponent: f64,
    /// Whether there is a bias β. It is scaled with the rest of the output.
    #[config(default = true)]
    pub bias: bool,
}

impl LayerNormScalingConfig {
    /// A norm with gain 1 and bias 0.
    pub fn init(&self, device: &Device) -> LayerNormScaling {
        let bias = || Param::from_tensor(Tensor::zeros([self.d_model], device));
        LayerNormScaling {
            gamma: Param::from_tensor(Tensor::ones([self.d_model], device)),
            beta: self.bias.then(bias),
            epsilon: self.epsilon,
            scale: scale(self.layer_idx, self.exponent),
        }
    }
}

fn scale(layer_idx: usize, exponent: f64) -> f64 {
    DepthScale { exponent, ..DepthScale::default() }.factor(LayerIndex::new(layer_idx).depth())
}

/// x / √(mean(x²) + eps) · γ · scale
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use layernorm_scaling::RmsNormScalingConfig;
///
/// let device = Device::default();
/// let norm = RmsNormScalingConfig::new(64, 3).init(&device); // layer 3: ℓ = 4, scale ½
/// let y = norm.forward(Tensor::<3>::ones([2, 5, 64], &device));
/// assert_eq!(y.dims(), [2, 5, 64]);
/// assert_eq!(norm.scale(), 0.5);
/// ```
#[derive(Module, Debug)]
pub struct RmsNormScaling {
    /// Gain, \[d_model\].
    pub gamma: Param<Tensor<1>>,
    #[module(skip)]
    epsilon: f64,
    #[module(skip)]
    scale: f64,
}

impl RmsNormScaling {
    /// A norm with the given gain, \[d_model\], and any constant scale.
    pub fn new(gamma: Tensor<1>, epsilon: f64, scale: f64) -> Self {
        Self { gamma: Param::from_tensor(gamma), epsilon, scale }
    }

    /// Normalises the last dimension of `x`, \[…, d_model\].
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        rms_norm(x, self.gamma.val(), self.epsilon, self.scale)
    }

    /// `stream` + `branch`, and that sum normalised: what [`forward`](Self::forward) gives of it, in
    /// one pass over both.
    pub fn forward_sum<const D: usize>(
        &self,
        stream: Tensor<D>,
        branch: Tensor<D>,
    ) -> (Tensor<D>, Tensor<D>) {
        add_rms_norm(stream, branch, self.gamma.val(), self.epsilon, self.scale)
    }

    /// The constant that multiplies the output.
    pub fn scale(&self) -> f64 {
        self.scale
    }
}

/// ((x − mean) / √(variance + eps) · γ + β) · scale
#[derive(Module, Debug)]
pub struct LayerNormScaling {
    /// Gain, \[d_model\].
    pub gamma: Param<Tensor<1>>,
    /// Bias, \[d_model\].
    pub beta: Option<Param<Tensor<1>>>,
    #[module(skip)]
    epsilon: f64,
    #[module(skip)]
    scale: f64,
}

impl LayerNormScaling {
    /// Normalises the last dimension of `x`, \[…, d_model\].
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let beta = self.beta.as_ref().map(Param::val);
        layer_norm(x, self.gamma.val(), beta, self.epsilon, self.scale)
    }

    /// The constant that multiplies the output.
    pub fn scale(&self) -> f64 {
        self.scale
    }
}

/// The norm that a model's layers have: [`RmsNormScaling`] or [`LayerNormScaling`].
#[derive(Module, Debug)]
pub struct NormScaling {
    /// Gain, \[d_model\].
    pub gamma: Param<Tensor<1>>,
    /// Bias of a layer norm, \[d_model\].
    pub beta: Option<Param<Tensor<1>>>,
    #[module(skip)]
    kind: NormKind,
    #[module(skip)]
    epsilon: f64,
    #[module(skip)]
    scale: f64,
}

impl NormScaling {
    /// A norm of a kind with the given gain and bias, \[d_model\], and any constant scale. The gain is
    /// γ itself, however files store it.
    pub fn new(
        kind: NormKind,
        gamma: Tensor<1>,
        beta: Option<Tensor<1>>,
        epsilon: f64,
        scale: f64,
    ) -> Self {
        let (gamma, beta) = (Param::from_tensor(gamma), beta.map(Param::from_tensor));
        Self { gamma, beta, kind, epsilon, scale }
    }

    /// Normalises the last dimension of `x`, \[…, d_model\].
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match self.kind {
            NormKind::Rms | NormKind::RmsPlusOne => {
                rms_norm(x, self.gamma.val(), self.epsilon, self.scale)
            }
            NormKind::LayerNorm => {
                let beta = self.beta.as_ref().map(Param::val);
                layer_norm(x, self.gamma.val(), beta, self.epsilon, self.scale)
            }
        }
    }

    /// `stream` + `branch`, and that sum normalised: what [`forward`](Self::forward) gives of it.
    pub fn forward_sum<const D: usize>(
        &self,
        stream: Tensor<D>,
        branch: Tensor<D>,
    ) -> (Tensor<D>, Tensor<D>) {
        match self.kind {
            NormKind::Rms | NormKind::RmsPlusOne => {
                add_rms_norm(stream, branch, self.gamma.val(), self.epsilon, self.scale)
            }
            NormKind::LayerNorm => {
                let sum = stream + branch;
                (sum.clone(), self.forward(sum))
            }
        }
    }

    /// Features.
    pub fn width(&self) -> usize {
        self.gamma.val().dims()[0]
    }

    /// The constant that multiplies the output.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// Gives it another scale, gain and bias being multiplied by `gain`.
    pub(crate) fn rescale(&mut self, scale: f64, gain: f64) {
        if gain != 1.0 {
            let scaled = |tensor: Tensor<1>| tensor.mul_scalar(gain);
            self.gamma = self.gamma.clone().map(scaled);
            self.beta = self.beta.take().map(|beta| beta.map(scaled));
        }
        self.scale = scale;
    }
}

/// [`RmsNormScaling`] as a function: the RMS norm of the last dimension times 1/√(layer_idx + 1).
///
/// `x`: \[…, width\], `gamma`: \[width\].
pub fn rms_norm_scaling<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    epsilon: f64,
    layer_idx: usize,
) -> Tensor<D> {
    rms_norm(x, gamma, epsilon, scale(layer_idx, 0.5))
}

/// [`LayerNormScaling`] as a function: the layer norm of the last dimension times
/// 1/√(layer_idx + 1).
///
/// `x`: \[…, width\], `gamma` and `beta`: \[width\].
pub fn layer_norm_scaling<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Option<Tensor<1>>,
    epsilon: f64,
    layer_idx: usize,
) -> Tensor<D> {
    layer_norm(x, gamma, beta, epsilon, scale(layer_idx, 0.5))
}
