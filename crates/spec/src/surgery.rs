//! What surgery makes of a model, as a specification: with LayerNorm Scaling switched on or folded
//! away, or without some of its layers or branches.
//!
//! γ·ℓ^e with the scale ℓ^-e computes what γ computes without it, so [`ModelSpec::gain_factor`] is all
//! that a conversion has to know of the weights.

use std::fmt;

use lns_show::counted;
use serde::{Deserialize, Serialize};

use crate::{
    Block, BranchGate, DepthScale, LayerIndex, ModelSpec, NormScheme, Placement, Role, Site, Sites,
    SpecError,
};

/// Why a conversion does not apply.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message names its fields")]
pub enum ConversionError {
    #[error(
        "the scheme is already {scheme}; fold the model first if it should have other LayerNorm \
         Scaling"
    )]
    AlreadyScaled { scheme: String },
    #[error(
        "the scheme is {scheme}; LayerNorm Scaling multiplies the norms before the branches, so only \
         a plain `pre` model can take it, or a `sandwich`"
    )]
    NotPreNorm { scheme: String },
    #[error(
        "the scheme is {scheme}: no norm stands before a branch, so there is nothing that LayerNorm \
         Scaling would multiply; what would act on the stream's growth here is a scale on the branch \
         (`branch-scale`), in training"
    )]
    NoInputNorm { scheme: String },
    #[error("the scale is on {block} and the scheme is {scheme}")]
    OtherBlock { block: &'static str, scheme: String },
    #[error(
        "the scheme is {scheme}: there is no LayerNorm Scaling to fold; {}",
        if *is_own {
            "every runtime loads this model as it is"
        } else {
            "no plain model computes the same"
        }
    )]
    NotScaled { scheme: String, is_own: bool },
    #[error("the embedding has a norm of its own (`embedding_norm`), which no plain model has")]
    EmbeddingNorm,
    #[error(
        "layer {layer} lacks a branch and with it the norm on its sum (scheme {scheme}); in a plain model \
         that norm stands there, whatever the branch gives"
    )]
    NormGone { layer: LayerIndex, scheme: String },
    #[error(
        "the scale is made of an exponent from -8 to 8 and a first layer below {layers}; got {given}"
    )]
    Scale { given: String, layers: usize },
}

/// What happens to the gains of norms whose scale changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gains {
    /// They are multiplied by what makes up for the scale, so that the function stays
    /// ([`ModelSpec::gain_factor`]).
    Compensated,
    /// They stay as they are, so that the function changes with the scale.
    Kept,
}

/// A layer, or one of its two branches, to be taken out of a model. Written `21`, `21.attention`,
/// `21.mlp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Removal {
    /// 0-based index in the model it is taken out of.
    pub layer: LayerIndex,
    /// The site whose branch goes; `None` for the whole layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<Site>,
}

impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.branch {
            None => write!(f, "{}", self.layer),
            Some(site) => write!(f, "{}.{site}", self.layer),
        }
    }
}

impl ModelSpec {
    /// This model with LayerNorm Scaling. In a sandwich it is the norms on the branches' output that are
    /// scaled, unless the scale names those on their input ([`Block::SandwichInput`]).
    ///
    /// # Errors
    /// [`ConversionError`] unless it is plain Pre-LN or a sandwich and the scale fits it.
    pub fn with_layernorm_scaling(&self, scale: DepthScale) -> Result<Self, ConversionError> {
        let scheme = || self.norm_scheme.to_string();
        let block = match (&self.norm_scheme, scale.block) {
            (NormScheme::Pre(_), Block::Pre) => Block::Pre,
            (NormScheme::Pre(_), _) => {
                let block = "a norm of a sandwich";
                return Err(ConversionError::OtherBlock { block, scheme: scheme() });
            }
            (NormScheme::Sandwich(_), Block::Pre | Block::Sandwich) => Block::Sandwich,
            (NormScheme::Sandwich(_), Block::SandwichInput) => Block::SandwichInput,
            (NormScheme::Lns(DepthScale { placement: Placement::Output, .. }), _) => {
                return Err(ConversionError::AlreadyScaled { scheme: scheme() });
            }
            (NormScheme::OutputNorm(_), _) => {
                return Err(ConversionError::NoInputNorm { scheme: scheme() });
            }
            _ => return Err(ConversionError::NotPreNorm { scheme: scheme() }),
        };
        let exponents = [scale.exponent, scale.anneal.map_or(0.0, |anneal| anneal.exponent)];
        if !scale.sites.any() || scale.placement != Placement::Output {
            let given = "a scale on no norm's output".to_owned();
            return Err(ConversionError::Scale { given, layers: self.trained_layers });
        }
        let fits = exponents.iter().all(|exponent| exponent.abs() <= 8.0)
            && (scale.first_layer as usize) < self.trained_layers;
        if !fits {
            let given = NormScheme::Lns(scale).to_string();
            return Err(ConversionError::Scale { given, layers: self.trained_layers });
        }
        Ok(Self { norm_scheme: NormScheme::Lns(DepthScale { block, ..scale }), ..self.clone() })
    }

    /// The plain model (Pre-LN, or a sandwich), of whole layers, that computes the same: LayerNorm Scaling
    /// goes into the gains, and branches that were pruned become zeros.
    ///
    /// # Errors
    /// [`ConversionError::NotScaled`] when there is nothing to fold, or another scheme;
    /// [`ConversionError::EmbeddingNorm`] for a model that would still not be plain.
    pub fn folded(&self) -> Result<Self, ConversionError> {
        if self.embedding_norm != self.family.norms_embedding() {
            return Err(ConversionError::EmbeddingNorm);
        }
        let norm_scheme = match &self.norm_scheme {
            NormScheme::Lns(DepthScale { placement: Placement::Output, block, .. }) => {
                match block {
                    Block::Pre => NormScheme::pre(),
                    Block::Sandwich | Block::SandwichInput => NormScheme::sandwich(),
                }
            }
            plain if *plain == self.family.own_scheme() && !self.has_all_branches() => {
                self.refuse_norm_without_branch()?;
                plain.clone()
            }
            other => {
                let is_own = *other == self.family.own_scheme();
                return Err(ConversionError::NotScaled { scheme: other.to_string(), is_own });
            }
        };
        let mut folded = Self { norm_scheme, ..self.clone() };
        folded.per_layer.iter_mut().for_each(|layer| layer.branches = Sites::BOTH);
        Ok(folded)
    }

    /// A branch of zeros is no branch only where nothing is done to the sum.
    fn refuse_norm_without_branch(&self) -> Result<(), ConversionError> {
        let lacks =
            |layer, site| !self.has_branch(layer, site) && !self.branch(layer, site).only_adds();
        let mut layers = self.layers();
        match layers.find(|layer| lacks(*layer, Site::Attention) || lacks(*layer, Site::Mlp)) {
            Some(layer) => {
                let scheme = self.norm_scheme.to_string();
                Err(ConversionError::NormGone { layer, scheme })
            }
            None => Ok(()),
        }
    }

    /// What the gain (and the bias) of a layer's norm is multiplied by when this model becomes `after`,
    /// another [`with_layernorm_scaling`](Self::with_layernorm_scaling) or [`folded`](Self::folded), and
    /// computes the same; 1 for any other role.
    pub fn gain_factor(&self, after: &Self, layer: LayerIndex, role: Role) -> f64 {
        match role {
            Role::InputNorm(site) => {
                self.branch(layer, site).output_scale() / after.branch(layer, site).output_scale()
            }
            // In a sandwich the scale stands after the norm on F's output.
            Role::OutputNorm(site) => {
                let gate = |spec: &Self| match spec.branch(layer, site).gate {
                    BranchGate::Constant(gate) => gate,
                    BranchGate::Learned { .. } => 1.0,
                };
                gate(self) / gate(after)
            }
            _ => 1.0,
        }
    }

    /// The model that is left, and for each of its layers the index that the layer had here. Each
    /// remaining layer keeps its depth.
    ///
    /// The stream passes what is removed as it came. A branch goes with all that its site does to the stream:
    /// under Post-LN with the norm on its sum, so that a layer without its two branches is no layer.
    ///
    /// # Errors
    /// [`SpecError::Removal`] for a layer or branch that is not there, when nothing is removed or
    /// nothing is left.
    pub fn without(&self, removals: &[Removal]) -> Result<(Self, Vec<LayerIndex>), SpecError> {
        let refuse = |reason: String| Err(SpecError::Removal { reason });
        let layers = self.num_hidden_layers;
        if removals.is_empty() {
            return refuse("there is nothing to remove".to_owned());
        }
        let mut left: Vec<Sites> = self.per_layer.iter().map(|layer| layer.branches).collect();
        for removal in removals {
            let Some(branches) = left.get_mut(removal.layer.get()) else {
                return refuse(format!(
                    "layer {} does not exist; the layers are 0–{}",
                    removal.layer,
                    layers.saturating_sub(1)
                ));
            };
            match removal.branch {
                None => *branches = Sites { attention: false, mlp: false },
                Some(Site::Attention) if branches.attention => branches.attention = false,
                Some(Site::Mlp) if branches.mlp => branches.mlp = false,
                Some(_) => {
                    return refuse(format!("{removal} is not there, or is named twice"));
                }
            }
        }
        let kept: Vec<LayerIndex> = self.layers().filter(|layer| left[layer.get()].any()).collect();
        if kept.is_empty() {
            return refuse(format!(
                "that would remove all {}; keep at least one",
                counted(layers, "layer")
            ));
        }
        let mut spec = self.clone();
        spec.num_hidden_layers = kept.len();
        for (layer, branches) in spec.per_layer.iter_mut().zip(left) {
            layer.branches = branches;
        }
        spec.per_layer = pick(&spec.per_layer, &kept);
        // A key that is unknown here may list one entry for each layer, and somebody else reads it:
        // the entries of removed layers go too. Lists of token ids stay whole, even one that
        // happens to be as long.
        for (key, value) in &mut spec.other_keys {
            if let serde_json::Value::Array(list) = value
                && list.len() == layers
                && !key.contains("token")
            {
                *list = pick(list, &kept);
            }
        }
        spec.validate()?;
        Ok((spec, kept))
    }
}

fn pick<T: Clone>(list: &[T], kept: &[LayerIndex]) -> Vec<T> {
    kept.iter().map(|layer| list[layer.get()].clone()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Anneal, Preset};

    fn model(scheme: NormScheme) -> ModelSpec {
        let mut spec = Preset::named("9m").expect("a preset").spec(scheme);
        spec.other_keys.insert("per_layer".to_owned(), json!([10, 11, 12, 13]));
        spec.other_keys.insert("eos_token_id".to_owned(), json!([2, 3, 4, 5]));
        spec
    }

    fn depths(spec: &ModelSpec) -> Vec<u32> {
        spec.per_layer.iter().map(|layer| layer.depth.get()).collect()
    }

    fn whole(layer: usize) -> Removal {
        Removal { layer: LayerIndex::new(layer), branch: None }
    }

    #[test]
    fn what_remains_keeps_its_depth_and_its_entry_in_every_list() {
        let spec = model(NormScheme::lns());
        let attention = Removal { branch: Some(Site::Attention), ..whole(3) };
        let (pruned, kept) = spec.without(&[whole(1), attention]).expect("prunes");
        assert_eq!(kept.iter().map(|layer| layer.get()).collect::<Vec<_>>(), [0, 2, 3]);
        assert_eq!(depths(&pruned), [1, 3, 4]);
        assert_eq!(pruned.trained_layers, 4);
        assert_eq!(pruned.other_keys["per_layer"], json!([10, 12, 13]));
        assert_eq!(pruned.other_keys["eos_token_id"], json!([2, 3, 4, 5]));
        let last = LayerIndex::new(2);
        assert!(!pruned.has_branch(last, Site::Attention) && pruned.has_branch(last, Site::Mlp));
        assert!(pruned.layer_tensors(last).iter().all(|t| !t.name.contains("self_attn")));
        assert_eq!(ModelSpec::from_config(&pruned.to_config()).expect("reads back"), pruned);
        // Twice pruned is pruned of both.
        let (again, _) = pruned.without(&[whole(0)]).expect("prunes");
        assert_eq!(depths(&again), [3, 4]);
    }

    #[test]
    fn a_layer_without_either_branch_is_gone() {
        let spec = model(NormScheme::pre());
        let branch = |site| Removal { branch: Some(site), ..whole(2) };
        let both = [branch(Site::Attention), branch(Site::Mlp)];
        assert_eq!(
            spec.without(&both).expect("prunes"),
            spec.without(&[whole(2)]).expect("so too")
        );
    }

    #[test]
    fn what_cannot_be_removed_is_refused() {
        let spec = model(NormScheme::pre());
        let twice = Removal { branch: Some(Site::Mlp), ..whole(0) };
        for (removals, part) in [
            (vec![], "nothing to remove"),
            (vec![whole(4)], "0–3"),
            ((0..4).map(whole).collect(), "all 4 layers"),
            (vec![twice, twice], "0.mlp"),
        ] {
            let error = spec.without(&removals).expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn under_post_ln_a_branch_goes_with_the_norm_on_its_sum_and_no_plain_model_computes_the_same() {
        let post = model(NormScheme::post());
        let mlp = Removal { branch: Some(Site::Mlp), ..whole(1) };
        let (pruned, _) = post.without(&[mlp]).expect("prunes");
        let of = |spec: &ModelSpec, role| {
            let tensors = spec.layer_tensors(LayerIndex::new(1));
            tensors.iter().filter(|tensor| tensor.id.role == role).count()
        };
        assert_eq!(of(&post, Role::JoinNorm(Site::Mlp)), 1);
        assert_eq!(of(&pruned, Role::JoinNorm(Site::Mlp)), 0);
        assert_eq!(of(&pruned, Role::JoinNorm(Site::Attention)), 1);
        // Such a fold is asked for where the scheme is the family's own.
        let family = crate::Family::BERT;
        let bert = ModelSpec { family, embedding_norm: true, ..pruned };
        assert!(matches!(bert.folded(), Err(ConversionError::NormGone { .. })));
    }

    #[test]
    fn only_norms_before_branches_take_the_scale_and_only_scaled_ones_fold() {
        let plain = model(NormScheme::pre());
        let scaled = plain.with_layernorm_scaling(DepthScale::default()).expect("takes it");
        assert_eq!(scaled.norm_scheme, NormScheme::lns());
        assert_eq!(scaled.folded().expect("folds"), plain);
        let layer = LayerIndex::new(3);
        assert_eq!(plain.gain_factor(&scaled, layer, Role::InputNorm(Site::Mlp)), 2.0);
        assert_eq!(scaled.gain_factor(&plain, layer, Role::InputNorm(Site::Mlp)), 0.5);
        let again = scaled.with_layernorm_scaling(DepthScale::default());
        assert!(matches!(again, Err(ConversionError::AlreadyScaled { .. })));
        assert!(matches!(plain.folded(), Err(ConversionError::NotScaled { .. })));
        let others = |name: &&str| !["pre", "lns", "sandwich"].contains(name);
        for name in NormScheme::names().into_iter().filter(others) {
            let spec = model(name.parse().expect(name));
            let error = spec.with_layernorm_scaling(DepthScale::default());
            let nothing = name == "output-norm";
            match error {
                Err(ConversionError::NoInputNorm { .. }) => assert!(nothing, "{name}"),
                Err(ConversionError::NotPreNorm { .. }) => assert!(!nothing, "{name}"),
                other => panic!("{name}: {other:?}"),
            }
            assert!(matches!(spec.folded(), Err(ConversionError::NotScaled { .. })), "{name}");
        }
    }

    #[test]
    fn in_a_sandwich_the_norm_whose_output_reaches_the_stream_is_scaled_unless_the_other_is_named()
    {
        let plain = model(NormScheme::sandwich());
        let layer = LayerIndex::new(3);
        let (input, output) = (Role::InputNorm(Site::Mlp), Role::OutputNorm(Site::Mlp));
        for (block, factors) in [
            (Block::Pre, [1.0, 2.0]),
            (Block::Sandwich, [1.0, 2.0]),
            (Block::SandwichInput, [2.0, 1.0]),
        ] {
            let scale = DepthScale { block, ..DepthScale::default() };
            let scaled = plain.with_layernorm_scaling(scale).expect("takes it");
            let found = [input, output].map(|role| plain.gain_factor(&scaled, layer, role));
            assert_eq!(found, factors, "{block:?}");
            assert_eq!(scaled.tensors(), plain.tensors());
            assert_eq!(scaled.folded().expect("folds"), plain);
            assert_eq!(scaled.check_config(), Ok(()));
        }
        let scale = DepthScale { block: Block::Sandwich, ..DepthScale::default() };
        let refused = model(NormScheme::pre()).with_layernorm_scaling(scale);
        assert!(matches!(refused, Err(ConversionError::OtherBlock { .. })));
    }

    #[test]
    fn a_scale_that_fits_no_model_is_refused() {
        let plain = model(NormScheme::pre());
        let anneal = Some(Anneal { exponent: f64::NAN, steps: 3 });
        for scale in [
            DepthScale { exponent: f64::NAN, ..DepthScale::default() },
            DepthScale { exponent: 9.0, ..DepthScale::default() },
            DepthScale { first_layer: 4, ..DepthScale::default() },
            DepthScale { anneal, ..DepthScale::default() },
            DepthScale { sites: Sites { attention: false, mlp: false }, ..DepthScale::default() },
            DepthScale { placement: Placement::Input, ..DepthScale::default() },
        ] {
            let refused = plain.with_layernorm_scaling(scale);
            assert!(matches!(refused, Err(ConversionError::Scale { .. })), "{scale:?}");
        }
    }

    #[test]
    fn branches_that_are_gone_are_zeros_in_the_folded_model() {
        let spec = model(NormScheme::pre());
        let mlp = Removal { branch: Some(Site::Mlp), ..whole(1) };
        let (pruned, _) = spec.without(&[mlp]).expect("prunes");
        assert!(!pruned.is_stock());
        assert_eq!(pruned.to_config()["model_type"], "lns_llama");
        assert_eq!(pruned.folded().expect("folds").tensors(), spec.tensors());
        let mut config = pruned.to_config();
        config["model_type"] = json!("llama");
        assert!(ModelSpec::from_config(&config).is_err(), "no runtime may run it whole");
    }
}
