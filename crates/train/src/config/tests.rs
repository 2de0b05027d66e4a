use lns_spec::{Initialisation, ModelSpec, NormScheme};

use super::keys::KEYS;
use toml::Value;

use super::*;
use crate::{Estimate, Optimiser};

fn set(text: &str) -> Result<RunConfig, ConfigError> {
    RunConfig::default().with(&[Settings::from_table("test", text.parse().expect("TOML"))])
}

/// A model that was written is the model that is read, to its last tensor.
fn survives(spec: &ModelSpec) {
    let back = ModelSpec::from_config(&spec.to_config()).expect("readable");
    assert_eq!(back, *spec);
    assert_eq!(back.tensors(), spec.tensors());
}

#[test]
fn every_model_that_the_settings_accept_is_read_back_as_it_was() {
    let options = [
        "{ name = 'lns', exponent = 0.25 }",
        "{ name = 'lns', exponent = -1.0, sites = ['mlp'], first_layer = 2 }",
        "{ name = 'lns', placement = 'input', sites = ['attention'] }",
        "{ name = 'lns', exponent = 0.0, anneal = { exponent = 0.5, steps = 10 } }",
        "{ name = 'mix-ln', post_fraction = 0.5 }",
        "{ name = 'branch-scale', rule = 'sqrt-layers' }",
        "{ name = 'branch-scale', rule = 'layers' }",
        "{ name = 'layerscale', init = 0.1 }",
        "{ name = 'keel', alpha = 3.0 }",
        "{ name = 'progressive', steps = 7, taken = 3 }",
    ];
    let names = NormScheme::names().into_iter().map(|name| format!("'{name}'"));
    let schemes: Vec<String> = names.chain(options.map(str::to_owned)).collect();
    let tried = schemes.len();
    let (mut accepted, mut refused) = (0, 0);
    for scheme in schemes {
        for switches in 0..8 {
            let [qk_norm, embedding_norm, tied] = [1, 2, 4].map(|bit| switches & bit != 0);
            for heads in [0, 1, 2, 3] {
                for start in ["normal", "scaled", "depth-scaled"] {
                    let text = format!(
                        "[model]\nscheme = {scheme}\nqk_norm = {qk_norm}\n\
                         embedding_norm = {embedding_norm}\ntie_word_embeddings = {tied}\n\
                         num_key_value_heads = {heads}\ninitialisation = '{start}'\n\
                         num_hidden_layers = 5\nembedding_std = 0.632"
                    );
                    match set(&text).and_then(|config| config.model.spec(300, 64)) {
                        Ok(spec) => {
                            survives(&spec);
                            accepted += 1;
                        }
                        Err(_) => refused += 1,
                    }
                }
            }
        }
    }
    // Three key/value heads do not divide four, and `peri` has the embedding's norm already.
    assert_eq!(accepted + refused, tried * 8 * 12);
    assert_eq!(refused, tried * 8 * 3 + 4 * 9);
}

#[test]
fn what_cannot_be_written_is_refused_before_training() {
    let mut spec = set("").expect("valid").model.spec(300, 64).expect("valid");
    spec.qk_norm = lns_spec::QkNorm::PerHead;
    let error = spec.check_config().expect_err("a llama has no such norms").to_string();
    assert!(error.contains("llama") && error.contains("qk_norm"), "{error}");
    let qwen3 = set("model.qk_norm = true").expect("valid").model.spec(300, 64).expect("valid");
    assert_eq!(qwen3.to_config()["model_type"], "qwen3");
}

#[test]
fn options_of_a_scheme_are_laid_over_the_scheme_that_is_there() {
    let shown = |under: &str, over: &str| {
        let layers =
            [under, over].map(|text| Settings::from_table("x", text.parse().expect("TOML")));
        let config = RunConfig::default().with(&layers);
        config.map(|config| config.model.scheme.to_string()).unwrap_or_else(|e| e.to_string())
    };
    assert_eq!(shown("model.scheme = 'lns'", "model.scheme.exponent = 0.25"), "lns, exponent 0.25");
    let input = shown("model.scheme = 'before-norm'", "model.scheme.exponent = 0.25");
    assert_eq!(input, "before-norm, exponent 0.25");
    let other = shown("model.scheme = { name = 'lns', exponent = 1 }", "model.scheme = 'mix-ln'");
    assert_eq!(other, "mix-ln, first 0.25 of the layers post", "no option lingers");
    assert!(shown("", "model.scheme.exponent = 0.25").contains("exponent"), "pre has none");
}

#[test]
fn settings_of_other_optimisers_as_earlier_versions_wrote_them_are_read_and_left_out() {
    let earlier = |name: &str, more: &str| {
        set(&format!(
            "[optimiser]\nname = '{name}'\nbeta1 = 0.9\nbeta2 = 0.95\neps = 1e-8\n\
             weight_decay = 0.0\ndecay = 'projections'\nclip = 1.0\nz_loss = 0.0\n{more}"
        ))
    };
    for optimiser in Optimiser::all() {
        let config = earlier(optimiser.name(), "momentum = 0.95").expect("as it was written");
        assert_eq!(config.optimiser, OptimiserConfig { rule: optimiser, ..Default::default() });
        let again = set(&config.to_toml()).expect("as it is written");
        assert_eq!(again, config);
        assert_eq!(config.to_toml().contains("momentum"), optimiser.name() == "muon");
    }
    let error = earlier("adamw", "momentum = 0.9").expect_err("does nothing").to_string();
    assert!(error.contains("`optimiser.momentum` is 0.9") && error.contains("use muon"), "{error}");
}

#[test]
fn a_misspelt_setting_is_named_with_the_one_that_was_meant() {
    let error = set("optimizer.name = 'adam'").expect_err("refused").to_string();
    assert!(error.contains("`optimizer.name` is not a setting"), "{error}");
    assert!(error.contains("did you mean `optimiser.name`?"), "{error}");
    let file = Settings::from_toml("my.toml", "steps = 3\n[optimizer]\nname = 'adam'\n");
    let error = file.expect_err("refused").to_string();
    assert!(error.contains("line 2") && error.contains("`optimiser.name`"), "{error}");
}

#[test]
fn a_misspelt_scheme_is_answered_with_all_schemes_and_the_one_that_was_meant() {
    let all = format!("The schemes: {}", NormScheme::names().join(", "));
    for text in ["model.scheme = 'lsn'", "model.scheme = { name = 'lsn' }"] {
        let file = Settings::from_toml("my.toml", text).expect_err("refused");
        for error in [set(text).expect_err("refused"), file].map(|error| error.to_string()) {
            assert!(error.contains("did you mean lns?") && error.contains(&all), "{error}");
        }
        let error = set(text).expect_err("refused").to_string();
        assert!(error.contains(": `model.scheme`: norm scheme") && !error.contains("\nin "));
    }
}

#[test]
fn as_many_key_value_heads_as_heads_are_the_same_run_however_it_is_written() {
    let [none, four, two] =
        [0, 4, 2].map(|n| set(&format!("model.num_key_value_heads = {n}")).expect("valid"));
    assert!(four.differences(&none).is_empty() && none.differences(&four).is_empty());
    assert_eq!(two.differences(&none).len(), 1);
}

#[test]
fn a_length_that_no_evaluation_holds_is_to_blame() {
    let error = set("data.length = 100000").expect_err("refused").to_string();
    assert!(error.starts_with("`data.length` is 100000; the held-out text"), "{error}");
    assert!(error.contains("`evaluation.tokens` = 32768"), "{error}");
}

/// Numbers in a fixed order that looks like none (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, count: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % count
    }

    fn of<T: Clone>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())].clone()
    }

    fn value(&mut self) -> Value {
        const WHOLE: [i64; 20] = [
            i64::MIN,
            -1,
            0,
            1,
            2,
            3,
            4,
            7,
            16,
            128,
            1000,
            4096,
            4097,
            65_536,
            1 << 20,
            (1 << 20) + 1,
            1 << 24,
            1_000_000_000,
            1 << 50,
            i64::MAX,
        ];
        const REAL: [f64; 14] = [
            0.0,
            -0.0,
            1e-300,
            0.02,
            0.25,
            0.5,
            0.95,
            1.0,
            8.0,
            -8.0,
            1e308,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
        ];
        const TEXT: [&str; 12] = [
            "",
            "lns",
            "peri",
            "deepnorm",
            "adam",
            "muon",
            "all",
            "rows",
            "scaled",
            "bf16",
            "warmup-stable-decay",
            "Ω\u{202e}\0",
        ];
        match self.below(10) {
            0..4 => Value::Integer(self.of(&WHOLE)),
            4..7 => Value::Float(self.of(&REAL)),
            7 => Value::Boolean(self.below(2) == 0),
            8 => Value::String(self.of(&TEXT).to_owned()),
            _ if self.below(2) == 0 => Value::Array(vec![self.value()]),
            _ => Value::Table(Table::from_iter([(self.of(&TEXT).to_owned(), self.value())])),
        }
    }
}

/// The value of a dotted key.
fn at<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        None => table.get(key),
        Some((first, rest)) => at(table.get(first)?.as_table()?, rest),
    }
}

fn insert(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => drop(table.insert(key.to_owned(), value)),
        Some((first, rest)) => {
            let inner = table.entry(first).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

#[test]
fn random_settings_are_refused_with_their_key_or_make_a_run_that_can_be_written_and_estimated() {
    const CASES: usize = 5_000;
    let mut random = Random(11);
    let keys: Vec<&String> = KEYS.iter().filter(|key| !key.starts_with("finetune")).collect();
    let defaults = Table::try_from(RunConfig::default()).expect("a table");
    let (mut accepted, mut models) = (0, 0);
    for _ in 0..CASES {
        let mut table = Table::new();
        for _ in 0..1 + random.below(3) {
            let mut key = random.of(&keys).clone();
            if random.below(20) == 0 {
                key.insert(random.below(key.len()), 'x');
            }
            let mut value = random.value();
            // Most often of the right type, or little would get any further.
            if let Some(usual) = at(&defaults, &key).filter(|_| random.below(10) > 0) {
                for _ in 0..50 {
                    if !value.same_type(usual) {
                        value = random.value();
                    }
                }
            }
            insert(&mut table, &key, value);
        }
        let config = match RunConfig::default().with(&[Settings::from_table("x", table.clone())]) {
            Ok(config) => config,
            Err(error) => {
                assert!(error.to_string().len() < 4000, "{error}");
                continue;
            }
        };
        accepted += 1;
        let text = config.to_toml();
        let again: Table = text.parse().expect("TOML");
        let again = RunConfig::default().with(&[Settings::from_table("x", again)]);
        assert_eq!(again.expect("as it was written"), config, "{text}");
        if let Ok(spec) = config.model.spec(config.model.vocab_size.max(300), config.data.length) {
            survives(&spec);
            let estimate = Estimate::of(&config, &spec, None);
            assert!(estimate.total() > 0 && estimate.flops.is_finite(), "{text}");
            let _ = crate::check_memory(&config, &spec, None);
            models += 1;
        }
    }
    assert!(accepted > CASES / 10, "{accepted} of {CASES} were accepted");
    assert!(models > CASES / 20, "{models} of {CASES} made a model");
}

#[test]
fn a_run_that_no_memory_holds_is_refused_with_what_would_help() {
    let tried = |text: &str| {
        let config = set(text).expect("valid");
        let spec = config.model.spec(300, config.data.length).expect("valid");
        crate::check_memory(&config, &spec, None).map_err(|error| error.to_string())
    };
    assert_eq!(tried("batch.sequences = 1"), Ok(()));
    let huge = tried("model.hidden_size = 1048576\nmodel.num_attention_heads = 4096");
    assert!(huge.expect_err("refused").contains("smaller model"));
    let many = tried("batch.sequences = 1048576\ndata.length = 1024");
    assert!(many.expect_err("refused").contains("batch.sequences_per_pass=1"));
}

#[test]
fn initialisations_and_names_of_schemes_are_all_settings() {
    for start in [Initialisation::Normal, Initialisation::Scaled, Initialisation::DepthScaled] {
        let name = Value::try_from(start).expect("a name");
        set(&format!("model.initialisation = {name}")).expect("valid");
    }
    for name in NormScheme::names() {
        set(&format!("model.scheme = '{name}'")).expect(name);
    }
}
