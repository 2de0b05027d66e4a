//! `stream`: how large the residual stream is on its way through the layers.

use lns_record::{
    DiagnoseRecord, Group, GrowthModel, HeavyToken, Quantity, StreamRecord, VarianceGrowth,
};
use lns_show::counted;

use super::{Course, Probe};
use crate::{
    growth::fit_growth,
    observer::{Observer, Passed},
    statistics::heavy_tokens,
    words::{number, since},
};

pub(crate) struct Stream;

impl Probe for Stream {
    fn name(&self) -> &'static str {
        "stream"
    }

    fn measures(&self) -> &'static str {
        "variance and rms of the residual stream"
    }

    fn is_default(&self) -> bool {
        true
    }

    fn price(&self, _layers: f64) -> f64 {
        0.0
    }

    fn group(&self) -> Group {
        Group::Stream
    }

    fn quantities(&self) -> Vec<Quantity> {
        let median = Quantity {
            stand_in: Some("stream[].variance_without_first".to_owned()),
            ..Quantity::of_stream("variance_median", "variance, median token")
        };
        vec![
            median.in_column("variance", 20, 10),
            Quantity::of_stream("variance_content", "mean, content tokens")
                .in_column("mean", 120, 40),
            Quantity::of_stream("variance_without_first", "mean without first tokens"),
            Quantity::of_stream("variance", "mean, all tokens").in_column("all tokens", 90, 30),
            Quantity::of_stream("rms", "rms"),
        ]
    }

    fn course(&self) -> Course {
        Course::Shared(Box::new(Watch))
    }

    fn evidence(&self, record: &DiagnoseRecord) -> Vec<String> {
        let growth = fit_growth(&record.stream);
        let growth = growth.map(|growth| growth_sentence(&growth, &record.stream));
        growth.into_iter().chain(heavy_sentences(record)).collect()
    }
}

/// The pass measures every stream anyway, to refuse what is not finite.
struct Watch;

impl Observer for Watch {
    fn conclude(&self, passed: &Passed<'_>, record: &mut DiagnoseRecord) {
        let medians: Vec<f64> = passed.streams.iter().map(StreamRecord::typical).collect();
        record.heavy_tokens = heavy_tokens(
            passed.windows.iter().map(|window| &window.ids[..]),
            |index, window| passed.variances(window, index),
            &medians,
            passed.spell,
        );
        record.stream = passed.streams.to_vec();
    }
}

fn growth_sentence(growth: &VarianceGrowth, stream: &[StreamRecord]) -> String {
    let shape = match growth.model {
        GrowthModel::Flat => "level".to_owned(),
        GrowthModel::Linear => format!("linear, by {} per layer", number(growth.rate)),
        GrowthModel::Polynomial => format!("depth to the power {}", number(growth.rate)),
        GrowthModel::Exponential => {
            format!("exponential, by {} % per layer", number((growth.rate.exp() - 1.0) * 100.0))
        }
    };
    let at = |index: usize| stream.get(index).map_or(f64::NAN, StreamRecord::typical);
    format!(
        "The stream's variance (of the median token) best fits: {shape} (weight among four curves: \
         {:.0} %); it leaves layer 0 at {} and the last layer at {}, a factor of {}.",
        growth.confidence * 100.0,
        number(at(1)),
        number(at(stream.len().saturating_sub(1))),
        number(growth.ratio)
    )
}

/// Which tokens carry massive activations, the heaviest first, and what they do to the mean.
fn heavy_sentences(record: &DiagnoseRecord) -> Vec<String> {
    /// Kinds of tokens that are named; the record has all.
    const NAMED: usize = 4;
    let kinds = HeavyToken::kinds(&record.heavy_tokens);
    if kinds.is_empty() {
        return Vec::new();
    }
    let named = kinds.iter().take(NAMED).map(|kind| {
        let times = if kind.count > 1 { format!(", {} times", kind.count) } else { String::new() };
        format!(
            "{:?} (id {}{times}) {}, up to {} times",
            kind.text,
            kind.id,
            since(kind.layer),
            number(kind.ratio)
        )
    });
    let mut named = named.collect::<Vec<_>>().join("; ");
    if kinds.len() > NAMED {
        named += &format!("; and {} more", counted(kinds.len() - NAMED, "kind"));
    }
    let mut sentences = vec![format!(
        "Massive activations: {} of {} tokens carry more than {} times the median token's variance: \
         {named}.",
        record.heavy_tokens.len(),
        record.text.tokens,
        HeavyToken::FACTOR
    )];
    let lifted = record.stream.iter().max_by(|a, b| lift(a).total_cmp(&lift(b)));
    if let Some(most) = lifted.filter(|most| lift(most) > 1.5) {
        sentences.push(format!(
            "At stream {} such tokens lift the mean variance over all tokens to {}, where the median \
             token has {} and the mean without first tokens and separators is {}.",
            most.index,
            number(most.variance),
            number(most.typical()),
            number(most.content())
        ));
    }
    sentences
}

/// How far the mean over all tokens is above the median.
fn lift(stream: &StreamRecord) -> f64 {
    if stream.typical() > 0.0 { stream.variance / stream.typical() } else { 0.0 }
}
