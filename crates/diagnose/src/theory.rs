//! The paper's statements on variance and gradients held against measurements (arXiv 2502.05795 v5;
//! the formulas are in [`lns_spec::theory`]).
//!
//! Stream and branch variances are those of the `stream` and `branches` probes, means over content
//! tokens.
//! Exponents are slopes of logarithms against ln ℓ; those of the stream are of the variance gained,
//! so that they do not depend on what it starts from.
//!
//! The statements assume weights as drawn from one normal distribution. Two things move a fresh
//! model away from what they predict, and both are reported rather than corrected: attention averages
//! the values of the tokens it sees, so its branch is smaller than they are as long as they differ and
//! grows as the tokens become alike; and the smaller the embedding, the sooner they do.

mod jacobian;

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::Tensor,
};
use layernorm_scaling::rotary_table;
use lns_corpus::Windows;
use lns_kernels::{Workers, with_slices};
use lns_model::LayerSource;
use lns_record::{StreamRecord, TheoryCheck, TheoryCurve, TheoryRecord};
use lns_score::{ScoreError, require_finite, window_length};
use lns_spec::{
    DepthScale, NormScheme, Placement,
    theory::{
        BoundConstants, BoundSizes, Fit, exponential_fit, linear_fit, log_bound_lns, log_bound_pre,
        logarithmic_fit, power_fit,
    },
};
use lns_statistics::mean;

use crate::{
    Probes, measure,
    probes::{branches, stream},
    statistics::variances,
};

/// Tokens of the first window that ‖∂y_L/∂x₁‖₂ is taken over.
const JACOBIAN_TOKENS: usize = 32;

/// The moment at which a model was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Its weights are as drawn.
    Initialisation,
    /// Its training is over.
    Trained,
}

impl Moment {
    /// As written in the record.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Initialisation => "initialisation",
            Self::Trained => "trained",
        }
    }
}

/// A model to measure.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// What the record calls it.
    pub name: &'a str,
    /// When it is measured.
    pub moment: Moment,
    /// The model.
    pub source: &'a dyn LayerSource,
}

/// Measures each model on a text whose windows are all of one length: its variance by depth, and, where its scheme
/// is Pre-LN or LNS as in the paper, every statement that applies. Models of other schemes get a
/// curve and no checks, and so do models that lack a branch.
///
/// # Errors
/// [`ScoreError`] when there is no window, a layer cannot be read, or a number is not finite.
pub fn theory(
    subjects: &[Subject<'_>],
    text: &Windows,
    workers: &Workers,
) -> Result<TheoryRecord, ScoreError> {
    let length = window_length(&text.windows)?;
    let ids = &text.windows[0].ids[..length.min(JACOBIAN_TOKENS)];
    let probes = Probes::of(&[&stream::Stream, &branches::Branches]);
    let walks = workers.map(subjects.len(), |subject| {
        let source = subjects[subject].source;
        let spec = source.spec();
        let law = Law::of(&spec.norm_scheme).filter(|_| spec.has_all_branches());
        law.map(|law| walk(source, ids).map(|walk| (law, walk))).transpose()
    });
    let mut record = TheoryRecord { checks: Vec::new(), curves: Vec::new() };
    for (subject, walk) in subjects.iter().zip(walks) {
        let found = measure(subject.source, text, &probes, workers)?;
        let variance: Vec<f64> = found.stream.iter().map(StreamRecord::content).collect();
        if let Some((law, walk)) = walk? {
            let of = |branch: fn(&lns_record::LayerRecord) -> Option<f64>| {
                found.layers.iter().filter_map(branch).collect()
            };
            let measured = Measured {
                depths: {
                    let layers = subject.source.spec().per_layer.iter();
                    layers.map(|layer| layer.depth.value()).collect()
                },
                attention: of(|layer| layer.attention_variance),
                mlp: of(|layer| layer.mlp_variance),
                stream: variance.clone(),
                walk,
            };
            let mut checks = Checks { subject, law, measured: &measured, rows: &mut record.checks };
            checks.growth();
            checks.branches();
            checks.correlation();
            checks.jacobian(ids.len());
        }
        record.curves.push(TheoryCurve {
            scheme: subject.name.to_owned(),
            when: subject.moment.name().to_owned(),
            variance,
        });
    }
    Ok(record)
}

/// The two cases that the paper treats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Law {
    Pre,
    Lns,
}

impl Law {
    fn of(scheme: &NormScheme) -> Option<Self> {
        match scheme {
            NormScheme::Pre(_) => Some(Self::Pre),
            // Before the norm the scale does nothing.
            NormScheme::Lns(scale) if scale.placement == Placement::Input => Some(Self::Pre),
            NormScheme::Lns(scale) if *scale == DepthScale::default() => Some(Self::Lns),
            // The paper's theory treats no other.
            _ => None,
        }
    }
}

/// What the probes do not give, measured on the first tokens of the first window.
struct Walk {
    /// Variance of the attention's values, v_proj(norm(stream)), by layer.
    values: Vec<f64>,
    /// Mean square of the entries of the layers' matrices.
    weight_variance: f64,
    /// ln ‖∂y_L/∂x₁‖₂
    log_norm: f64,
}

fn walk(source: &dyn LayerSource, ids: &[u32]) -> Result<Walk, ScoreError> {
    let spec = source.spec();
    let rotary = rotary_table(spec, ids.len());
    let mut streams = vec![source.embed_ids(ids)?];
    let (mut values, mut squares) = (Vec::new(), Squares::default());
    for index in spec.layers() {
        let layer = source.whole_layer(index)?;
        layer.visit(&mut squares);
        let stream = streams[streams.len() - 1].clone();
        if let (Some(norm), Some(attention)) = (&layer.input_layernorm, &layer.self_attn) {
            let value = attention.v_proj.forward(norm.forward(stream.clone()));
            let width = value.dims()[2];
            let all = vec![true; ids.len()];
            let variances = with_slices([&value], |[value]| variances(value, width, &all));
            values.push(mean(&variances));
        }
        streams.push(layer.forward(stream, &rotary));
    }
    streams.pop();
    let log_norm = jacobian::Chain { source, rotary: &rotary, streams: &streams }.norm()?.ln();
    require_finite("the norm of the layers' Jacobian", &[log_norm])?;
    Ok(Walk { values, weight_variance: squares.sum / squares.count, log_norm })
}

#[derive(Default)]
struct Squares {
    sum: f64,
    count: f64,
}

impl ModuleVisitor for Squares {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if D == 2 {
            with_slices([&param.val()], |[values]| {
                self.sum += values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
                self.count += values.len() as f64;
            });
        }
    }
}

/// Everything that was measured on one model.
struct Measured {
    /// ℓ by layer.
    depths: Vec<f64>,
    /// Variance of stream\[0..=L\].
    stream: Vec<f64>,
    attention: Vec<f64>,
    mlp: Vec<f64>,
    walk: Walk,
}

/// Writes a model's rows.
struct Checks<'a> {
    subject: &'a Subject<'a>,
    law: Law,
    measured: &'a Measured,
    rows: &'a mut Vec<TheoryCheck>,
}

/// A number, the goodness of the fit it comes from, and whether it is what was expected.
struct Found(f64, Option<f64>, Option<bool>);

impl Checks<'_> {
    fn is_fresh(&self) -> bool {
        self.subject.moment == Moment::Initialisation
    }

    fn add(&mut self, source: &str, quantity: String, expected: String, found: Found) {
        self.rows.push(TheoryCheck {
            source: source.to_owned(),
            scheme: self.subject.name.to_owned(),
            when: self.subject.moment.name().to_owned(),
            quantity,
            expected,
            measured: found.0,
            r_squared: found.1,
            agrees: found.2,
        });
    }

    /// How the stream's variance grows with depth.
    fn growth(&mut self) {
        let after: Vec<(f64, f64)> =
            (1..).map(f64::from).zip(self.measured.stream.iter().copied().skip(1)).collect();
        let (line, logarithm) = (linear_fit(&after), logarithmic_fit(&after));
        if self.is_fresh()
            && let (Some(line), Some(logarithm)) = (line, logarithm)
        {
            self.shape_of_independent_branches(line, logarithm);
        }
        let lemma = match self.law {
            Law::Pre => "Lemma 3.2, eq. 7",
            Law::Lns => "Lemma 4.1, eq. 14",
        };
        self.exponent(lemma);
        if !self.is_fresh()
            && let (Some(line), Some(exponential)) = (line, exponential_fit(&after))
        {
            let quantity = "rate k of the variance, ∝ e^(kℓ)".to_owned();
            let expected = format!("open; a line a + b·ℓ has R² {:.3}", line.r_squared);
            let found = Found(exponential.slope, Some(exponential.r_squared), None);
            self.add(lemma, quantity, expected, found);
        }
    }

    /// The power of the depth that the variance grows by: since the embedding, or in a trained model
    /// since layer 0, whose output is no measure of depth but what makes a stream of an embedding.
    /// Over the deeper half of the layers, because the statement is one for large depths.
    fn exponent(&mut self, lemma: &str) {
        let (start, since) = if self.is_fresh() {
            (0, "since the embedding, ∝ ℓ^p")
        } else {
            (1, "since layer 0, ∝ (ℓ − 1)^p")
        };
        let Some((first, later)) = self.measured.stream[start..].split_first() else { return };
        let gained: Vec<(f64, f64)> =
            (1..).map(f64::from).zip(later.iter().map(|variance| variance - first)).collect();
        let deeper = &gained[gained.len() / 2..];
        let Some(Fit { slope: p, r_squared, .. }) = power_fit(deeper) else { return };
        let (expected, agrees) = match self.law {
            Law::Pre => ("at least 0.9: between Θ(L) and Θ(e^L)".to_owned(), p >= 0.9),
            Law::Lns => {
                let independent = "; independent branches give a logarithm, below this range";
                let note = if self.is_fresh() { independent } else { "" };
                let range = "0.9 to 1.6: between Θ(L) and Θ(L^(2−ε)), ½ ≤ ε < 1";
                (format!("{range}{note}"), (0.9..=1.6).contains(&p))
            }
        };
        let quantity = format!("exponent p of the variance gained {since}, over the deeper half");
        self.add(lemma, quantity, expected, Found(p, Some(r_squared), Some(agrees)));
    }

    /// eq. 23 with ρ = 0 and eq. 52's branch variances: a line for Pre-LN, a logarithm for LNS.
    fn shape_of_independent_branches(&mut self, line: Fit, logarithm: Fit) {
        let (quantity, shape, fit, floor, other, rival) = match self.law {
            Law::Pre => ("layer, b in a + b·ℓ", "a line", line, 0.98, "ln ℓ", logarithm),
            Law::Lns => ("unit of ln ℓ, b in a + b·ln ℓ", "a logarithm", logarithm, 0.9, "ℓ", line),
        };
        let expected = format!(
            "{shape}: R² at least {floor} and above that against {other}, {:.3}",
            rival.r_squared
        );
        let agrees = fit.r_squared >= floor && fit.r_squared > rival.r_squared;
        let found = Found(fit.slope, Some(fit.r_squared), Some(agrees));
        self.add("eq. 23 with ρ = 0", format!("variance gained per {quantity}"), expected, found);
    }

    /// How the branches' variances change with depth.
    fn branches(&mut self) {
        let Measured { mlp, attention, walk, .. } = self.measured;
        let values = &walk.values;
        self.branch(mlp, "the MLP branch", -2.0, 0.3);
        self.branch(values, "the attention's values, v_proj(norm(x))", -1.0, 0.2);
        self.branch(attention, "the attention branch, which averages the values", -1.0, 0.3);
    }

    /// The exponent of one variance; `lns` is what eq. 52 has under LNS, Pre-LN's is 0.
    fn branch(&mut self, variance: &[f64], of: &str, lns: f64, tolerance: f64) {
        let points: Vec<(f64, f64)> =
            self.measured.depths.iter().copied().zip(variance.iter().copied()).collect();
        let Some(fit) = power_fit(&points) else { return };
        let exponent = if self.law == Law::Pre { 0.0 } else { lns };
        let range = exponent - tolerance..=exponent + tolerance;
        let (expected, agrees) = if self.is_fresh() {
            let expected = format!("{:.1} to {:.1}", range.start(), range.end()).replace('-', "−");
            (expected, Some(range.contains(&fit.slope)))
        } else {
            (format!("open; {exponent:.0} as drawn").replace('-', "−"), None)
        };
        // A level line explains no variance; its R² would say nothing.
        let r_squared = (self.law == Law::Lns).then_some(fit.r_squared);
        let quantity = format!("exponent against ℓ of the variance of {of}");
        self.add("eq. 52", quantity, expected, Found(fit.slope, r_squared, agrees));
    }

    /// ρ of eq. 23, from what the variances leave over: σ²ₗ₊₁ − σ²ₗ − σ²_attention − σ²_MLP is twice the
    /// covariance. The same ρ is taken for both branches, and one for all layers.
    fn correlation(&mut self) {
        let Measured { stream, attention, mlp, .. } = self.measured;
        let (mut covariance, mut deviations) = (0.0, 0.0);
        for (ends, (attention, mlp)) in stream.windows(2).zip(attention.iter().zip(mlp)) {
            covariance += (ends[1] - ends[0] - attention - mlp) / 2.0;
            let between = ends[0] + attention;
            deviations += (ends[0] * attention).sqrt() + (between * mlp).sqrt();
        }
        let rho = covariance / deviations;
        if !rho.is_finite() {
            return;
        }
        let (expected, agrees) = if self.is_fresh() {
            ("−0.1 to 0.1: independent".to_owned(), Some(rho.abs() <= 0.1))
        } else {
            ("open; a constant above 0 makes the variance grow as ℓ²".to_owned(), None)
        };
        let quantity = "correlation ρ of a branch and the stream it joins".to_owned();
        self.add("eq. 23", quantity, expected, Found(rho, None, agrees));
    }

    /// ‖∂y_L/∂x₁‖₂ against the product that bounds it, one factor per layer.
    fn jacobian(&mut self, tokens: usize) {
        let spec = self.subject.source.spec();
        let sizes = BoundSizes {
            hidden: spec.hidden_size,
            intermediate: spec.intermediate_size,
            heads: spec.num_attention_heads,
            head_dim: spec.head_dim,
            tokens,
            weight_variance: self.measured.walk.weight_variance,
        };
        let explicit = BoundConstants::explicit(&sizes);
        let log_norm = self.measured.walk.log_norm;
        let source = match self.law {
            Law::Pre => "Theorem 3.3, eq. 9",
            Law::Lns => "Theorem 4.2, eq. 15",
        };
        let quantity = || format!("ln ‖∂y_L/∂x₁‖₂ over {tokens} tokens");
        let bound = self.log_bound(explicit);
        let expected = format!(
            "at most {bound:.1}: ln of the product with A = {:.3}, B = {:.3} of eq. 36",
            explicit.a, explicit.b
        );
        self.add(source, quantity(), expected, Found(log_norm, None, Some(log_norm <= bound)));
        let unit = self.log_bound(BoundConstants::UNIT);
        let expected =
            format!("open; ln of the product with A = B = 1, a bound up to these, is {unit:.1}");
        self.add(source, quantity(), expected, Found(log_norm, None, None));
    }

    fn log_bound(&self, constants: BoundConstants) -> f64 {
        let Measured { depths, stream, .. } = self.measured;
        let deviations: Vec<f64> = stream[..depths.len()].iter().map(|v| v.sqrt()).collect();
        match self.law {
            Law::Pre => log_bound_pre(&deviations, constants),
            Law::Lns => log_bound_lns(depths.iter().copied().zip(deviations), constants),
        }
    }
}
