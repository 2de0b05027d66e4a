//! `lns tokenize`: text prepared for training.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::{Verb, output};
use crate::{arguments::TokenizerArgs, corpus, failure::usage, printer::Printer, stop::Stop};

/// Prepare text for training once, to be used by many runs
#[derive(Debug, Args)]
pub(crate) struct TokenizeArgs {
    /// Text to train on: .txt, .jsonl, either also as .gz or .zst, .parquet, or folders of them; - is
    /// standard input
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    pub(crate) text: Vec<PathBuf>,

    /// Text to hold out; 5 % of the documents of --text if not given. If they are fewer than 20, the last
    /// 5 % of each, or more where that is under 8 KiB in all, a quarter at most
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) validation: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) tokenizer: TokenizerArgs,

    /// Folder to make
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

impl Verb for TokenizeArgs {
    fn texts(&mut self) -> Vec<&mut Vec<PathBuf>> {
        vec![&mut self.text, &mut self.validation]
    }

    fn run(&self, printer: &Printer) -> anyhow::Result<ExitCode> {
        run(self, printer).map(|()| ExitCode::SUCCESS)
    }
}

fn run(args: &TokenizeArgs, printer: &Printer) -> anyhow::Result<()> {
    lns_record::refuse_sources(&args.out)?;
    output::check_folder_name(&args.out)?;
    if args.out.exists() {
        return Err(usage(format!("{} is there already; name a new folder", args.out.display())));
    }
    let stop = Stop::listen(printer, Stop::AFTER_THESE_TOKENS)?;
    let (text, held_out) = (&args.text, &args.validation);
    let made = corpus::tokenized(text, held_out, &args.tokenizer, &args.out, printer, &stop);
    stop.check()?;
    made?;
    printer.note(&format!("Train on it with --corpus {}.", args.out.display()));
    Ok(())
}
