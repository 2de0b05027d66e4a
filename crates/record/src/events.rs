//! `events.jsonl`: what a training run did, one JSON object per line, only ever appended to.
//!
//! A run that was killed may have reported steps that its last snapshot does not hold. When it is
//! resumed it says so with [`Event::Resume`], and [`read_events`] forgets what came after that step.

use std::{
    io::{BufRead, BufReader, ErrorKind, Read},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::open_regular;

/// One line of `events.jsonl`. Times are seconds since the Unix epoch, losses nats per token; `tokens`
/// counts every token the run has predicted so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// The run begins.
    Start(StartEvent),
    /// The run goes on from a snapshot; later steps that were reported before did not count.
    Resume {
        /// Steps the snapshot holds.
        step: u64,
        /// Time of the event, in seconds since the Unix epoch.
        time: f64,
        /// Steps planned from now on, where they are more than were planned before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        steps: Option<u64>,
    },
    /// A step was taken.
    Step(StepEvent),
    /// Held-out text was evaluated.
    Eval(EvalEvent),
    /// What each layer did in the step.
    Layers(LayersEvent),
    /// A snapshot was written.
    Snapshot {
        /// Steps it holds.
        step: u64,
        /// Time of the event, in seconds since the Unix epoch.
        time: f64,
        /// Its folder, relative to the run's.
        folder: String,
        /// Whether its evaluation is the lowest so far.
        best: bool,
    },
    /// Something a person should know.
    Note {
        /// Steps taken.
        step: u64,
        /// Time of the event, in seconds since the Unix epoch.
        time: f64,
        /// The note, in words.
        text: String,
    },
    /// The run ends, for now or for good.
    End {
        /// Steps taken.
        step: u64,
        /// Time of the event, in seconds since the Unix epoch.
        time: f64,
        /// Why the run ended.
        outcome: Outcome,
    },
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All its steps were taken.
    Finished,
    /// It was asked to stop and can be resumed.
    Interrupted,
    /// The loss or the gradient was not a finite number.
    Diverged,
}

/// What is about to be trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StartEvent {
    /// Time of the event, in seconds since the Unix epoch.
    pub time: f64,
    /// Version of the program.
    pub version: String,
    /// Norm scheme, in words.
    pub scheme: String,
    /// Initialisation.
    pub initialisation: String,
    /// Seed of the weights and of the order of the text.
    pub seed: u64,
    /// Worker threads.
    pub threads: u64,
    /// Layers of the model.
    pub layers: u64,
    /// Parameters of the model.
    pub parameters: u64,
    /// Steps planned.
    pub steps: u64,
    /// Tokens of a step, predicted or not.
    pub tokens_per_step: u64,
    /// The checkpoint that training goes on from, if it does not begin from scratch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Parameters that a fine-tune trains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trainable: Option<u64>,
    /// The model that training goes towards, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<String>,
}

/// A training step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepEvent {
    /// Steps taken, this one included.
    pub step: u64,
    /// Time of the event, in seconds since the Unix epoch.
    pub time: f64,
    /// Tokens predicted so far.
    pub tokens: u64,
    /// Mean loss of the batch before the update; absent when it was not a finite number.
    pub loss: Option<f64>,
    /// Mean KL(teacher ‖ model) of the batch at the temperature, before the update; absent without a
    /// teacher, and when it was not a finite number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    /// ‖gradient‖₂ before clipping; absent when it was not a finite number.
    pub gradient_norm: Option<f64>,
    /// Learning rate of the update.
    pub learning_rate: f64,
    /// Tokens per second of this step.
    pub tokens_per_second: f64,
    /// Whether the update was left out because of a spike or a number that was not finite.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
}

/// An evaluation on held-out text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalEvent {
    /// Steps taken.
    pub step: u64,
    /// Time of the event, in seconds since the Unix epoch.
    pub time: f64,
    /// Tokens predicted in training so far.
    pub tokens: u64,
    /// Mean loss per predicted token of the held-out text; absent when it was not a finite number.
    pub loss: Option<f64>,
    /// Mean KL(teacher ‖ model) per predicted token of the held-out text at the temperature; absent without
    /// a teacher, and when it was not a finite number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    /// Predicted tokens of the held-out text: the denominator.
    pub predicted: u64,
}

/// What each layer did in one step: what Figure 4 of arXiv 2502.05795 shows, while the run goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayersEvent {
    /// Steps taken.
    pub step: u64,
    /// Time of the event, in seconds since the Unix epoch.
    pub time: f64,
    /// Variance over features, mean over tokens, of the stream before layer 0, …, after the last.
    pub stream_variance: Vec<f64>,
    /// Of each layer: √ of the variance of what both branches add over that of the stream they are
    /// added to.
    pub branch_ratio: Vec<f64>,
    /// Of each layer: ‖gradient‖₂ over its parameters, before clipping.
    pub gradient_norm: Vec<f64>,
    /// Of each layer: ‖change of its parameters‖₂ over ‖its parameters‖₂.
    pub update_ratio: Vec<f64>,
}

/// Why events cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message names its fields")]
pub enum EventsError {
    #[error("{path}: no events: not the folder of a training run?")]
    Absent { path: PathBuf },
    #[error("{path} cannot be read")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path}, line {line}: not an event: {reason}")]
    Malformed { path: PathBuf, line: usize, reason: String },
}

impl Event {
    /// The file's name in a run's folder.
    pub const FILE_NAME: &str = "events.jsonl";

    /// No line is this long, in bytes: statistics of thousands of layers take less.
    pub const LONGEST_LINE: u64 = 16 << 20;

    /// Steps taken when it happened.
    pub fn step(&self) -> u64 {
        match self {
            Self::Start(_) => 0,
            Self::Resume { step, .. }
            | Self::Snapshot { step, .. }
            | Self::Note { step, .. }
            | Self::End { step, .. } => *step,
            Self::Step(event) => event.step,
            Self::Eval(event) => event.step,
            Self::Layers(event) => event.step,
        }
    }
}

/// The events of the run in `folder` that count, in order: steps that were taken again after a
/// [`Event::Resume`] appear once. A last line that is not whole yet is left out.
///
/// # Errors
/// [`EventsError`], naming the line.
pub fn read_events(folder: &Path) -> Result<Vec<Event>, EventsError> {
    let path = folder.join(Event::FILE_NAME);
    let file = open_regular(&path).map_err(|source| match source.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => {
            EventsError::Absent { path: path.clone() }
        }
        _ => EventsError::Io { path: path.clone(), source },
    })?;
    let mut reader = BufReader::new(file);
    let mut events: Vec<Event> = Vec::new();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = reader
            .by_ref()
            .take(Event::LONGEST_LINE)
            .read_until(b'\n', &mut line)
            .map_err(|source| EventsError::Io { path: path.clone(), source })?;
        if read as u64 == Event::LONGEST_LINE && !line.ends_with(b"\n") {
            let reason = "the line has no end".to_owned();
            return Err(EventsError::Malformed { path: path.clone(), line: number, reason });
        }
        if read == 0 || !line.ends_with(b"\n") {
            break;
        }
        let event = serde_json::from_slice(&line).map_err(|error| EventsError::Malformed {
            path: path.clone(),
            line: number,
            reason: error.to_string(),
        })?;
        if let Event::Resume { step, .. } = event {
            // A run that is resumed before its first snapshot begins anew.
            events.retain(|earlier| match earlier {
                Event::Start(_) => true,
                Event::End { .. } => false,
                other => step > 0 && other.step() <= step,
            });
        }
        events.push(event);
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Event>, EventsError> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join(Event::FILE_NAME), text).expect("writes");
        read_events(folder.path())
    }

    fn step(step: u64) -> String {
        let event = StepEvent {
            step,
            time: 1.5,
            tokens: 10 * step,
            loss: Some(4.25),
            kl: None,
            gradient_norm: None,
            learning_rate: 1e-3,
            tokens_per_second: 100.0,
            skipped: false,
        };
        serde_json::to_string(&Event::Step(event)).expect("plain numbers") + "\n"
    }

    const RESUME_AT_2: &str = "{\"event\":\"resume\",\"step\":2,\"time\":3.0}\n";
    const INTERRUPTED_AT_2: &str =
        "{\"event\":\"end\",\"step\":2,\"time\":2.0,\"outcome\":\"interrupted\"}\n";

    fn steps(events: &[Event]) -> Vec<u64> {
        events.iter().map(Event::step).collect()
    }

    #[test]
    fn steps_taken_again_after_a_resume_appear_once() {
        let text = [step(1), step(2), step(3), RESUME_AT_2.to_owned(), step(3), step(4)].concat();
        let events = read(&text).expect("events");
        assert_eq!(steps(&events), [1, 2, 2, 3, 4]);
        assert!(matches!(events[2], Event::Resume { step: 2, .. }));
    }

    #[test]
    fn an_end_that_was_not_for_good_is_forgotten_and_another_one_is_kept() {
        let before = step(1) + &step(2) + INTERRUPTED_AT_2;
        assert_eq!(steps(&read(&before).expect("events")), [1, 2, 2]);
        let after = read(&(before + RESUME_AT_2 + &step(3))).expect("events");
        assert!(!after.iter().any(|event| matches!(event, Event::End { .. })));
        assert_eq!(steps(&after), [1, 2, 2, 3]);
    }

    #[test]
    fn a_torn_last_line_is_left_out_and_a_torn_one_before_it_is_not() {
        let whole = step(1) + &step(2);
        for cut in 1..step(2).len() {
            let torn = &whole[..whole.len() - cut];
            assert_eq!(steps(&read(torn).expect("events")), [1], "{torn}");
        }
        let error = read(&format!("{}{}\n{}", step(1), &step(2)[..20], step(3)));
        assert!(matches!(error, Err(EventsError::Malformed { line: 2, .. })), "{error:?}");
    }

    #[test]
    fn a_line_that_is_no_event_is_named_by_its_number() {
        for line in ["", "{}", "[]", "{\"event\":\"dance\"}", "{\"event\":\"step\",\"step\":-1}"] {
            let error = read(&format!("{}{line}\n", step(1))).expect_err("no event");
            assert!(error.to_string().contains("events.jsonl, line 2: "), "{error}");
        }
        let error = read_events(Path::new("no such folder")).expect_err("absent");
        assert!(matches!(error, EventsError::Absent { .. }));
    }

    #[test]
    fn fields_that_a_later_version_added_are_passed_over() {
        let newer = step(7).replace("\"tokens\"", "\"mood\":[\"good\"],\"tokens\"");
        assert_ne!(newer, step(7));
        assert_eq!(read(&newer).expect("events"), read(&step(7)).expect("events"));
    }

    #[test]
    fn an_event_survives_being_written_and_read() {
        let layers = Event::Layers(LayersEvent {
            step: 1,
            time: 0.1 + 0.2,
            stream_variance: vec![1.0 / 3.0, f64::MIN_POSITIVE, f64::MAX],
            branch_ratio: vec![0.5],
            gradient_norm: vec![2e-9],
            update_ratio: Vec::new(),
        });
        let text = serde_json::to_string(&layers).expect("plain numbers") + "\n";
        assert_eq!(read(&text).expect("events"), [layers]);
    }
}
