//! `lns completions`: what a shell needs to complete this program's verbs and flags.

use std::process::ExitCode;

use clap::Args;
use clap_complete::Shell;

use super::Verb;
use crate::{cli, printer::Printer};

/// Print a completion script for a shell
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell to write for
    shell: Shell,
}

impl Verb for CompletionsArgs {
    fn run(&self, printer: &Printer) -> anyhow::Result<ExitCode> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut cli::command(), "lns", &mut script);
        printer.stream(&String::from_utf8_lossy(&script))?;
        Ok(ExitCode::SUCCESS)
    }
}
