//! `lns tokenize`: text prepared for training.

use crate::{arguments::TokenizeArgs, corpus, failure::usage, printer::Printer, stop::Stop};

pub(crate) fn run(args: &TokenizeArgs, printer: &Printer) -> anyhow::Result<()> {
    lns_record::refuse_sources(&args.out)?;
    super::output::check_folder_name(&args.out)?;
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
