//! What a run writes: events, snapshots, the model.

use std::{
    io::Write,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use lns_checkpoint::CheckpointError;
use lns_record::{EvalEvent, Event, NewFolder, Outcome, ProvenanceRecord, pretty_json};
use lns_score::{HeldOut, evaluate_sequences};

use super::{Run, Summary, origin::Origin};
use crate::{RunError, SnapshotError, Teacher};

impl Run<'_> {
    pub(super) fn emit(&mut self, event: Event) -> Result<(), RunError> {
        let path = self.folder.join(Event::FILE_NAME);
        let mut line = match serde_json::to_vec(&event) {
            Ok(line) => line,
            Err(error) => unreachable!("events are plain: {error}"),
        };
        line.push(b'\n');
        self.log.write_all(&line).map_err(|source| RunError::Io { path, source })?;
        (self.observe)(&event);
        Ok(())
    }

    pub(super) fn note(&mut self, text: String) -> Result<(), RunError> {
        self.emit(Event::Note { step: self.state.step, time: now(), text })
    }

    pub(super) fn end(&mut self, outcome: Outcome, loss: Option<f64>) -> Result<Summary, RunError> {
        let (step, tokens) = (self.state.step, self.state.tokens);
        self.emit(Event::End { step, time: now(), outcome })?;
        Ok(Summary { outcome, step, tokens, loss })
    }

    pub(super) fn evaluate(&mut self) -> Result<Option<f64>, RunError> {
        // Adapters are added once, and not in every pass.
        let model = self.trainer.model().merged();
        let reference = self.trainer.teacher().map(Teacher::reference);
        let workers = self.trainer.workers();
        let HeldOut { nll, divergence, predicted } =
            evaluate_sequences(&model, &self.text.held_out, reference, workers)?;
        let loss = nll.is_finite().then_some(nll);
        let kl = divergence.filter(|kl| kl.is_finite());
        let step = self.state.step;
        self.evaluated = Some((step, loss));
        let tokens = self.state.tokens;
        self.emit(Event::Eval(EvalEvent { step, time: now(), tokens, loss, kl, predicted }))?;
        Ok(loss)
    }

    /// Writes a snapshot; when that fails, says so and goes on.
    pub(super) fn snapshot_or_note(&mut self) -> Result<(), RunError> {
        match self.snapshot()? {
            Ok(()) => Ok(()),
            Err(problem) => self.note(format!(
                "{problem}. The run goes on; its earlier snapshots are untouched. Make room, or the \
                 steps since then are repeated if it stops"
            )),
        }
    }

    /// Writes a snapshot unless this step has one.
    pub(super) fn snapshot(&mut self) -> Result<Result<(), SnapshotError>, RunError> {
        let step = self.state.step;
        if self.saved == Some(step) {
            return Ok(Ok(()));
        }
        let before = self.state.best;
        if let Some((at, Some(loss))) = self.evaluated
            && at == step
            && before.is_none_or(|(best, _)| loss < best)
        {
            self.state.best = Some((loss, step));
        }
        // What the snapshot says happened must outlive it; a system that cannot sync says so below.
        let _ = self.log.sync_all();
        let tokenizer = |folder: &Path| self.origin.write_tokenizer(&self.text, folder);
        match self.snapshots.write(&self.state, &self.trainer, &tokenizer) {
            Ok(folder) => {
                self.saved = Some(step);
                let best = self.state.best.is_some_and(|(_, best)| best == step);
                self.emit(Event::Snapshot { step, time: now(), folder, best })?;
                Ok(Ok(()))
            }
            Err(problem) => {
                self.state.best = before;
                Ok(Err(problem))
            }
        }
    }

    /// The model as it is now as a Hugging Face folder, `place` in the run's.
    pub(super) fn write_model(&mut self, place: &Path) -> Result<(), RunError> {
        let path = self.folder.join(place);
        let failed = |reason: String| RunError::Model { path: path.clone(), reason };
        std::fs::create_dir_all(path.parent().unwrap_or(&path))
            .map_err(|error| failed(error.to_string()))?;
        // One that is there is of this very run: of fewer steps, or written just before it was killed.
        let new = NewFolder::replace(&path).map_err(|error| failed(error.to_string()))?;
        self.trainer.model().write(new.path()).map_err(|error| failed(error.to_string()))?;
        let written = self.origin.write_tokenizer(&self.text, new.path());
        written.map_err(|error| failed(error.to_string()))?;
        if let Some(record) = self.provenance().map_err(|error| failed(error.to_string()))? {
            let path = new.path().join(ProvenanceRecord::FILE_NAME);
            let json = pretty_json(&record).map_err(|error| failed(error.to_string()))?;
            std::fs::write(path, json).map_err(|error| failed(error.to_string()))?;
        }
        new.commit().map_err(|error| failed(error.to_string()))
    }

    /// Where a fine-tuned model comes from.
    fn provenance(&self) -> Result<Option<ProvenanceRecord>, CheckpointError> {
        let Origin::Checkpoint(base) = &self.origin else { return Ok(None) };
        let options = serde_json::to_value(&self.config).unwrap_or_default();
        base.provenance("finetune", self.trainer.model().spec(), options).map(Some)
    }
}

/// Seconds since the Unix epoch.
pub(super) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}
