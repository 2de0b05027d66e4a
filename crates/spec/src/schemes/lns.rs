//! LayerNorm Scaling, x + F(N(x)·ℓ^-½): the output of both norms of layer ℓ times 1/√ℓ, after gain and
//! bias (arXiv 2502.05795, eq. 12). In a sandwich, x + N₂(F(N₁(x)))·ℓ^-½: what N₁ gives is normalised
//! again by N₂, which forgets a scale, so the norm whose output reaches the stream is the one to scale.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{NormScheme, Place, Scheme, at_least_one, within_eight};
use crate::{Branch, BranchGate, Depth, InputNorm, Sites};

/// Where the depth scale stands relative to the norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// On the norm's output, after gain and bias: LayerNorm Scaling.
    #[default]
    Output,
    /// On the norm's input. Up to eps this is plain Pre-LN, because a norm forgets its input's
    /// scale: the "before LN" row of the paper's Table 8, useful as a probe of run-to-run noise.
    Input,
}

/// The norms of a branch, and which of them is scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Block {
    /// x + F(scale · N(x))
    #[default]
    Pre,
    /// x + scale · N₂(F(N₁(x)))
    Sandwich,
    /// x + N₂(F(scale · N₁(x))): what of the scale F's activation does not pass on, N₂ forgets.
    SandwichInput,
}

/// The multiplier ℓ^(-exponent) of LayerNorm Scaling; ½ in the paper.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DepthScale {
    /// Power of ℓ, as a positive number: ½ means 1/√ℓ.
    #[serde(default = "half", deserialize_with = "within_eight")]
    pub exponent: f64,
    /// Which of a layer's two norms are scaled.
    #[serde(default = "both")]
    pub sites: Sites,
    /// Before or after the norm.
    #[serde(default)]
    pub placement: Placement,
    /// Which norms a branch has, and which of them is scaled.
    #[serde(default, skip_serializing_if = "is_pre")]
    pub block: Block,
    /// The layers before this one (0-based, counted before any pruning) are not scaled.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub first_layer: u32,
    /// Where the exponent is going, if training is to move it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anneal: Option<Anneal>,
}

/// A scale that is brought in step by step: after training step s of a fine-tune the exponent is
/// `exponent` · s/`steps`, and from step `steps` on it stays `exponent`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Anneal {
    /// The exponent at the end.
    #[serde(deserialize_with = "within_eight")]
    pub exponent: f64,
    /// Steps it takes, at least 1.
    #[serde(deserialize_with = "at_least_one")]
    pub steps: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_pre(block: &Block) -> bool {
    *block == Block::Pre
}

fn half() -> f64 {
    0.5
}

fn both() -> Sites {
    Sites::BOTH
}

impl Default for DepthScale {
    fn default() -> Self {
        Self {
            exponent: half(),
            sites: Sites::BOTH,
            placement: Placement::Output,
            block: Block::Pre,
            first_layer: 0,
            anneal: None,
        }
    }
}

impl DepthScale {
    /// ℓ^(-exponent); exactly 1 at ℓ = 1 and before [`first_layer`](Self::first_layer), and exactly
    /// `1/ℓ.sqrt()` for the default exponent.
    pub fn factor(&self, depth: Depth) -> f64 {
        if depth.get() <= self.first_layer {
            1.0
        } else if self.exponent == 0.5 {
            1.0 / depth.value().sqrt()
        } else {
            depth.value().powf(-self.exponent)
        }
    }

    /// The scale after training step `step`, while it is being annealed; itself if it is not.
    #[must_use]
    pub fn at_step(self, step: u64) -> Self {
        match self.anneal {
            None => self,
            Some(Anneal { exponent, steps }) if step >= steps => {
                Self { exponent, anneal: None, ..self }
            }
            Some(Anneal { exponent, steps }) => {
                Self { exponent: exponent * step as f64 / steps as f64, ..self }
            }
        }
    }
}

impl Scheme for DepthScale {
    fn branch(&self, place: Place) -> Branch {
        let plain = match self.block {
            Block::Pre => Branch::PRE,
            Block::Sandwich | Block::SandwichInput => Branch::SANDWICH,
        };
        if !self.sites.contains(place.site) {
            return plain;
        }
        let factor = self.factor(place.depth);
        if self.block == Block::Sandwich {
            return Branch { gate: BranchGate::Constant(factor), ..plain };
        }
        let input_norm = Some(match self.placement {
            Placement::Output => InputNorm { output_scale: factor, ..InputNorm::PLAIN },
            Placement::Input => InputNorm { input_scale: factor, ..InputNorm::PLAIN },
        });
        Branch { input_norm, ..plain }
    }

    fn variants() -> Vec<(&'static str, Self)> {
        let before_norm = Self { placement: Placement::Input, ..Self::default() };
        vec![("lns", Self::default()), ("before-norm", before_norm)]
    }

    fn moves_until(&self, _: usize) -> Option<u64> {
        self.anneal.map(|anneal| anneal.steps)
    }

    fn at_step(&self, step: u64, _: usize) -> Option<NormScheme> {
        self.anneal.map(|_| NormScheme::Lns(DepthScale::at_step(*self, step)))
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.placement {
            Placement::Output => "lns",
            Placement::Input => "before-norm",
        })?;
        match self.block {
            Block::Pre => {}
            Block::Sandwich => f.write_str(" on the output norms of a sandwich")?,
            Block::SandwichInput => f.write_str(" on the input norms of a sandwich")?,
        }
        if self.exponent != 0.5 {
            write!(f, ", exponent {}", self.exponent)?;
        }
        if self.first_layer > 0 {
            write!(f, ", from layer {}", self.first_layer)?;
        }
        if let Some(Anneal { exponent, steps }) = self.anneal {
            write!(f, ", to be annealed to {exponent} in {steps} steps")?;
        }
        match (self.sites.attention, self.sites.mlp) {
            (true, false) => f.write_str(", attention norm only"),
            (false, true) => f.write_str(", MLP norm only"),
            _ => Ok(()),
        }
    }
}
