//! The report: one HTML page that needs nothing beside itself, no script and no network.

use lns_record::{
    Axis, DiagnoseRecord, Group, GrowthModel, HeavyToken, Numbers, Quantity, VarianceGrowth,
    VerdictRecord,
};
use lns_show::{block_in_words, layers_in_words};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;

use crate::charts::drawings;
use crate::columns;
use crate::comparable::incomparable;
use crate::drawing::{Drawing, Room, rules};
use crate::number::{counted, figure, grouped, measured, number, percent};
use crate::palette::{HUES, properties, themed};
use crate::tasks::{Model, answers};
use crate::text::{clean, clean_lines, labels, quoted};

const PAGE_RULES: &str = include_str!("page.css");

/// The page of one model, or of several side by side; the first is the subject.
pub fn diagnosis_page(records: &[DiagnoseRecord]) -> String {
    let labels = labels(records);
    let drawings = drawings(records);
    let body = html! {
        (heading(&labels))
        (verdicts(records, &labels))
        (facts(records, &labels))
        (asked(records, &labels))
        @if !drawings.is_empty() {
            h2 { "Layer by layer" }
            @if let Some(found) = incomparable(records) { p.warning { (found.sentence) } }
            (figures(&drawings))
        }
        (numbers(records, &labels))
        (reading())
        (not_measured(records, &labels))
    };
    document(&format!("Depth diagnosis: {}", labels.join(", ")), body)
}

/// A whole page around its `body`.
pub(crate) fn document(title: &str, body: Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                // Nothing may load or run, even if text of a stranger slipped through escaping.
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(properties())) (PreEscaped(themed(PAGE_RULES))) (PreEscaped(rules(themed))) }
            }
            body { main { (body) } }
        }
    };
    page.into_string()
}

fn heading(labels: &[String]) -> Markup {
    html! {
        header {
            p.over { "Depth diagnosis" }
            h1 {
                @for (at, label) in labels.iter().enumerate() {
                    @if at > 0 { span.against { " against " } }
                    (label)
                }
            }
        }
    }
}

fn verdicts(records: &[DiagnoseRecord], labels: &[String]) -> Markup {
    html! {
        section.several[records.len() > 1] {
            @for (at, (record, label)) in records.iter().zip(labels).enumerate() {
                article.verdict {
                    @if records.len() > 1 {
                        h3 { span.key style=(format!("background:var(--hue{})", at % HUES)) {} (label) }
                    }
                    p.lead { (clean(&record.verdict.text)) }
                    (stats(record))
                    @if !record.verdict.evidence.is_empty() {
                        ul.evidence {
                            @for finding in &record.verdict.evidence { li { (clean(finding)) } }
                        }
                    }
                }
            }
        }
    }
}

/// The verdict's three numbers.
fn stats(record: &DiagnoseRecord) -> Markup {
    let (verdict, layers) = (&record.verdict, record.layers.len());
    html! {
        dl.stats {
            @if let Some(depth) = verdict.effective_depth {
                (stat("Effective depth", &number(depth), html! { " of " (layers) }, "layers that share the work"))
            }
            @if record.layers.iter().any(|layer| layer.removal.is_some()) {
                (idle_stat(verdict, layers))
            }
            @if let Some(growth) = &verdict.variance_growth {
                @if growth.is_decided() {
                    (stat("Variance growth", growth_name(growth.model), growth_rate(growth), &growth_detail(growth)))
                } @else {
                    (stat("Variance growth", "undecided", html! { " curve" }, &growth_detail(growth)))
                }
            }
        }
    }
}

fn idle_stat(verdict: &VerdictRecord, layers: usize) -> Markup {
    let idle = &verdict.idle_layers;
    let Some(threshold) = verdict.idle_threshold else {
        let needed = format!("that takes {} windows or more", VerdictRecord::WINDOWS_TO_JUDGE);
        return stat("Idle layers", "not judged", html! {}, &needed);
    };
    let detail = match idle.is_empty() {
        false => layers_in_words(idle),
        true => format!("none is surely below {} nats", number(threshold)),
    };
    stat("Idle layers", &idle.len().to_string(), html! { " of " (layers) }, &detail)
}

pub(crate) fn stat(name: &str, value: &str, unit: Markup, detail: &str) -> Markup {
    html! {
        div {
            dt { (name) }
            dd {
                div.value { (value) small { (unit) } }
                div.detail { (detail) }
            }
        }
    }
}

fn growth_name(model: GrowthModel) -> &'static str {
    match model {
        GrowthModel::Flat => "flat",
        GrowthModel::Linear => "linear",
        GrowthModel::Polynomial => "polynomial",
        GrowthModel::Exponential => "exponential",
    }
}

fn growth_rate(growth: &VarianceGrowth) -> Markup {
    html! {
        @match growth.model {
            GrowthModel::Flat => {},
            GrowthModel::Linear => { " " (number(growth.rate)) " per layer" },
            GrowthModel::Polynomial => { " depth" sup { (number(growth.rate)) } },
            GrowthModel::Exponential => { " ×" (number(growth.rate.exp())) " per layer" },
        }
    }
}

fn growth_detail(growth: &VarianceGrowth) -> String {
    let curve = match growth.is_decided() {
        true => String::new(),
        false => format!("the {} one has ", growth_name(growth.model)),
    };
    format!(
        "×{} from the first layer's output to the last; {curve}{} of the evidence among four curves",
        number(growth.ratio),
        percent(growth.confidence)
    )
}

fn facts(records: &[DiagnoseRecord], labels: &[String]) -> Markup {
    let all: Vec<Vec<(&str, String)>> = records.iter().map(facts_of).collect();
    let Some(first) = all.first() else { return html! {} };
    html! {
        @if all.len() == 1 {
            dl.facts {
                @for (name, fact) in first.iter().filter(|(_, fact)| !fact.is_empty()) {
                    div { dt { (name) } dd { (fact) } }
                }
            }
        } @else {
            h2 { "What was measured" }
            div.scroll {
                table {
                    thead { tr { th {} @for label in labels { th.words scope="col" { (label) } } } }
                    tbody {
                        @for (at, (name, _)) in first.iter().enumerate() {
                            tr {
                                th.words scope="row" { (name) }
                                @for facts in &all { td.words { (facts[at].1) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// What the whole models answered to tasks.
fn asked(records: &[DiagnoseRecord], labels: &[String]) -> Markup {
    let models = records.iter().zip(labels).map(|(record, name)| Model {
        name,
        tasks: record.tasks.iter().map(|task| &task.answers).collect(),
    });
    let models: Vec<Model<'_>> = models.collect();
    html! {
        @if records.iter().any(|record| !record.tasks.is_empty()) {
            h2 { "Tasks, with every layer" }
            (answers(&models))
        }
    }
}

/// Always the same names in the same order.
fn facts_of(record: &DiagnoseRecord) -> Vec<(&'static str, String)> {
    let text = &record.text;
    let tokens = format!(
        "{} = {} × {}",
        grouped(text.tokens),
        counted(text.windows, "window"),
        grouped(text.window_len)
    );
    let [loss, perplexity] = losses(record);
    vec![
        ("Model", clean(&record.name)),
        ("Architecture", architecture(&record.model)),
        ("Layers", record.layers.len().to_string()),
        ("Text", files(&text.files)),
        ("Tokens", tokens),
        ("Loss, nats per token", loss),
        ("Perplexity", perplexity),
    ]
}

/// The loss and the perplexity in words.
fn losses(record: &DiagnoseRecord) -> [String; 2] {
    let Some(baseline) = &record.baseline else {
        return ["none: the model has no head".to_owned(), "none".to_owned()];
    };
    // The standard error of e^x is e^x times that of x, to first order.
    let perplexity_stderr = baseline.nll_stderr.map(|stderr| baseline.perplexity * stderr);
    let of = record.text.masking.map_or_else(String::new, |masking| {
        format!(" (of the {:.0} % that are masked)", 100.0 * masking.share)
    });
    [
        measured(baseline.nll, baseline.nll_stderr) + &of,
        measured(baseline.perplexity, perplexity_stderr) + &of,
    ]
}

/// `llama, 576 wide, scheme lns`, from what `config.json` says of it.
fn architecture(model: &Value) -> String {
    let text = |key: &str| model.get(key).and_then(Value::as_str).map(clean);
    let scheme = model.get("norm_scheme").and_then(|scheme| scheme.get("name"));
    let parts = [
        text("model_type"),
        model.get("hidden_size").and_then(Value::as_u64).map(|width| format!("{width} wide")),
        scheme.and_then(Value::as_str).map(|name| format!("scheme {}", clean(name))),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn files(files: &[String]) -> String {
    const SHOWN: usize = 3;
    let mut text = files.iter().take(SHOWN).map(|f| clean(f)).collect::<Vec<_>>().join(", ");
    if files.len() > SHOWN {
        text += &format!(" and {} more", files.len() - SHOWN);
    }
    text
}

/// Drawings in the page's two columns, each with its heading and caption.
pub(crate) fn figures(drawings: &[Drawing]) -> Markup {
    html! {
        div.charts {
            @for drawing in drawings {
                figure id=(drawing.name) .row[drawing.room == Room::Row] .half[drawing.room == Room::Half] {
                    h3 { (drawing.title) }
                    div.scroll { (drawing.inline()) }
                    figcaption { (drawing.caption) }
                }
            }
        }
    }
}

fn numbers(records: &[DiagnoseRecord], labels: &[String]) -> Markup {
    html! {
        h2 { "All numbers" }
        p.small {
            "Row i has the stream that enters layer i and what layer i does; the last row is the stream \
             that leaves the last layer. Losses are in nats per token, ± is one standard error. Branches, \
             ratios, cosines and angles are over content tokens: neither a window's first nor a separator."
        }
        @for (record, label) in records.iter().zip(labels) {
            @if records.len() > 1 { h3.model { (label) } }
            @let numbers = Numbers::of(record);
            @if !record.described.iter().any(|probe| probe.is_in(&numbers)) { p.small { "No probe left any." } }
            (heavy(record))
            (table(record, &numbers, Group::Stream, "Stream and branches"))
            (table(record, &numbers, Group::Effect, "Removal, gradients, predictions"))
            (blocks(record))
            (configuration(record, label))
        }
    }
}

/// The tokens that carry massive activations.
fn heavy(record: &DiagnoseRecord) -> Markup {
    /// diagnose.json has every token.
    const SHOWN: usize = 20;
    let kinds = HeavyToken::kinds(&record.heavy_tokens);
    html! {
        @if !kinds.is_empty() {
            div.scroll {
                table {
                    caption {
                        "Massive activations: more than " (HeavyToken::FACTOR) " times the median token's variance"
                    }
                    thead {
                        tr {
                            th.words scope="col" { "token" }
                            @for heading in ["id", "times", "window's first", "from layer", "times the median, up to"] {
                                th scope="col" { (heading) }
                            }
                        }
                    }
                    tbody {
                        @for kind in kinds.iter().take(SHOWN) {
                            tr {
                                td.words { code { (quoted(&kind.text)) } }
                                td { (kind.id) }
                                td { (kind.count) }
                                td { (kind.first) }
                                td { @match kind.layer { Some(layer) => (layer), None => "embedding" } }
                                td { (figure(kind.ratio)) }
                            }
                        }
                    }
                }
            }
            @if kinds.len() > SHOWN { p.small { "And " (counted((kinds.len() - SHOWN) as u64, "kind")) " more, in diagnose.json." } }
        }
    }
}

/// What is described of one group; nothing when every column is empty.
fn table(record: &DiagnoseRecord, numbers: &Numbers, group: Group, caption: &str) -> Markup {
    let of_group = record.described.iter().filter(|probe| probe.group == group);
    let columns = of_group
        .flat_map(|probe| &probe.quantities)
        .filter(|quantity| quantity.axis != Axis::Pair)
        .map(|quantity| (quantity, columns::on_page(record, numbers, quantity)));
    let filled = |(_, cells): &(&Quantity, Vec<String>)| cells.iter().any(|cell| !cell.is_empty());
    let columns: Vec<(&Quantity, Vec<String>)> = columns.filter(filled).collect();
    let unit = |quantity: &Quantity| (!quantity.unit.is_empty()).then(|| clean(&quantity.unit));
    let rows = columns.iter().map(|(_, cells)| cells.iter().rposition(|c| !c.is_empty()));
    let rows = rows.flatten().max().map_or(0, |last| last + 1);
    let is_idle = |i: &usize| record.verdict.idle_layers.contains(i);
    html! {
        @if !columns.is_empty() {
            div.scroll {
                table.numbers {
                    caption { (caption) }
                    thead { tr { th scope="col" { "i" } @for (quantity, _) in &columns { th scope="col" title=[unit(quantity)] { (clean(&quantity.label)) } } } }
                    tbody {
                        @for i in 0..rows {
                            tr.idle[is_idle(&i)] {
                                th scope="row" { @if is_idle(&i) { "idle " } (i) }
                                @for (_, cells) in &columns { td { (cells[i]) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn blocks(record: &DiagnoseRecord) -> Markup {
    html! {
        @if !record.blocks.is_empty() {
            details {
                summary { "Most redundant block of each size" }
                div.scroll {
                    table {
                        thead { tr { th scope="col" { "n" } th scope="col" { "layers" } th scope="col" { "angular distance" } } }
                        tbody {
                            @for block in &record.blocks {
                                tr {
                                    td { (block.n) }
                                    td { (block_in_words(block.start, block.n)) }
                                    td { (number(block.distance)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn configuration(record: &DiagnoseRecord, label: &str) -> Markup {
    let json = serde_json::to_string_pretty(&record.model).unwrap_or_default();
    html! {
        @if !record.model.is_null() {
            details {
                summary { "config.json of " (label) ", as understood" }
                pre { (clean_lines(&json)) }
            }
        }
    }
}

fn reading() -> Markup {
    let paper = |place: &str| html! { a href="https://arxiv.org/abs/2502.05795" { "arXiv 2502.05795" } ", " (place) };
    html! {
        h2 { "How to read this" }
        dl.terms {
            dt { "Curse of depth" }
            dd {
                "In a Pre-LN model the variance of the residual stream grows with depth while what a layer \
                 can add does not; deep layers then come close to passing their input on (" (paper("§3, eq. 5–7")) "). \
                 LayerNorm Scaling multiplies the output of each norm of layer i by 1/√(i + 1) (" (paper("eq. 12")) ")."
            }
            dt { "Layer i, n layers" }
            dd { "Layers count from 0. A range such as 21–24 is layers 21, 22, 23 and 24; on the command line it is \
                 written " code { "21..25" } "." }
            dt { "Removal cost" }
            dd {
                "The loss with the layer left out, minus the loss with it, on the same windows. The only \
                 evidence here that a layer is needed; the others tell why. Likelihood may miss what \
                 generation or reasoning needs a layer for."
            }
            dt { "Cost in a task" }
            dd {
                "What the answers lose when the layer is left out: of the right answer's log-probability, and of \
                 accuracy, which moves only where a document changes sides. Means over documents, paired. A rank \
                 correlation with removal cost near 1 says that loss on text ranks the layers as the task does."
            }
            dt { "Idle layer" }
            dd { "A layer whose removal surely costs less than the threshold: the 95 % interval (Student's t over windows) \
                 ends below it. With fewer than four windows none is judged." }
            dt { "Effective depth" }
            dd {
                "e" sup { "entropy" } " of the layers' shares of the total removal cost: the number of layers when all \
                 matter equally, 1 when one does everything."
            }
            dt { "Variance growth" }
            dd {
                "The best of four curves through the median token's variance, with its Schwarz weight \
                 among the four; below 60 % the curve is undecided. The theory allows linear to exponential growth for Pre-LN (" (paper("eq. 7"))
                ") and less than quadratic growth under LayerNorm Scaling (" (paper("eq. 14")) ")."
            }
            dt { "Massive activation" }
            dd {
                "A token whose variance is more than a hundred times the median token's (Sun et al., "
                a href="https://arxiv.org/abs/2402.17762" { "arXiv 2402.17762" }
                "): mostly a window's first, or a separator. A mean over all tokens is about these few; medians, \
                 and means over the other tokens, are not."
            }
            dt { "Angular distance" }
            dd {
                "arccos(cosine)/π of the stream before and after n layers (" (paper("eq. 1"))
                "; Gromov et al., " a href="https://arxiv.org/abs/2403.17887" { "arXiv 2403.17887" }
                "), averaged over every content token, not the last one alone. A small distance suggests a block to \
                 prune; only removal shows that it can be."
            }
            dt { "Block influence" }
            dd {
                "1 − mean cosine of a layer's input and output (ShortGPT, "
                a href="https://arxiv.org/abs/2403.03853" { "arXiv 2403.03853" } ")."
            }
        }
    }
}

fn not_measured(records: &[DiagnoseRecord], labels: &[String]) -> Markup {
    html! {
        h2 { "What was not measured" }
        @for (record, label) in records.iter().zip(labels) {
            @let numbers = Numbers::of(record);
            @let missing: Vec<_> = record.described.iter().filter(|probe| !probe.is_in(&numbers)).collect();
            @if records.len() > 1 { h3 { (label) } }
            @if !record.described.is_empty() && missing.is_empty() {
                p { "Every probe ran." }
            } @else {
                ul.evidence {
                    @for probe in missing {
                        li { code { "--probes " (clean(&probe.name)) } ": " (clean(&probe.measures)) }
                    }
                }
            }
            @if !record.probes.is_empty() {
                p.small { (costs(record)) }
            }
        }
    }
}

fn costs(record: &DiagnoseRecord) -> String {
    let cost = |probe: &lns_record::ProbeRecord| {
        format!("{} {} s", clean(&probe.name), number(probe.seconds))
    };
    format!("Probes that ran: {}.", record.probes.iter().map(cost).collect::<Vec<_>>().join(", "))
}
