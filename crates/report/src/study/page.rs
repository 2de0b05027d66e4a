//! The study's page: the finding with its uncertainty, the table, the charts, the theory.

use lns_record::{GroupRecord, Interval, RunRecord, StudyRecord, TheoryCheck, TheoryRecord};
use maud::{Markup, html};

use super::findings::{ends, range};
use super::means::Outcomes;
use super::{Study, label, nats, perplexities, perplexity};
use crate::number::{counted, drawable, figure, grouped, number};
use crate::page::{document, figures, stat};
use crate::text::{clean, prose};

/// One page for a study, whole without anything beside it.
pub fn study_page(record: &StudyRecord) -> String {
    let study = Study::new(record);
    let (drawings, theory) = (study.drawings(), study.theory_drawings());
    let title = label(&record.name);
    let body = html! {
        header {
            p.over { "Study of norm schemes" }
            h1 { (title) }
        }
        (study.findings())
        (settings(record))
        (study.results())
        (study.contrasts())
        (study.tuning())
        @if !drawings.is_empty() {
            h2 { "Charts" }
            (figures(&drawings))
        }
        @if let Some(found) = &record.theory {
            h2 { "Theory, measured" }
            (checks(found))
            @if !theory.is_empty() { div.apart { (figures(&theory)) } }
        }
        (study.runs())
        (study.reading())
    };
    document(&format!("Study: {title}"), body)
}

fn settings(record: &StudyRecord) -> Markup {
    html! {
        @if !record.settings.is_empty() {
            h2 { "What every run has in common" }
            dl.facts.plain {
                @for (what, value) in &record.settings {
                    div { dt { (clean(what)) } dd { (prose(value)) } }
                }
            }
        }
    }
}

/// A mean with its interval under it.
fn estimate(interval: Option<Interval>, write: fn(f64) -> String) -> Markup {
    html! {
        @if let Some(interval) = interval {
            (write(interval.mean))
            @if let Some(range) = range(&interval, write) { small { (range) } }
        }
    }
}

/// `3 finished, 1 diverged`
fn outcomes(group: &GroupRecord) -> Markup {
    let outcomes = Outcomes::of(group);
    html! {
        (outcomes.finished)
        @if outcomes.diverged > 0 { small.alert { (outcomes.diverged) " diverged" } }
        @if outcomes.unfinished > 0 { small { (outcomes.unfinished) " unfinished" } }
    }
}

impl Study<'_> {
    fn findings(&self) -> Markup {
        let findings: Vec<String> = self.others().into_iter().chain(self.gaps()).collect();
        html! {
            section.verdict {
                @if let Some(caution) = &self.record.caution { p.warning { (prose(caution)) } }
                p.lead { (self.headline()) }
                (self.stats())
                @if !findings.is_empty() {
                    ul.evidence { @for finding in &findings { li { (finding) } } }
                }
            }
        }
    }

    /// The subject's difference and perplexity beside the baseline's, and what chance does.
    fn stats(&self) -> Markup {
        let group = |name: &str| self.record.groups.iter().find(|group| group.name == name);
        let mean = |name: &str| drawable(perplexities(group(name)?)?.mean);
        let Some(pair) = self.subject() else { return html! {} };
        let (name, baseline) = (label(&pair.name), &self.baseline);
        let difference = drawable(pair.difference.mean).filter(|_| pair.difference.count > 0);
        let ours = mean(&pair.name).zip(mean(&self.record.baseline));
        html! {
            dl.stats {
                @if let Some(mean) = difference {
                    @let interval = range(&pair.difference, nats);
                    @let detail = interval.map_or_else(|| "one seed: no interval".to_owned(), |range| format!("95 % interval {range}"));
                    (stat(&format!("Loss of {name} − {baseline}"), &nats(mean), html! { " nats per token" }, &detail))
                }
                @if let Some((ours, theirs)) = ours {
                    (stat(&format!("Perplexity of {name}"), &perplexity(ours), html! { " against " (perplexity(theirs)) }, &format!("of {baseline}; means over finished seeds")))
                }
                @if let Some(noise) = self.noise() {
                    (stat("Noise probe", &format!("±{}", nats(noise)), html! { " nats per token" }, "the most that chance alone has moved a seed"))
                }
            }
        }
    }

    fn results(&self) -> Markup {
        let groups = &self.record.groups;
        let published = groups.iter().any(|group| group.published_perplexity.is_some());
        let depth = groups.iter().any(|group| self.effective_depth(group).is_some());
        let idle = groups.iter().any(|group| self.idle(group).is_some());
        html! {
            @if !groups.is_empty() {
                h2 { "Results" }
                div.scroll {
                    table.results {
                        thead { tr {
                            th.words scope="col" { "group" }
                            th scope="col" { "seeds" }
                            th scope="col" { "loss" small { "nats per token" } }
                            th scope="col" { "difference" small { "to " (self.baseline) } }
                            th.left scope="col" { "finding" }
                            th scope="col" { "perplexity" }
                            @if published { th scope="col" { "published" small { "perplexity" } } }
                            @if depth { th scope="col" { "effective" small { "depth" } } }
                            @if idle { th scope="col" { "idle" small { "layers" } } }
                        } }
                        tbody {
                            @for group in groups {
                                tr.baseline[self.is_baseline(group)] {
                                    th.words scope="row" { (label(&group.name)) }
                                    td { (outcomes(group)) }
                                    td { (estimate(group.loss, nats)) }
                                    td { (estimate(self.difference_of(group), nats)) }
                                    td.left { (self.word(group)) }
                                    td { (estimate(perplexities(group), perplexity)) }
                                    @if published { td { (group.published_perplexity.map(perplexity).unwrap_or_default()) } }
                                    @if depth { td { (self.effective_depth(group).map(figure).unwrap_or_default()) } }
                                    @if idle { td { (self.idle(group).map(number).unwrap_or_default()) } }
                                }
                            }
                            @if let Some(ideal) = self.record.ideal_loss {
                                tr.ideal {
                                    th.words scope="row" { "ideal reader" }
                                    td {}
                                    td { (nats(ideal)) }
                                    td {}
                                    td.left { "bound" }
                                    td { (perplexity(ideal.exp())) }
                                    @for _ in 0..usize::from(published) + usize::from(depth) + usize::from(idle) { td {} }
                                }
                            }
                        }
                    }
                }
                (self.table_words())
            }
        }
    }

    /// What the table does not say of itself.
    fn table_words(&self) -> Markup {
        let several =
            self.record.groups.iter().filter_map(|group| group.loss).any(|l| ends(&l).is_some());
        html! {
            div.under {
                p.small {
                    "Means over finished seeds"
                    @if several { "; the range under a mean is its 95 % confidence interval (Student's t over seeds)" }
                    ". The difference is taken seed by seed, on the same tokens in the same order."
                }
                @if self.unequal_seeds() { p.small { (self.unequal_sentence()) } }
                @if self.record.pairs.iter().any(|pair| pair.noise_probe) { p.small { (self.noise_sentence()) } }
                @if self.record.ideal_loss.is_some() {
                    p.small { "The ideal reader knows the grammar that wrote the text: no model can do better." }
                }
                @if let Some(source) = &self.record.published_source {
                    p.small { "Published perplexities: " (clean(source)) ". They are from other runs on other text: only the order and the distances between schemes can be compared." }
                }
                @if self.record.groups.iter().all(|group| self.idle(group).is_none()) {
                    p.small { "No model of this study was diagnosed, so nothing is known of its layers." }
                }
            }
        }
    }

    fn runs(&self) -> Markup {
        let runs: Vec<(&GroupRecord, &RunRecord)> = self
            .groups()
            .flat_map(|(group, _)| group.runs.iter().map(move |run| (group, run)))
            .collect();
        html! {
            @if !runs.is_empty() {
                h2 { "Runs" }
                div.scroll {
                    table {
                        thead { tr {
                            th.words scope="col" { "group" }
                            th scope="col" { "seed" }
                            th.words scope="col" { "outcome" }
                            th scope="col" { "steps" }
                            th scope="col" { "tokens" }
                            th scope="col" { "loss" }
                            th.words scope="col" { "folder" }
                        } }
                        tbody {
                            @for (group, run) in runs {
                                tr {
                                    th.words scope="row" { (label(&group.name)) }
                                    td { (run.seed) }
                                    td.words { (clean(&run.outcome)) }
                                    td { (grouped(run.steps)) }
                                    td { (grouped(run.tokens)) }
                                    td { (run.loss.map(nats).unwrap_or_default()) }
                                    td.words { code { (clean(&run.folder)) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    fn reading(&self) -> Markup {
        let comparisons = self.record.pairs.iter().filter(|pair| !pair.noise_probe).count();
        html! {
            h2 { "How to read this" }
            dl.terms {
                dt { "Loss, perplexity" }
                dd { "Negative log-likelihood per predicted token of held-out text, in nats; perplexity is e" sup { "loss" } ", at the mean and at the ends of its interval. A difference of 0.01 nats is one percent of perplexity." }
                dt { "Difference" }
                dd {
                    "Every seed trains each group with the same tokens in the same order, and from the same weights where \
                     shapes agree, so losses are compared seed by seed. A group counts as lower or higher only when the 95 % \
                     interval leaves out zero and the difference is larger than the noise probe's; otherwise it is undecided, \
                     which is not the same as equal. One seed has no interval, whatever its difference."
                    @if comparisons > 4 {
                        " With " (comparisons) " comparisons at 95 % each, one in twenty leaves out zero by chance."
                    }
                }
                dt { "Noise probe" }
                dd { (self.noise_sentence()) " A difference no larger than it means nothing." }
                dt { "LayerNorm Scaling" }
                dd {
                    code { "lns" } " multiplies the output of both norms of layer i by 1/√(i + 1), so that the variance of the \
                     residual stream does not drown the deep layers ("
                    a href="https://arxiv.org/abs/2502.05795" { "arXiv 2502.05795" } ", eq. 12)."
                }
                dt { "Idle layer" }
                dd { "A layer whose removal costs less than the diagnosis' threshold with two standard errors to spare." }
                dt { "Effective depth" }
                dd { "e" sup { "entropy" } " of the layers' shares of the total removal cost: the number of layers when all matter equally, 1 when one does everything." }
            }
        }
    }
}

fn checks(theory: &TheoryRecord) -> Markup {
    let with = |agrees: Option<bool>| theory.checks.iter().filter(|c| c.agrees == agrees).count();
    let (agree, disagree, open) = (with(Some(true)), with(Some(false)), with(None));
    html! {
        @if theory.checks.is_empty() {
            p { "No statement was checked." }
        } @else {
            p { (held(agree, disagree, open)) }
            div.scroll {
                table.checks {
                    thead { tr {
                        th.left scope="col" { "stated in" }
                        th.left scope="col" { "group" }
                        th.left scope="col" { "when" }
                        th.words scope="col" { "quantity" }
                        th.words scope="col" { "expected" }
                        th scope="col" { "measured" }
                        th scope="col" { "R²" }
                        th.left scope="col" { "result" }
                    } }
                    tbody { @for check in &theory.checks { (check_row(check)) } }
                }
            }
        }
    }
}

/// `Of 28 statements held against these runs, 11 agree, 3 disagree and 14 are open: …`
fn held(agree: usize, disagree: usize, open: usize) -> String {
    let verb = |number: usize, one: &str, many: &str| {
        format!("{number} {}", if number == 1 { one } else { many })
    };
    let reason = match open {
        0 => "",
        1 => ": it allows more than one outcome",
        _ => ": they allow more than one outcome",
    };
    format!(
        "Of {} held against these runs, {}, {} and {} open{reason}.",
        counted((agree + disagree + open) as u64, "statement"),
        verb(agree, "agrees", "agree"),
        verb(disagree, "disagrees", "disagree"),
        verb(open, "is", "are"),
    )
}

fn check_row(check: &TheoryCheck) -> Markup {
    html! {
        tr {
            td.left { (clean(&check.source)) }
            td.left { (label(&check.scheme)) }
            td.left { (clean(&check.when)) }
            td.words { (clean(&check.quantity)) }
            td.words { (clean(&check.expected)) }
            td { (number(check.measured)) }
            td { (check.r_squared.map(figure).unwrap_or_default()) }
            td.left {
                @match check.agrees {
                    Some(true) => "agrees",
                    Some(false) => strong.alert { "disagrees" },
                    None => "open",
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_summed_up_in_a_sentence() {
        assert_eq!(
            held(11, 3, 14),
            "Of 28 statements held against these runs, 11 agree, 3 disagree and 14 are open: they allow \
             more than one outcome."
        );
        assert_eq!(
            held(1, 0, 0),
            "Of 1 statement held against these runs, 1 agrees, 0 disagree and 0 are open."
        );
    }
}
