//! `tasks`: what a model's answers lose when a layer is left out.
//!
//! Documents of tasks are scored with every layer and without each of them, as `removal` does with windows
//! of text: what enters layer i enters layer i + 1, and the layers before are computed once. A layer's cost
//! is a mean over documents of what the whole model has more, so that documents are paired: of the right
//! answer's Σ log p, and of its being chosen (`acc`, `acc_norm`), which is coarser. Likelihood on text can
//! call a layer idle that a task needs (arXiv 2510.02091), so the ranks of the layers by both are compared.

use lns_record::{
    AgainstLossRecord, Axis, ChartDescription, ChartScale, CostRecord, DiagnoseRecord, Format,
    Group, LayerRecord, LineDescription, Quantity, SeriesDescription, TaskCostRecord, TaskRecord,
    TaskRemovalRecord,
};
use lns_score::{ScoreError, WithoutLayers, score_documents_without_layers};
use lns_show::{counted, layers_in_words, with_minus};
use lns_statistics::{margin, mean, rank_correlation, rank_correlation_interval, standard_error};
use lns_tasks::{Asked, Scored, compare, summary};

use super::{
    Course, Probe,
    removal::{IDLE_THRESHOLD, RemovalVerdict},
};
use crate::{Questioned, TaskMeasure, words::number};

pub(crate) struct Tasks;

impl Probe for Tasks {
    fn name(&self) -> &'static str {
        "tasks"
    }

    fn measures(&self) -> &'static str {
        "answers to --tasks without each layer"
    }

    /// Of the documents: as `removal` of windows.
    fn price(&self, layers: f64) -> f64 {
        layers * 0.52
    }

    fn group(&self) -> Group {
        Group::Effect
    }

    fn quantities(&self) -> Vec<Quantity> {
        Vec::new()
    }

    fn quantities_in(&self, record: &DiagnoseRecord) -> Vec<Quantity> {
        let measured = |task: &TaskRemovalRecord| -> Vec<Quantity> {
            let name = &task.answers.task;
            let measures = TaskMeasure::ALL.into_iter();
            let measured = measures.filter(|measure| is_measured(record, name, *measure));
            measured.map(|measure| quantity(name, measure)).collect()
        };
        record.tasks.iter().flat_map(measured).collect()
    }

    fn charts_in(&self, record: &DiagnoseRecord) -> Vec<ChartDescription> {
        record
            .tasks
            .iter()
            .flat_map(|task| [gold_chart(task), accuracy_chart(record, task)])
            .collect()
    }

    fn course(&self) -> Course {
        Course::Questions { run }
    }

    fn evidence(&self, record: &DiagnoseRecord) -> Vec<String> {
        record.tasks.iter().flat_map(|task| sentences(record, task)).collect()
    }
}

/// Documents that are scored before any is kept: few, so that somebody who stops the program does not wait
/// long, and enough for several workers. How many workers there are must not show in the numbers.
const DOCUMENTS: usize = 32;

/// Asks every task; of one that is stopped, the documents that were scored by then count.
fn run(questioned: &Questioned<'_>, record: &mut DiagnoseRecord) -> Result<(), ScoreError> {
    for asked in questioned.asked {
        let Some((asked, scored)) = scores(questioned, asked)? else { break };
        let whole = summary(&asked, &scored.whole);
        let gold = gold(&asked, &scored.whole);
        for (layer, without) in record.layers.iter_mut().zip(&scored.without) {
            let cost = cost(&asked, (&whole, &scored.whole), without);
            layer.tasks.insert(asked.task.clone(), cost);
        }
        let mut found = TaskRemovalRecord {
            gold_logprob: gold.as_deref().map(mean),
            gold_logprob_stderr: gold.as_deref().and_then(standard_error),
            answers: whole,
            against_loss: Vec::new(),
        };
        let against = |measure| against_loss(&record.layers, &asked.task, measure);
        found.against_loss = TaskMeasure::ALL.into_iter().filter_map(against).collect();
        record.tasks.push(found);
    }
    Ok(())
}

/// The documents of a task that were scored, and their scores; `None` when it was stopped before any.
fn scores(
    questioned: &Questioned<'_>,
    asked: &Asked,
) -> Result<Option<(Asked, WithoutLayers<Scored>)>, ScoreError> {
    let Questioned { source, reading, workers, control, .. } = *questioned;
    let layers = source.spec().num_hidden_layers;
    let mut all = WithoutLayers { whole: Vec::new(), without: vec![Vec::new(); layers] };
    for documents in asked.documents.chunks(DOCUMENTS) {
        if control.is_stopped() {
            break;
        }
        let found = score_documents_without_layers(
            source,
            &asked.task,
            documents,
            reading,
            workers,
            control.progress,
        )?;
        all.whole.extend(found.whole);
        for (all, found) in all.without.iter_mut().zip(found.without) {
            all.extend(found);
        }
    }
    let documents = asked.documents[..all.whole.len()].to_vec();
    Ok((!documents.is_empty()).then(|| (Asked { documents, ..asked.clone() }, all)))
}

/// Σ log p of the right answers, if all are numbers.
fn gold(asked: &Asked, scores: &[Scored]) -> Option<Vec<f64>> {
    let of = asked.documents.iter().zip(scores).map(|(document, scores)| {
        Some(scores.get(document.question.gold)?.log_probability).filter(|sum| sum.is_finite())
    });
    of.collect()
}

/// What the answers lose without a layer.
fn cost(asked: &Asked, whole: (&TaskRecord, &[Scored]), without: &[Scored]) -> TaskCostRecord {
    let answers = summary(asked, without);
    let differences = compare(asked, (&answers, without), whole);
    let of = |metric: &str| {
        let found = differences.iter().find(|difference| difference.metric == metric)?;
        let margin = found.high.map(|high| high - found.difference);
        Some(CostRecord { drop: found.difference, stderr: found.stderr, margin })
    };
    let pairs = gold(asked, whole.1).zip(gold(asked, without));
    let gold = pairs.map(|(whole, without)| {
        let drops: Vec<f64> = whole.iter().zip(&without).map(|(a, b)| a - b).collect();
        CostRecord { drop: mean(&drops), stderr: standard_error(&drops), margin: margin(&drops) }
    });
    TaskCostRecord { gold, acc: of("acc"), acc_norm: of("acc_norm") }
}

/// How the layers rank by a task and by loss; `None` where either was not measured of three layers.
fn against_loss(
    layers: &[LayerRecord],
    task: &str,
    measure: TaskMeasure,
) -> Option<AgainstLossRecord> {
    let both = |layer: &LayerRecord| {
        Some((layer.layer, layer.removal?.delta_nll, measure.of(layer.tasks.get(task)?)?.drop))
    };
    let both: Vec<(usize, f64, f64)> = layers.iter().filter_map(both).collect();
    let pairs: Vec<(f64, f64)> = both.iter().map(|(_, loss, task)| (*loss, *task)).collect();
    let correlation = rank_correlation(&pairs)?;
    let interval = rank_correlation_interval(correlation, both.len());
    let cheapest = |cost: fn(&(usize, f64, f64)) -> f64| -> Vec<usize> {
        let mut order: Vec<&(usize, f64, f64)> = both.iter().collect();
        order.sort_by(|a, b| cost(a).total_cmp(&cost(b)));
        let mut cheapest: Vec<usize> =
            order.iter().take(both.len().div_ceil(4)).map(|at| at.0).collect();
        cheapest.sort_unstable();
        cheapest
    };
    Some(AgainstLossRecord {
        measure: measure.name().to_owned(),
        rank_correlation: correlation,
        low: interval.map(|(low, _)| low),
        high: interval.map(|(_, high)| high),
        layers: both.len() as u64,
        cheapest_by_loss: cheapest(|at| at.1),
        cheapest_by_task: cheapest(|at| at.2),
    })
}

fn is_measured(record: &DiagnoseRecord, task: &str, measure: TaskMeasure) -> bool {
    record
        .layers
        .iter()
        .any(|layer| layer.tasks.get(task).is_some_and(|costs| measure.of(costs).is_some()))
}

/// A measure of a task in each layer.
fn quantity(task: &str, measure: TaskMeasure) -> Quantity {
    let part = |part: &str| format!("layers[].tasks.{task}.{}.{part}", measure.name());
    let (label, unit, format, heading, rank) = match measure {
        TaskMeasure::Gold => {
            ("log p of the right answer", "nats per document", Format::Measured, "log p", 13)
        }
        TaskMeasure::Acc => ("acc", "percentage points", Format::Points, "acc", 14),
        TaskMeasure::AccNorm => ("acc_norm", "percentage points", Format::Points, "acc_norm", 15),
    };
    let quantity = Quantity {
        field: part("drop"),
        axis: Axis::Layer,
        label: format!("drop in {task}: {label}"),
        unit: unit.to_owned(),
        format,
        stderr: Some(part("stderr")),
        margin: Some(part("margin")),
        ..Quantity::default()
    };
    quantity.in_column(&format!("{task} {heading}"), rank, 150)
}

/// Documents of a task, in words.
fn documents(answers: &TaskRecord) -> String {
    let shots = match answers.shots {
        0 => String::new(),
        shots => format!(" with {}", counted(shots, "shot")),
    };
    format!("{}{shots}", counted(answers.documents, "document"))
}

fn gold_chart(task: &TaskRemovalRecord) -> ChartDescription {
    let name = &task.answers.task;
    let whole = task
        .gold_logprob
        .map_or(String::new(), |whole| format!(" With every layer it is {} nats.", number(whole)));
    ChartDescription {
        name: format!("task-{name}"),
        title: format!("Cost of removing each layer in {name}'s right answers"),
        caption: format!(
            "Drop of the right answer's log-probability (Σ log p of its tokens) when the layer is left out, \
             mean over {}.{whole} Whiskers are 95 % intervals of the difference, paired by document \
             (Student's t).",
            documents(&task.answers)
        ),
        y: "log p with it − log p without it".to_owned(),
        scale: ChartScale::Difference,
        without_end: false,
        line: None,
        series: vec![SeriesDescription::of(&quantity(name, TaskMeasure::Gold), "right answer", 0)],
    }
}

fn accuracy_chart(record: &DiagnoseRecord, task: &TaskRemovalRecord) -> ChartDescription {
    let answers = &task.answers;
    let name = &answers.task;
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let whole = answers.acc.map_or(String::new(), |acc| {
        let first = answers.always_first.map_or(String::new(), |first| {
            format!("; always taking the first choice gives {}", percent(first))
        });
        format!(" With every layer acc is {}{first}.", percent(acc))
    });
    let floor = answers.acc.zip(answers.always_first).map(|(acc, first)| LineDescription {
        at: 100.0 * (acc - first),
        label: "acc falls to that of always the first".to_owned(),
    });
    let series = [(TaskMeasure::Acc, 2), (TaskMeasure::AccNorm, 3)];
    let measured = series.into_iter().filter(|(measure, _)| is_measured(record, name, *measure));
    ChartDescription {
        name: format!("task-{name}-accuracy"),
        title: format!("Cost of removing each layer in {name}'s accuracy"),
        caption: format!(
            "Drop of accuracy when the layer is left out, over {}.{whole} Whiskers are 95 % intervals of \
             the difference, paired by document (Student's t): few documents change sides, so accuracy \
             tells layers apart much less well than the right answer's log-probability does.",
            documents(answers)
        ),
        y: "accuracy with it − accuracy without it".to_owned(),
        scale: ChartScale::Difference,
        without_end: false,
        line: floor,
        series: measured
            .map(|(measure, hue)| {
                SeriesDescription::of(&quantity(name, measure), measure.name(), hue)
            })
            .collect(),
    }
}

/// What a task's numbers come to.
fn sentences(record: &DiagnoseRecord, task: &TaskRemovalRecord) -> Vec<String> {
    let mut said = vec![whole_sentence(task)];
    said.extend(range_sentence(record, &task.answers.task));
    said.extend(surely_sentence(record, task));
    said.extend(against_sentence(task));
    said.extend(idle_sentence(record, &task.answers.task));
    said
}

/// `piqa (100 documents), every layer: acc 65.0 ± 4.8 %, always the first 46.0 %, …`
fn whole_sentence(task: &TaskRemovalRecord) -> String {
    let answers = &task.answers;
    let share = |name: &str, value: Option<f64>, stderr: Option<f64>| {
        let stderr = stderr.map_or(String::new(), |stderr| format!(" ± {:.1}", 100.0 * stderr));
        value.map(|value| format!("{name} {:.1}{stderr} %", 100.0 * value))
    };
    let mut parts: Vec<String> = [
        share("acc", answers.acc, answers.acc_stderr),
        share("acc_norm", answers.acc_norm, answers.acc_norm_stderr),
        share("always the first", answers.always_first, None),
        share("chance", answers.chance, None),
    ]
    .into_iter()
    .flatten()
    .collect();
    if answers.acc.is_none() {
        parts.insert(0, "no accuracy, for scores tie or are not finite".to_owned());
    }
    format!("{} ({}), every layer: {}.", answers.task, documents(answers), parts.join(", "))
}

/// Costs of the layers by a measure.
fn costs(record: &DiagnoseRecord, task: &str, measure: TaskMeasure) -> Vec<(usize, CostRecord)> {
    let of = |layer: &LayerRecord| Some((layer.layer, measure.of(layer.tasks.get(task)?)?));
    record.layers.iter().filter_map(of).collect()
}

fn range_sentence(record: &DiagnoseRecord, task: &str) -> Option<String> {
    let costs = costs(record, task, TaskMeasure::Gold);
    let least = costs.iter().min_by(|a, b| a.1.drop.total_cmp(&b.1.drop))?;
    let most = costs.iter().max_by(|a, b| a.1.drop.total_cmp(&b.1.drop))?;
    Some(format!(
        "Removing one layer costs {task}'s right answer between {} nats (layer {}) and {} nats (layer {}) of \
         log-probability.",
        number(least.1.drop),
        least.0,
        number(most.1.drop),
        most.0
    ))
}

/// Layers whose interval lies above zero.
fn surely_dear(costs: &[(usize, CostRecord)]) -> Vec<usize> {
    let sure = |(_, cost): &&(usize, CostRecord)| cost.margin.is_some_and(|m| cost.drop > m);
    costs.iter().filter(sure).map(|(layer, _)| *layer).collect()
}

fn surely_sentence(record: &DiagnoseRecord, task: &TaskRemovalRecord) -> Option<String> {
    let name = &task.answers.task;
    let of = |measure: TaskMeasure, what: &str| {
        let costs = costs(record, name, measure);
        let sure = surely_dear(&costs);
        let which = match &sure[..] {
            [] => String::new(),
            sure => format!(" ({})", layers_in_words(sure)),
        };
        let layers = counted(costs.len(), "layer");
        (!costs.is_empty()).then(|| format!("in {what} for {} of {layers}{which}", sure.len()))
    };
    let parts = [
        of(TaskMeasure::Gold, &format!("{name}'s right answers")),
        of(TaskMeasure::Acc, "its accuracy"),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| {
        format!(
            "A drop is sure (95 % interval above zero, each layer by itself) {}.",
            parts.join(", ")
        )
    })
}

/// `0.83 (95 %: 0.67 to 0.92)`
fn correlation(found: &AgainstLossRecord) -> String {
    let written = |value: f64| with_minus(&format!("{value:.2}"));
    let interval = match (found.low, found.high) {
        (Some(low), Some(high)) => format!(" (95 %: {} to {})", written(low), written(high)),
        _ => " (too few layers for an interval)".to_owned(),
    };
    format!("{}{interval}", written(found.rank_correlation))
}

fn against_sentence(task: &TaskRemovalRecord) -> Option<String> {
    let by = |measure: TaskMeasure| {
        task.against_loss.iter().find(|found| found.measure == measure.name())
    };
    let (name, found) = (&task.answers.task, by(TaskMeasure::Gold)?);
    let accuracy = by(TaskMeasure::Acc)
        .map_or(String::new(), |found| format!(", by its accuracy {}", correlation(found)));
    let cheapest = found.cheapest_by_loss.len();
    let shared =
        found.cheapest_by_loss.iter().filter(|layer| found.cheapest_by_task.contains(layer));
    let by_chance = (cheapest * cheapest) as f64 / found.layers.max(1) as f64;
    Some(format!(
        "Rank correlation (Spearman) with the cost in loss, over {}: by {name}'s right answers {}{accuracy}. Of \
         the {cheapest} layers that loss calls cheapest ({}), {} are among the {cheapest} cheapest by the right \
         answers ({}); chance would give {by_chance:.1}.",
        counted(found.layers, "layer"),
        correlation(found),
        layers_in_words(&found.cheapest_by_loss),
        shared.count(),
        layers_in_words(&found.cheapest_by_task),
    ))
}

/// What is idle by loss and is surely missed by the task.
fn idle_sentence(record: &DiagnoseRecord, task: &str) -> Option<String> {
    let idle = RemovalVerdict::of(record)?.idle?;
    let dear = surely_dear(&costs(record, task, TaskMeasure::Gold));
    let missed: Vec<usize> = idle.iter().copied().filter(|layer| dear.contains(layer)).collect();
    (!missed.is_empty()).then(|| {
        format!(
            "Of the layers that are idle by loss (below {IDLE_THRESHOLD} nats per token), {task}'s right answers \
             surely lose without {}.",
            layers_in_words(&missed)
        )
    })
}

/// For the verdict's paragraph: how far loss stands for the tasks.
pub(crate) fn in_short(record: &DiagnoseRecord) -> Option<String> {
    let of = |task: &TaskRemovalRecord| {
        let found =
            task.against_loss.iter().find(|found| found.measure == TaskMeasure::Gold.name());
        Some(format!("{} {}", task.answers.task, correlation(found?)))
    };
    let found: Vec<String> = record.tasks.iter().filter_map(of).collect();
    (!found.is_empty()).then(|| {
        format!(
            "By what they cost the right answers of tasks, the layers rank as by loss with correlations \
             (Spearman) of: {}.",
            found.join(", ")
        )
    })
}
