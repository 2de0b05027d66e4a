//! What tuning found so far, read from the folders of its runs.

use std::path::Path;

use lns_record::{TunedGroupRecord, TuningRecord};

use crate::{Group, StudyConfig, StudyError, runs::run_record, tuning::Next};

/// Of each group of a study, what tuning found.
pub(crate) struct Tuned {
    /// In the order of the study's groups; empty where nothing is tuned.
    groups: Vec<TunedGroup>,
    nothing_to_tune: bool,
}

struct TunedGroup {
    title: String,
    /// Values that were tried to their end, rising, with their loss, which is not finite of a run that
    /// diverged.
    tried: Vec<(f64, f64)>,
    next: Next,
}

impl Tuned {
    /// # Errors
    /// [`StudyError`] when a run's files cannot be read.
    pub(crate) fn read(config: &StudyConfig, folder: &Path) -> Result<Self, StudyError> {
        let mut groups = Vec::new();
        if let Some(tuning) = &config.tuning {
            for group in &config.groups {
                let mut tried: Vec<(f64, f64)> = Vec::new();
                let next = loop {
                    let known = |value: f64| {
                        tried.iter().find(|(at, _)| *at == value).map(|(_, loss)| *loss)
                    };
                    let next = tuning.next(&known);
                    let Next::Try(value) = next else { break next };
                    let planned = config.tuning_run(tuning, group, value)?;
                    let path = folder.join(&planned.folder);
                    let run = run_record(&path, &planned.folder, planned.seed, [])?;
                    match run.as_ref().map(|run| (run.outcome.as_str(), run.loss)) {
                        Some(("finished", Some(loss))) => tried.push((value, loss)),
                        Some(("finished" | "diverged", _)) => tried.push((value, f64::NAN)),
                        _ => break next,
                    }
                };
                tried.sort_by(|(a, _), (b, _)| a.total_cmp(b));
                groups.push(TunedGroup { title: group.title(), tried, next });
            }
        }
        Ok(Self { groups, nothing_to_tune: config.tuning.is_none() })
    }

    fn group(&self, group: &Group) -> Option<&TunedGroup> {
        let title = group.title();
        self.groups.iter().find(|tuned| tuned.title == title)
    }

    /// The value of a group's tuned setting, none where nothing is tuned. `None` of a group that is not
    /// tuned yet, or that diverged at every value.
    pub(crate) fn of(&self, group: &Group) -> Option<Option<f64>> {
        match self.group(group).map(|tuned| tuned.next) {
            _ if self.nothing_to_tune => Some(None),
            Some(Next::Best { value, .. }) => Some(Some(value)),
            _ => None,
        }
    }

    /// A value for a group that is not tuned yet, with which its runs can be counted.
    pub(crate) fn will_be(&self, group: &Group) -> Option<Option<f64>> {
        match self.group(group)?.next {
            Next::Try(value) => Some(Some(value)),
            Next::Best { .. } | Next::Nothing => None,
        }
    }

    /// The first group that is not tuned yet, and the value to try.
    pub(crate) fn open<'a>(&self, config: &'a StudyConfig) -> Option<(&'a Group, f64)> {
        config.groups.iter().find_map(|group| match self.group(group)?.next {
            Next::Try(value) => Some((group, value)),
            Next::Best { .. } | Next::Nothing => None,
        })
    }

    /// As it stands in a study's record.
    pub(crate) fn record(&self, config: &StudyConfig) -> Option<TuningRecord> {
        let tuning = config.tuning.as_ref()?;
        let group = |tuned: &TunedGroup| {
            let (best, at_edge) = match tuned.next {
                Next::Best { value, at_edge } => (Some(value), at_edge),
                Next::Try(_) | Next::Nothing => (None, false),
            };
            let finite = |loss: f64| Some(loss).filter(|loss| loss.is_finite());
            TunedGroupRecord {
                name: tuned.title.clone(),
                tried: tuned.tried.iter().map(|(value, loss)| (*value, finite(*loss))).collect(),
                best,
                at_edge,
                finished: !matches!(tuned.next, Next::Try(_)),
            }
        };
        Some(TuningRecord {
            setting: tuning.setting.clone(),
            seed: tuning.seed,
            groups: self.groups.iter().map(group).collect(),
        })
    }
}
