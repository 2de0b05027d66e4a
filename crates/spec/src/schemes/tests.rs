use super::*;
use crate::{BranchGate, Initialisation, InputNorm, Join, LayerIndex, Sites};

fn at(scheme: &NormScheme, layer: usize, layers: usize) -> Branch {
    scheme.branch(LayerIndex::new(layer).depth(), layers, Site::Attention)
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
        let input_norm = Some(InputNorm { input_scale: 1.0, output_scale: 1.0 / 3.0 });
        assert_eq!(scheme.branch(depth, 12, site), Branch { input_norm, ..Branch::PRE });
    }
}

#[test]
fn sites_choose_which_norm_is_scaled() {
    let mlp_only = Sites { attention: false, mlp: true };
    let scheme = NormScheme::Lns(DepthScale { sites: mlp_only, ..DepthScale::default() });
    let depth = LayerIndex::new(3).depth();
    assert_eq!(scheme.branch(depth, 4, Site::Attention), Branch::PRE);
    assert_ne!(scheme.branch(depth, 4, Site::Mlp), Branch::PRE);
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
    for (layers, alpha, beta) in [(12, 2.2134, 0.3195), (24, 2.6321, 0.2686), (32, 2.8284, 0.25)] {
        let deepnorm = NormScheme::DeepNorm(DeepNorm {});
        let branch = at(&deepnorm, 0, layers);
        assert_eq!((branch.input_norm, branch.join.norm), (None, true));
        let got = branch.join.stream_scale;
        assert!((got - alpha).abs() < 5e-5, "alpha at {layers}: {got}");
        let gain = deepnorm.initial_gain(Role::Value, layers);
        assert_eq!(deepnorm.initial_gain(Role::Query, layers), 1.0);
        assert!((gain - beta).abs() < 5e-5, "beta at {layers}: {gain}");
    }
}

#[test]
fn mix_ln_is_post_for_the_first_quarter() {
    // ⌊L/4⌋, the share of arXiv 2412.13795: 3 Post-LN layers of 12, 6 of 24.
    for (layers, posts) in [(12, 3), (24, 6), (30, 7), (3, 0)] {
        let scheme = NormScheme::MixLn(MixLn { post_fraction: 0.25 });
        let count = (0..layers).filter(|layer| at(&scheme, *layer, layers) == Branch::POST).count();
        assert_eq!(count, posts);
    }
}

#[test]
fn every_name_parses_prints_and_survives_json() {
    for name in NormScheme::names() {
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
        r#"{"name":"keel","alpha":0}"#,
        r#"{"name":"progressive","steps":0}"#,
        r#"{"name":"gpas","init":0}"#,
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
    assert_eq!(Initialisation::DepthScaled.output_projection_std(fourth, 8), 0.02 / 8f64.sqrt());
    assert_eq!(Initialisation::LARGE_EMBEDDING_STD, 0.4f64.sqrt());
}

#[test]
fn the_placements_are_those_of_their_papers() {
    let scheme = |name: &str| name.parse::<NormScheme>().expect("a scheme");
    let fourth = |name: &str| at(&scheme(name), 3, 8);
    let output_norm = Branch { input_norm: None, output_norm: true, ..Branch::PRE };
    assert_eq!(fourth("output-norm"), output_norm);
    assert_eq!(fourth("sandwich"), Branch { output_norm: true, ..Branch::PRE });
    assert_eq!(fourth("post"), Branch { input_norm: None, join: Join::NORMED, ..Branch::PRE });
    // KEEL: α = L, but for the first layer, which is Pre-LN.
    let join = Join { stream_scale: 8.0, ..Join::NORMED };
    assert_eq!(fourth("keel"), Branch { join, ..Branch::PRE });
    assert_eq!(at(&scheme("keel"), 0, 8), Branch::PRE);
    let join = Join { damped: true, ..Join::ADD };
    assert_eq!(fourth("gpas"), Branch { join, ..Branch::PRE });
}

#[test]
fn progressive_layers_join_one_after_the_other_and_leave_plain_pre_ln() {
    let start: NormScheme =
        serde_json::from_str(r#"{"name":"progressive","steps":10}"#).expect("is one");
    let gates = |scheme: &NormScheme| {
        [0, 1, 3].map(|layer| match at(scheme, layer, 4).gate {
            BranchGate::Constant(gate) => gate,
            BranchGate::Learned { .. } => f64::NAN,
        })
    };
    let at_step = |step| start.at_step(step, 4).expect("training moves it");
    assert_eq!(gates(&start), [0.0, 0.0, 0.0]);
    assert_eq!(gates(&at_step(5)), [0.5, 0.25, 0.125]);
    assert_eq!(gates(&at_step(10)), [1.0, 0.5, 0.25]);
    assert_eq!(gates(&at_step(39)), [1.0, 1.0, 0.975]);
    assert_eq!(at_step(40), NormScheme::pre());
    assert_eq!((start.moves_until(4), NormScheme::lns().moves_until(4)), (Some(40), None));
}
