//! Snapshots: everything a run needs to go on as if it had never stopped.
//!
//! A snapshot is a folder `snapshots/step-00000200` that appears all at once (written beside, synced,
//! renamed). It is a checkpoint in its own right (`config.json`, `model.safetensors`, tokenizer), with
//! the optimiser's moments, the state of the run, and the sha256 of each file in `SHA256SUMS`. The
//! order of the text and the learning rate are functions of the step, so no random state is needed
//! beyond the position.

use std::{
    borrow::Cow,
    fmt::Write,
    path::{Path, PathBuf},
};

use layernorm_scaling::Decoder;
use lns_checkpoint::{Checkpoint, NamedTensor, write_tensors};
use lns_data::{Position, Tokenizer};
use lns_kernels::{Device, Workers};
use lns_record::NewFolder;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{RunConfig, Trainer, guard::Guard};

const STATE: &str = "state.json";
const MOMENTS: &str = "optimiser.safetensors";
const SUMS: &str = "SHA256SUMS";

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    /// The run's settings.
    pub(crate) config: RunConfig,
    /// Steps taken.
    pub(crate) step: u64,
    /// Tokens predicted.
    pub(crate) tokens: u64,
    /// Sequences drawn.
    pub(crate) position: Position,
    /// Lowest held-out loss so far and its step.
    pub(crate) best: Option<(f64, u64)>,
    /// What the guard has seen.
    pub(crate) guard: Guard,
}

/// Why a snapshot cannot be used, or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message names its fields")]
pub enum SnapshotError {
    #[error("{path}: {reason}")]
    Damaged { path: PathBuf, reason: String },
    #[error(
        "no snapshot in {folder} is whole:\n{reasons}\nDelete the folder to start the run again \
         from its first step."
    )]
    AllDamaged { folder: PathBuf, reasons: String },
    #[error("{path} was not written: {reason}")]
    Unwritable { path: PathBuf, reason: String },
}

/// The snapshots of one run.
#[derive(Debug)]
pub(crate) struct Snapshots {
    folder: PathBuf,
}

/// A snapshot that was read.
pub(crate) struct Restored {
    pub(crate) state: State,
    pub(crate) trainer: Trainer,
    /// What was wrong with later ones.
    pub(crate) damaged: Vec<String>,
}

impl Snapshots {
    pub(crate) fn of(run: &Path) -> Self {
        Self { folder: run.join("snapshots") }
    }

    fn path(&self, step: u64) -> PathBuf {
        self.folder.join(format!("step-{step:08}"))
    }

    /// Steps that have a folder, latest first.
    fn steps(&self) -> Vec<u64> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let step = |name: std::ffi::OsString| name.to_str()?.strip_prefix("step-")?.parse().ok();
        let mut steps: Vec<u64> = entries.filter_map(|entry| step(entry.file_name())).collect();
        steps.sort_unstable_by(|a, b| b.cmp(a));
        steps
    }

    /// Writes one and removes those that need not be kept; returns its folder relative to the run's.
    pub(crate) fn write(
        &self,
        state: &State,
        trainer: &Trainer,
        tokenizer: &Tokenizer,
    ) -> Result<String, SnapshotError> {
        let path = self.path(state.step);
        let unwritable = |reason: String| SnapshotError::Unwritable { path: path.clone(), reason };
        let io = |error: std::io::Error| unwritable(error.to_string());
        std::fs::create_dir_all(&self.folder).map_err(io)?;
        lns_record::remove_unfinished(&self.folder).map_err(io)?;
        if path.exists() {
            // Of this step only a damaged one can be there: a whole one would have been resumed from.
            std::fs::remove_dir_all(&path).map_err(io)?;
        }
        let new = NewFolder::create(&path).map_err(io)?;
        trainer.model().write(new.path()).map_err(|error| unwritable(error.to_string()))?;
        tokenizer.save(new.path()).map_err(|error| unwritable(error.to_string()))?;
        write_tensors(&new.path().join(MOMENTS), &trainer.moment_tensors())
            .map_err(|error| unwritable(error.to_string()))?;
        let json =
            serde_json::to_vec_pretty(state).map_err(|error| unwritable(error.to_string()))?;
        std::fs::write(new.path().join(STATE), json).map_err(io)?;
        let sums = sums(new.path()).map_err(io)?;
        std::fs::write(new.path().join(SUMS), sums).map_err(io)?;
        new.commit().map_err(io)?;
        self.prune(state);
        Ok(format!("snapshots/step-{:08}", state.step))
    }

    /// Removes all but the last few and the best. What cannot be removed stays.
    fn prune(&self, state: &State) {
        let keep = &state.config.snapshots;
        let best = state.best.filter(|_| keep.keep_best).map(|(_, step)| step);
        let steps = self.steps();
        // The best loss was measured at a step that need not have a snapshot.
        let best = best.filter(|best| steps.contains(best));
        for step in steps.iter().skip(keep.keep_last).filter(|step| Some(**step) != best) {
            let _ = std::fs::remove_dir_all(self.path(*step));
        }
    }

    /// The latest whole snapshot; `None` when there is no snapshot at all.
    pub(crate) fn latest(
        &self,
        config: &RunConfig,
        workers: &dyn Fn() -> std::io::Result<Workers>,
    ) -> Result<Option<Restored>, SnapshotError> {
        let mut damaged = Vec::new();
        for step in self.steps() {
            match self.read(step, config, workers) {
                Ok((state, trainer)) => return Ok(Some(Restored { state, trainer, damaged })),
                Err(error) => damaged.push(error.to_string()),
            }
        }
        if damaged.is_empty() {
            return Ok(None);
        }
        let reasons = damaged.join("\n");
        Err(SnapshotError::AllDamaged { folder: self.folder.clone(), reasons })
    }

    fn read(
        &self,
        step: u64,
        config: &RunConfig,
        workers: &dyn Fn() -> std::io::Result<Workers>,
    ) -> Result<(State, Trainer), SnapshotError> {
        let path = self.path(step);
        let damaged = |reason: String| SnapshotError::Damaged { path: path.clone(), reason };
        let io = |file: &str, error: &dyn std::fmt::Display| damaged(format!("{file}: {error}"));
        let written = std::fs::read_to_string(path.join(SUMS)).map_err(|e| io(SUMS, &e))?;
        let found = sums(&path).map_err(|error| damaged(error.to_string()))?;
        if written != found {
            let differing = written.lines().zip(found.lines()).find(|(a, b)| a != b);
            let file = differing.and_then(|(line, _)| line.split("  ").nth(1)).unwrap_or("a file");
            return Err(damaged(format!("{file} is not what was written (sha256 differs)")));
        }
        let json = std::fs::read(path.join(STATE)).map_err(|e| io(STATE, &e))?;
        let state: State = serde_json::from_slice(&json).map_err(|e| io(STATE, &e))?;
        let other = config.differences(&state.config);
        if let Some((key, mine, theirs)) = other.first() {
            return Err(damaged(format!(
                "it belongs to another run: `{key}` is {theirs} there and {mine} here"
            )));
        }
        let checkpoint = Checkpoint::open(&path).map_err(|error| damaged(error.to_string()))?;
        let model = Decoder::from_checkpoint(&checkpoint, &Device::flex())
            .map_err(|error| damaged(error.to_string()))?
            .with_precision(config.precision);
        let workers = workers().map_err(|error| damaged(error.to_string()))?;
        let mut trainer = Trainer::new(model, config.training_options(), workers);
        let bytes = std::fs::read(path.join(MOMENTS)).map_err(|e| io(MOMENTS, &e))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| io(MOMENTS, &e))?;
        trainer.set_moments(&tensors, state.step).map_err(|reason| io(MOMENTS, &reason))?;
        Ok((state, trainer))
    }
}

/// `sha256  name` of every file but the list itself, by name.
fn sums(folder: &Path) -> std::io::Result<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<std::io::Result<_>>()?;
    names.retain(|name| name != SUMS);
    names.sort();
    let mut list = String::new();
    for name in names {
        let digest = Sha256::digest(std::fs::read(folder.join(&name))?);
        for byte in digest {
            let _ = write!(list, "{byte:02x}");
        }
        let _ = writeln!(list, "  {name}");
    }
    Ok(list)
}

impl Trainer {
    /// The optimiser's moments: `first.PATH` and, where the rule keeps one, `second.PATH`.
    fn moment_tensors(&self) -> Vec<NamedTensor<'_>> {
        let moments = &self.moments;
        let mut tensors = Vec::new();
        for (kind, values) in [("first", &moments.first), ("second", &moments.second)] {
            for (parameter, values) in moments.parameters.iter().zip(values) {
                if !values.is_empty() {
                    tensors.push(NamedTensor {
                        name: format!("{kind}.{}", parameter.name),
                        shape: parameter.shape.clone(),
                        values: Cow::Borrowed(values),
                    });
                }
            }
        }
        tensors
    }

    fn set_moments(&mut self, tensors: &SafeTensors<'_>, steps: u64) -> Result<(), String> {
        let moments = &mut self.moments;
        for (kind, all) in [("first", &mut moments.first), ("second", &mut moments.second)] {
            for (parameter, values) in moments.parameters.iter().zip(all) {
                if values.is_empty() {
                    continue;
                }
                let name = format!("{kind}.{}", parameter.name);
                let tensor = tensors.tensor(&name).map_err(|error| error.to_string())?;
                if tensor.dtype() != Dtype::F32 || tensor.shape() != parameter.shape {
                    return Err(format!("{name} is not f32 {:?}", parameter.shape));
                }
                let numbers = tensor.data().as_chunks::<4>().0.iter();
                *values = numbers.map(|bytes| f32::from_le_bytes(*bytes)).collect();
            }
        }
        self.steps = steps;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_snapshots_and_the_best_are_kept() {
        let run = tempfile::tempdir().expect("a temporary folder");
        let snapshots = Snapshots::of(run.path());
        let kept = |best, keep_best| {
            for step in [3, 6, 9, 12] {
                std::fs::create_dir_all(snapshots.path(step)).expect("makes");
            }
            let mut config = RunConfig::default();
            config.snapshots.keep_last = 2;
            config.snapshots.keep_best = keep_best;
            let (position, guard) = (Position { drawn: vec![0] }, Guard::default());
            snapshots.prune(&State { config, step: 12, tokens: 0, position, best, guard });
            snapshots.steps()
        };
        assert_eq!(kept(Some((4.0, 3)), true), [12, 9, 3]);
        assert_eq!(kept(Some((4.0, 3)), false), [12, 9]);
        assert_eq!(kept(Some((4.0, 9)), true), [12, 9]);
        assert_eq!(kept(Some((4.0, 4)), true), [12, 9], "the best step has no snapshot");
        assert_eq!(kept(None, true), [12, 9]);
    }
}
