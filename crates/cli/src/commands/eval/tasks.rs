//! Accuracy on tasks.

use std::{
    fs::{File, OpenOptions},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::Context;
use lns_checkpoint::Checkpoint;
use lns_kernels::Compute;
use lns_record::{Existing, NewFile, TaskRecord, TasksRecord};
use lns_score::score_documents;
use lns_show::counted;
use lns_tasks::{Asked, Scored, compare, sample, summary};
use lns_tokenizer::Tokenizer;

use super::EvalArgs;
use crate::{arguments::QuestionCut, failure::usage, model, printer::Printer};

/// A model whose files are in order; its weights are not read yet.
struct Opened {
    name: String,
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    cut: QuestionCut,
}

/// Accuracies, one model after another.
pub(super) fn run(args: &EvalArgs, printer: &Printer) -> anyhow::Result<()> {
    if args.cut.max_tokens.is_some() {
        return Err(usage("--max-tokens is for --text; --limit bounds the documents of a task"));
    }
    let compute = args.compute.compute()?;
    // Everything is opened before anything is measured: a wrong path should not cost an evaluation.
    let asked = args.tasks.ask()?;
    let opened = args.models().map(|path| open(path, args, printer));
    let opened = opened.collect::<anyhow::Result<Vec<_>>>()?;
    let mut samples = args.samples.as_deref().map(Samples::create).transpose()?;
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
    printer.result(&lns_report::tasks_table(&records, &names(&records)))
}

/// Short names, told apart by the place in the list where two are the same.
pub(crate) fn names(records: &[TasksRecord]) -> Vec<String> {
    let short: Vec<String> =
        records.iter().map(|record| model::short_name(record.model.as_ref())).collect();
    let twice = |name: &String| short.iter().filter(|other| *other == name).count() > 1;
    let numbered = |(at, name): (usize, &String)| match twice(name) {
        true => format!("{name} #{}", at + 1),
        false => name.clone(),
    };
    short.iter().enumerate().map(numbered).collect()
}

fn open(path: &Path, args: &EvalArgs, printer: &Printer) -> anyhow::Result<Opened> {
    let checkpoint = model::open(path)?;
    model::require_decoder(&checkpoint, "a continuation has no likelihood")?;
    let tokenizer = model::tokenizer(&checkpoint)?;
    model::compare_vocabularies(checkpoint.spec(), &tokenizer, printer);
    let cut = QuestionCut::of(&args.cut, &checkpoint, &tokenizer)?;
    Ok(Opened { name: path.display().to_string(), checkpoint, tokenizer, cut })
}

fn score(
    opened: Opened,
    asked: &[Asked],
    args: &EvalArgs,
    compute: &Compute,
    printer: &Printer,
) -> anyhow::Result<(Vec<Vec<Scored>>, TasksRecord)> {
    let Opened { name, checkpoint, tokenizer, cut } = opened;
    let source = model::load(checkpoint, compute, args.compute.layers(), printer)?;
    let reading = cut.reading(&tokenizer);
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

/// The file of `--samples`, which appears at its place when everything is in it.
struct Samples {
    path: PathBuf,
    unfinished: NewFile,
    file: BufWriter<File>,
}

impl Samples {
    fn create(path: &Path) -> anyhow::Result<Self> {
        if path.exists() && !path.is_file() {
            return Err(usage(format!(
                "--samples {}: there is something else than a file; name another place",
                path.display()
            )));
        }
        let begin = || {
            let unfinished = NewFile::create(path, Existing::Replaced)?;
            let file = OpenOptions::new().write(true).open(unfinished.path())?;
            Ok::<_, std::io::Error>((unfinished, BufWriter::new(file)))
        };
        let (unfinished, file) = begin().with_context(|| unwritable(path))?;
        Ok(Self { path: path.to_owned(), unfinished, file })
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
        let written = self.file.flush().and_then(|()| self.unfinished.commit());
        written.with_context(|| unwritable(&self.path))
    }
}

fn unwritable(path: &Path) -> String {
    format!("{}: cannot be written", path.display())
}
