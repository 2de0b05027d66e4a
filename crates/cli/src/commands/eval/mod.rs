//! `lns eval`: models on text, and on tasks.

pub(super) mod tasks;
mod text;

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::Verb;
use crate::{
    arguments::{ComputeArgs, CutArgs, TaskArgs, text_help},
    printer::Printer,
};

/// Measure a model's loss, perplexity and bits per byte on text, or its accuracy on tasks
#[derive(Debug, Args)]
#[command(override_usage = "lns eval <MODEL>... --text <FILE>... [OPTIONS]\n       \
                      lns eval <MODEL>... --tasks <TASK>,... --data <FOLDER> [OPTIONS]")]
pub(crate) struct EvalArgs {
    /// Folder, .gguf file, or .safetensors file; of several, each is compared with the first, window
    /// by window, on the same tokens, or document by document
    #[arg(required = true, value_name = "MODEL", num_args = 1..)]
    pub(crate) models: Vec<PathBuf>,

    /// More models to compare with the first, as if named after it
    #[arg(long, value_name = "MODEL", num_args = 1..)]
    pub(crate) against: Vec<PathBuf>,

    #[arg(
        long = "text", value_name = "FILE", num_args = 1.., help = text_help(),
        required_unless_present = "tasks", conflicts_with = "tasks"
    )]
    pub(crate) files: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) cut: CutArgs,

    #[command(flatten)]
    pub(crate) tasks: TaskArgs,

    /// Write a line of JSON for each document: what every choice was given
    #[arg(long, value_name = "FILE", requires = "tasks")]
    pub(crate) samples: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) compute: ComputeArgs,

    /// Print machine-readable JSON: an object, or an array of one for each of several models
    #[arg(long)]
    pub(crate) json: bool,
}

impl EvalArgs {
    fn models(&self) -> impl Iterator<Item = &PathBuf> {
        self.models.iter().chain(&self.against)
    }
}

impl Verb for EvalArgs {
    fn texts(&mut self) -> Vec<&mut Vec<PathBuf>> {
        vec![&mut self.files]
    }

    fn prints_json(&self) -> bool {
        self.json
    }

    fn run(&self, printer: &Printer) -> anyhow::Result<ExitCode> {
        if self.tasks.names.is_empty() {
            text::run(self, printer)?;
        } else {
            tasks::run(self, printer)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
