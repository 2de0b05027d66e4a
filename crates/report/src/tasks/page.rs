//! Answers to tasks on a page.

use lns_record::{TaskRecord, TasksRecord};
use lns_show::grouped;
use maud::{Markup, html};

use super::words::{asked, difference, norm, plain, remarks, share};
use crate::page::document;
use crate::text::clean;

/// The page of what `lns eval --tasks` found: `asked_together` are the records of models that were asked at
/// once, each compared with the first of its list; `names`, in the same order, tell all models apart.
pub fn tasks_page(asked_together: &[Vec<TasksRecord>], names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| clean(name)).collect();
    let records: Vec<&TasksRecord> = asked_together.iter().flatten().collect();
    let models: Vec<Model<'_>> = records
        .iter()
        .zip(&names)
        .map(|(record, name)| Model { name, tasks: record.tasks.iter().collect() })
        .collect();
    let body = html! {
        header {
            p.over { "Tasks" }
            h1 {
                @for (at, name) in names.iter().enumerate() {
                    @if at > 0 { span.against { " against " } }
                    (name)
                }
            }
        }
        (answers(&models))
        (differences(asked_together, &names))
        (groups(&models))
        (reading())
    };
    document(&format!("Tasks: {}", names.join(", ")), body)
}

/// A model and what it answered.
pub(crate) struct Model<'a> {
    pub(crate) name: &'a str,
    pub(crate) tasks: Vec<&'a TaskRecord>,
}

impl Model<'_> {
    fn task(&self, name: &str) -> Option<&TaskRecord> {
        self.tasks.iter().find(|task| task.task == name).copied()
    }
}

/// The tasks that any model was asked, in the order in which they come.
fn tasks<'a>(models: &'a [Model<'_>]) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for task in models.iter().flat_map(|model| &model.tasks) {
        if !names.contains(&&*task.task) {
            names.push(&task.task);
        }
    }
    names
}

/// A table of accuracies: under each task a row for each model, one for always taking the first choice
/// and one for guessing. What stands out is said below.
pub(crate) fn answers(models: &[Model<'_>]) -> Markup {
    let all = || models.iter().flat_map(|model| &model.tasks);
    let has_norm = all().any(|task| !norm(task).is_empty());
    let has_groups = all().any(|task| task.acc_by_group.is_some());
    let has_perplexity = all().any(|task| task.perplexity.is_some());
    let columns = [has_norm, has_groups, has_perplexity];
    let cells = |acc: String, more: [String; 3]| {
        html! {
            td { (acc) }
            @for (cell, there) in more.iter().zip(columns) { @if there { td { (cell) } } }
        }
    };
    html! {
        div.scroll {
            table.results {
                thead {
                    tr {
                        th.words scope="col" { "task" }
                        th.words scope="col" { "model" }
                        th scope="col" { "documents" }
                        th scope="col" { "acc %" }
                        @if has_norm { th scope="col" { "acc_norm %" } }
                        @if has_groups { th scope="col" { "mean of groups %" } }
                        @if has_perplexity { th scope="col" { "perplexity" } }
                    }
                }
                tbody {
                    @for name in tasks(models) {
                        @let found: Vec<(&Model<'_>, &TaskRecord)> =
                            models.iter().filter_map(|model| Some((model, model.task(name)?))).collect();
                        @for (at, (model, task)) in found.iter().enumerate() {
                            tr {
                                th.words scope="row" { @if at == 0 { (clean(name)) } }
                                td.words { (model.name) }
                                td { (asked(task)) }
                                (cells(
                                    share(task.acc, task.acc_stderr),
                                    [norm(task), plain(task.acc_by_group), perplexity(task)],
                                ))
                            }
                        }
                        @for (what, value) in floors(&found) {
                            tr.ideal {
                                th {}
                                td.words { (what) }
                                td {}
                                (cells(value, Default::default()))
                            }
                        }
                    }
                }
            }
        }
        p.small {
            "± is one standard error of a mean over documents. A model that computes no numbers, or gives every \
             choice one score, is given the row \"always the first\" by a program that takes the largest; here it \
             gets no accuracy."
        }
        @for name in tasks(models) {
            @for said in said(name, models) { p.warning { (said) } }
        }
    }
}

fn perplexity(task: &TaskRecord) -> String {
    task.perplexity.map_or(String::new(), |value| format!("{value:.3}"))
}

/// What one gets who never reads: where the models were asked the same.
fn floors(found: &[(&Model<'_>, &TaskRecord)]) -> Vec<(&'static str, String)> {
    let Some((_, first)) = found.first() else { return Vec::new() };
    if !found.iter().all(|(_, task)| same_documents(first, task)) {
        return Vec::new();
    }
    let floor = |what, value: Option<f64>| value.map(|_| (what, plain(value)));
    let floors = [floor("always the first", first.always_first), floor("chance", first.chance)];
    floors.into_iter().flatten().collect()
}

fn same_documents(a: &TaskRecord, b: &TaskRecord) -> bool {
    let of =
        |task: &TaskRecord| (task.documents, task.of, task.shots, task.always_first, task.chance);
    of(a) == of(b)
}

/// What stands out of a task.
fn said(name: &str, models: &[Model<'_>]) -> Vec<String> {
    let found: Vec<(&Model<'_>, &TaskRecord)> =
        models.iter().filter_map(|model| Some((model, model.task(name)?))).collect();
    let mut said = Vec::new();
    if let Some((_, first)) = found.first()
        && !found.iter().all(|(_, task)| same_documents(first, task))
    {
        said.push(format!(
            "{}: the models were not asked the same documents with as many examples, so their accuracies do \
             not compare.",
            clean(name)
        ));
    }
    for (model, task) in found {
        said.extend(
            remarks(task)
                .into_iter()
                .map(|remark| format!("{}, {}: {remark}.", clean(name), model.name)),
        );
    }
    said
}

/// Models against the first of those that were asked with them.
fn differences(asked_together: &[Vec<TasksRecord>], names: &[String]) -> Markup {
    let mut rest = names;
    let mut said = Vec::new();
    for records in asked_together {
        let (own, after) = rest.split_at(records.len().min(rest.len()));
        rest = after;
        for (record, name) in records.iter().zip(own).skip(1) {
            for task in &record.tasks {
                let names = [&*own[0], &**name];
                let of = |found| difference(found, &clean(&task.task), names);
                said.extend(task.differences.iter().map(of));
            }
        }
    }
    html! {
        @if !said.is_empty() {
            h2 { "Paired by document" }
            ul.evidence { @for said in &said { li { (said) } } }
        } @else if names.len() > 1 {
            p {
                "These models were asked one by one, so that their difference has no paired error here: "
                code { "lns eval A B --tasks …" } " asks them together."
            }
        }
    }
}

/// Subjects and phenomena, model by model.
fn groups(models: &[Model<'_>]) -> Markup {
    let names = |task: &str| -> Vec<String> {
        let groups =
            models.iter().filter_map(|model| model.task(task)).flat_map(|task| &task.groups);
        let mut names: Vec<String> = groups.map(|group| group.group.clone()).collect();
        names.sort();
        names.dedup();
        names
    };
    let accuracy = |model: &Model<'_>, task: &str, group: &str| {
        let found = model.task(task)?.groups.iter().find(|found| found.group == group)?;
        Some((found.documents, share(found.acc, found.acc_stderr)))
    };
    html! {
        @for task in tasks(models) {
            @let names = names(task);
            @if !names.is_empty() {
                details {
                    summary { (clean(task)) " by group" }
                    div.scroll {
                        table {
                            thead {
                                tr {
                                    th.words scope="col" { "group" }
                                    @for model in models { th scope="col" { (model.name) ", acc %" } th scope="col" { "documents" } }
                                }
                            }
                            tbody {
                                @for group in &names {
                                    tr {
                                        th.words scope="row" { (clean(group)) }
                                        @for model in models {
                                            @let found = accuracy(model, task, group);
                                            td { (found.as_ref().map(|found| &*found.1).unwrap_or_default()) }
                                            td { (found.as_ref().map(|found| grouped(found.0)).unwrap_or_default()) }
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn reading() -> Markup {
    html! {
        h2 { "How to read this" }
        dl.terms {
            dt { "acc" }
            dd {
                "Share of documents whose likeliest choice, by the sum of its tokens' log-probabilities, is the right \
                 one; of one continuation, whether every token of it is the likeliest."
            }
            dt { "acc_norm" }
            dd { "The same with sums divided by the choices' characters." }
            dt { "Mean of groups" }
            dd { "Each subject or phenomenon counts alike, however many documents it has; acc counts documents." }
            dt { "Paired" }
            dd {
                "Differences are taken document by document, so that what is hard for both drops out of their error. \
                 McNemar's exact test looks at the documents that one model alone has right."
            }
        }
    }
}
