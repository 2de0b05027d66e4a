//! Snapshots: everything a run needs to go on as if it had never stopped.
//!
//! A snapshot is a folder `snapshots/step-00000200` that appears all at once (written beside, synced,
//! renamed). It is a checkpoint in its own right (`config.json`, `model.safetensors`, tokenizer), with
//! the optimiser's moments, the state of the run, and the sha256 of each file in `SHA256SUMS`. The
//! order of the text and the learning rate are functions of the step, so no random state is needed
//! beyond the position.

use std::{
    borrow::Cow,
    collections::HashSet,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use lns_checkpoint::{Checkpoint, NamedTensor, write_tensors};
use lns_corpus::Position;
use lns_kernels::Compute;
use lns_model::{Decoder, LoraConfig, PeftModules};
use lns_record::{NewFolder, SMALL_FILE, file_sha256, read_regular};
use lns_spec::ModelSpec;
use lns_tokenizer::TokenizerError;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::{RunConfig, Trainer, guard::Guard, optimisers::Moments};

const STATE: &str = "state.json";
const MOMENTS: &str = "optimiser.safetensors";
const ADAPTERS: &str = "adapter_model.safetensors";
const ADAPTER_CONFIG: &str = "adapter_config.json";
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
    pub(crate) model: Decoder,
    /// Contents of the file with the optimiser's moments.
    pub(crate) moments: Vec<u8>,
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
        write_tokenizer: &dyn Fn(&Path) -> Result<(), TokenizerError>,
    ) -> Result<String, SnapshotError> {
        let path = self.path(state.step);
        let unwritable = |reason: String| SnapshotError::Unwritable { path: path.clone(), reason };
        let io = |error: std::io::Error| unwritable(error.to_string());
        std::fs::create_dir_all(&self.folder).map_err(io)?;
        lns_record::remove_unfinished(&self.folder);
        if path.exists() {
            // Only a damaged snapshot of this step can be there: from a whole one the run would have gone on.
            std::fs::remove_dir_all(&path).map_err(io)?;
        }
        let new = NewFolder::create(&path).map_err(io)?;
        let adapted = state.config.finetune.as_ref();
        match adapted.and_then(|from| Some((&from.base, from.lora.as_ref()?))) {
            None => {
                trainer.model().write(new.path()).map_err(|error| unwritable(error.to_string()))?;
                write_tokenizer(new.path()).map_err(|error| unwritable(error.to_string()))?;
            }
            Some((base, lora)) => {
                write_tensors(&new.path().join(ADAPTERS), &trainer.model().adapters())
                    .map_err(|error| unwritable(error.to_string()))?;
                let config = format!("{:#}\n", peft_config(base, lora, trainer.model().spec()));
                std::fs::write(new.path().join(ADAPTER_CONFIG), config).map_err(io)?;
            }
        }
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

    /// The latest whole snapshot; `None` when there is no snapshot at all. `base` is the model that
    /// adapters belong to.
    pub(crate) fn latest(
        &self,
        config: &RunConfig,
        compute: &Compute,
        base: Option<&Decoder>,
    ) -> Result<Option<Restored>, SnapshotError> {
        let mut damaged = Vec::new();
        for step in self.steps() {
            match self.read(step, config, compute, base) {
                Ok((state, model, moments)) => {
                    return Ok(Some(Restored { state, model, moments, damaged }));
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
        compute: &Compute,
        base: Option<&Decoder>,
    ) -> Result<(State, Decoder, Vec<u8>), SnapshotError> {
        let path = self.path(step);
        let damaged = |reason: String| SnapshotError::Damaged { path: path.clone(), reason };
        let json_of = |error: serde_json::Error| damaged(format!("{STATE}: {error}"));
        let file =
            |name: &str, limit: u64| readable(&path, name, read_regular(&path.join(name), limit));
        let written = String::from_utf8_lossy(&file(SUMS, SMALL_FILE)?).into_owned();
        let mut listed = HashSet::new();
        for line in written.lines() {
            let Some((digest, name)) = line.split_once("  ").filter(|(_, name)| is_name(name))
            else {
                return Err(damaged(format!("{SUMS} is not a list of checksums")));
            };
            if readable(&path, name, file_sha256(&path.join(name)))? != digest {
                return Err(damaged(format!("{name} is not what was written (sha256 differs)")));
            }
            listed.insert(name);
        }
        // Sums vouch only for what they list: a list that was cut short would vouch for anything.
        let there = readable(&path, "its folder", names(&path))?;
        let there = there.iter().map(String::as_str).filter(|name| *name != SUMS);
        let needed = needed(config).into_iter().chain(there.filter(|name| !name.starts_with('.')));
        if let Some(name) = needed.into_iter().find(|name| !listed.contains(name)) {
            return Err(damaged(format!("{SUMS} does not list {name}")));
        }
        let state: State = serde_json::from_slice(&file(STATE, SMALL_FILE)?).map_err(json_of)?;
        let other = config.differences(&state.config);
        if let Some((key, mine, theirs)) = other.first()
            && !config.extends(&state.config)
        {
            return Err(damaged(format!(
                "it belongs to another run: `{key}` is {theirs} there and {mine} here"
            )));
        }
        let lora = config.finetune.as_ref().and_then(|from| from.lora.as_ref());
        let model = match (base, lora) {
            (Some(base), Some(lora)) => {
                let bytes = file(ADAPTERS, u64::MAX)?;
                let adapters = SafeTensors::deserialize(&bytes)
                    .map_err(|error| damaged(format!("{ADAPTERS}: {error}")))?;
                let mut saved = |name: &str, shape: &[usize]| read_tensor(&adapters, name, shape);
                let model = base.clone().with_saved_lora(lora, &mut saved);
                model.map_err(|error| damaged(format!("{ADAPTERS}: {error}")))?
            }
            _ => {
                let checkpoint =
                    Checkpoint::open(&path).map_err(|error| damaged(error.to_string()))?;
                Decoder::from_checkpoint(&checkpoint, &compute.device)
                    .map_err(|error| damaged(error.to_string()))?
                    .with_precision(compute.precision)
            }
        };
        Ok((state, model, file(MOMENTS, u64::MAX)?))
    }

    /// Puts the optimiser where a snapshot left it.
    pub(crate) fn restore(
        &self,
        trainer: &mut Trainer,
        moments: &[u8],
        state: &State,
    ) -> Result<(), SnapshotError> {
        trainer.set_moments(moments, state.updates).map_err(|reason| SnapshotError::Damaged {
            path: self.path(state.step),
            reason: format!("{MOMENTS}: {reason}"),
        })
    }
}

/// The files that no snapshot of a run is without.
fn needed(config: &RunConfig) -> [&'static str; 4] {
    match config.finetune.as_ref().and_then(|from| from.lora.as_ref()) {
        None => [STATE, MOMENTS, "config.json", "model.safetensors"],
        Some(_) => [STATE, MOMENTS, ADAPTERS, ADAPTER_CONFIG],
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
    names.iter().map(|name| Ok(format!("{}  {name}\n", file_sha256(&folder.join(name))?))).collect()
}

/// An f32 tensor of that name and shape.
fn read_tensor(tensors: &SafeTensors<'_>, name: &str, shape: &[usize]) -> Option<Vec<f32>> {
    let tensor = tensors.tensor(name).ok()?;
    let numbers = tensor.data().as_chunks::<4>().0.iter();
    let fits = tensor.dtype() == Dtype::F32 && tensor.shape() == shape;
    fits.then(|| numbers.map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

/// An `adapter_config.json` as PEFT reads it, for adapters of the checkpoint `base`.
fn peft_config(base: &Path, lora: &LoraConfig, spec: &ModelSpec) -> serde_json::Value {
    let PeftModules { target_modules, rank_pattern, alpha_pattern, fan_in_fan_out } =
        lora.peft_modules(spec);
    serde_json::json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": target_modules,
        "rank_pattern": rank_pattern,
        "alpha_pattern": alpha_pattern,
        "fan_in_fan_out": fan_in_fan_out,
    })
}

impl Trainer {
    /// What the optimiser keeps, as `NAME.PATH` of each moment of each parameter: all first moments,
    /// then all second ones.
    fn moment_tensors(&self) -> Vec<NamedTensor<'_>> {
        let Moments { parameters, names, values } = &self.moments;
        let most = names.iter().map(|names| names.len()).max().unwrap_or(0);
        let mut tensors = Vec::new();
        for index in 0..most {
            for ((parameter, names), values) in parameters.iter().zip(names).zip(values) {
                if let (Some(name), Some(values)) = (names.get(index), values.get(index)) {
                    tensors.push(NamedTensor {
                        name: format!("{name}.{}", parameter.name),
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
        let Moments { parameters, names, values } = &mut self.moments;
        for ((parameter, names), values) in parameters.iter().zip(names).zip(values) {
            for (name, values) in names.iter().zip(values) {
                let name = format!("{name}.{}", parameter.name);
                *values = read_tensor(&tensors, &name, &parameter.shape)
                    .ok_or_else(|| format!("{name} is not there as f32 {:?}", parameter.shape))?;
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
