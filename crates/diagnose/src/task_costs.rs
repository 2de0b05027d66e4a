//! By what a layer's cost in a task is told, and those costs in a finished diagnosis.

use lns_record::{CostRecord, DiagnoseRecord, TaskCostRecord};
use lns_spec::ModelSpec;

/// By what a layer's cost in a task is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskMeasure {
    /// The right answer's Σ log p: every document says something, so that it tells layers apart best.
    Gold,
    /// Accuracy, which moves only where a document changes sides.
    Acc,
    /// Accuracy by log-likelihoods divided by the choices' characters.
    AccNorm,
}

impl TaskMeasure {
    /// Every measure, the default first.
    pub const ALL: [Self; 3] = [Self::Gold, Self::Acc, Self::AccNorm];

    /// Its name on the command line and in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gold => "gold",
            Self::Acc => "acc",
            Self::AccNorm => "acc_norm",
        }
    }

    /// The measure of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|measure| measure.name() == name)
    }

    /// A layer's cost by it.
    pub fn of(self, costs: &TaskCostRecord) -> Option<CostRecord> {
        match self {
            Self::Gold => costs.gold,
            Self::Acc => costs.acc,
            Self::AccNorm => costs.acc_norm,
        }
    }
}

/// What leaving out each layer costs a task, by a diagnosis.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskCosts {
    /// The task's name.
    pub task: String,
    /// By what the costs are told.
    pub measure: TaskMeasure,
    /// One for each layer.
    pub costs: Vec<CostRecord>,
}

/// Why a diagnosis does not say what the layers of a model cost a task.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message names its fields")]
pub enum TaskCostsError {
    #[error(
        "the diagnosis of {name} asked no tasks; `lns diagnose MODEL --tasks TASK --data FOLDER --out DIR` \
         measures what each layer costs one"
    )]
    NoTasks { name: String },
    #[error("the diagnosis of {name} asked {known}: name one of them with --task")]
    WhichTask { name: String, known: String },
    #[error(
        "in the diagnosis of {name}, layer {layer} has no {measure} in {task}: the task does not have it, or \
         scores tie or are not finite; measured are {measured}"
    )]
    NotMeasured {
        name: String,
        layer: usize,
        task: String,
        measure: &'static str,
        measured: String,
    },
    #[error(
        "the diagnosis is of {name}, which has another config.json than the model that is to be pruned; \
         diagnose this one: `lns diagnose MODEL --tasks TASK --data FOLDER --out DIR`"
    )]
    OtherModel { name: String },
}

impl TaskCosts {
    /// The costs that `record` has of the layers of `model`, by `measure`: of `task`, which may be left
    /// open where one task was asked.
    ///
    /// # Errors
    /// [`TaskCostsError`]: another model's record, one without that task, or a layer without that cost.
    pub fn of(
        record: &DiagnoseRecord,
        model: &ModelSpec,
        task: Option<&str>,
        measure: TaskMeasure,
    ) -> Result<Self, TaskCostsError> {
        let name = record.name.clone();
        if record.model != model.to_config() || record.layers.len() != model.num_hidden_layers {
            return Err(TaskCostsError::OtherModel { name });
        }
        let known: Vec<&str> =
            record.tasks.iter().map(|found| found.answers.task.as_str()).collect();
        let task = match (&known[..], task) {
            ([], _) => return Err(TaskCostsError::NoTasks { name }),
            ([alone], None) => alone,
            (known, Some(task)) if known.contains(&task) => task,
            _ => return Err(TaskCostsError::WhichTask { name, known: known.join(", ") }),
        };
        let of = |measure: TaskMeasure, layer: usize| {
            measure.of(record.layers[layer].tasks.get(task)?)
        };
        let costs: Result<Vec<CostRecord>, usize> = (0..record.layers.len())
            .map(|layer| of(measure, layer).filter(|cost| cost.drop.is_finite()).ok_or(layer))
            .collect();
        let costs = costs.map_err(|layer| {
            let measured = TaskMeasure::ALL.into_iter().filter(|other| of(*other, layer).is_some());
            TaskCostsError::NotMeasured {
                name,
                layer,
                task: task.to_owned(),
                measure: measure.name(),
                measured: measured.map(TaskMeasure::name).collect::<Vec<_>>().join(", "),
            }
        })?;
        Ok(Self { task: task.to_owned(), measure, costs })
    }
}
