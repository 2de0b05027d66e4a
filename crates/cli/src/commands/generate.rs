//! `lns generate`: continue a prompt.

use std::time::Instant;

use layernorm_scaling::Sampling;
use lns_checkpoint::Checkpoint;
use lns_kernels::with_threads;

use crate::{arguments::GenerateArgs, failure::usage, model, printer::Printer};

pub(crate) fn run(args: &GenerateArgs, printer: &Printer) -> anyhow::Result<()> {
    let threads = model::thread_count(args.threads);
    let checkpoint = Checkpoint::open(&args.model)?;
    let tokenizer = model::tokenizer(&checkpoint)?;
    let spec = checkpoint.spec();
    let mut prompt = tokenizer.encode(&args.prompt)?.ids;
    if args.bos {
        let bos = tokenizer.bos_id();
        let missing = || usage("--bos: the model names no begin-of-text token; leave --bos out");
        prompt.insert(0, bos.ok_or_else(missing)?);
    }
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
    let model = model::load_whole(&checkpoint, &args.place)?;
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
        let mut ended = false;
        for token in model.generate(&prompt, args.max_new_tokens, sampling) {
            count += 1;
            ended = ends.contains(&token);
            if ended {
                break;
            }
            if let Some(piece) = text.push(token) {
                printer.stream(&piece)?;
            }
        }
        let full = prompt.len() + count >= spec.max_position_embeddings;
        if !ended && !full && count < args.max_new_tokens {
            printer.stream("\n")?;
            return Err(usage(format!(
                "after {count} tokens the model's logits are not numbers; its weights are damaged or \
                 leave the range of f32"
            )));
        }
        printer.stream(&(text.finish().unwrap_or_default() + "\n"))?;
        let rate = count as f64 / start.elapsed().as_secs_f64();
        printer.note(&format!("{count} tokens, {rate:.1} tokens/s"));
        Ok(())
    })?
}
