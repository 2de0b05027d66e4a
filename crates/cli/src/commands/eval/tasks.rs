//! Accuracy on tasks.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::Context;
use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use lns_checkpoint::Checkpoint;
use lns_kernels::Compute;
use lns_record::{TaskRecord, TasksRecord};
use lns_score::{Reading, score_documents};
use lns_show::counted;
use lns_tasks::{AskOptions, Asked, Data, Scored, Split, Task, ask, compare, sample, summary};
use lns_tokenizer::{Tokenizer, begins_with_bos};

use super::{EvalArgs, table};
use crate::{
    arguments::{names::any_of, numbers::whole},
    failure::usage,
    model,
    printer::Printer,
};

/// What to ask, and where it lies.
#[derive(Debug, Args)]
pub(crate) struct TaskArgs {
    #[arg(
        id = "tasks", long = "tasks", value_name = "TASK", value_delimiter = ',',
        help = tasks_help()
    )]
    pub(crate) names: Vec<String>,

    /// Where the tasks' data lie: folders with data sets as the Hugging Face hub has them (parquet,
    /// .jsonl, .json, Arrow), or TASK=PATH for the folder or file of one task
    #[arg(long, value_name = "[TASK=]PATH", num_args = 1.., requires = "tasks")]
    pub(crate) data: Vec<String>,

    /// Ask at most this many documents of each task: the first, or, where a task has subjects, the
    /// first of each in turn (1–1000000000)
    #[arg(long, value_name = "N", value_parser = whole::<usize>(1..=1_000_000_000), requires = "tasks")]
    pub(crate) limit: Option<usize>,

    /// Show this many examples with their answers before every question: the first of the training
    /// split, in mmlu of the subject's own (0–64)
    #[arg(
        long, value_name = "N", value_parser = whole::<usize>(0..=64), default_value_t = 0,
        requires = "tasks"
    )]
    pub(crate) shots: usize,

    /// Ask another split than the task's own
    #[arg(long, value_name = "SPLIT", requires = "tasks", value_parser = split_named())]
    pub(crate) split: Option<Split>,

    /// Write a line of JSON for each document: what every choice was given
    #[arg(long, value_name = "FILE", requires = "tasks")]
    pub(crate) samples: Option<PathBuf>,
}

/// A parser of the splits' names.
fn split_named() -> impl TypedValueParser<Value = Split> {
    PossibleValuesParser::new(Split::NAMED.map(Split::name)).try_map(|given| {
        Split::NAMED.into_iter().find(|split| split.name() == given).ok_or("this is no split")
    })
}

/// The tasks there are, for help.
fn tasks_help() -> String {
    format!(
        "Tasks, separated by commas: {}; or files: lines {{\"context\", \"choices\", \"gold\"}} of one's own, \
         or OLMo's requests.jsonl.gz. Of contexts longer than --window \
         (the model's own if not given) the end is read",
        any_of(lns_tasks::tasks().map(Task::name))
    )
}

impl TaskArgs {
    fn options(&self) -> AskOptions {
        let data = self.data.iter().map(|given| data(given)).collect();
        AskOptions { data, limit: self.limit, shots: self.shots, split: self.split }
    }
}

/// A folder, or `TASK=PATH`.
fn data(given: &str) -> Data {
    match given.split_once('=') {
        Some((task, path)) if lns_tasks::tasks().any(|known| known.name() == task) => {
            Data { task: Some(task.to_owned()), path: path.into() }
        }
        _ => Data { task: None, path: given.into() },
    }
}

/// A model whose files are in order; its weights are not read yet.
struct Opened {
    name: String,
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    bos: bool,
    window: usize,
}

/// Accuracies, one model after another.
pub(super) fn run(args: &EvalArgs, printer: &Printer) -> anyhow::Result<()> {
    if args.cut.max_tokens.is_some() {
        return Err(usage("--max-tokens is for --text; --limit bounds the documents of a task"));
    }
    let compute = args.compute.compute()?;
    // Everything is opened before anything is measured: a wrong path should not cost an evaluation.
    let options = args.tasks.options();
    let asked = args.tasks.names.iter().map(|name| ask(name, &options));
    let asked = asked.collect::<Result<Vec<_>, _>>()?;
    let opened = args.models().map(|path| open(path, args, printer));
    let opened = opened.collect::<anyhow::Result<Vec<_>>>()?;
    let mut samples = args.tasks.samples.as_deref().map(Samples::create).transpose()?;
    let several = opened.len() > 1;
    let mut records: Vec<TasksRecord> = Vec::new();
    let mut first: Vec<Vec<Scored>> = Vec::new();
    for opened in opened {
        let (scores, mut record) = score(opened, &asked, args, &compute, printer)?;
        if let Some(samples) = &mut samples {
            samples.write(&asked, &scores, several.then_some(record.model.as_str()))?;
        }
        match records.first() {
            None => first = scores,
            Some(other) => {
                let pairs =
                    record.tasks.iter_mut().zip(&other.tasks).zip(first.iter().zip(&scores));
                for (asked, ((own, other), (first, scores))) in asked.iter().zip(pairs) {
                    own.differences = compare(asked, (other, first), (own, scores));
                }
            }
        }
        records.push(record);
    }
    if let Some(samples) = samples {
        samples.finish()?;
    }
    match &records[..] {
        [record] => printer.json(record)?,
        records => printer.json(&records)?,
    }
    printer.result(&table::accuracies(&records))
}

fn open(path: &Path, args: &EvalArgs, printer: &Printer) -> anyhow::Result<Opened> {
    let checkpoint = model::open(path)?;
    let tokenizer = model::tokenizer(&checkpoint)?;
    model::compare_vocabularies(checkpoint.spec(), &tokenizer, printer);
    let context = checkpoint.spec().max_position_embeddings;
    let window = args.cut.window.unwrap_or(context);
    if window > context {
        return Err(usage(format!(
            "--window {window} is longer than the context of {context} tokens of {}; use --window \
             {context} or less",
            path.display()
        )));
    }
    let bos = args.cut.bos || begins_with_bos(&checkpoint)?;
    if args.cut.bos && tokenizer.bos_id().is_none() {
        return Err(usage(
            "--bos: the tokenizer names no beginning-of-sequence token; leave --bos out",
        ));
    }
    Ok(Opened { name: path.display().to_string(), checkpoint, tokenizer, bos, window })
}

fn score(
    opened: Opened,
    asked: &[Asked],
    args: &EvalArgs,
    compute: &Compute,
    printer: &Printer,
) -> anyhow::Result<(Vec<Vec<Scored>>, TasksRecord)> {
    let Opened { name, checkpoint, tokenizer, bos, window } = opened;
    let source = model::load(checkpoint, compute, args.compute.layers(), printer)?;
    let reading = Reading { tokenizer: &tokenizer, bos, window };
    let start = Instant::now();
    let (mut scores, mut tasks): (Vec<Vec<Scored>>, Vec<TaskRecord>) = Default::default();
    for asked in asked {
        let choices: usize =
            asked.documents.iter().map(|document| document.question.choices.len()).sum();
        printer.note(&format!(
            "{}: {} with {}.",
            asked.task,
            counted(asked.documents.len(), "document"),
            counted(choices, "choice"),
        ));
        let layers = source.spec().num_hidden_layers;
        let passes = (choices * layers) as u64;
        let progress = printer.progress_in("choices", &asked.task, passes, 1.0 / layers as f64);
        let advance = |passes| progress.advance(passes);
        let found = score_documents(&*source, asked, reading, &compute.workers, &advance)?;
        drop(progress);
        tasks.push(summary(asked, &found));
        scores.push(found);
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok((scores, TasksRecord { model: name, tasks, seconds }))
}

/// The file of `--samples`.
struct Samples {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Samples {
    fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path).with_context(|| unwritable(path))?;
        Ok(Self { path: path.to_owned(), file: BufWriter::new(file) })
    }

    fn write(
        &mut self,
        asked: &[Asked],
        scores: &[Vec<Scored>],
        model: Option<&str>,
    ) -> anyhow::Result<()> {
        for (asked, scores) in asked.iter().zip(scores) {
            for mut line in sample(asked, scores) {
                line.model = model.map(str::to_owned);
                let written = serde_json::to_writer(&mut self.file, &line).map_err(Into::into);
                let written = written.and_then(|()| self.file.write_all(b"\n"));
                written.with_context(|| unwritable(&self.path))?;
            }
        }
        Ok(())
    }

    fn finish(mut self) -> anyhow::Result<()> {
        self.file.flush().with_context(|| unwritable(&self.path))
    }
}

fn unwritable(path: &Path) -> String {
    format!("{}: cannot be written", path.display())
}
