//! The page of a study that fine-tunes.

use lns_record::{
    CellRecord, FinetunedPairRecord, FinetunedRunRecord, FinetuningRecord, InstructionDataRecord,
    PairedSeedRecord, TaskDifferenceRecord,
};
use maud::{Markup, html};

use super::{
    AT_FLOOR, FLOORS, asked_words, format_words, headline, interval_words, label, margin, number,
    points, share, told,
};
use crate::number::{counted, grouped};
use crate::page::document;
use crate::text::{clean, prose};

/// One page for a study that fine-tunes, whole without anything beside it.
pub fn finetuning_page(record: &FinetuningRecord) -> String {
    let title = label(&record.name);
    let said = headline(record);
    let body = html! {
        header {
            p.over { "Study of fine-tuning" }
            h1 { (title) }
        }
        section.verdict {
            @for (at, sentence) in said.iter().enumerate() {
                @if at == 0 { p.lead { (sentence) } }
            }
            ul.evidence { @for sentence in said.iter().skip(1) { li { (sentence) } } }
        }
        (accuracies(record))
        (pairs(record))
        (settings(record))
        (data(record))
        (runs(record))
        (reading(record))
    };
    document(&format!("Fine-tuning: {title}"), body)
}

fn cell(found: &CellRecord, write: fn(f64) -> String) -> Markup {
    html! {
        (number(found, write))
        @if let Some(margin) = margin(found) { small { (margin) } }
        @if let (Some(_), Some(reason)) = (&found.value, &found.reason) { small.alert { (clean(reason)) } }
    }
}

/// The heading of the columns.
fn head(record: &FinetuningRecord, first: &[&str]) -> Markup {
    html! {
        thead { tr {
            @for name in first { th.words scope="col" { (name) } }
            @for column in &record.columns {
                th scope="col" {
                    (clean(&column.task))
                    small { (grouped(column.documents)) @if column.of != column.documents { " of " (grouped(column.of)) } }
                    @if column.too_long > 0 { small { "without " (grouped(column.too_long)) " too long" } }
                    @if column.shots > 0 { small { (counted(column.shots, "shot")) } }
                }
            }
            th scope="col" { "mean" small { "of tasks" } }
        } }
    }
}

/// The paper's Table 2 in form.
fn accuracies(record: &FinetuningRecord) -> Markup {
    html! {
        h2 { "Accuracy before and after fine-tuning" }
        div.scroll {
            table.results {
                (head(record, &["scheme", ""]))
                tbody {
                    @for group in &record.groups {
                        @let name = label(&group.name);
                        @let seeds = counted(group.runs.len() as u64, "seed");
                        tr {
                            th.words scope="row" { (name) small { (seeds) } }
                            td.left { "before" }
                            @for found in &group.before { td { (cell(found, share)) } }
                        }
                        tr.baseline {
                            th.words scope="row" {}
                            td.left { "after" }
                            @for found in &group.after { td { (cell(found, share)) } }
                        }
                        tr {
                            th.words scope="row" {}
                            td.left { "difference" }
                            @for found in &group.difference { td { (cell(found, points)) } }
                        }
                    }
                    @for floor in FLOORS {
                        tr.ideal {
                            th.words scope="row" { (floor.name) }
                            td {}
                            @for found in floor.cells(&record.columns) { td { (found.map(share).unwrap_or_default()) } }
                        }
                    }
                }
            }
        }
        div.under {
            p.small { "Per cent; differences in percentage points. " (interval_words(record)) " Small below a task: the documents that were asked." }
            p.small {
                (AT_FLOOR) " not distinguishable from answering without reading the question: an exact binomial test against the best \
                 of the last three rows, at 5 % (of several seeds: for one of them at least). Nothing is corrected for the \
                 number of tests; of twenty models that guess, one would be called better."
            }
            p.small {
                "\"ties\" and \"not finite\" stand where a program that takes the largest score would have printed an accuracy that \
                 says nothing of the model, that of the row \"always the first\"."
            }
        }
    }
}

fn pairs(record: &FinetuningRecord) -> Markup {
    let baseline = label(&record.baseline);
    html! {
        @if !record.pairs.is_empty() {
            h2 { "Against " (baseline) }
            div.scroll {
                table.results {
                    (head(record, &["scheme", "", "finding"]))
                    tbody {
                        @for pair in &record.pairs {
                            (pair_row(pair, "before", &pair.before))
                            (pair_row(pair, "after", &pair.after))
                        }
                    }
                }
            }
            div.under {
                p.small { "Accuracy minus that of " (baseline) " with the same seed, on the same documents, in percentage points." }
            }
            @for pair in &record.pairs { @for seed in &pair.seeds { (documents(record, pair, seed)) } }
        }
    }
}

fn pair_row(pair: &FinetunedPairRecord, when: &str, cells: &[CellRecord]) -> Markup {
    html! {
        tr.baseline[when == "after"] {
            th.words scope="row" { @if when == "before" { (label(&pair.name)) } }
            td.left { (when) }
            td.left { @if let Some(mean) = cells.last() { (told(mean)) } }
            @for found in cells { td { (cell(found, points)) } }
        }
    }
}

/// Two models of one seed, document by document.
fn documents(
    record: &FinetuningRecord,
    pair: &FinetunedPairRecord,
    seed: &PairedSeedRecord,
) -> Markup {
    let baseline = label(&record.baseline);
    let moments = [("before", &seed.before), ("after", &seed.after)];
    html! {
        details {
            summary { (label(&pair.name)) " and " (baseline) ", seed " (seed.seed) ", document by document" }
            div.scroll {
                table {
                    thead { tr {
                        th.words scope="col" { "task" }
                        th.left scope="col" { "when" }
                        th scope="col" { "difference" small { "points" } }
                        th scope="col" { "95 %" }
                        th scope="col" { "only " (baseline) small { "is right" } }
                        th scope="col" { "only " (label(&pair.name)) small { "is right" } }
                        th scope="col" { "McNemar's p" }
                    } }
                    tbody {
                        @for (at, column) in record.columns.iter().enumerate() {
                            @for (when, found) in moments {
                                @if let Some(Some(found)) = found.get(at) { (document_row(&clean(&column.task), when, found)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn document_row(task: &str, when: &str, found: &TaskDifferenceRecord) -> Markup {
    let ends = found.low.zip(found.high);
    html! {
        tr {
            th.words scope="row" { (task) }
            td.left { (when) }
            td { (points(found.difference)) }
            td { @if let Some((low, high)) = ends { (points(low)) " to " (points(high)) } }
            td { (grouped(found.only_first)) }
            td { (grouped(found.only_second)) }
            td { (format!("{:.3}", found.mcnemar_p)) }
        }
    }
}

fn settings(record: &FinetuningRecord) -> Markup {
    html! {
        h2 { "What every run has in common" }
        dl.facts.plain {
            div { dt { "format of the examples" } dd { (format_words(&record.format)) } }
            div { dt { "how tasks are asked" } dd { (asked_words(&record.asked)) } }
            @for (what, value) in &record.settings {
                div { dt { (clean(what)) } dd { (prose(value)) } }
            }
        }
    }
}

fn data(record: &FinetuningRecord) -> Markup {
    html! {
        @if let Some(data) = &record.data {
            h2 { "Instruction data" }
            div.scroll {
                table {
                    thead { tr {
                        th.words scope="col" { "training set" }
                        th scope="col" { "documents" }
                        th scope="col" { "duplicates" small { "left out" } }
                        th scope="col" { "asked" small { "left out" } }
                        th scope="col" { "learned from" }
                        th scope="col" { "held out" }
                        th scope="col" { "Commonsense170K" small { "has" } }
                    } }
                    tbody {
                        @for set in &data.sets {
                            tr {
                                th.words scope="row" { (clean(&set.set)) }
                                td { (grouped(set.documents)) }
                                td { (grouped(set.duplicates)) }
                                td { (grouped(set.asked)) }
                                td { (grouped(set.train)) }
                                td { (grouped(set.held_out)) }
                                td { (set.commonsense170k.map(grouped).unwrap_or_default()) }
                            }
                        }
                        (sum_of_sets(data))
                    }
                }
            }
            div.under {
                p.small {
                    "Commonsense170K (LLM-Adapters) is these eight sets. It has WinoGrande six times, one size in the other (xs, s, m, l, xl, \
                     debiased): 63" "\u{202f}" "238 examples, of which 40" "\u{202f}" "398 (xl) are all there are, and shows no passage with BoolQ's questions. \
                     Here an example that says the same as one before it in its set is left out, so is one that is among the questions, and the order is a seeded one that no \
                     tokenizer changes: every model sees the same examples in the same order. Of examples longer than a sequence the end is kept."
                }
                p.small { "SHA-256 of the examples in their order: " code { (clean(&data.sha256)) } }
            }
        }
    }
}

fn sum_of_sets(data: &InstructionDataRecord) -> Markup {
    let sum = |of: fn(&lns_record::InstructionSetRecord) -> u64| {
        grouped(data.sets.iter().map(of).fold(0, u64::saturating_add))
    };
    html! {
        tr.baseline {
            th.words scope="row" { "all" }
            td { (sum(|set| set.documents)) }
            td { (sum(|set| set.duplicates)) }
            td { (sum(|set| set.asked)) }
            td { (sum(|set| set.train)) }
            td { (sum(|set| set.held_out)) }
            td { (sum(|set| set.commonsense170k.unwrap_or(0))) }
        }
    }
}

fn runs(record: &FinetuningRecord) -> Markup {
    let loss = |loss: Option<f64>| loss.map_or(String::new(), |loss| format!("{loss:.3}"));
    let row = |name: &str, run: &FinetunedRunRecord| {
        html! {
            tr {
                th.words scope="row" { (name) }
                td { (run.seed) }
                td.words { (clean(&run.outcome)) }
                td { (grouped(run.steps)) }
                td { (loss(run.loss_before)) }
                td { (loss(run.loss_after)) }
                td.words { code { (clean(&run.folder)) } }
                td.words { code { (clean(&run.model)) } }
            }
        }
    };
    html! {
        h2 { "Runs" }
        div.scroll {
            table {
                thead { tr {
                    th.words scope="col" { "scheme" }
                    th scope="col" { "seed" }
                    th.words scope="col" { "outcome" }
                    th scope="col" { "steps" }
                    th scope="col" { "loss before" small { "held-out responses" } }
                    th scope="col" { "after" small { "nats per token" } }
                    th.words scope="col" { "folder" }
                    th.words scope="col" { "model" }
                } }
                tbody {
                    @for group in &record.groups { @for run in &group.runs { (row(&label(&group.name), run)) } }
                }
            }
        }
    }
}

fn reading(record: &FinetuningRecord) -> Markup {
    let truncated: u64 = record
        .groups
        .iter()
        .flat_map(|group| &group.runs)
        .flat_map(|run| run.before.iter().flatten())
        .map(|found| found.answers.truncated)
        .fold(0, u64::saturating_add);
    html! {
        h2 { "How to read this" }
        dl.terms {
            dt { "Small models" }
            dd {
                "A model of a few million parameters knows little that these tasks ask: most of its accuracies are at chance before and \
                 after tuning, and a difference between two numbers at chance is no difference between schemes. Tasks of wording and \
                 grammar (blimp, sciq, arc_easy) are where small models differ from chance first."
            }
            dt { "Always the same" }
            dd {
                "Who takes the same place every time reaches the share of questions whose right answer stands there: in BoolQ, \"yes\" \
                 is right for 62 %. A model that has learned which answer is frequent, and nothing else, gets that accuracy."
            }
            dt { "Difference" }
            dd {
                "Two models of one seed saw the same examples in the same order and were asked the same documents, so they are compared \
                 document by document: what is hard for both drops out. McNemar's exact test looks only at documents on which they differ. \
                 Undecided is not the same as equal."
            }
            @if truncated > 0 {
                dt { "Long contexts" }
                dd { "Of contexts longer than a model's own the end is read; over all models and tasks that were " (counted(truncated, "document")) " before tuning." }
            }
        }
    }
}
