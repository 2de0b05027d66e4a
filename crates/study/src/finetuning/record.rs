//! What the folder of a study that fine-tunes holds, as one record.

use std::path::Path;

use lns_record::{
    AnswersRecord, CellRecord, FinetunedGroupRecord, FinetunedPairRecord, FinetunedRunRecord,
    FinetuningRecord, PairedSeedRecord, TaskColumnRecord,
};
use lns_show::counted;
use lns_statistics::binomial_above_p;
use lns_train::RunConfig;

use super::answers::{Answers, Moment};
use super::cells::{OfSeed, accuracy, cell, compared, difference, over_columns};
use super::config::groups;
use super::{FinetuningConfig, FinishedModel, examples};
use crate::{
    StudyError,
    record::{course, optimiser},
    runs::run_record,
};

/// A model with its answers so far, for each column.
struct Asked {
    model: FinishedModel,
    before: Vec<Option<Answers>>,
    after: Vec<Option<Answers>>,
    run: FinetunedRunRecord,
}

impl Asked {
    fn read(
        config: &FinetuningConfig,
        folder: &Path,
        model: FinishedModel,
    ) -> Result<Self, StudyError> {
        let of = |moment| {
            let names = config.tasks.names.iter();
            let answers = names.map(|task| Answers::read(folder, &model, moment, task));
            answers.collect::<Result<Vec<_>, _>>()
        };
        let (before, after) = (of(Moment::Before)?, of(Moment::After)?);
        let run = tuned(folder, &model)?;
        Ok(Self { before, after, run, model })
    }

    fn at(&self, moment: Moment, column: usize) -> Option<&Answers> {
        let answers = match moment {
            Moment::Before => &self.before,
            Moment::After => &self.after,
        };
        answers.get(column)?.as_ref()
    }

    /// Why there is nothing after: the run diverged.
    fn diverged(&self, number: OfSeed) -> OfSeed {
        match self.run.outcome.as_str() {
            "diverged" => Err("diverged".to_owned()),
            _ => number,
        }
    }

    fn accuracy(&self, moment: Moment, column: usize) -> OfSeed {
        let found = accuracy(self.at(moment, column));
        if moment == Moment::After { self.diverged(found) } else { found }
    }

    fn change(&self, column: usize) -> OfSeed {
        let (before, after) = (self.at(Moment::Before, column), self.at(Moment::After, column));
        self.diverged(difference(before, after))
    }

    fn is_done(&self) -> bool {
        let all = |answers: &[Option<Answers>]| answers.iter().all(Option::is_some);
        all(&self.before) && (all(&self.after) || self.run.outcome == "diverged")
    }
}

/// What the run of a model came to.
fn tuned(folder: &Path, model: &FinishedModel) -> Result<FinetunedRunRecord, StudyError> {
    let place = model.folder();
    let run = run_record(&folder.join(&place), &place, model.seed, [])?;
    let first = run.as_ref().and_then(|run| run.curve.first());
    Ok(FinetunedRunRecord {
        seed: model.seed,
        model: model.path.display().to_string(),
        folder: place,
        loss_before: first.filter(|point| point.step == 0).map(|point| point.loss),
        outcome: run.as_ref().map_or_else(|| "not begun".to_owned(), |run| run.outcome.clone()),
        steps: run.as_ref().map_or(0, |run| run.steps),
        loss_after: run.and_then(|run| run.loss),
        before: Vec::new(),
        after: Vec::new(),
        changes: Vec::new(),
    })
}

/// What the folder of a study holds so far.
///
/// # Errors
/// [`StudyError`] when its files cannot be read.
pub fn finetuning_record(
    config: &FinetuningConfig,
    folder: &Path,
) -> Result<FinetuningRecord, StudyError> {
    let models = config.finished_models()?;
    let names = groups(&models);
    let baseline = config.baseline(&names);
    let all = models.into_iter().map(|model| Asked::read(config, folder, model));
    let all = all.collect::<Result<Vec<Asked>, _>>()?;
    let columns: Vec<TaskColumnRecord> =
        (0..config.tasks.names.len()).map(|at| column(&config.tasks.names[at], at, &all)).collect();
    let data = examples::made(folder)?;
    let of = |name: &str| all.iter().filter(|asked| asked.model.group == name).collect::<Vec<_>>();
    let pairs = names.iter().filter(|name| **name != baseline);
    Ok(FinetuningRecord {
        name: config.name.clone(),
        settings: settings(config, folder, all.first(), data.as_ref().map(|data| data.train)),
        format: config.data.format.name().to_owned(),
        asked: config.tasks.format.name().to_owned(),
        data,
        groups: names.iter().map(|name| group(name, &of(name), &columns)).collect(),
        pairs: pairs.map(|name| pair(name, &of(name), &of(&baseline), columns.len())).collect(),
        missing_runs: all.iter().filter(|asked| !asked.is_done()).count() as u64,
        columns,
        baseline,
    })
}

/// A column, as far as any model was asked it.
fn column(name: &str, at: usize, all: &[Asked]) -> TaskColumnRecord {
    let found = all.iter().find_map(|asked| asked.at(Moment::Before, at));
    let record = found.map(|answers| &answers.record);
    TaskColumnRecord {
        task: record.map_or_else(|| name.to_owned(), |record| record.task.clone()),
        documents: record.map_or(0, |record| record.documents),
        of: record.map_or(0, |record| record.of),
        too_long: found.map_or(0, |answers| answers.too_long),
        shots: record.map_or(0, |record| record.shots),
        always_first: record.and_then(|record| record.always_first),
        always_same: found.and_then(Answers::always_same),
        chance: record.and_then(|record| record.chance),
    }
}

/// One number for each column, and last their mean.
fn cells(
    columns: usize,
    seeds: &[&Asked],
    of: &dyn Fn(&Asked, usize) -> OfSeed,
) -> Vec<CellRecord> {
    let by_seed: Vec<Vec<OfSeed>> =
        seeds.iter().map(|asked| (0..columns).map(|column| of(asked, column)).collect()).collect();
    let column = |at: usize| cell(&by_seed.iter().map(|row| row[at].clone()).collect::<Vec<_>>());
    let means: Vec<OfSeed> = by_seed.iter().map(|row| over_columns(row)).collect();
    (0..columns).map(column).chain([cell(&means)]).collect()
}

fn group(name: &str, seeds: &[&Asked], columns: &[TaskColumnRecord]) -> FinetunedGroupRecord {
    let runs: Vec<FinetunedRunRecord> = seeds.iter().map(|asked| run(asked, columns)).collect();
    let accuracies = |moment| {
        let mut cells = cells(columns.len(), seeds, &|asked, at| asked.accuracy(moment, at));
        for (at, cell) in cells.iter_mut().take(columns.len()).enumerate() {
            let answers = runs.iter().filter_map(|run| match moment {
                Moment::Before => run.before[at].as_ref(),
                Moment::After => run.after[at].as_ref(),
            });
            let level = FinetuningRecord::LEVEL;
            cell.at_floor = answers.filter_map(|found| found.floor_p).any(|p| p >= level);
        }
        cells
    };
    FinetunedGroupRecord {
        before: accuracies(Moment::Before),
        after: accuracies(Moment::After),
        difference: cells(columns.len(), seeds, &|asked, at| asked.change(at)),
        name: name.to_owned(),
        runs,
    }
}

fn run(asked: &Asked, columns: &[TaskColumnRecord]) -> FinetunedRunRecord {
    let answers = |moment| {
        let of = |(at, column): (usize, &TaskColumnRecord)| {
            let found = asked.at(moment, at)?;
            let right = found.right().ok();
            let right = right.map(|right| right.iter().sum::<f64>() as u64);
            let floor_p = right
                .zip(column.floor())
                .and_then(|(right, floor)| binomial_above_p(right, found.record.documents, floor));
            Some(AnswersRecord { answers: found.record.clone(), floor_p })
        };
        columns.iter().enumerate().map(of).collect()
    };
    let change = |at: usize| compared(asked.at(Moment::Before, at), asked.at(Moment::After, at));
    FinetunedRunRecord {
        before: answers(Moment::Before),
        after: answers(Moment::After),
        changes: (0..columns.len()).map(change).collect(),
        ..asked.run.clone()
    }
}

fn pair(name: &str, own: &[&Asked], baseline: &[&Asked], columns: usize) -> FinetunedPairRecord {
    let other = |asked: &Asked| {
        let seed = asked.model.seed;
        baseline.iter().find(|other| other.model.seed == seed).copied()
    };
    let both: Vec<&Asked> = own.iter().copied().filter(|asked| other(asked).is_some()).collect();
    let differences = |moment| {
        cells(columns, &both, &|asked, at| {
            let Some(other) = other(asked) else { return Err("no such seed".to_owned()) };
            let found = difference(other.at(moment, at), asked.at(moment, at));
            let after = moment == Moment::After;
            if after { asked.diverged(other.diverged(found)) } else { found }
        })
    };
    let seed = |asked: &&Asked| {
        let compared = |moment| {
            let of = |at| compared(other(asked)?.at(moment, at), asked.at(moment, at));
            (0..columns).map(of).collect()
        };
        PairedSeedRecord {
            seed: asked.model.seed,
            before: compared(Moment::Before),
            after: compared(Moment::After),
        }
    };
    FinetunedPairRecord {
        name: name.to_owned(),
        before: differences(Moment::Before),
        after: differences(Moment::After),
        seeds: both.iter().map(seed).collect(),
    }
}

/// What all runs have in common, for people.
fn settings(
    config: &FinetuningConfig,
    folder: &Path,
    first: Option<&Asked>,
    examples: Option<u64>,
) -> Vec<(String, String)> {
    let data = &config.data;
    let mut rows = vec![("training sets", data.sets.join(", "))];
    if let Some(split) = config.tasks.split {
        rows.push(("questions", format!("the {split} split of every task that has one")));
    }
    rows.push(("order", format!("one for all models, of seed {}", data.seed)));
    let run = first.and_then(|asked| RunConfig::read(&folder.join(&asked.run.folder)).ok());
    if let Some(run) = run {
        let seen = run.steps * run.batch.sequences as u64;
        let epochs = examples.filter(|count| *count > 0).map_or(String::new(), |count| {
            format!(": {:.2} epochs of {}", seen as f64 / count as f64, counted(count, "example"))
        });
        rows.push((
            "length",
            format!(
                "{} of {}, {} tokens at most{epochs}",
                counted(run.steps, "step"),
                counted(run.batch.sequences, "example"),
                run.data.length
            ),
        ));
        let lora = run.finetune.as_ref().and_then(|from| from.lora.as_ref());
        let trained = lora.map_or_else(
            || "the whole model".to_owned(),
            |lora| {
                format!(
                    "adapters of rank {} and alpha {} on {}",
                    lora.rank,
                    lora.alpha,
                    lora.targets.join(", ")
                )
            },
        );
        rows.push(("trained", trained));
        rows.push(("optimiser", optimiser(&run)));
        let rate = run.schedule.learning_rate.to_string();
        rows.push(("learning rate", course(&rate, &run.schedule)));
    }
    rows.into_iter().map(|(what, value)| (what.to_owned(), value)).collect()
}
