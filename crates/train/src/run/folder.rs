//! The folder of a run: whose it is, how far it came, and its log of events.

use std::{
    fs::{File, OpenOptions},
    io::Read,
    path::Path,
};

use lns_record::{Event, EventsError, Outcome, read_events, regular};

use super::Summary;
use crate::{RunConfig, RunError};

/// The settings of the run that is in `folder`, which must be those asked for, or `None` when the
/// folder is free. What only a begun run knows is filled in.
pub(super) fn of_this_run(
    asked: &mut RunConfig,
    folder: &Path,
) -> Result<Option<RunConfig>, RunError> {
    asked.check_paths()?;
    if !folder.join(RunConfig::FILE_NAME).exists() {
        let ours = [RunConfig::MODEL, RunConfig::CHECKPOINTS, "snapshots", Event::FILE_NAME];
        // An empty log is left by a run that was killed as it began: it is opened, to be locked, before
        // the settings are written.
        let holds = |name: &&str| {
            folder.join(name).metadata().is_ok_and(|found| found.is_dir() || found.len() > 0)
        };
        return match ours.into_iter().find(holds) {
            Some(found) => Err(RunError::NotARun { folder: folder.to_owned(), found }),
            None => Ok(None),
        };
    }
    let there = RunConfig::read(folder)?;
    if asked.model.vocab_size == 0 {
        asked.model.vocab_size = there.model.vocab_size;
    }
    if let (Some(asked), Some(there)) = (&mut asked.finetune, &there.finetune) {
        if asked.fingerprint.is_empty() {
            there.fingerprint.clone_into(&mut asked.fingerprint);
        }
        if let (Some(asked), Some(there)) = (&mut asked.teacher, &there.teacher)
            && asked.fingerprint.is_empty()
        {
            there.fingerprint.clone_into(&mut asked.fingerprint);
        }
    }
    for (asked, there) in asked.data.sources.iter_mut().zip(&there.data.sources) {
        if asked.fingerprint.is_empty() {
            there.fingerprint.clone_into(&mut asked.fingerprint);
        }
    }
    let differences = asked.differences(&there);
    if differences.is_empty() || asked.extends(&there) {
        return Ok(Some(there));
    }
    let line = |(key, asked, there): &(String, String, String)| {
        format!("  {key} = {there} there, {asked} asked for")
    };
    let differences = differences.iter().map(line).collect::<Vec<_>>().join("\n");
    Err(RunError::AnotherRun { folder: folder.to_owned(), differences })
}

/// The loss of the evaluation after a step, as the log has it.
pub(super) fn last_evaluation(
    folder: &Path,
    step: u64,
) -> Result<Option<(u64, Option<f64>)>, EventsError> {
    let events = read_events(folder)?;
    let last = events.iter().rev().find_map(|event| match event {
        Event::Eval(event) => Some((event.step, event.loss)),
        _ => None,
    });
    Ok(last.filter(|(at, _)| *at == step))
}

/// How a run that needs no more than `steps` steps ended.
pub(super) fn finished(folder: &Path, steps: u64) -> Result<Option<Summary>, RunError> {
    if !folder.join(Event::FILE_NAME).exists() {
        return Ok(None);
    }
    let events = read_events(folder)?;
    let Some(Event::End { step, outcome, .. }) = events.last() else { return Ok(None) };
    let model = folder.join(RunConfig::MODEL).is_dir();
    let done = match outcome {
        Outcome::Finished => model && *step >= steps,
        Outcome::Diverged => true,
        Outcome::Interrupted => false,
    };
    if !done {
        return Ok(None);
    }
    let mut summary = Summary { outcome: *outcome, step: *step, tokens: 0, loss: None };
    for event in &events {
        match event {
            Event::Step(event) => summary.tokens = event.tokens,
            Event::Eval(event) if *outcome == Outcome::Finished => summary.loss = event.loss,
            _ => {}
        }
    }
    Ok(Some(summary))
}

pub(super) fn open_log(path: &Path) -> std::io::Result<File> {
    // Opened for reading and writing, a pipe does not wait for its other end.
    regular(OpenOptions::new().read(true).append(true).create(true).open(path)?)
}

/// Half a line that a killed run left behind is cut off.
pub(super) fn cut_torn_line(log: &mut File) -> std::io::Result<()> {
    let mut text = Vec::new();
    log.read_to_end(&mut text)?;
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    if whole < text.len() { log.set_len(whole as u64) } else { Ok(()) }
}
