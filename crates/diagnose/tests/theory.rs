//! What the paper's statements say of freshly drawn models, measured.

use std::sync::LazyLock;

use burn::tensor::Device;
use lns_corpus::{Window, Windows};
use lns_diagnose::{Moment, Subject, theory};
use lns_kernels::Workers;
use lns_model::Decoder;
use lns_record::{TheoryCheck, TheoryRecord};
use lns_spec::{Initialisation, NormScheme, Preset};
use lns_testing::models::TINY;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

const LAYERS: usize = 24;

/// Embeddings well above what a branch adds, so that the tokens of a window stay as different as the
/// statements assume.
fn fresh(scheme: NormScheme) -> Decoder {
    let preset = Preset {
        hidden_size: 128,
        intermediate_size: 344,
        num_attention_heads: 4,
        num_hidden_layers: LAYERS,
        vocab_size: 512,
        max_position_embeddings: 8,
        ..TINY
    };
    Decoder::initialised(&preset.spec(scheme), Initialisation::Normal, 0.2, 0, &Device::flex())
}

fn text() -> Windows {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut window = || {
        let ids = (0..8).map(|_| rng.next_u32() % 512).collect();
        Window { ids, targets: None, text_bytes: Some(vec![1; 8]) }
    };
    let windows = (0..16).map(|_| window()).collect();
    Windows { window: 8, windows, files: Vec::new(), separators: Vec::new(), masking: None }
}

fn measure(name: &str, moment: Moment, scheme: NormScheme) -> TheoryRecord {
    let workers = Workers::new(2).expect("threads start");
    let source = &fresh(scheme);
    theory(&[Subject { name, moment, source }], &text(), &workers).expect("finite")
}

static PRE: LazyLock<TheoryRecord> =
    LazyLock::new(|| measure("pre", Moment::Initialisation, NormScheme::pre()));
static LNS: LazyLock<TheoryRecord> =
    LazyLock::new(|| measure("lns", Moment::Initialisation, NormScheme::lns()));

/// The only row from `source` whose quantity has `quantity` in it.
fn row<'a>(record: &'a TheoryRecord, source: &str, quantity: &str) -> &'a TheoryCheck {
    let mut rows = record.checks.iter();
    let fits =
        |row: &&TheoryCheck| row.source.starts_with(source) && row.quantity.contains(quantity);
    let found = rows.find(fits).unwrap_or_else(|| panic!("{source}, {quantity}: {record:#?}"));
    assert!(!rows.any(|row| fits(&row)), "{source}, {quantity} is not unique");
    found
}

#[test]
fn at_initialisation_pre_ln_grows_linearly_and_its_branches_do_not_shrink() {
    let record = &*PRE;
    let growth = row(record, "eq. 23 with", "per layer");
    assert!(growth.r_squared > Some(0.98) && growth.agrees == Some(true), "{growth:?}");
    let power = row(record, "Lemma 3.2", "exponent");
    assert!((power.measured - 1.1).abs() < 0.15 && power.agrees == Some(true), "{power:?}");
    for branch in ["MLP", "values, v_proj"] {
        let exponent = row(record, "eq. 52", branch);
        assert!(exponent.measured.abs() < 0.05 && exponent.agrees == Some(true), "{exponent:?}");
    }
    assert_eq!(row(record, "eq. 23", "correlation").agrees, Some(true));
}

#[test]
fn at_initialisation_lns_grows_logarithmically_its_mlp_as_depth_to_minus_two_its_values_to_minus_one()
 {
    let record = &*LNS;
    let growth = row(record, "eq. 23 with", "ln ℓ");
    assert!(growth.r_squared > Some(0.95) && growth.agrees == Some(true), "{growth:?}");
    for (branch, expected) in [("MLP", -2.0), ("values, v_proj", -1.0), ("branch, which", -1.0)] {
        let exponent = row(record, "eq. 52", branch);
        assert!((exponent.measured - expected).abs() < 0.1, "{exponent:?}");
        assert_eq!(exponent.agrees, Some(true), "{exponent:?}");
    }
    assert_eq!(row(record, "eq. 23", "correlation").agrees, Some(true));
    let lemma = row(record, "Lemma 4.1", "exponent");
    assert!(lemma.measured < 0.7, "{lemma:?}");
    assert_eq!(lemma.agrees, Some(false), "a logarithm is below the paper's lower end");
}

#[test]
fn the_curve_is_the_stream_of_every_depth_and_lns_ends_below_pre_ln() {
    let end = |record: &TheoryRecord, name: &str| {
        let [curve] = &record.curves[..] else { panic!("one model, one curve") };
        assert_eq!((curve.scheme.as_str(), curve.when.as_str()), (name, "initialisation"));
        assert_eq!(curve.variance.len(), LAYERS + 1);
        assert!((curve.variance[0] / 0.04 - 1.0).abs() < 0.05, "{}", curve.variance[0]);
        curve.variance[LAYERS] - curve.variance[0]
    };
    let (pre, lns) = (end(&PRE, "pre"), end(&LNS, "lns"));
    assert!(lns > 0.0 && lns < 0.3 * pre, "{lns}, {pre}");
}

#[test]
fn the_norm_of_the_jacobian_is_held_against_both_products() {
    for (record, source) in [(&PRE, "Theorem 3.3"), (&LNS, "Theorem 4.2")] {
        let rows: Vec<_> =
            record.checks.iter().filter(|row| row.source.starts_with(source)).collect();
        let [bounded, open] = rows[..] else { panic!("two rows: {rows:?}") };
        assert_eq!((bounded.agrees, open.agrees), (Some(true), None));
        assert!(bounded.measured > 0.0 && bounded.measured < 4.0, "{bounded:?}");
        assert_eq!(bounded.measured, open.measured);
    }
}

#[test]
fn after_training_what_is_stated_for_drawn_weights_is_left_open() {
    let record = &measure("pre", Moment::Trained, NormScheme::pre());
    assert!(record.checks.iter().all(|row| row.when == "trained"));
    let of = |source: &'static str| record.checks.iter().filter(move |row| row.source == source);
    assert!(of("eq. 52").count() == 3 && of("eq. 52").all(|row| row.agrees.is_none()));
    assert_eq!(of("eq. 23 with ρ = 0").count(), 0);
    assert_eq!(row(record, "eq. 23", "correlation").agrees, None);
    assert_eq!(row(record, "Lemma 3.2", "rate").agrees, None);
    assert!(row(record, "Lemma 3.2", "exponent").agrees.is_some());
}

#[test]
fn a_scheme_the_paper_does_not_treat_has_a_curve_and_no_checks() {
    let record =
        measure("post", Moment::Initialisation, NormScheme::Post(lns_spec::schemes::Post {}));
    assert!(record.checks.is_empty());
    // Post-LN leaves every token with a mean square of 1.
    assert!((record.curves[0].variance[LAYERS] - 1.0).abs() < 0.05);
}
