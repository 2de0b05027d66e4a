//! `lns train`: a model from scratch.

use std::path::Path;

use lns_record::Outcome;
use lns_spec::ModelSpec;
use lns_train::{Estimate, Layer, RUN_PRESETS, RunConfig, RunPreset, available_memory, run_preset};
use serde::Serialize;
use toml::Value;

use crate::{
    arguments::TrainArgs, corpus, failure::usage, model, printer::Printer, progress::RunProgress,
    settings, stop,
};

/// Share of the measured peak that training reached on the machines it was measured on
/// (docs/performance.md).
const TYPICAL_SHARE_OF_PEAK: f64 = 0.75;

/// `train --json`.
#[derive(Serialize)]
struct TrainRecord {
    folder: String,
    outcome: Outcome,
    steps: u64,
    tokens: u64,
    loss: Option<f64>,
    perplexity: Option<f64>,
}

pub(crate) fn run(args: &TrainArgs, printer: &Printer) -> anyhow::Result<()> {
    let name = |value: &Option<String>| value.clone().map(Value::String);
    let flags = [
        ("model.scheme", name(&args.scheme)),
        ("model.initialisation", name(&args.initialisation)),
        ("seed", args.seed.map(settings::integer)),
    ];
    let flags = settings::layer(&args.settings, Some(&args.shape), &flags)?;
    let file = args.config.as_deref().map(Layer::from_file).transpose()?;
    let threads_set = file.iter().chain(&flags).any(|layer| layer.sets("threads"));
    let untouched = flags.is_none() && args.config.is_none() && args.preset == "laptop";
    let begun = args.out.as_ref().filter(|out| out.join(RunConfig::FILE_NAME).exists());
    let mut config = match begun {
        Some(out) if untouched => RunConfig::read(out)?,
        _ => {
            let RunPreset { config, notes } = preset(&args.preset)?;
            for note in notes {
                printer.note(&format!("{}: {note}.", args.preset));
            }
            let layers: Vec<Layer> = file.into_iter().chain(flags).collect();
            config.layered(&layers)?
        }
    };
    // A run goes on with the threads it began with: with others its last bits would differ.
    config.threads = match (args.threads, begun) {
        (None, Some(out)) => RunConfig::read(out)?.threads,
        (None, None) if threads_set => config.threads,
        (threads, _) => model::thread_count(threads),
    };
    if args.estimate {
        let vocabulary = corpus::vocabulary_of(&config, &args.corpus)?;
        let spec = config.model.spec(vocabulary, config.data.length)?;
        return estimate(&config, &spec, printer);
    }
    let Some(out) = &args.out else { return Err(usage("--out DIR: where the run goes")) };
    let sequences = config.steps * config.batch.sequences as u64;
    let text = corpus::supply(&config, sequences, &args.corpus, out, printer)?;
    if let Some(ideal) = text.ideal_loss {
        printer
            .note(&format!("A reader who knows the language's grammar has a loss of {ideal:.4}."));
    }
    config.data.sources = text.sources;
    train(&config, out, printer)
}

fn preset(name: &str) -> anyhow::Result<RunPreset> {
    run_preset(name)
        .ok_or_else(|| usage(format!("--preset {name}: there are {}", RUN_PRESETS.join(", "))))
}

pub(crate) fn train(config: &RunConfig, out: &Path, printer: &Printer) -> anyhow::Result<()> {
    let stop = stop::flag(printer)?;
    let mut progress = RunProgress::new(config, out, printer);
    let summary = lns_train::train(config, out, &stop, &mut |event| progress.show(event))?;
    let perplexity = summary.loss.map(f64::exp);
    printer.json(&TrainRecord {
        folder: out.display().to_string(),
        outcome: summary.outcome,
        steps: summary.step,
        tokens: summary.tokens,
        loss: summary.loss,
        perplexity,
    })?;
    match summary.outcome {
        Outcome::Finished => printer.result(&format!(
            "loss        {:.4} nats per token, held out\nperplexity  {:.3}\ntrained on  {} tokens in {} \
             steps\nmodel       {}\n",
            summary.loss.unwrap_or(f64::NAN),
            perplexity.unwrap_or(f64::NAN),
            summary.tokens,
            summary.step,
            out.join(RunConfig::MODEL).display()
        )),
        Outcome::Interrupted => Ok(()),
        Outcome::Diverged => anyhow::bail!(
            "the run diverged after step {}; the last note in {} says how",
            summary.step,
            out.join(lns_record::Event::FILE_NAME).display()
        ),
    }
}

/// What a run needs, in memory and time.
#[derive(Serialize)]
pub(crate) struct Needs {
    #[serde(flatten)]
    estimate: Estimate,
    memory_bytes: u64,
    memory_available_bytes: Option<u64>,
    steps: u64,
    tokens: u64,
    flops: f64,
    peak_gflops: f64,
    hours: f64,
}

impl Needs {
    /// Of a run on a model, on a machine of so many GFLOP/s at most.
    pub(crate) fn of(config: &RunConfig, spec: &ModelSpec, peak_gflops: f64) -> Self {
        let estimate = Estimate::of(config, spec);
        let flops = estimate.flops * config.steps as f64;
        Self {
            memory_bytes: estimate.total(),
            memory_available_bytes: available_memory(),
            steps: config.steps,
            tokens: config.steps * config.tokens_per_step(),
            flops,
            peak_gflops,
            hours: flops / (peak_gflops * 1e9 * TYPICAL_SHARE_OF_PEAK) / 3600.0,
            estimate,
        }
    }

    pub(crate) fn memory(&self) -> u64 {
        self.memory_bytes
    }

    pub(crate) fn flops(&self) -> f64 {
        self.flops
    }

    pub(crate) fn hours(&self) -> f64 {
        self.hours
    }
}

/// GFLOP/s that this machine reaches at most, as a run would use it.
pub(crate) fn peak(config: &RunConfig) -> anyhow::Result<f64> {
    let workers = model::workers(Some(config.threads))?;
    Ok(lns_bench::peak_gflops(&workers, &lns_kernels::Device::flex(), config.precision))
}

/// Says what a run needs.
pub(crate) fn estimate(
    config: &RunConfig,
    spec: &ModelSpec,
    printer: &Printer,
) -> anyhow::Result<()> {
    let needs = Needs::of(config, spec, peak(config)?);
    printer.json(&needs)?;
    printer.result(&format!(
        "{spec}\n{}\n{}  steps        {}, {} tokens\n{}",
        needs.estimate,
        free(needs.memory_bytes),
        needs.steps,
        needs.tokens,
        expected(needs.flops, needs.hours, needs.peak_gflops, "without evaluations"),
    ))
}

/// How much memory is free, and whether that is enough.
pub(crate) fn free(needed: u64) -> String {
    let Some(available) = available_memory() else { return String::new() };
    let enough = if needed > available { ", which is not enough: it would be refused" } else { "" };
    format!("  free now     {:.3} GB{enough}\n", available as f64 / 1e9)
}

/// How much work it is, and how long it takes.
pub(crate) fn expected(flops: f64, hours: f64, peak: f64, without: &str) -> String {
    format!(
        "  in all       {:.3} PFLOP\n  expected     {} at {:.0} % of this machine's measured {peak:.0} \
         GFLOP/s, {without}\n",
        flops / 1e15,
        duration(hours),
        100.0 * TYPICAL_SHARE_OF_PEAK,
    )
}

fn duration(hours: f64) -> String {
    const YEAR: f64 = 24.0 * 365.25;
    match hours {
        h if h >= 2.0 * YEAR => format!("{:.0} years", h / YEAR),
        h if h >= 48.0 => format!("{:.0} days", h / 24.0),
        h if h >= 1.0 => format!("{h:.1} hours"),
        h => format!("{:.0} minutes", (60.0 * h).ceil()),
    }
}
