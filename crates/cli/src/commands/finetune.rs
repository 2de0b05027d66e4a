//! `lns finetune`: a checkpoint's training continued.

use lns_checkpoint::Checkpoint;
use lns_train::{Layer, RunConfig, RunError, check_memory, finetune_defaults};
use toml::{Table, Value};

use super::{convert, train};
use crate::{arguments::FinetuneArgs, corpus, failure::usage, model, printer::Printer, settings};

pub(crate) fn run(args: &FinetuneArgs, printer: &Printer) -> anyhow::Result<()> {
    let begun = args.out.as_ref().filter(|out| out.join(RunConfig::FILE_NAME).exists());
    let there = begun.map(|out| RunConfig::read(out)).transpose()?;
    let config = match (&args.model, &there) {
        (None, Some(there)) => {
            refuse_changes(args)?;
            RunConfig { threads: threads(args, Some(there)), ..there.clone() }
        }
        (None, None) => {
            return Err(usage("MODEL: which checkpoint to go on from"));
        }
        (Some(model), _) => resolve(args, model, there.as_ref())?,
    };
    let Some(from) = &config.finetune else {
        return Err(usage("--out holds a run of `lns train`; continue it with that"));
    };
    let checkpoint = Checkpoint::open(&from.base)?;
    let mut config = config.clone();
    let context = checkpoint.spec().max_position_embeddings;
    if there.is_none() && args.settings.length.is_none() && args.config.is_none() {
        config.data.length = config.data.length.min(context);
    }
    // What is wrong with the settings is said before any text is prepared.
    if let Some(lora) = &from.lora {
        lora.check(checkpoint.spec())?;
    }
    if config.data.length > context {
        let (base, length) = (from.base.clone(), config.data.length);
        return Err(RunError::BeyondContext { base, context, length }.into());
    }
    if args.estimate {
        return train::estimate(&config, checkpoint.spec(), printer);
    }
    let Some(out) = &args.out else { return Err(usage("--out DIR: where the run goes")) };
    if there.is_none() {
        check_memory(&config, checkpoint.spec())?;
    }
    if convert::holds(out, &checkpoint) {
        return Err(usage(format!(
            "--out {} holds the checkpoint, which is never changed in place; name another folder",
            out.display()
        )));
    }
    let named = args.corpus.is_some() || !args.text.is_empty() || !args.instructions.is_empty();
    if named {
        let source = corpus::supply_finetune(&config, &checkpoint, args, out, printer)?;
        config.data.sources = vec![source];
    } else if config.data.sources.is_empty() {
        return Err(usage("give --text FILE, --instructions FILE or --corpus DIR to train on"));
    }
    if there.is_none() {
        printer.note(&format!("Going on from {}: {}.", from.base.display(), checkpoint.spec()));
    }
    // The weights are opened again by the run, which checks them against its settings.
    drop(checkpoint);
    train::train(&config, out, printer)
}

/// A run that is continued by its folder alone takes nothing else.
fn refuse_changes(args: &FinetuneArgs) -> anyhow::Result<()> {
    let flags = settings::layer(&args.settings, None, &[])?;
    if flags.is_some() || args.config.is_some() || args.lora.is_some() || args.seed.is_some() {
        return Err(usage(
            "MODEL is missing: settings are given with it, and without it a run goes on",
        ));
    }
    Ok(())
}

fn resolve(
    args: &FinetuneArgs,
    model: &std::path::Path,
    there: Option<&RunConfig>,
) -> anyhow::Result<RunConfig> {
    let mut finetune = Table::new();
    let base = corpus::path_in_settings(model)?;
    finetune.insert("base".to_owned(), Value::String(base.display().to_string()));
    if let Some(rank) = args.lora {
        let mut lora = Table::new();
        let alpha = args.lora_alpha.unwrap_or(2.0 * rank as f64);
        lora.insert("rank".to_owned(), settings::integer(rank));
        lora.insert("alpha".to_owned(), Value::Float(alpha));
        if !args.lora_targets.is_empty() {
            let names = args.lora_targets.iter().cloned().map(Value::String).collect();
            lora.insert("targets".to_owned(), Value::Array(names));
        }
        finetune.insert("lora".to_owned(), Value::Table(lora));
    }
    let layout = (!args.instructions.is_empty()).then(|| Value::String("rows".to_owned()));
    let flags = [
        ("finetune", Some(Value::Table(finetune))),
        ("seed", args.seed.map(settings::integer)),
        ("data.layout", layout),
    ];
    let flags = settings::layer(&args.settings, None, &flags)?;
    let file = args.config.as_deref().map(Layer::from_file).transpose()?;
    let threads_set = file.iter().chain(&flags).any(|layer| layer.sets("threads"));
    let layers: Vec<Layer> = file.into_iter().chain(flags).collect();
    let mut config = finetune_defaults().layered(&layers)?;
    if !threads_set || there.is_some() {
        config.threads = threads(args, there);
    }
    // What a run was begun with need not be said again.
    if let Some(there) = there
        && config.data.sources.is_empty()
    {
        config.data.sources.clone_from(&there.data.sources);
    }
    Ok(config)
}

/// As many as asked for; else those the run was begun with; else one per core.
fn threads(args: &FinetuneArgs, there: Option<&RunConfig>) -> usize {
    match (args.threads, there) {
        (None, Some(there)) => there.threads,
        (threads, _) => model::thread_count(threads),
    }
}
