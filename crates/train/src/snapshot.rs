//! Snapshots: everything a run needs to go on as if it had never stopped.
//!
//! A snapshot is a folder `snapshots/step-00000200` that appears all at once (written beside, synced,
//! renamed). It is a checkpoint in its own right (`config.json`, `model.safetensors`, tokenizer), with
//! the optimiser's moments, the state of the run, and the sha256 of each file in `SHA256SUMS`. The
//! order of the text and the learning rate are functions of the step, so no random state is needed
//! beyond the position.

use std::{
    borrow::Cow,
    fs::File,
    io::{ErrorKind, Read},
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
    /// Updates applied: steps less those that the guard left out.
    pub(crate) updates: u64,
    /// Tokens predicted.
    pub(crate) tokens: u64,
    /// Sequences drawn.
    pub(crate) position: Position,
    /// Lowest held-out loss of a snapshot so far, and its step.
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
    #[error("{path} cannot be read now, which does not mean that it is damaged")]
    Unreadable { path: PathBuf, source: std::io::Error },
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
        let sums = sums(new.path(), &names(new.path()).map_err(io)?).map_err(io)?;
        std::fs::write(new.path().join(SUMS), sums).map_err(io)?;
        new.commit().map_err(io)?;
        self.prune(state);
        Ok(format!("snapshots/step-{:08}", state.step))
    }

    /// Removes all but the last few and the best. What cannot be removed stays.
    fn prune(&self, state: &State) {
        let keep = &state.config.snapshots;
        let best = state.best.filter(|_| keep.keep_best).map(|(_, step)| step);
        // Later ones are damaged: the run went on from one before them. They are written again.
        let steps = self.steps().into_iter().filter(|step| *step <= state.step);
        for step in steps.skip(keep.keep_last).filter(|step| Some(*step) != best) {
            let _ = std::fs::remove_dir_all(self.path(step));
        }
    }

    /// The latest whole snapshot; `None` when there is no snapshot at all.
    pub(crate) fn latest(
        &self,
        config: &RunConfig,
        workers: impl FnOnce() -> Workers,
    ) -> Result<Option<Restored>, SnapshotError> {
        let mut damaged = Vec::new();
        for step in self.steps() {
            match self.read(step, config) {
                Ok((state, model, moments)) => {
                    let path = self.path(step);
                    let mut trainer = Trainer::new(model, config.training_options(), workers());
                    trainer.set_moments(&moments, state.updates).map_err(|reason| {
                        SnapshotError::Damaged { path, reason: format!("{MOMENTS}: {reason}") }
                    })?;
                    return Ok(Some(Restored { state, trainer, damaged }));
                }
                Err(error @ SnapshotError::Damaged { .. }) => damaged.push(error.to_string()),
                Err(error) => return Err(error),
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
    ) -> Result<(State, Decoder, Vec<u8>), SnapshotError> {
        let path = self.path(step);
        let damaged = |reason: String| SnapshotError::Damaged { path: path.clone(), reason };
        let json_of = |error: serde_json::Error| damaged(format!("{STATE}: {error}"));
        let file = |name: &str| readable(&path, name, std::fs::read(path.join(name)));
        let written = String::from_utf8_lossy(&file(SUMS)?).into_owned();
        for line in written.lines() {
            let Some((digest, name)) = line.split_once("  ").filter(|(_, name)| is_name(name))
            else {
                return Err(damaged(format!("{SUMS} is not a list of checksums")));
            };
            if readable(&path, name, digest_of(&path.join(name)))? != digest {
                return Err(damaged(format!("{name} is not what was written (sha256 differs)")));
            }
        }
        let state: State = serde_json::from_slice(&file(STATE)?).map_err(json_of)?;
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
        Ok((state, model, file(MOMENTS)?))
    }
}

/// What was read of `name` in a snapshot: absent is damaged, anything else may pass.
fn readable<T>(folder: &Path, name: &str, read: std::io::Result<T>) -> Result<T, SnapshotError> {
    read.map_err(|source| match source.kind() {
        ErrorKind::NotFound => SnapshotError::Damaged {
            path: folder.to_owned(),
            reason: format!("{name} is not there"),
        },
        _ => SnapshotError::Unreadable { path: folder.join(name), source },
    })
}

/// Whether a listed name stays in its folder.
fn is_name(name: &str) -> bool {
    Path::new(name).file_name() == Some(name.as_ref())
}

/// The files of a folder, by name.
fn names(folder: &Path) -> std::io::Result<Vec<String>> {
    let mut names: Vec<String> = std::fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<std::io::Result<_>>()?;
    names.sort();
    Ok(names)
}

/// `sha256  name` of each file.
fn sums(folder: &Path, names: &[String]) -> std::io::Result<String> {
    names.iter().map(|name| Ok(format!("{}  {name}\n", digest_of(&folder.join(name))?))).collect()
}

fn digest_of(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut block = vec![0; 1 << 20];
    loop {
        match file.read(&mut block)? {
            0 => break,
            read => hasher.update(&block[..read]),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
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

    fn set_moments(&mut self, file: &[u8], updates: u64) -> Result<(), String> {
        let tensors = SafeTensors::deserialize(file).map_err(|error| error.to_string())?;
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
        self.steps = updates;
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
            for step in [3, 6, 9, 12, 15] {
                std::fs::create_dir_all(snapshots.path(step)).expect("makes");
            }
            let mut config = RunConfig::default();
            config.snapshots.keep_last = 2;
            config.snapshots.keep_best = keep_best;
            let (position, guard) = (Position { drawn: vec![0] }, Guard::default());
            snapshots.prune(&State {
                config,
                step: 12,
                updates: 12,
                tokens: 0,
                position,
                best,
                guard,
            });
            snapshots.steps()
        };
        // 15 is a damaged one that the run went back behind: it takes no good one's place.
        assert_eq!(kept(Some((4.0, 3)), true), [15, 12, 9, 3]);
        assert_eq!(kept(Some((4.0, 3)), false), [15, 12, 9]);
        assert_eq!(kept(Some((4.0, 9)), true), [15, 12, 9]);
        assert_eq!(kept(None, true), [15, 12, 9]);
    }
}
