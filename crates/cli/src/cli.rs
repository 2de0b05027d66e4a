//! The command line: the verbs there are, and what was typed.

use clap::{Command, CommandFactory, FromArgMatches, Parser, Subcommand};
use lns_spec::Family;

use crate::{
    arguments::numbers,
    commands::{
        BenchArgs, CompletionsArgs, DiagnoseArgs, EvalArgs, ExportArgs, FinetuneArgs, FoldArgs,
        GenerateArgs, InspectArgs, PruneArgs, QuickstartArgs, ReportArgs, RetrofitArgs, StudyArgs,
        TokenizeArgs, TrainArgs, UnfoldArgs, Verb, WatchArgs,
    },
};

/// What is the depth of your language model worth?
///
/// In Pre-LN transformers the residual stream's variance grows with depth until deep layers barely
/// change it: "the curse of depth" (arXiv 2502.05795). `lns` shows which layers of a checkpoint work
/// and which idle, on a CPU, without Python.
///
/// MODEL is a Hugging Face folder, a .gguf file, or a .safetensors file with its config.json beside
/// it, of one of the families (`model_type`) that are listed below.
#[derive(Debug, Parser)]
#[command(after_long_help = families())]
#[command(name = "lns", version, max_term_width = 100, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verbs,

    /// Only results and errors: no notes, no progress bar
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

/// Every verb, in the order in which people meet them.
#[derive(Debug, Subcommand)]
pub(crate) enum Verbs {
    Quickstart(QuickstartArgs),
    Inspect(InspectArgs),
    Diagnose(DiagnoseArgs),
    Eval(EvalArgs),
    Generate(GenerateArgs),
    Train(Box<TrainArgs>),
    Study(Box<StudyArgs>),
    Watch(WatchArgs),
    Finetune(Box<FinetuneArgs>),
    Retrofit(RetrofitArgs),
    Fold(FoldArgs),
    Unfold(UnfoldArgs),
    Prune(Box<PruneArgs>),
    Export(ExportArgs),
    Tokenize(TokenizeArgs),
    Report(ReportArgs),
    Bench(BenchArgs),
    Completions(CompletionsArgs),
}

impl Verbs {
    /// The verb that was typed.
    pub(crate) fn typed(&mut self) -> &mut dyn Verb {
        match self {
            Self::Quickstart(args) => args,
            Self::Inspect(args) => args,
            Self::Diagnose(args) => args,
            Self::Eval(args) => args,
            Self::Generate(args) => args,
            Self::Train(args) => &mut **args,
            Self::Study(args) => &mut **args,
            Self::Watch(args) => args,
            Self::Finetune(args) => &mut **args,
            Self::Retrofit(args) => args,
            Self::Fold(args) => args,
            Self::Unfold(args) => args,
            Self::Prune(args) => &mut **args,
            Self::Export(args) => args,
            Self::Tokenize(args) => args,
            Self::Report(args) => args,
            Self::Bench(args) => args,
            Self::Completions(args) => args,
        }
    }
}

/// The program as clap knows it. What follows a flag for numbers is its value, however wrong: −1e−3 is no
/// flag.
pub(crate) fn command() -> Command {
    Cli::command().mut_subcommands(|verb| {
        verb.mut_args(|argument| match numbers::are_of(&argument) {
            true => argument.allow_hyphen_values(true),
            false => argument,
        })
    })
}

/// Reads what was typed.
///
/// # Errors
/// What is wrong with it; or the help or version that was asked for.
pub(crate) fn parse() -> Result<Cli, clap::Error> {
    let matches = command().try_get_matches()?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command()))
}

/// The families that are read.
fn families() -> String {
    let names: Vec<&str> = Family::all().map(Family::model_type).collect();
    format!("Families: {}; DeepSeek's dense models are llama.", names.join(", "))
}
