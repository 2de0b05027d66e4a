//! Norm schemes: which norms a block has, where they stand, and what multiplies what.
//!
//! A scheme is data and is written into `config.json`. Each is one file of this folder and one line of
//! [`schemes!`]; what it says is a [`Branch`] for every depth and site. N is the block's norm with its
//! gain γ, F the attention or MLP, x the residual stream, ℓ the depth, L the number of layers the model
//! was trained with.

mod branch_scale;
mod deepnorm;
mod gpas;
mod keel;
mod layerscale;
mod lns;
mod mix_ln;
mod output_norm;
mod peri;
mod post;
mod pre;
mod progressive;
mod sandwich;
mod skipinit;

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

pub use branch_scale::{BranchRule, BranchScale};
pub use deepnorm::DeepNorm;
pub use gpas::Gpas;
pub use keel::Keel;
pub use layerscale::LayerScale;
pub use lns::{Anneal, Block, DepthScale, Placement};
pub use mix_ln::MixLn;
pub use output_norm::OutputNorm;
pub use peri::Peri;
pub use post::Post;
pub use pre::Pre;
pub use progressive::Progressive;
pub use sandwich::Sandwich;
pub use skipinit::SkipInit;

use crate::{Branch, Depth, Role, Site, SpecError, meant};

/// A layer's place in the model it was trained in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// The depth ℓ that the layer was trained at.
    pub depth: Depth,
    /// Number of layers L that the model was trained with.
    pub layers: usize,
    /// Which of the layer's two branches.
    pub site: Site,
}

impl Place {
    /// L as a number to compute with.
    pub fn count(self) -> f64 {
        self.layers as f64
    }
}

/// What one scheme says of a model. Where most schemes say the same, that is the default: nothing
/// is normed, scaled or moved.
trait Scheme {
    /// What the branch at a place does.
    fn branch(&self, place: Place) -> Branch;

    /// Names on the command line and what each stands for, the scheme's own name first.
    fn variants() -> Vec<(&'static str, Self)>
    where
        Self: Sized;

    /// Whether the embedding has a norm of its own.
    fn norms_embedding(&self) -> bool {
        false
    }

    /// What the weights of a role are multiplied by at initialisation.
    fn initial_gain(&self, _role: Role, _layers: usize) -> f64 {
        1.0
    }

    /// For a scheme that training moves: the last step at which it still moves in a model of `layers`
    /// layers.
    fn moves_until(&self, _layers: usize) -> Option<u64> {
        None
    }

    /// For a scheme that training moves: what it is after training step `step` of a model of `layers`
    /// layers.
    fn at_step(&self, _step: u64, _layers: usize) -> Option<NormScheme> {
        None
    }

    /// Writes the scheme in words, beginning with its name.
    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

macro_rules! schemes {
    ($($(#[$doc:meta])* $variant:ident($data:path) = $name:literal),+ $(,)?) => {
        /// Which norms exist, where, and what multiplies what.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "name")]
        pub enum NormScheme {
            $($(#[$doc])* #[serde(rename = $name)] $variant($data)),+
        }

        impl NormScheme {
            fn scheme(&self) -> &dyn Scheme {
                match self { $(Self::$variant(scheme) => scheme),+ }
            }

            /// Every name of the command line with the scheme that it stands for, in the order in which
            /// people are told of them.
            pub fn named() -> Vec<(&'static str, Self)> {
                let mut named = Vec::new();
                $(named.extend(
                    <$data>::variants().into_iter().map(|(name, data)| (name, Self::$variant(data))),
                );)+
                named
            }
        }
    };
}

schemes! {
    /// x + F(N(x))
    Pre(Pre) = "pre",
    /// x + F(N(x)·ℓ^-½)
    Lns(DepthScale) = "lns",
    /// N(x + F(x))
    Post(Post) = "post",
    /// N(αx + F(x)), α = (2L)^¼
    DeepNorm(DeepNorm) = "deepnorm",
    /// The first ⌊fraction·L⌋ layers `post`, the rest `pre`
    MixLn(MixLn) = "mix-ln",
    /// x + N₂(F(N₁(x)))
    Sandwich(Sandwich) = "sandwich",
    /// `sandwich` and a norm on the embedding
    Peri(Peri) = "peri",
    /// x + N(F(x))
    OutputNorm(OutputNorm) = "output-norm",
    /// N(αx + F(N(x))), the first layer `pre`
    Keel(Keel) = "keel",
    /// x + c·F(N(x))
    BranchScale(BranchScale) = "branch-scale",
    /// x + diag(λ)·F(N(x)), λ learned from a small start
    LayerScale(LayerScale) = "layerscale",
    /// x + α·F(N(x)), α one learned number per branch, 1/√L at the start
    SkipInit(SkipInit) = "skipinit",
    /// h − SiLU(a)·stopgrad(h) after each sum h
    Gpas(Gpas) = "gpas",
    /// x + min(t/(T·ℓ), 1)·F(N(x)) at training step t
    Progressive(Progressive) = "progressive",
}

impl NormScheme {
    /// Pre-LN, x + F(N(x)).
    pub fn pre() -> Self {
        Self::Pre(Pre {})
    }

    /// Post-LN, N(x + F(x)).
    pub fn post() -> Self {
        Self::Post(Post {})
    }

    /// Norms before and after each branch.
    pub fn sandwich() -> Self {
        Self::Sandwich(Sandwich {})
    }

    /// Norms on each branch's output alone.
    pub fn output_norm() -> Self {
        Self::OutputNorm(OutputNorm {})
    }

    /// LayerNorm Scaling as in the paper: exponent ½, both sites.
    pub fn lns() -> Self {
        Self::Lns(DepthScale::default())
    }

    /// Every name of the command line.
    pub fn names() -> Vec<&'static str> {
        Self::named().into_iter().map(|(name, _)| name).collect()
    }

    /// What the branch at `site` of the layer at `depth` does; `layers` is L.
    pub fn branch(&self, depth: Depth, layers: usize, site: Site) -> Branch {
        self.scheme().branch(Place { depth, layers, site })
    }

    /// Whether the embedding has a norm of its own.
    pub fn norms_embedding(&self) -> bool {
        self.scheme().norms_embedding()
    }

    /// What the weights of `role` are multiplied by at initialisation: 1 for all but DeepNorm.
    pub fn initial_gain(&self, role: Role, layers: usize) -> f64 {
        self.scheme().initial_gain(role, layers)
    }

    /// The training step after which the scheme no longer moves, in a model of `layers` layers; `None`
    /// for one that never does.
    pub fn moves_until(&self, layers: usize) -> Option<u64> {
        self.scheme().moves_until(layers)
    }

    /// The scheme after training step `step` of a model of `layers` layers, if training moves it.
    pub fn at_step(&self, step: u64, layers: usize) -> Option<Self> {
        self.scheme().at_step(step, layers)
    }

    /// Where LayerNorm Scaling is going, if it is still to be annealed.
    pub fn anneal(&self) -> Option<Anneal> {
        if let Self::Lns(scale) = self { scale.anneal } else { None }
    }

    /// A scheme as `norm_scheme` of a `config.json` has it: an object of its name and options.
    ///
    /// # Errors
    /// [`SpecError::UnknownScheme`], for another name or option or one that is out of range.
    pub fn from_json(value: &serde_json::Value) -> Result<Self, SpecError> {
        let fail = |reason| SpecError::UnknownScheme {
            given: value.to_string(),
            reason,
            known: Self::names().join(", "),
        };
        // The list of names follows: serde's own would be a second one, without those of combinations.
        match value.get("name").and_then(serde_json::Value::as_str) {
            Some("before-norm") => {
                Err(fail("as a table it is lns with the placement \"input\"".to_owned()))
            }
            Some(name) if !Self::names().contains(&name) => Err(fail(unknown(name))),
            _ => serde_json::from_value(value.clone()).map_err(|error| fail(error.to_string())),
        }
    }
}

impl fmt::Display for NormScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.scheme().describe(f)
    }
}

impl std::str::FromStr for NormScheme {
    type Err = SpecError;

    /// A scheme's bare name with its default options. Exact: `LNS` or `Pre` is an error, because a
    /// name that was silently not recognised is how LNS has been lost before.
    fn from_str(name: &str) -> Result<Self, SpecError> {
        let found = Self::named().into_iter().find(|(known, _)| *known == name);
        found.map(|(_, scheme)| scheme).ok_or_else(|| SpecError::UnknownScheme {
            given: format!("{name:?}"),
            reason: unknown(name),
            known: Self::names().join(", "),
        })
    }
}

/// Why a name is refused, and which was probably meant.
fn unknown(name: &str) -> String {
    let meant = meant(name, NormScheme::names());
    let meant = meant.map_or_else(String::new, |name| format!("; did you mean {name}?"));
    format!("there is none of that name{meant}")
}

/// A number that a scheme may be made with: finite and within ±8.
fn within_eight<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let value = f64::deserialize(deserializer)?;
    if value.is_finite() && value.abs() <= 8.0 {
        Ok(value)
    } else {
        Err(serde::de::Error::custom(format!("{value} is not a finite number within ±8")))
    }
}

/// A number of training steps.
fn at_least_one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    match u64::deserialize(deserializer)? {
        0 => Err(serde::de::Error::custom("0 steps are none; 1 is the least")),
        steps => Ok(steps),
    }
}

#[cfg(test)]
mod tests;
