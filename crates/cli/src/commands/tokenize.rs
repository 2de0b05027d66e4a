//! `lns tokenize`: text prepared for training.

use crate::{arguments::TokenizeArgs, corpus, printer::Printer};

pub(crate) fn run(args: &TokenizeArgs, printer: &Printer) -> anyhow::Result<()> {
    lns_record::refuse_sources(&args.out)?;
    corpus::tokenized(&args.text, &args.validation, &args.tokenizer, &args.out, printer)?;
    printer.note(&format!("Train on it with --corpus {}.", args.out.display()));
    Ok(())
}
