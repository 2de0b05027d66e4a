//! What a setting was tuned to for each group, as a table of losses.

use lns_record::{TunedGroupRecord, TuningRecord};
use maud::{Markup, html};

use super::{Study, label, nats};
use crate::number::number;
use crate::text::clean;

/// Every value that was tried for some group, rising.
fn values(tuning: &TuningRecord) -> Vec<f64> {
    let tried = tuning.groups.iter().flat_map(|group| &group.tried);
    let mut values: Vec<f64> = tried.map(|(value, _)| *value).collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    values
}

/// `0.003`, or what is missing.
fn best(group: &TunedGroupRecord) -> String {
    match group.best {
        Some(value) if group.at_edge => format!("{} (at the edge)", number(value)),
        Some(value) => number(value),
        None if group.finished => "none: all diverged".to_owned(),
        None => "not tuned yet".to_owned(),
    }
}

impl Study<'_> {
    /// A line for each group: `schedule.learning_rate of lns 0.02: 0.003`
    pub(super) fn tuning_lines(&self) -> Vec<String> {
        let Some(tuning) = &self.record.tuning else { return Vec::new() };
        let setting = clean(&tuning.setting);
        let line = |group: &TunedGroupRecord| {
            format!("{setting} of {}: {}", label(&group.name), best(group))
        };
        tuning.groups.iter().map(line).collect()
    }

    pub(super) fn tuning(&self) -> Markup {
        let Some(tuning) = &self.record.tuning else { return html! {} };
        let values = values(tuning);
        html! {
            h2 { "Tuning" }
            div.scroll {
                table.results {
                    thead { tr {
                        th.words scope="col" { "group" }
                        @for value in &values { th scope="col" { (number(*value)) } }
                        th.left scope="col" { "taken" }
                    } }
                    tbody {
                        @for group in &tuning.groups {
                            tr {
                                th.words scope="row" { (label(&group.name)) }
                                @for value in &values { td { (cell(group, *value)) } }
                                td.left { (best(group)) }
                            }
                        }
                    }
                }
            }
            div.under {
                p.small {
                    "Held-out loss in nats per token at each value of " (clean(&tuning.setting)) ", on seed " (tuning.seed)
                    ", which is none of those that are compared. Each group's seeds were run with the value of its lowest loss."
                }
                @if tuning.groups.iter().any(|group| group.at_edge) {
                    p.small { "At the edge: the best value is the smallest or largest that was tried; a better one may lie beyond." }
                }
            }
        }
    }
}

fn cell(group: &TunedGroupRecord, value: f64) -> Markup {
    let tried = group.tried.iter().find(|(at, _)| *at == value).map(|(_, loss)| *loss);
    html! {
        @match tried {
            Some(Some(loss)) if group.best == Some(value) => strong { (nats(loss)) },
            Some(Some(loss)) => (nats(loss)),
            Some(None) => "diverged",
            None => "",
        }
    }
}
