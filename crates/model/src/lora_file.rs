//! Adapters as PEFT has them on disk: by the modules of the model that transformers builds.
//!
//! A family may keep several of a layer's matrices in one module (GPT-2's `c_attn`, Phi-3's `qkv_proj`). The
//! adapters beside its parts are one adapter of the module: their A stand one below the other, their B side by
//! side, each in its part's rows and zero elsewhere, so that B·A is the part's own product in its rows. Its rank
//! is the sum of theirs, and so its alpha is as many times larger: alpha/rank is the same.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
};

use lns_checkpoint::NamedTensor;
use lns_spec::{ModelSpec, ModelTensor, StoredRows, TensorId};
use serde::Serialize;

use crate::{LoraConfig, LoraError};

/// The values of a saved tensor by its name, if it is there in this shape.
type Saved<'a> = &'a mut dyn FnMut(&str, &[usize]) -> Option<Vec<f32>>;

/// Which of an adapter's two factors: A, \[rank, in\], or B, \[out, rank\].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Side {
    A,
    B,
}

/// The factors of adapters, each beside the matrix that it belongs to.
pub(crate) type Factors = HashMap<(TensorId, Side), Vec<f32>>;

/// What an `adapter_config.json` says of a model's modules.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PeftModules {
    /// Modules with an adapter, by the ends of their names.
    pub target_modules: Vec<String>,
    /// Ranks of those whose rank is another than the configuration's.
    pub rank_pattern: BTreeMap<String, usize>,
    /// Their alphas.
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Whether their matrices are \[in, out\].
    pub fan_in_fan_out: bool,
}

/// A module with adapters beside some of its parts.
struct AdaptedModule {
    /// Its name in transformers' model.
    name: String,
    rows: usize,
    columns: usize,
    /// Those parts that have an adapter.
    parts: Vec<ModelTensor>,
    is_transposed: bool,
}

impl AdaptedModule {
    /// The modules of a model in the order of its files.
    fn all(spec: &ModelSpec, has_adapter: impl Fn(TensorId) -> bool) -> Vec<Self> {
        let adapted = |stored: lns_spec::StoredTensor| {
            let is_transposed = stored.parts.iter().any(|part| part.transposed);
            let mut parts = stored.parts;
            let rows = parts.iter().map(|part| part.shape[0]).sum();
            parts.retain(|part| has_adapter(part.id));
            let columns = parts.first()?.shape[1];
            let name = stored.name.strip_suffix(".weight").unwrap_or(&stored.name).to_owned();
            Some(Self { name, rows, columns, parts, is_transposed })
        };
        spec.stored_tensors().into_iter().filter_map(adapted).collect()
    }

    fn file_name(&self, side: Side) -> String {
        format!("base_model.model.{}.lora_{side:?}.weight", self.name)
    }

    /// The end of its name that it shares with its like in other layers: the last word, or two where other
    /// modules end with that word.
    fn target(&self, others: &[String]) -> String {
        let mut words = self.name.rsplit('.');
        let last = words.next().unwrap_or_default();
        let two = words.next().map(|word| format!("{word}.{last}"));
        let ends = |name: &String, end: &str| {
            name.strip_suffix(end).is_some_and(|rest| rest.ends_with('.'))
        };
        match two {
            Some(two) if others.iter().any(|name| ends(name, last) && !ends(name, &two)) => two,
            _ => last.to_owned(),
        }
    }

    /// Where the rows of a part of it are.
    fn row(part: &ModelTensor, row: usize) -> usize {
        part.rows.map_or(row, |rows: StoredRows| rows.of(row))
    }

    fn written(&self, factors: &Factors, rank: usize, side: Side) -> NamedTensor<'static> {
        let whole = rank * self.parts.len();
        let values_of = |part: &ModelTensor| factors.get(&(part.id, side)).map_or(&[][..], |v| v);
        let (shape, values) = match side {
            Side::A => {
                let values = self.parts.iter().flat_map(values_of).copied().collect();
                (vec![whole, self.columns], values)
            }
            Side::B => {
                let mut values = vec![0.0; self.rows * whole];
                for (place, part) in self.parts.iter().enumerate() {
                    for (row, of_row) in values_of(part).chunks_exact(rank).enumerate() {
                        let at = Self::row(part, row) * whole + place * rank;
                        values[at..at + rank].copy_from_slice(of_row);
                    }
                }
                (vec![self.rows, whole], values)
            }
        };
        NamedTensor { name: self.file_name(side), shape, values: Cow::Owned(values) }
    }

    fn read(&self, rank: usize, saved: Saved<'_>, factors: &mut Factors) -> Result<(), LoraError> {
        let whole = rank * self.parts.len();
        let mut file = |side, shape: [usize; 2]| {
            let name = self.file_name(side);
            match saved(&name, &shape).filter(|values| values.len() == shape[0] * shape[1]) {
                Some(values) => Ok(values),
                None => Err(LoraError::Adapter { name, shape: shape.to_vec() }),
            }
        };
        let a = file(Side::A, [whole, self.columns])?;
        let b = file(Side::B, [self.rows, whole])?;
        for (place, part) in self.parts.iter().enumerate() {
            let of_a = &a[place * rank * self.columns..(place + 1) * rank * self.columns];
            let of_row = |row: usize| {
                let at = Self::row(part, row) * whole + place * rank;
                &b[at..at + rank]
            };
            let of_b = (0..part.shape[0]).flat_map(of_row).copied().collect();
            factors.insert((part.id, Side::A), of_a.to_vec());
            factors.insert((part.id, Side::B), of_b);
        }
        Ok(())
    }
}

impl LoraConfig {
    /// What PEFT is told of the modules that have adapters in this model.
    pub fn peft_modules(&self, spec: &ModelSpec) -> PeftModules {
        let modules = AdaptedModule::all(spec, |id| self.targets(id));
        let name =
            |stored: lns_spec::StoredTensor| Some(stored.name.strip_suffix(".weight")?.to_owned());
        let mut others: Vec<String> = spec.stored_tensors().into_iter().filter_map(name).collect();
        others.retain(|name| modules.iter().all(|module| module.name != *name));
        let mut told = PeftModules {
            target_modules: Vec::new(),
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            fan_in_fan_out: modules.iter().any(|module| module.is_transposed),
        };
        for module in &modules {
            let target = module.target(&others);
            if !told.target_modules.contains(&target) {
                told.target_modules.push(target.clone());
            }
            let count = module.parts.len();
            if count > 1 {
                told.rank_pattern.insert(target.clone(), self.rank * count);
                told.alpha_pattern.insert(target, self.alpha * count as f64);
            }
        }
        told
    }
}

/// Factors as the tensors of an `adapter_model.safetensors`.
pub(crate) fn written(
    spec: &ModelSpec,
    factors: &Factors,
    rank: usize,
) -> Vec<NamedTensor<'static>> {
    AdaptedModule::all(spec, |id| factors.contains_key(&(id, Side::A)))
        .iter()
        .flat_map(|module| [Side::A, Side::B].map(|side| module.written(factors, rank, side)))
        .collect()
}

/// Factors out of the tensors of an `adapter_model.safetensors`, which `saved` gives by name and shape.
pub(crate) fn read(
    spec: &ModelSpec,
    config: &LoraConfig,
    saved: Saved<'_>,
) -> Result<Factors, LoraError> {
    let mut factors = Factors::new();
    for module in AdaptedModule::all(spec, |id| config.targets(id)) {
        module.read(config.rank, saved, &mut factors)?;
    }
    Ok(factors)
}
