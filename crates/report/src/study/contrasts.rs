//! Contrasts in words and as a table: what is claimed only when a test was planned for it.

use lns_record::ContrastRecord;
use maud::{Markup, html};

use super::findings::range;
use super::{Study, nats};
use crate::number::{counted, number};
use crate::text::{clean, shortened};

/// What its tests allow to say.
pub(super) fn word(contrast: &ContrastRecord) -> String {
    let side = || if contrast.estimate.mean < 0.0 { "below 0" } else { "above 0" };
    let margin = contrast.equivalence.map(|found| format!("inside ±{}", nats(found.margin)));
    match (contrast.differs(), margin.filter(|_| contrast.is_equivalent())) {
        (true, Some(margin)) => format!("{}, {margin}", side()),
        (true, None) => side().to_owned(),
        (false, Some(margin)) => margin,
        (false, None) if contrast.p.is_none() => "one seed: no test".to_owned(),
        (false, None) => "undecided".to_owned(),
    }
}

/// `0.031`, `< 0.001`
fn p_value(p: f64) -> String {
    if p < 0.001 { "< 0.001".to_owned() } else { format!("{p:.3}") }
}

/// `lns 0.02 − pre 0.02 − 0.5 · lns 0.632 + …`
fn formula(contrast: &ContrastRecord) -> String {
    let term = |(at, (name, weight)): (usize, &(String, f64))| {
        let sign = match (at, *weight < 0.0) {
            (0, true) => "−",
            (0, false) => "",
            (_, true) => " − ",
            (_, false) => " + ",
        };
        let name = shortened(&clean(name), 48);
        match weight.abs() {
            1.0 => format!("{sign}{name}"),
            size => format!("{sign}{} · {name}", number(size)),
        }
    };
    // What is counted for comes first, as people write it.
    let mut weights: Vec<&(String, f64)> = contrast.weights.iter().collect();
    weights.sort_by_key(|(_, weight)| *weight < 0.0);
    weights.into_iter().enumerate().map(term).collect()
}

fn name(contrast: &ContrastRecord) -> String {
    shortened(&clean(&contrast.name), 80)
}

impl Study<'_> {
    /// A line for each contrast: `interaction: below 0: −0.352 (95 % −0.400 to −0.304), 5 seeds, p 0.002`
    pub(super) fn contrast_lines(&self) -> Vec<String> {
        let line = |contrast: &ContrastRecord| {
            let estimate = &contrast.estimate;
            let mut line =
                format!("{}: {}: {}", name(contrast), word(contrast), nats(estimate.mean));
            if let Some(range) = range(estimate, nats) {
                line += &format!(" (95 % {range})");
            }
            line += &format!(", {}", counted(estimate.count, "seed"));
            if let Some(p) = contrast.p {
                line += &format!(", p {}", p_value(p));
            }
            if let Some(p) = contrast.p_holm {
                line += &format!(", Holm {}", p_value(p));
            }
            if let Some(found) = contrast.equivalence
                && let Some(p) = found.p
            {
                line += &format!(", beyond ±{} p {}", nats(found.margin), p_value(p));
            }
            line
        };
        self.record.contrasts.iter().map(line).collect()
    }

    pub(super) fn contrasts(&self) -> Markup {
        let contrasts = &self.record.contrasts;
        let holm = contrasts.iter().any(|contrast| contrast.p_holm.is_some());
        let equivalence = contrasts.iter().any(|contrast| contrast.equivalence.is_some());
        html! {
            @if !contrasts.is_empty() {
                h2 { "Contrasts" }
                div.scroll {
                    table.results {
                        thead { tr {
                            th.words scope="col" { "contrast" }
                            th scope="col" { "seeds" }
                            th scope="col" { "estimate" small { "nats per token" } }
                            th.left scope="col" { "finding" }
                            th scope="col" { "p" small { "of no difference" } }
                            @if holm { th scope="col" { "p, Holm" small { "primaries of the plan" } } }
                            @if equivalence { th scope="col" { "p" small { "of a difference beyond the margin" } } }
                        } }
                        tbody {
                            @for contrast in contrasts {
                                tr {
                                    th.words scope="row" {
                                        (name(contrast))
                                        @if contrast.primary { " (primary)" }
                                        small { (formula(contrast)) }
                                    }
                                    td { (contrast.estimate.count) }
                                    td {
                                        (nats(contrast.estimate.mean))
                                        @if let Some(range) = range(&contrast.estimate, nats) { small { (range) } }
                                    }
                                    td.left { (word(contrast)) }
                                    td { (contrast.p.map(p_value).unwrap_or_default()) }
                                    @if holm { td { (contrast.p_holm.map(p_value).unwrap_or_default()) } }
                                    @if equivalence {
                                        td {
                                            @if let Some(found) = contrast.equivalence {
                                                (found.p.map(p_value).unwrap_or_default())
                                                small { "±" (nats(found.margin)) }
                                            }
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
                div.under {
                    p.small {
                        "Each is taken within a seed, over the seeds that all its groups have finished; the range is its 95 % "
                        "confidence interval (Student's t). A difference is claimed at p below 0.05"
                        @if holm { ", of a primary contrast after Holm's correction" }
                        "."
                        @if equivalence { " That there is none is claimed when two one-sided tests place it inside the margin; anything else is undecided." }
                    }
                    @if self.record.missing_runs > 0 {
                        p.small { "Runs are missing: these are not yet the contrasts that were planned." }
                    }
                }
            }
        }
    }
}
