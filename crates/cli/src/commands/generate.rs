//! `lns generate`: continue a prompt.

use std::time::Instant;

use layernorm_scaling::{Decoder, Sampling};
use lns_checkpoint::Checkpoint;
use lns_kernels::{Device, with_threads};

use crate::{arguments::GenerateArgs, failure::usage, model, printer::Printer};

pub(crate) fn run(args: &GenerateArgs, printer: &Printer) -> anyhow::Result<()> {
    let threads = model::thread_count(args.threads)?;
    let checkpoint = Checkpoint::open(&args.model)?;
    let tokenizer = model::tokenizer(&checkpoint)?;
    let prompt = tokenizer.encode(&args.prompt)?.ids;
    let spec = checkpoint.spec();
    if prompt.is_empty() {
        return Err(usage("--prompt is empty; give at least one word to continue"));
    }
    if prompt.len() >= spec.max_position_embeddings {
        return Err(usage(format!(
            "--prompt has {} tokens; the model's context is {}",
            prompt.len(),
            spec.max_position_embeddings
        )));
    }
    if let Some(id) = prompt.iter().find(|id| **id as usize >= spec.vocab_size) {
        return Err(usage(format!(
            "the tokenizer gives token {id}, but the model's vocabulary has {} entries; they are not \
             of one model",
            spec.vocab_size
        )));
    }
    let ends: Vec<u32> =
        spec.eos_token_ids().into_iter().chain(tokenizer.end_of_text_id()).collect();
    let model = Decoder::from_checkpoint(&checkpoint, &Device::flex())?;
    let sampling = Sampling {
        temperature: args.temperature,
        top_p: args.top_p,
        top_k: args.top_k,
        seed: args.seed,
    };
    printer.stream(&args.prompt)?;
    with_threads(threads, || -> anyhow::Result<()> {
        let start = Instant::now();
        let mut text = tokenizer.stream_decoder().after(&prompt);
        let mut count = 0;
        for token in
            model.generate(&prompt, args.max_new_tokens, sampling).take(args.max_new_tokens)
        {
            count += 1;
            if ends.contains(&token) {
                break;
            }
            if let Some(piece) = text.push(token) {
                printer.stream(&piece)?;
            }
        }
        printer.stream(&(text.finish().unwrap_or_default() + "\n"))?;
        let rate = count as f64 / start.elapsed().as_secs_f64();
        printer.note(&format!("{count} tokens, {rate:.1} tokens/s"));
        Ok(())
    })?
}
