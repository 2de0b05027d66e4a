//! Between Pre-LN and LayerNorm Scaling, in memory.
//!
//! γ·√ℓ with the scale computes what γ computes without it (and γ/√ℓ without computes what γ does
//! with it), so these conversions are exact up to rounding; [`Retrofit::Replace`] is not one of them.

use std::sync::Arc;

use lns_spec::{Anneal, ConversionError, DepthScale, Gains, ModelSpec, NormScheme, Role, Site};

use crate::Decoder;

/// How a trained Pre-LN model takes LayerNorm Scaling.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Retrofit {
    /// γ_ℓ ← γ_ℓ·ℓ^e together with the scale: the function stays, and from here on the model trains
    /// as one with LayerNorm Scaling does.
    #[default]
    Preserve,
    /// The scale alone: the function changes, and more so the deeper the model.
    Replace,
    /// The gains stay, and the scale is brought in over the first steps of a fine-tune.
    Anneal {
        /// Steps it takes.
        steps: u64,
    },
}

impl Retrofit {
    /// Its name on the command line and in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Preserve => "preserve",
            Self::Replace => "replace",
            Self::Anneal { .. } => "anneal",
        }
    }

    /// The scale that the model begins with, and what happens to its gains.
    pub fn begin(self, scale: DepthScale) -> (DepthScale, Gains) {
        match self {
            Self::Preserve => (scale, Gains::Compensated),
            Self::Replace => (scale, Gains::Kept),
            Self::Anneal { steps } => {
                let anneal = Some(Anneal { exponent: scale.exponent, steps });
                (DepthScale { exponent: 0.0, anneal, ..scale }, Gains::Kept)
            }
        }
    }
}

/// Gives a trained Pre-LN model LayerNorm Scaling: [`Retrofit::Preserve`] with the paper's ℓ^-½ is
/// `apply_curse_of_depth_mitigation(model, Retrofit::default(), DepthScale::default())`.
///
/// ```no_run
/// use std::path::Path;
///
/// use burn::tensor::Device;
/// use lns_model::{Decoder, Retrofit, apply_curse_of_depth_mitigation};
/// use lns_checkpoint::Checkpoint;
/// use lns_spec::DepthScale;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let checkpoint = Checkpoint::open(Path::new("SmolLM2-135M"))?;
/// let model = Decoder::from_checkpoint(&checkpoint, &Device::default())?;
/// let model =
///     apply_curse_of_depth_mitigation(model, Retrofit::Preserve, DepthScale::default())?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`ConversionError`] when the model is not plain Pre-LN, or the scale does not fit it.
pub fn apply_curse_of_depth_mitigation(
    model: Decoder,
    mode: Retrofit,
    scale: DepthScale,
) -> Result<Decoder, ConversionError> {
    let (scale, gains) = mode.begin(scale);
    let spec = model.spec.with_layernorm_scaling(scale)?;
    Ok(model.with_spec(spec, gains))
}

impl Decoder {
    /// The same function with LayerNorm Scaling: γ_ℓ ← γ_ℓ · ℓ^exponent, and the scale switched on.
    /// What changes is how the model trains from here.
    ///
    /// # Errors
    /// As [`apply_curse_of_depth_mitigation`].
    pub fn with_layernorm_scaling(self, scale: DepthScale) -> Result<Self, ConversionError> {
        apply_curse_of_depth_mitigation(self, Retrofit::Preserve, scale)
    }

    /// The same function as plain Pre-LN (or a plain sandwich): γ_ℓ ← γ_ℓ · ℓ^(-exponent), the scale gone.
    ///
    /// # Errors
    /// [`ConversionError::NotScaled`] when the model has no LayerNorm Scaling to fold.
    pub fn fold(self) -> Result<Self, ConversionError> {
        let NormScheme::Lns(_) = self.spec.norm_scheme else {
            let (scheme, is_own) = (self.spec.norm_scheme.to_string(), self.spec.is_stock());
            return Err(ConversionError::NotScaled { scheme, is_own });
        };
        let folded = self.spec.folded()?;
        let per_layer = self.spec.per_layer.clone();
        Ok(self.with_spec(ModelSpec { per_layer, ..folded }, Gains::Compensated))
    }

    /// Brings a scheme that training moves to where it is after training step `step`.
    pub fn at_step(self, step: u64) -> Self {
        match self.spec.norm_scheme.at_step(step, self.spec.trained_layers) {
            Some(norm_scheme) => {
                let spec = ModelSpec { norm_scheme, ..(*self.spec).clone() };
                self.with_spec(spec, Gains::Kept)
            }
            None => self,
        }
    }

    /// The model under another depth scale.
    fn with_spec(mut self, after: ModelSpec, gains: Gains) -> Self {
        let before = self.spec.clone();
        self.layers = before
            .layers()
            .zip(self.layers)
            .map(|(index, layer)| {
                Site::ALL.into_iter().fold(layer, |layer, site| {
                    let roles = [Role::InputNorm(site), Role::OutputNorm(site)];
                    let factors = roles.map(|role| match gains {
                        Gains::Compensated => before.gain_factor(&after, index, role),
                        Gains::Kept => 1.0,
                    });
                    layer.with_rule(site, after.branch(index, site), factors)
                })
            })
            .collect();
        self.spec = Arc::new(after);
        self
    }
}
