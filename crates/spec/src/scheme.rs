//! Norm schemes: which norms a block has, where they stand, and what multiplies what.
//!
//! A scheme is data and is written into `config.json`. N is the block's norm with its gain γ, F the
//! attention or MLP, x the residual stream, ℓ the depth, L the number of layers the model was
//! trained with.
//!
//! | name | formula | source |
//! |---|---|---|
//! | `pre` | x + F(N(x)) | |
//! | `lns` | x + F(N(x)·ℓ^-½) | arXiv 2502.05795 eq. 12 |
//! | `post` | N(x + F(x)) | |
//! | `deepnorm` | N(αx + F(x)), α = (2L)^¼ | arXiv 2203.00555 |
//! | `mix-ln` | first ⌊L/4⌋ layers `post`, rest `pre` | arXiv 2412.13795 |
//! | `sandwich` | x + N₂(F(N₁(x))) | |
//! | `peri` | `sandwich` and a norm on the embedding | arXiv 2502.02732 |
//! | `branch-scale` | x + c·F(N(x)) | |
//! | `layerscale`, `skipinit` | x + diag(λ)·F(N(x)), x + α·F(N(x)) | |

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Depth, Site, SpecError};

/// A subset of a layer's two norm sites, written `["attention", "mlp"]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sites {
    /// The attention norm takes part.
    pub attention: bool,
    /// The MLP norm takes part.
    pub mlp: bool,
}

impl Sites {
    /// Both norms, as in the paper.
    pub const BOTH: Self = Self { attention: true, mlp: true };

    /// Whether `site` is in the set.
    pub const fn contains(self, site: Site) -> bool {
        match site {
            Site::Attention => self.attention,
            Site::Mlp => self.mlp,
        }
    }

    /// Whether there is any.
    pub const fn any(self) -> bool {
        self.attention || self.mlp
    }

    fn list(self) -> Vec<Site> {
        [Site::Attention, Site::Mlp].into_iter().filter(|site| self.contains(*site)).collect()
    }
}

impl Serialize for Sites {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.list().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Sites {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let list = Vec::<Site>::deserialize(deserializer)?;
        if list.is_empty() {
            return Err(serde::de::Error::custom(
                "`sites` names no site; use attention, mlp or both",
            ));
        }
        Ok(Self { attention: list.contains(&Site::Attention), mlp: list.contains(&Site::Mlp) })
    }
}

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

/// The multiplier ℓ^(-exponent) of LayerNorm Scaling; ½ in the paper.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DepthScale {
    /// Power of ℓ, as a positive number: ½ means 1/√ℓ.
    #[serde(default = "half", deserialize_with = "finite")]
    pub exponent: f64,
    /// Which of a layer's two norms are scaled.
    #[serde(default = "both")]
    pub sites: Sites,
    /// Before or after the norm.
    #[serde(default)]
    pub placement: Placement,
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
    #[serde(deserialize_with = "finite")]
    pub exponent: f64,
    /// Steps it takes, at least 1.
    #[serde(deserialize_with = "at_least_one")]
    pub steps: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn at_least_one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    match u64::deserialize(deserializer)? {
        0 => Err(serde::de::Error::custom("0 steps are none; 1 is the least")),
        steps => Ok(steps),
    }
}

fn half() -> f64 {
    0.5
}

fn both() -> Sites {
    Sites::BOTH
}

fn finite<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let value = f64::deserialize(deserializer)?;
    if value.is_finite() && value.abs() <= 8.0 {
        Ok(value)
    } else {
        Err(serde::de::Error::custom(format!("{value} is not a finite number within ±8")))
    }
}

impl Default for DepthScale {
    fn default() -> Self {
        Self {
            exponent: half(),
            sites: Sites::BOTH,
            placement: Placement::Output,
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

/// The constant of [`NormScheme::BranchScale`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BranchRule {
    /// c = 1/√ℓ
    SqrtDepth,
    /// c = 1/√L
    SqrtLayers,
    /// c = 1/L
    Layers,
}

/// Which norms exist, where, and what multiplies what. See the module's table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum NormScheme {
    /// x + F(N(x))
    Pre {},
    /// x + F(N(x)·ℓ^-½)
    Lns(DepthScale),
    /// N(x + F(x))
    Post {},
    /// N(αx + F(x)), α = (2L)^¼
    #[serde(rename = "deepnorm")]
    DeepNorm {},
    /// The first ⌊fraction·L⌋ layers `post`, the rest `pre`
    MixLn {
        /// Share of Post-LN layers, ¼ in the paper.
        #[serde(default = "quarter", deserialize_with = "unit_interval")]
        post_fraction: f64,
    },
    /// x + N₂(F(N₁(x)))
    Sandwich {},
    /// `sandwich` and a norm on the embedding
    Peri {},
    /// x + c·F(N(x))
    BranchScale {
        /// What c is.
        rule: BranchRule,
    },
    /// x + diag(λ)·F(N(x)), λ learned from a small start
    #[serde(rename = "layerscale")]
    LayerScale {
        /// Initial value of every λ.
        #[serde(default = "small", deserialize_with = "finite")]
        init: f64,
    },
    /// x + α·F(N(x)), α one learned number per branch, 1/√L at the start
    #[serde(rename = "skipinit")]
    SkipInit {},
}

fn quarter() -> f64 {
    0.25
}

fn small() -> f64 {
    1e-4
}

fn unit_interval<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let value = f64::deserialize(deserializer)?;
    if (0.0..=1.0).contains(&value) {
        Ok(value)
    } else {
        Err(serde::de::Error::custom(format!("{value} is not within 0..=1")))
    }
}

/// What one branch of one layer does with the stream: a [`NormScheme`] at a known depth and site.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Residual {
    /// x + branch_scale · F(output_scale · N(input_scale · x))
    Pre {
        /// Multiplies the norm's input.
        input_scale: f64,
        /// Multiplies the norm's output, after gain and bias.
        output_scale: f64,
        /// Multiplies the branch's output.
        branch_scale: f64,
    },
    /// N(alpha · x + F(x))
    Post {
        /// Multiplies the stream before the sum.
        alpha: f64,
    },
    /// x + N₂(F(N₁(x)))
    Sandwich,
    /// x + λ ⊙ F(N(x)) with λ learned: `hidden_size` numbers, or one
    Learned {
        /// One λ per branch instead of one per feature.
        scalar: bool,
        /// Value at initialisation.
        init: f64,
    },
}

impl Residual {
    const PRE: Self = Self::Pre { input_scale: 1.0, output_scale: 1.0, branch_scale: 1.0 };

    /// What the site's norm multiplies its output by.
    pub const fn output_scale(&self) -> f64 {
        match self {
            Self::Pre { output_scale, .. } => *output_scale,
            Self::Post { .. } | Self::Sandwich | Self::Learned { .. } => 1.0,
        }
    }
}

impl NormScheme {
    /// Every scheme's name, as written in `config.json` and on the command line.
    pub const NAMES: [&str; 11] = [
        "pre",
        "lns",
        "post",
        "deepnorm",
        "mix-ln",
        "sandwich",
        "peri",
        "branch-scale",
        "layerscale",
        "skipinit",
        "before-norm",
    ];

    /// LayerNorm Scaling as in the paper: exponent ½, both sites.
    pub fn lns() -> Self {
        Self::Lns(DepthScale::default())
    }

    /// What the branch at `site` of the layer at `depth` does; `layers` is L.
    pub fn residual(&self, depth: Depth, layers: usize, site: Site) -> Residual {
        let count = layers as f64;
        let branch =
            |branch_scale| Residual::Pre { input_scale: 1.0, output_scale: 1.0, branch_scale };
        match *self {
            Self::Pre {} => Residual::PRE,
            Self::Lns(scale) if scale.sites.contains(site) => {
                let factor = scale.factor(depth);
                match scale.placement {
                    Placement::Output => {
                        Residual::Pre { input_scale: 1.0, output_scale: factor, branch_scale: 1.0 }
                    }
                    Placement::Input => {
                        Residual::Pre { input_scale: factor, output_scale: 1.0, branch_scale: 1.0 }
                    }
                }
            }
            Self::Lns(_) => Residual::PRE,
            Self::Post {} => Residual::Post { alpha: 1.0 },
            Self::DeepNorm {} => Residual::Post { alpha: (2.0 * count).powf(0.25) },
            Self::MixLn { post_fraction } => {
                if f64::from(depth.get()) <= (post_fraction * count).floor() {
                    Residual::Post { alpha: 1.0 }
                } else {
                    Residual::PRE
                }
            }
            Self::Sandwich {} | Self::Peri {} => Residual::Sandwich,
            Self::BranchScale { rule } => branch(match rule {
                BranchRule::SqrtDepth => 1.0 / depth.value().sqrt(),
                BranchRule::SqrtLayers => 1.0 / count.sqrt(),
                BranchRule::Layers => 1.0 / count,
            }),
            Self::LayerScale { init } => Residual::Learned { scalar: false, init },
            Self::SkipInit {} => Residual::Learned { scalar: true, init: 1.0 / count.sqrt() },
        }
    }

    /// Where the scale is going, if it is still to be annealed.
    pub const fn anneal(&self) -> Option<Anneal> {
        if let Self::Lns(scale) = self { scale.anneal } else { None }
    }

    /// Whether the embedding has a norm of its own (`model.embed_norm.weight`).
    pub const fn norms_embedding(&self) -> bool {
        matches!(self, Self::Peri {})
    }

    /// Whether a runtime that knows only Pre-LN computes the right function.
    pub const fn runs_on_stock_runtimes(&self) -> bool {
        matches!(self, Self::Pre {})
    }

    /// DeepNorm's gain (8L)^-¼ for the value, output and MLP weights at initialisation
    /// (arXiv 2203.00555, Table 2, decoder-only); 1 for every other scheme.
    pub fn deepnorm_gain(&self, layers: usize) -> f64 {
        match self {
            Self::DeepNorm {} => (8.0 * layers as f64).powf(-0.25),
            Self::Pre {}
            | Self::Lns(_)
            | Self::Post {}
            | Self::MixLn { .. }
            | Self::Sandwich {}
            | Self::Peri {}
            | Self::BranchScale { .. }
            | Self::LayerScale { .. }
            | Self::SkipInit {} => 1.0,
        }
    }

    /// A scheme as `norm_scheme` of a `config.json` has it: an object of its name and options.
    ///
    /// # Errors
    /// [`SpecError::UnknownScheme`], for another name or option or one that is out of range.
    pub fn from_json(value: &serde_json::Value) -> Result<Self, SpecError> {
        let fail = |reason| SpecError::UnknownScheme {
            given: value.to_string(),
            reason,
            known: known_schemes(),
        };
        // The list of names follows: serde's own would be a second one, without those of combinations.
        match value.get("name").and_then(serde_json::Value::as_str) {
            Some("before-norm") => {
                Err(fail("as a table it is lns with the placement \"input\"".to_owned()))
            }
            Some(name) if !Self::NAMES.contains(&name) => {
                Err(fail(format!("no scheme is called {name:?}")))
            }
            _ => serde_json::from_value(value.clone()).map_err(|error| fail(error.to_string())),
        }
    }
}

fn known_schemes() -> String {
    NormScheme::NAMES.join(", ")
}

impl fmt::Display for NormScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pre {} => f.write_str("pre"),
            Self::Lns(scale) => {
                f.write_str(match scale.placement {
                    Placement::Output => "lns",
                    Placement::Input => "before-norm",
                })?;
                if scale.exponent != 0.5 {
                    write!(f, ", exponent {}", scale.exponent)?;
                }
                if scale.first_layer > 0 {
                    write!(f, ", from layer {}", scale.first_layer)?;
                }
                if let Some(Anneal { exponent, steps }) = scale.anneal {
                    write!(f, ", to be annealed to {exponent} in {steps} steps")?;
                }
                match (scale.sites.attention, scale.sites.mlp) {
                    (true, false) => f.write_str(", attention norm only"),
                    (false, true) => f.write_str(", MLP norm only"),
                    _ => Ok(()),
                }
            }
            Self::Post {} => f.write_str("post"),
            Self::DeepNorm {} => f.write_str("deepnorm"),
            Self::MixLn { post_fraction } => {
                write!(f, "mix-ln, first {post_fraction} of the layers post")
            }
            Self::Sandwich {} => f.write_str("sandwich"),
            Self::Peri {} => f.write_str("peri"),
            Self::BranchScale { rule } => f.write_str(match rule {
                BranchRule::SqrtDepth => "branch-scale 1/√ℓ",
                BranchRule::SqrtLayers => "branch-scale 1/√L",
                BranchRule::Layers => "branch-scale 1/L",
            }),
            Self::LayerScale { init } => write!(f, "layerscale, λ from {init}"),
            Self::SkipInit {} => f.write_str("skipinit"),
        }
    }
}

impl std::str::FromStr for NormScheme {
    type Err = SpecError;

    /// A scheme's bare name with its default options. Exact: `LNS` or `Pre` is an error, because a
    /// name that was silently not recognised is how LNS has been lost before.
    fn from_str(name: &str) -> Result<Self, SpecError> {
        match name {
            "branch-scale" => Ok(Self::BranchScale { rule: BranchRule::SqrtDepth }),
            "before-norm" => {
                Ok(Self::Lns(DepthScale { placement: Placement::Input, ..DepthScale::default() }))
            }
            _ => Self::from_json(&serde_json::json!({ "name": name })),
        }
    }
}

/// How weights start, before training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Initialisation {
    /// N(0, 0.02²) everywhere.
    #[default]
    Normal,
    /// As `normal`, the output projections (`o_proj`, `down_proj`) divided by √(2L).
    Scaled,
    /// As `normal`, the output projections divided by √(2ℓ).
    DepthScaled,
}

impl Initialisation {
    /// Standard deviation of every weight matrix before any of the factors below.
    pub const STD: f64 = 0.02;

    /// Standard deviation of an output projection at `depth` in a model of `layers` layers.
    pub fn output_projection_std(self, depth: Depth, layers: usize) -> f64 {
        match self {
            Self::Normal => Self::STD,
            Self::Scaled => Self::STD / (2.0 * layers as f64).sqrt(),
            Self::DepthScaled => Self::STD / (2.0 * depth.value()).sqrt(),
        }
    }
}

/// Standard deviation of the embedding at initialisation: 0.02, or the √(2/5) = 0.632 of
/// the paper's published code until 2026-01-02. Its authors say that the reported runs had 0.02;
/// nobody has reproduced either. It sets the stream's variance at layer 0, and with it every
/// variance curve.
pub fn embedding_std(large: bool) -> f64 {
    if large { 0.4f64.sqrt() } else { Initialisation::STD }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LayerIndex;

    fn at(scheme: &NormScheme, layer: usize, layers: usize) -> Residual {
        scheme.residual(LayerIndex::new(layer).depth(), layers, Site::Attention)
    }

    #[test]
    fn layer_zero_is_scaled_by_exactly_one_whatever_the_exponent() {
        for exponent in [0.5, 0.25, 1.0, 2.0, 0.3] {
            let scale = DepthScale { exponent, ..DepthScale::default() };
            assert_eq!(scale.factor(LayerIndex::new(0).depth()).to_bits(), 1f64.to_bits());
        }
    }

    #[test]
    fn both_norms_of_a_layer_share_the_layers_depth() {
        let scheme = NormScheme::lns();
        let depth = LayerIndex::new(8).depth();
        for site in [Site::Attention, Site::Mlp] {
            let expected =
                Residual::Pre { input_scale: 1.0, output_scale: 1.0 / 3.0, branch_scale: 1.0 };
            assert_eq!(scheme.residual(depth, 12, site), expected);
        }
    }

    #[test]
    fn sites_choose_which_norm_is_scaled() {
        let mlp_only = Sites { attention: false, mlp: true };
        let scheme = NormScheme::Lns(DepthScale { sites: mlp_only, ..DepthScale::default() });
        let depth = LayerIndex::new(3).depth();
        assert_eq!(scheme.residual(depth, 4, Site::Attention), Residual::PRE);
        assert_ne!(scheme.residual(depth, 4, Site::Mlp), Residual::PRE);
    }

    #[test]
    fn layers_before_the_first_are_not_scaled() {
        let scale = DepthScale { first_layer: 3, ..DepthScale::default() };
        let factor = |layer| scale.factor(LayerIndex::new(layer).depth());
        assert_eq!([factor(0), factor(2), factor(3), factor(8)], [1.0, 1.0, 0.5, 1.0 / 3.0]);
    }

    #[test]
    fn an_annealed_scale_goes_from_none_to_its_exponent_and_stays() {
        let anneal = Some(Anneal { exponent: 0.5, steps: 4 });
        let scale = DepthScale { exponent: 0.0, anneal, ..DepthScale::default() };
        let ninth = LayerIndex::new(8).depth();
        let factor = |step| scale.at_step(step).factor(ninth);
        assert_eq!(factor(0), 1.0);
        assert!((factor(2) - 9f64.powf(-0.25)).abs() < 1e-15);
        assert_eq!([factor(4), factor(5)], [1.0 / 3.0; 2]);
        assert_eq!(scale.at_step(4), DepthScale::default());
        // A snapshot on the way goes on from where it is.
        assert_eq!(scale.at_step(2).at_step(3), scale.at_step(3));
    }

    #[test]
    fn deepnorm_constants_match_the_published_ones() {
        // (2L)^¼ and (8L)^-¼ (arXiv 2203.00555): the official LNS code has 2.83 and 3.13 at L = 12.
        for (layers, alpha, beta) in
            [(12, 2.2134, 0.3195), (24, 2.6321, 0.2686), (32, 2.8284, 0.25)]
        {
            let Residual::Post { alpha: got } = at(&NormScheme::DeepNorm {}, 0, layers) else {
                panic!("DeepNorm is a Post-LN scheme")
            };
            assert!((got - alpha).abs() < 5e-5, "alpha at {layers}: {got}");
            let gain = NormScheme::DeepNorm {}.deepnorm_gain(layers);
            assert!((gain - beta).abs() < 5e-5, "beta at {layers}: {gain}");
        }
    }

    #[test]
    fn mix_ln_is_post_for_the_first_quarter() {
        // PAPER Table: 3 Post-LN layers of 12, 6 of 24.
        for (layers, posts) in [(12, 3), (24, 6), (30, 7), (3, 0)] {
            let scheme = NormScheme::MixLn { post_fraction: 0.25 };
            let count = (0..layers)
                .filter(|layer| matches!(at(&scheme, *layer, layers), Residual::Post { .. }))
                .count();
            assert_eq!(count, posts);
        }
    }

    #[test]
    fn every_name_parses_prints_and_survives_json() {
        for name in NormScheme::NAMES {
            let scheme: NormScheme = name.parse().expect(name);
            assert!(scheme.to_string().starts_with(name), "{scheme} is not {name}");
            let json = serde_json::to_value(&scheme).expect("schemes serialise");
            assert_eq!(NormScheme::from_json(&json).expect("and come back"), scheme);
        }
    }

    #[test]
    fn a_misspelt_scheme_or_option_is_an_error() {
        for name in ["LNS", "Pre", "cod", "", "lns ", "deep-norm"] {
            let error = name.parse::<NormScheme>().expect_err(name);
            assert_eq!(error.to_string().matches("mix-ln").count(), 1, "{error}: one list");
        }
        for json in [
            r#"{"name":"lns","exponnent":0.5}"#,
            r#"{"name":"pre","exponent":0.5}"#,
            r#"{"name":"lns","exponent":"half"}"#,
            r#"{"name":"lns","sites":[]}"#,
            r#"{"name":"lns","sites":["ffn"]}"#,
            r#"{"name":"lns","first_layer":-1}"#,
            r#"{"name":"lns","anneal":{"exponent":0.5,"steps":0}}"#,
            r#"{"name":"lns","anneal":{"exponent":0.5}}"#,
            r#"{"name":"mix-ln","post_fraction":1.5}"#,
            r#"{"exponent":0.5}"#,
            r#""lns""#,
        ] {
            let value = serde_json::from_str(json).expect("test JSON parses");
            assert!(NormScheme::from_json(&value).is_err(), "{json} was accepted");
        }
    }

    #[test]
    fn scaled_initialisations_divide_the_output_projections() {
        let fourth = LayerIndex::new(3).depth();
        assert_eq!(Initialisation::Normal.output_projection_std(fourth, 8), 0.02);
        assert_eq!(Initialisation::Scaled.output_projection_std(fourth, 8), 0.02 / 4.0);
        assert_eq!(
            Initialisation::DepthScaled.output_projection_std(fourth, 8),
            0.02 / 8f64.sqrt()
        );
        assert!((embedding_std(true) - 0.632).abs() < 1e-3);
    }
}
