//! Losses on text.

use std::path::{Path, PathBuf};

use lns_corpus::Window;
use lns_kernels::Compute;
use lns_record::EvalRecord;
use lns_score::{Evaluation, paired};
use lns_show::{counted, grouped, signed};

use super::EvalArgs;
use crate::{
    model,
    printer::Printer,
    text::{self, Opened},
};

/// Losses on the text, one model after another.
pub(super) fn run(args: &EvalArgs, printer: &Printer) -> anyhow::Result<()> {
    let compute = args.compute.compute()?;
    // Everything is opened before anything is measured: a wrong path should not cost an evaluation.
    let open = |path: &PathBuf| {
        let opened = text::open(path, text::From::Files(&args.files), &args.cut, printer)?;
        let instead = "`lns diagnose` shows what its layers do to its hidden states";
        model::require_head(&opened.checkpoint, instead)?;
        Ok(opened)
    };
    let opened = args.models().map(open).collect::<anyhow::Result<Vec<_>>>()?;
    let mut records: Vec<EvalRecord> = Vec::new();
    let mut first: Option<(Vec<Window>, Evaluation)> = None;
    for opened in opened {
        let (windows, evaluation, mut record) = evaluate(opened, args, &compute, printer)?;
        match &first {
            None => first = Some((windows, evaluation)),
            Some((tokens, other)) if *tokens == windows => {
                record.difference = paired(other, &evaluation);
            }
            Some(_) => printer.note(&format!(
                "{} cuts the text into other tokens than {}: bits/byte compare, losses per token do \
                 not.",
                record.model, records[0].model
            )),
        }
        records.push(record);
    }
    match &records[..] {
        [record] => printer.json(record)?,
        records => printer.json(&records)?,
    }
    let mut out = String::new();
    for (index, record) in records.iter().enumerate() {
        if records.len() > 1 {
            let gap = if index > 0 { "\n" } else { "" };
            out += &format!("{gap}model       {}\n", record.model);
        }
        out += &described(record);
        if let Some(difference) = difference(record, &records[0].model) {
            out += &difference;
        }
    }
    printer.result(&out)
}

fn evaluate(
    opened: Opened,
    args: &EvalArgs,
    compute: &Compute,
    printer: &Printer,
) -> anyhow::Result<(Vec<Window>, Evaluation, EvalRecord)> {
    let Opened { name, checkpoint, text, .. } = opened;
    let source = model::load(checkpoint, compute, args.compute.layers(), printer)?;
    printer.note(&text::described(&text));
    let work = lns_score::work(&*source, &text.windows);
    let per_pass = text.window as f64 / source.spec().num_hidden_layers as f64;
    let progress = printer.progress("Evaluating", work, per_pass);
    let advance = |passes| progress.advance(passes);
    let evaluation = lns_score::evaluate(&*source, &text.windows, &compute.workers, &advance)?;
    drop(progress);
    let masking = text.masking;
    let record = EvalRecord { masking, ..evaluation.record(name, text.window) };
    Ok((text.windows, evaluation, record))
}

fn described(record: &EvalRecord) -> String {
    let error = record.nll_stderr.map_or(String::new(), |error| format!(" ± {error:.4}"));
    let (what, bits) = match (record.masking, record.bits_per_byte) {
        // A masked token says nothing of the bytes around it.
        (Some(_), _) => ("masked token", "none: only masked tokens are predicted".to_owned()),
        (None, bits) => ("token", bits.map_or("unknown".to_owned(), |bits| format!("{bits:.4}"))),
    };
    format!(
        "nll         {:.4}{error} nats per {what}\nperplexity  {:.3}\nbits/byte   {bits}\n\
         text        {} of {}, {} predicted, {}\n\
         speed       {:.0} tokens/s\n",
        record.nll,
        record.perplexity,
        counted(record.windows, "window"),
        counted(record.window_len, "token"),
        grouped(record.tokens),
        counted(record.bytes, "byte"),
        (record.windows * record.window_len) as f64 / record.seconds,
    )
}

/// `difference  −0.0123 ± 0.0021 nats per token to A, paired over 16 windows; 95 %: −0.0168 to −0.0078`
fn difference(record: &EvalRecord, first: &str) -> Option<String> {
    let difference = record.difference?;
    let signed = |value: f64| signed(value, 4);
    let error = match (difference.stderr, difference.low, difference.high) {
        (Some(stderr), Some(low), Some(high)) => {
            let windows = record.windows;
            let interval = format!("95 %: {} to {}", signed(low), signed(high));
            (format!(" ± {stderr:.4}"), format!(", paired over {windows} windows; {interval}"))
        }
        _ => (String::new(), "; one window gives no error".to_owned()),
    };
    let name = Path::new(first).file_name().map_or(first.into(), |name| name.to_string_lossy());
    let (stderr, interval) = error;
    Some(format!(
        "difference  {}{stderr} nats per token to {name}{interval}\n",
        signed(difference.nll)
    ))
}
