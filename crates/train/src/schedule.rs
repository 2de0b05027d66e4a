//! `[schedule]`: learning rates in closed form, a function of the step's number alone, so that there is nothing to
//! save and nothing to go wrong on resuming.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::ranges::{EVERY, Real, RealSetting, STEPS, WholeSetting};

/// How the learning rate goes down after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleShape {
    /// Half a cosine from the peak to the floor.
    #[default]
    Cosine,
    /// A straight line from the peak to the floor.
    Linear,
    /// The peak, then a straight line to the floor over the last `decay` share of the steps
    /// (warm-up, stable, decay).
    WarmupStableDecay,
    /// The peak to the end.
    Constant,
}

/// The learning rate of every step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Schedule {
    /// The peak.
    pub learning_rate: f64,
    /// Steps of the linear rise to the peak; step `warmup` is the first at the peak.
    pub warmup: u64,
    /// What comes after.
    pub shape: ScheduleShape,
    /// The last step's learning rate as a share of the peak.
    pub floor: f64,
    /// Share of all steps that the decay of `warmup-stable-decay` takes.
    pub decay: f64,
    /// Steps over which it goes: those of the run, if not given. What a run takes beyond them, it takes
    /// at the last one's learning rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            learning_rate: 3e-3,
            warmup: 40,
            shape: ScheduleShape::Cosine,
            floor: 0.1,
            decay: 0.2,
            steps: None,
        }
    }
}

/// What its whole numbers may be.
pub(crate) const WHOLE: &[WholeSetting] = &[
    ("schedule.steps", |run| run.schedule.steps.unwrap_or(1), STEPS),
    ("schedule.warmup", |run| run.schedule.warmup, EVERY),
];

/// What its other numbers may be.
pub(crate) const REAL: &[RealSetting] = &[
    ("schedule.learning_rate", |run| run.schedule.learning_rate, Real::NotNegative),
    ("schedule.floor", |run| run.schedule.floor, Real::Share),
    ("schedule.decay", |run| run.schedule.decay, Real::Share),
];

impl Schedule {
    /// What follows the warm-up, in words: `a cosine to 0.1 of it`.
    pub fn course(&self) -> String {
        let floor = self.floor;
        match self.shape {
            ScheduleShape::Cosine => format!("a cosine to {floor} of it"),
            ScheduleShape::Linear => format!("a straight line to {floor} of it"),
            ScheduleShape::WarmupStableDecay => format!(
                "the same until the last {} % of the steps, which go straight to {floor} of it",
                100.0 * self.decay
            ),
            ScheduleShape::Constant => "the same to the end".to_owned(),
        }
    }

    /// Learning rate of step `step` of a run of `steps`, counted from 1: step/warmup of the peak while
    /// warming up; the floor at the schedule's last step.
    pub fn at(&self, step: u64, steps: u64) -> f64 {
        let (step, steps) = match self.steps {
            // A constant rate has no end to stay at.
            Some(steps) if self.shape != ScheduleShape::Constant => (step.min(steps), steps),
            _ => (step, steps),
        };
        if step < self.warmup {
            return self.learning_rate * step as f64 / self.warmup as f64;
        }
        let start = match self.shape {
            ScheduleShape::WarmupStableDecay => {
                steps.saturating_sub((steps as f64 * self.decay).round() as u64)
            }
            ScheduleShape::Cosine | ScheduleShape::Linear | ScheduleShape::Constant => self.warmup,
        };
        let start = start.max(self.warmup).max(1);
        if self.shape == ScheduleShape::Constant || step <= start {
            return self.learning_rate;
        }
        let progress = ((step - start) as f64 / steps.saturating_sub(start).max(1) as f64).min(1.0);
        let left = match self.shape {
            ScheduleShape::Cosine => 0.5 * (1.0 + (PI * progress).cos()),
            _ => 1.0 - progress,
        };
        self.learning_rate * (self.floor + (1.0 - self.floor) * left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(shape: ScheduleShape) -> Schedule {
        let steps = None;
        Schedule { learning_rate: 1e-3, warmup: 10, shape, floor: 0.1, decay: 0.2, steps }
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-15
    }

    #[test]
    fn every_shape_rises_to_the_peak_and_ends_at_its_floor() {
        for shape in [
            ScheduleShape::Cosine,
            ScheduleShape::Linear,
            ScheduleShape::WarmupStableDecay,
            ScheduleShape::Constant,
        ] {
            let schedule = schedule(shape);
            assert!(close(schedule.at(1, 110), 1e-4), "{shape:?}");
            assert!(close(schedule.at(10, 110), 1e-3), "{shape:?}");
            let last = if shape == ScheduleShape::Constant { 1e-3 } else { 1e-4 };
            assert!(close(schedule.at(110, 110), last), "{shape:?}: {}", schedule.at(110, 110));
            let rates: Vec<f64> = (10..=110).map(|step| schedule.at(step, 110)).collect();
            assert!(rates.is_sorted_by(|a, b| a >= b), "{shape:?} never rises again");
        }
    }

    #[test]
    fn a_schedule_of_fewer_steps_than_the_run_stays_where_it_ended() {
        for shape in [
            ScheduleShape::Cosine,
            ScheduleShape::Linear,
            ScheduleShape::WarmupStableDecay,
            ScheduleShape::Constant,
        ] {
            let whole = schedule(shape);
            let longer = Schedule { steps: Some(110), ..whole };
            // One that ended while it was warming up.
            let short = Schedule { steps: Some(5), ..whole };
            let end = if shape == ScheduleShape::Constant { 8 } else { 5 };
            assert_eq!(short.at(8, 200), whole.at(end, 110), "{shape:?}");
            assert!((1..=110).all(|step| longer.at(step, 200) == whole.at(step, 110)), "{shape:?}");
            assert!(
                (111..=200).all(|step| longer.at(step, 200) == whole.at(110, 110)),
                "{shape:?}"
            );
        }
    }

    #[test]
    fn halfway_is_halfway() {
        assert!(close(schedule(ScheduleShape::Cosine).at(60, 110), 0.55e-3));
        assert!(close(schedule(ScheduleShape::Linear).at(60, 110), 0.55e-3));
        // The decay takes the last 22 of 110 steps.
        let stable = schedule(ScheduleShape::WarmupStableDecay);
        assert!(close(stable.at(88, 110), 1e-3) && close(stable.at(99, 110), 0.55e-3));
    }

    #[test]
    fn no_warm_up_begins_at_the_peak_and_one_step_is_a_run() {
        let schedule = Schedule { warmup: 0, ..schedule(ScheduleShape::Cosine) };
        assert!(close(schedule.at(1, 100), 1e-3));
        assert!(close(schedule.at(1, 1), 1e-3));
        assert!(close(schedule.at(100, 100), 1e-4));
    }
}
