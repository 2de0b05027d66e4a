//! Between Pre-LN and LayerNorm Scaling without changing the function, in memory.
//!
//! γ·√ℓ with the scale computes what γ computes without it (and γ/√ℓ without computes what γ does
//! with it), so the two conversions are exact up to rounding.

use std::sync::Arc;

use lns_spec::{DepthScale, NormScheme, Placement, Site};

use crate::Decoder;

/// Why a conversion does not apply.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message names its fields")]
pub enum ConversionError {
    #[error("the scheme is {scheme}; only a `pre` model can take LayerNorm Scaling")]
    NotPreNorm { scheme: String },
    #[error("the scheme is {scheme}; only an `lns` model folds into a plain one")]
    NotScaled { scheme: String },
}

impl Decoder {
    /// The same function with LayerNorm Scaling: γ_ℓ ← γ_ℓ · ℓ^exponent, and the scale switched on.
    /// What changes is how the model trains from here.
    ///
    /// ```no_run
    /// use std::path::Path;
    ///
    /// use burn::tensor::Device;
    /// use layernorm_scaling::Decoder;
    /// use lns_checkpoint::Checkpoint;
    /// use lns_spec::DepthScale;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let checkpoint = Checkpoint::open(Path::new("SmolLM2-135M"))?;
    /// let model = Decoder::from_checkpoint(&checkpoint, &Device::flex())?;
    /// let model = model.with_layernorm_scaling(DepthScale::default())?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ConversionError::NotPreNorm`] when the model is not plain Pre-LN.
    pub fn with_layernorm_scaling(self, scale: DepthScale) -> Result<Self, ConversionError> {
        match self.spec.norm_scheme {
            NormScheme::Pre {} => Ok(self.with_scheme(NormScheme::Lns(scale))),
            _ => Err(ConversionError::NotPreNorm { scheme: self.spec.norm_scheme.to_string() }),
        }
    }

    /// The same function as plain Pre-LN: γ_ℓ ← γ_ℓ · ℓ^(-exponent), the scale gone.
    ///
    /// # Errors
    /// [`ConversionError::NotScaled`] when the model has no LayerNorm Scaling to fold.
    pub fn fold(self) -> Result<Self, ConversionError> {
        match self.spec.norm_scheme {
            NormScheme::Lns(DepthScale { placement: Placement::Output, .. }) => {
                Ok(self.with_scheme(NormScheme::Pre {}))
            }
            _ => Err(ConversionError::NotScaled { scheme: self.spec.norm_scheme.to_string() }),
        }
    }

    fn with_scheme(mut self, scheme: NormScheme) -> Self {
        let before = self.spec.clone();
        let after = Arc::new(lns_spec::ModelSpec { norm_scheme: scheme, ..(*before).clone() });
        self.layers = before
            .layers()
            .zip(self.layers)
            .map(|(index, layer)| {
                [Site::Attention, Site::Mlp].into_iter().fold(layer, |layer, site| {
                    let (old, new) = (before.residual(index, site), after.residual(index, site));
                    layer.with_rule(site, new, old.output_scale() / new.output_scale())
                })
            })
            .collect();
        self.spec = after;
        self
    }
}
