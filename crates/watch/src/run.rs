//! What a run's events come to at a given moment.

use lns_record::{EvalEvent, Event, LayersEvent, Outcome, StartEvent, StepEvent};

use crate::format::{duration, plain};

/// The events of a run that count, in order, with strangers' text made [`plain`].
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct RunLog {
    events: Vec<Event>,
}

/// What a run is doing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Activity {
    Running,
    /// No event for this many seconds: killed, stopped, or very slow.
    Silent(f64),
    Ended(Outcome),
}

/// A run is silent when it says nothing for this long, and for as long as this many steps: an
/// evaluation or a snapshot is in between.
const SILENCE: f64 = 60.0;
const SILENT_STEPS: f64 = 30.0;

/// How many of the last steps the time per step is measured over.
const PACE_WINDOW: usize = 200;

impl RunLog {
    /// Adds the event that happened next. [`Event::Resume`] undoes what came after its step, as in
    /// [`lns_record::read_events`].
    pub(crate) fn push(&mut self, mut event: Event) {
        match &mut event {
            Event::Start(start) => {
                for text in [&mut start.version, &mut start.scheme, &mut start.initialisation] {
                    *text = plain(text);
                }
            }
            Event::Snapshot { folder: text, .. } | Event::Note { text, .. } => *text = plain(text),
            Event::Resume { step, steps, .. } => {
                let step = *step;
                if let (Some(steps), Some(start)) = (*steps, self.start_mut()) {
                    start.steps = steps;
                }
                self.events.retain(|earlier| {
                    earlier.step() <= step && !matches!(earlier, Event::End { .. })
                });
            }
            _ => {}
        }
        self.events.push(event);
    }

    pub(crate) fn start(&self) -> Option<&StartEvent> {
        self.events.iter().find_map(|event| match event {
            Event::Start(start) => Some(start),
            _ => None,
        })
    }

    fn start_mut(&mut self) -> Option<&mut StartEvent> {
        self.events.iter_mut().find_map(|event| match event {
            Event::Start(start) => Some(start),
            _ => None,
        })
    }

    /// Scheme and initialisation: runs that differ in the seed alone share it.
    pub(crate) fn kind(&self) -> String {
        self.start().map_or(String::new(), |s| format!("{}, {}", s.scheme, s.initialisation))
    }

    pub(crate) fn steps(&self) -> impl DoubleEndedIterator<Item = &StepEvent> {
        self.events.iter().filter_map(|event| match event {
            Event::Step(step) => Some(step),
            _ => None,
        })
    }

    pub(crate) fn evaluations(&self) -> impl DoubleEndedIterator<Item = &EvalEvent> {
        self.events.iter().filter_map(|event| match event {
            Event::Eval(eval) => Some(eval),
            _ => None,
        })
    }

    pub(crate) fn layers(&self) -> impl DoubleEndedIterator<Item = &LayersEvent> {
        self.events.iter().filter_map(|event| match event {
            Event::Layers(layers) => Some(layers),
            _ => None,
        })
    }

    /// The notes of the run, each with its step.
    pub(crate) fn notes(&self) -> impl DoubleEndedIterator<Item = (u64, &str)> {
        self.events.iter().filter_map(|event| match event {
            Event::Note { step, text, .. } => Some((*step, text.as_str())),
            _ => None,
        })
    }

    /// The step and the folder of the last snapshot.
    pub(crate) fn snapshot(&self) -> Option<(u64, &str)> {
        self.events.iter().rev().find_map(|event| match event {
            Event::Snapshot { step, folder, .. } => Some((*step, folder.as_str())),
            _ => None,
        })
    }

    /// The evaluation with the lowest loss.
    pub(crate) fn best(&self) -> Option<(u64, f64)> {
        let losses = self.evaluations().filter_map(|eval| Some((eval.step, eval.loss?)));
        losses.min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// Steps taken.
    pub(crate) fn step(&self) -> u64 {
        self.events.last().map_or(0, Event::step)
    }

    /// Steps planned.
    pub(crate) fn planned(&self) -> u64 {
        self.start().map_or(0, |start| start.steps)
    }

    /// Tokens predicted in training.
    pub(crate) fn tokens(&self) -> u64 {
        self.steps().next_back().map_or(0, |step| step.tokens)
    }

    /// Updates that were left out.
    pub(crate) fn skipped(&self) -> usize {
        self.steps().filter(|step| step.skipped).count()
    }

    pub(crate) fn activity(&self, now: f64) -> Activity {
        let Some(last) = self.events.last() else { return Activity::Silent(0.0) };
        if let Event::End { outcome, .. } = last {
            return Activity::Ended(*outcome);
        }
        let quiet = now - time(last);
        let patience = self.seconds_per_step().map_or(0.0, |seconds| SILENT_STEPS * seconds);
        if quiet > SILENCE.max(patience) { Activity::Silent(quiet) } else { Activity::Running }
    }

    /// Seconds the run has been at work, without the time between being stopped and resumed.
    pub(crate) fn elapsed(&self, now: f64) -> f64 {
        let between = |pair: &[Event]| match &pair[1] {
            Event::Resume { .. } => 0.0,
            next => (time(next) - time(&pair[0])).max(0.0),
        };
        let until_last: f64 = self.events.windows(2).map(between).sum();
        let since = match (self.activity(now), self.events.last()) {
            (Activity::Running, Some(last)) => (now - time(last)).max(0.0),
            _ => 0.0,
        };
        until_last + since
    }

    /// Seconds until the planned end at the pace of the last steps, evaluations included; absent when
    /// the run is not running.
    pub(crate) fn left(&self, now: f64) -> Option<f64> {
        let steps = self.planned().saturating_sub(self.step());
        match self.activity(now) {
            Activity::Running => Some(steps as f64 * self.seconds_per_step()?),
            _ => None,
        }
    }

    /// Seconds that a step takes, over the last steps between which the run was not interrupted.
    fn seconds_per_step(&self) -> Option<f64> {
        let unbroken = self.events.rsplit(|event| matches!(event, Event::Resume { .. })).next()?;
        let mut steps = unbroken.iter().rev().filter(|event| matches!(event, Event::Step(_)));
        let last = steps.next()?;
        let first = steps.take(PACE_WINDOW).last()?;
        let count = last.step().checked_sub(first.step()).filter(|count| *count > 0)?;
        Some(((time(last) - time(first)) / count as f64).max(0.0))
    }
}

impl FromIterator<Event> for RunLog {
    fn from_iter<T: IntoIterator<Item = Event>>(events: T) -> Self {
        let mut run = Self::default();
        events.into_iter().for_each(|event| run.push(event));
        run
    }
}

impl Activity {
    /// What the run is doing, in words.
    pub(crate) fn text(self) -> String {
        match self {
            Self::Running => "running".to_owned(),
            Self::Silent(seconds) => format!("silent for {}", duration(seconds)),
            Self::Ended(Outcome::Finished) => "finished".to_owned(),
            Self::Ended(Outcome::Interrupted) => "interrupted".to_owned(),
            Self::Ended(Outcome::Diverged) => "diverged".to_owned(),
        }
    }
}

fn time(event: &Event) -> f64 {
    match event {
        Event::Start(event) => event.time,
        Event::Step(event) => event.time,
        Event::Eval(event) => event.time,
        Event::Layers(event) => event.time,
        Event::Resume { time, .. }
        | Event::Snapshot { time, .. }
        | Event::Note { time, .. }
        | Event::End { time, .. } => *time,
        // An event that a later version adds has no known time and moves no clock.
        _ => 0.0,
    }
}

/// Exponential moving average of the losses, each with its share of what was seen so far, so that
/// the first ones are not pulled to zero (Adam's bias correction). `weight` is that of the past.
pub(crate) fn smoothed(points: &[(f64, f64)], weight: f64) -> Vec<(f64, f64)> {
    let (mut sum, mut share) = (0.0, 0.0);
    let next = |&(x, y): &(f64, f64)| {
        sum = weight * sum + (1.0 - weight) * y;
        share = weight * share + (1.0 - weight);
        (x, sum / share)
    };
    points.iter().map(next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    fn last_time(run: &RunLog) -> f64 {
        time(run.events.last().unwrap())
    }

    #[test]
    fn a_run_is_silent_only_after_many_steps_worth_of_nothing() {
        // A step of the sample takes 0.5 s.
        let run: RunLog = sample::run(50, 4).into_iter().collect();
        let last = last_time(&run);
        assert_eq!(run.activity(last + 59.0), Activity::Running);
        assert_eq!(run.activity(last + 100.0), Activity::Silent(100.0));
        assert_eq!(run.activity(last - 100.0), Activity::Running, "clocks differ");
        let ended: RunLog = sample::finished(50, 4).into_iter().collect();
        assert_eq!(ended.activity(last + 1e6), Activity::Ended(Outcome::Finished));
    }

    #[test]
    fn time_left_is_the_steps_left_at_the_pace_of_the_last_ones() {
        let run: RunLog = sample::run(600, 4).into_iter().collect();
        assert_eq!(run.planned(), 2441);
        let left = run.left(last_time(&run)).unwrap();
        let expected = (2441.0 - 600.0) * 0.5;
        assert!((left / expected - 1.0).abs() < 0.05, "{left} for {expected}");
        assert_eq!(run.left(last_time(&run) + 1e4), None, "silent");
        let ended: RunLog = sample::finished(600, 4).into_iter().collect();
        assert_eq!(ended.left(last_time(&ended)), None);
    }

    #[test]
    fn time_between_stop_and_resume_is_not_work() {
        let mut run: RunLog = sample::run(100, 4).into_iter().collect();
        let before = run.elapsed(last_time(&run));
        let back = last_time(&run) + 1e6;
        run.push(Event::Resume { step: 100, time: back, steps: None });
        assert_eq!(run.elapsed(back), before);
        assert!((run.elapsed(back + 10.0) - before - 10.0).abs() < 1e-6);
    }

    #[test]
    fn a_resume_undoes_later_steps_and_the_end() {
        let mut run: RunLog = sample::finished(100, 4).into_iter().collect();
        run.push(Event::Resume { step: 80, time: 2e9, steps: None });
        assert_eq!(run.steps().next_back().unwrap().step, 80);
        assert_eq!(run.activity(2e9), Activity::Running);
    }

    #[test]
    fn a_run_that_is_taken_on_to_more_steps_has_more_planned() {
        let mut run: RunLog = sample::finished(100, 4).into_iter().collect();
        run.push(Event::Resume { step: 100, time: 2e9, steps: Some(123_456) });
        assert_eq!(run.planned(), 123_456);
        run.push(Event::Resume { step: 100, time: 3e9, steps: None });
        assert_eq!(run.planned(), 123_456);
    }

    #[test]
    fn a_moving_average_of_a_constant_is_that_constant_from_the_first_on() {
        let points: Vec<_> = (0..50).map(|x| (x as f64, 4.0)).collect();
        assert!(smoothed(&points, 0.98).iter().all(|p| (p.1 - 4.0).abs() < 1e-12));
        let step = smoothed(&[(0.0, 0.0), (1.0, 1.0)], 0.5);
        assert!((step[1].1 - 2.0 / 3.0).abs() < 1e-12);
    }
}
