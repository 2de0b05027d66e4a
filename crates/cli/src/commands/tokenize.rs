//! `lns tokenize`: text prepared for training.

use crate::{arguments::TokenizeArgs, corpus, failure::usage, printer::Printer};

pub(crate) fn run(args: &TokenizeArgs, printer: &Printer) -> anyhow::Result<()> {
    lns_record::refuse_sources(&args.out)?;
    super::output::check_folder_name(&args.out)?;
    if args.out.exists() {
        return Err(usage(format!("{} is there already; name a new folder", args.out.display())));
    }
    corpus::tokenized(&args.text, &args.validation, &args.tokenizer, &args.out, printer)?;
    printer.note(&format!("Train on it with --corpus {}.", args.out.display()));
    Ok(())
}
