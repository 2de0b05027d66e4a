//! A study's runs together: how many are done, how many are to come, and how long that may take.

use std::path::Path;

use lns_record::Outcome;

use crate::{
    format,
    run::{Activity, RunLog},
};

/// A run that a study has planned, whether it has begun or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedRun {
    /// Its folder, relative to the study's.
    pub folder: String,
    /// Steps it is to take.
    pub steps: u64,
}

/// The runs of a study that have begun, with their folders' names, and those that were planned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Study<'a> {
    pub(crate) runs: &'a [(String, &'a RunLog)],
    /// The runs that the study has planned; empty where that is not known.
    pub(crate) planned: &'a [PlannedRun],
}

impl Study<'_> {
    /// `3 of 12 runs done, 1 running, 8 to come, about 1 h 20 min left`
    pub(crate) fn progress(&self, now: f64) -> String {
        let count = |is: fn(Activity) -> bool| {
            self.runs.iter().filter(|(_, run)| is(run.activity(now))).count()
        };
        let (done, to_come) = (count(is_done), self.ahead().count());
        let running = count(|activity| activity == Activity::Running);
        let interrupted = count(|activity| activity == Activity::Ended(Outcome::Interrupted));
        let silent = count(|activity| matches!(activity, Activity::Silent(_)));
        let all = format::counted(self.runs.len() + to_come, "run");
        let mut text = format!("{done} of {all} done");
        // All that is not done, so that the numbers add up to the number of runs.
        let others = [
            (running, "running"),
            (interrupted, "interrupted"),
            (silent, "silent"),
            (to_come, "to come"),
        ];
        for (number, what) in others {
            if number > 0 {
                text += &format!(", {number} {what}");
            }
        }
        if let Some(left) = self.left(now) {
            text += &format!(", about {} left", format::duration(left));
        }
        text
    }

    /// Planned runs that have not begun.
    fn ahead(&self) -> impl Iterator<Item = &PlannedRun> {
        let begun = |planned: &PlannedRun| {
            let name = Path::new(&planned.folder).file_name().map(|name| name.to_string_lossy());
            self.runs.iter().any(|(run, _)| Some(run.as_str()) == name.as_deref())
        };
        self.planned.iter().filter(move |planned| !begun(planned))
    }

    /// Seconds until every run has taken its steps, at the pace of those taken so far; absent when no run
    /// is at work. Diagnoses come on top.
    fn left(&self, now: f64) -> Option<f64> {
        let at_work = self.runs.iter().any(|(_, run)| run.activity(now) == Activity::Running);
        let steps: u64 = self.runs.iter().map(|(_, run)| run.step()).fold(0, u64::saturating_add);
        let seconds: f64 = self.runs.iter().map(|(_, run)| run.elapsed(now)).sum();
        let pace = (at_work && steps > 0).then(|| seconds / steps as f64)?;
        let begun = self.runs.iter().filter(|(_, run)| !is_done(run.activity(now)));
        let begun = begun.map(|(_, run)| match run.left(now) {
            Some(left) => left,
            None => run.planned().saturating_sub(run.step()) as f64 * pace,
        });
        let to_come = self.ahead().map(|planned| planned.steps as f64 * pace);
        Some(begun.chain(to_come).sum())
    }
}

fn is_done(activity: Activity) -> bool {
    matches!(activity, Activity::Ended(Outcome::Finished | Outcome::Diverged))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn a_study_says_what_is_done_what_is_to_come_and_how_long_it_takes() {
        // A step of the sample takes 0.5 s; 2,441 are planned.
        let done: RunLog = sample::finished(2441, 3).into_iter().collect();
        let running: RunLog = sample::run(1441, 3).into_iter().collect();
        let runs = [("pre-1".to_owned(), &done), ("lns-1".to_owned(), &running)];
        let planned = ["runs/pre-1", "runs/lns-1", "runs/pre-2", "runs/lns-2"]
            .map(|folder| PlannedRun { folder: folder.to_owned(), steps: 2000 });
        let study = Study { runs: &runs, planned: &planned };
        let now = 1_700_000_000.0 + 0.5 * 1441.0;
        // 1,000 steps of the running one and twice 2,000.
        assert_eq!(
            study.progress(now),
            "1 of 4 runs done, 1 running, 2 to come, about 41 min 40 s left"
        );
        // Nobody knows when a silent one goes on.
        assert_eq!(study.progress(now + 1e5), "1 of 4 runs done, 1 silent, 2 to come");
        let stopped =
            lns_record::Event::End { step: 1441, time: now, outcome: Outcome::Interrupted };
        let stopped: RunLog = sample::run(1441, 3).into_iter().chain([stopped]).collect();
        let runs = [("pre-1".to_owned(), &done), ("lns-1".to_owned(), &stopped)];
        let paused = Study { runs: &runs, ..study };
        assert_eq!(paused.progress(now), "1 of 4 runs done, 1 interrupted, 2 to come");
        let unplanned = Study { planned: &[], ..study };
        assert!(unplanned.progress(now).starts_with("1 of 2 runs done, 1 running, about"));
        assert_eq!(Study { runs: &[], planned: &[] }.progress(0.0), "0 of 0 runs done");
    }
}
