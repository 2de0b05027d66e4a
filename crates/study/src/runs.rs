//! What the folder of one run of a study holds.

use std::path::Path;

use lns_record::{CurvePoint, DiagnoseRecord, Event, Outcome, RunRecord, read_events};

use crate::{StudyError, config::Planned};

/// The run so far; `None` before its first event.
pub(crate) fn run_record(path: &Path, planned: &Planned) -> Result<Option<RunRecord>, StudyError> {
    if !path.join(Event::FILE_NAME).exists() {
        return Ok(None);
    }
    let events = read_events(path)?;
    let mut run = RunRecord {
        folder: planned.folder.clone(),
        seed: planned.seed,
        outcome: "running".to_owned(),
        steps: 0,
        tokens: 0,
        loss: None,
        curve: Vec::new(),
        variance: Vec::new(),
        diagnosis: None,
    };
    for event in &events {
        match event {
            Event::Step(event) => (run.steps, run.tokens) = (event.step, event.tokens),
            Event::Eval(event) => {
                let (step, tokens) = (event.step, event.tokens);
                let point = event.loss.map(|loss| CurvePoint { step, tokens, loss });
                run.loss = event.loss;
                run.curve.extend(point);
            }
            Event::Layers(event) => run.variance.push((event.step, event.stream_variance.clone())),
            Event::End { outcome, .. } => {
                run.outcome = match outcome {
                    Outcome::Finished => "finished",
                    Outcome::Interrupted => "interrupted",
                    Outcome::Diverged => "diverged",
                }
                .to_owned();
            }
            _ => {}
        }
    }
    if run.outcome != "finished" {
        run.loss = None;
    }
    if path.join(DiagnoseRecord::FILE_NAME).exists() {
        run.diagnosis = Some(Box::new(DiagnoseRecord::read(path)?));
    }
    Ok(Some(run))
}
