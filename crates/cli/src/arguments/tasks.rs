//! The flags of tasks, the same for every verb that asks them, and how a model reads a question.

use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use lns_checkpoint::Checkpoint;
use lns_score::Reading;
use lns_tasks::{AskOptions, Asked, Data, Split, Task, ask};
use lns_tokenizer::Tokenizer;

use super::{CutArgs, names::any_of, numbers::whole};
use crate::failure::usage;

/// What to ask, and where it lies.
#[derive(Debug, Clone, Args)]
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

    /// Ask another split than the task's own, of tasks that have splits
    #[arg(long, value_name = "SPLIT", requires = "tasks", value_parser = split_named())]
    pub(crate) split: Option<Split>,
}

/// A parser of the splits' names.
pub(crate) fn split_named() -> impl TypedValueParser<Value = Split> {
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
    /// The documents of each task, in the order in which the tasks were named.
    pub(crate) fn ask(&self) -> anyhow::Result<Vec<Asked>> {
        let data = self.data.iter().map(|given| Data::named(given)).collect();
        let (limit, shots, split) = (self.limit, self.shots, self.split);
        let options = AskOptions { data, limit, shots, split, ..AskOptions::default() };
        let mut all: Vec<Asked> = Vec::new();
        for name in &self.names {
            let asked = ask(name, &options)?;
            if all.iter().any(|other| other.task == asked.task) {
                return Err(usage(format!(
                    "--tasks: two tasks are called {}; name each once, and give files names of their own",
                    asked.task
                )));
            }
            all.push(asked);
        }
        Ok(all)
    }
}

/// How much of a question a model reads, and whether the begin-of-text token stands before it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QuestionCut {
    pub(crate) window: usize,
    pub(crate) bos: bool,
}

impl QuestionCut {
    /// What the flags and the model's own files say.
    pub(crate) fn of(
        cut: &CutArgs,
        checkpoint: &Checkpoint,
        tokenizer: &Tokenizer,
    ) -> anyhow::Result<Self> {
        let context = checkpoint.spec().max_position_embeddings;
        let window = cut.window.unwrap_or(context);
        if window > context {
            return Err(usage(format!(
                "--window {window} is longer than the context of {context} tokens of {}; use --window \
                 {context} or less",
                checkpoint.path().display()
            )));
        }
        Ok(Self { window, bos: cut.bos.of(checkpoint, tokenizer)? })
    }

    /// The same with the model's tokenizer.
    pub(crate) fn reading(self, tokenizer: &Tokenizer) -> Reading<'_> {
        Reading { tokenizer, bos: self.bos, window: self.window }
    }
}
