//! `lns eval`: loss of a model on text.

use crate::{
    arguments::EvalArgs,
    model,
    printer::Printer,
    text::{self, Opened},
};

pub(crate) fn run(args: &EvalArgs, printer: &Printer) -> anyhow::Result<()> {
    let workers = model::workers(args.compute.threads)?;
    let Opened { name, checkpoint, text } =
        text::open(&args.model, &args.text.files, &args.text.cut, printer)?;
    let source = model::load(checkpoint, &args.compute, printer)?;
    printer.note(&text::described(&text));

    let work = lns_eval::work(&*source, &text.windows);
    let per_pass = text.window as f64 / source.spec().num_hidden_layers as f64;
    let progress = printer.progress("Evaluating", work, per_pass);
    let advance = |passes| progress.advance(passes);
    let evaluation = lns_eval::evaluate(&*source, &text.windows, &workers, &advance)?;
    drop(progress);

    let record = evaluation.record(name, text.window);
    printer.json(&record)?;
    let error = record.nll_stderr.map_or(String::new(), |error| format!(" ± {error:.4}"));
    let bits = record.bits_per_byte.map_or("unknown".to_owned(), |bits| format!("{bits:.4}"));
    printer.result(&format!(
        "nll         {:.4}{error} nats per token\nperplexity  {:.3}\nbits/byte   {bits}\n\
         text        {} windows of {} tokens, {} predicted, {} bytes\n\
         speed       {:.0} tokens/s\n",
        record.nll,
        record.perplexity,
        record.windows,
        record.window_len,
        record.tokens,
        record.bytes,
        (record.windows * record.window_len) as f64 / record.seconds,
    ))
}
