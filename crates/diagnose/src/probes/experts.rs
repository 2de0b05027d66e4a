//! `experts`: how evenly the tokens of a mixture are spread over the experts of each layer.

use lns_record::{
    ChartDescription, ChartScale, DiagnoseRecord, Format, Group, Quantity, SeriesDescription,
};
use lns_show::counted;
use lns_spec::ModelSpec;
use serde::{Deserialize, Serialize};

use super::{Course, Probe};
use crate::{
    observer::{AtLayer, Notes, Observer, Passed},
    words::number,
};

pub(crate) struct Experts;

/// What `diagnose.json` has of a layer's experts, over content tokens.
#[derive(Serialize, Deserialize)]
struct Load {
    /// The share of tokens that each computes; they add up to the experts of a token.
    load: Vec<f64>,
    /// The largest of these.
    busiest: f64,
    /// e^H, H the entropy of the experts' shares of all that is computed.
    effective: f64,
    /// How many compute no token.
    idle: usize,
}

impl Load {
    /// The name of a layer's entry.
    const NAME: &str = "experts";

    fn of(counts: &[usize], tokens: usize) -> Self {
        let all: usize = counts.iter().sum();
        let shares = counts.iter().filter(|count| **count > 0).map(|count| {
            let share = *count as f64 / all.max(1) as f64;
            -share * share.ln()
        });
        let load: Vec<f64> =
            counts.iter().map(|count| *count as f64 / tokens.max(1) as f64).collect();
        Self {
            busiest: load.iter().copied().fold(0.0, f64::max),
            effective: shares.sum::<f64>().exp(),
            idle: counts.iter().filter(|count| **count == 0).count(),
            load,
        }
    }

    fn idle_ones(&self) -> impl Iterator<Item = usize> {
        self.load.iter().enumerate().filter(|(_, load)| **load == 0.0).map(|(expert, _)| expert)
    }
}

fn effective() -> Quantity {
    Quantity::of_layers("experts.effective", "experts in use").in_column("experts", 45, 75)
}

fn busiest() -> Quantity {
    Quantity {
        unit: "% of tokens".to_owned(),
        format: Format::Percent,
        ..Quantity::of_layers("experts.busiest", "busiest expert")
    }
    .in_column("busiest", 46, 75)
}

fn idle() -> Quantity {
    Quantity::of_layers("experts.idle", "experts without a token").in_column("idle", 47, 75)
}

impl Probe for Experts {
    fn name(&self) -> &'static str {
        "experts"
    }

    fn measures(&self) -> &'static str {
        "how evenly tokens are spread over a mixture's experts"
    }

    fn lacks(&self, model: &ModelSpec) -> Option<&'static str> {
        (!model.is_mixture()).then_some("experts")
    }

    fn price(&self, _layers: f64) -> f64 {
        0.0
    }

    fn group(&self) -> Group {
        Group::Stream
    }

    fn quantities(&self) -> Vec<Quantity> {
        vec![effective(), busiest(), idle()]
    }

    fn charts(&self) -> Vec<ChartDescription> {
        vec![ChartDescription {
            name: "experts".to_owned(),
            title: "Experts in use".to_owned(),
            caption:
                "e^H of the experts' shares of a layer's work: over how many of them the content \
                      tokens are as if spread evenly; and how many compute none of them."
                    .to_owned(),
            y: "experts".to_owned(),
            scale: ChartScale::Positive,
            without_end: false,
            line: None,
            series: vec![
                SeriesDescription::of(&effective(), "in use", 0),
                SeriesDescription::of(&idle(), "without a token", 4),
            ],
        }]
    }

    fn course(&self) -> Course {
        Course::Shared(Box::new(Watch::default()))
    }

    fn evidence(&self, record: &DiagnoseRecord) -> Vec<String> {
        let loads: Vec<(usize, Load)> = record
            .layers
            .iter()
            .filter_map(|layer| {
                let load = layer.more.get(Load::NAME)?;
                Some((layer.layer, serde_json::from_value(load.clone()).ok()?))
            })
            .collect();
        let uneven = |(_, load): &&(usize, Load)| load.effective / load.load.len() as f64;
        let Some((layer, load)) = loads.iter().min_by(|a, b| uneven(a).total_cmp(&uneven(b)))
        else {
            return Vec::new();
        };
        let mut sentences = vec![format!(
            "Tokens are spread least evenly over the experts of layer {layer}: as if over {} of {}.",
            number(load.effective),
            load.load.len()
        )];
        sentences.extend(idle_sentence(&loads));
        sentences
    }
}

/// Which experts compute nothing; of many the first.
fn idle_sentence(loads: &[(usize, Load)]) -> Option<String> {
    const NAMED: usize = 12;
    let idle: Vec<String> = loads
        .iter()
        .flat_map(|(layer, load)| load.idle_ones().map(move |expert| format!("{layer}.{expert}")))
        .collect();
    let more = match idle.len().checked_sub(NAMED) {
        None | Some(0) => String::new(),
        Some(more) => format!(" and {more} more"),
    };
    (!idle.is_empty()).then(|| {
        format!(
            "No content token of this text goes to {} (layer.expert): {}{more}.",
            counted(idle.len(), "expert"),
            idle[..idle.len().min(NAMED)].join(", ")
        )
    })
}

/// Notes how many content tokens of each window each expert of each layer computes.
#[derive(Default)]
struct Watch(Notes<Vec<usize>>);

impl Observer for Watch {
    fn at_layer(&self, at: &AtLayer<'_>) -> Result<(), String> {
        let read = at.weights.mlp_reads(at.stream.clone(), at.middle.clone());
        let (Some(experts), Some(chosen)) = (&at.weights.experts, at.weights.chosen_experts(read))
        else {
            return Ok(());
        };
        let mut counts = vec![0; experts.count()];
        let per_token = (chosen.len() / at.content.len().max(1)).max(1);
        for (of_token, is_content) in chosen.chunks(per_token).zip(at.content) {
            of_token.iter().filter(|_| *is_content).for_each(|expert| counts[*expert] += 1);
        }
        self.0.add(at.window, at.layer.get(), counts);
        Ok(())
    }

    fn conclude(&self, passed: &Passed<'_>, record: &mut DiagnoseRecord) {
        let notes = self.0.read();
        for layer in &mut record.layers {
            let windows =
                (0..passed.windows.len()).filter_map(|window| notes.get(&(window, layer.layer)));
            let counts = windows.fold(Vec::new(), |mut sum: Vec<usize>, window| {
                sum.resize(window.len(), 0);
                sum.iter_mut().zip(window).for_each(|(sum, count)| *sum += count);
                sum
            });
            if !counts.is_empty() {
                layer.note(Load::NAME, &Load::of(&counts, passed.content_tokens()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_load_is_over_all_experts_and_one_without_tokens_is_named() {
        let even = Load::of(&[6, 6, 6, 6], 12);
        assert!((even.effective - 4.0).abs() < 1e-12 && even.idle == 0);
        assert_eq!(even.load, [0.5; 4]);
        let uneven = Load::of(&[12, 0, 12, 0], 12);
        assert!((uneven.effective - 2.0).abs() < 1e-12 && uneven.busiest == 1.0);
        let sentence = idle_sentence(&[(3, even), (5, uneven)]).expect("some are idle");
        assert!(sentence.contains("2 experts (layer.expert): 5.1, 5.3."), "{sentence}");
    }
}
