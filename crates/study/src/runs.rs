//! What the folder of one run of a study holds.

use std::{collections::BTreeMap, path::Path};

use lns_record::{AlongRecord, CurvePoint, DiagnoseRecord, Event, Outcome, RunRecord, read_events};
use lns_train::RunConfig;

use crate::StudyError;

/// The run at `path` so far, in the folder that the study calls `folder`; `None` before its first event. `kept`
/// are the steps after which its model is kept and diagnosed.
pub(crate) fn run_record(
    path: &Path,
    folder: &str,
    seed: u64,
    kept: impl IntoIterator<Item = u64>,
) -> Result<Option<RunRecord>, StudyError> {
    if !path.join(Event::FILE_NAME).exists() {
        return Ok(None);
    }
    let events = read_events(path)?;
    let mut run = RunRecord {
        folder: folder.to_owned(),
        seed,
        outcome: "running".to_owned(),
        steps: 0,
        tokens: 0,
        loss: None,
        curve: Vec::new(),
        variance: Vec::new(),
        along: Vec::new(),
        diagnosis: None,
    };
    // Steps that were repeated after a kill stand twice, with the same numbers.
    let mut tokens = BTreeMap::from([(0, 0)]);
    for event in &events {
        match event {
            Event::Step(event) => {
                (run.steps, run.tokens) = (event.step, event.tokens);
                tokens.insert(event.step, event.tokens);
            }
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
    for step in kept {
        let model = path.join(RunConfig::checkpoint(step));
        if let Some(tokens) = tokens.get(&step)
            && model.join(DiagnoseRecord::FILE_NAME).exists()
        {
            run.along.extend(AlongRecord::of(&DiagnoseRecord::read(&model)?, step, *tokens));
        }
    }
    if path.join(DiagnoseRecord::FILE_NAME).exists() {
        let finished = DiagnoseRecord::read(path)?;
        if !run.along.is_empty() {
            run.along.extend(AlongRecord::of(&finished, run.steps, run.tokens));
        }
        run.diagnosis = Some(Box::new(finished));
    }
    Ok(Some(run))
}
